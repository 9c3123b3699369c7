"""Recurrent layers against loops written from the equations, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import ops
from jaxreid.models.recurrent import Recurrent

B, T, C, D = 3, 5, 4, 6
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
SCANS = {"lstm": ops.lstm_scan, "gru": ops.gru_scan, "rnn": ops.rnn_scan}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, state, w, u, b, c):
    h, cell = state
    i, f, g, o = np.split(x @ w + b + h @ u + c, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def gru_step(x, state, w, u, b, c):
    (xr, xz, xn), (hr, hz, hn) = np.split(x @ w + b, 3), np.split(state[0] @ u + c, 3)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = np.tanh(xn + r * hn)
    return ((1 - z) * n + z * state[0],)


def rnn_step(x, state, w, u, b, c):
    return (np.tanh(x @ w + b + state[0] @ u + c),)


STEPS = {"lstm": lstm_step, "gru": gru_step, "rnn": rnn_step}


def loop(cell, x, weights, initial, reverse=False):
    """One item and one frame at a time. `initial`: h of each item, or h and c."""
    outputs = np.zeros((len(x), x.shape[1], initial[0].shape[1]))
    last = []
    for item in range(len(x)):
        state = tuple(part[item] for part in initial)
        frames = range(x.shape[1])
        for t in reversed(frames) if reverse else frames:
            state = STEPS[cell](x[item, t], state, *weights)
            outputs[item, t] = state[0]
        last.append(state)
    return outputs, [np.stack(part) for part in zip(*last)]


def draw(cell, seed=0):
    rng = np.random.default_rng(seed)
    n = GATES[cell] * D
    x, shapes = rng.normal(size=(B, T, C)), ((C, n), (D, n), (n,), (n,))
    weights = [rng.normal(size=shape) for shape in shapes]
    initial = [rng.normal(size=(B, D)) for _ in range(2 if cell == "lstm" else 1)]
    return x, weights, initial


def on_device(weights):
    return ops.RecurrentWeights(*map(jnp.float32, weights))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_scans_are_their_equations(cell, reverse):
    x, weights, initial = draw(cell)
    start = [jnp.float32(part) for part in initial]
    start = ops.LSTMState(*start) if cell == "lstm" else start[0]
    outputs, state = SCANS[cell](jnp.float32(x), on_device(weights), start, reverse=reverse)
    want, last = loop(cell, x, weights, initial, reverse)
    np.testing.assert_allclose(outputs, want, atol=2e-6)
    for got, part in zip(jax.tree.leaves(state), last):
        np.testing.assert_allclose(got, part, atol=2e-6)


@pytest.mark.parametrize("cell", GATES)
def test_they_start_from_zero_and_leave_the_last_output(cell):
    x, weights, initial = draw(cell)
    outputs, state = SCANS[cell](jnp.float32(x), on_device(weights))
    want, _ = loop(cell, x, weights, [np.zeros_like(part) for part in initial])
    np.testing.assert_allclose(outputs, want, atol=2e-6)
    h = state.h if cell == "lstm" else state
    np.testing.assert_array_equal(h, outputs[:, -1])


@pytest.mark.parametrize("cell", GATES)
def test_two_directions_side_by_side(cell):
    x, forward, initial = draw(cell)
    _, backward, _ = draw(cell, seed=1)
    zeros = [np.zeros_like(part) for part in initial]
    got = ops.bidirectional_scan(
        SCANS[cell], jnp.float32(x), on_device(forward), on_device(backward)
    )
    assert got.shape == (B, T, 2 * D)
    np.testing.assert_allclose(got[..., :D], loop(cell, x, forward, zeros)[0], atol=2e-6)
    np.testing.assert_allclose(got[..., D:], loop(cell, x, backward, zeros, True)[0], atol=2e-6)


@pytest.mark.parametrize("cell", GATES)
def test_gradients_are_differences(cell):
    x, weights, initial = draw(cell)

    def total(kernel, recurrent):
        outputs, _ = SCANS[cell](jnp.float32(x), on_device([kernel, recurrent, *weights[2:]]))
        return jnp.sum(jnp.sin(outputs))

    got = jax.grad(total, argnums=(0, 1))(*map(jnp.float32, weights[:2]))
    zeros = [np.zeros_like(part) for part in initial]
    for place, gradient in enumerate(got):
        for at in [(0, 0), (2, 3), (3, D - 1)]:
            sums = []
            for sign in (1, -1):
                moved = [array.copy() for array in weights]
                moved[place][at] += sign * 1e-5
                sums.append(np.sin(loop(cell, x, moved, zeros)[0]).sum())
            assert gradient[at] == pytest.approx((sums[0] - sums[1]) / 2e-5, abs=2e-5)


@pytest.mark.parametrize("cell", GATES)
def test_inputs_are_projected_outside_the_scan(cell):
    """Two products: one of all inputs before the loop, one of the state inside it."""
    x, weights, _ = draw(cell)
    text = jax.jit(SCANS[cell]).lower(jnp.float32(x), on_device(weights)).as_text()
    before, _, inside = text.partition("stablehlo.while")
    assert before.count("stablehlo.dot_general") == 1
    assert f"{T}x{B}x{GATES[cell] * D}xf32" in before
    assert text.count("stablehlo.dot_general") == 2
    assert "gather" not in text
    assert inside


@pytest.mark.parametrize("cell", GATES)
def test_half_precision_products_and_full_precision_states(cell):
    x, weights, initial = draw(cell)
    outputs, state = SCANS[cell](jnp.bfloat16(x), on_device(weights))
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, state))} == {jnp.dtype("float32")}
    want, _ = loop(cell, x, weights, [np.zeros_like(part) for part in initial])
    np.testing.assert_allclose(outputs, want, atol=0.1)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_the_layer_is_the_scan_of_its_parameters(cell, bidirectional):
    x, _, _ = draw(cell)
    layer = Recurrent(cell, 128, bidirectional)
    variables = layer.init(jax.random.key(0), jnp.float32(x))
    params = variables["params"]
    directions = 2 if bidirectional else 1
    assert len(params) == 4 * directions
    size = GATES[cell] * 128 * (C + 128 + 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == directions * size
    bound = 128**-0.5
    for leaf in jax.tree.leaves(params):
        assert bound * 0.9 < jnp.abs(leaf).max() <= bound

    weights = [
        ops.RecurrentWeights(*(params[f"{name}{suffix}"] for name in ops.RecurrentWeights._fields))
        for suffix in ("", "_reverse")[:directions]
    ]
    scan = SCANS[cell]
    run = partial(ops.bidirectional_scan, scan) if bidirectional else lambda *a: scan(*a)[0]
    got = layer.apply(variables, jnp.float32(x))
    assert got.shape == (B, T, 128 * directions)
    np.testing.assert_allclose(got, run(jnp.float32(x), *weights), atol=1e-6)


A = 7


def draw_attention(seed=0):
    rng = np.random.default_rng(seed)
    attention = [rng.normal(size=shape) for shape in ((C, A), (D, A), (A,), (A,))]
    frames, weights, _ = draw("lstm", seed)
    return frames, attention, weights


def attentive_loop(frames, attention, weights):
    """One item, one step, one frame at a time."""
    u, v, b, w = attention
    outputs, omegas = np.zeros((B, T, D)), np.zeros((B, T, T))
    for item in range(B):
        state = np.zeros(D), np.zeros(D)
        for t in range(T):
            scores = [w @ np.tanh(f @ u + state[0] @ v + b) for f in frames[item]]
            omega = np.exp(scores) / np.exp(scores).sum()
            read = sum(weight * f for weight, f in zip(omega, frames[item]))
            state = lstm_step(read, state, *weights)
            outputs[item, t], omegas[item, t] = state[0], omega
    return outputs, omegas


def attend(frames, attention, weights):
    attention = ops.FrameAttentionWeights(*map(jnp.float32, attention))
    return ops.attentive_lstm_scan(jnp.asarray(frames), attention, on_device(weights))


def test_attentive_scan_is_its_equations():
    frames, attention, weights = draw_attention()
    h, omega = attend(np.float32(frames), attention, weights)
    want_h, want_omega = attentive_loop(frames, attention, weights)
    np.testing.assert_allclose(h, want_h, atol=3e-6)
    np.testing.assert_allclose(omega, want_omega, atol=3e-6)
    np.testing.assert_allclose(omega.sum(axis=-1), 1, atol=1e-6)
    assert np.ptp(omega, axis=1).max() > 0.1  # it looks elsewhere as it reads


def test_attentive_scan_reads_a_set():
    frames, attention, weights = draw_attention()
    order = np.random.default_rng(1).permutation(T)
    h, omega = attend(np.float32(frames), attention, weights)
    again, moved = attend(np.float32(frames[:, order]), attention, weights)
    np.testing.assert_allclose(h.mean(axis=1), again.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(omega[..., order], moved, atol=2e-6)


def test_attentive_scan_has_the_gradients_of_its_equations():
    frames, attention, weights = draw_attention()
    arrays = [frames, *attention, *weights]
    rng = np.random.default_rng(1)
    ways = [rng.normal(size=array.shape) for array in arrays]

    def total(arrays):
        h, omega = attend(arrays[0], arrays[1:5], arrays[5:])
        return jnp.sum(jnp.sin(h)) + jnp.sum(jnp.square(omega))

    def want(arrays):
        h, omega = attentive_loop(arrays[0], arrays[1:5], arrays[5:])
        return np.sin(h).sum() + np.square(omega).sum()

    gradients = jax.jit(jax.grad(total))([jnp.float32(array) for array in arrays])
    for place, gradient in enumerate(gradients):
        sums = []
        for step in (1e-5, -1e-5):
            moved = list(arrays)
            moved[place] = arrays[place] + step * ways[place]
            sums.append(want(moved))
        got = np.sum(np.float64(gradient) * ways[place])
        assert got == pytest.approx((sums[0] - sums[1]) / 2e-5, rel=1e-4, abs=1e-4)


def test_attentive_scan_projects_the_frames_once():
    """U f and W f before the loop; the state's product, the scores and the sum inside it."""
    frames, attention, weights = draw_attention()
    lowered = jax.jit(attend).lower(jnp.float32(frames), attention, weights)
    before, _, inside = lowered.as_text().partition("stablehlo.while(")
    assert before.count("stablehlo.dot_general") == 2
    assert f"{B}x{C}x" not in inside
    assert f"{D}x{A + 4 * D}xf32" in inside


def test_attentive_scan_in_half_precision():
    frames, attention, weights = draw_attention()
    h, omega = attend(jnp.bfloat16(frames), attention, weights)
    assert h.dtype == omega.dtype == jnp.float32
    want_h, want_omega = attentive_loop(frames, attention, weights)
    np.testing.assert_allclose(h, want_h, atol=0.2)
    np.testing.assert_allclose(omega, want_omega, atol=0.1)
