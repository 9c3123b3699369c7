"""Distances between vectors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this a squared distance counts as zero. Its root is 1e-6, and the gradient of the root
# is zero instead of NaN for two equal vectors.
MIN_SQUARE = 1e-12


def distance_precision() -> str:
    """How the products of a distance are computed: in float32, as ranks depend on them.

    On a GPU, float32 products leave the matrix units idle. `jax.default_matmul_precision` chooses
    another way, such as `"TF32_TF32_F32_X3"`, for what is traced within it.
    """
    return jax.config.jax_default_matmul_precision or "highest"  # type: ignore[attr-defined]


def safe_root(squares: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Square root that is zero, with a gradient of zero, up to `MIN_SQUARE`. NaN stays NaN."""
    tiny = squares <= MIN_SQUARE
    return jnp.where(tiny, 0.0, jnp.sqrt(jnp.where(tiny, 1.0, squares)))


def pairwise_euclidean(
    queries: Float[Array, "q d"], gallery: Float[Array, "g d"]
) -> Float[Array, "q g"]:
    """Euclidean distance of every query to every gallery item, not squared, in float32.

    Computed from one matrix product, so vectors nearer than about 3e-4 of their length are not
    told apart.
    """
    q, g = queries.astype(jnp.float32), gallery.astype(jnp.float32)
    products = jnp.matmul(q, g.T, precision=distance_precision())
    squares = jnp.sum(q * q, axis=1)[:, None] - 2 * products + jnp.sum(g * g, axis=1)[None, :]
    return safe_root(squares)


def pairwise_cosine(
    queries: Float[Array, "q d"], gallery: Float[Array, "g d"]
) -> Float[Array, "q g"]:
    """Cosine distance of every query to every gallery item, 1 - cos: 0 to 2, in float32."""
    q, g = (normalise(vectors.astype(jnp.float32)) for vectors in (queries, gallery))
    return jnp.maximum(1 - jnp.matmul(q, g.T, precision=distance_precision()), 0.0)


def normalise(vectors: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Unit length; a zero vector stays zero."""
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
