"""Recurrent layers with parameters; their equations are in `jaxreid.ops.recurrence`."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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
        bound = self.features**-0.5

        def start(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        def weights(suffix: str = "") -> RecurrentWeights:
            width = gates * self.features
            return RecurrentWeights(
                kernel=self.param(f"kernel{suffix}", start, (x.shape[-1], width)),
                recurrent=self.param(f"recurrent{suffix}", start, (self.features, width)),
                bias=self.param(f"bias{suffix}", start, (width,)),
                recurrent_bias=self.param(f"recurrent_bias{suffix}", start, (width,)),
            )

        if self.bidirectional:
            return bidirectional_scan(scan, x, weights(), weights("_reverse"))
        return scan(x, weights())[0]
