"""Parsers of video sets with a folder for each tracklet: DukeMTMC-VideoReID, iLIDS-VID, PRID2011.

A row is a frame. The rows of a tracklet are neighbours in the order of their frame numbers, which
need not start at one nor be without gaps.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxreid.data import tables
from jaxreid.data.files import (
    find_home,
    list_images,
    missing,
    read_matrix,
    remembered,
    say_skipped,
    subfolders,
)
from jaxreid.data.tables import Index, ReidData
from jaxreid.errors import UserError


class _Frame(NamedTuple):
    file: str
    match: re.Match[str]


class _Clip(NamedTuple):
    paths: list[str]
    pid: int
    camid: int
    frames: list[int]


def _table(home: Path, clips: Sequence[_Clip]) -> Index:
    lengths = [len(clip.paths) for clip in clips]

    def column(values: Iterable[int]) -> Int[np.ndarray, " n"]:
        return np.repeat(np.fromiter(values, np.int32), lengths)

    return Index(
        root=str(home),
        paths=np.concatenate([np.array(clip.paths, np.str_) for clip in clips]),
        pids=column(clip.pid for clip in clips),
        camids=column(clip.camid for clip in clips),
        tracklets=column(range(len(clips))),
        frames=np.concatenate([np.array(clip.frames, np.int32) for clip in clips]),
    )


def _frames(
    name: str,
    home: Path,
    folder: str,
    pattern: re.Pattern[str],
    example: str,
    skipped: Counter[str],
) -> list[_Frame]:
    """A tracklet's images in the order of their frame numbers, their names matched."""
    try:
        files = list_images(home / folder, skipped)
    except OSError as error:
        raise missing(name, home / folder, error, f"images named like {example}") from error
    if not files:
        raise UserError(
            f"{name}: {home / folder} is a tracklet without frames; expected images named like "
            f"{example}"
        )
    frames = []
    for file in files:
        match = pattern.fullmatch(Path(file).stem)
        if match is None:
            raise UserError(f"{name}: {home / folder / file} is not named like {example}")
        frames.append(_Frame(file, match))
    return sorted(frames, key=lambda frame: int(frame.match["frame"]))


# ---------------------------------------------------------------------- DukeMTMC-VideoReID


_DUKE_NAME = re.compile(r"(?P<pid>\d{4})_?C(?P<camid>[1-9])_?F(?P<frame>\d{1,9})_?X\d+", re.ASCII)
_DUKE_EXAMPLE = "0001C6F0099X30823.jpg or 0001_C6_F0099_X30823.jpg (pid, camera, frame)"


def duke_video(root: Path) -> ReidData:
    """DukeMTMC-VideoReID: `{train,query,gallery}/<pid>/<tracklet>/*.jpg`.

    There is no junk; a distractor is an ordinary pid that no query has.

    Raises:
        UserError: a folder that is missing or empty, or an image that does not fit.
    """
    name = "duke_video"
    home = find_home(
        name,
        root,
        homes=("DukeMTMC-VideoReID", "dukemtmc-vidreid/DukeMTMC-VideoReID"),
        marker="gallery",
        holds="train/, query/ and gallery/, and in each PID/TRACKLET/ with images named like "
        f"{_DUKE_EXAMPLE}",
    )
    splits = tables.SPLITS

    def parse() -> ReidData:
        skipped: Counter[str] = Counter()
        found = {split: _table(home, _duke_clips(name, home, split, skipped)) for split in splits}
        return tables.make(name, found, dict.fromkeys(splits, 0), notes=say_skipped(skipped))

    return remembered(name, home, parse, lists=(), folders=dict.fromkeys(splits, 2))


def _duke_clips(name: str, home: Path, split: str, skipped: Counter[str]) -> list[_Clip]:
    clips = []
    for person in _some_folders(name, home / split, "a folder for each person"):
        if not re.fullmatch(r"\d{1,9}", person, re.ASCII):
            raise UserError(f"{name}: {home / split / person} is not named by a pid, like 0001")
        for tracklet in _some_folders(name, home / split / person, "a folder for each tracklet"):
            folder = f"{split}/{person}/{tracklet}"
            frames = _frames(name, home, folder, _DUKE_NAME, _DUKE_EXAMPLE, skipped)
            owners = {(int(match["pid"]), int(match["camid"])) for _, match in frames}
            if len(owners) > 1 or min(owners)[0] != int(person):
                seen = ", ".join(f"pid {pid} by camera {camid}" for pid, camid in sorted(owners))
                raise UserError(
                    f"{name}: the images in {home / folder} show {seen}; a tracklet has one "
                    f"camera, and the pid {int(person)} of the folder above"
                )
            paths = [f"{folder}/{file}" for file, _ in frames]
            numbers = [int(match["frame"]) for _, match in frames]
            clips.append(_Clip(paths, *min(owners), numbers))
    return clips


def _some_folders(name: str, folder: Path, expected: str) -> list[str]:
    try:
        found = [entry.name for entry in subfolders(folder)]
    except OSError as error:
        raise missing(name, folder, error, expected) from error
    if not found:
        raise UserError(f"{name}: no folders in {folder}; expected {expected}")
    return found


# ---------------------------------------------------------------------- two cameras, ten splits


NUM_SPLITS = 10  # of the people, into training and test: iLIDS-VID and PRID2011

_PERSON = re.compile(r"person_?(?P<pid>\d{1,9})", re.ASCII)
_NUMBERED = re.compile(r".*?(?P<frame>\d{1,9})", re.ASCII)


def ilids_vid(root: Path, split: int) -> ReidData:
    """iLIDS-VID: 300 people, each seen once by two cameras.

    `ls_set` has a row for each split: numbers, from 1, of the people in the sorted folder of the
    first camera. The first half of the row is the test half.

    Args:
        root: the data set's folder, or the one above it.
        split: from 0.

    Raises:
        UserError: a file or a folder that is missing, empty or damaged.
    """
    name, cameras = "ilids_vid", ("sequences/cam1", "sequences/cam2")
    splits = "train-test people splits/train_test_splits_ilidsvid.mat"
    home = find_home(
        name,
        root,
        homes=("i-LIDS-VID", "ilids-vid/i-LIDS-VID"),
        marker="sequences",
        holds=f"{' and '.join(cameras)} with personNNN/*.png, and beside i-LIDS-VID/ the file "
        f"{splits}",
    )
    people = sorted(_people(name, home, cameras[0]))
    file = _beside(home, splits)
    rows = read_matrix(name, file, "ls_set")
    numbers = np.arange(1, len(people) + 1)
    if rows.shape != (NUM_SPLITS, len(people)) or (np.sort(rows, axis=1) != numbers).any():
        raise UserError(
            f"{name}: ls_set in {file} is {rows.shape[0]} x {rows.shape[1]}; expected "
            f"{NUM_SPLITS} rows that each hold 1 to {len(people)}, the number of people in "
            f"{home / cameras[0]}"
        )
    order = [people[number - 1] for number in rows[split]]
    half = len(order) // 2
    return _two_cameras(name, home, cameras, train=order[half:], test=order[:half], split=split)


def prid2011(root: Path, split: int, *, everyone: bool = False) -> ReidData:
    """PRID2011: 200 people whom both cameras saw.

    The published splits are of the 178 who have more than 21 frames in both. Where their file is
    missing, and for `everyone`, splits into halves are drawn by seed.

    Args:
        root: the data set's folder, or the one above it.
        split: from 0.
        everyone: all 200 people, 100 of them for the test; then the name is `prid2011_all`.

    Raises:
        UserError: a file or a folder that is missing, empty or damaged.
    """
    name = "prid2011_all" if everyone else "prid2011"
    cameras = ("multi_shot/cam_a", "multi_shot/cam_b")
    home = find_home(
        name,
        root,
        homes=("prid_2011", "prid2011/prid_2011"),
        marker="multi_shot",
        holds=f"{' and '.join(cameras)} with person_NNNN/*.png",
    )
    here, there = (_people(name, home, camera) for camera in cameras)
    # Beyond 200, equal numbers are other people: only one of the cameras saw them.
    both = sorted(person for person in here & there if _pid(person) <= 200)
    file = _beside(home, "splits_prid2011.json")
    if file.is_file() and not everyone:
        halves = _published_halves(name, file, split, here & there)
        return _two_cameras(name, home, cameras, *halves, split=split)
    if not everyone:
        both = [
            person
            for person in both
            if all(len(list_images(home / camera / person, Counter())) > 21 for camera in cameras)
        ]
    if len(both) < 2:
        raise UserError(f"{name}: {home} has {len(both)} people to split; expected 178 or 200")
    order = np.random.default_rng((2011, split)).permutation(np.array(both)).tolist()
    half = len(order) // 2
    who = (
        f"all {len(both)} people" if everyone else f"the {len(both)} people of more than 21 frames"
    )
    why = "" if everyone else f"no {file.name} in {home.parent}; "
    note = f"{why}split {split} of {who} was drawn by seed, and is not a published one"
    return _two_cameras(
        name, home, cameras, train=order[half:], test=order[:half], split=split, notes=(note,)
    )


def _published_halves(
    name: str, file: Path, split: int, people: set[str]
) -> tuple[list[str], list[str]]:
    expected = f'a list of {NUM_SPLITS} {{"train": [...], "test": [...]}} of names like person_0001'
    try:
        splits = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: {file} cannot be read ({error}); expected {expected}") from error
    try:
        train, test = (list(splits[split][half]) for half in ("train", "test"))
        strange = [person for person in (*train, *test) if person not in people]
        fits = len(splits) == NUM_SPLITS and bool(train) and bool(test)
    except (LookupError, TypeError):
        fits = False
    if not fits:
        raise UserError(f"{name}: {file} is not {expected}")
    if strange:
        raise UserError(
            f"{name}: {file} split {split} names {strange[0]!r}, who is not in both folders"
        )
    if len({*train, *test}) < len(train) + len(test):
        raise UserError(f"{name}: {file} split {split} names a person twice")
    return train, test


def _two_cameras(
    name: str,
    home: Path,
    cameras: tuple[str, str],
    train: Sequence[str],
    test: Sequence[str],
    *,
    split: int,
    notes: tuple[str, ...] = (),
) -> ReidData:
    """Trains on both cameras; the first has the queries, the second the gallery."""
    skipped: Counter[str] = Counter()

    def clips(people: Sequence[str], camids: Sequence[int]) -> Index:
        found = []
        for person in sorted(people):
            for camid in camids:
                folder = f"{cameras[camid - 1]}/{person}"
                frames = _frames(name, home, folder, _NUMBERED, "0001.png (frame)", skipped)
                paths = [f"{folder}/{file}" for file, _ in frames]
                numbers = [int(match["frame"]) for _, match in frames]
                found.append(_Clip(paths, _pid(person), camid, numbers))
        return _table(home, found)

    found = {
        "train": clips(train, (1, 2)),
        "query": clips(test, (1,)),
        "gallery": clips(test, (2,)),
    }
    notes += say_skipped(skipped)
    return tables.make(name, found, dict.fromkeys(found, 0), split=split, notes=notes)


def _people(name: str, home: Path, camera: str) -> set[str]:
    folders = _some_folders(name, home / camera, "folders named like person_0001 or person001")
    return {folder for folder in folders if _PERSON.fullmatch(folder)}


def _pid(person: str) -> int:
    return int(person.removeprefix("person").removeprefix("_"))


def _beside(home: Path, file: str) -> Path:
    """In a data set's folder, or in the one above it, where it is expected."""
    return home / file if (home / file).is_file() else home.parent / file
