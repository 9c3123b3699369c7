"""The six sweeps against one cell at a time, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import ops
from tests.ops.test_recurrence import lstm_step

C, D = 3, 4
SHAPES = [(2, 3, 3, 3), (2, 2, 3, 4), (1, 3, 2, 3), (1, 2, 2, 3), (2, 1, 3, 1), (1, 1, 1, 1)]


def draw(shape, seed=0):
    rng = np.random.default_rng(seed)
    sizes = ((C, 4 * D), (D, 4 * D), (4 * D,), (4 * D,))
    weights = [[rng.normal(size=size) for size in sizes] for _ in range(6)]
    return rng.normal(size=(*shape, C)), weights


def on_device(weights):
    each = (ops.RecurrentWeights(*map(jnp.float32, one)) for one in weights)
    return ops.SixDirections(*each)


def cell_by_cell(x, weights):
    """Where the cell before is: one frame, column or row back or ahead."""
    before = [(-1, 0, 0), (1, 0, 0), (0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0)]
    out = np.zeros((*x.shape[:4], 6 * D))
    for k, (back, w) in enumerate(zip(before, weights)):
        for item in range(len(x)):
            states = {}

            def state(at, item=item, back=back, w=w, states=states):
                if not all(0 <= place < size for place, size in zip(at, x.shape[1:4])):
                    return np.zeros(D), np.zeros(D)
                if at not in states:
                    previous = state(tuple(place + by for place, by in zip(at, back)))
                    states[at] = lstm_step(x[(item, *at)], previous, *w)
                return states[at]

            for at in np.ndindex(*x.shape[1:4]):
                out[(item, *at)][k * D : (k + 1) * D] = state(at)[0]
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_each_cell_is_its_equation(shape):
    x, weights = draw(shape)
    got = jax.jit(ops.six_direction_lstm)(jnp.float32(x), on_device(weights))
    np.testing.assert_allclose(got, cell_by_cell(x, weights), atol=2e-6)


def one_chain(x, weights):
    """All pixels of a clip in one chain: slice by slice along the direction, and its opposite."""
    b, t, h, w, _ = x.shape
    chains = [
        [(f, i, j) for f in range(t) for i in range(h) for j in range(w)],
        [(f, i, j) for j in range(w) for f in range(t) for i in range(h)],
        [(f, i, j) for i in range(h) for f in range(t) for j in range(w)],
    ]
    out = np.zeros((*x.shape[:4], 6 * D))
    for item in range(b):
        for k, of_direction in enumerate(weights):
            chain = chains[k // 2][:: -1 if k % 2 else 1]
            state = np.zeros(D), np.zeros(D)
            for at in chain:
                state = lstm_step(x[(item, *at)], state, *of_direction)
                out[(item, *at)][k * D : (k + 1) * D] = state[0]
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_one_chain_reads_all_pixels(shape):
    x, weights = draw(shape)
    sweep = jax.jit(ops.six_direction_lstm, static_argnums=2)
    got = sweep(jnp.float32(x), on_device(weights), "raster")
    np.testing.assert_allclose(got, one_chain(x, weights), atol=2e-6)


def test_gradients_are_differences():
    x, weights = draw((1, 2, 2, 3))
    rng = np.random.default_rng(1)
    ways = [[rng.normal(size=array.shape) for array in one] for one in weights]
    way_x = rng.normal(size=x.shape)

    def total(x, weights):
        return jnp.sum(jnp.sin(ops.six_direction_lstm(x, weights)))

    by_x, by_weights = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.float32(x), on_device(weights))

    def difference(step_x, chosen):
        sums = []
        for step in (1e-5, -1e-5):
            moved = [[array.copy() for array in one] for one in weights]
            for k, part in chosen:
                moved[k][part] += step * ways[k][part]
            sums.append(np.sin(cell_by_cell(x + step * step_x, moved)).sum())
        return (sums[0] - sums[1]) / 2e-5

    assert np.sum(np.asarray(by_x) * way_x) == pytest.approx(difference(way_x, []), abs=1e-4)
    for k, part in np.ndindex(6, 4):
        got = np.sum(np.asarray(by_weights[k][part]) * ways[k][part])
        assert got == pytest.approx(difference(0 * x, [(k, part)]), abs=1e-4)


@pytest.mark.parametrize(
    ("direction", "axis", "first"),
    [
        ("forward", 1, 0),
        ("backward", 1, -1),
        ("rightward", 3, 0),
        ("leftward", 3, -1),
        ("downward", 2, 0),
        ("upward", 2, -1),
    ],
)
def test_the_first_cell_of_a_line_knows_itself_alone(direction, axis, first):
    x, weights = draw((1, 2, 3, 4))
    k = ops.SixDirections._fields.index(direction)

    @jax.jit
    def starts(x):
        h = ops.six_direction_lstm(x, on_device(weights))[..., k * D : (k + 1) * D]
        return jnp.take(h, first, axis=axis)

    other = np.random.default_rng(1).normal(size=x.shape)
    kept = np.moveaxis(x, axis, 0)[first]
    np.moveaxis(other, axis, 0)[first] = kept
    got = starts(jnp.float32(x))
    np.testing.assert_array_equal(got, starts(jnp.float32(other)))
    # Nor of the first cells of other lines: each is what its own cell makes of a zero state.
    want = np.zeros(got.shape)
    for at in np.ndindex(*want.shape[:-1]):
        zeros = np.zeros(D), np.zeros(D)
        want[at] = lstm_step(np.take(x, first, axis=axis)[at], zeros, *weights[k])[0]
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_a_cell_hears_of_its_own_line_and_of_what_was_read_before():
    _, weights = draw((1, 1, 1, 1))
    x = np.zeros((2, 3, 4, 5, C), np.float32)
    x[1, 1, 2, 3] = 1
    still, moved = jax.jit(ops.six_direction_lstm)(x, on_device(weights))
    changed = np.abs(moved - still).reshape(3, 4, 5, 6, D).max(axis=-1) > 0
    t, h, w = np.indices((3, 4, 5))
    pixel, row, column = (h == 2) & (w == 3), (t == 1) & (h == 2), (t == 1) & (w == 3)
    want = [
        pixel & (t >= 1),
        pixel & (t <= 1),
        row & (w >= 3),
        row & (w <= 3),
        column & (h >= 2),
        column & (h <= 2),
    ]
    for k in range(6):
        np.testing.assert_array_equal(changed[..., k], want[k])


def test_the_inputs_of_a_difference_are_the_difference_of_the_inputs():
    """A pair network projects each clip once. The biases come after the difference."""
    a, weights = draw((2, 2, 3, 2))
    b, _ = draw((2, 2, 3, 2), seed=1)
    a, b, weights = jnp.float32(a), jnp.float32(b), on_device(weights)
    inputs = ops.six_direction_inputs(a, weights) - ops.six_direction_inputs(b, weights)
    assert inputs.shape == (2, 2, 3, 2, 6, 4 * D)
    np.testing.assert_allclose(inputs, ops.six_direction_inputs(a - b, weights), atol=5e-6)
    assert not jnp.any(ops.six_direction_inputs(0 * a, weights))
    got = jax.jit(ops.six_direction_sweeps)(inputs, weights)
    np.testing.assert_allclose(got, jax.jit(ops.six_direction_lstm)(a - b, weights), atol=5e-6)


@pytest.mark.parametrize(
    ("shape", "loops"), [((1, 3, 3, 3), 1), ((1, 2, 3, 2), 2), ((1, 2, 3, 4), 3)]
)
def test_chains_of_equal_length_share_a_scan(shape, loops):
    x, weights = draw(shape)
    lowered = jax.jit(ops.six_direction_lstm).lower(jnp.float32(x), on_device(weights))
    text = lowered.as_text()
    assert text.count("stablehlo.while(") == loops
    # One product of all inputs, and one in each loop: none for the first cells.
    assert text.count("stablehlo.dot_general") == 1 + loops


def test_half_precision_products_and_full_precision_states():
    x, weights = draw((2, 3, 3, 3))
    lowered = jax.jit(ops.six_direction_lstm).lower(jnp.bfloat16(x), on_device(weights))
    got = lowered.compile()(jnp.bfloat16(x), on_device(weights))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, cell_by_cell(x, weights), atol=0.15)
    lines = lowered.as_text().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    assert len(products) == 2
    assert all(line.count("bf16>") == 2 and "f32>" in line for line in products)
