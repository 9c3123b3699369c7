"""Decoding on the host: data sets' images, anyone's photographs and videos, and checks of files."""

import importlib.util
import io
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxreid.errors import UserError

# Two minutes of one person. More is a recording that nobody has cut.
MOST_FRAMES = 3000

_PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # by Pillow's names

# Files that wait for a thread at a time, each with 2 kB of bookkeeping; and how many to a report.
_CHUNK = 5_000
_REPORT_EVERY = 100_000


def decode(source: str | Path | bytes) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels of a JPEG or PNG file, or of its bytes.

    Args:
        source: a path, or the file's content.

    Raises:
        UserError: the file does not decode.
    """
    with _opened(source) as image:
        return np.asarray(image.convert("RGB"))


def read_size(source: str | Path | bytes) -> tuple[int, int]:
    """(height, width) of a JPEG or PNG file, or of its bytes, from its first bytes alone.

    Args:
        source: a path, or the file's content.

    Raises:
        UserError: it is not such a file.
    """
    with _opened(source) as image:
        return image.height, image.width


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[Image.Image]:
    name = "an image in memory" if isinstance(source, bytes) else source
    with _named(name, "an image"):
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            yield image


@contextmanager
def _named(name: str | Path, kind: str) -> Iterator[None]:
    """Turns what decoders raise, which is nearly every kind of error, into one line."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name}: not {kind} that decodes ({reason})") from None


def read_photo(photo: str | Image.Image, name: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of anyone's photograph, upright: a camera may say that it was held sideways.

    Args:
        photo: its file, a JPEG, PNG, WebP, BMP or TIFF; or an image of Pillow's.
        name: for errors; that of the file by default.

    Raises:
        UserError: it does not decode, or to more than 8 bits a channel.
    """
    with _named(name or str(photo), "a photograph"):
        if isinstance(photo, Image.Image):
            return _upright(photo)
        with Image.open(photo, formats=_PHOTOGRAPHS) as image:
            return _upright(image)


def _upright(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith(("I", "F")):  # Pillow would make all above 255 white.
        raise ValueError(f"pixels of mode {image.mode}; expected 8 bits a channel")
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


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
