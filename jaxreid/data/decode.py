"""Decoding with Pillow: for images in memory, for pictures, and to check files."""

import io
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxreid.errors import UserError

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
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            yield image
    except Exception as error:  # Pillow's decoders raise nearly every kind.
        name = "an image in memory" if isinstance(source, bytes) else source
        raise UserError(f"{name}: not an image that decodes ({error})") from None


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
