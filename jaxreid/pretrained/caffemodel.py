"""Caffe's weight files: Protocol Buffers, of which only what holds weights is described here.

Both of Caffe's message forms are read: `layers` (V1, until 2014) and `layer`; and both ways to give
a blob's shape.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxreid.pretrained import protobuf

_MESSAGES: protobuf.Messages = {
    "BlobShape": [("dim", 1, "int64*")],
    "BlobProto": [
        ("num", 1, "int32"),
        ("channels", 2, "int32"),
        ("height", 3, "int32"),
        ("width", 4, "int32"),
        ("data", 5, "bytes*"),
        ("shape", 7, "BlobShape"),
    ],
    "V1LayerParameter": [("name", 4, "string"), ("blobs", 6, "BlobProto*")],
    "LayerParameter": [("name", 1, "string"), ("blobs", 7, "BlobProto*")],
    "NetParameter": [("layers", 2, "V1LayerParameter*"), ("layer", 100, "LayerParameter*")],
}


def describe() -> Any:
    """The class of Caffe's `NetParameter`, with the few fields that hold weights."""
    return protobuf.describe("caffe", _MESSAGES, "NetParameter")


def read(path: Path) -> dict[str, np.ndarray]:
    """The blobs of a `.caffemodel` as `<layer>.weight` and `<layer>.bias`.

    Convolutions are `[out, in / groups, height, width]`, inner products `[out, in]`.

    Raises:
        Exception: of any kind, where the file is damaged; the caller names the file.
    """
    net = protobuf.parse(describe()(), path)
    arrays = {}
    for layer in [*net.layers, *net.layer]:
        for position, blob in enumerate(layer.blobs):
            leaf = ("weight", "bias")[position] if position < 2 else f"blob{position}"
            arrays[f"{layer.name}.{leaf}"] = _array(blob, leaf)
    if not arrays:
        raise ValueError("no layer with weights")
    return arrays


def _array(blob: Any, leaf: str) -> np.ndarray:
    data = blob.data[0] if len(blob.data) == 1 else b"".join(blob.data)
    numbers = np.frombuffer(data, "<f4")
    if blob.HasField("shape"):
        return protobuf.shaped(numbers, tuple(blob.shape.dim), "a blob")
    # Before blobs had shapes, all had four axes: vectors and matrices lead with ones.
    shape = (blob.num, blob.channels, blob.height, blob.width)
    whole = protobuf.shaped(numbers, shape, "a blob")
    if leaf == "bias":
        return numbers
    return numbers.reshape(shape[2:]) if shape[:2] == (1, 1) else whole
