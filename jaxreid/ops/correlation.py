"""Comparing every place of a frame with every place of the clip's other frames.

Subramaniam, Nambiar, Mittal: Co-segmentation Inspired Attention Networks for Video-based Person
Re-identification (ICCV 2019), section 4.1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid.ops.distance import safe_root


def normalized_cross_correlation(
    descriptors: Float[Array, "b n h w r"], eps: float = 1e-4
) -> Float[Array, "b n h w k"]:
    """Cost volume of a clip: the correlation of each place with all places of the other frames.

    NCC(P, Q) = (1/r) Σ_c (P_c - μ_P)(Q_c - μ_Q) / ((σ_P + ε)(σ_Q + ε)), Eqs. (1) and (2), with
    the unbiased deviation of the authors' code: a descriptor has 1 - 1/r with itself (0.996 for
    r = 256) and a constant one has 0 with all. In float32; of bfloat16 descriptors the products
    take bfloat16 and are summed in float32.

    Args:
        descriptors: one vector of r >= 2 channels for each place of n frames.
        eps: added to the deviations.

    Returns:
        For each place k = (n-1)·h·w values: the other frames in ascending order, their rows,
        their columns.
    """
    b, n, h, w, r = descriptors.shape
    x = descriptors.reshape(b, n, h * w, r).astype(jnp.float32)
    x = x - x.mean(axis=-1, keepdims=True)
    deviation = safe_root(jnp.sum(jnp.square(x), axis=-1, keepdims=True) / (r - 1))
    x = (x / (deviation + eps)).astype(descriptors.dtype)
    products = jnp.einsum(
        "bnsr,bmtr->bnmst", x, x, precision="highest", preferred_element_type=jnp.float32
    )
    # The n x n blocks of a clip in reading order, without the first, are n-1 times "n blocks of
    # two frames, one block of a frame with itself".
    pairs = products.reshape(b, n * n, h * w, h * w)[:, 1:]
    others = pairs.reshape(b, n - 1, n + 1, h * w, h * w)[:, :, :-1]
    volume = others.reshape(b, n, n - 1, h * w, h * w).swapaxes(2, 3) / r
    return volume.reshape(b, n, h, w, (n - 1) * h * w)
