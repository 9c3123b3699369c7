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
from jaxreid.errors import Interrupted, UserError
from jaxreid.main import run, use_compilation_cache

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
    try:
        config = load_config(CONFIG)
        config.data.root = str(DATA)
        print(f"drawing pedestrians into {DATA}", flush=True)
        write_market(DATA)
        print("\nDuATM as it starts, from random weights", flush=True)
        before = run(config, WORKDIR / "untrained", "evaluate")
        print("\ntraining", flush=True)
        after = run(config, WORKDIR / "trained")
    except UserError as error:
        print(f"jaxreid: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(f"jaxreid: {stopped}", file=sys.stderr)
        return stopped.exit_code
    rank1, mean_ap = (f"{before[k]:.1%} -> {after[k]:.1%}" for k in ("rank1", "mAP"))
    print(
        f"demo: rank-1 {rank1}, mAP {mean_ap}, {time.time() - started:.0f} s;"
        f" pictures in {WORKDIR / 'trained' / 'eval'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
