"""Decoding on the host: images of data sets and of anyone's own, videos, and checks of files.

There is one decoder, whatever the pixels are for: training, scoring, checking, searching.
"""

import importlib.util
import io
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError, features

from jaxreid.errors import UserError

VERSION = 1
"""Raised when a file gives other pixels than before: what was made of them is made anew."""

# Two minutes of one person. More is a recording that nobody has cut.
MOST_FRAMES = 3000

# Files that wait for a thread at a time, each with 2 kB of bookkeeping; and how many to a report.
_CHUNK = 5_000
_REPORT_EVERY = 100_000


def _formats() -> dict[str, tuple[str, ...]]:
    """The suffixes of each format, by Pillow's name, that can be read here."""
    formats: dict[str, tuple[str, ...]] = {
        "JPEG": (".jpg", ".jpeg", ".jfif"),
        "PNG": (".png",),
        "WEBP": (".webp",),
        "BMP": (".bmp",),
        "TIFF": (".tif", ".tiff"),
        "GIF": (".gif",),
    }
    if "avif" in features.modules and features.check("avif"):
        formats["AVIF"] = (".avif",)
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif  # type: ignore[import-not-found]

        pillow_heif.register_heif_opener()
        formats["HEIF"] = (".heic", ".heif")
    return formats


_FORMATS = _formats()

SUFFIXES = tuple(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
"""Of images, in lower case: AVIF where Pillow reads it, HEIC where pillow-heif is installed."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


def decode(source: str | Path | bytes | Image.Image, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of an image, upright.

    The EXIF orientation is applied. Of 16 bits the higher 8 are taken. Alpha is dropped: pixels
    have the colours that are stored, however transparent they are. Of an animation the first frame
    is taken. Colour profiles play no part. A JPEG without its end marker and a PNG without IEND are
    refused, as is whatever else was cut short.

    Args:
        source: a path, the file's content, or an image of Pillow's.
        name: for errors; that of the file by default.

    Raises:
        UserError: it does not decode, or to pixels whose range nobody knows (32 bits).
    """
    if isinstance(source, Image.Image):
        with _named(name or "an image in memory", "an image"):
            return _pixels(source)
    with _opened(source, name) as image:
        return _pixels(image)


def read_size(source: str | Path | bytes) -> tuple[int, int]:
    """(height, width) of what `decode` would give, in nearly all cases without decoding.

    Args:
        source: a path, or the file's content.

    Raises:
        UserError: it is not an image.
    """
    with _opened(source) as image:
        if image.format != "TIFF":  # Pillow's own reader turns those.
            lying = _orientation(image) >= 5
            return (image.width, image.height) if lying else (image.height, image.width)
        height, width, _ = _pixels(image).shape
        return height, width


@contextmanager
def _opened(source: str | Path | bytes, name: str = "") -> Iterator[Image.Image]:
    name = name or ("an image in memory" if isinstance(source, bytes) else str(source))
    with _named(name, "an image"):
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        _require_end(content)
        with Image.open(io.BytesIO(content), formats=tuple(_FORMATS)) as image:
            yield image


@contextmanager
def _named(name: str, kind: str) -> Iterator[None]:
    """Turns what decoders raise, which is nearly every kind of error, into one line."""
    try:
        yield
    except UnidentifiedImageError:
        formats = ", ".join(_FORMATS)
        raise UserError(f"{name}: not {kind} that decodes (it begins like no {formats})") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: not {kind} that decodes ({reason})") from None


_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xae\x42\x60\x82"
_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", 0xDA, b"\xff\xd9"


def _require_end(content: bytes) -> None:
    """Raises `ValueError` for a JPEG or PNG that was cut short: decoders may let it pass."""
    if not content:
        raise ValueError("the file is empty")
    if content.startswith(_PNG) and _PNG_END not in content:
        raise ValueError("cut short: a PNG without its end, IEND")
    # A thumbnail, which has an end of its own, lies before the first scan.
    if content.startswith(_JPEG) and content.find(_JPEG_END, _first_scan(content)) < 0:
        raise ValueError("cut short: a JPEG without its end marker")


def _first_scan(content: bytes) -> int:
    """Where a JPEG's first scan begins, or its headers end otherwise."""
    at = len(_JPEG)
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != bytes([_JPEG_SCAN]):
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return at


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    kind = image.format
    image.load()  # Before the orientation is asked for: a TIFF is turned by now, and has none.
    if (turn := _TURNS.get(_orientation(image))) is not None:
        image = image.transpose(turn)
    # Pillow would make all above 255 white. Before its version 11 a 16-bit PNG has the mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"pixels of mode {image.mode}; expected 8 or 16 bits a channel")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Of EXIF that is damaged, Pillow raises several kinds.
        return 1


def read_video(file: str) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a video, upright.

    Raises:
        UserError: it does not decode, it is too long, or the extra for videos is missing.
    """
    require_videos()
    import av

    number = 0
    try:
        with av.open(file) as container:
            for number, frame in enumerate(container.decode(video=0), start=1):
                check_length(file, number)
                turns = round(frame.rotation / 90)
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
    except (av.FFmpegError, IndexError, OSError) as error:
        reason = getattr(error, "strerror", None) or "no video in it"
        raise UserError(f"{file}: not a video that decodes ({reason})") from None
    if not number:
        raise UserError(f"{file}: a video without a frame")


def check_length(name: str, frames: int) -> None:
    """Raises `UserError` for more frames than a tracklet has."""
    if frames > MOST_FRAMES:
        raise UserError(
            f"{name}: more than {MOST_FRAMES:,} frames; expected a tracklet, one person for a while"
        )


def require_videos() -> None:
    """Raises `UserError` where PyAV is missing."""
    if importlib.util.find_spec("av") is None:
        raise UserError(
            "videos need PyAV; install the extra 'video' (pip install 'jaxreid[video]'), or give"
            " folders of frames"
        )


def resize(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "i j 3"]:
    """Resizes to (height, width): bilinear, antialiased where it shrinks."""
    if pixels.shape[:2] == size:
        return pixels
    image = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)


def find_broken(paths: Iterable[str]) -> list[str]:
    """Decodes every file, in threads; one line for each that does not decode, sorted by path.

    Of a large set, says on stderr now and then how far it is.
    """

    def reason(path: str) -> str | None:
        try:
            decode(path)
        except UserError as error:
            return str(error)
        return None

    todo, broken = sorted(set(paths)), []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(todo), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            broken += [line for line in pool.map(reason, chunk) if line]
            done = start + len(chunk)
            if done % _REPORT_EVERY == 0:
                print(f"decoded {done:,} of {len(todo):,} files", file=sys.stderr, flush=True)
    return broken
