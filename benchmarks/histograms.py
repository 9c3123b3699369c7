"""How far colours alone get on a data set of images: the least that a network has to beat.

    python -m benchmarks.histograms --name=market1501 --root=DIR [--stripes=6 --levels=8]

Each image is cut into horizontal stripes of 128 x 64 pixels together. A stripe is the histogram of
its hues, saturations and values, `levels` of each; two images are compared by the mean of their
stripes' Bhattacharyya coefficients. Junk and the query's own camera are left out as in any scoring.
"""

import argparse

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxreid.config import Data
from jaxreid.data.sources import Source, open_source
from jaxreid.metrics import evaluate_rank

SIZE = (128, 64)


def main() -> None:
    """Prints the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", required=True, help="config.data.name")
    parser.add_argument("--root", required=True, help="config.data.root")
    parser.add_argument("--stripes", type=int, default=6)
    parser.add_argument("--levels", type=int, default=8)
    args = parser.parse_args()
    source = open_source(Data(name=args.name, root=args.root))
    print(source.data.summary())
    query, gallery = source.data.query, source.data.gallery
    described = {
        split: describe(source, split, args.stripes, args.levels) for split in ("query", "gallery")
    }
    distmat = 1 - described["query"] @ described["gallery"].T
    ranking = evaluate_rank(distmat, query.pids, gallery.pids, query.camids, gallery.camids)
    print(f"rank-1 {ranking.cmc[0]:.1%}, rank-5 {ranking.cmc[4]:.1%}, mAP {ranking.mean_ap:.1%}")


def describe(source: Source, split: str, stripes: int, levels: int) -> Float[np.ndarray, "n c"]:
    """Roots of the histograms of every image of a split, so that products are coefficients."""
    rows = np.arange(len(getattr(source.data, split).pids))
    images = source.images(split, rows[:, None], SIZE)
    found = [histograms(np.asarray(image)[0], stripes, levels) for image in images]
    return np.sqrt(np.stack(found)).astype(np.float32)


def histograms(image: UInt8[np.ndarray, "h w 3"], stripes: int, levels: int) -> np.ndarray:
    """The stripes' histograms end to end, of sum 1."""
    colours = np.asarray(Image.fromarray(image).convert("HSV"), np.int64) * levels // 256
    cells = colours @ np.array([levels**2, levels, 1])
    counts = [
        np.bincount(part.ravel(), minlength=levels**3) for part in np.array_split(cells, stripes)
    ]
    return np.concatenate(counts) / cells.size


if __name__ == "__main__":
    main()
