"""tf.data: rows -> `decode` -> resize -> uint8 batches -> prefetch.

TensorFlow, which reads ahead, is imported when a stream is first opened, and never sees the
accelerator. All float work (crop, flip, normalisation) is left to the device.
"""

import importlib.util
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, UInt8

from jaxreid.data.decode import decode, resize
from jaxreid.data.index import ReidData
from jaxreid.errors import UserError

T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0)
"""Seconds before each further try to read an image: network file systems come back."""


def patiently(read: Callable[[], T]) -> T:
    """Reads; where an image cannot be read, again after each of `WAITS`.

    Raises:
        UserError: at the last try it could not be read either.
    """
    for tries, wait in enumerate(WAITS, start=1):
        try:
            return read()
        except UserError as error:
            _say_and_wait(error, tries, wait)
    return read()


def stream(
    data: ReidData,
    split: str,
    plan: Iterable[Int[np.ndarray, "..."]],
    size: tuple[int, int],
    *,
    readers: Mapping[str, Callable[[int], bytes]] | None = None,
) -> Iterator[UInt8[np.ndarray, "... 3"]]:
    """The images of each batch of the plan, decoded and resized, some batches ahead.

    A batch that cannot be read is tried again after each of `WAITS`.

    Args:
        data: the index.
        split: `train`, `query` or `gallery`.
        plan: rows of that split, one array for each batch, of any shape (of clips: `[b t]`), all
            of one size but for the last, which may be smaller.
        size: (height, width) to resize to.
        readers: `row -> bytes of the image file` for each split; by default the files are read.

    Raises:
        UserError: an image cannot be read or decoded; it is named.
    """
    tf = load_tensorflow()
    index = data.splits[split]
    plan = iter(plan)
    first = next(plan, None)
    if first is None:
        return
    reader = readers[split] if readers else None
    batches = _Batches(chain((first,), plan))

    failed: dict[int, UserError] = {}

    def read(row: np.int64) -> UInt8[np.ndarray, "i j 3"]:
        path = index.path(row)
        try:
            return resize(decode(reader(int(row)) if reader else path, path), size)
        except UserError as error:
            failed[int(row)] = error
        except Exception as error:
            failed[int(row)] = UserError(f"{path}: cannot be read ({error})")
        raise failed[int(row)]

    def load(row: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(read, [row], tf.uint8), (*size, 3))

    def opened() -> Iterator[UInt8[np.ndarray, "..."]]:
        failed.clear()
        ahead = batches.from_the_last_taken()

        def rows() -> Iterator[Int[np.ndarray, " b"]]:
            for batch in ahead:
                yield batch.ravel().astype(np.int64)

        return (
            tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec([None], tf.int64))
            .unbatch()
            .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .batch(first.size)
            .prefetch(tf.data.AUTOTUNE)
            .as_numpy_iterator()
        )

    images, tries = opened(), 0
    while True:
        try:
            pixels = next(images)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            # tf.data does not say which row of the batch it was.
            named = [failed[row] for row in batches.ahead[0].ravel().tolist() if row in failed]
            culprit = named[0] if named else UserError(f"{split} images: {error}")
            if tries == len(WAITS):
                raise culprit from None
            _say_and_wait(culprit, tries + 1, WAITS[tries])
            images, tries = opened(), tries + 1
            continue
        tries = 0
        yield pixels.reshape(*batches.take().shape, *pixels.shape[1:])


class _Batches:
    """The batches of a plan, handed out ahead of time, and once more where reading starts anew.

    Attributes:
        ahead: those that were handed out and not yet taken: the first is read now.
    """

    def __init__(self, plan: Iterable[Int[np.ndarray, "..."]]) -> None:
        self._rest = iter(plan)
        self._lock = threading.Lock()
        self._turn = 0
        self.ahead: deque[Int[np.ndarray, "..."]] = deque()

    def take(self) -> Int[np.ndarray, "..."]:
        """The batch that has been read."""
        return self.ahead.popleft()

    def from_the_last_taken(self) -> Iterator[Int[np.ndarray, "..."]]:
        """All that were not taken. An earlier iterator, which has a thread of its own, ends."""
        with self._lock:
            self._turn += 1
            turn, self._rest = self._turn, chain(tuple(self.ahead), self._rest)
            self.ahead.clear()
        while True:
            with self._lock:
                batch = next(self._rest, None) if turn == self._turn else None
                if batch is None:
                    return
                self.ahead.append(batch)
            yield batch


def _say_and_wait(error: UserError, tries: int, seconds: float) -> None:
    say = f"{error}; try {tries} of {len(WAITS) + 1}, the next in {seconds:g} s"
    print(f"jaxreid: {say}", file=sys.stderr, flush=True)
    time.sleep(seconds)


_INSTALL = (
    "install the extra 'data' (pip install 'jaxreid[data]'), or read with"
    " --config.data.source=memory"
)


def require_tensorflow() -> None:
    """Raises `UserError` where it is not installed; takes no time, as an import would."""
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(f"TensorFlow is not installed, which reads the files; {_INSTALL}")


@cache
def load_tensorflow() -> Any:
    """TensorFlow, which is imported here alone, without a GPU.

    Raises:
        UserError: it cannot be imported.
    """
    # Quiet: JAX sets 1, and each file that cannot be read is a warning. And oneDNN, which has no
    # part in decoding, announces itself on every start.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(f"TensorFlow cannot be imported ({error}); {_INSTALL}") from None
    tf.config.set_visible_devices([], "GPU")
    return tf
