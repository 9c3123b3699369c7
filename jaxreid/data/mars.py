"""MARS, and data sets in its layout: long lists of frames, and tables of which are a tracklet.

L. Zheng et al., "MARS: A Video Benchmark for Large-Scale Person Re-Identification", ECCV 2016. A
million names are read as arrays, not one by one.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from jaxreid.data import tables
from jaxreid.data.files import find_home, missing, read_matrix, remembered
from jaxreid.data.tables import DISTRACTOR, JUNK, Index, ReidData
from jaxreid.errors import UserError

# pid (00-1 is junk), camera, tracklet, frame: every name has the same length.
_MARS_NAME = re.compile(rb"(?:\d{4}|00-1)C[1-9]T\d{4}F\d{3}\.jpg")
_MARS_EXAMPLE = "0001C1T0001F001.jpg (pid, camera, tracklet, frame)"
_MARS_LISTS = (
    "info/train_name.txt",
    "info/test_name.txt",
    "info/tracks_train_info.mat",
    "info/tracks_test_info.mat",
    "info/query_IDX.mat",
)
_MARS_MATRICES = {
    "track_train_info": "tracks_train_info.mat",
    "track_test_info": "tracks_test_info.mat",
    "query_IDX": "query_IDX.mat",
}
_MARS_HOLDS = (
    f"bbox_train/, bbox_test/ and {', '.join(_MARS_LISTS)} (info/ is handed out apart, with the "
    "authors' evaluation code)"
)


class _Names(NamedTuple):
    """One of MARS's lists of names, and what the names say."""

    names: Shaped[np.ndarray, " n"]
    pids: Int[np.ndarray, " n"]
    camids: Int[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]


def mars(name: str, root: Path, *, keep: bool = False, draw: str = "") -> ReidData:
    """MARS, or another data set in its layout.

    Tracklets are numbered by their rows, from 0, in `tracks_train_info.mat` and
    `tracks_test_info.mat`. The query tracklets stay in the gallery, as in the authors' protocol:
    see `tables.not_queries`.

    Args:
        name: the data set's name.
        root: the data set's folder, or the one above it.
        keep: whether the index is kept in the user's cache.
        draw: the command that draws it where there is no such folder.

    Raises:
        UserError: a list, a tracklet or a frame that is missing or does not fit.
    """
    home = find_home(
        name, root, homes=("MARS", "mars"), marker="info", holds=_MARS_HOLDS, draw=draw
    )

    def parse() -> ReidData:
        train, train_junk = _mars_table(name, home, "train")
        test, test_junk = _mars_table(name, home, "test")
        queries = _mars_queries(name, home, test)
        return tables.make(
            name,
            {
                "train": train,
                "query": test.take(np.isin(test.tracklets, queries)),
                "gallery": test,
            },
            {"train": train_junk, "query": 0, "gallery": test_junk},
            shared_tracklets=True,
        )

    if not keep:
        return parse()
    return remembered(
        name, home, parse, lists=_MARS_LISTS, folders={"bbox_train": 1, "bbox_test": 1}
    )


def _mars_table(name: str, home: Path, half: str) -> tuple[Index, int]:
    """The table of `bbox_train` or `bbox_test`, and how many junk tracklets it is without."""
    names_file, info_file = home / f"info/{half}_name.txt", home / f"info/tracks_{half}_info.mat"
    listed = _read_names(name, names_file)
    info = read_matrix(name, info_file, f"track_{half}_info", siblings=_MARS_MATRICES)
    if info.shape[1] != 4:
        raise UserError(
            f"{name}: {info_file} has {info.shape[1]} columns, expected 4: first and last line in "
            f"{names_file.name}, pid, camera"
        )
    kept = np.flatnonzero(info[:, 2] != JUNK)
    first, last, pids, camids = info[kept].T

    def check(bad: Bool[np.ndarray, " n"], why: str) -> None:
        if bad.any():
            row = kept[np.argmax(bad)]
            raise UserError(
                f"{name}: {info_file} row {row + 1} {info[row].tolist()} (first, last, pid, "
                f"camera): {why}"
            )

    check(last < first, "a tracklet without frames")
    check((first < 1) | (last > len(listed.names)), f"{names_file} has {len(listed.names)} names")
    by_first = np.argsort(first)
    overlaps = np.zeros(len(kept), bool)
    overlaps[by_first[1:]] = first[by_first[1:]] <= last[by_first[:-1]]
    check(overlaps, "shares names with another tracklet")
    if half == "train":
        check(pids == DISTRACTOR, "pid 0 is a distractor, which belongs in the test half")

    # Which line of the list each frame is, and which tracklet's.
    lengths = last - first + 1
    owners = np.repeat(np.arange(len(kept)), lengths)
    ends = np.cumsum(lengths)
    lines = np.arange(len(owners)) + np.repeat(first - 1 - (ends - lengths), lengths)
    strange = (listed.pids[lines] != pids[owners]) | (listed.camids[lines] != camids[owners])
    if strange.any():
        at = np.argmax(strange)
        check(
            np.arange(len(kept)) == owners[at],
            f"{names_file.name} has {listed.names[lines[at]].decode()} there; a tracklet has one "
            "pid and one camera",
        )
    order = np.lexsort((listed.frames[lines], owners))
    lines, owners = lines[order], owners[order]
    names = listed.names[lines]
    _check_files(name, home / f"bbox_{half}", names_file, names)
    folders = np.strings.add(f"bbox_{half}/".encode(), names.astype("S4"))
    table = Index(
        root=str(home),
        paths=np.strings.add(np.strings.add(folders, b"/"), names).astype(np.str_),
        pids=listed.pids[lines],
        camids=listed.camids[lines],
        tracklets=kept[owners].astype(np.int32),
        frames=listed.frames[lines],
    )
    return table, len(info) - len(kept)


def _read_names(name: str, file: Path) -> _Names:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise missing(name, file, error, f"one name in each line, like {_MARS_EXAMPLE}") from error
    for number, line in enumerate(lines, start=1):
        if not _MARS_NAME.fullmatch(line):
            raise UserError(
                f"{name}: {file} line {number}: {line[:80]!r} is not named like {_MARS_EXAMPLE}"
            )
    if not lines:
        raise UserError(f"{name}: {file} is empty; expected names like {_MARS_EXAMPLE}")
    names = np.array(lines)
    people = names.astype("S4")
    letters = names.view(np.uint8).reshape(len(names), -1)
    digits = letters[:, [5, 12, 13, 14]].astype(np.int32) - ord("0")
    return _Names(
        names,
        pids=np.where(people == b"00-1", b"-1", people).astype(np.int32),
        camids=digits[:, 0],
        frames=digits[:, 1:] @ np.array([100, 10, 1], np.int32),
    )


def _mars_queries(name: str, home: Path, test: Index) -> Int[np.ndarray, " n"]:
    """The query tracklets, as values of the column `tracklets`."""
    file = home / "info/query_IDX.mat"
    queries = read_matrix(name, file, "query_IDX", siblings=_MARS_MATRICES).ravel() - 1
    tracks = test.tracks()
    allowed = tracks.ids[tracks.pids != DISTRACTOR]
    strange = ~np.isin(queries, allowed)
    if strange.any():
        raise UserError(
            f"{name}: {file} names row {queries[np.argmax(strange)] + 1} of tracks_test_info.mat, "
            "which is junk, a distractor, or not there"
        )
    if len(np.unique(queries)) < len(queries):
        raise UserError(f"{name}: {file} names a query twice")
    return queries


def _check_files(
    name: str, folder: Path, names_file: Path, names: Shaped[np.ndarray, " n"]
) -> None:
    """Lays the names beside what lies in the folder of each person."""
    people, of = np.unique(names.astype("S4"), return_inverse=True)
    by_person = np.split(names[np.argsort(of, kind="stable")], np.cumsum(np.bincount(of))[:-1])
    for person, wanted in zip(people.tolist(), by_person):
        home = folder / person.decode()
        absent = set(wanted.tolist())
        try:
            absent -= _listing(home)
        except OSError as error:
            raise UserError(
                f"{name}: no {home} ({error.strerror}); {names_file} names {len(wanted)} images"
                " in it"
            ) from error
        if absent:
            raise UserError(
                f"{name}: {names_file} names {len(absent)} images that {home} does not hold; "
                f"the first is {home / min(absent).decode()}"
            )


def _listing(folder: Path) -> set[bytes]:
    return set(os.listdir(os.fsencode(folder)))
