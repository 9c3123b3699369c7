"""Six LSTMs that sweep the pixels of a clip (Zhou et al., CVPR 2017, section 3.3 and Figs. 5-6).

The directions, in the order of everything here that has six of them:

    forward    from the first frame to the last      backward   from the last to the first
    rightward  from left to right                    leftward   from right to left
    downward   from top to bottom                    upward     from bottom to top

A direction's chains are the lines of pixels along it: forward has one of length t for each place
(row, column), rightward one of length w for each row of each frame, downward one of length h for
each column. A chain starts from zero and knows nothing of its neighbours; all chains of a direction
share its weights. What a chain says of a pixel stays at this pixel.

Fig. 6 can be read otherwise: `sweep="raster"` makes one chain of all pixels for each direction,
slice by slice along it (forward: frame after frame), and within a slice in reading order; the
opposite direction reads the same chain backwards.

The equations, the order of the gates and the two biases are those of `lstm_scan`.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid.ops.recurrence import LSTMState, RecurrentWeights, lstm_cell, product

Sweep = Literal["lines", "raster"]


class SixDirections(NamedTuple):
    """Weights of the six LSTMs: four gates each, i, f, g, o.

    Attributes:
        forward: of the sweep from the first frame to the last.
        backward: from the last frame to the first.
        rightward: from left to right.
        leftward: from right to left.
        downward: from top to bottom.
        upward: from bottom to top.
    """

    forward: RecurrentWeights
    backward: RecurrentWeights
    rightward: RecurrentWeights
    leftward: RecurrentWeights
    downward: RecurrentWeights
    upward: RecurrentWeights


# The axis of "b t h w" along which each direction goes; every second one, backwards.
AXES = (1, 1, 3, 3, 2, 2)


def six_direction_lstm(
    x: Float[Array, "b t h w c"], weights: SixDirections, sweep: Sweep = "lines"
) -> Float[Array, "b t h w _"]:
    """The six sweeps side by side, in the order of `SixDirections`: width 6d, float32.

    Args:
        x: maps of clips. Products take its dtype and are summed in float32.
        weights: one LSTM for each direction.
        sweep: a chain for each line of pixels, or one for all.
    """
    inputs = six_direction_inputs(x, weights)
    return six_direction_sweeps(inputs, weights, sweep, dtype=x.dtype)


def six_direction_inputs(
    x: Float[Array, "b t h w c"], weights: SixDirections
) -> Float[Array, "b t h w 6 n"]:
    """The share W x of the pixels in the gates (n = 4d), without biases, in one product.

    It is linear: of the difference of two clips, it is the difference of theirs. Who compares
    many pairs computes it once for each clip, not for each pair.

    Args:
        x: maps of clips; the product takes its dtype and is summed in float32.
        weights: their kernels are used, and nothing else.
    """
    kernel = jnp.concatenate([each.kernel for each in weights], axis=1)
    return product(x, kernel.astype(x.dtype)).reshape(*x.shape[:-1], 6, -1)


def six_direction_sweeps(
    inputs: Float[Array, "b t h w 6 n"],
    weights: SixDirections,
    sweep: Sweep = "lines",
    *,
    dtype: Any = jnp.float32,
) -> Float[Array, "b t h w _"]:
    """All that follows `six_direction_inputs`: the biases and the recurrences.

    Args:
        inputs: W x, or the difference of two.
        weights: all but their kernels.
        sweep: as in `six_direction_lstm`.
        dtype: of the recurrent products; sums, states and outputs are float32.

    Returns:
        h of every pixel in the six directions, side by side.
    """
    # Not inputs[..., k, :]: the gradients of six slices are six arrays as large as all together.
    parts = jnp.unstack(inputs, axis=-2)
    chains = [_chains(part, k, sweep) for k, part in enumerate(parts)]
    by_length: dict[int, list[int]] = {}
    for direction, chain in enumerate(chains):
        by_length.setdefault(len(chain), []).append(direction)

    outputs: dict[int, Array] = {}
    for directions in by_length.values():  # a 6 x 6 x 6 clip: one scan of all six
        lines = jnp.stack([chains[k] for k in directions], axis=1)
        bias = jnp.stack([weights[k].bias + weights[k].recurrent_bias for k in directions])
        recurrent = jnp.stack([weights[k].recurrent for k in directions]).astype(dtype)
        swept = _sweep(lines + jnp.broadcast_to(bias[:, None], lines.shape), recurrent)
        for k, states in zip(directions, jnp.unstack(swept, axis=1)):
            outputs[k] = _pixels(states, k, sweep, inputs.shape[:4])
    return jnp.concatenate([outputs[k] for k in range(6)], axis=-1)


def _sweep(
    inputs: Float[Array, "s g b n"], recurrent: Float[Array, "g d n"]
) -> Float[Array, "s g b d"]:
    """`b` chains of `s` pixels in each of `g` directions."""

    def step(state: LSTMState, inputs: Array) -> tuple[LSTMState, Array]:
        state = lstm_cell(inputs + product(state.h, recurrent), state.c)
        return state, state.h

    # No state comes before the first pixels: one product less than there are steps.
    head, tail = jnp.split(inputs, [1])
    first = lstm_cell(head[0], jnp.zeros((*inputs.shape[1:3], recurrent.shape[1])))
    _, rest = jax.lax.scan(step, first, tail)
    return jnp.concatenate([first.h[None], rest])


def _chains(x: Float[Array, "b t h w n"], direction: int, sweep: Sweep) -> Float[Array, "s l n"]:
    """The chains of a direction, along the first axis in the order in which they are read."""
    x = jnp.moveaxis(x, AXES[direction], 0)
    if sweep == "raster":
        x = jnp.moveaxis(x, 1, 3)  # The clips last: one chain for each.
        x = x.reshape(-1, *x.shape[3:])
    x = x[::-1] if direction % 2 else x
    return x.reshape(len(x), -1, x.shape[-1])


def _pixels(
    chains: Float[Array, "s l d"], direction: int, sweep: Sweep, shape: tuple[Any, ...]
) -> Float[Array, "b t h w d"]:
    """Undoes `_chains`."""
    x = chains[::-1] if direction % 2 else chains
    axis = AXES[direction]
    clips, *others = shape[:axis] + shape[axis + 1 :]
    if sweep == "raster":
        x = jnp.moveaxis(x.reshape(shape[axis], *others, clips, -1), 3, 1)
    return jnp.moveaxis(x.reshape(shape[axis], clips, *others, x.shape[-1]), 0, axis)
