"""Where a data set lies, what is in its folders and files, and an index kept from last time."""

import csv
import hashlib
import io
import os
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from jaxreid.data import tables
from jaxreid.data.decode import SUFFIXES
from jaxreid.data.tables import ReidData
from jaxreid.errors import UserError, nearest

# What systems leave in folders, besides all that has a leading dot; in lower case.
_OF_THE_SYSTEM = frozenset(
    ("@eadir", "#recycle", "$recycle.bin", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini")
)


def find_home(
    name: str, root: Path, *, homes: tuple[str, ...], marker: str, holds: str, draw: str = ""
) -> Path:
    """The folder of a data set: the root itself, or one that is known to lie in it.

    Args:
        name: of the data set, for errors.
        root: what the user gave.
        homes: folders below the root where it often is.
        marker: a folder that it must hold.
        holds: what it should hold, in words.
        draw: the command that draws it, for a data set that can be drawn.

    Raises:
        UserError: it is none of these.
    """
    if not root.is_dir():
        hint = f"; draw it: {draw} --root={root}" if draw else ""
        raise UserError(
            f"{name}: {root} is not a folder; expected one that holds {holds}"
            f"{nearest(root.name, entries(root.parent))}{hint}"
        )
    for home in (root, *(root / home for home in homes)):
        if (home / marker).is_dir():
            return home
    also = f", nor in its {', '.join(homes)}" if homes else ""
    raise UserError(f"{name}: no {marker}/ in {root}{also}; expected {holds}")


def entries(folder: Path) -> list[str]:
    """What lies in a folder, to suggest from; nothing where it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's own, by its name: `.thumbnails`, `@eaDir`."""
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def has_suffix(path: str, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a file is of a kind, by default an image, by its name; hidden ones are of none."""
    return path.lower().endswith(suffixes) and not is_hidden(os.path.basename(path))


def pick(
    names: Iterable[str], skipped: Counter[str], suffixes: tuple[str, ...] = SUFFIXES
) -> list[str]:
    """The names of files of a kind, by default images, in natural order: the one rule of folders.

    Args:
        names: as a folder lists them.
        skipped: counts the others by suffix; hidden ones are passed over.
        suffixes: of the kind.
    """
    found = []
    for name in names:
        if has_suffix(name, suffixes):
            found.append(name)
        elif not is_hidden(name):
            skipped[os.path.splitext(name)[1].lower()] += 1
    return sorted(found, key=by_name)


def list_images(folder: str | os.PathLike[str], skipped: Counter[str]) -> list[str]:
    """The names of the images in a folder, in natural order; counts the other files by suffix.

    Raises:
        OSError: it cannot be read.
    """
    with os.scandir(folder) as found:
        return pick((entry.name for entry in found if not entry.is_dir()), skipped)


def say_skipped(skipped: Counter[str]) -> tuple[str, ...]:
    """One line such as "skipped 2 .heic, 1 .txt", or none."""
    kinds = sorted(skipped.items())
    what = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds)
    return (f"skipped {what}",) if what else ()


def natural(name: str) -> list[tuple[int, str]]:
    """What to sort names by, so that 2 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def by_name(name: str) -> Any:
    """What to sort names by where no two may be equal: 1 and 01 are, to `natural`."""
    return natural(name), name


def frame_order(frame: int | None, path: str) -> Any:
    """What to sort a tracklet's frames by: their numbers, and then the numbers in their paths."""
    return frame or 0, by_name(path)


def read_csv(
    file: Path, check_header: Callable[[list[str]], None]
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file in UTF-8: the place of each, for errors, and its fields by column.

    Spaces around fields, and empty lines, play no part.

    Args:
        file: the CSV.
        check_header: raises `UserError` where the columns do not fit.

    Raises:
        UserError: it cannot be read, it is not a CSV, or a row does not fit the header.
    """
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, skipinitialspace=True, strict=True)
            header = [column.strip() for column in next(reader, [])]
            check_header(header)
            for fields in filter(None, reader):
                where = f"{file} line {reader.line_num}"
                if len(fields) != len(header):
                    raise UserError(
                        f"{where}: {len(fields)} fields, expected {len(header)}: "
                        f"{', '.join(header)}"
                    )
                yield where, dict(zip(header, map(str.strip, fields)))
    except OSError as error:
        near = nearest(file.name, entries(file.parent))
        raise UserError(f"{file}: {error.strerror}; expected a CSV{near}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(
            f"{file}: not a CSV file in UTF-8 ({error}, after line {reader.line_num})"
        ) from None


def subfolders(folder: Path) -> list[os.DirEntry[str]]:
    """The folders in a folder, in natural order, but for hidden ones.

    Raises:
        OSError: it cannot be read.
    """
    with os.scandir(folder) as found:
        folders = [entry for entry in found if entry.is_dir() and not is_hidden(entry.name)]
    return sorted(folders, key=lambda entry: by_name(entry.name))


def read_matrix(
    name: str, file: Path, key: str, *, siblings: Mapping[str, str] | None = None
) -> Int[np.ndarray, "_ _"]:
    """A matrix of whole numbers from a MATLAB file.

    Args:
        name: of the data set, for errors.
        file: the MATLAB file.
        key: of the matrix in it.
        siblings: by their keys, the data set's files that may have been mistaken for this one.

    Raises:
        UserError: the file or the matrix is not there, or not such a one.
    """
    from scipy.io import loadmat, whosmat  # takes a third of a second, and few data sets need it
    from scipy.io.matlab import matfile_version

    try:
        content = file.read_bytes()
    except OSError as error:
        raise missing(name, file, error, f"a MATLAB file with the matrix {key}") from error
    try:
        if matfile_version(io.BytesIO(content))[0] == 1:
            _check_types(content)
        kinds = {found: kind for found, _, kind in whosmat(io.BytesIO(content))}
        numbers = kinds.get(key, "").startswith(("double", "single", "int", "uint"))
        variables = loadmat(io.BytesIO(content), variable_names=[key]) if numbers else {}
    except Exception as error:  # of a file that is damaged, SciPy raises nearly every kind
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: {file} cannot be read as a MATLAB file ({reason})") from None
    if key not in kinds:
        for found, usual in (siblings or {}).items():
            if found in kinds:
                raise UserError(
                    f"{name}: {file} holds {found}, not {key}: it is probably another file,"
                    f" {usual}, under this name"
                )
        raise UserError(
            f"{name}: {file} has no {key}, but {', '.join(map(repr, kinds)) or 'nothing'}"
            f"{nearest(key, kinds)}"
        )
    matrix = variables.get(key)
    if (
        not isinstance(matrix, np.ndarray)
        or matrix.dtype.kind not in "iuf"
        or matrix.ndim != 2
        or not matrix.size
        or not -(2**31) <= matrix.min() <= matrix.max() < 2**31  # nor is it NaN
        or (matrix % 1 != 0).any()
    ):
        raise UserError(f"{name}: {key} in {file} must be a matrix of whole numbers")
    return matrix.astype(np.int64)


# Of MATLAB's format 5: the types of elements.
_NUMBERS = {1, 2, 3, 4, 5, 6, 7, 9, 12, 13}
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)  # of a matrix: not text, cells, structures or objects
_MOST_BYTES = 2**26


def _check_types(content: bytes) -> None:
    """Raises `ValueError` where a matrix of numbers holds something else: SciPy would crash."""
    order: Literal["little", "big"] = "little" if content[126:128] == b"IM" else "big"
    for kind, element in elements(content[128:], order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            unpacked = unpacker.decompress(element, _MOST_BYTES)
            if unpacker.unconsumed_tail:
                raise ValueError(f"a matrix of more than {_MOST_BYTES} bytes")
            kind, element = next(elements(unpacked, order), (0, b""))
        parts = list(elements(element, order)) if kind == _MATRIX else []
        flags = (parts[0][1] if order == "little" else parts[0][1][3::-1]) if parts else b""
        if flags and flags[0] in _NUMERIC_CLASSES:
            if len(parts) < (5 if len(flags) > 1 and flags[1] & 8 else 4):
                raise ValueError("numbers that are not all there")
            strange = {part for part, _ in parts} - _NUMBERS
            if strange:
                raise ValueError(f"numbers of an unknown type {min(strange)}")


def elements(data: bytes, order: Literal["little", "big"]) -> Iterator[tuple[int, bytes]]:
    """Types and contents of the elements of MATLAB's format 5, as far as they go."""
    at = 0
    while at + 8 <= len(data):
        kind = int.from_bytes(data[at : at + 4], order)
        size = int.from_bytes(data[at + 4 : at + 8], order)
        if kind >> 16:  # a small one, with its content in its own tag
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
        else:
            yield kind, data[at + 8 : at + 8 + size]
            at += 8 + size + (-size % 8 if kind != _COMPRESSED else 0)


def missing(name: str, path: Path, error: OSError, expected: str) -> UserError:
    """The error for a file or folder that cannot be opened."""
    return UserError(f"{name}: no {path} ({error.strerror}); expected {expected}")


# ---------------------------------------------------------------------- an index that is kept


_CACHE_VERSION = 2  # raised whenever a parser would give other tables for the same files


def remembered(
    name: str,
    home: Path,
    parse: Callable[[], ReidData],
    *,
    lists: Iterable[str],
    folders: Mapping[str, int],
) -> ReidData:
    """An index from the user's cache, or parsed anew where anything has changed since.

    Listing a million files takes a while, and asking a few thousand folders when they last
    changed does not. A cache that is stale, damaged or cannot be written does no harm.

    Args:
        name: of the data set.
        home: its folder.
        parse: reads the index.
        lists: files below `home` that the index depends on.
        folders: folders below `home` that it depends on, with how many levels of folders lie in
            each of them.
    """
    file = _cache_file(name, home)
    if file is None:
        return parse()
    stamp = _stamp(home, lists, folders)
    if stamp is None:
        return parse()
    try:
        return tables.restore(file, stamp)
    except ValueError:
        data = parse()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as draft:
            tables.save(Path(draft) / file.name, data, stamp)
            os.replace(Path(draft) / file.name, file)
    except OSError:
        pass  # the index is here; only the next run has to read it again
    return data


def _cache_file(name: str, home: Path) -> Path | None:
    """By the XDG base directory specification; none where there is no home directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    if not os.path.isabs(cache):
        return None
    where = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    return Path(cache) / "jaxreid" / "index" / f"{name}-{where}.npz"


def _stamp(home: Path, lists: Iterable[str], folders: Mapping[str, int]) -> str | None:
    """A hash of sizes and times: a folder's changes when a file in it comes or goes.

    None where something cannot be read: the parser will say what.
    """
    digest = hashlib.sha256(str(_CACHE_VERSION).encode())
    try:
        for file in lists:
            status = os.stat(home / file)
            digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
        for folder, depth in folders.items():
            for line in _changes(home / folder, depth):
                digest.update(os.fsencode(line))
    except OSError:
        return None
    return digest.hexdigest()


def _changes(folder: Path, depth: int) -> Iterator[str]:
    yield f"{folder.name} {folder.stat().st_mtime_ns}\n"
    if depth:
        for entry in subfolders(folder):
            yield from _changes(Path(entry.path), depth - 1)
