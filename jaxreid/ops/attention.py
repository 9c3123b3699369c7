"""Attention over sequences: of frames, and the dual attention matching of two; over locations.

Dual attention matching (Si et al., CVPR 2018, section 3.2): one sequence refines itself by
attention over its own vectors, and is aligned with the other by attention over the other's.
Symbols are the paper's: x a sequence of unit vectors, q its filters (Eq. 1), x̄ refined,
x̂ aligned.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxreid.ops.distance import distance_precision, safe_root


class FeatureSequence(NamedTuple):
    """What matching needs of one item alone, or of many along leading axes.

    Attributes:
        x: the unit vectors of the sequence.
        filters: q of Eq. (1), one filter for each vector.
        refined: x̄ of Eq. (3), each vector refined by its own sequence.
    """

    x: Float[Array, "*b s d"]
    filters: Float[Array, "*b s d"]
    refined: Float[Array, "*b s d"]


def attention_weights(
    filters: Float[Array, "*b n d"], memory: Float[Array, "*b s d"]
) -> Float[Array, "*b n s"]:
    """Eq. (2) and the softmax of Eq. (3): the weight of each vector of `memory` for each filter."""
    logits = jnp.einsum("...nd,...sd->...ns", filters, memory, precision="highest")
    return jax.nn.softmax(logits, axis=-1)


def attend(
    filters: Float[Array, "*b n d"], memory: Float[Array, "*b s d"]
) -> Float[Array, "*b n d"]:
    """Eq. (3): one convex combination of the vectors of `memory` for each filter."""
    weights = attention_weights(filters, memory)
    return jnp.einsum("...ns,...sd->...nd", weights, memory, precision="highest")


def dual_attention(
    filters: Float[Array, "n d"], own: Float[Array, "n d"], other: Float[Array, "s d"]
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """Eqs. (2)-(3): a sequence refined by itself, and the other sequence aligned with it.

    Args:
        filters: q_a, Eq. (1) of the sequence `own`.
        own: x_a, the sequence to refine.
        other: x_b, the sequence to align; its length may differ.

    Returns:
        x̄_a (refined) and x̂_b (aligned), one vector of each for every vector of `own`.
    """
    return attend(filters, own), attend(filters, other)


def dual_attention_distance(a: FeatureSequence, b: FeatureSequence) -> Float[Array, ""]:
    """Eqs. (4)-(5): the distance of two sequences, by its definition. In [0, 2], symmetric.

    The gradient is finite everywhere, also where the sequences are equal. For a matrix of
    distances with gradients, `vmap` it twice; without gradients, `dual_attention_distmat`.

    Args:
        a: one sequence, leaves `[s d]`.
        b: another, leaves `[n d]`; the lengths may differ.
    """
    d_a = _norm(a.refined - attend(a.filters, b.x))  # Eq. (4)
    d_b = _norm(b.refined - attend(b.filters, a.x))
    return d_a.mean() / 2 + d_b.mean() / 2  # Eq. (5)


def dual_attention_distmat(
    queries: FeatureSequence, gallery: FeatureSequence
) -> Float[Array, "q g"]:
    """`dual_attention_distance` of every query to every gallery item, in the fast form.

    The aligned sequences, `q g s d` numbers, are never formed: with attention weights p over
    the other sequence x and its Gram matrix G = x xᵀ,

        ‖x̄ - pᵀx‖² = ‖x̄‖² - 2 pᵀ(x x̄) + pᵀ G p

    needs two matrix products for all pairs, and per pair only `s x n` numbers, which are held
    for some gallery items at a time. Equal to the definition to 1e-5 in float32 but for distances
    under about 1e-2, where the subtraction cancels: meant for ranking, not for gradients.

    Args:
        queries: leaves `[q s d]`.
        gallery: leaves `[g n d]`; may be divided over devices along g.
    """
    q, (g, n, d) = queries.x.shape[0], gallery.x.shape
    # Each device takes some items of its own share at a time: so many that a CPU's cache holds
    # what they need, and that an accelerator has work enough.
    most = 16 if jax.default_backend() == "cpu" else 1024
    if isinstance(g, int):
        devices = math.gcd(g, jax.device_count())
        share = g // devices
        steps = max(1, math.ceil(share / most))
        some = math.ceil(share / steps)
    else:  # A symbol, for `jax.export`: any number, on one device.
        devices, share, steps, some = 1, g, -(-g // most), most

    def divide(x: Array) -> Array:
        shares = x.reshape(devices, share, n, d)
        padded = jnp.pad(shares, ((0, 0), (0, steps * some - share), (0, 0), (0, 0)))
        return padded.reshape(devices, steps, some, n, d)

    parts = jax.tree.map(divide, gallery)

    def against(step: Array) -> Array:
        part = jax.tree.map(lambda x: x[:, step].reshape(devices * some, n, d), parts)
        d_a, d_b = _aligned_norms(queries, part), _aligned_norms(part, queries)  # Eq. (4)
        return d_a.mean(axis=-1).T / 2 + d_b.mean(axis=-1) / 2  # Eq. (5)

    blocks = jax.lax.map(against, jnp.arange(steps)).reshape(steps, q, devices, some)
    shares = blocks.transpose(1, 2, 0, 3).reshape(q, devices, steps * some)
    return shares[:, :, :share].reshape(q, g)


def _aligned_norms(a: FeatureSequence, b: FeatureSequence) -> Float[Array, "g q s"]:
    """Eq. (4) for all pairs: ‖x̄_a - x̂_b‖ at every position of a.

    The axis of b's positions, over which all sums run, is never the last: compilers vectorise
    over the last, and b's items lead as the products with their Gram matrices want them.
    """

    precision = distance_precision()

    def product(u: Array, v: Array) -> Array:
        return jnp.einsum("gnd,qsd->gnqs", u, v, precision=precision)

    weights = jax.nn.softmax(product(b.x, a.filters), axis=1)  # σ(ê), "g n q s"
    gram = jnp.einsum("gmd,gnd->gmn", b.x, b.x, precision=precision)
    # pᵀ G p - 2 pᵀ (x x̄) = pᵀ (G p - 2 x x̄), in one pass over the weights.
    quadratic = jnp.einsum("gmn,gnqs->gmqs", gram, weights, precision=precision)
    squares = jnp.sum(weights * (quadratic - 2 * product(b.x, a.refined)), axis=1)
    squares += jnp.sum(jnp.square(a.refined), axis=-1)[None]
    return jnp.sqrt(jnp.maximum(squares, 0.0))


def temporal_attention(
    frames: Float[Array, "b t d"], scores: Float[Array, "b t"]
) -> Float[Array, "b d"]:
    """Frames summed by the softmax of their scores, in float32."""
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=1)
    frames = frames.astype(jnp.float32)
    return jnp.einsum("bt,btd->bd", weights, frames, precision="highest")


def location_attention(
    states: Float[Array, "b h w d"], kernel: Float[Array, "m n"]
) -> Float[Array, "b n"]:
    """Eq. (3) of Where-and-When to Look: the weight of each location of the next frame.

    One linear map of the flattened state, and a softmax over the locations, in float32. (As
    printed, the denominator lacks its exponential.)

    Args:
        states: h of the top layer, after the frame before.
        kernel: one column W_i for each of n locations; m is h w d.
    """
    flat = states.astype(jnp.float32).reshape(states.shape[0], -1)
    return jax.nn.softmax(jnp.matmul(flat, kernel, precision="highest"), axis=-1)


def _norm(vectors: Float[Array, "*n d"]) -> Float[Array, "*n"]:
    return safe_root(jnp.sum(jnp.square(vectors), axis=-1))


def non_local(
    queries: Float[Array, "b s d"], keys: Float[Array, "b s d"], values: Float[Array, "b s n"]
) -> Float[Array, "b s n"]:
    """Every place looks at every other (Wang et al., CVPR 2018, Eq. 1, with the dot product of
    Eq. 4): y_i = 1/S sum_j <q_i, k_j> v_j, the weights without a softmax.

    Computed from right to left, so no place is compared with another one by itself.
    """
    context = jnp.einsum("bsd,bsn->bdn", keys, values) / keys.shape[1]
    return jnp.einsum("bsd,bdn->bsn", queries, context)


def multi_head_attention(
    queries: Float[Array, "b s d"],
    keys: Float[Array, "b s d"],
    values: Float[Array, "b s d"],
    heads: int,
) -> Float[Array, "b s d"]:
    """Scaled dot products (Vaswani et al., NeurIPS 2017, Eq. 1) of `heads` slices of the channels:

        y_i = sum_j softmax_j(<q_i, k_j> / sqrt(d / heads)) v_j

    each slice by itself, and the results side by side. The softmax is in float32.

    Args:
        queries: one vector of each place.
        keys: what they are compared with.
        values: what is averaged.
        heads: slices, which divide d.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (queries, keys, values))
    scores = jnp.einsum("bsnd,btnd->bnst", q * q.shape[-1] ** -0.5, k)
    weights = jax.nn.softmax(scores.astype(jnp.float32), axis=-1).astype(v.dtype)
    return jnp.einsum("bnst,btnd->bsnd", weights, v).reshape(values.shape)
