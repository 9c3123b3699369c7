"""The cost volume of COSAM against a loop over its Eqs. (1) and (2), in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import ops


def ncc(p, q, eps=1e-4):
    """Eq. (2), with unbiased deviations."""
    a = (p - p.mean()) / (p.std(ddof=1) + eps)
    b = (q - q.mean()) / (q.std(ddof=1) + eps)
    return np.dot(a, b) / len(p)


def cost_volume_loop(clip):
    """Eq. (1), one comparison at a time."""
    n, height, width, _ = clip.shape
    out = np.zeros((n, height, width, (n - 1) * height * width))
    for frame in range(n):
        for i in range(height):
            for j in range(width):
                out[frame, i, j] = [
                    ncc(clip[frame, i, j], clip[m, h, w])
                    for m in range(n)
                    if m != frame
                    for h in range(height)
                    for w in range(width)
                ]
    return out


def descriptors(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape) + 0.5


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_it_is_eqs_1_and_2(n):
    x = descriptors(n, 2, n, 2, 3, 8)
    got = ops.normalized_cross_correlation(jnp.float32(x))
    assert got.shape == (2, n, 2, 3, (n - 1) * 6)
    np.testing.assert_allclose(got, [cost_volume_loop(clip) for clip in x], atol=1e-6)


def test_one_frame_has_nothing_to_compare_with():
    assert ops.normalized_cross_correlation(jnp.ones((2, 1, 4, 2, 8))).shape == (2, 1, 4, 2, 0)


def test_other_frames_come_in_ascending_order():
    """Frame m is made of the unit vector of its own pair of channels."""
    x = np.zeros((1, 4, 1, 1, 64))
    for frame, other in enumerate((2, 3, 0, 1)):
        x[0, frame, 0, 0, min(frame, other)] = 1
    got = ops.normalized_cross_correlation(jnp.float32(x))[0, :, 0, 0]
    want = 1 - 1 / 64  # with the frame that is equal
    assert np.argmax(got, axis=1).tolist() == [1, 2, 0, 1]
    np.testing.assert_allclose(got.max(axis=1), want, atol=2e-3)  # ε is not small beside σ


def test_a_descriptor_with_itself_has_one_less_one_over_r():
    x = np.broadcast_to(descriptors(0, 1, 1, 1, 1, 256), (1, 2, 1, 1, 256))
    got = ops.normalized_cross_correlation(jnp.float32(x))
    np.testing.assert_allclose(got.ravel(), [255 / 256] * 2, atol=3e-4)
    assert float(got.max()) == pytest.approx(0.996, abs=5e-4)
    # Without ε, and with the sign turned, -255/256.
    x = np.concatenate([x[:, :1], -x[:, :1]], axis=1)
    got = ops.normalized_cross_correlation(jnp.float32(x), eps=0.0)
    np.testing.assert_allclose(got.ravel(), [-255 / 256] * 2, atol=1e-6)


def test_scale_and_shift_of_each_descriptor_do_not_matter():
    x = descriptors(1, 1, 3, 2, 2, 32)
    rng = np.random.default_rng(2)
    scales, shifts = rng.uniform(1, 9, (1, 3, 2, 2, 1)), rng.normal(size=(1, 3, 2, 2, 1)) * 5
    a, b = (ops.normalized_cross_correlation(jnp.float32(y)) for y in (x, scales * x + shifts))
    np.testing.assert_allclose(a, b, atol=5e-4)  # up to ε
    a, b = (ops.normalized_cross_correlation(jnp.float32(y), 0.0) for y in (x, scales * x + shifts))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_values_are_correlations():
    got = ops.normalized_cross_correlation(jnp.float32(descriptors(3, 2, 4, 3, 2, 16)))
    assert (jnp.abs(got) <= 1).all()
    # Symmetric: frame 0 with frame 1 is frame 1 with frame 0.
    first = got[:, 0].reshape(2, 6, 3, 6)[:, :, 0]
    second = got[:, 1].reshape(2, 6, 3, 6)[:, :, 0]
    np.testing.assert_allclose(first, second.swapaxes(1, 2), atol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 3.25])
def test_constant_descriptors_give_zero_and_finite_gradients(constant):
    x = descriptors(4, 1, 3, 2, 2, 16)
    x[0, 1, 0, 1] = constant
    got = ops.normalized_cross_correlation(jnp.float32(x))
    assert (got[0, 1, 0, 1] == 0).all()
    assert (got[0, 0, :, :, 1] == 0).all()
    assert (got[0, 0, :, :, 0] != 0).all()

    def loss(x):
        return jnp.sum(ops.normalized_cross_correlation(x) ** 2)

    assert jnp.isfinite(jax.grad(loss)(jnp.float32(x))).all()
    assert jnp.isfinite(jax.grad(loss)(jnp.full((1, 2, 2, 2, 8), constant))).all()


def test_half_precision_descriptors_are_summed_in_full_precision():
    x = descriptors(5, 1, 3, 4, 2, 256)
    got = ops.normalized_cross_correlation(jnp.bfloat16(x))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[0], cost_volume_loop(x[0]), atol=2e-3)


def test_there_is_no_gather():
    """Neither forwards nor backwards: the own frame is left out by slicing."""

    def loss(x):
        return jnp.sum(ops.normalized_cross_correlation(x) ** 2)

    text = jax.jit(jax.value_and_grad(loss)).lower(jnp.ones((2, 4, 4, 2, 8))).as_text()
    assert "gather" not in text
    assert "scatter" not in text
    assert text.count("stablehlo.dot_general") == 3  # one product, and its two gradients
