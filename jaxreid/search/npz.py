"""One `.npz` of arrays: written whole or not at all, and read as from a stranger."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np


def write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes it, not compressed.

    Raises:
        OSError: nothing can be written there; what was there before stays.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez(file, **arrays)
        draft.replace(path)
    finally:
        with suppress(OSError):  # Mostly it is not there.
            draft.unlink()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """What `write` wrote, as `numpy.load` gives it.

    Nothing in the file is run, and it is not larger in memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not an `.npz`, or it is compressed. NumPy, zipfile and zlib raise many
            other kinds where it is damaged.
    """
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is not an .npz")
    with np.load(path, allow_pickle=False) as arrays:
        if sum(member.file_size for member in arrays.zip.infolist()) > path.stat().st_size:
            raise ValueError("its arrays are compressed")
        yield arrays


def reason(error: Exception) -> str:
    """Why a file could not be read, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
