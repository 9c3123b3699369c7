"""A run's network from its folder alone: no data set, no TensorFlow."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from jaxreid.config import Config
from jaxreid.errors import UserError
from jaxreid.types import ReidModel, Variables
from jaxreid.workdir import read_config

Precision = Literal["float32", "bfloat16"]


class Trained(NamedTuple):
    """A network that can be run.

    Attributes:
        config: of the run.
        model: the method's pure functions, as the run scores with them.
        variables: what they are given, as NumPy arrays.
        features: the shapes and types of the features of one item, with the leading axis 1.
    """

    config: Config
    model: ReidModel
    variables: Variables
    features: Any


def load(
    workdir: str | Path, step: int | None = None, precision: Precision | None = None
) -> Trained:
    """The network of a run.

    Args:
        workdir: of the run.
        step: of its checkpoint; by default the newest, whose scores the report gives.
        precision: of the convolutions; by default the run's.

    Raises:
        UserError: there is no such checkpoint, or it does not fit the run's `config.json`.
    """
    # These take a while to import.
    from jaxreid.checkpoint import load_variables
    from jaxreid.train import PRECISIONS, example_batch

    variables = load_variables(workdir, step)
    config, num_ids = read_config(Path(workdir))
    config.train.precision = precision or config.train.precision
    dtype = PRECISIONS[config.train.precision]
    model = config.model.make(num_ids, dtype=dtype, flip=config.eval.flip)
    try:
        batch = example_batch(config, config.scored_clip_length)
        features = jax.eval_shape(model.features, variables, batch)
    except Exception as error:  # Flax raises several kinds, and each lists the layers above it.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{workdir}: its checkpoint does not fit its config.json ({reason})"
        ) from error
    return Trained(config, model, variables, features)
