"""TFDS over the index: a data set as a few large files instead of many small ones.

A cluster's file system serves twelve thousand small files badly and a few large ones well. The
records are array_record, so that a row is read by its number; they hold the original bytes of the
images, and lie in the order of the index. The labels are stored beside them in `index.npz`, so
that a sampler need not read a single record.

    python -m jaxreid.prepare --name=market1501 --root=/data/Market-1501 --out=/data/tfds

Import this module only where it is needed: it needs the `data` extra.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from jaxreid.data import tables
from jaxreid.data.index import NUM_SPLITS, Index, ReidData, check_split
from jaxreid.errors import UserError, nearest
from jaxreid.logs import quiet

try:
    import tensorflow_datasets as tfds
except ImportError as error:
    raise UserError(
        f"TFDS cannot be imported ({error}); install the extra 'data' (pip install 'jaxreid[data]')"
    ) from error

LAYOUT_VERSION = "1.1.0"
INDEX_FILE = "index.npz"


def _config_name(name: str, split: int | None) -> str:
    """One for each split of a data set that comes with several, as each has other tables."""
    return f"{name}_split{split or 0}" if name in NUM_SPLITS else name


class ReidImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Records of images, or of a video's frames, with their labels, in the order of the index.

    Features: `image` (bytes as they were on disk), `pid` (0..N-1 in `train`), `camid`,
    `tracklet`, `frame`, `path`. Splits: `train`, `query`, `gallery`.
    """

    name = "reid_images"
    url_infos = None  # no downloads; TFDS's own look-up imports a package it does not require
    VERSION = tfds.core.Version(LAYOUT_VERSION)

    def __init__(self, data: ReidData, out: Path) -> None:
        """Prepares to write `data` below `out`."""
        self.reid_data = data
        name = _config_name(data.name, data.split)
        config = tfds.core.BuilderConfig(name=name, version=LAYOUT_VERSION)
        with quiet("absl"):  # It warns of each config that it has no list of.
            super().__init__(data_dir=out, config=config, file_format="array_record")

    def _info(self) -> Any:
        # `dataset_info_from_configs` would look for a README in a package of the builder's own.
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "pid": np.int64,
                    "camid": np.int64,
                    "tracklet": np.int64,
                    "frame": np.int64,
                    "path": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        # TFDS's folder has a temporary name until everything in it is written.
        tables.save(Path(self.data_dir) / INDEX_FILE, self.reid_data)
        return {
            split: self._generate_examples(index)
            for split, index in self.reid_data.splits.items()
            if index.size
        }

    def _generate_examples(self, index: Index) -> Iterator[tuple[int, dict]]:
        # Beyond a gigabyte TFDS sorts through temporary files, one for each range of keys below
        # 2**128. Keys spread over the whole range spread the records over those files.
        stride = 2**128 // index.size
        for row in range(index.size):
            yield (
                row * stride,
                {
                    "image": Path(index.path(row)).read_bytes(),  # as they are, not decoded
                    "pid": index.pids[row],
                    "camid": index.camids[row],
                    "tracklet": index.tracklets[row],
                    "frame": index.frames[row],
                    "path": _encoded(index.paths[row]),
                },
            )


def prepare(data: ReidData, out: str | os.PathLike) -> Path:
    """Writes a data set as TFDS records, or finds it written already.

    A run that is killed leaves no half-written data set behind under the final name.

    Args:
        data: the index; every image is read from its file.
        out: TFDS's folder (`data_dir`). A data set of another name may lie there too.

    Returns:
        The folder of this data set, below `out`.

    Raises:
        UserError: other data of this name is there, or a file cannot be read or written.
    """
    folder = _folder(out, data.name, data.split)
    if folder.exists():
        there = _load_index(out, data.name, data.split)
        if there.fingerprint() != data.fingerprint():
            raise UserError(
                f"{folder} holds other data of this name ({there.summary()}); delete it, or "
                "choose another --out"
            )
        return folder
    if not sys.stderr.isatty():  # a log file is no place for progress bars
        tfds.disable_progress_bar()
    # TFDS announces a download on stdout, where there is none; its progress bars go to stderr.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as downloads:
        try:
            ReidImages(data, Path(out).expanduser()).download_and_prepare(
                download_dir=downloads,  # stays empty; by default a folder beside the data
                download_config=tfds.download.DownloadConfig(try_download_gcs=False),
            )
        except (OSError, RuntimeError) as error:
            reason = str(error).rpartition("\n")[2]  # TFDS puts the whole example before it
            raise UserError(f"cannot write {data.name} to {folder}: {reason}") from error
    return folder


def open_prepared(
    out: str | os.PathLike, name: str, split: int | None = None
) -> tuple[ReidData, dict[str, Callable[[SupportsIndex], bytes]]]:
    """Opens what `prepare` wrote.

    Args:
        out: the folder that was given to `prepare`.
        name: the data set's name.
        split: from 0, of a data set that comes with several; by default the first.

    Returns:
        The index, and for each split a function from a row to that image's original bytes. The
        functions may be called from several threads.

    Raises:
        UserError: there is no such data set or split, or it is damaged; names the command to run.
    """
    check_split(name, split)
    folder = _folder(out, name, split)
    data = _load_index(out, name, split)
    damaged = partial(_damaged, folder, command=_command(out, name, split))
    written = [table for table, index in data.splits.items() if index.size]
    try:
        builder = tfds.builder_from_directory(folder)
        sources = builder.as_data_source(
            split={table: table for table in written},
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        files = [file for table in written for file in builder.info.splits[table].filepaths]
    except (OSError, ValueError) as error:
        raise damaged(str(error)) from error
    for file in files:
        if not file.exists():
            raise damaged(f"{file.name} is missing")
    return data, {table: _reader(sources[table], data.splits[table], damaged) for table in written}


def _reader(
    source: Any, index: Index, damaged: Callable[[str], UserError]
) -> Callable[[SupportsIndex], bytes]:
    def read(row: SupportsIndex) -> bytes:
        example = source[row]
        # Of a file that was cut short, array_record reads empty records without a word.
        if example["path"] != _encoded(index.paths[row]):
            raise damaged(f"the record of {index.paths[row]} is not where {INDEX_FILE} has it")
        return example["image"]

    return read


def _encoded(path: str) -> bytes:
    """Names of files may be no UTF-8."""
    return str(path).encode("utf-8", "surrogateescape")


def _folder(out: str | os.PathLike, name: str, split: int | None) -> Path:
    return Path(out).expanduser() / ReidImages.name / _config_name(name, split) / LAYOUT_VERSION


def _command(out: str | os.PathLike, name: str, split: int | None) -> str:
    which = f" --split={split}" if split is not None else ""
    return f"run: python -m jaxreid.prepare --name={name} --root=FOLDER{which} --out={out}"


def _damaged(folder: Path, what: str, command: str) -> UserError:
    return UserError(f"{folder} is damaged ({what}); delete it and {command}")


def _load_index(out: str | os.PathLike, name: str, split: int | None) -> ReidData:
    folder, command = _folder(out, name, split), _command(out, name, split)
    if not folder.is_dir():
        others = [path.name for path in folder.parent.parent.glob("*") if path.is_dir()]
        wanted = _config_name(name, split)
        near = nearest(wanted, [other for other in others if other != wanted])
        raise UserError(f"no prepared {wanted} in {out}, for want of {folder}; {command}{near}")
    try:
        return tables.restore(folder / INDEX_FILE)
    except ValueError as error:
        raise _damaged(folder, f"{INDEX_FILE}: {error}", command) from error
