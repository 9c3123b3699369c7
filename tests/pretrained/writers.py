"""Writes small weight files byte by byte, as PyTorch, Caffe and exporters to ONNX do."""

import pickle
import struct
import zipfile

import numpy as np

from jaxreid.pretrained import caffemodel, onnxfile

MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {"f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage"}


def text(value):
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value):
    return b"J" + struct.pack("<i", value)


def several(*items):
    return b"(" + b"".join(items) + b"t"


def tensor(key, numel, offset, shape, strides, kind="FloatStorage", legacy=False):
    """The steps that describe a tensor: a view of storage `key`."""
    storage = [text("storage"), f"ctorch\n{kind}\n".encode(), text(key), text("cpu")]
    storage += [integer(numel), *([b"N"] if legacy else [])]
    sizes = [several(*map(integer, shape)), several(*map(integer, strides))]
    view = [several(*storage) + b"Q", integer(offset), *sizes, b"\x89", ORDERED_DICT]
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + several(*view) + b"R"


ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def program(items, wrapper=None):
    """The pickle of a state dict, of names and the steps that make their values."""
    steps = ORDERED_DICT + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"
    # Attributes of the state dict, as PyTorch writes them.
    steps += b"}" + text("_metadata") + ORDERED_DICT + b"sb"
    if wrapper is not None:
        epoch = text("epoch") + integer(3)
        steps = b"}(" + epoch + text(wrapper) + steps + b"u"
    return b"\x80\x02" + steps + b"."


def strides_of(array):
    return [stride // array.itemsize for stride in array.strides]


def state_program(arrays, wrapper=None, legacy=False):
    items = {
        name: tensor(str(i), a.size, 0, a.shape, strides_of(a), STORAGES[a.dtype.str[1:]], legacy)
        for i, (name, a) in enumerate(arrays.items())
    }
    return program(items, wrapper)


def write_records(path, pickled, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
    return path


def write_zip(path, arrays, wrapper=None):
    storages = [(i, a.tobytes()) for i, a in enumerate(arrays.values())]
    return write_records(path, state_program(arrays, wrapper), storages)


def write_legacy(path, arrays, wrapper=None):
    content = legacy_head() + state_program(arrays, wrapper, legacy=True)
    content += pickle.dumps([str(i) for i in range(len(arrays))], 2)
    for array in arrays.values():
        content += struct.pack("<q", array.size) + array.tobytes()
    path.write_bytes(content)
    return path


def legacy_head():
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    return b"".join(pickle.dumps(value, 2) for value in (MAGIC, 1001, info))


def write_caffe(path, layers, v1=False):
    """Layers as lists of blobs, in Caffe's present form or, with `v1`, in that of 2013."""
    net = caffemodel.describe()()
    for name, blobs in layers.items():
        layer = (net.layers if v1 else net.layer).add(name=name)
        for blob in blobs:
            message = layer.blobs.add(data=[np.float32(blob).tobytes()])
            if v1:
                ones = [1] * (4 - blob.ndim)
                message.num, message.channels, message.height, message.width = [*ones, *blob.shape]
            else:
                message.shape.dim.extend(blob.shape)
    path.write_bytes(net.SerializeToString())
    return path


def write_onnx(path, nodes):
    """Nodes as (name, kind, the arrays of its inputs behind the first, by their names)."""
    model = onnxfile.describe()()
    for place, kind, arrays in nodes:
        model.graph.node.add(name=place, op_type=kind, input=["x", *arrays])
        for name, array in arrays.items():
            number = {"f4": 1, "f2": 10, "i8": 7}[array.dtype.str[1:]]
            model.graph.initializer.add(
                name=name, data_type=number, dims=array.shape, raw_data=array.tobytes()
            )
    path.write_bytes(model.SerializeToString())
    return path
