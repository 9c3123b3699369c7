"""A run's network as a LiteRT (TFLite) file, laid beside JAX before it is written.

TensorFlow's converter takes what `jax2tf` makes of it. An open batch it does not take, so the file
is of one item at a time.
"""

import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxreid.backbones.layers import plain_convolutions
from jaxreid.data.pipeline import load_tensorflow
from jaxreid.errors import UserError
from jaxreid.export import drawn_inputs, feature_function, require_near, save
from jaxreid.trained import Trained

TOLERANCE = 1e-3  # The largest difference, absolute and in parts of the value.


def write(network: Trained, out: Path) -> float:
    """Writes the feature function of one item.

    Args:
        network: in float32; its variables become constants.
        out: the file.

    Returns:
        The largest difference from JAX, of three drawn items.

    Raises:
        UserError: the converter does not take the network, which gives several arrays or takes
            more than images; or a difference is larger than `TOLERANCE`.
    """
    function, inputs, _ = feature_function(network, 1)
    if list(inputs) != ["images"] or isinstance(network.features, tuple):
        raise UserError(
            "--format=tflite: for networks of images whose features are one vector; expected"
            " --format=onnx for others"
        )
    content = converted(function, inputs["images"].shape)
    given = drawn_inputs(feature_function(network, 3)[1])["images"]
    wanted = np.asarray(jax.jit(function)(given))
    found = np.concatenate([run(content, image[None]) for image in given])
    largest = require_near(out, "TFLite, the features are", found, wanted, TOLERANCE)
    save(out, content)
    return largest


def converted(function: Any, shape: tuple[int, ...]) -> bytes:
    """A function of uint8 images as a TFLite model.

    Args:
        function: of one array, to one.
        shape: of the images, all of it known.

    Raises:
        UserError: the converter does not take it, or TensorFlow is not installed.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            "TFLite files need the package tensorflow; install the extra 'data' (pip install"
            " 'jaxreid[data]')"
        )
    tf = load_tensorflow()
    from jax.experimental import jax2tf  # It imports TensorFlow.

    with plain_convolutions():
        traced = tf.function(
            jax2tf.convert(function),
            input_signature=[tf.TensorSpec(shape, tf.uint8, name="images")],
            autograph=False,
        ).get_concrete_function()
    try:
        with _silent():
            content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert()
        return content
    except Exception as error:  # Of several kinds, with the whole graph in words.
        said = [line for line in str(error).splitlines() if "error: " in line]
        reason = (said[0] if said else str(error)).split("error: ")[-1][:150]
        raise UserError(f"--format=tflite: TensorFlow does not convert it ({reason})") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the converter's C++ says of each layer that it does not take."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def run(content: bytes, images: np.ndarray) -> np.ndarray:
    """What a TFLite model makes of images.

    Args:
        content: of the file.
        images: in the shape that it was made for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That tf.lite has a new name.
        model = load_tensorflow().lite.Interpreter(model_content=content)
    model.allocate_tensors()
    model.set_tensor(model.get_input_details()[0]["index"], images)
    model.invoke()
    found: np.ndarray = model.get_tensor(model.get_output_details()[0]["index"])
    return found
