"""The convolutional GRU against a loop over cells, written from Eq. (5), in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxreid import ops
from jaxreid.ops.conv_gru import convolve
from tests.ops.test_recurrence import sigmoid

B, T, H, W, C, D = 2, 3, 5, 6, 3, 4


def convolve_loop(x, kernel):
    """One cell and one offset at a time; outside of the map are zeros."""
    height, width, size = *x.shape[:2], len(kernel)
    out = np.zeros((height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            for k in range(size):
                for l in range(size):
                    y, z = i + k - size // 2, j + l - size // 2
                    if 0 <= y < height and 0 <= z < width:
                        out[i, j] += x[y, z] @ kernel[k, l]
    return out


def step_loop(x, h, weights):
    """Eq. (5), gate by gate."""
    w_z, w_r, w = np.split(weights.kernel, 3, axis=-1)
    u_z, u_r = np.split(weights.recurrent, 2, axis=-1)
    z = sigmoid(convolve_loop(x, w_z) + convolve_loop(h, u_z))
    r = sigmoid(convolve_loop(x, w_r) + convolve_loop(h, u_r))
    candidate = np.tanh(convolve_loop(x, w) + convolve_loop(r * h, weights.candidate))
    return (1 - z) * h + z * candidate


def scan_loop(x, weights, initial):
    outputs = np.zeros((*x.shape[:-1], initial.shape[-1]))
    for item in range(len(x)):
        h = initial[item]
        for t in range(x.shape[1]):
            outputs[item, t] = h = step_loop(x[item, t], h, weights)
    return outputs


def draw(k=3, height=H, width=W, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, T, height, width, C))
    shapes = (k, k, C, 3 * D), (k, k, D, 2 * D), (k, k, D, D)
    weights = ops.ConvGRUWeights(*(rng.normal(size=shape) / 2 for shape in shapes))
    return x, weights, rng.normal(size=(B, height, width, D))


def on_device(tree):
    return jax.tree.map(jnp.float32, tree)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_scan_is_eq_5(k):
    x, weights, initial = draw(k)
    outputs, last = jax.jit(ops.conv_gru_scan)(*on_device((x, weights, initial)))
    np.testing.assert_allclose(outputs, scan_loop(x, weights, initial), atol=5e-6)
    np.testing.assert_array_equal(last, outputs[:, -1])


def test_the_scan_is_its_steps():
    x, weights, initial = on_device(draw())
    outputs, _ = ops.conv_gru_scan(x, weights, initial)
    of_input, recurrent, candidate = (partial(convolve, kernel=kernel) for kernel in weights)
    h = initial
    for t in range(T):
        h = ops.conv_gru_step(of_input(x[:, t]), h, recurrent, candidate)
        np.testing.assert_allclose(outputs[:, t], h, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
def test_gradients_are_those_of_the_steps(k):
    """Those of the kernels come from after the loop."""
    arguments = on_device(draw(k))

    def by_scan(x, weights, initial):
        return jnp.sum(jnp.sin(ops.conv_gru_scan(x, weights, initial)[0]))

    def by_steps(x, weights, h):
        of_input, recurrent, candidate = (partial(convolve, kernel=kernel) for kernel in weights)
        total = 0.0
        for t in range(T):
            h = ops.conv_gru_step(of_input(x[:, t]), h, recurrent, candidate)
            total += jnp.sum(jnp.sin(h))
        return total

    got = jax.jit(jax.grad(by_scan, (0, 1, 2)))(*arguments)
    want = jax.jit(jax.grad(by_steps, (0, 1, 2)))(*arguments)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))
        assert jnp.abs(b).max() > 0.1


def test_gradients_are_differences():
    x, weights, initial = draw()

    def total(kernels):
        return jnp.sum(jnp.sin(ops.conv_gru_scan(*on_device((x, kernels, initial)))[0]))

    gradients = jax.jit(jax.grad(total))(on_device(weights))
    for place, gradient in enumerate(gradients):
        for at in [(0, 0, 0, 0), (1, 2, 1, 3)]:
            sums = []
            for sign in (1, -1):
                moved = [array.copy() for array in weights]
                moved[place][at] += sign * 1e-5
                outputs = scan_loop(x, ops.ConvGRUWeights(*moved), initial)
                sums.append(np.sin(outputs).sum())
            assert gradient[at] == pytest.approx((sums[0] - sums[1]) / 2e-5, abs=1e-4)


def test_on_a_map_of_one_place_it_is_a_fully_connected_gru():
    """With zeros around it, only a kernel's centre sees the map. Eq. (2), in vectors."""
    x, weights, initial = draw(k=3, height=1, width=1)
    centre = [kernel[1, 1] for kernel in weights]
    for item in range(B):
        h = initial[item, 0, 0]
        for t in range(T):
            w_z, w_r, w = np.split(x[item, t, 0, 0] @ centre[0], 3)
            u_z, u_r = np.split(h @ centre[1], 2)
            z, r = sigmoid(w_z + u_z), sigmoid(w_r + u_r)
            h = (1 - z) * h + z * np.tanh(w + (r * h) @ centre[2])
        got, last = ops.conv_gru_scan(*on_device((x, weights, initial)))
        np.testing.assert_allclose(last[item, 0, 0], h, atol=1e-5)
    # A kernel of 1 x 1 on a larger map: the same at every place, each for itself.
    x, weights, initial = on_device(draw(k=1))
    outputs, _ = ops.conv_gru_scan(x, weights, initial)
    place = jax.tree.map(lambda leaf: leaf[..., 2:3, 3:4, :], (x, initial))
    got, _ = ops.conv_gru_scan(place[0], weights, place[1])
    np.testing.assert_allclose(got, outputs[:, :, 2:3, 3:4], atol=1e-5)


def test_what_does_not_depend_on_the_state_is_outside_of_the_loops():
    """Forward: one convolution of all inputs. Backward: none of the kernels' gradients inside."""
    arguments = on_device(draw())

    def total(weights, x, initial):
        return jnp.sum(ops.conv_gru_scan(x, weights, initial)[0])

    def convolutions(jaxpr, inside=False):
        found = []
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                found.append((inside, equation.outvars[0].aval.shape))
            for inner in jaxprs_in_params(equation.params):
                found += convolutions(inner, inside or equation.primitive.name == "scan")
        return found

    x, weights, initial = arguments
    forward = convolutions(jax.make_jaxpr(total)(weights, x, initial).jaxpr)
    assert sorted(forward) == sorted(
        [(False, (B * T, H, W, 3 * D)), (True, (B, H, W, 2 * D)), (True, (B, H, W, D))]
    )
    both = convolutions(jax.make_jaxpr(jax.grad(total))(weights, x, initial).jaxpr)
    # A kernel's gradient is as large as the kernel.
    inside = [shape for within, shape in both if within]
    assert inside
    assert {shape[:3] for shape in inside} == {(B, H, W)}
    outside = [shape for within, shape in both if not within]
    assert sum(3 in shape[:3] for shape in outside) == 3


def test_half_precision_convolutions_and_full_precision_states():
    x, weights, initial = draw()
    half = jnp.bfloat16(x)

    def total(weights):
        outputs, last = ops.conv_gru_scan(half, weights, jnp.float32(initial))
        return jnp.sum(outputs), (outputs, last)

    gradients, (outputs, last) = jax.jit(jax.grad(total, has_aux=True))(on_device(weights))
    assert {leaf.dtype for leaf in (*gradients, outputs, last)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(outputs, scan_loop(x, weights, initial), atol=0.15)
