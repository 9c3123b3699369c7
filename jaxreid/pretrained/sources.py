"""Reads weight files of every supported kind into arrays by their published names."""

import contextlib
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes  # noqa: F401  (NumPy learns of bfloat16)
import numpy as np
import safetensors

from jaxreid.errors import UserError
from jaxreid.logs import quiet
from jaxreid.paths import local_path
from jaxreid.pretrained import caffemodel, onnxfile, torchfile

HUB = "hf://"
HUB_FILE = "model.safetensors"
FORMAT = "jaxreid weights 1"

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".caffemodel", ".onnx")


class Raw(NamedTuple):
    """What a file holds.

    Attributes:
        source: its name, for messages.
        family: whose names and axes the arrays have. `ours` are weights that `save` wrote or a
            run's checkpoint.
        arrays: by their names; floats of less than 32 bits are widened.
        arch: of our own files, the architecture that they were made for; else None.
        whole: of our own: a whole network, not a backbone.
        preprocessing: mean and deviation in 0..1, RGB, where a file beside the weights gives them.
    """

    source: str
    family: Literal["torch", "caffe", "ours"]
    arrays: dict[str, np.ndarray]
    arch: str | None = None
    whole: bool = False
    preprocessing: tuple[list[float], list[float]] | None = None


def read(source: str | Path) -> Raw:
    """Reads weights.

    Args:
        source: a file of PyTorch (`.pth`, `.pt`, `.bin`, `.tar`, `.ckpt`), safetensors, Caffe
            (`.caffemodel`) or ONNX (`.onnx`, exported from PyTorch); `hf://owner/name` or
            `hf://owner/name/file` of the Hugging Face Hub; or the folder of one of our runs, of
            which the newest checkpoint is read.

    Raises:
        UserError: the file is not there, is damaged, is of another kind, or asks for something
            that no weights file needs. Nothing in it is run.
    """
    path = _download(source) if str(source).startswith(HUB) else Path(local_path(str(source)))
    if not path.is_dir() and names_a_run(str(path)):
        raise UserError(f"{source}: expected a run's folder or a file {', '.join(SUFFIXES)}")
    try:
        return _read_file(str(source), path)
    except UserError:
        raise
    except torchfile.Refused as error:
        raise UserError(f"{source}: refused: {error}") from error
    except torchfile.NoWeights as error:
        raise UserError(f"{source}: holds no weights: {error}") from error
    except (FileNotFoundError, PermissionError) as error:
        raise UserError(f"{source}: {error.strerror or 'No such file'}") from error
    # A damaged file makes its reader fail in any way, and none of them is ours to list.
    except Exception as error:
        raise UserError(f"{source}: damaged, or not weights: {one_line(error)}") from error


def names_a_run(source: str) -> bool:
    """Whether a source is the folder of one of our runs, by its name."""
    return not source.startswith(HUB) and not source.lower().endswith(SUFFIXES)


def _read_file(source: str, path: Path) -> Raw:
    if path.is_dir():
        from jaxreid.checkpoint import load_variables  # takes a while to import

        return Raw(source, "ours", flatten(load_variables(path)), whole=True)
    if path.suffix.lower() == ".caffemodel":
        return Raw(source, "caffe", _widen(caffemodel.read(path)))
    if path.suffix.lower() == ".onnx":
        return Raw(source, "torch", _widen(onnxfile.read(path)))
    if path.suffix.lower() in TORCH_SUFFIXES:
        return Raw(
            source, "torch", _widen(torchfile.read(path)), preprocessing=_preprocessing(path)
        )
    metadata, arrays = _read_safetensors(path)
    if metadata.get("format") == FORMAT:
        arch, whole = metadata["arch"] or None, metadata["whole"] == "yes"
        return Raw(source, "ours", _widen(arrays), arch, whole)
    return Raw(source, "torch", _widen(arrays), preprocessing=_preprocessing(path))


def _read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    with safetensors.safe_open(path, framework="np") as file:
        arrays = {}
        for name in file.keys():  # noqa: SIM118 (not a dict)
            if (kind := file.get_slice(name).get_dtype()).startswith("F8"):
                raise ValueError(f"{name} is of type {kind}; expected 16 bits or more")
            arrays[name] = file.get_tensor(name)
        return dict(file.metadata() or {}), arrays


def _widen(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Floats of 16 bits in float32."""
    # NumPy takes ml_dtypes' floats for a kind of their own.
    return {
        name: array.astype(np.float32) if array.dtype.kind == "V" or array.dtype == "<f2" else array
        for name, array in arrays.items()
    }


def _preprocessing(path: Path) -> tuple[list[float], list[float]] | None:
    """Mean and deviation of timm's `config.json` beside the weights, if it is there."""
    config = path.with_name("config.json")
    if path.suffix not in (".safetensors", ".bin") or not config.is_file():
        return None
    try:
        content = json.loads(config.read_bytes())
        content = content.get("pretrained_cfg", content)
        if "mean" not in content and "std" not in content:
            return None
        values = np.array([content["mean"], content["std"]], np.float64)
        if values.shape != (2, 3) or not np.all(np.isfinite(values)) or not np.all(values[1] > 0):
            raise ValueError(f"mean {content['mean']}, std {content['std']}")
    except Exception as error:
        raise UserError(
            f"{config}: expected three numbers as mean and as std: {one_line(error)}"
        ) from error
    mean, std = values.tolist()
    return mean, std


def _download(source: str | Path) -> Path:
    """The file in the local cache of the Hub, fetched if it is not there yet."""
    owner, _, rest = str(source).removeprefix(HUB).partition("/")
    name, _, file = rest.partition("/")
    if not owner or not name:
        raise UserError(f"{source}: expected {HUB}owner/name or {HUB}owner/name/file")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise UserError(
            f"{source}: the Hugging Face Hub needs huggingface_hub; install it with"
            " pip install 'jaxreid[hf]'"
        ) from error
    repository = f"{owner}/{name}"
    try:
        with quiet("huggingface_hub"):
            path = Path(hf_hub_download(repository, file or HUB_FILE))
            folder = Path(file).parent.as_posix()
            config = "config.json" if folder == "." else f"{folder}/config.json"
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(repository, config)
        return path
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{source}: the Hub cannot be reached, and {file or HUB_FILE} is not in its local"
            f" cache ({one_line(error.__cause__ or error)})"
        ) from error
    except Exception as error:
        raise UserError(f"{source}: {one_line(error)}") from error


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, with names such as `params/conv1/kernel`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{below}": leaf for below, leaf in flatten(value).items()}
        else:
            flat[name] = value
    return flat


def one_line(error: BaseException) -> str:
    """The first line of what an error says, for messages that must be one line."""
    # A KeyError says only its key.
    said = f"KeyError {error}" if isinstance(error, KeyError) else str(error)
    text = said.partition("\n")[0]
    text = "".join(c if " " <= c <= "~" else "?" for c in text[:200])
    return text or type(error).__name__
