"""Kills a tiny run at random instants, and looks at what it came to.

    python -m benchmarks.kills [--kills=20 --steps=200 --seed=0]

One run is left alone. Another, of the same command, is killed (`kill -9`) and started again, as
often as asked for, then left to its end. Every step is logged, each fifth is saved and each tenth
is scored. The kills aim at steps, saves and scorings by turns, each a random while after a step was
logged, a save begun, or the last step before a scoring logged. `at work on` is what the files show
after the kill: a save that is not whole, or a step that is to be scored and is not logged. At the
end both runs must have the same parameters to the bit, the same lines in `metrics.jsonl` but for
the throughput, each step once, and the same scores.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxreid.checkpoint import has_checkpoint, load_variables
from jaxreid.logs import read_metrics
from jaxreid.synthetic.images import Spec, write_market

REPOSITORY = Path(__file__).parent.parent
TINY = (
    "--config=configs/duatm_synthetic.py",
    *("--config.model.dim=16", "--config.model.backbone_layers=1,1,1,1"),
    *("--config.model.backbone_growth=4", "--config.model.backbone_stem=8"),
    *("--config.data.image_size=64,32", "--config.data.num_ids=4"),
    *("--config.data.num_instances=2", "--config.data.source=memory"),
    *("--config.train.log_every=1", "--config.eval.batch_size=16", "--config.eval.pictures=1"),
)
SAVED, SCORED = 5, 10
WHILE = {"step": 0.05, "save": 0.04, "scoring": 0.08}  # seconds


def main() -> None:
    """Prints one table; exits with 1 if the two runs differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {"kills": 20, "steps": 200, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cpu = {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": f"{folder}/cache"}
        same = compare(Path(folder), args.kills, args.steps, random.Random(args.seed), cpu)
        sys.exit(sum(not equal for equal in same.values()))


def compare(
    folder: Path, kills: int, steps: int, rng: random.Random, environment: dict[str, str]
) -> dict[str, bool]:
    """Makes both runs in a folder.

    Returns:
        What was compared, and whether it is the same.
    """
    spec = Spec(
        num_train_ids=10,
        num_test_ids=4,
        cameras=3,
        images_per_camera=2,
        cameras_per_id=(2, 3),
        num_distractors=3,
        height=64,
        width=32,
    )
    market = write_market(folder / "market", spec, processes=1)
    run = (
        *(sys.executable, "-m", "jaxreid.main", *TINY, f"--config.data.root={market}"),
        *(f"--config.train.steps={steps}", f"--config.train.checkpoint_every={SAVED}"),
        f"--config.eval.every={SCORED}",
    )
    whole, cut = folder / "whole", folder / "cut"

    def start(workdir: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*run, f"--workdir={workdir}"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(workdir: Path) -> None:
        process = start(workdir)
        said, _ = process.communicate(timeout=600)
        if process.returncode:
            sys.exit(f"{workdir.name}: exit code {process.returncode}\n{said}")

    finish(whole)
    print(f"{'kill':>4}  {'aimed at':10}{'at work on':12}{'logged':>7}{'saved':>7}{'resumed':>9}")
    for kill in range(1, kills + 1):
        process = start(cut)
        aim = list(WHILE)[kill % len(WHILE)]
        # In equal parts of the plan, so that there is something to do for each.
        until = steps * kill // (kills + 1)
        hit = wait_and_kill(process, cut, aim, until, rng)
        said = process.stdout.read() if process.stdout else ""
        process.wait()
        resumed = [line.split()[3] for line in said.splitlines() if line.startswith("resumed")]
        logged, saved = last_step(cut), newest(cut)
        print(
            f"{kill:4}  {aim:10}{hit:12}{logged:7}{saved:7}{resumed[0] if resumed else '-':>9}",
            flush=True,
        )
    finish(cut)
    return report(whole, cut, steps)


def wait_and_kill(
    process: subprocess.Popen[str], workdir: Path, aim: str, until: int, rng: random.Random
) -> str:
    """Kills a run at a random instant, not before step `until` is logged.

    Returns:
        What it was at work on.
    """
    checkpoints = workdir / "checkpoints"

    def saving() -> bool:
        return any(checkpoints.glob("*.orbax-checkpoint-tmp*"))

    def aimed() -> bool:
        step = last_step(workdir)
        if step < until:
            return False
        if aim == "save":
            return saving()
        return aim == "step" or (step + 1) % SCORED == 0

    while process.poll() is None and not aimed():
        time.sleep(0.001)
    time.sleep(rng.uniform(0, WHILE[aim]))
    if process.poll() is not None:
        return "(at its end)"
    process.kill()
    process.wait()
    if saving():
        return "save"
    return "scoring" if (last_step(workdir) + 1) % SCORED == 0 else "step"


def last_step(workdir: Path) -> int:
    """The last step that is logged whole."""
    return max((line["step"] for line in read_metrics(workdir / "metrics.jsonl")), default=0)


def newest(workdir: Path) -> int:
    """The newest checkpoint's step."""
    steps = (path.name for path in (workdir / "checkpoints").glob("*"))
    return max((int(name) for name in steps if name.isdigit()), default=0)


def report(whole: Path, cut: Path, steps: int) -> dict[str, bool]:
    """What was compared, and whether it is the same; prints it."""

    def lines(workdir: Path) -> list[dict[str, Any]]:
        read = read_metrics(workdir / "metrics.jsonl")
        return [{k: v for k, v in line.items() if k != "images_per_s"} for line in read]

    def scores(workdir: Path) -> Any:
        return json.loads((workdir / "eval" / "metrics.json").read_text())

    assert has_checkpoint(whole)
    variables = [jax.tree.leaves(load_variables(workdir)) for workdir in (whole, cut)]
    same = {
        "parameters, to the bit": all(map(np.array_equal, *variables)),
        f"steps 1 to {steps}, each once": [line["step"] for line in lines(cut)]
        == list(range(1, steps + 1)),
        "losses and scores of every step": lines(cut) == lines(whole),
        "scores at the end": scores(cut) == scores(whole),
    }
    for what, equal in same.items():
        print(f"{what:34}{'equal' if equal else 'DIFFERENT'}")
    return same


if __name__ == "__main__":
    main()
