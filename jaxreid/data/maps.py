"""The maps that a frozen backbone makes of the training frames, computed once and kept on disk.

A map of GoogLeNet is 7 x 7 x 1024 numbers, 98 KiB in float16: 4 GB for iLIDS-VID, 48 GB for MARS,
and twice that with the frames' mirror images.

    with MapCache(folder, key, shape=(7, 7, 1024), frames=index.size, flip=True) as cache:
        fill = partial(cache.fill, source.images, "train", (224, 224), maps_fn, 64)
        fill()
        for maps in cache.images(plan, mend=fill):  # float16 [b t 7 7 1024]
            ...

The folder holds `maps`, the rows one after another; `checksums`, a number for each row; and
`key.json`, what the maps were made of. A row is on disk before its checksum is, so a process that
is killed leaves whole rows and absent ones, and the next start goes on from there.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Bool, Float, Float16, Int, Shaped, UInt8
from rich.progress import track

from jaxreid.errors import UserError
from jaxreid.pretrained.weights import BACKBONE
from jaxreid.types import Variables

Rows = Int[np.ndarray, "..."]
Images = UInt8[np.ndarray, "n h w 3"]
T = TypeVar("T")

FORMAT = 1
_AHEAD = 2  # batches that are read before they are asked for, each by a thread of its own
_CHECKED = 256  # rows that a thread checks at a time


class MapCache:
    """Maps of every frame of a split, and of its mirror image.

    Row r is the map of frame r. With `flip` there are as many rows again: row `frames + r` is the
    map of frame r's mirror image. That is not the mirrored map, as filters are not symmetric.

    Several processes may read the same cache; one at a time may fill it. A cache that is dropped
    under a process that reads it stays whole for that process.

    Attributes:
        folder: where it is.
        shape: (height, width, channels) of a map.
        frames: how many there are.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        key: Mapping[str, Any],
        shape: tuple[int, int, int],
        frames: int,
        *,
        flip: bool,
    ) -> None:
        """Opens the cache in `folder`, or starts one; no other process can until it is filled.

        Args:
            folder: need not exist. What is there under another key is dropped, and said so.
            key: all that determines the maps, as JSON: the data's fingerprint, `weights_hash`, the
                size of the frames, the precision.
            shape: (height, width, channels) of a map.
            frames: of the split.
            flip: whether the frames' mirror images have maps, too. It may change from one start
                to the next: what is there stays.

        Raises:
            UserError: another process fills this cache, or the folder cannot be written.
        """
        self.folder = Path(os.path.abspath(os.path.expanduser(folder)))
        self.shape, self.frames = shape, frames
        self._rows = frames * (1 + flip)
        self._row_bytes = int(np.prod(shape)) * 2
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = _open(stack, self.folder / "lock")
                self._claim()
                self._keep_or_drop({"format": FORMAT, "shape": shape, "frames": frames, **key})
                self._maps = _open(stack, self.folder / "maps", self._rows * self._row_bytes)
                self._sums_file = _open(stack, self.folder / "checksums", self._rows * 8)
            except OSError as error:
                needed = self._rows * self._row_bytes
                raise self._cannot_write(error.strerror, needed) from error
            self._sums = self._read_sums()
            self._pool = ThreadPoolExecutor(_AHEAD)
            stack.callback(self._pool.shutdown, cancel_futures=True)
            self._closing = stack.pop_all()

    def __enter__(self) -> "MapCache":
        """Ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the reading ahead, and closes the files."""
        self._closing.close()

    @property
    def missing(self) -> Bool[np.ndarray, "m n"]:
        """Which frames have no map yet; with `flip`, in a second line, which mirror images."""
        return self._sums.reshape(-1, self.frames) == 0

    def fill(
        self,
        images: Callable[
            [str, Iterable[Rows], tuple[int, int]], Iterator[UInt8[np.ndarray, "..."]]
        ],
        split: str,
        size: tuple[int, int],
        maps_fn: Callable[[Images], Float[Any, "n h w c"]],
        batch_size: int,
    ) -> None:
        """Computes the maps that are missing, in order. One batch is written while the next runs.

        Args:
            images: a `Source`'s.
            split: whose frames these are.
            size: (height, width) of the frames that the backbone sees.
            maps_fn: jitted; always called with `batch_size` frames, the last ones black if need be.
                As `mend` may come at any step, its weights must outlive a donated state.
            batch_size: see above.

        Raises:
            UserError: there is no room, the folder cannot be written, another process is about to
                fill this cache, or a map does not fit in float16.
        """
        self._claim()
        try:
            missing = self.missing
            if not missing.any():
                print(f"{self.folder}: holds the maps of all {self.frames} frames", flush=True)
                return
            self._write_all(self._computed(missing, images, split, size, maps_fn, batch_size))
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def images(
        self, plan: Iterable[Rows], mend: Callable[[], None]
    ) -> Iterator[Float16[np.ndarray, "*n h w c"]]:
        """The maps of each batch of the plan, read and checked some batches ahead.

        Args:
            plan: rows, one array for each batch, of any shape (of clips: `[b t]`).
            mend: `fill` with its arguments. It is called where rows are missing or are not what
                was written, once all such rows of the cache have been found.

        Raises:
            UserError: what is written does not read back.
        """
        ahead: deque[tuple[Rows, Future]] = deque()
        for rows in plan:
            ahead.append((rows, self._pool.submit(self._read, rows.ravel())))
            if len(ahead) > _AHEAD:
                yield self._sound(*ahead.popleft(), mend)
        while ahead:
            yield self._sound(*ahead.popleft(), mend)

    def _sound(
        self, rows: Rows, reading: Future, mend: Callable[[], None]
    ) -> Float16[np.ndarray, "*n h w c"]:
        maps, intact = reading.result()
        if not intact.all():
            maps, intact = self._read(rows.ravel())  # It may have been mended since.
        if not intact.all():
            self._claim()
            self._sums = self._read_sums()
            self._drop_damaged()
            mend()
            maps, intact = self._read(rows.ravel())
        if not intact.all():
            raise UserError(f"{self.folder}: maps do not read back as they were written")
        return maps.reshape(*rows.shape, *self.shape)

    def _drop_damaged(self) -> None:
        """Finds all rows that are not what was written: then they are said, and mended, at once."""
        present = np.flatnonzero(self._sums)
        parts = np.split(present, range(_CHECKED, len(present), _CHECKED))
        damaged = np.concatenate(
            list(self._pool.map(lambda rows: rows[~self._read(rows)[1]], parts))
        )
        if damaged.size:
            print(
                f"{self.folder}: {damaged.size} of {self._rows} maps are not what was written, and"
                " are computed again",
                flush=True,
            )
            self._sums[damaged] = 0
            _write(self._sums_file, self._sums, 0)

    def _read(
        self, rows: Int[np.ndarray, " n"]
    ) -> tuple[Float16[np.ndarray, "n h w c"], Bool[np.ndarray, " n"]]:
        """Some rows, and which of them are what was written."""
        maps = np.empty((len(rows), *self.shape), np.float16)
        intact = np.zeros(len(rows), bool)
        for i, row in enumerate(rows.tolist()):
            # Not memory-mapped: of a file that was cut short, that kills the process.
            size = os.preadv(self._maps, [maps[i].data], row * self._row_bytes)
            intact[i] = size == self._row_bytes and self._sums[row] == _checksum(row, maps[i])
        return maps, intact

    def _computed(
        self,
        missing: Bool[np.ndarray, "m n"],
        images: Callable[..., Iterator[UInt8[np.ndarray, "..."]]],
        split: str,
        size: tuple[int, int],
        maps_fn: Callable[[Images], Float[Any, "n h w c"]],
        batch_size: int,
    ) -> Iterator[tuple[Int[np.ndarray, " m"], Float[Any, "n h w c"]]]:
        """Rows, and as many maps or more; they may still be under way on the device."""
        frames = np.flatnonzero(missing.any(axis=0))
        plan = np.split(frames, range(batch_size, len(frames), batch_size))
        batches = zip(plan, images(split, plan, size))
        quiet = not sys.stdout.isatty()
        for batch, pixels in track(batches, "maps", total=len(plan), disable=quiet):
            for flipped, absent in enumerate(missing):
                wanted = absent[batch]
                if wanted.any():
                    chosen = pixels[wanted][:, :, :: -1 if flipped else 1]
                    padding = (0, batch_size - len(chosen))
                    chosen = np.pad(chosen, (padding, (0, 0), (0, 0), (0, 0)))
                    rows = batch[wanted] + flipped * self.frames
                    yield rows, maps_fn(chosen).astype(np.float16)

    def _write_all(
        self, computed: Iterator[tuple[Int[np.ndarray, " m"], Float[Any, "n h w c"]]]
    ) -> None:
        count = int(self.missing.sum())
        needed = count * self._row_bytes
        if needed > _free(self.folder):
            raise self._cannot_write("no room", needed)
        print(
            f"{self.folder}: {count} of {self._rows} maps to compute, {_size(needed)}", flush=True
        )
        start = time.perf_counter()
        for rows, maps in _one_behind(computed):
            try:
                self._write(rows, np.ascontiguousarray(maps[: len(rows)]))
            except OSError as error:
                left = int(self.missing.sum()) * self._row_bytes
                raise self._cannot_write(error.strerror, left) from error
        seconds = time.perf_counter() - start
        print(
            f"{self.folder}: {count} maps in {seconds:.1f} s, {count / seconds:.0f} a second",
            flush=True,
        )

    def _write(self, rows: Int[np.ndarray, " n"], maps: Float16[np.ndarray, "n h w c"]) -> None:
        if not np.isfinite(maps).all():
            raise UserError(
                f"{self.folder}: a map of the frames {rows[0] % self.frames} to"
                f" {rows[-1] % self.frames} is not finite in float16; train without the cache"
            )
        for row, values in zip(rows.tolist(), maps):
            _write(self._maps, values, row * self._row_bytes)
            self._sums[row] = _checksum(row, values)
        os.fsync(self._maps)
        first, last = rows[0], rows[-1]
        _write(self._sums_file, self._sums[first : last + 1], int(first) * 8)

    def _read_sums(self) -> Int[np.ndarray, " n"]:
        # By its number: the name may be another cache's by now.
        return np.frombuffer(os.pread(self._sums_file, self._rows * 8, 0), np.int64).copy()

    def _claim(self) -> None:
        """Takes the right to write until it is given back or the process ends."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.folder}: another process fills this cache; wait for it, or use another"
                " folder"
            ) from None

    def _keep_or_drop(self, key: Mapping[str, Any]) -> None:
        """Removes what was made of other things; then the folder has our key."""
        path = self.folder / "key.json"
        text = json.dumps(key, indent=2)
        wanted = json.loads(text)
        if path.exists():
            try:
                there = dict(json.loads(path.read_bytes()))
            except (TypeError, ValueError):
                reason = "key.json is damaged"
            else:
                names = sorted(there.keys() | wanted.keys())
                other = [name for name in names if there.get(name) != wanted.get(name)]
                if not other:
                    return
                reason = f"made with another {', '.join(other)}"
            print(f"{self.folder}: {reason}; its maps are dropped and made anew", flush=True)
        # The key goes first and comes last: files without a key count for nothing.
        for name in ("key.json", "maps", "checksums"):
            (self.folder / name).unlink(missing_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def _cannot_write(self, reason: str | None, needed: int) -> UserError:
        return UserError(
            f"{self.folder}: cannot write the maps ({reason}): {_size(needed)} needed,"
            f" {_size(_free(self.folder))} free"
        )


def mirrored(
    rows: Int[np.ndarray, "b *t"], step: int, seed: int, frames: int
) -> Int[np.ndarray, "b *t"]:
    """Half of the clips as their mirror images: rows of a `MapCache` that has them.

    Args:
        rows: of each clip, or image.
        step: that the batch is of.
        seed: of the draw, in which each clip falls by itself and as a whole.
        frames: of the cache.
    """
    # The last number keeps this stream apart from the sampler's, of (seed, epoch).
    draw = np.random.default_rng((seed, step, 1)).random(len(rows)) < 0.5
    return rows + frames * draw.reshape(-1, *[1] * (rows.ndim - 1))


def weights_hash(variables: Variables) -> str:
    """A hash of the backbone in every collection: names, types, shapes and values."""
    backbones = {name: tree[BACKBONE] for name, tree in variables.items() if BACKBONE in tree}
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(backbones)
    }
    digest = hashlib.sha256()
    for name, leaf in sorted(leaves.items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Each item when the next has been drawn: the device is at work on that one by then."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def _open(stack: ExitStack, path: Path, size: int = 0) -> int:
    """Opens a file to read and write; it is made, or grows, to a size without taking room."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    stack.callback(os.close, file)
    if os.fstat(file).st_size < size:
        os.truncate(file, size)
    return file


def _write(file: int, values: Shaped[np.ndarray, "..."], offset: int) -> None:
    data = memoryview(values.tobytes())
    while data:  # The last write before the disk is full may be a part only.
        done = os.pwrite(file, data, offset)
        data, offset = data[done:], offset + done


def _checksum(row: int, values: Float16[np.ndarray, "h w c"]) -> int:
    """Of a row at its place, from 1: zero is what a file has where nothing was written."""
    return zlib.crc32(values.data, row) + 1


def _free(folder: Path) -> int:
    """Bytes on the disk that a folder is on, or would be."""
    return shutil.disk_usage(next(f for f in (folder, *folder.parents) if os.path.exists(f))).free


def _size(count: int) -> str:
    return f"{count / 2**30:.3g} GiB"
