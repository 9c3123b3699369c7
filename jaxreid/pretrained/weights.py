"""Published arrays -> our names and axes -> a model's variables; and our own file for them."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from jaxreid.errors import UserError
from jaxreid.pretrained import rules, sources
from jaxreid.pretrained.rules import Architecture
from jaxreid.pretrained.sources import Raw

BACKBONE = "backbone"
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "base.")
# Of a whole network: it depends on the number of persons.
_CLASSIFIER = r"(.*/)?\w*classifier\w*"
# Of a network around a backbone, what tells it from the backbone alone.
_NECK = "bottleneck"
# Of a transformer's patches; rows that are not resized keep the grid of the file.
_POSITION = "position"
# PyTorch's names of a recurrent layer's leaves.
_RECURRENT = {
    "weight_ih_l0": "kernel",
    "weight_hh_l0": "recurrent",
    "bias_ih_l0": "bias",
    "bias_hh_l0": "recurrent_bias",
}


# PyTorch's of its own attention, whose three matrices are one.
_ATTENTION = {"in_proj_weight": "weight", "in_proj_bias": "bias"}
# Of TransReID's transformers and timm's, and of CLIP's.
_TRANSFORMER = {
    "cls_token": "class_token",
    "class_embedding": "class_token",
    "pos_embed": "position",
    "positional_embedding": "position",
    "proj": "projection",
    "sie_embed": "cameras/embedding",
    "cv_embed": "cameras/embedding",
}


class Weights(NamedTuple):
    """Weights in our layout.

    Attributes:
        source: where they come from, for messages.
        arch: the architecture, or None for a run's whole network.
        leaves: by our names, float32: `params/conv1/kernel`, `batch_stats/bn1/mean`,
            `preprocessing/mean` and `preprocessing/std` (RGB, in grey levels 0..255; the network
            sees (image - mean) / std).
        whole: a whole network, and not a backbone.
        dropped: published names that have no meaning here.
    """

    source: str
    arch: str | None
    leaves: dict[str, np.ndarray]
    whole: bool = False
    dropped: tuple[str, ...] = ()


class Report(NamedTuple):
    """What `install` did.

    Attributes:
        weights: what was put in.
        taken: names of the leaves that the model has now.
        left_out: what was left out by rule, and why, one entry for each leaf.
        resized: position embeddings that were made for another grid, and the two grids.
    """

    weights: Weights
    taken: tuple[str, ...]
    left_out: tuple[str, ...]
    resized: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        arch = f" ({self.weights.arch})" if self.weights.arch else ""
        rest = f"; resized bilinearly: {', '.join(self.resized)}" if self.resized else ""
        rest += f"; left out by rule: {_few(self.left_out)}" if self.left_out else ""
        return f"{self.weights.source}{arch}: {len(self.taken)} arrays{rest}"


def convert(source: str | Path | Raw, arch: str | None = None) -> Weights:
    """Weights of an architecture, read and brought into our layout.

    Args:
        source: see `read`, or what it returned.
        arch: one of `rules.ARCHITECTURES`. Our own files know theirs. Where a file holds a whole
            network around this backbone, as a release of a paper's does, it is read as that.

    Raises:
        UserError: the source cannot be read, or holds something else.
    """
    if arch is not None:
        rules.architecture(arch)
    raw = source if isinstance(source, Raw) else sources.read(source)
    if raw.family == "ours":
        known = arch and {arch, rules.architecture(arch).backbone}
        if known and not raw.whole and raw.arch not in known:
            raise UserError(f"{raw.source}: weights of {raw.arch}; expected {arch}")
        leaves = {name: np.array(leaf, np.float32) for name, leaf in raw.arrays.items()}
        return Weights(raw.source, raw.arch, leaves, raw.whole)
    if arch is None:
        choices = ", ".join(rules.ARCHITECTURES)
        raise UserError(f"{raw.source}: say with --arch which network this is: {choices}")
    arch = _whole_network(raw, arch)
    chosen = rules.architecture(arch)
    table = chosen.torch if raw.family == "torch" else chosen.caffe
    if not table:
        raise UserError(f"{raw.source}: there are no weights of {arch} in such files")
    arrays, beside = _without_prefixes(raw.arrays, table)
    arrays = _unfolded(arrays, chosen)
    leaves, dropped, unknown = {}, list(beside), []
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition(".")
        ours = rules.rename(layer, table)
        if ours is None:
            unknown.append(name)
        elif ours == rules.IGNORED or leaf == "num_batches_tracked":
            dropped.append(name)
        elif leaf == "bias" and chosen.unshifted and re.fullmatch(chosen.unshifted, ours):
            if np.any(array):
                raise UserError(f"{raw.source}: {name} is not of {arch}: expected zeros")
            dropped.append(name)
        else:
            try:
                found = _convert_leaf(ours, leaf, array, chosen)
            except ValueError as error:
                raise UserError(f"{raw.source}: {name} is not of {arch}: {error}") from error
            for key, value in found.items():
                if raw.family == "caffe" and key == f"params/{chosen.first}/kernel":
                    value = value[:, :, ::-1]
                leaves[key] = np.array(value, np.float32, order="C")
    if unknown:
        raise UserError(f"{raw.source}: not weights of {arch}: {_few(unknown)} not known there")
    if broken := [name for name, leaf in leaves.items() if not np.isfinite(leaf).all()]:
        raise UserError(f"{raw.source}: weights that are not finite: {_few(broken)}")
    for new, old in chosen.copies.items():
        above = f"params/{old}/"
        leaves |= {
            name.replace(above, f"params/{new}/"): leaf
            for name, leaf in leaves.items()
            if name.startswith(above)
        }
    below = f"preprocessing/{BACKBONE}/" if chosen.whole else "preprocessing/"
    mean, std = _preprocessing(raw, chosen)
    leaves = {f"{below}mean": mean, f"{below}std": std} | leaves
    return Weights(raw.source, arch, leaves, chosen.whole, tuple(dropped))


def known(raw: Raw, arch: str) -> int:
    """How many of a file's arrays an architecture has by their names, whatever their shapes.

    Raises:
        UserError: there is no such architecture.
    """
    chosen = rules.architecture(arch)
    table = chosen.torch if raw.family == "torch" else chosen.caffe
    arrays, _ = _without_prefixes(raw.arrays, table)
    return sum(rules.rename(name.rpartition(".")[0], table) is not None for name in arrays)


def _whole_network(raw: Raw, arch: str) -> str:
    """The architecture around a backbone that a file holds more than the backbone of, or `arch`.

    Of an architecture that is asked for, the backbone where the file holds no more.
    """
    asked = rules.architecture(arch)
    if asked.backbone is not None:
        arrays, _ = _without_prefixes(raw.arrays, asked.torch)
        names = {rules.rename(each.rpartition(".")[0], asked.torch) for each in arrays}
        return arch if _NECK in names else asked.backbone
    for name, whole in rules.ARCHITECTURES.items():
        if raw.family == "torch" and whole.around == arch:
            arrays, _ = _without_prefixes(raw.arrays, whole.torch)
            layers = {rules.rename(each.rpartition(".")[0], whole.torch) for each in arrays}
            heads = {layer for layer in layers if layer and not layer.startswith(BACKBONE)}
            if None not in layers and any(not re.fullmatch(_CLASSIFIER, head) for head in heads):
                return name
    return arch


def _without_prefixes(
    arrays: dict[str, np.ndarray], table: rules.Rules
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The network's own names, and the names of what is beside it, such as a trainer's heads.

    `DataParallel`, `torch.compile` and whole models with a backbone put a prefix before each name.
    It goes where most names have it, unless the table knows them with it.
    """

    def known(name: str) -> bool:
        return rules.rename(name.rpartition(".")[0], table) is not None

    beside: tuple[str, ...] = ()
    for _ in PREFIXES:  # One may be before another.
        for prefix in PREFIXES:
            names = [name for name in arrays if name.startswith(prefix) and not known(name)]
            if 2 * len(names) > len(arrays):
                beside += tuple(name for name in arrays if not name.startswith(prefix))
                arrays = {name.removeprefix(prefix): arrays[name] for name in names}
    return arrays, beside


def _unfolded(arrays: dict[str, np.ndarray], arch: Architecture) -> dict[str, np.ndarray]:
    """The BatchNorms again that were folded into convolutions: each adds its convolution's bias."""
    found = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition(".")
        norm = rules.rename(layer, arch.folded) if leaf == "bias" else None
        if norm is None or f"{norm}.running_mean" in arrays:
            found[name] = array
        else:
            one = np.ones(array.shape, np.float32)
            found |= {f"{norm}.weight": one, f"{norm}.bias": array, f"{norm}.running_mean": 0 * one}
            found[f"{norm}.running_var"] = one - np.float32(1e-5)  # BatchNorm adds that.
    return found


def _convert_leaf(
    layer: str, leaf: str, array: np.ndarray, arch: Architecture
) -> dict[str, np.ndarray]:
    """Our full name of a leaf, and the leaf with its axes in our order; two of a position
    embedding, whose first row is the class token's."""
    if leaf in _TRANSFORMER:
        return _transformer_leaf(layer, leaf, array)
    key, value = _layer_leaf(layer, _ATTENTION.get(leaf, leaf), array, arch)
    return {key: value}


def _transformer_leaf(layer: str, leaf: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """What stands beside a transformer's layers. Grids of positions stay flat: see `install`."""
    above, ours = f"params/{layer}/" if layer else "params/", _TRANSFORMER[leaf]
    if ours == "cameras/embedding":
        return {f"params/{ours}": array.reshape(len(array), -1)}
    if ours == "projection":
        return {above + ours: array}
    rows = array.reshape(-1, array.shape[-1])
    if ours == "class_token":
        return {above + ours: rows[0]} if len(rows) == 1 else {above + ours: array}
    return {f"{above}class_position": rows[0], above + ours: rows[1:]}


def _layer_leaf(
    layer: str, leaf: str, array: np.ndarray, arch: Architecture
) -> tuple[str, np.ndarray]:
    if leaf in ("running_mean", "running_var"):
        return f"batch_stats/{layer}/{leaf.removeprefix('running_')}", array
    if leaf == "bias":
        return f"params/{layer}/bias", array
    if leaf in ("pixel_mean", "pixel_std"):
        return f"preprocessing/{layer}/{leaf.removeprefix('pixel_')}", array.reshape(3)
    if leaf == "p":  # of generalised-mean pooling
        return f"params/{layer}/p", array
    if leaf in _RECURRENT:
        return f"params/{layer}/{_RECURRENT[leaf]}", array.T
    if leaf != "weight":
        raise ValueError(f"no layer has a {leaf}")
    if array.ndim == 1:
        return f"params/{layer}/scale", array
    if array.ndim == 2 and layer in arch.unrolled:
        # Published maps are unrolled channel by channel, ours position by position.
        array = array.reshape(-1, *arch.unrolled[layer])
    linear = re.fullmatch(rules.LINEAR, layer)
    if array.ndim == 2:
        array = array[:, :, None, None]
    if array.ndim == 3 and linear:  # over frames
        array = array[:, :, :, None]
    if array.ndim != 4:
        raise ValueError(f"{array.ndim} axes; expected 1, 2 or 4")
    kernel = array.transpose(2, 3, 1, 0)
    if linear:
        kernel = kernel.reshape(-1, kernel.shape[-1])
    return f"params/{layer}/kernel", kernel


def _preprocessing(raw: Raw, arch: Architecture) -> tuple[np.ndarray, np.ndarray]:
    if raw.family == "caffe":
        return np.array(arch.caffe_mean, np.float32), np.ones(3, np.float32)
    mean, std = raw.preprocessing or arch.torch_preprocessing
    return 255 * np.array(mean, np.float32), 255 * np.array(std, np.float32)


def save(weights: Weights, path: str | Path) -> None:
    """Writes our own file: the leaves as safetensors, architecture and format as its metadata.

    Raises:
        UserError: it cannot be written there.
    """
    whole = "yes" if weights.whole else "no"
    metadata = {"format": sources.FORMAT, "arch": weights.arch or "", "whole": whole}
    try:
        safetensors.numpy.save_file(weights.leaves, path, metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be written: {sources.one_line(error)}") from error


def load(path: str | Path) -> Weights:
    """Weights that `save` wrote.

    Raises:
        UserError: the file is damaged or another one.
    """
    raw = sources.read(path)
    if raw.family != "ours":
        raise UserError(f"{path}: not weights in our layout; convert them first")
    return convert(raw)


def install(
    variables: dict[str, Any], source: str | Path | Weights, arch: str | None = None
) -> tuple[dict[str, Any], Report]:
    """Puts weights into the variables of a model.

    A backbone's go below the key `backbone` of every collection; all of that must be there then,
    but for heads: a classifier (of VGG-16 and CaffeNet also fc6 and fc7, of GoogLeNet also the
    auxiliary classifiers) that the model lacks or has in another size is left out. Of a whole
    network, what belongs to a classifier may be missing, too. A position embedding of a square grid
    is resized to the model's, as those of ImageNet and of CLIP are for images of persons.

    Args:
        variables: nested dicts as the model's `init` made them, of arrays or of their shapes.
        source: weights, or where to read them; see `read`.
        arch: see `convert`.

    Returns:
        The variables with NumPy arrays for the leaves that were given, and what was done. The
        argument stays as it was.

    Raises:
        UserError: the weights cannot be read or do not fit; names the leaves.
    """
    weights = source if isinstance(source, Weights) else convert(source, arch)
    model = sources.flatten(variables)
    if weights.whole:
        given = weights.leaves
        there = model
        heads = _CLASSIFIER
    else:
        given = {_below_backbone(name): leaf for name, leaf in weights.leaves.items()}
        there = {name: leaf for name, leaf in model.items() if name.split("/")[1] == BACKBONE}
        heads = rf"{BACKBONE}/({rules.architecture(str(weights.arch)).heads})"

    given, resized = _fit_positions(given, there)
    fits = {n for n in given.keys() & there.keys() if np.shape(given[n]) == np.shape(there[n])}
    skipped = {
        _layer(name)
        for name in given.keys() - fits
        if re.fullmatch(heads, _layer(name)) is not None
    }
    taken, left_out, wrong, unexpected = {}, [], [], []
    for name, leaf in sorted(given.items()):
        if name in there and name not in fits:
            why = f"{np.shape(leaf)}, the model's is {np.shape(there[name])}"
        else:
            why = "" if name in fits else "the model has none"
        if _layer(name) in skipped:
            left_out.append(f"{name} ({why or 'with its layer'})")
        elif name in fits:
            taken[name] = leaf.astype(there[name].dtype)
        elif name in there:
            wrong.append(f"{name} {why}")
        else:
            unexpected.append(name)
    missing = sorted(there.keys() - given.keys())
    if weights.whole:
        replaced = [name for name in missing if re.fullmatch(heads, _layer(name))]
        left_out += [f"{name} (the file has none)" for name in replaced]
        missing = [name for name in missing if name not in replaced]
    problems = [
        f"{kind} {_few(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        of = f" of {weights.arch}" if weights.arch else ""
        raise UserError(
            f"{weights.source}: weights{of} do not fit the model: {'; '.join(problems)}"
        )
    report = Report(weights, tuple(taken), tuple(left_out), resized)
    return _unflatten({**model, **taken}), report


def _fit_positions(
    given: dict[str, np.ndarray], there: dict[str, Any]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The position embeddings on the model's grids, where they can be; and which were resized."""
    found, resized = dict(given), []
    for name in given.keys() & there.keys():
        wanted, leaf = np.shape(there[name]), given[name]
        if name.rpartition("/")[2] != _POSITION or wanted[-1:] != leaf.shape[-1:]:
            continue
        places = math.prod(leaf.shape[:-1])
        side = math.isqrt(places)
        if leaf.ndim == 2 and places == math.prod(wanted[:-1]):
            found[name] = leaf.reshape(wanted)
        elif leaf.shape != wanted and (leaf.ndim == 3 or side * side == places):
            grid = leaf if leaf.ndim == 3 else leaf.reshape(side, side, -1)
            found[name] = resize_grid(grid, wanted[:2])
            before, after = (f"{h} x {w}" for h, w in (grid.shape[:2], wanted[:2]))
            resized.append(f"{name} from {before} to {after}")
    return found, tuple(resized)


def resize_grid(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A position embedding `[h w d]` for another grid, bilinear between the centres of its cells,
    as PyTorch interpolates and the releases of transformers start from ImageNet's. `[i j d]`."""
    x = grid.astype(np.float64)
    for length in size:
        last = len(x) - 1
        at = np.clip((np.arange(length) + 0.5) * len(x) / length - 0.5, 0, last)
        low = at.astype(int)
        share = (at - low)[:, None, None]
        x = (1 - share) * x[low] + share * x[np.minimum(low + 1, last)]
        x = x.swapaxes(0, 1)  # The other axis, and then back.
    return x.astype(np.float32)


def _below_backbone(name: str) -> str:
    collection, _, rest = name.partition("/")
    return f"{collection}/{BACKBONE}/{rest}"


def _layer(name: str) -> str:
    """`params/a/b/kernel` -> `a/b`."""
    return name.partition("/")[2].rpartition("/")[0]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(ascii(name)[1:-1][:80] for name in names[:3])}{more})"


def _unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = leaf
    return tree
