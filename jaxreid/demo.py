"""The demo: draws a data set, scores DuATM on it untrained, trains it, and scores it again.

Everything after the drawing goes through `jaxreid.main.run`, as a real data set does.

    python -m jaxreid.demo
"""

import argparse
import sys
import time
from pathlib import Path

from jaxreid.config import load_config
from jaxreid.data.synthetic import write_market
from jaxreid.main import report_errors, run, use_compilation_cache

CONFIG = Path("configs/duatm_synthetic.py")
WORKDIR = Path("runs/demo")
DATA = Path("runs/synthetic")


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--started",
        type=float,
        default=time.time(),
        help="when the clock of the last line started, in seconds since 1970",
    )
    started = parser.parse_args().started
    use_compilation_cache()
    return report_errors(lambda: demonstrate(started))


def demonstrate(started: float) -> None:
    """Draws, scores, trains, scores, and prints the last line."""
    config = load_config(CONFIG)
    config.data.root = str(DATA)
    if (WORKDIR / "trained" / "report.md").exists():
        print(f"trained already: remove {WORKDIR} to train again", flush=True)
    print(f"drawing pedestrians into {DATA}", flush=True)
    write_market(DATA)
    print("\nDuATM as it starts, from random weights", flush=True)
    before = run(config, WORKDIR / "untrained", "evaluate")
    print("\ntraining", flush=True)
    after = run(config, WORKDIR / "trained")
    rank1, mean_ap = (f"{before[k]:.1%} -> {after[k]:.1%}" for k in ("rank1", "mAP"))
    print(
        f"demo: rank-1 {rank1}, mAP {mean_ap}, {time.time() - started:.0f} s;"
        f" pictures in {WORKDIR / 'trained' / 'eval'}"
    )


if __name__ == "__main__":
    sys.exit(main())
