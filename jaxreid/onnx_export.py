"""A run's network as an ONNX file, laid beside JAX before it is written.

The file says of itself, in its metadata, what goes in and how what comes out is compared.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import __version__
from jaxreid.backbones.layers import PREPROCESSING, plain_convolutions
from jaxreid.errors import UserError
from jaxreid.export import (
    by_name,
    config_of,
    drawn_inputs,
    feature_function,
    require_near,
    save,
)
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.trained import Trained
from jaxreid.types import Variables

try:
    import onnx
    import onnxruntime

    from jaxreid.onnx_graph import to_model
except ImportError as error:
    raise UserError(
        f"ONNX files need the packages onnx and onnxruntime ({error}); install the extra 'onnx'"
        " (pip install 'jaxreid[onnx]')"
    ) from None

Precision = Literal["float32", "float16"]
Layout = Literal["nhwc", "nchw"]
Normalised = Literal["within", "outside", "unit"]
# The largest difference, absolute and in parts of the value.
TOLERANCE: dict[Precision, float] = {"float32": 1e-5, "float16": 1e-2}


def features_model(
    network: Trained,
    *,
    dtype: Precision = "float32",
    layout: Layout = "nhwc",
    normalised: Normalised = "within",
) -> Any:
    """The feature function as an ONNX model, for batches of any size.

    Args:
        network: in float32; its variables become constants.
        dtype: of all that it computes; what goes in and out is float32 in both.
        layout: of the images: channels last or first.
        normalised: whether the model does that, of uint8 images, or its inputs are float32 and
            come as `(images - mean) / std`; both are in the metadata, in grey levels. `unit`: it
            does that, of float32 images from 0 to 1.

    Raises:
        UserError: the network has an operation that has no form in ONNX here, or does not
            normalise by mean and deviation.
    """
    (b,) = jax.export.symbolic_shape("b")
    floats = normalised != "within"
    mean, std = _preprocessing(network.variables)
    if floats and mean is None:
        raise UserError(
            f"--normalised={normalised}: the network does not normalise by a mean and a deviation"
            " of its own; expected --normalised=within"
        )
    used = network._replace(variables=_normalising(network.variables, normalised))
    function, inputs, words = feature_function(used, b)
    names = output_names(network)

    def features(images: jax.Array, *others: jax.Array) -> tuple[jax.Array, ...]:
        found = function(jnp.moveaxis(images, -3, -1) if layout == "nchw" else images, *others)
        return tuple(found[name] for name in names) if _several(network) else (found,)

    if layout == "nchw":
        *items, height, width, channels = inputs["images"].shape
        shape = (*items, channels, height, width)
        inputs["images"] = jax.ShapeDtypeStruct(shape, inputs["images"].dtype)
    size = network.config.data.image_size
    metadata = {
        "jaxreid": __version__,
        "inputs": json.dumps(words),
        "pixel_order": "RGB",
        "layout": layout,
        "height": str(size[0]),
        "width": str(size[1]),
        "normalised": normalised,
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "distance": _distance_word(network),
        "dtype": dtype,
        "config": json.dumps(config_of(network)),
    }
    if frames := network.config.scored_clip_length:
        metadata["frames"] = str(frames)
    with plain_convolutions():
        model = to_model(features, inputs, names, metadata, ["images"] if floats else [])
    return _half(model) if dtype == "float16" else model


def distance_model(network: Trained) -> Any:
    """The distance of all queries to all gallery items as an ONNX model, in float32.

    Each pair is compared by itself, so that both numbers are open. Its inputs are the outputs of
    the feature function, named `query_NAME` and `gallery_NAME`; its output is `distance`, `"q g"`.

    Args:
        network: its variables become constants.

    Raises:
        UserError: as for `features_model`.
    """
    q, g = jax.export.symbolic_shape("q, g")
    variables = jax.tree.map(jnp.asarray, network.variables)
    leaves, tree = jax.tree.flatten(network.features)
    names = output_names(network)

    def pair(a: Any, b: Any) -> jax.Array:
        one = jax.tree.map(lambda x: x[None], (a, b))
        return network.model.distance(variables, *one)[0, 0]

    def distance(*arrays: jax.Array) -> tuple[jax.Array]:
        both = (
            jax.tree.unflatten(tree, part) for part in (arrays[: len(names)], arrays[len(names) :])
        )
        return (jax.vmap(jax.vmap(pair, (None, 0)), (0, None))(*both),)

    inputs = {
        f"{side}_{name}": jax.ShapeDtypeStruct((number, *leaf.shape[1:]), leaf.dtype)
        for side, number in (("query", q), ("gallery", g))
        for name, leaf in zip(names, leaves, strict=True)
    }
    words = "distances of all queries to all gallery items: smaller is more alike"
    metadata = {"jaxreid": __version__, "distance": words}
    return to_model(distance, inputs, ["distance"], metadata)


def write(
    network: Trained,
    out: Path,
    *,
    dtype: Precision = "float32",
    layout: Layout = "nhwc",
    normalised: Normalised = "within",
    distance: bool = False,
) -> Iterator[tuple[Path, float]]:
    """Writes the feature function, and the distance beside it if that is asked for.

    Before a file is written, ONNX Runtime runs it on drawn inputs of the network's own size, in two
    batches, and what it says is compared with what JAX says. Where JAX itself says something else
    of an item in another batch (rounding, which a network may amplify), twice that is allowed
    besides.

    Args:
        network: in float32.
        out: the file; the distance's has `.distance` before the ending.
        dtype: see `features_model`, as for the next two.
        layout: of the images.
        normalised: within the model, or outside.
        distance: whether to write that, too.

    Yields:
        Each file that was written, and the largest difference from JAX.

    Raises:
        UserError: as for `features_model`; or a difference is larger than `TOLERANCE`.
    """
    if distance and _distance_word(network) == "euclidean":
        raise UserError(
            "--distance: the network's features are vectors, compared by the Euclidean distance;"
            " expected no such flag for --format=onnx"
        )
    function, inputs, _ = feature_function(network, 3)
    given = drawn_inputs(inputs)
    jitted = jax.jit(function)
    found = jax.device_get(jitted(*given.values()))
    wanted = dict(found) if _several(network) else {"features": found}
    again = jax.device_get(jitted(*_some(given, slice(2, 3)).values()))
    own = max(float(np.abs(a - b[2:]).max()) for a, b in zip(*map(jax.tree.leaves, (again, found))))
    model = features_model(network, dtype=dtype, layout=layout, normalised=normalised)
    given["images"] = as_taken(given["images"], network.variables, layout, normalised)
    batches = [
        (_some(given, slice(k, end)), _some(wanted, slice(k, end))) for k, end in ((0, 3), (2, 3))
    ]
    yield out, _write_checked(model, out, batches, TOLERANCE[dtype] + 2 * own)
    if distance:
        queries, gallery = (_some(wanted, part) for part in (slice(1), slice(1, 3)))
        tree = jax.tree.structure(network.features)
        variables = jax.tree.map(jnp.asarray, network.variables)
        both = (
            jax.tree.unflatten(tree, [side[name] for name in output_names(network)])
            for side in (queries, gallery)
        )
        apart = jax.jit(network.model.distance)(variables, *both)
        sides = {f"query_{k}": v for k, v in queries.items()}
        sides |= {f"gallery_{k}": v for k, v in gallery.items()}
        file = out.with_suffix(f".distance{out.suffix}")
        pairs = [(sides, {"distance": np.asarray(apart)})]
        yield file, _write_checked(distance_model(network), file, pairs, TOLERANCE["float32"])


def output_names(network: Trained) -> list[str]:
    """What the arrays that a network stores of an item are called, in their order."""
    return list(by_name(network.features)) if _several(network) else ["features"]


def as_taken(
    images: np.ndarray, variables: Variables, layout: Layout, normalised: Normalised
) -> np.ndarray:
    """Images as decoded, in the form in which a model takes them.

    Args:
        images: uint8, channels last.
        variables: of the network, for its mean and deviation.
        layout: of the model.
        normalised: of the model.
    """
    if normalised == "outside":
        mean, std = _preprocessing(variables)
        images = ((images - np.asarray(mean)) / np.asarray(std)).astype(np.float32)
    elif normalised == "unit":
        images = (images / 255).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(images, -1, -3)) if layout == "nchw" else images


def run(model: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a model makes of arrays in ONNX Runtime, on the CPU.

    Args:
        model: as made here.
        arrays: by the names of the inputs; what the model does not read is left out.
    """
    return opened(model)(arrays)


def opened(model: Any) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """`run` for one model and many batches, which ONNX Runtime opens once.

    Args:
        model: as made here.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # It warns of what its own optimiser leaves.
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    wanted = [each.name for each in session.get_inputs()]

    def run_once(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        takes = {name: np.asarray(arrays[name]) for name in wanted}
        return dict(zip(names, session.run(names, takes)))

    return run_once


def _write_checked(
    model: Any,
    out: Path,
    batches: Sequence[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]],
    tolerance: float,
) -> float:
    compute = opened(model)
    largest = max(
        require_near(out, f"ONNX Runtime, {name!r} is", array, wanted[name], tolerance)
        for given, wanted in batches
        for name, array in compute(given).items()
    )
    save(out, model.SerializeToString())
    return largest


def _some(arrays: Mapping[str, np.ndarray], items: slice) -> dict[str, np.ndarray]:
    return {name: array[items] for name, array in arrays.items()}


def _several(network: Trained) -> bool:
    """Whether the features of an item are several arrays, with a name each."""
    return isinstance(by_name(network.features), dict)


def _preprocessing(variables: Variables) -> tuple[list[float], list[float]] | tuple[None, None]:
    """Mean and deviation in grey levels, if the network has them."""
    leaves = jax.tree.leaves(variables.get(PREPROCESSING, {}))
    if len(leaves) != 2:
        return None, None
    mean, std = (np.asarray(leaf, float).tolist() for leaf in leaves)  # In alphabetical order.
    return mean, std


def _normalising(variables: Variables, normalised: Normalised) -> Variables:
    """Variables that take images as they come."""
    if normalised == "within":
        return variables
    mean, std = jax.tree.leaves(variables[PREPROCESSING])
    if normalised == "outside":
        pair = [np.zeros_like(mean), np.ones_like(std)]
    else:
        pair = [mean / np.float32(255), std / np.float32(255)]
    tree = jax.tree.structure(variables[PREPROCESSING])
    return {**variables, PREPROCESSING: jax.tree.unflatten(tree, pair)}


def _distance_word(network: Trained) -> str:
    """How features are compared: found by comparing some."""
    if _several(network) or len(network.features.shape) != 2:
        return "own"
    features = np.random.default_rng(0).normal(size=(4, *network.features.shape[1:]))
    a, b = jnp.split(jnp.asarray(features, jnp.float32), 2)
    own = network.model.distance(jax.tree.map(jnp.asarray, network.variables), a, b)
    return "euclidean" if np.allclose(own, pairwise_euclidean(a, b), atol=1e-4) else "own"


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(model, keep_io_types=True)
