"""What is searched for and in: photographs, and tracklets as folders of frames or video files.

Each shows one person, cut out as in the data set that the network was trained on: nobody is looked
for inside of a picture.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxreid.data import decode
from jaxreid.data.decode import SUFFIXES, resize
from jaxreid.data.files import (
    by_name,
    entries,
    frame_order,
    has_suffix,
    is_hidden,
    list_images,
    pick,
    read_csv,
    say_skipped,
)
from jaxreid.errors import UserError, nearest

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


class Item(NamedTuple):
    """A photograph, or a tracklet.

    Attributes:
        name: how it is called on screen, which is how the user got at it.
        files: the photograph, the frames in their order, or one video.
        labels: what else a CSV says of it, by column. `pid` is who it is.
    """

    name: str
    files: tuple[str, ...]
    labels: dict[str, str] = {}  # noqa: RUF012 (never changed)


def find(
    places: Iterable[str | Path], *, tracklets: bool, skipped: Counter[str] | None = None
) -> list[Item]:
    """The items that are in some places, each once.

    A place is a file, a folder, a pattern such as `photos/**/*.jpg`, or a CSV with a column `path`;
    its other columns are labels. In folders, and in folders inside of these, every photograph is an
    item; or if tracklets are asked for, every folder that holds frames, and every video. A CSV
    of tracklets names folders or videos; or frames, which a column `tracklet` puts together and a
    column `frame` puts in order. Hidden files and folders (`.thumbnails`, `@eaDir`) are passed
    over.

    Args:
        places: where to look.
        tracklets: whether the network compares those.
        skipped: counts what else lies in folders and fits patterns, by suffix.

    Raises:
        UserError: there is no such place, or nothing in it that fits.
    """
    found: dict[tuple[str, ...], Item] = {}
    skipped = Counter() if skipped is None else skipped
    for place in places:
        here: Counter[str] = Counter()
        items = list(_in(str(place), tracklets, here))
        if not items:
            raise UserError(f"{place}: {_nothing(Path(place), tracklets, here)}")
        skipped.update(here)
        for item in items:
            found.setdefault(tuple(map(os.path.abspath, item.files)), item)
    if any(is_video(item) for item in found.values()):
        decode.require_videos()
    return list(found.values())


def is_video(item: Item) -> bool:
    """Whether an item is a video file."""
    return len(item.files) == 1 and has_suffix(item.files[0], VIDEOS)


def of_path(path: str | Path, *, tracklets: bool) -> Item:
    """The one item that a path is: a photograph, a video, or a folder of frames.

    Raises:
        UserError: a network of images is given a folder or a video, or a folder holds no frames.
    """
    name = str(path)
    if not os.path.isdir(name):
        if not tracklets and has_suffix(name, VIDEOS):
            raise UserError(f"{name}: a video; this network compares photographs")
        return Item(name, (name,))
    if not tracklets:
        raise UserError(f"{name}: a folder; expected a photograph")
    frames = tuple(os.path.join(name, file) for file in list_images(name, Counter()))
    if not frames:
        raise UserError(f"{name}: holds no frames ({', '.join(SUFFIXES)})")
    return Item(name, frames)


def _in(place: str, tracklets: bool, skipped: Counter[str]) -> Iterator[Item]:
    place = os.path.expanduser(place)
    if place.lower().endswith(".csv"):
        yield from _in_csv(Path(place), tracklets)
    elif os.path.isdir(place):
        yield from _in_folder(place, tracklets, skipped)
    elif os.path.exists(place):
        yield of_path(place, tracklets=tracklets)
    elif glob.has_magic(place):
        yield from _in_pattern(place, tracklets, skipped)
    else:
        there = entries(Path(place).parent)
        raise UserError(f"{place}: no such file or folder{nearest(Path(place).name, there)}")


def _in_pattern(pattern: str, tracklets: bool, skipped: Counter[str]) -> Iterator[Item]:
    kinds = SUFFIXES + VIDEOS if tracklets else SUFFIXES
    literal = len(list(takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)))
    for path in sorted(glob.glob(pattern, recursive=True), key=by_name):
        if any(map(is_hidden, Path(path).parts[literal:])):
            continue
        if os.path.isdir(path):
            yield from _in_folder(path, tracklets, skipped)
        elif pick([path], skipped, kinds):
            yield Item(path, (path,))


def _in_folder(folder: str, tracklets: bool, skipped: Counter[str]) -> Iterator[Item]:
    kinds = SUFFIXES + VIDEOS if tracklets else SUFFIXES
    seen = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted((f for f in folders if not is_hidden(f)), key=by_name)
        real = os.path.realpath(base)
        if real in seen:  # A link back to where we were.
            folders.clear()
            continue
        seen.add(real)
        found = [os.path.join(base, file) for file in pick(files, skipped, kinds)]
        if tracklets and (photos := tuple(file for file in found if has_suffix(file))):
            yield Item(base, photos)
        yield from (Item(file, (file,)) for file in found if not tracklets or not has_suffix(file))


def _in_csv(file: Path, tracklets: bool) -> Iterator[Item]:
    """Paths are relative to the CSV's folder. Rows of one `tracklet` are its frames."""

    def check_header(columns: list[str]) -> None:
        if "path" not in columns:
            raise UserError(
                f"{file} line 1: no column 'path' among {', '.join(columns) or 'none'}"
                f"{nearest('path', columns)}"
            )

    together: dict[str, list[tuple[int, Item]]] = {}
    for where, fields in read_csv(file, check_header):
        path = fields.pop("path")
        if not path or "\0" in path:
            raise UserError(f"{where}: expected a path, not {path!r}")
        path = os.path.join(file.parent, path)
        item = of_path(path, tracklets=tracklets)._replace(labels=fields)
        if not tracklets or "tracklet" not in fields:
            yield item
            continue
        text = fields.get("frame", "0")
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise UserError(f"{where}: frame must be a whole number from 0, not {text!r}")
        together.setdefault(fields["tracklet"], []).append((int(text), item))
    for name, parts in together.items():
        parts.sort(key=lambda part: frame_order(part[0], part[1].name))
        frames = [item for _, item in parts]
        labels = {key: value for key, value in frames[0].labels.items() if key != "frame"}
        yield Item(f"{file}:{name}", tuple(f for item in frames for f in item.files), labels)


def _nothing(place: Path, tracklets: bool, skipped: Counter[str]) -> str:
    also = "".join(f"; {line}" for line in say_skipped(skipped))
    kinds = ", ".join(SUFFIXES)
    if tracklets:
        return f"no tracklets there; expected folders of frames ({kinds}) or videos{also}"
    videos = place.is_dir() and next(_in_folder(str(place), True, Counter()), None)
    hint = f"; {videos.name} is a video, and this network compares photographs" if videos else also
    return f"no photographs there; expected some ({kinds}){hint}"


def read(item: Item, size: tuple[int, int]) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of an item, resized; of a photograph, one.

    Args:
        item: to read.
        size: (height, width).

    Raises:
        UserError: a file does not decode, there are too many frames, or the extra for videos is
            missing.
    """
    if is_video(item):
        return np.stack([resize(frame, size) for frame in decode.read_video(item.files[0])])
    decode.check_length(item.name, len(item.files))
    return np.stack([resize(decode.decode(file), size) for file in item.files])
