"""CUHK03: 1,467 people, each seen by one of five pairs of cameras, up to five times by each.

W. Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-Identification", CVPR
2014. The boxes were drawn by hand (`labeled`) or found by a detector (`detected`), and there are
two protocols:

* classic: 20 published sets of 100 test people, all other people to train on. All test images are
  both query and gallery, and the protocol is single-gallery-shot.
* new: Z. Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR
  2017. 767 people to train on and 700 to test on, scored as Market-1501 is.

The owners hand out one file, `cuhk-03.mat`, with the pictures in it. It is unpacked once, into a
file for each picture; what was done is kept if this is stopped:

    python -m jaxreid.data.cuhk03 --root=/data/cuhk03
"""

import argparse
import json
import os
import re
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image

from jaxreid.data import images, tables
from jaxreid.data.files import (
    by_name,
    elements,
    find_home,
    list_images,
    missing,
    read_matrix,
    say_skipped,
)
from jaxreid.data.tables import Index, ReidData
from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError
from jaxreid.paths import local_path

Kind = Literal["labeled", "detected"]

NUM_SPLITS = 20  # of the classic protocol

_KINDS: tuple[Kind, ...] = ("labeled", "detected")
_IMAGES = {"labeled": 14_096, "detected": 14_097}
_PEOPLE, _TEST_PEOPLE = 1_467, 100

_RELEASE = "cuhk03_release"
_MAT = "cuhk-03.mat"
_SPLITS = "splits_classic.json"

# The view, which stands for the camera, follows from the number of the image.
_NAME = re.compile(r"[1-9]_\d{3}_(?:1_0[1-5]|2_(?:0[6-9]|10))\.png", re.ASCII)
_EXAMPLE = (
    "1_001_1_01.png (camera pair, person of the pair, view 1 for the images 01 to 05 and 2 for 06 "
    "to 10, image)"
)
_MARKET = images.Layout(
    re.compile(r"(?P<pid>\d{1,9})_c(?P<camid>[12])_(?P<frame>\d{1,9})", re.ASCII),
    "0001_c1_1.png (pid, camera from 1, image)",
    homes=(),
    distractors=False,
)


# ---------------------------------------------------------------------- protocols


def new_protocol(kind: Kind, root: Path) -> ReidData:
    """The new protocol, of either form: `cuhk03-np/`, or the unpacked images and their config.

    The first is in Market-1501's layout. Of the second, `cuhk03_new_protocol_config_*.mat` names
    the images (`filelist`), the person on each (`labels`), and the places, from 1, of each
    split's images in these lists. Its `camId` is not read: the names say the camera.

    Args:
        kind: who drew the boxes.
        root: the data set's folder, or the one above it.

    Raises:
        UserError: something is missing, damaged, or does not fit.
    """
    name = f"cuhk03_{kind}"
    homes = (kind, f"cuhk03-np/{kind}")
    if any((root / home / images.FOLDERS["train"]).is_dir() for home in ("", *homes)):
        return images.market_layout(name, _MARKET._replace(homes=homes), root)
    home = _find_images(name, kind, root, f", or cuhk03-np/{kind}/ in Market-1501's layout")
    config = _near(home, f"cuhk03_new_protocol_config_{kind}.mat")
    listed = _read_filelist(name, config)
    labels = read_matrix(name, config, "labels").ravel()
    if len(labels) != len(listed) or labels.min() < 0:
        raise UserError(
            f"{name}: {config} has {len(labels)} labels, from {labels.min()}, and {len(listed)} "
            "names; expected a pid from 0 for each name"
        )
    rows = {split: read_matrix(name, config, f"{split}_idx").ravel() - 1 for split in tables.SPLITS}
    every = np.concatenate(list(rows.values()))
    within = every.min() >= 0 and every.max() < len(listed)
    used = {listed[place] for place in every} if within else set()
    if len(used) < len(every):
        raise UserError(
            f"{name}: train_idx, query_idx and gallery_idx in {config} must be numbers from 1 to "
            f"{len(listed)}, the number of its names, and name no image twice"
        )
    skipped: Counter[str] = Counter()
    absent = sorted(used.difference(_listing(name, kind, home, skipped)))
    if absent:
        raise UserError(
            f"{name}: {config} names {len(absent)} images that {home / _folder(kind)} does not "
            f"hold; the first is {absent[0]}"
        )

    def table(places: Int[np.ndarray, " n"]) -> Index:
        return _table(home, kind, [listed[place] for place in places], labels[places])

    found = {split: table(places) for split, places in rows.items()}
    return tables.make(name, found, dict.fromkeys(found, 0), notes=say_skipped(skipped))


def classic(kind: Kind, root: Path, split: int) -> ReidData:
    """The classic protocol: the unpacked images, and `splits_classic.json` beside them.

    A pid is 1000 times the number of the camera pair, and the person's number in that pair.

    Args:
        kind: who drew the boxes.
        root: the data set's folder, or the one above it.
        split: from 0.

    Raises:
        UserError: something is missing, damaged, or does not fit.
    """
    name = f"cuhk03_classic_{kind}"
    home = _find_images(name, kind, root)
    skipped: Counter[str] = Counter()
    listed = np.array(_listing(name, kind, home, skipped))
    pids = np.array([1000 * int(file[0]) + int(file[2:5]) for file in listed])
    tested = _read_splits(name, home)[split]
    absent = np.setdiff1d(tested, pids)
    if len(absent):
        pair, person = divmod(int(absent[0]), 1000)
        raise UserError(
            f"{name}: {home / _SPLITS} split {split} has person {person} of pair {pair}, of whom "
            f"there is no image in {home / _folder(kind)}"
        )
    is_test = np.isin(pids, tested)
    train = _table(home, kind, listed[~is_test].tolist(), pids[~is_test])
    test = _table(home, kind, listed[is_test].tolist(), pids[is_test])
    # How many images the test people have differs from split to split.
    counts = (len(listed), len(np.unique(pids)), len(tested))
    expected = (_IMAGES[kind], _PEOPLE, _TEST_PEOPLE)
    words = "{} images of {} people, {} of them to test on"
    note = f"{words.format(*counts)}; expected {words.format(*expected)}"
    return tables.make(
        name,
        {"train": train, "query": test, "gallery": test},
        dict.fromkeys(tables.SPLITS, 0),
        split=split,
        single_shot=True,
        notes=(*(() if counts == expected else (note,)), *say_skipped(skipped)),
    )


def _folder(kind: Kind) -> str:
    return f"images_{kind}"


def _near(home: Path, file: str) -> Path:
    """In the data set's folder, or in that of the release below it."""
    below = home / _RELEASE / file
    return below if below.is_file() else home / file


def _find_images(name: str, kind: Kind, root: Path, otherwise: str = "") -> Path:
    """The folder that holds those of the unpacked images."""
    for home in (root, root / "cuhk03"):
        if _near(home, _MAT).is_file() and not (home / _folder(kind)).is_dir():
            raise UserError(
                f"{name}: {_near(home, _MAT)} is not unpacked (no {_folder(kind)}/ in {home}); run"
                f" this once: {_command(home)}"
            )
    return find_home(
        name,
        root,
        homes=("cuhk03",),
        marker=_folder(kind),
        holds=f"{_RELEASE}/{_MAT}, or {_folder(kind)}/ with images named like {_EXAMPLE}"
        f"{otherwise}",
    )


def _command(home: Path) -> str:
    return f"python -m jaxreid.data.cuhk03 --root={home}"


def _listing(name: str, kind: Kind, home: Path, skipped: Counter[str]) -> list[str]:
    """The images in a folder, in natural order, their names checked."""
    folder = home / _folder(kind)
    try:
        found = list_images(folder, skipped)
    except OSError as error:
        raise missing(name, folder, error, f"images named like {_EXAMPLE}") from error
    for file in found:
        if not _NAME.fullmatch(file):
            raise UserError(f"{name}: {folder / file} is not named like {_EXAMPLE}")
    if not found:
        raise UserError(f"{name}: no images in {folder}; expected some named like {_EXAMPLE}")
    return found


def _table(home: Path, kind: Kind, files: Sequence[str], pids: Int[np.ndarray, " n"]) -> Index:
    """The table of some images. Ours count cameras from 1, so the view is the camera."""
    order = sorted(range(len(files)), key=lambda place: by_name(files[place]))
    files = [files[place] for place in order]
    return Index(
        root=str(home),
        paths=np.array([f"{_folder(kind)}/{file}" for file in files], np.str_),
        pids=pids[order].astype(np.int32),
        camids=np.array([int(file[6]) for file in files], np.int32),
        tracklets=np.arange(len(files), dtype=np.int32),
        frames=np.array([int(file[8:10]) for file in files], np.int32),
    )


def _read_filelist(name: str, config: Path) -> list[str]:
    """The file names in the new protocol's config."""
    try:
        listed = list(_cells_of_text(config.read_bytes(), b"filelist"))
    except OSError as error:
        expected = "the new protocol's lists, handed out with its authors' code"
        raise missing(name, config, error, expected) from error
    except zlib.error as error:
        raise UserError(f"{name}: {config} cannot be read as a MATLAB file ({error})") from None
    strange = next((f", not {file[:80]!r}" for file in listed if not _NAME.fullmatch(file)), "")
    if strange or not listed:
        raise UserError(
            f"{name}: filelist in {config} must be cells of names like {_EXAMPLE}{strange}"
        )
    return listed


_COMPRESSED = 15  # of MATLAB's format 5: a type of element
_MOST_BYTES = 2**26


def _cells_of_text(content: bytes, key: bytes) -> Iterator[str]:
    """The texts in the cells of a MATLAB file. SciPy, reading cells, crashes on damaged ones.

    A matrix is elements: flags, size, name, and its content. That of cells is matrices.
    """
    order: Literal["little", "big"] = "little" if content[126:128] == b"IM" else "big"
    for kind, element in elements(content[128:], order):
        if kind == _COMPRESSED:
            element = zlib.decompressobj().decompress(element, _MOST_BYTES)[8:]
        parts = [part for _, part in elements(element, order)]
        if parts[2:3] == [key]:
            for cell in parts[3:]:
                text = [part for _, part in elements(cell, order)][3:4]
                # One, two or four bytes a letter, of which ASCII fills one.
                yield b"".join(text).replace(b"\0", b"").decode("ascii", "replace")


def _read_splits(name: str, home: Path) -> list[Int[np.ndarray, " _"]]:
    """The pids of the test people of each split."""
    file = home / _SPLITS
    try:
        splits = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{name}: no {file}, the {NUM_SPLITS} published sets of test people; they are in "
            f"{_MAT}: with it at {home / _RELEASE / _MAT} run: {_command(home)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: {file} cannot be read ({error})") from error
    return _test_pids(f"{name}: {file}", splits)


def _test_pids(where: str, splits: Any) -> list[Int[np.ndarray, " _"]]:
    """Those of each split, from lists of [camera pair, person of the pair]."""
    try:
        pids = [
            np.array([_pid(pair, person) for pair, person in people], np.int32) for people in splits
        ]
    except (TypeError, ValueError):
        pids = []
    if len(pids) != NUM_SPLITS or any(len(np.unique(p)) < max(len(p), 1) for p in pids):
        raise UserError(
            f"{where} is not {NUM_SPLITS} lists of people, none twice in a list, each as [camera "
            "pair, person of the pair]"
        )
    return pids


def _pid(pair: Any, person: Any) -> int:
    """One number for a person of a pair of cameras.

    Raises:
        ValueError: they are not such numbers as stand in a file's name.
    """
    if pair not in range(1, 10) or person not in range(1, 1000):
        raise ValueError(f"no person {person} of pair {pair}")
    return 1000 * int(pair) + int(person)


# ---------------------------------------------------------------------- unpacking


# In the file, MATLAB's cells are matrices of references and everything is transposed.
_Fits = Callable[[Any], bool]


def unpack(root: Path) -> None:
    """Writes the pictures in `cuhk-03.mat` as PNG files, and the test sets as JSON.

    `images_labeled/` and `images_detected/` appear whole or not at all: until then they are
    `images_*.partial`, which a second call goes on with. What is there already is left alone.

    Args:
        root: the folder that holds `cuhk03_release/cuhk-03.mat`, or the one above it.

    Raises:
        UserError: the file is missing or damaged, or a picture cannot be written.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"h5py, which reads {_MAT}, cannot be imported ({error}); install the extra 'data' "
            "(pip install 'jaxreid[data]')"
        ) from error
    homes = [home for home in (root, root / "cuhk03") if _near(home, _MAT).is_file()]
    if not homes:
        raise UserError(
            f"cuhk03: no {_MAT} in {root}, nor in its {_RELEASE}, cuhk03 or cuhk03/{_RELEASE}"
        )
    home, file = homes[0], _near(homes[0], _MAT)
    try:
        mat = h5py.File(file, "r")
    except OSError as error:
        raise UserError(f"cuhk03: {file} is not an HDF5 file, or cut short ({error})") from error
    with mat:
        try:
            _write_splits(mat, home / _SPLITS)
            for kind in _KINDS:
                _write_images(mat, kind, home / _folder(kind))
        except OSError as error:
            where = error.filename or home
            raise UserError(f"cuhk03: cannot write {where} ({error.strerror})") from error


def _write_splits(mat: Any, file: Path) -> None:
    if file.exists():
        print(f"{file}: there already")
        return
    splits = []
    sets = _references(mat, "testsets", "testsets", (1, NUM_SPLITS))[0]
    for number, reference in enumerate(sets, 1):
        rows = _read(mat, reference, f"testsets {number}", _is_people, "2 x people numbers")
        splits.append(rows.T.tolist())
    people = _test_pids(f"cuhk03: testsets in {mat.filename}", splits)
    draft = file.with_name(f".{os.getpid()}.json")
    draft.write_text(json.dumps([[divmod(pid, 1000) for pid in pids.tolist()] for pids in people]))
    os.replace(draft, file)
    print(f"{file}: {NUM_SPLITS} sets of test people")


def _write_images(mat: Any, kind: Kind, folder: Path) -> None:
    if folder.exists():
        print(f"{folder}: there already")
        return
    print(f"{folder}: a few minutes ...", flush=True)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    draft = partial / f".{os.getpid()}.png"
    for name, where, reference in _pictures(mat, kind):
        if (partial / name).exists():
            continue
        pixels = _read(mat, reference, where, _is_picture, "3 x width x height bytes")
        if pixels.ndim == 3 and pixels.size:
            Image.fromarray(np.ascontiguousarray(pixels.T)).save(draft)
            os.replace(draft, partial / name)
    for stale in partial.glob(".*.png"):  # of a call that was stopped
        stale.unlink()
    os.rename(partial, folder)
    print(f"{folder}: {len(list_images(folder, Counter()))} images")


def _pictures(mat: Any, kind: Kind) -> Iterator[tuple[str, str, Any]]:
    """Names of files, and where in the .mat their pictures are, in words and as references."""
    for pair, people in enumerate(_references(mat, kind, kind, (1, 9))[0], 1):
        shots = _references(mat, people, f"{kind} pair {pair}", (10, 999))
        for person, column in enumerate(shots.T, 1):
            for image, reference in enumerate(column, 1):
                name = f"{pair}_{person:03d}_{1 if image <= 5 else 2}_{image:02d}.png"
                yield name, f"{kind} pair {pair} person {person} image {image}", reference


def _references(mat: Any, at: Any, where: str, most: tuple[int, int]) -> Shaped[np.ndarray, "_ _"]:
    """The references in cells: as many rows, and at most as many columns, as `most` says."""
    import h5py

    def fits(found: Any) -> bool:
        return (
            h5py.check_ref_dtype(found.dtype) is h5py.Reference
            and found.ndim == 2
            and found.shape[0] == most[0]
            and 1 <= found.shape[1] <= most[1]
        )

    return _read(mat, at, where, fits, f"{most[0]} x (1 to {most[1]}) cells")


def _read(mat: Any, at: Any, where: str, fits: _Fits, expected: str) -> Shaped[np.ndarray, "..."]:
    """What lies at a name or a reference, from this file alone and of no great size."""
    import h5py

    try:
        link = mat.get(at, getlink=True) if isinstance(at, str) else None
        found = None if isinstance(link, h5py.SoftLink | h5py.ExternalLink) else mat[at]
        if (
            isinstance(found, h5py.Dataset)
            and not (found.external or found.is_virtual)
            and max(found.nbytes, np.prod(found.chunks or 0)) <= _MOST_BYTES
            and fits(found)
        ):
            return found[()]
        reason = ""
    except Exception as error:  # of a file that is damaged, HDF5 raises many kinds
        reason = f" ({' '.join(str(error).split())})"
    raise UserError(f"cuhk03: {mat.filename}: {where} is not {expected}{reason}")


def _is_people(found: Any) -> bool:
    return found.dtype.kind in "iuf" and found.ndim == 2 and found.shape[0] == 2


def _is_picture(found: Any) -> bool:
    if found.ndim in (1, 2):  # an empty cell is two zeros: a camera saw someone fewer than 5 times
        return True
    return found.dtype == np.uint8 and found.ndim == 3 and found.shape[0] == 3


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code: 0, or 2 where the file will not do."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.data.cuhk03", description=f"Unpacks {_MAT} into PNG files."
    )
    parser.add_argument(
        "--root", required=True, type=local_path, help=f"the folder that holds {_RELEASE}/{_MAT}"
    )
    root = parser.parse_args(argv).root
    unpack(Path(os.path.abspath(root)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
