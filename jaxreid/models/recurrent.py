"""Recurrent layers with parameters; their equations are in `jaxreid.ops.recurrence`."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid.backbones.layers import uniform
from jaxreid.ops.recurrence import (
    RecurrentWeights,
    bidirectional_scan,
    gru_scan,
    lstm_scan,
    rnn_scan,
)

# The scan, and the number of its gates.
CELLS: dict[str, tuple[Callable[..., tuple[Array, Any]], int]] = {
    "lstm": (lstm_scan, 4),
    "gru": (gru_scan, 3),
    "rnn": (rnn_scan, 1),
}


class Recurrent(nn.Module):
    """One recurrent layer over the frames of a clip, with PyTorch's default start U(±1/√d).

    Attributes:
        cell: LSTM, GRU, or a plain tanh network.
        features: d, width of the state.
        bidirectional: a second layer reads the clip from its end; its parameters end in
            `_reverse`, and the output is 2d wide.
        dtype: of the products; states and outputs are float32.
    """

    cell: Literal["lstm", "gru", "rnn"]
    features: int
    bidirectional: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t _"]:
        """The output of every frame."""
        scan, gates = CELLS[self.cell]
        x = x.astype(self.dtype)
        weights = partial(recurrent_weights, self, x.shape[-1], self.features, gates)
        if self.bidirectional:
            return bidirectional_scan(scan, x, weights(), weights("_reverse"))
        return scan(x, weights())[0]


def recurrent_weights(
    module: nn.Module, inputs: int, features: int, gates: int, suffix: str = ""
) -> RecurrentWeights:
    """Parameters of the module, with PyTorch's default start U(±1/√d).

    Args:
        module: whose they are.
        inputs: width of what the layer reads.
        features: d, width of its state.
        gates: of the cell.
        suffix: of their names.
    """
    start, width = uniform(features**-0.5), gates * features
    return RecurrentWeights(
        kernel=module.param(f"kernel{suffix}", start, (inputs, width)),
        recurrent=module.param(f"recurrent{suffix}", start, (features, width)),
        bias=module.param(f"bias{suffix}", start, (width,)),
        recurrent_bias=module.param(f"recurrent_bias{suffix}", start, (width,)),
    )
