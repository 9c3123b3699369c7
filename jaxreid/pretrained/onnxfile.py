"""ONNX files that PyTorch exported, as the weights that they were exported from.

An exporter keeps the names of most weights. Of a convolution into which it has folded a BatchNorm
it keeps the place alone, as the name of the graph's node: `/conv2/conv2.0/conv1/conv/Conv` is the
module `conv2.0.conv1.conv`. Nothing of the graph is run, and the package `onnx` is not needed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from jaxreid.pretrained import protobuf

_MESSAGES: protobuf.Messages = {
    "Tensor": [
        ("dims", 1, "int64*"),
        ("data_type", 2, "int32"),
        ("float_data", 4, "bytes*"),
        ("name", 8, "string"),
        ("raw_data", 9, "bytes"),
        ("data_location", 14, "int32"),
    ],
    "Node": [("input", 1, "string*"), ("name", 3, "string"), ("op_type", 4, "string")],
    "Graph": [("node", 1, "Node*"), ("initializer", 5, "Tensor*")],
    "Model": [("graph", 7, "Graph")],
}
# The numbers of types, as far as weights have them.
_TYPES: dict[int, Any] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
# The inputs that are weights, of each kind of node that has some.
_NORM = ("weight", "bias", "running_mean", "running_var")
_LEAVES = {
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "InstanceNormalization": ("weight", "bias"),
    "BatchNormalization": _NORM,
}


def describe() -> Any:
    """The class of ONNX's `ModelProto`, with the few fields that hold weights and their places."""
    return protobuf.describe("onnx", _MESSAGES, "Model")


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights by the names that PyTorch has for them.

    Raises:
        Exception: of any kind, where the file is damaged; the caller names the file.
    """
    graph = protobuf.parse(describe()(), path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    arrays: dict[str, np.ndarray] = {}
    for node in graph.node:
        for leaf, name in zip(_LEAVES.get(node.op_type, ()), node.input[1:]):
            if name in tensors:
                own = name if name.endswith(f".{leaf}") else f"{_module(node.name)}.{leaf}"
                # A layer that is used several times has several nodes.
                arrays.setdefault(own, _array(tensors[name]))
    if not arrays:
        raise ValueError("no layer with weights")
    return arrays


def _module(place: str) -> str:
    """`/conv2/conv2.0/conv1/conv/Conv` -> `conv2.0.conv1.conv`: children of a list repeat it."""
    *parts, _ = place.strip("/").split("/")
    own = [part for part, below in zip(parts, [*parts[1:], ""]) if not below.startswith(f"{part}.")]
    return ".".join(own)


def _array(tensor: Any) -> np.ndarray:
    if tensor.data_location:
        raise ValueError(f"{tensor.name[:80]} is in another file; expected all weights in this one")
    if tensor.data_type not in _TYPES:
        raise ValueError(f"{tensor.name[:80]} is of type {tensor.data_type}; expected floats")
    data = tensor.raw_data or b"".join(tensor.float_data)
    kind: Any = _TYPES[tensor.data_type] if tensor.raw_data else np.dtype("<f4")
    return protobuf.shaped(np.frombuffer(data, kind), tuple(tensor.dims), "a tensor")
