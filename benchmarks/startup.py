"""From the command to the first training step: with a compilation cache, and without.

    python -m benchmarks.startup [--runs=3] [--config=configs/duatm_synthetic.py]

Each run is a process of its own. `no cache`: JAX's persistent compilation cache is off. `filling`:
it is on and empty, as at a user's first run. `filled`: at every run after that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

COLUMNS = ("imports", "data", "initial state", "first step", "total", "second step")


def child(path: str) -> None:
    """Prints the seconds of each part as JSON."""
    start = time.perf_counter()
    import jax

    from jaxreid import sharding
    from jaxreid.command import load_config, use_compilation_cache
    from jaxreid.data.sources import open_source
    from jaxreid.train import init_state, make_model, make_optimizer, make_plan, make_train_step
    from jaxreid.types import Batch

    marks = [start, time.perf_counter()]
    if os.environ.get("BENCH_CACHE") != "off":
        use_compilation_cache()
    config = load_config(Path(path))
    source, mesh = open_source(config.data), sharding.make_mesh()
    plan, index = make_plan(config, source), source.data.train
    images = source.images("train", map(plan.rows, range(2)), config.data.load_size)
    batches = [
        sharding.put(Batch(pixels, index.pids[rows], index.camids[rows]), sharding.split(mesh))
        for rows, pixels in zip(map(plan.rows, range(2)), images)
    ]
    marks.append(time.perf_counter())
    state = jax.block_until_ready(init_state(config, source, mesh))
    marks.append(time.perf_counter())
    optimizer, _ = make_optimizer(config.optim, plan.steps_per_epoch, total=100)
    step = make_train_step(config, make_model(config, source), optimizer, mesh)
    for batch in batches:
        state, _ = jax.block_until_ready(step(state, batch, True))
        marks.append(time.perf_counter())
    parts = [b - a for a, b in pairwise(marks)]
    print(json.dumps([*parts[:4], marks[4] - start, parts[4]]))


def main() -> None:
    """Runs the children and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--config", default="configs/duatm_synthetic.py")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.config)
        return

    from jaxreid.command import load_config
    from jaxreid.synthetic.images import write_market

    data = load_config(Path(args.config)).data
    if data.name == "synthetic" and data.root:
        write_market(data.root)
    command = [sys.executable, "-m", "benchmarks.startup", "--child", f"--config={args.config}"]

    def once(cache: str, folder: str) -> list[float]:
        environment = {**os.environ, "BENCH_CACHE": cache, "XDG_CACHE_HOME": folder}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    print(f"seconds, median of {args.runs}".ljust(28) + "".join(f"{c:>15}" for c in COLUMNS))
    results: dict[str, list[list[float]]] = {"no cache": [], "filling": [], "filled": []}
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            results["no cache"].append(once("off", folder))
            results["filling"].append(once("on", folder))
            results["filled"].append(once("on", folder))
    for name, runs in results.items():
        medians = [statistics.median(column) for column in zip(*runs)]
        print(name.ljust(28) + "".join(f"{value:15.2f}" for value in medians))


if __name__ == "__main__":
    main()
