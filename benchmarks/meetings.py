"""What it costs several processes to agree before a step, on one machine.

    python -m benchmarks.meetings [--processes=2,4 --rounds=2000]

`distributed.any_host`, which the training loop calls in every step while the devices are at work on
the step before: a step that takes longer than this is not held up.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time

from jaxreid import distributed


def main() -> None:
    """Prints one line for each number of processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", default="2,4")
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--spec", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.spec:
        meet(args.spec, args.rounds)
        return
    for count in map(int, args.processes.split(",")):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.meetings", f"--rounds={args.rounds}"),
                    f"--spec=127.0.0.1:{port},{count},{i}",
                ],
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )
            for i in range(count)
        ]
        if any([process.wait() for process in processes]):
            sys.exit(1)


def meet(spec: str, rounds: int) -> None:
    """One of the processes; the first one prints."""
    distributed.start(spec)
    seconds = []
    for _ in range(50 + rounds):
        start = time.perf_counter()
        distributed.any_host(False)
        seconds.append(time.perf_counter() - start)
    low, *_, high = statistics.quantiles(seconds[50:], n=20)
    print(
        f"{spec.split(',')[1]} processes, {rounds} rounds: median"
        f" {1e3 * statistics.median(seconds[50:]):.2f} ms, from {1e3 * low:.2f} (5 %)"
        f" to {1e3 * high:.2f} ms (95 %)",
        flush=True,
    )
    distributed.end(0)


if __name__ == "__main__":
    main()
