"""The processes of a run on this machine: one for each GPU, or several on the CPU.

    python launch/local.py --processes=4 -- --config=configs/duatm_market.py \
        --config.data.root=/data/Market-1501-v15.09.15 --workdir=runs/duatm

Process i sees GPU i only. `--devices-per-process=2` runs on the CPU instead, each process with as
many devices: the way to try a run of several hosts without any. What follows `--` goes to
`jaxreid.main`. When one process fails the others are given a while to end by themselves, and are
then killed; SIGINT and SIGTERM are passed on to all. The exit code is that of the first that
failed.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType


def main() -> int:
    """Runs them, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument("--devices-per-process", type=int, help="on the CPU; by default one GPU")
    parser.add_argument("--port", type=int, help="of the coordinator; by default a free one")
    parser.add_argument(
        "--grace", type=float, default=90.0, help="seconds between a failure and the kill"
    )
    parser.add_argument("command", nargs="*", metavar="-- flags of jaxreid.main")
    args = parser.parse_args()
    if args.processes < 1:
        parser.error(f"--processes={args.processes}: expected at least 1")
    port = args.port or free_port()
    running: dict[int, subprocess.Popen[bytes]] = {}

    def pass_on(signum: int, _: FrameType | None) -> None:
        for process in running.values():
            process.send_signal(signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    for i in range(args.processes):
        where = f"--distributed=localhost:{port},{args.processes},{i}"
        command = [sys.executable, "-m", "jaxreid.main", where, *args.command]
        # In a session of its own: Ctrl-C at a terminal comes once, from here.
        running[i] = subprocess.Popen(
            command,
            env=os.environ | environment(i, args.devices_per_process),
            start_new_session=True,
        )
    return wait(running, args.grace)


def environment(index: int, cpu_devices: int | None) -> dict[str, str]:
    """What gives a process its devices."""
    if cpu_devices:
        return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(cpu_devices)}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(index + 1)]
    if index >= len(gpus):
        sys.exit(f"launch/local.py: CUDA_VISIBLE_DEVICES={visible} has no GPU for process {index}")
    return {"CUDA_VISIBLE_DEVICES": gpus[index]}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def wait(running: dict[int, subprocess.Popen[bytes]], grace: float) -> int:
    """Waits for all; after a failure, for `grace` seconds at most. Returns the first exit code."""
    failed, until = 0, float("inf")
    while running:
        for i, process in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[i]
            if code and not failed:
                failed, until = 128 - code if code < 0 else code, time.monotonic() + grace
                say = f"process {i} ended with code {failed}"
                print(f"launch/local.py: {say}", file=sys.stderr, flush=True)
        if time.monotonic() > until:
            for i, process in running.items():
                print(f"launch/local.py: process {i} is killed", file=sys.stderr, flush=True)
                process.kill()
            until = float("inf")
        time.sleep(0.05)
    return failed


if __name__ == "__main__":
    sys.exit(main())
