"""A run's network in int8: ONNX Runtime's static quantiser, and what that costs in scores."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxreid import onnx_export, sharding  # First: it says which extra is missing.
from jaxreid.data.sources import Source, open_source
from jaxreid.errors import UserError
from jaxreid.evaluate import make_evaluator
from jaxreid.export import feature_function, save
from jaxreid.extract import clips
from jaxreid.onnx_export import Layout, Normalised, onnx
from jaxreid.trained import Trained
from jaxreid.types import Batch, Features, Variables

CALIBRATION = 128  # Images, or clips, of the training set.
_BATCH = 16
# What has weights; all between them stays in float32.
_QUANTISED = ("Conv", "Gemm", "MatMul")


class Written(NamedTuple):
    """What became of a network.

    Attributes:
        path: the file that was written.
        sizes: in bytes, of the float32 graph and of the int8 graph.
        scores: of these two on the run's test set, as `eval/metrics.json` holds them.
    """

    path: Path
    sizes: tuple[int, int]
    scores: tuple[dict[str, Any], dict[str, Any]]


def write(
    network: Trained,
    out: Path,
    *,
    layout: Layout = "nhwc",
    normalised: Normalised = "within",
) -> Written:
    """Writes the feature function in int8, and scores it beside float32 in ONNX Runtime.

    Convolutions and products with weights are in int8, the weights with a scale for each channel
    and what goes in with one for all. The scales are those of `CALIBRATION` training images (of
    clips, for methods that take such), evenly spaced and read as the run's scoring reads images.
    Distances between features stay JAX's, in float32.

    Args:
        network: in float32. The run's data have to be where its config says.
        out: the file.
        layout: of the images.
        normalised: within the model, or outside, see `jaxreid.onnx_export.features_model`.

    Raises:
        UserError: there is nothing to quantise, the data are not there or have no test set, or the
            float32 graph is not what JAX says.
    """
    source = open_source(network.config.data)
    options: dict[str, Any] = {"layout": layout, "normalised": normalised}
    score = scorer(network, source, options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float32.onnx"
        list(onnx_export.write(network, file, **options))
        whole = onnx.load(file)
    small = quantised(whole, calibration(network, source, options))
    scores = score(whole), score(small)
    save(out, small.SerializeToString())
    return Written(out, (whole.ByteSize(), small.ByteSize()), scores)


def calibration(
    network: Trained, source: Source, options: Mapping[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    """What the model is given of the training set, in batches.

    Args:
        network: whose config says how clips are cut.
        source: of the run's data.
        options: `layout` and `normalised` of the model.
    """
    config = network.config
    rows, _, mask = clips(config, source.data.train.tracks(), "train")
    some = np.unique(np.linspace(0, len(rows) - 1, CALIBRATION, dtype=int))
    parts = [some[k : k + _BATCH] for k in range(0, len(some), _BATCH)]
    size = config.data.image_size
    images = source.images("train", [rows[part] for part in parts], size)
    for part, pixels in zip(parts, images, strict=True):
        given = {"images": onnx_export.as_taken(pixels, network.variables, **options)}
        if mask is not None:
            given["mask"] = mask[part]
        if source.bodies is not None:
            given["joints"] = source.bodies.at("train", rows[part], size).astype(np.float32)
        yield given


def quantised(model: Any, batches: Iterator[dict[str, np.ndarray]]) -> Any:
    """A model in int8.

    Args:
        model: in float32.
        batches: of calibration, by the names of the inputs; what the model does not read is left
            out.

    Raises:
        UserError: the model has nothing to quantise.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    wanted = {each.name for each in model.graph.input}

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            given = next(batches, None)
            return given and {name: x for name, x in given.items() if name in wanted}

    with tempfile.TemporaryDirectory() as folder:
        whole, ready, small = (Path(folder) / f"{name}.onnx" for name in ("whole", "ready", "int8"))
        onnx.save(model, whole)
        logging.disable(logging.WARNING)  # Of each node that is left in float32.
        try:
            quant_pre_process(whole, ready, skip_symbolic_shape=True)
            _flatten_biases(ready)
            quantization.quantize_static(
                ready,
                small,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTISED),
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            logging.disable(logging.NOTSET)
        made = onnx.load(small)
    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise UserError("--dtype=int8: the graph has no convolution and no product with weights")
    held = {each.key: each.value for each in model.metadata_props}
    onnx.helper.set_model_props(made, {**held, "dtype": "int8"})
    return made


def scorer(
    network: Trained, source: Source, options: Mapping[str, Any]
) -> Callable[[Any], dict[str, Any]]:
    """`(model) -> scores`, by the run's own evaluator with features of ONNX Runtime.

    Args:
        network: whose config says how is scored, and whose distance is taken.
        source: of the run's data.
        options: `layout` and `normalised` of the models.

    Raises:
        UserError: there is no test set.
    """
    names = onnx_export.output_names(network)
    _, inputs, _ = feature_function(network, 1)
    leaves, tree = jax.tree.flatten(network.features)
    compute: Callable[..., dict[str, np.ndarray]]

    def run(*arrays: Any) -> tuple[np.ndarray, ...]:
        given = dict(zip(inputs, map(np.asarray, arrays)))
        given["images"] = onnx_export.as_taken(given["images"], network.variables, **options)
        found = compute(given)
        return tuple(found[name] for name in names)

    def features(_: Variables, batch: Batch) -> Features:
        number = len(batch.images)
        made = tuple(jax.ShapeDtypeStruct((number, *x.shape[1:]), x.dtype) for x in leaves)
        arrays = [getattr(batch, name) for name in inputs]
        return jax.tree.unflatten(tree, jax.pure_callback(run, made, *arrays))

    model = network.model._replace(features=features)
    mesh = sharding.make_mesh(jax.devices()[:1])
    evaluate = make_evaluator(network.config, model, source, mesh)

    def score(made: Any) -> dict[str, Any]:
        nonlocal compute
        compute = onnx_export.opened(made)
        return dict(evaluate(network.variables).scores)

    return score


def _flatten_biases(file: Path) -> None:
    """Gives the biases of `Gemm` one axis: the quantiser takes one; the optimiser makes two."""
    model = onnx.load(file)
    gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
    biases = {node.input[2] for node in gemms if len(node.input) > 2}
    for array in model.graph.initializer:
        if array.name in biases and len(array.dims) == 2 and array.dims[0] == 1:
            del array.dims[0]
    onnx.save(model, file)
