"""Images per second that each source delivers, beside a plain Pillow loop in the same run.

    python -m benchmarks.pipeline [--video] [--root=runs/synthetic] [--seconds=5]

Training batches of 40 images, decoded and resized to 288 x 144 (what DuATM's 256 x 128 crops are
cut from); with `--video`, of 32 clips of 4 frames, resized to 256 x 128 (COSAM's batch). Nothing
is trained: this is the most that a fast device could be fed with.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxreid.config import Data
from jaxreid.data import builders, index
from jaxreid.data.decode import decode, resize
from jaxreid.data.sampler import ClipRule, Plan
from jaxreid.data.sources import open_source
from jaxreid.synthetic.images import write_market
from jaxreid.synthetic.tracklets import write_mars


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--video", action="store_true", help="clips instead of images")
    parser.add_argument("--root", help="of the drawn set")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.video:
        name, size, clip = "synthetic_video", (256, 128), ClipRule(4)
        root = str(write_mars(args.root or "runs/synthetic_video"))
    else:
        name, size, clip = "synthetic", (288, 144), None
        root = str(write_market(args.root or "runs/synthetic"))
    data = index.load(name, root)
    plan = Plan(data.train.tracks(), *((8, 4) if clip else (10, 4)), seed=0, clip=clip)

    def pillow() -> Iterator[Any]:
        for step in itertools.count():
            rows = plan.rows(step)
            pixels = [resize(decode(data.train.path(row)), size) for row in rows.ravel()]
            yield np.stack(pixels).reshape(*rows.shape, *size, 3)

    with tempfile.TemporaryDirectory() as out:
        builders.prepare(data, out)

        def source(kind: str, root: str) -> Iterator[Any]:
            opened = open_source(Data(name=name, root=root, source=kind))  # type: ignore[arg-type]
            return opened.images("train", map(plan.rows, itertools.count()), size)

        streams = {
            "Pillow loop, one thread": pillow(),
            "source=files": source("files", root),
            "source=tfds": source("tfds", out),
            "source=memory": source("memory", root),
        }
        speeds: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(args.rounds):
            for name, stream in streams.items():
                for _ in range(5):  # past what was prefetched while others were measured
                    next(stream)
                count, start = 0, time.perf_counter()
                while (now := time.perf_counter()) - start < args.seconds:
                    count += len(next(stream))
                speeds[name].append(count / (now - start))
        base = speeds["Pillow loop, one thread"]
        print(f"{'clips/s, median' if clip else 'images/s, median':26}{'':>10}{'ratio':>10}")
        for name, values in speeds.items():
            ratio = statistics.median(v / b for v, b in zip(values, base))
            print(f"{name:26}{statistics.median(values):10.0f}{ratio:10.2f}")


if __name__ == "__main__":
    main()
