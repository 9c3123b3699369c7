"""One `.npz` of arrays: written whole or not at all, and read as from a stranger."""

import os
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxreid.errors import UserError

T = TypeVar("T")


def write(path: Path, what: str, arrays: Mapping[str, Any]) -> None:
    """Writes it, not compressed.

    Raises:
        UserError: nothing can be written there, of `what`; what was there before stays.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez(file, **arrays)
        draft.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write {what} ({error.strerror})") from None
    finally:
        with suppress(OSError):  # Mostly it is not there.
            draft.unlink()


def read(path: Path, parse: Callable[[Any], T], expected: str) -> T:
    """What `write` wrote. Nothing in the file is run, and it is not larger in memory.

    Args:
        path: of the file.
        parse: is given the arrays, as `numpy.load` does; raises `ValueError` where they do not fit.
        expected: what to say of a file that is not such a one, with `{}` for why.

    Raises:
        UserError: it cannot be read, it is not an `.npz`, it is compressed, or it does not fit.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is not an .npz")
        with np.load(path, allow_pickle=False) as arrays:
            if sum(member.file_size for member in arrays.zip.infolist()) > path.stat().st_size:
                raise ValueError("its arrays are compressed")
            return parse(arrays)
    except UserError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds.
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: {expected.format(' '.join(reason.split()))}") from None
