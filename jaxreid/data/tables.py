"""The tables of a data set: one row for each image or frame, and one for each tracklet."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from jaxreid.errors import UserError

SPLITS = ("train", "query", "gallery")
JUNK = -1
DISTRACTOR = 0


class Tracklets(NamedTuple):
    """A table with one row for each tracklet, in the order of the `Index` that it is of.

    The frames of tracklet `i` are the rows `first[i]` to `first[i] + length[i] - 1`.

    Attributes:
        first: the row of its first frame.
        length: its number of frames.
        pids: person ids.
        camids: camera ids, from 1.
        ids: the value in the index's column `tracklets`.
    """

    first: Int[np.ndarray, " n"]
    length: Int[np.ndarray, " n"]
    pids: Int[np.ndarray, " n"]
    camids: Int[np.ndarray, " n"]
    ids: Int[np.ndarray, " n"]

    @property
    def size(self) -> int:
        """The number of tracklets. (`len` of a NamedTuple counts its fields.)"""
        return len(self.first)

    def take(self, rows: Shaped[np.ndarray, " m"]) -> "Tracklets":
        """The table of some tracklets, in the order given.

        Args:
            rows: tracklets by their place in this table, or a mask over all of it.
        """
        return Tracklets(*(column[rows] for column in self))


class Index(NamedTuple):
    """A table with one row for each image or frame.

    Stills are in the natural order of their paths, and video by tracklet, then frame: a
    tracklet's rows are neighbours, in the order of time.

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

    def tracks(self) -> Tracklets:
        """The tracklets of this table; of stills, as many as there are images."""
        starts = np.ones(self.size, bool)
        starts[1:] = self.tracklets[1:] != self.tracklets[:-1]
        first = np.flatnonzero(starts)
        length = np.diff(first, append=self.size)
        return Tracklets(first, length, self.pids[first], self.camids[first], self.tracklets[first])


class Counts(NamedTuple):
    """How many tracklets and identities a data set holds; a still image is a tracklet."""

    train: int
    train_ids: int
    query: int
    query_ids: int
    gallery: int


# After each set's junk rule. Market-1501's, CUHK03's, MARS's and PRID2011's were counted from the
# official files; the others are the papers' figures. Of the sets with ten splits, each split has
# these; of CUHK03's classic protocol, each has its own.
EXPECTED = {
    "market1501": Counts(12_936, 751, 3_368, 750, 15_913),
    "dukemtmc_reid": Counts(16_522, 702, 2_228, 702, 17_661),
    "imagenet": Counts(1_281_167, 1_000, 25_000, 1_000, 25_000),
    "cuhk03_labeled": Counts(7_368, 767, 1_400, 700, 5_328),
    "cuhk03_detected": Counts(7_365, 767, 1_400, 700, 5_332),
    "mars": Counts(8_298, 625, 1_980, 626, 11_310),
    "duke_video": Counts(2_196, 702, 702, 702, 2_636),
    "ilids_vid": Counts(300, 150, 150, 150, 150),
    "prid2011": Counts(178, 89, 89, 89, 89),
    "prid2011_all": Counts(200, 100, 100, 100, 100),
}


class ReidData(NamedTuple):
    """A data set: what to train on, what to search for, and what to search in.

    Attributes:
        name: the name under which `load` knows it.
        train: the training images, their pids relabelled 0..N-1.
        query: the queries, with the data set's own pids.
        gallery: the gallery, with the data set's own pids.
        train_pids: the data set's own pid of each training label, sorted.
        junk: how many tracklets (of stills: images) the junk rule dropped.
        shared_tracklets: the query tracklets are in the gallery too, under the same number in
            the column `tracklets`; see `not_queries`.
        split: which split of the people this is, for data sets that come with several.
        single_shot: the data set's protocol is single-gallery-shot: CMC only, over drawn galleries
            of one image of each person; see `metrics.single_shot_cmc`.
        notes: what the parser had to decide, one line each, for `warnings`.
        held_out: query and gallery are of training persons: see `jaxreid.data.validation`.
    """

    name: str
    train: Index
    query: Index
    gallery: Index
    train_pids: Int[np.ndarray, " n"]
    junk: int = 0
    shared_tracklets: bool = False
    split: int | None = None
    single_shot: bool = False
    notes: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def num_ids(self) -> int:
        """The number of training identities."""
        return len(self.train_pids)

    @property
    def splits(self) -> dict[str, Index]:
        """The three tables by name."""
        return dict(zip(SPLITS, (self.train, self.query, self.gallery)))

    @property
    def is_video(self) -> bool:
        """Whether any tracklet has more than one frame."""
        return any(index.tracks().size < index.size for index in self.splits.values())

    @property
    def counts(self) -> Counts:
        """What was found, to lay beside `expected`."""
        return Counts(
            train=self.train.tracks().size,
            train_ids=self.num_ids,
            query=self.query.tracks().size,
            query_ids=len(np.unique(self.query.pids)),
            gallery=self.gallery.tracks().size,
        )

    @property
    def expected(self) -> Counts | None:
        """What should be found, where that is known."""
        return None if self.held_out else EXPECTED.get(self.name)

    @property
    def num_cameras(self) -> int:
        """The number of cameras over all three tables."""
        return len(np.unique(np.concatenate([index.camids for index in self.splits.values()])))

    def summary(self) -> str:
        """One line: what was found, beside what the data set should hold."""
        found, e = self.counts, self.expected
        items, frames = "images", dict.fromkeys(SPLITS, "")
        if self.is_video:
            items = "tracklets"
            frames = {split: f" ({index.size:,} frames)" for split, index in self.splits.items()}
        line = (
            f"{self.name}{'' if self.split is None else f' split {self.split}'}: "
            f"train {found.train} {items}{frames['train']} of {found.train_ids} ids, "
            f"query {found.query}{frames['query']} of {found.query_ids}, "
            f"gallery {found.gallery}{frames['gallery']}"
        )
        if e is not None:
            line += f" (expected {e.train}/{e.train_ids}, {e.query}/{e.query_ids}, {e.gallery})"
        line += f", {self.num_cameras} camera{'s' if self.num_cameras > 1 else ''}"
        return line + (f"; dropped {self.junk} junk" if self.junk else "")

    def fingerprint(self) -> str:
        """A short hash of every name and label; where the files lie plays no part."""
        digest = hashlib.sha256()
        for index in self.splits.values():
            digest.update(str(index.size).encode())
            for start in range(0, index.size, 2**16):  # a million strings at once are many bytes
                part = index.paths[start : start + 2**16].tolist()
                # Names of files may be no UTF-8.
                names = "".join("\0" + path for path in part)
                digest.update(names.encode("utf-8", "surrogateescape"))
            for column in index[2:]:
                digest.update(column.astype("<i4").tobytes())
        digest.update(self.train_pids.astype("<i4").tobytes())
        return digest.hexdigest()[:16]


def make(
    name: str, tables: Mapping[str, Index], junk: Mapping[str, int], **fields: Any
) -> ReidData:
    """A data set of three tables, without junk but with their own pids: relabels `train`.

    Query and gallery may both be empty: such a data set can be trained on, and not be scored.

    Args:
        name: the data set's name.
        tables: by split.
        junk: how many tracklets were dropped, by split.
        fields: further ones of `ReidData`.

    Raises:
        UserError: another table is empty.
    """
    scored = any(tables[split].size or junk[split] for split in ("query", "gallery"))
    for split in SPLITS if scored else ("train",):
        if not tables[split].size:
            raise UserError(
                f"{name}: {tables[split].root} holds no {split} images"
                f"{' but junk' if junk[split] else ''}; "
                "expected some of train, query and gallery each, or of train alone"
            )
    train_pids, labels = np.unique(tables["train"].pids, return_inverse=True)
    return ReidData(
        name=name,
        train=tables["train"]._replace(pids=labels.astype(np.int32)),
        query=tables["query"],
        gallery=tables["gallery"],
        train_pids=train_pids,
        junk=sum(junk.values()),
        **fields,
    )


def require_test_set(data: ReidData) -> None:
    """Raises `UserError` if a data set has training images alone."""
    if not data.query.size:
        raise UserError(
            f"{data.name}: {data.train.root} holds no query and no gallery images, so nothing can"
            " be scored; expected some, or --mode=train, or --config.data.validation=0.1, which"
            " scores persons that it takes out of the training"
        )


def not_queries(data: ReidData) -> Bool[np.ndarray, " g"]:
    """Which of the gallery's tracklets are not queries: what MARS's `query_removed` keeps."""
    gallery = data.gallery.tracks()
    if not data.shared_tracklets:
        return np.ones(gallery.size, bool)
    return ~np.isin(gallery.ids, data.query.tracks().ids)


def save(file: Path, data: ReidData, stamp: str = "") -> None:
    """Writes a data set's tables as `.npz`.

    Args:
        file: whose name ends in `.npz`.
        data: the tables.
        stamp: what `restore` will want to see.
    """
    columns: dict[str, Any] = {
        f"{split}/{field}": column
        for split, index in data.splits.items()
        for field, column in index._asdict().items()
    }
    np.savez_compressed(
        file,
        stamp=stamp,
        name=data.name,
        train_pids=data.train_pids,
        junk=data.junk,
        shared_tracklets=data.shared_tracklets,
        split=-1 if data.split is None else data.split,
        single_shot=data.single_shot,
        notes=np.array(data.notes, np.str_),
        **columns,
    )


def restore(file: Path, stamp: str = "") -> ReidData:
    """Reads what `save` wrote.

    Raises:
        ValueError: the file is missing, damaged, or has another stamp.
    """
    try:
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as columns:
            if str(columns["stamp"]) != stamp:
                raise ValueError("its stamp differs")
            tables = {
                split: Index(
                    str(columns[f"{split}/root"]),
                    *(columns[f"{split}/{field}"] for field in Index._fields[1:]),
                )
                for split in SPLITS
            }
            if any(column.shape != (t.size,) for t in tables.values() for column in t[1:]):
                raise ValueError("its columns differ in length")
            split = int(columns["split"])
            return ReidData(
                name=str(columns["name"]),
                **tables,
                train_pids=columns["train_pids"],
                junk=int(columns["junk"]),
                shared_tracklets=bool(columns["shared_tracklets"]),
                split=None if split < 0 else split,
                single_shot=bool(columns.get("single_shot", False)),  # not in older files
                notes=tuple(columns["notes"].tolist()),
                held_out=False,  # Only whole data sets are written.
            )
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds
        raise ValueError(str(error)) from error
