"""Recurrent layers over the frames of a clip, as scans. Over its pixels: `jaxreid.ops.spatial`.

The equations, the order of the gates and the two biases are PyTorch's, so that its weights fit.
What does not depend on the state is computed for all frames at once, before the scan; the gates
share one product. Products take the dtype of `x` and are summed in float32; states are float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class RecurrentWeights(NamedTuple):
    """Weights of one direction; the last axis is divided among the gates, `d` for each.

    Attributes:
        kernel: of the inputs. n is 4d (LSTM: input, forget, cell, output), 3d (GRU: reset,
            update, new) or d (RNN).
        recurrent: of the state before.
        bias: of the inputs.
        recurrent_bias: of the state before.
    """

    kernel: Float[Array, "c n"]
    recurrent: Float[Array, "d n"]
    bias: Float[Array, " n"]
    recurrent_bias: Float[Array, " n"]


class LSTMState(NamedTuple):
    """What an LSTM carries from frame to frame.

    Attributes:
        h: its output.
        c: its cell.
    """

    h: Float[Array, "*b d"]
    c: Float[Array, "*b d"]


class FrameAttentionWeights(NamedTuple):
    """Weights of the attention of Zhou et al. (2017), Fig. 4, `n` units wide.

    Attributes:
        kernel: U, of the frames.
        recurrent: V, of the state before.
        bias: b.
        score: w, from the units to one number.
    """

    kernel: Float[Array, "c n"]
    recurrent: Float[Array, "d n"]
    bias: Float[Array, " n"]
    score: Float[Array, " n"]


def lstm_scan(
    x: Float[Array, "b t c"],
    weights: RecurrentWeights,
    initial: LSTMState | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "b t d"], LSTMState]:
    """Long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000).

    With the gates i, f, o = σ(W x + b + U h + b') and g = tanh(likewise):

        c ← f·c + i·g,  h ← o·tanh(c)

    Args:
        x: inputs.
        weights: four gates: i, f, g, o.
        initial: the state before the first frame; zeros by default.
        reverse: from the last frame to the first. The outputs stay in the frames' order.

    Returns:
        h of every frame, and the state after the last one that was read.
    """
    zeros = _zeros(x, weights)
    recurrent = weights.recurrent.astype(x.dtype)

    def step(state: LSTMState, inputs: Array) -> tuple[LSTMState, Array]:
        state = lstm_cell(inputs + product(state.h, recurrent), state.c)
        return state, state.h

    inputs = _inputs(x, weights.kernel, weights.bias + weights.recurrent_bias)
    state, outputs = jax.lax.scan(
        step, LSTMState(zeros, zeros) if initial is None else initial, inputs, reverse=reverse
    )
    return outputs.swapaxes(0, 1), state


def gru_scan(
    x: Float[Array, "b t c"],
    weights: RecurrentWeights,
    initial: Float[Array, "b d"] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d"]]:
    """Gated recurrent unit (Cho et al. 2014), the reset after the product.

    With the gates r, z = σ(W x + b + U h + b'):

        n = tanh(W_n x + b_n + r·(U_n h + b'_n)),  h ← (1 - z)·n + z·h

    Args:
        x: inputs.
        weights: three gates: r, z, n.
        initial: the state before the first frame; zeros by default.
        reverse: from the last frame to the first. The outputs stay in the frames' order.

    Returns:
        h of every frame, and after the last one that was read.
    """
    recurrent = weights.recurrent.astype(x.dtype)

    def step(h: Array, inputs: Array) -> tuple[Array, Array]:
        states = product(h, recurrent)
        states += jnp.broadcast_to(weights.recurrent_bias, states.shape)
        (input_r, input_z, input_n), (state_r, state_z, state_n) = (
            jnp.split(both, 3, axis=-1) for both in (inputs, states)
        )
        z = jax.nn.sigmoid(input_z + state_z)
        n = jnp.tanh(input_n + jax.nn.sigmoid(input_r + state_r) * state_n)
        h = (1 - z) * n + z * h
        return h, h

    start = _zeros(x, weights) if initial is None else initial
    inputs = _inputs(x, weights.kernel, weights.bias)
    state, outputs = jax.lax.scan(step, start, inputs, reverse=reverse)
    return outputs.swapaxes(0, 1), state


def rnn_scan(
    x: Float[Array, "b t c"],
    weights: RecurrentWeights,
    initial: Float[Array, "b d"] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d"]]:
    """Elman's network: h ← tanh(W x + b + U h + b').

    Args:
        x: inputs.
        weights: one gate.
        initial: the state before the first frame; zeros by default.
        reverse: from the last frame to the first. The outputs stay in the frames' order.

    Returns:
        h of every frame, and after the last one that was read.
    """
    recurrent = weights.recurrent.astype(x.dtype)

    def step(h: Array, inputs: Array) -> tuple[Array, Array]:
        h = jnp.tanh(inputs + product(h, recurrent))
        return h, h

    start = _zeros(x, weights) if initial is None else initial
    inputs = _inputs(x, weights.kernel, weights.bias + weights.recurrent_bias)
    state, outputs = jax.lax.scan(step, start, inputs, reverse=reverse)
    return outputs.swapaxes(0, 1), state


def attentive_lstm_scan(
    frames: Float[Array, "b t c"],
    attention: FrameAttentionWeights,
    weights: RecurrentWeights,
) -> tuple[Float[Array, "b t d"], Float[Array, "b t t"]]:
    """An LSTM that looks at all frames in each of its `t` steps (Zhou et al., CVPR 2017, 3.2).

    What it has read so far says where it looks next:

        e_ti = w·tanh(U f_i + V h_t-1 + b),  ω_t = softmax_i(e_t)      Fig. 4
        x̄_t = Σ_i ω_ti f_i                                             Eq. (3)
        h_t, c_t = LSTM(x̄_t, h_t-1, c_t-1),  h_0 = c_0 = 0

    The frames are a set to it: in another order, they give the same h.

    Args:
        frames: f, one vector for each frame.
        attention: U, V, b and w.
        weights: four gates: i, f, g, o.

    Returns:
        h of every step, and ω, the weights of the frames (last axis) in every step. Float32.
    """
    units = _inputs(frames, attention.kernel, attention.bias).swapaxes(0, 1)
    # Each ω sums to 1, so that W x̄ + b = Σ ω (W f + b): no input product is left in the scan.
    inputs = _inputs(frames, weights.kernel, weights.bias + weights.recurrent_bias).swapaxes(0, 1)
    recurrent = jnp.concatenate([attention.recurrent, weights.recurrent], axis=1)
    recurrent = recurrent.astype(frames.dtype)
    score = attention.score.astype(jnp.float32)

    def step(state: LSTMState, _: None) -> tuple[LSTMState, tuple[Array, Array]]:
        looking, gates = jnp.split(product(state.h, recurrent), [score.size], axis=1)
        e = jnp.tanh(units + looking[:, None]) @ score
        omega = jax.nn.softmax(e, axis=1)
        gates += jnp.einsum("bt,btn->bn", omega, inputs, precision="highest")  # Eq. (3)
        state = lstm_cell(gates, state.c)
        return state, (state.h, omega)

    zeros = _zeros(frames, weights)
    start = LSTMState(zeros, zeros)
    _, (h, omega) = jax.lax.scan(step, start, length=frames.shape[1])
    return h.swapaxes(0, 1), omega.swapaxes(0, 1)


def bidirectional_scan(
    scan: Callable[..., tuple[Array, Any]],
    x: Float[Array, "b t c"],
    forward: RecurrentWeights,
    backward: RecurrentWeights,
) -> Float[Array, "b t _"]:
    """Two layers, one reading the clip from its start and one from its end, in one scan.

    Args:
        scan: `lstm_scan`, `gru_scan` or `rnn_scan`.
        x: inputs.
        forward: weights of the first layer.
        backward: weights of the second.

    Returns:
        For every frame the outputs of both, side by side: width 2d.
    """
    weights = jax.tree.map(lambda a, b: jnp.stack([a, b]), forward, backward)
    (ahead, back), _ = jax.vmap(scan)(jnp.stack([x, x[:, ::-1]]), weights)
    return jnp.concatenate([ahead, back[:, ::-1]], axis=-1)


def lstm_cell(gates: Float[Array, "*b n"], c: Float[Array, "*b d"]) -> LSTMState:
    """What the sums i, f, g, o (side by side, before their σ and tanh) make of the cell c."""
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(c), c)


def _inputs(
    x: Float[Array, "b t c"], kernel: Float[Array, "c n"], bias: Float[Array, " n"]
) -> Float[Array, "t b n"]:
    """The share of the inputs in the gates, of all frames at once, frames first for the scan."""
    gates = product(x.swapaxes(0, 1), kernel.astype(x.dtype))
    return gates + jnp.broadcast_to(bias, gates.shape)


def product(x: Float[Array, "*b d"], kernel: Float[Array, "*n d m"]) -> Float[Array, "*b m"]:
    """A matrix product in the kernel's dtype, summed in float32."""
    return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def _zeros(x: Array, weights: RecurrentWeights) -> Array:
    return jnp.zeros((x.shape[0], weights.recurrent.shape[0]))
