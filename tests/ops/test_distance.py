import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import ops


def test_pairwise_euclidean_against_a_loop():
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(4, 8)), rng.normal(size=(6, 8))
    want = [[np.sqrt(((a - b) ** 2).sum()) for b in g] for a in q]
    got = ops.pairwise_euclidean(jnp.float32(q), jnp.float32(g))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_pairwise_euclidean_is_float32_for_half_precision():
    q = jnp.ones((2, 4), jnp.bfloat16)
    assert ops.pairwise_euclidean(q, q).dtype == jnp.float32


def test_the_gradient_is_finite_on_the_diagonal():
    x = jnp.float32(np.random.default_rng(1).normal(size=(5, 8)))
    x = x.at[1].set(x[0])
    gradient = jax.grad(lambda x: ops.pairwise_euclidean(x, x).sum())(x)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_array_equal(jnp.diag(ops.pairwise_euclidean(x, x))[0], 0.0)


def test_what_is_not_a_number_stays_so():
    x = jnp.array([[1.0, 2.0], [jnp.nan, 0.0]])
    np.testing.assert_array_equal(jnp.isnan(ops.pairwise_euclidean(x, x)), [[0, 1], [1, 1]])


def test_products_are_float32_unless_another_way_is_asked_for():
    x = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    lowered = jax.jit(ops.pairwise_euclidean).lower(x, x).as_text()
    assert "HIGHEST" in lowered
    assert "algorithm" not in lowered
    with jax.default_matmul_precision("BF16_BF16_F32_X3"):
        lowered = jax.jit(ops.pairwise_euclidean).lower(x, x).as_text()
    assert "num_primitive_operations = 3" in lowered
    assert "HIGHEST" not in lowered


def test_pairwise_cosine_against_a_loop():
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(4, 8)), 100 * rng.normal(size=(6, 8))
    want = [[1 - a @ b / np.sqrt((a @ a) * (b @ b)) for b in g] for a in q]
    got = ops.pairwise_cosine(jnp.float32(q), jnp.float32(g))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert (np.asarray(ops.pairwise_cosine(jnp.float32(g), jnp.float32(g))) >= 0).all()
