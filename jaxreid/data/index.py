"""The index of a data set: which image shows whom, seen by which camera.

One parser for each data set turns a folder into flat, sorted tables. A parser reads the *name* of
a file and never the folders above it, and applies that data set's own rule for junk and
distractors. Nothing is downloaded: these sets are handed out by their owners under terms.

    data = index.load("market1501", "/data/Market-1501-v15.09.15")
    print(data.summary())
    data.gallery.path(0), data.gallery.pids[0]
"""

import csv
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from jaxreid.errors import UserError, nearest

SPLITS = ("train", "query", "gallery")
JUNK = -1
DISTRACTOR = 0
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class Index(NamedTuple):
    """A table with one row for each image, sorted by path.

    Attributes:
        root: the folder that `paths` are relative to, absolute.
        paths: with `/` between the parts.
        pids: person ids.
        camids: camera ids, from 1.
        tracklets: which images belong together; each still image is a tracklet of its own.
        frames: the place of an image in its tracklet's time.
    """

    root: str
    paths: Shaped[np.ndarray, " n"]
    pids: Int[np.ndarray, " n"]
    camids: Int[np.ndarray, " n"]
    tracklets: Int[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]

    @property
    def size(self) -> int:
        """The number of images. (`len` of a NamedTuple counts its fields.)"""
        return len(self.paths)

    def take(self, rows: Shaped[np.ndarray, " m"]) -> "Index":
        """The table of some rows, in the order given.

        Args:
            rows: row numbers, or a mask over all rows.
        """
        return Index(self.root, *(column[rows] for column in self[1:]))

    def path(self, row: int | np.integer) -> str:
        """The absolute path of one image."""
        return os.path.join(self.root, str(self.paths[row]))


class Counts(NamedTuple):
    """How many images and identities a data set holds."""

    train: int
    train_ids: int
    query: int
    query_ids: int
    gallery: int


# After each set's junk rule. Market-1501's were counted; DukeMTMC-reID's are the papers' figures.
EXPECTED = {
    "market1501": Counts(12_936, 751, 3_368, 750, 15_913),
    "dukemtmc_reid": Counts(16_522, 702, 2_228, 702, 17_661),
}


class ReidData(NamedTuple):
    """A data set: what to train on, what to search for, and what to search in.

    Attributes:
        name: the name under which `load` knows it.
        train: the training images, their pids relabelled 0..N-1.
        query: the queries, with the data set's own pids.
        gallery: the gallery, with the data set's own pids.
        train_pids: the data set's own pid of each training label, sorted.
        junk: how many images the junk rule dropped.
    """

    name: str
    train: Index
    query: Index
    gallery: Index
    train_pids: Int[np.ndarray, " n"]
    junk: int = 0

    @property
    def num_ids(self) -> int:
        """The number of training identities."""
        return len(self.train_pids)

    @property
    def splits(self) -> dict[str, Index]:
        """The three tables by name."""
        return dict(zip(SPLITS, (self.train, self.query, self.gallery)))

    @property
    def counts(self) -> Counts:
        """What was found, to lay beside `EXPECTED`."""
        return Counts(
            train=self.train.size,
            train_ids=self.num_ids,
            query=self.query.size,
            query_ids=len(np.unique(self.query.pids)),
            gallery=self.gallery.size,
        )

    @property
    def num_cameras(self) -> int:
        """The number of cameras over all three tables."""
        return len(np.unique(np.concatenate([index.camids for index in self.splits.values()])))

    def summary(self) -> str:
        """One line: what was found, beside what the data set should hold."""
        found = self.counts
        line = (
            f"{self.name}: train {found.train} images of {found.train_ids} ids, "
            f"query {found.query} of {found.query_ids}, "
            f"gallery {found.gallery}"
        )
        if self.name in EXPECTED:
            e = EXPECTED[self.name]
            line += f" (expected {e.train}/{e.train_ids}, {e.query}/{e.query_ids}, {e.gallery})"
        line += f", {self.num_cameras} camera{'s' if self.num_cameras > 1 else ''}"
        return line + (f"; dropped {self.junk} junk" if self.junk else "")

    def fingerprint(self) -> str:
        """A short hash of every name and label; where the files lie plays no part."""
        digest = hashlib.sha256()
        for index in self.splits.values():
            digest.update("\0".join([str(index.size), *index.paths.tolist()]).encode())
            for column in index[2:]:
                digest.update(column.astype("<i4").tobytes())
        digest.update(self.train_pids.astype("<i4").tobytes())
        return digest.hexdigest()[:16]


def load(name: str, root: str | os.PathLike) -> ReidData:
    """Reads the index of a data set from its file names.

    Args:
        name: one of `PARSERS`.
        root: the data set's folder or the one above it; for `"csv"`, the CSV file.

    Raises:
        UserError: the name is unknown, something is missing, or a file does not fit.
    """
    if name not in PARSERS:
        raise UserError(
            f"data.name={name!r} is not a data set; there are {', '.join(PARSERS)}"
            f"{nearest(name, PARSERS)}"
        )
    return PARSERS[name](Path(os.path.abspath(os.path.expanduser(root))))


def warnings(data: ReidData) -> list[str]:
    """What a user should know before trusting a score, one line each."""
    lines = []
    if data.name in EXPECTED:
        words = ("training images", "training ids", "queries", "query ids", "gallery images")
        lines += [
            f"{data.name}: {found} {word}, expected {expected}"
            for word, found, expected in zip(words, data.counts, EXPECTED[data.name])
            if found != expected
        ]
    if data.num_cameras == 1:
        lines.append(
            f"{data.name}: one camera only; a true match needs another camera than the query's"
        )
    unmatched = num_unmatched(data.query, data.gallery)
    if unmatched:
        lines.append(
            f"{data.name}: {unmatched} of {data.query.size} queries have no true match (same pid, "
            "another camera) in the gallery; they are not scored"
        )
    shared = np.intersect1d(data.train_pids, np.union1d(data.query.pids, data.gallery.pids))
    if shared.size:
        first = ", ".join(map(str, shared[:5])) + (", ..." if shared.size > 5 else "")
        lines.append(
            f"{data.name}: {shared.size} training ids are in the query or the gallery too "
            f"(pids {first}); scores will be too high"
        )
    return lines


def num_unmatched(query: Index, gallery: Index) -> int:
    """How many queries have no gallery image of the same person by another camera."""
    cameras_of = defaultdict(set)
    for pid, camid in zip(gallery.pids.tolist(), gallery.camids.tolist()):
        cameras_of[pid].add(camid)
    return sum(
        not cameras_of[pid] - {camid}
        for pid, camid in zip(query.pids.tolist(), query.camids.tolist())
    )


# ---------------------------------------------------------------------- from rows to tables


class _Row(NamedTuple):
    path: str
    pid: int
    camid: int
    tracklet: int | None  # None: a still image
    frame: int | None  # None: in the order of the paths


def _table(root: Path, rows: Sequence[_Row]) -> Index:
    rows = sorted(rows, key=lambda row: row.path)
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


def _data(name: str, root: Path, rows: dict[str, list[_Row]]) -> ReidData:
    """Drops junk, sorts, and relabels the training pids."""
    kept = {split: [row for row in rows[split] if row.pid != JUNK] for split in SPLITS}
    for split in SPLITS:
        if not kept[split]:
            raise UserError(
                f"{name}: {root} holds no {split} images{' but junk' if rows[split] else ''}; "
                "expected some of train, query and gallery each"
            )
    train, query, gallery = (_table(root, kept[split]) for split in SPLITS)
    train_pids, labels = np.unique(train.pids, return_inverse=True)
    return ReidData(
        name=name,
        train=train._replace(pids=labels.astype(np.int32)),
        query=query,
        gallery=gallery,
        train_pids=train_pids,
        junk=sum(len(rows[split]) - len(kept[split]) for split in SPLITS),
    )


# ---------------------------------------------------------------------- Market-1501's layout


FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


class _Layout(NamedTuple):
    pattern: re.Pattern[str]  # of the whole name without its suffix
    example: str
    homes: tuple[str, ...]  # where the folders lie when the root is a folder above them
    distractors: bool  # whether pid 0 means nobody in particular


# At most nine digits: an id has to fit 32 bits.
_MARKET = _Layout(
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
_DUKE = _Layout(
    re.compile(r"(?P<pid>\d{1,9})_c(?P<camid>[1-9]\d{0,8})_f(?P<frame>\d{1,9})", re.ASCII),
    "0001_c2_f0046182.jpg (pid, camera from 1, frame)",
    ("DukeMTMC-reID", "dukemtmc-reid", "dukemtmc-reid/DukeMTMC-reID"),
    distractors=False,
)
_OWN = _Layout(
    re.compile(
        r"(?P<pid>-1|\d{1,9})_c(?P<camid>[1-9]\d{0,8})(?:s\d+)?(?:_f?(?P<frame>\d{1,9}))?(?:_.*)?",
        re.ASCII,
    ),
    "0002_c1.jpg or 0002_c1s1_000451_03.jpg (pid, camera from 1, and what else there is)",
    (),
    distractors=True,
)


def _market_layout(name: str, layout: _Layout, root: Path) -> ReidData:
    home = _find_home(name, layout, root)
    rows = {
        split: [_parse(name, layout, split, home, path) for path in _images(name, home, folder)]
        for split, folder in FOLDERS.items()
    }
    return _data(name, home, rows)


def _find_home(name: str, layout: _Layout, root: Path) -> Path:
    """The folder that holds the three: the root itself, or one that is known to lie in it."""
    if not root.is_dir():
        draw = f"; draw it: python -m jaxreid.data.synthetic --root={root}"
        raise UserError(
            f"{name}: {root} is not a folder; expected one that holds {_all_folders()}"
            f"{nearest(root.name, _entries(root.parent))}{draw if name == 'synthetic' else ''}"
        )
    homes = [root, *(root / home for home in layout.homes)]
    for home in homes:
        if (home / FOLDERS["train"]).is_dir():
            return home
    also = f", nor in its {', '.join(layout.homes)}" if layout.homes else ""
    raise UserError(
        f"{name}: no {FOLDERS['train']}/ in {root}{also}; expected {_all_folders()} with images "
        f"named like {layout.example}"
    )


def _all_folders() -> str:
    return "/, ".join(FOLDERS.values()) + "/"


def _entries(folder: Path) -> list[str]:
    """What lies in a folder, to suggest from; nothing where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _images(name: str, home: Path, folder: str) -> list[str]:
    """The images of one folder, relative to `home`. Thumbs.db and its like are passed over."""
    expected = f"expected {_all_folders()} with .jpg, .jpeg or .png images"
    try:
        entries = os.listdir(home / folder)
    except OSError as error:
        raise UserError(f"{name}: no {home / folder} ({error.strerror}); {expected}") from error
    images = [entry for entry in entries if _is_image(entry)]
    if not images:
        raise UserError(f"{name}: no images in {home / folder}; {expected}")
    return [f"{folder}/{image}" for image in sorted(images)]


def _is_image(path: str) -> bool:
    """By its suffix; files with a leading dot are the system's own."""
    file = path.rpartition("/")[2]
    return file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith(".")


def _parse(name: str, layout: _Layout, split: str, home: Path, path: str) -> _Row:
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


# ---------------------------------------------------------------------- a CSV file


_REQUIRED = ("path", "pid", "camid", "split")
_COLUMNS = (*_REQUIRED, "tracklet", "frame")
_INT32_MAX = 2**31 - 1


def _csv(file: Path) -> ReidData:
    """One line for each image: path, pid, camid, split and, for video, tracklet and frame.

    Paths are relative to the CSV's folder, or absolute. Junk has pid -1. A pid of 0 is a person
    like any other: a CSV has no need of a name for nobody.
    """
    rows: dict[str, list[_Row]] = {split: [] for split in SPLITS}
    seen: set[tuple[str, str]] = set()
    owner: dict[tuple[str, int], tuple[int, int]] = {}  # of each tracklet
    for line, fields in _csv_lines(file):
        where = f"{file} line {line}"
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
        if not _is_image(row.path):
            raise UserError(f"{where}: {row.path!r} is not a .jpg, .jpeg or .png")
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


def _csv_lines(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and fields by column, the header checked."""
    if not file.is_file():
        folder = file if file.is_dir() else file.parent
        others = [entry for entry in _entries(folder) if entry.lower().endswith(".csv")]
        raise UserError(
            f"csv: {file} is not a file; expected a CSV with the columns {', '.join(_COLUMNS)}"
            f"{nearest(file.name, others)}"
        )
    with open(file, newline="", encoding="utf-8-sig") as lines:
        reader = csv.reader(lines)
        try:
            header = [column.strip() for column in next(reader, [])]
            _check_header(file, header)
            for fields in reader:
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise UserError(
                        f"{file} line {reader.line_num}: {len(fields)} fields, expected "
                        f"{len(header)}: {', '.join(header)}"
                    )
                yield reader.line_num, dict(zip(header, map(str.strip, fields)))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(
                f"{file} after line {reader.line_num}: not a CSV file in UTF-8 ({error})"
            ) from error


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


PARSERS: dict[str, Callable[[Path], ReidData]] = {
    "market1501": partial(_market_layout, "market1501", _MARKET),
    "dukemtmc_reid": partial(_market_layout, "dukemtmc_reid", _DUKE),
    "folder": partial(_market_layout, "folder", _OWN),
    "synthetic": partial(_market_layout, "synthetic", _OWN),
    "csv": _csv,
}
