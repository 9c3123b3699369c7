"""From a map to a vector."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def generalised_mean(
    x: Float[Array, "b h w c"], p: Float[Array, ""], least: float = 1e-6
) -> Float[Array, "b c"]:
    """GeM pooling (Radenovic, Tolias, Chum; TPAMI 2019, Eq. 3): (mean of x^p)^(1/p), per channel.

    The mean at p = 1, and the largest value as p grows. In float32.

    Args:
        x: a map, of which values below `least` count as that.
        p: the exponent.
        least: see above.
    """
    powers = jnp.maximum(x.astype(jnp.float32), least) ** p
    return powers.mean(axis=(1, 2)) ** (1 / p)
