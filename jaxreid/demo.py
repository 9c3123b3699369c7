"""The demo: draws a data set, scores a network on it untrained, trains it, and scores it again.

    python -m jaxreid.demo            DuATM on images in Market-1501's layout
    python -m jaxreid.demo --video    COSAM on tracklets in MARS's layout

Everything after the drawing goes through `jaxreid.main.run`, as a real data set does. The data and
the run are left in the folder `runs` of the current one.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxreid.checkpoint import load_variables
from jaxreid.command import load_config, use_compilation_cache
from jaxreid.config import Config
from jaxreid.data.sources import open_source
from jaxreid.entry import ends_in_one_line, outlive_the_reader
from jaxreid.extract import clips
from jaxreid.main import run
from jaxreid.synthetic.images import write_market
from jaxreid.synthetic.tracklets import read_silhouettes, write_mars
from jaxreid.train import make_model
from jaxreid.types import Batch


class Demo(NamedTuple):
    """What is drawn, and what is trained on it.

    Attributes:
        config: the run, by its name.
        draw: draws the data set into a folder.
        data: that folder.
        workdir: holds the runs `untrained` and `trained`.
    """

    config: str
    draw: Callable[[Path], Any]
    data: Path
    workdir: Path


IMAGES = Demo("duatm_synthetic", write_market, Path("runs/synthetic"), Path("runs/demo"))
VIDEO = Demo("cosam_synthetic", write_mars, Path("runs/synthetic_video"), Path("runs/demo_video"))


@ends_in_one_line
def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--video", action="store_true", help="tracklets instead of images")
    parser.add_argument("--started", type=float, default=time.time(), help=argparse.SUPPRESS)
    args = parser.parse_args()
    use_compilation_cache()
    outlive_the_reader()
    demonstrate(VIDEO if args.video else IMAGES, args.started)
    return 0


def demonstrate(demo: Demo, started: float) -> None:
    """Draws, scores, trains, scores, and prints the last line."""
    config = load_config(demo.config)
    config.data.root = str(demo.data)
    if (demo.workdir / "trained" / "report.md").exists():
        print(f"trained already: remove {demo.workdir} to train again", flush=True)
    print(f"drawing pedestrians into {demo.data}", flush=True)
    demo.draw(demo.data)
    print("\nthe network as it starts, from random weights", flush=True)
    before = run(config, demo.workdir / "untrained", "evaluate")
    print(f"{time.time() - started:.0f} s until the first pictures", flush=True)
    print("\ntraining", flush=True)
    after = run(config, demo.workdir / "trained")
    if config.data.clip_length is not None:
        for name, ratio in masks_on_persons(config, demo.workdir / "trained").items():
            print(f"{name}: mean mask on the person / beside the person {ratio:.2f}", flush=True)
    rank1, mean_ap = (f"{before[k]:.1%} -> {after[k]:.1%}" for k in ("rank1", "mAP"))
    print(
        f"demo: rank-1 {rank1}, mAP {mean_ap}, {time.time() - started:.0f} s;"
        f" pictures in {demo.workdir / 'trained' / 'eval'}"
    )


def masks_on_persons(config: Config, workdir: Path) -> dict[str, float]:
    """How much higher each attention map is on the drawn silhouettes than beside them.

    The maps of the first clip of every query, enlarged bilinearly to the size of the frames.

    Returns:
        For each map, its mean over the silhouettes' pixels over its mean over the other pixels.
    """
    source = open_source(config.data)
    model = make_model(config, source)
    if model.explain is None:
        return {}
    explain, variables = jax.jit(model.explain), load_variables(workdir)
    names, silhouettes = read_silhouettes(source.data.query.root)
    place = {name: row for row, name in enumerate(names.tolist())}
    rows, items, _ = clips(config, source.data.query.tracks(), "query")
    rows = rows[np.unique(items, return_index=True)[1]]
    plan = [rows[i : i + 16] for i in range(0, len(rows), 16)]
    inside: dict[str, list[float]] = {}
    outside: dict[str, list[float]] = {}
    for some, images in zip(plan, source.images("query", plan, config.data.image_size)):
        labels = np.zeros(len(some), np.int32)
        maps = jax.device_get(explain(variables, Batch(images, labels, labels)))
        for name, found in maps.items():
            frames = np.asarray(found.weights, np.float32).reshape(-1, *found.weights.shape[2:])
            for row, heat in zip(some.ravel(), frames):
                mask = silhouettes[place[str(source.data.query.paths[row])]]
                size = mask.shape[1], mask.shape[0]
                heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
                if mask.any() and not mask.all():
                    inside.setdefault(name, []).append(float(heat[mask].mean()))
                    outside.setdefault(name, []).append(float(heat[~mask].mean()))
    return {name: float(np.mean(inside[name]) / np.mean(outside[name])) for name in inside}


if __name__ == "__main__":
    sys.exit(main())
