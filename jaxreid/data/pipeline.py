"""tf.data: bytes -> decode -> resize -> uint8 batches -> prefetch.

TensorFlow is imported when a stream is first opened, and never sees the accelerator. All float
work (crop, flip, normalisation) is left to the device.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxreid.data.decode import decode
from jaxreid.data.index import Index, ReidData
from jaxreid.errors import UserError


def stream(
    data: ReidData,
    split: str,
    plan: Iterable[Int[np.ndarray, "..."]],
    size: tuple[int, int],
    *,
    readers: Mapping[str, Callable[[int], bytes]] | None = None,
) -> Iterator[UInt8[np.ndarray, "... 3"]]:
    """The images of each batch of the plan, decoded and resized, some batches ahead.

    Decoding is bit-exact with libjpeg's accurate path; resizing is bilinear, antialiased where
    it shrinks.

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
    tf = _tensorflow()
    index = data.splits[split]
    plan = iter(plan)
    first = next(plan, None)
    if first is None:
        return
    # Rows handed out and not yet come back, to name the file that broke.
    ahead: deque[Int[np.ndarray, "..."]] = deque()
    reader = readers[split] if readers else None

    def keys() -> Iterator[Any]:
        for batch in chain((first,), plan):
            ahead.append(batch)
            rows = batch.ravel()
            yield rows.astype(np.int64) if reader else [index.path(row) for row in rows]

    def read(key: Any) -> Any:
        if reader is None:
            return tf.io.read_file(key)
        return tf.numpy_function(lambda row: reader(int(row)), [key], tf.string)

    def load(key: Any) -> Any:
        encoded = tf.ensure_shape(read(key), ())
        # The op reads PNG, too.
        image = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
        return tf.cast(tf.round(tf.image.resize(image, size, antialias=True)), tf.uint8)

    batches = (
        tf.data.Dataset.from_generator(
            keys, output_signature=tf.TensorSpec([None], tf.int64 if reader else tf.string)
        )
        .unbatch()
        .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(first.size)
        .prefetch(tf.data.AUTOTUNE)
    )
    iterator = batches.as_numpy_iterator()
    while True:
        try:
            images = next(iterator)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise UserError(_culprit(index, ahead[0].ravel(), reader, error)) from None
        yield images.reshape(*ahead.popleft().shape, *images.shape[1:])


def _culprit(
    index: Index,
    rows: Int[np.ndarray, " b"],
    reader: Callable[[int], bytes] | None,
    error: Exception,
) -> str:
    """Which image of a batch that failed is to blame: tf.data does not say."""
    for row in rows:
        try:
            decode(reader(int(row)) if reader else index.path(row))
        except UserError as reason:
            return f"{index.path(row)}: {reason}" if reader else str(reason)
    return f"one of {', '.join(map(str, index.paths[rows]))}: {' '.join(str(error).split())}"


@cache
def _tensorflow() -> Any:
    # Quiet; and oneDNN, which has no part in decoding, announces itself on every start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"TensorFlow cannot be imported ({error}); install the extra 'data' (pip install -e"
            " '.[data]' in the repository), or read with --config.data.source=memory"
        ) from None
    tf.config.set_visible_devices([], "GPU")
    return tf
