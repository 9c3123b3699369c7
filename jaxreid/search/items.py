"""What is searched for and in: photographs, and tracklets as folders of frames or video files.

Each shows one person, cut out as in the data set that the network was trained on: nobody is looked
for inside of a picture.
"""

import csv
import glob
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxreid.data.decode import resize
from jaxreid.data.files import entries
from jaxreid.errors import UserError, nearest

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # Pillow's names of the former.
# Two minutes of one person. More is a recording that nobody has cut.
MOST_FRAMES = 3000


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


def find(places: Iterable[str | Path], *, tracklets: bool) -> list[Item]:
    """The items that are in some places, each once.

    A place is a file, a folder, a pattern such as `photos/**/*.jpg`, or a CSV with a column `path`;
    its other columns are labels. In folders, and in folders inside of these, every photograph is an
    item; or if tracklets are asked for, every folder that holds frames, and every video. A CSV
    of tracklets names folders or videos; or frames, which a column `tracklet` puts together and a
    column `frame` puts in order.

    Args:
        places: where to look.
        tracklets: whether the network compares those.

    Raises:
        UserError: there is no such place, or nothing in it that fits.
    """
    found: dict[tuple[str, ...], Item] = {}
    for place in places:
        items = list(_in(str(place), tracklets))
        if not items:
            raise UserError(f"{place}: {_nothing(Path(place), tracklets)}")
        for item in items:
            found.setdefault(tuple(map(os.path.abspath, item.files)), item)
    if any(is_video(item) for item in found.values()):
        _require_reader()
    return list(found.values())


def is_video(item: Item) -> bool:
    """Whether an item is a video file."""
    return len(item.files) == 1 and _has(item.files[0], VIDEOS)


def of_path(path: str | Path, *, tracklets: bool) -> Item:
    """The one item that a path is: a photograph, a video, or a folder of frames.

    Raises:
        UserError: a network of images is given a folder or a video, or a folder holds no frames.
    """
    name = str(path)
    if not os.path.isdir(name):
        if not tracklets and _has(name, VIDEOS):
            raise UserError(f"{name}: a video; this network compares photographs")
        return Item(name, (name,))
    frames = tuple(os.path.join(name, file) for file in _listed(entries(Path(name)), PHOTOS))
    if not tracklets:
        raise UserError(f"{name}: a folder; expected a photograph")
    if not frames:
        raise UserError(f"{name}: holds no frames ({', '.join(PHOTOS)})")
    return Item(name, frames)


def _in(place: str, tracklets: bool) -> Iterator[Item]:
    place = os.path.expanduser(place)
    if place.lower().endswith(".csv"):
        yield from _in_csv(Path(place), tracklets)
    elif os.path.isdir(place):
        yield from _in_folder(place, tracklets)
    elif os.path.exists(place):
        yield of_path(place, tracklets=tracklets)
    elif glob.has_magic(place):
        kinds = PHOTOS + VIDEOS if tracklets else PHOTOS
        for path in sorted(glob.glob(place, recursive=True), key=_natural):
            if os.path.isdir(path):
                yield from _in_folder(path, tracklets)
            elif _has(path, kinds):
                yield Item(path, (path,))
    else:
        there = entries(Path(place).parent)
        raise UserError(f"{place}: no such file or folder{nearest(Path(place).name, there)}")


def _in_folder(folder: str, tracklets: bool) -> Iterator[Item]:
    seen = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=_natural)
        real = os.path.realpath(base)
        if real in seen:  # A link back to where we were.
            folders.clear()
            continue
        seen.add(real)
        photos = [os.path.join(base, file) for file in _listed(files, PHOTOS)]
        if not tracklets:
            yield from (Item(photo, (photo,)) for photo in photos)
            continue
        if photos:
            yield Item(base, tuple(photos))
        for file in _listed(files, VIDEOS):
            yield Item(os.path.join(base, file), (os.path.join(base, file),))


def _in_csv(file: Path, tracklets: bool) -> Iterator[Item]:
    """Paths are relative to the CSV's folder. Rows of one `tracklet` are its frames."""
    together: dict[str, list[tuple[int, Item]]] = {}
    for where, fields in _rows(file):
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
        frames = [item for _, item in sorted(parts, key=lambda part: part[0])]
        labels = {key: value for key, value in frames[0].labels.items() if key != "frame"}
        yield Item(f"{file}:{name}", tuple(f for item in frames for f in item.files), labels)


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The place of each row, for errors, and its fields by column."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True, strict=True)
            columns = [column.strip() for column in reader.fieldnames or ()]
            if "path" not in columns:
                raise UserError(
                    f"{file} line 1: no column 'path' among {', '.join(columns) or 'none'}"
                    f"{nearest('path', columns)}"
                )
            reader.fieldnames = columns
            for fields in reader:
                where = f"{file} line {reader.line_num}"
                if None in fields or None in fields.values():
                    raise UserError(f"{where}: expected the fields {', '.join(columns)}")
                yield where, {key: value.strip() for key, value in fields.items()}
    except OSError as error:
        near = nearest(file.name, entries(file.parent))
        raise UserError(f"{file}: {error.strerror}; expected a CSV{near}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not a CSV file in UTF-8 ({error})") from None


def _nothing(place: Path, tracklets: bool) -> str:
    if tracklets:
        return f"no tracklets there; expected folders of frames ({', '.join(PHOTOS)}) or videos"
    videos = place.is_dir() and next(_in_folder(str(place), True), None)
    hint = f"; {videos.name} is a video, and this network compares photographs" if videos else ""
    return f"no photographs there; expected some ({', '.join(PHOTOS)}){hint}"


def _listed(files: Iterable[str], kinds: tuple[str, ...]) -> list[str]:
    return sorted((file for file in files if _has(file, kinds)), key=_natural)


def _has(path: str, kinds: tuple[str, ...]) -> bool:
    """By the suffix; files with a leading dot are the system's own."""
    return path.lower().endswith(kinds) and not os.path.basename(path).startswith(".")


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts 2 before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


# ---------------------------------------------------------------------------- reading


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
        return np.stack([resize(frame, size) for frame in read_video(item.files[0])])
    _limit(item.name, len(item.files))
    return np.stack([resize(read_photo(file), size) for file in item.files])


def read_photo(photo: str | Image.Image, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a photograph, upright: a phone's camera may say that it was held sideways.

    Args:
        photo: its file, or an image of Pillow's.
        name: for errors; that of the file by default.

    Raises:
        UserError: it does not decode, or to more than 8 bits a channel.
    """
    try:
        if isinstance(photo, Image.Image):
            return _upright(photo)
        with Image.open(photo, formats=_FORMATS) as image:
            return _upright(image)
    except OSError as error:
        reason = error.strerror or "no image, or damaged"
        raise UserError(f"{name or photo}: not a photograph that decodes ({reason})") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind.
        raise UserError(f"{name or photo}: not a photograph that decodes ({error})") from None


def _upright(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith(("I", "F")):  # Pillow would make all above 255 white.
        raise ValueError(f"pixels of mode {image.mode}; expected 8 bits a channel")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def read_video(file: str) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video, upright.

    Raises:
        UserError: it does not decode, it is too long, or the extra for videos is missing.
    """
    _require_reader()
    import av

    number = 0
    try:
        with av.open(file) as container:
            for number, frame in enumerate(container.decode(video=0), start=1):
                _limit(file, number)
                turns = round(frame.rotation / 90)
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    except (av.FFmpegError, IndexError, OSError) as error:
        reason = getattr(error, "strerror", None) or "no video in it"
        raise UserError(f"{file}: not a video that decodes ({reason})") from None
    if not number:
        raise UserError(f"{file}: a video without a frame")


def _limit(name: str, frames: int) -> None:
    if frames > MOST_FRAMES:
        raise UserError(
            f"{name}: more than {MOST_FRAMES:,} frames; expected a tracklet, one person for a while"
        )


def _require_reader() -> None:
    if importlib.util.find_spec("av") is None:
        raise UserError(
            "videos need PyAV; install the extra 'video' (pip install 'jaxreid[video]'), or give"
            " folders of frames"
        )
