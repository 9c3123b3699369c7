"""Caffe's weight files: Protocol Buffers, of which only what holds weights is described here.

Both of Caffe's message forms are read: `layers` (V1, until 2014) and `layer`; and both ways to give
a blob's shape. A blob's numbers are declared as bytes, which look the same on the wire as packed
floats and need not become Python objects one by one.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
}
# Of each message the fields that are read: name, number and type; `*` for repeated ones.
_MESSAGES = {
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
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if kind.endswith("*"):
                field.label = _Field.LABEL_REPEATED
            if (kind := kind.removesuffix("*")) in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type_name = f".caffe.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


def read(path: Path) -> dict[str, np.ndarray]:
    """The blobs of a `.caffemodel` as `<layer>.weight` and `<layer>.bias`.

    Convolutions are `[out, in / groups, height, width]`, inner products `[out, in]`.

    Raises:
        Exception: of any kind, where the file is damaged; the caller names the file.
    """
    if path.stat().st_size >= 2**31:
        raise ValueError("2 GB or more, which Protocol Buffers do not hold")
    net = describe()()
    net.ParseFromString(path.read_bytes())
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
        return numbers.reshape(_checked(tuple(blob.shape.dim), numbers.size))
    # Before blobs had shapes, all had four axes: vectors and matrices lead with ones.
    shape = _checked((blob.num, blob.channels, blob.height, blob.width), numbers.size)
    if leaf == "bias":
        return numbers
    return numbers.reshape(shape[2:] if shape[:2] == (1, 1) else shape)


def _checked(shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    if len(shape) > 8 or min(shape, default=0) < 0 or math.prod(shape) != size:
        raise ValueError(f"a blob of {size} numbers has another shape: {shape[:8]}")
    return shape
