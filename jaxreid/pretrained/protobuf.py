"""Protocol Buffers of which only the fields that are read are described.

Numbers are declared as bytes: these look the same on the wire as packed floats, and need not become
Python objects one by one.
"""

import math
from collections.abc import Mapping, Sequence
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
_MOST_AXES = 8

Messages = Mapping[str, Sequence[tuple[str, int, str]]]
"""Of each message the fields that are read: name, number and type; `*` for repeated ones."""


def describe(package: str, messages: Messages, name: str) -> Any:
    """The class of the message of that name."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto2"
    )
    for each, fields in messages.items():
        message = file.message_type.add(name=each)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if kind.endswith("*"):
                field.label = _Field.LABEL_REPEATED
            if (kind := kind.removesuffix("*")) in _TYPES:
                field.type = _TYPES[kind]
            else:
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))


def parse(message: Any, path: Path) -> Any:
    """Fills a message from a file, and returns it.

    Raises:
        Exception: of any kind, where the file is damaged; the caller names the file.
    """
    if path.stat().st_size >= 2**31:
        raise ValueError("2 GB or more, which Protocol Buffers do not hold")
    message.ParseFromString(path.read_bytes())
    return message


def shaped(numbers: np.ndarray, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The numbers in a shape that a file gives, which is checked before anything is done with it.

    Raises:
        ValueError: the shape does not belong to so many numbers.
    """
    bad = len(shape) > _MOST_AXES or min(shape, default=0) < 0
    if bad or math.prod(shape) != numbers.size:
        raise ValueError(
            f"{what} of {numbers.size} numbers has another shape: {shape[:_MOST_AXES]}"
        )
    return numbers.reshape(shape)
