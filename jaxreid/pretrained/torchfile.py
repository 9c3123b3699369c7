"""PyTorch's weight files, read without PyTorch and without unpickling.

A `.pth` file is a pickle, which describes the tensors, and raw storages, which hold their numbers:
as records of a zip archive, or one behind the other (before PyTorch 1.6). A pickle is a program.
Even held to a few names, Python's unpickler can be made to crash, to hang or to fill the memory.
So it is not used: `pickletools` decodes the program, and the few steps that weight files need are
taken here, on numbers, strings, tuples, lists, dicts and descriptions of tensors.
"""

import functools
import io
import math
import mmap
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

# The pickles that a file in the older format starts with: two numbers that mark the format, and
# what machine wrote it.
MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

# Far more than the names and shapes of any network; a longer program would take long to decode.
_LONGEST_PICKLE = 2**23
_MOST_AXES = 8
_MOST_ARGUMENTS = 16


# Where there is more than one: the first. The mean over the steps stands behind the weights.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "model_ema", "ema")


class NoWeights(Exception):
    """The file is whole, and no weights are where they would be expected."""


class Refused(Exception):
    """A file asks for something by a name that no weights file needs."""


class _Storage(NamedTuple):
    """Numbers that lie one behind the other: `length` of them, from `start` of storage `key`."""

    key: str
    dtype: np.dtype
    start: int
    length: int


class _Tensor:
    """A view of a storage. Not a tuple, so that no tuple of the file can pass for one."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any) -> None:
        """Checks what the file says before anything is read or computed with it."""
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        if len(shape) != len(strides) or len(shape) > _MOST_AXES:
            raise ValueError("a tensor's shape and strides do not belong together")
        sizes = (offset, storage.start, storage.length, *shape, *strides)
        if not all(type(n) is int and 0 <= n < 2**48 for n in sizes):
            raise ValueError("a tensor's sizes are not numbers of elements")
        self.storage, self.offset = storage, offset
        self.shape, self.strides = tuple(shape), tuple(strides)
        self.size = math.prod(shape)
        last = sum((n - 1) * stride for n, stride in zip(shape, strides))
        if self.size and (self.size > storage.length or offset + last >= storage.length):
            raise ValueError("a tensor reaches outside its storage")

    def view(self, data: Any) -> np.ndarray:
        """The tensor's numbers, of the bytes of its storage, without a copy."""
        dtype, start = self.storage.dtype, self.storage.start
        numbers = np.frombuffer(data, dtype, count=start + self.storage.length)[start:]
        if not self.size:
            return np.zeros(self.shape, dtype)
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.shape, strides, writeable=False
        )


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that `torch.save` wrote, as read-only views of what was read.

    Args:
        path: of a state dict, or of a dict that holds one under one of `WRAPPERS`.

    Raises:
        Refused: the file asks for something that no weights file needs.
        NoWeights: it is read, and holds none.
        Exception: of any other kind, where the file is damaged; the caller names the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
        tensors, fetch = _open_zip(file, size) if is_zip else _open_legacy(file)
        # Views may overlap, but no network shares so much of its weights with itself.
        if sum(tensor.size for tensor in tensors.values()) > 2 * size:
            raise ValueError("its tensors hold far more numbers than the file")
        return {name: tensor.view(fetch(tensor.storage.key)) for name, tensor in tensors.items()}


def _open_zip(file: BinaryIO, size: int) -> tuple[dict[str, _Tensor], Callable[[str], Any]]:
    """The tensors, and what reads the bytes of a storage: PyTorch 1.6 and later."""
    archive = zipfile.ZipFile(file)
    records = archive.infolist()
    # PyTorch does not compress. So nothing can grow beyond the size of the file.
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError("compressed records, which PyTorch does not write")
    if sum(record.file_size for record in records) > size:
        raise ValueError("its records are longer than the file")
    programs = [record for record in records if record.filename.endswith("data.pkl")]
    if len(programs) != 1 or programs[0].file_size > _LONGEST_PICKLE:
        raise ValueError("expected one record data.pkl of a few MB at most")
    root = programs[0].filename.removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist():
        _require_little_endian(archive.read(f"{root}byteorder") == b"little")
    tensors = _state_dict(_evaluate(io.BytesIO(archive.read(programs[0])), {}))
    return tensors, functools.cache(lambda key: archive.read(f"{root}data/{key}"))


def _open_legacy(file: BinaryIO) -> tuple[dict[str, _Tensor], Callable[[str], Any]]:
    """The same of the older format: pickles and storages, one behind the other."""
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        known = _evaluate(content, {}) == MAGIC and _evaluate(content, {}) == LEGACY_VERSION
    except Refused:
        raise
    except Exception:  # of what is no pickle, the decoder complains in any way
        known = False
    if not known:
        raise ValueError("in none of PyTorch's formats")
    _require_little_endian(_evaluate(content, {})["little_endian"])
    dtypes: dict[str, np.dtype] = {}
    tensors = _state_dict(_evaluate(content, dtypes))
    places = {}
    for key in _evaluate(content, {}):
        if type(key) is not str:
            raise ValueError("storages without names")
        nbytes = int.from_bytes(content.read(8), "little") * dtypes[key].itemsize
        places[key] = slice(content.tell(), content.tell() + nbytes)
        content.seek(nbytes, io.SEEK_CUR)
    return tensors, lambda key: memoryview(content)[places[key]]


def _require_little_endian(holds: Any) -> None:
    if holds is not True:
        raise ValueError("written on a big-endian machine, which is not supported")


def _state_dict(value: Any) -> dict[str, _Tensor]:
    """The tensors by their names, from below the keys that training scripts put them under."""
    while isinstance(value, dict):
        tensors = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, _Tensor)}
        if tensors:
            return tensors
        below = [value[key] for key in WRAPPERS if isinstance(value.get(key), dict)]
        if not below:
            keys = ", ".join(ascii(key)[:40] for key in list(value)[:8])
            raise NoWeights(f"no tensors by their names; its keys are {keys or 'none'}")
        value = below[0]
    raise ValueError("no state dict: expected tensors by their names")


def _ordered_dict(items: Any = None) -> dict[Any, Any]:
    """Python 2 gives the pairs as a list. It is used up, so that it cannot be copied often."""
    result: dict[Any, Any] = {}
    if items:
        items.reverse()
    while items:
        key, value = items.pop()
        _put(result, [key, value])
    return result


def _put(target: Any, items: list[Any]) -> None:
    """Keys and values by turns. Only plain keys: to hash a nested tuple can take for ever."""
    if not isinstance(target, dict) or not all(type(k) in (str, int) for k in items[::2]):
        raise ValueError("a dict with keys that are not names")
    target.update(zip(items[::2], items[1::2], strict=True))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


def _size(shape: Any) -> tuple[Any, ...]:
    if len(shape) > _MOST_AXES:
        raise ValueError("a shape with too many axes")
    return tuple(shape)


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _nothing(*_: Any) -> None:
    """Stands for a scalar among the tensors, such as the best score so far."""


# What a pickle may name, and what stands for it here.
NAMES: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    **{f"torch.cuda.{name}": dtype for name, dtype in STORAGES.items()},
    **dict.fromkeys(("torch.float64", "torch.float32", "torch.float16", "torch.bfloat16")),
    **dict.fromkeys(("torch.int64", "torch.int32", "torch.int16", "torch.int8", "torch.uint8")),
    "torch.bool": None,
    "numpy.dtype": _nothing,
    "numpy.core.multiarray.scalar": _nothing,
    "numpy._core.multiarray.scalar": _nothing,
    "_codecs.encode": _nothing,
}

# Steps that put their argument on the stack.
_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip


def _evaluate(file: Any, dtypes: dict[str, np.dtype]) -> Any:
    """The value that the pickle at the file's position describes. Stops behind it.

    Args:
        file: a `BytesIO` or a memory map: neither reads more than there is.
        dtypes: gets the type of every storage, by its key.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def named(module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise ValueError("asks for something without a name")
        full = f"{module}.{name}"
        if full not in NAMES:
            shown = ascii(full)[1:-1][:100]
            raise Refused(f"it asks for {shown}, which no weights file needs")
        return NAMES[full]

    def above_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def storage(kind: Any, dtype: Any, key: Any, _: Any, length: Any, view: Any = None) -> _Storage:
        if kind != "storage" or not isinstance(dtype, np.dtype) or type(key) is not str:
            raise ValueError("refers to something that is not a storage")
        dtypes[key] = dtype
        _, start, length = view or (None, 0, length)
        return _Storage(key, dtype, start, length)

    begin = file.tell()
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        if file.tell() - begin > _LONGEST_PICKLE:
            raise ValueError("its description of the tensors is too long")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case name if name in _CONSTANTS:
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE" as name:
                stack.append(name == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                marks.append(len(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                marks.append(len(stack) - int(name[-1]))
                stack.append(tuple(above_mark()))
            case "TUPLE":
                stack.append(tuple(above_mark()))
            case "LIST":
                stack.append(above_mark())
            case "DICT":
                items = above_mark()
                stack.append({})
                _put(stack[-1], items)
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = above_mark()
                stack[-1].extend(items)
            case "SETITEM":
                item, key = stack.pop(), stack.pop()
                _put(stack[-1], [key, item])
            case "SETITEMS":
                items = above_mark()
                _put(stack[-1], items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" | "INST" as name:
                value = named(*argument.split(" ", 1))
                stack.append(value if name == "GLOBAL" else value(*above_mark()))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(named(module, name))
            case "BINPERSID":
                stack.append(storage(*stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if len(arguments) > _MOST_ARGUMENTS:
                    raise ValueError("too many arguments")
                stack.append(function(*arguments))
            case "BUILD":
                # Attributes of what was made, such as a state dict's versions: not needed.
                stack.pop()
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"takes the step {other}, which no weights file needs")
    raise ValueError("ends early")
