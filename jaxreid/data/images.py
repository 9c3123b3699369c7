"""Parsers of the image sets, of a folder of one's own, and of CSV files.

A layout like Market-1501's is three folders of images whose names are the labels.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxreid.data import tables
from jaxreid.data.decode import SUFFIXES
from jaxreid.data.files import (
    by_name,
    entries,
    find_home,
    frame_order,
    has_suffix,
    list_images,
    missing,
    read_csv,
    say_skipped,
    subfolders,
)
from jaxreid.data.tables import DISTRACTOR, JUNK, SPLITS, Index, ReidData
from jaxreid.errors import UserError, nearest


class _Row(NamedTuple):
    path: str
    pid: int
    camid: int
    tracklet: int | None  # None: a still image
    frame: int | None  # None: in the order of the paths


def _table(root: Path, rows: Sequence[_Row]) -> Index:
    rows = sorted(rows, key=_place)
    return Index(
        root=str(root),
        paths=np.array([row.path for row in rows], dtype=np.str_),
        pids=np.array([row.pid for row in rows], np.int32),
        camids=np.array([row.camid for row in rows], np.int32),
        tracklets=np.array(
            [i if row.tracklet is None else row.tracklet for i, row in enumerate(rows)], np.int32
        ),
        frames=np.array(
            [i if row.frame is None else row.frame for i, row in enumerate(rows)], np.int32
        ),
    )


def _place(row: _Row) -> Any:
    if row.tracklet is None:
        return by_name(row.path)
    return row.tracklet, frame_order(row.frame, row.path)


def _item(row: _Row) -> int | str:
    return row.path if row.tracklet is None else row.tracklet


def _data(
    name: str, root: Path, rows: dict[str, list[_Row]], notes: tuple[str, ...] = ()
) -> ReidData:
    """Drops junk and sorts."""
    kept = {split: [row for row in rows[split] if row.pid != JUNK] for split in SPLITS}
    junk = {split: len({_item(row) for row in rows[split] if row.pid == JUNK}) for split in SPLITS}
    found = {split: _table(root, kept[split]) for split in SPLITS}
    return tables.make(name, found, junk, notes=notes)


# ---------------------------------------------------------------------- Market-1501's layout


FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
_ALL_FOLDERS = "/, ".join(FOLDERS.values()) + "/"


class Layout(NamedTuple):
    """How a data set in three folders names its images.

    Attributes:
        pattern: of the whole name without its suffix.
        example: such a name, explained.
        homes: where the folders lie when the root is a folder above them.
        distractors: whether pid 0 means nobody in particular.
    """

    pattern: re.Pattern[str]
    example: str
    homes: tuple[str, ...]
    distractors: bool


# At most nine digits: an id has to fit 32 bits.
MARKET = Layout(
    re.compile(
        r"(?P<pid>-1|\d{1,9})_c(?P<camid>[1-9]\d{0,8})s\d+_(?P<frame>\d{1,9})_\d+", re.ASCII
    ),
    "0002_c1s1_000451_03.jpg (pid, camera from 1, sequence, frame, box)",
    (
        "Market-1501-v15.09.15",
        "Market-1501",
        "market1501",
        "market1501/Market-1501-v15.09.15",
    ),
    distractors=True,
)
DUKE = Layout(
    re.compile(r"(?P<pid>\d{1,9})_c(?P<camid>[1-9]\d{0,8})_f(?P<frame>\d{1,9})", re.ASCII),
    "0001_c2_f0046182.jpg (pid, camera from 1, frame)",
    ("DukeMTMC-reID", "dukemtmc-reid", "dukemtmc-reid/DukeMTMC-reID"),
    distractors=False,
)
OWN = Layout(
    re.compile(
        r"(?P<pid>-1|\d{1,9})_c(?P<camid>[1-9]\d{0,8})(?:s\d+)?(?:_f?(?P<frame>\d{1,9}))?(?:_.*)?",
        re.ASCII,
    ),
    "0002_c1.jpg or 0002_c1s1_000451_03.jpg (pid, camera from 1, and what else there is)",
    (),
    distractors=True,
)


def market_layout(name: str, layout: Layout, root: Path, draw: str = "") -> ReidData:
    """Three folders of images.

    Args:
        name: the data set's name.
        layout: how its images are named.
        root: the data set's folder, or the one above it.
        draw: the command that draws it where there is no such folder.

    Raises:
        UserError: something is missing, or a file does not fit.
    """
    home = find_home(
        name,
        root,
        homes=layout.homes,
        marker=FOLDERS["train"],
        holds=f"{_ALL_FOLDERS} with images named like {layout.example}",
        draw=draw,
    )
    skipped: Counter[str] = Counter()
    trained_on_alone = not any((home / FOLDERS[split]).exists() for split in ("query", "gallery"))
    rows = {
        split: []
        if trained_on_alone and split != "train"
        else [
            _parse(name, layout, split, home, path) for path in _images(name, home, folder, skipped)
        ]
        for split, folder in FOLDERS.items()
    }
    return _data(name, home, rows, say_skipped(skipped))


def _images(name: str, home: Path, folder: str, skipped: Counter[str]) -> list[str]:
    """The images of one folder, relative to `home`."""
    expected = f"{_ALL_FOLDERS} with images ({', '.join(SUFFIXES)})"
    try:
        images = list_images(home / folder, skipped)
    except OSError as error:
        raise missing(name, home / folder, error, expected) from error
    if not images:
        also = "".join(f" ({line})" for line in say_skipped(skipped))
        raise UserError(f"{name}: no images in {home / folder}{also}; expected {expected}")
    return [f"{folder}/{image}" for image in images]


def _parse(name: str, layout: Layout, split: str, home: Path, path: str) -> _Row:
    stem = path.rpartition("/")[2].rpartition(".")[0]
    match = layout.pattern.fullmatch(stem)
    if match is None:
        raise UserError(f"{name}: {home / path} is not named like {layout.example}")
    pid, frame = int(match["pid"]), match["frame"]
    if layout.distractors and pid == DISTRACTOR and split != "gallery":
        raise UserError(
            f"{name}: {home / path} has pid 0, a distractor in this layout, which belongs in "
            f"{FOLDERS['gallery']}/; count people from 1"
        )
    return _Row(path, pid, int(match["camid"]), tracklet=None, frame=int(frame or 0))


# ---------------------------------------------------------------------- a folder for each class


def class_folders(name: str, root: Path) -> ReidData:
    """Images in folders by their class, as ImageNet's: `train/<class>/` and `val/<class>/`.

    To pretrain on. A class is a "person"; the validation images of each are in turns query images
    (camera 1) and gallery images (camera 2), so that rank-1 is the accuracy of the nearest
    neighbour.

    Raises:
        UserError: a folder is missing, or the classes of the two differ.
    """
    home = find_home(name, root, homes=("imagenet",), marker="train", holds="train/ and val/")
    rows: dict[str, list[_Row]] = {split: [] for split in SPLITS}
    classes: list[str] = []
    skipped: Counter[str] = Counter()
    for folder in ("train", "val"):
        try:
            found = subfolders(home / folder)
        except OSError as error:
            raise missing(name, home / folder, error, "a folder for each class") from None
        names = [entry.name for entry in found]
        classes = classes or names
        if odd := sorted(set(names) ^ set(classes)):
            raise UserError(
                f"{name}: {home}: the class {odd[0]!r} is in one of train/ and val/ only"
            )
        for pid, entry in enumerate(found):
            images = list_images(entry.path, skipped)
            for place, image in enumerate(images):
                path = f"{folder}/{entry.name}/{image}"
                split = "train" if folder == "train" else ("query", "gallery")[place % 2]
                rows[split].append(_Row(path, pid, 2 if split == "gallery" else 1, None, None))
    return _data(name, home, rows, say_skipped(skipped))


# ---------------------------------------------------------------------- a CSV file


_REQUIRED = ("path", "pid", "camid", "split")
_COLUMNS = (*_REQUIRED, "tracklet", "frame")
_INT32_MAX = 2**31 - 1


def csv_file(file: Path) -> ReidData:
    """One line for each image: path, pid, camid, split and, for video, tracklet and frame.

    Paths are relative to the CSV's folder, or absolute. Junk has pid -1. A pid of 0 is a person
    like any other: a CSV has no need of a name for nobody.

    Raises:
        UserError: the file, its line, and what is wrong there.
    """
    rows: dict[str, list[_Row]] = {split: [] for split in SPLITS}
    seen: set[tuple[str, str]] = set()
    owner: dict[tuple[str, int], tuple[int, int]] = {}  # of each tracklet
    if not file.is_file():
        others = entries(file if file.is_dir() else file.parent)
        raise UserError(
            f"csv: {file} is not a file; expected a CSV with the columns {', '.join(_COLUMNS)}"
            f"{nearest(file.name, [entry for entry in others if has_suffix(entry, ('.csv',))])}"
        )
    for where, fields in read_csv(file, partial(_check_header, file)):
        split = fields["split"]
        if split not in SPLITS:
            raise UserError(
                f"{where}: split must be train, query or gallery, not {split!r}"
                f"{nearest(split, SPLITS)}"
            )
        row = _Row(
            path=Path(fields["path"]).as_posix(),
            pid=_integer(where, "pid", fields["pid"], least=JUNK),
            camid=_integer(where, "camid", fields["camid"], least=1),
            tracklet=_integer(where, "tracklet", fields["tracklet"], least=0)
            if "tracklet" in fields
            else None,
            frame=_integer(where, "frame", fields["frame"], least=0) if "frame" in fields else None,
        )
        if not has_suffix(row.path):
            raise UserError(f"{where}: {row.path!r} is not a {', '.join(SUFFIXES)}")
        if not (file.parent / row.path).is_file():
            raise UserError(f"{where}: there is no file {file.parent / row.path}")
        if (split, row.path) in seen:
            raise UserError(f"{where}: {row.path} is in {split} twice")
        seen.add((split, row.path))
        if row.tracklet is not None:
            pid, camid = owner.setdefault((split, row.tracklet), (row.pid, row.camid))
            if (pid, camid) != (row.pid, row.camid):
                raise UserError(
                    f"{where}: tracklet {row.tracklet} of {split} has pid {row.pid}, camid "
                    f"{row.camid} here and pid {pid}, camid {camid} before"
                )
        rows[split].append(row)
    return _data("csv", file.parent, rows)


def _check_header(file: Path, header: list[str]) -> None:
    for column in header:
        if column not in _COLUMNS:
            raise UserError(
                f"{file} line 1: unknown column {column!r}; the columns are "
                f"{', '.join(_COLUMNS)}{nearest(column, _COLUMNS)}"
            )
        if header.count(column) > 1:
            raise UserError(f"{file} line 1: the column {column!r} is there twice")
    missing = [column for column in _REQUIRED if column not in header]
    if missing:
        raise UserError(
            f"{file} line 1: no column {', '.join(missing)}; the header must name "
            f"{', '.join(_REQUIRED)}, and may name tracklet and frame"
        )


def _integer(where: str, column: str, text: str, *, least: int) -> int:
    if not re.fullmatch(r"-?\d{1,10}", text, re.ASCII) or not least <= int(text) <= _INT32_MAX:
        raise UserError(f"{where}: {column} must be a whole number from {least}, not {text!r}")
    return int(text)
