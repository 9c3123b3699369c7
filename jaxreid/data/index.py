"""The index of a data set: which image shows whom, seen by which camera.

One parser for each data set turns a folder into flat, sorted `tables`: those of stills are in
`images`, those of tracklets in `mars` and `videos`. A parser reads the *name* of a file and never
the folders above the data set, and applies that data set's own rule for junk and distractors.
Nothing is downloaded: these sets are handed out by their owners under terms.

    data = index.load("market1501", "/data/Market-1501-v15.09.15")
    print(data.summary())
    data.gallery.path(0), data.gallery.pids[0]
"""

import argparse
import importlib
import os
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from jaxreid.data import cuhk03, images, mars, videos
from jaxreid.data.tables import (
    EXPECTED,
    SPLITS,
    Counts,
    Index,
    ReidData,
    Tracklets,
    not_queries,
)
from jaxreid.errors import UserError, nearest
from jaxreid.paths import local_path

__all__ = [
    "EXPECTED",
    "NUM_SPLITS",
    "PARSERS",
    "SPLITS",
    "Counts",
    "Index",
    "ReidData",
    "Tracklets",
    "check_split",
    "load",
    "not_queries",
    "num_unmatched",
    "split_place",
    "warnings",
]

_DRAW = "python -m jaxreid.synthetic"

# Those in `NUM_SPLITS` take the number of the split after the root.
PARSERS: dict[str, Callable[..., ReidData]] = {
    "market1501": partial(images.market_layout, "market1501", images.MARKET),
    "dukemtmc_reid": partial(images.market_layout, "dukemtmc_reid", images.DUKE),
    "folder": partial(images.market_layout, "folder", images.OWN),
    "synthetic": partial(images.market_layout, "synthetic", images.OWN, draw=_DRAW),
    "csv": images.csv_file,
    "imagenet": partial(images.class_folders, "imagenet"),
    "cuhk03_labeled": partial(cuhk03.new_protocol, "labeled"),
    "cuhk03_detected": partial(cuhk03.new_protocol, "detected"),
    "cuhk03_classic_labeled": partial(cuhk03.classic, "labeled"),
    "cuhk03_classic_detected": partial(cuhk03.classic, "detected"),
    "mars": partial(mars.mars, "mars", keep=True),
    "duke_video": videos.duke_video,
    "ilids_vid": videos.ilids_vid,
    "prid2011": videos.prid2011,
    "prid2011_all": partial(videos.prid2011, everyone=True),
    "synthetic_video": partial(mars.mars, "synthetic_video", draw=f"{_DRAW} --video"),
}
NUM_SPLITS = {
    **dict.fromkeys(("ilids_vid", "prid2011", "prid2011_all"), videos.NUM_SPLITS),
    **dict.fromkeys(("cuhk03_classic_labeled", "cuhk03_classic_detected"), cuhk03.NUM_SPLITS),
}


def load(name: str, root: str | os.PathLike, split: int | None = None) -> ReidData:
    """Reads the index of a data set from its file names.

    Args:
        name: one of `PARSERS`, or `my_module:function` for a parser of one's own, which is given
            the folder.
        root: the data set's folder or the one above it; for `"csv"`, the CSV file.
        split: from 0, of a data set in `NUM_SPLITS`; by default the first.

    Raises:
        UserError: the name is unknown, something is missing, or a file does not fit.
    """
    path = Path(os.path.abspath(os.path.expanduser(root)))
    check_split(name, split)
    if ":" in name:
        data = _parser_of_ones_own(name)(path)
        if not isinstance(data, ReidData):
            raise UserError(
                f"data.name={name}: returned {type(data).__name__}; expected"
                " jaxreid.data.index.ReidData"
            )
        return data
    if name not in PARSERS:
        raise UserError(
            f"data.name={name!r} is not a data set; there are {', '.join(PARSERS)}, and"
            f" my_module:function{nearest(name, PARSERS)}"
        )
    return PARSERS[name](path, split or 0) if name in NUM_SPLITS else PARSERS[name](path)


def _parser_of_ones_own(name: str) -> Callable[..., ReidData]:
    module, _, function = name.partition(":")
    try:
        found = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"data.name={name}: the module {module!r} cannot be imported ({error}); expected it"
            " where Python looks for modules (PYTHONPATH)"
        ) from None
    parser = getattr(found, function, None)
    if not callable(parser):
        there = [each for each, value in vars(found).items() if callable(value)]
        raise UserError(
            f"data.name={name}: {module} has no function {function!r}{nearest(function, there)}"
        )
    return parser


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name a data set: what `load` takes."""
    names = f"{', '.join(PARSERS)}, or my_module:function"
    parser.add_argument("--name", required=True, help=names)
    where = "its folder; for csv, the file"
    parser.add_argument("--root", required=True, type=local_path, help=where)
    parser.add_argument("--split", type=int, help="which one, of a data set with several; from 0")


def split_place(place: str) -> tuple[str, str]:
    """A data set and where it is: `("mars", "/data/MARS")` of `mars:/data/MARS`.

    The name may have a colon of its own, as in `my_module:function:/data/mine`.
    """
    name, _, root = place.partition(":")
    if name not in PARSERS and ":" in root:
        function, _, root = root.partition(":")
        name = f"{name}:{function}"
    return name, root


def check_split(name: str, split: int | None) -> None:
    """Raises `UserError` for a split that a data set does not have; None is always one."""
    if split is None:
        return
    if name not in NUM_SPLITS:
        raise UserError(
            f"config.data.split={split}: {name} does not come in splits; those that do are "
            f"{', '.join(NUM_SPLITS)}"
        )
    if not 0 <= split < NUM_SPLITS[name]:
        raise UserError(
            f"config.data.split={split}: {name} has the splits 0 to {NUM_SPLITS[name] - 1}"
        )


def warnings(data: ReidData) -> list[str]:
    """What a user should know before trusting a score, one line each."""
    lines = [f"{data.name}: {note}" for note in data.notes]
    item = "tracklet" if data.is_video else "image"
    if data.expected is not None:
        words = (f"training {item}s", "training ids", "queries", "query ids", f"gallery {item}s")
        lines += [
            f"{data.name}: {found} {word}, expected {expected}"
            for word, found, expected in zip(words, data.counts, data.expected)
            if found != expected
        ]
    if data.num_cameras == 1:
        lines.append(
            f"{data.name}: one camera only; a true match needs another camera than the query's"
        )
    query, gallery = data.query.tracks(), data.gallery.tracks()
    unmatched = num_unmatched(query, gallery)
    if unmatched:
        lines.append(
            f"{data.name}: {unmatched} of {query.size} queries have no true match (same pid, "
            "another camera) in the gallery; they are not scored"
        )
    shared = np.intersect1d(data.train_pids, np.union1d(query.pids, gallery.pids))
    if shared.size:
        first = ", ".join(map(str, shared[:5])) + (", ..." if shared.size > 5 else "")
        lines.append(
            f"{data.name}: {shared.size} training ids are in the query or the gallery too "
            f"(pids {first}); scores will be too high"
        )
    return lines


def num_unmatched(query: Tracklets, gallery: Tracklets) -> int:
    """How many queries have nothing of the same person by another camera in the gallery."""
    cameras_of = defaultdict(set)
    for pid, camid in zip(gallery.pids.tolist(), gallery.camids.tolist()):
        cameras_of[pid].add(camid)
    return sum(
        not cameras_of[pid] - {camid}
        for pid, camid in zip(query.pids.tolist(), query.camids.tolist())
    )
