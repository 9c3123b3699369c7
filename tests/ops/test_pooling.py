import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import ops


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_the_generalised_mean_against_a_loop(p):
    x = np.random.default_rng(0).uniform(-1, 3, (2, 4, 3, 5))
    want = np.zeros((2, 5))
    for item in range(2):
        for channel in range(5):
            values = [max(value, 1e-6) for value in x[item, :, :, channel].ravel()]
            want[item, channel] = (sum(value**p for value in values) / 12) ** (1 / p)
    got = ops.generalised_mean(jnp.float32(x), jnp.float32(p))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_map_of_zeros_has_finite_gradients():
    def total(x, p):
        return ops.generalised_mean(x, p).sum()

    gradients = jax.grad(total, argnums=(0, 1))(jnp.zeros((1, 2, 2, 3)), jnp.float32(3.0))
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)
