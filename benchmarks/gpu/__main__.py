r"""Everything that is to be known of a GPU, in a quarter of an hour and one command.

    python -m benchmarks.gpu [--minutes=8] [--only=step,pairs] [--out=DIR] [--tiny]

On a machine with an NVIDIA GPU and a network:

    python3.12 -m venv gpu && . gpu/bin/activate
    pip install -e '.[cuda13]' torch
    python -m benchmarks.gpu --out=runs/gpu

On one without a network, whose Python has JAX, Flax, Optax, Orbax and PyTorch: carry this
repository and the wheels of what is missing (ml_collections, tensorboardX), and there

    python3 -m pip install --no-index --no-deps --target=site wheels/*.whl
    PYTHONPATH=site:. python3 -m benchmarks.gpu --out=runs/gpu

Neither TensorFlow nor TFDS is needed. The phases run in the order of their worth, each in a process
of its own with a limit of its own: one that hangs, crashes or fills the memory loses itself alone,
and keeps the figures that it had. `DIR/gpu.json` and `DIR/gpu.md` are whole after every figure, and
a second run merges into them; `DIR/gpu.log` is what the phases printed. With `--tiny` every phase
runs at small sizes, on whatever device there is: its figures say only that it runs.

A name with a dot in it is a module of one's own with a function `run(figures)`.
"""

import argparse
import contextlib
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import figures as tables
from benchmarks.gpu.figures import Figures

REPOSITORY = Path(__file__).parent.parent.parent
# What each may take of the time, in parts. What one does not use is the others'.
PHASES = {
    "sanity": 30,
    "truth": 60,
    "step": 180,
    "run": 90,
    "pairs": 30,
    "rank": 45,
    "exact": 90,
    "profile": 45,
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "torch")


def main() -> None:
    """Runs the phases one after another; exits with 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all phases together")
    parser.add_argument("--only", help="phases, with commas between; all by default")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--memory", type=float, help="GB that a phase may hold on the host")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        run_phase(args.phase, args.out, tiny=args.tiny, seconds=args.seconds)
        return
    names = args.only.split(",") if args.only else list(PHASES)
    for name in names:
        if name not in PHASES and "." not in name:
            parser.error(f"--only={args.only}: there is no phase {name!r}; expected {[*PHASES]}")
    args.out.mkdir(parents=True, exist_ok=True)
    memory = 1e9 * args.memory if args.memory else 0.8 * total_memory()
    end = time.monotonic() + 60 * args.minutes
    states = {}
    for i, name in enumerate(names):
        parts = [PHASES.get(later, 60) for later in names[i:]]
        limit = max(0.0, end - time.monotonic()) * parts[0] / sum(parts)
        states[name] = watch_phase(name, args.out, limit, memory, tiny=args.tiny)
    print(*(f"{name}: {state}" for name, state in states.items()), sep="\n")
    print(f"written: {args.out / 'gpu.md'}")
    sys.exit(any(not state.startswith("done") for state in states.values()))


def run_phase(name: str, path: Path, *, tiny: bool, seconds: float) -> None:
    """This process is the phase."""
    # When memory runs short, the kernel is to end this process and not the one that watches it.
    Path("/proc/self/oom_score_adj").write_text("1000")
    module = importlib.import_module(name if "." in name else f"benchmarks.gpu.{name}")
    module.run(Figures(path, tiny=tiny, seconds=seconds))


def watch_phase(name: str, out: Path, limit: float, memory: float, *, tiny: bool) -> str:
    """Runs a phase in a process of its own, and keeps the files in `out` whole meanwhile.

    Returns:
        How it ended: begins with `done` if all is well.
    """
    part = out / f".{name}.jsonl"
    part.unlink(missing_ok=True)
    options = [f"--phase={name}", f"--out={part}", f"--seconds={limit}", *(["--tiny"] * tiny)]
    begun = time.monotonic()
    phase: dict[str, Any] = {
        "state": "running",
        "command": shlex.join(["python", "-m", "benchmarks.gpu", f"--only={name}", *options[3:]]),
        **machine(),
    }
    with (out / "gpu.log").open("a", encoding="utf-8") as log:
        log.write(f"\n===== {name}, {limit:.0f} s at most\n")
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", *options],
            cwd=REPOSITORY,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        why = ""
        while process.poll() is None and not why:
            time.sleep(0.2)
            merge(out, name, phase | {"figures": tables.read(part)})
            if time.monotonic() - begun > limit:
                why = f"stopped at its limit of {limit:.0f} s"
            elif resident(process.pid) > memory:
                why = f"stopped: it held more than {memory / 1e9:.1f} GB"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # And what it may have left running.
        code = process.wait()
    took = f"{time.monotonic() - begun:.0f} s"
    state = why or (f"done in {took}" if code == 0 else f"failed with exit code {code} in {took}")
    merge(out, name, phase | {"state": state, "figures": tables.read(part)})
    part.unlink(missing_ok=True)
    print(f"{name}: {state}", flush=True)
    return state


def merge(out: Path, name: str, phase: dict[str, Any]) -> None:
    """Puts a phase into `gpu.json` and `gpu.md`, in the place of what was there of it."""
    path = out / "gpu.json"
    tree = json.loads(path.read_text()) if path.is_file() else {"phases": {}}
    if tree["phases"].get(name) == phase:
        return
    tree["phases"][name] = phase
    for file, text in (
        (path, json.dumps(tree, indent=2)),
        (out / "gpu.md", tables.to_markdown(tree)),
    ):
        temporary = file.with_name(file.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "none"
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "gpu": ask(
            "nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"
        ),
        "commit": ask("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"),
        "python": platform.python_version(),
        **versions,
    }


def ask(*command: str) -> str:
    """What a command prints; `none` where it cannot be run."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "none"


def total_memory() -> float:
    """Bytes of the host's memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def resident(pid: int) -> float:
    """Bytes that a process holds on the host; 0 once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


if __name__ == "__main__":
    main()
