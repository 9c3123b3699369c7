"""What tests of pictures and pages share."""

import numpy as np
from PIL import Image

from jaxreid.metrics import summarise
from jaxreid.report.page import Looks, write_page
from jaxreid.report.pictures import RankedRow
from jaxreid.types import AttentionMap, Batch

SCORES = {
    "rank1": 0.75,
    "rank5": 0.9,
    "mAP": 0.5,
    "num_queries": 3368,
    "num_gallery": 15913,
    "num_valid": 3361,
    "data": "market1501",
    "ap": "trapezoid",
    "flip": False,
}


def grey(height=128, width=64, level=128):
    return np.full((height, width, 3), level, np.uint8)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def ranked_row(first=1, ap=0.5, **changes):
    """A query of person 7 whose first true match stands at rank `first`."""
    ranks = [1, 2] if first <= 2 else [1, 2, first]
    count = len(ranks)
    values = {
        "query": grey(),
        "query_pid": 7,
        "query_camid": 1,
        "gallery": [grey()] * count,
        "pids": [7 if rank == first else 9 for rank in ranks],
        "camids": [2] * count,
        "distances": [0.1 * k for k in range(1, count + 1)],
        "correct": [rank == first for rank in ranks],
        "ranks": ranks,
        "first": first,
        "ap": ap,
    }
    return RankedRow(**{**values, **changes})


def pair_looks():
    """Two images of 4 x 2 cells whose map n looks at cell n of the item and at cell 7 - n."""
    eye = np.broadcast_to(np.eye(8).reshape(8, 4, 2), (2, 8, 4, 2))
    maps = {  # as JAX returns them: by name
        "inter": AttentionMap(0.5 * eye[:, ::-1], "partner"),
        "intra": AttentionMap(0.25 * eye, "self"),
        "reference": AttentionMap(eye, "self"),
    }
    batch = Batch(np.stack([grey()] * 2), np.array([7, 7]), np.array([1, 2]))
    return Looks(batch, maps)


def page_with_everything(workdir, **changes):
    """A page of four queries, with all that a page may have."""
    ranks = [np.array([1]), np.array([3]), np.array([1])]
    values = {
        "config": {"data": {"image_size": (256, 128)}, "train": {"steps": 7}},
        "scores": SCORES,
        "paper": {"rank1": 0.9142},
        "paper_source": "Table 1",
        "history": [{"step": s, "loss": 1 / (s + 1), "lr": 0.01} for s in range(9)],
        "cmc": np.array([0.75, 0.8, 0.9]),
        "rows": [
            ranked_row(30, 0.03),
            ranked_row(2, 0.5),
            ranked_row(1, 1.0),
            ranked_row(0, np.nan, correct=[False] * 2),
        ],
        "looks": pair_looks(),
        "by_camera": {1: summarise(ranks), 2: summarise(ranks[:2])},
        "lengths": (1, 8),
        "by_length": np.array([[0.1, 0.2], [0.3, 0.4]]),
    }
    return write_page(workdir, **{**values, **changes})
