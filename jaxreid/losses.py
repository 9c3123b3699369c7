"""Losses: pure functions, arrays in, a scalar out. Each is a mean over the batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key


def batch_hard_triplet(
    distmat: Float[Array, "b b"], pids: Int[Array, " b"], margin: float
) -> Float[Array, ""]:
    """Batch-hard triplet loss (Hermans et al. 2017; Eq. (6) of DuATM), hinge.

    For each anchor: the farthest item of its person (another one than itself) and the nearest
    of any other person. An anchor that lacks either is left out of the mean.

    Args:
        distmat: distance of every item to every item. Its diagonal is ignored.
        pids: person ids.
        margin: how much nearer the positive has to be, in units of the distance.
    """
    same = pids[:, None] == pids[None, :]
    positive = same & ~jnp.eye(len(pids), dtype=bool)
    farthest = jnp.max(distmat, axis=1, where=positive, initial=0.0)
    nearest = jnp.min(distmat, axis=1, where=~same, initial=jnp.inf)
    valid = positive.any(axis=1) & ~same.all(axis=1)
    # The inner `where` keeps the infinity of an anchor without negatives out of the gradient.
    hinge = jnp.maximum(0.0, margin + farthest - jnp.where(valid, nearest, 0.0))
    return jnp.sum(hinge, where=valid) / jnp.maximum(valid.sum(), 1)


def decorrelation(x: Float[Array, "b s d"]) -> Float[Array, ""]:
    """De-correlation loss, Eq. (7) of DuATM: (1/S²) ‖I - X Xᵀ‖²_F, the mean over items.

    For unit vectors the diagonal vanishes, and this is the mean squared cosine between the
    vectors of a sequence, over all S² entries.
    """
    s = x.shape[1]
    gram = jnp.einsum("bsd,bnd->bsn", x, x, precision="highest")
    return jnp.mean(jnp.square(jnp.eye(s)[None] - gram))


def convex_pooling_weights(
    key: Key[Array, ""], num_items: int, length: int, drop: float
) -> Float[Array, "b s"]:
    """Random convex weights over a sequence (section 3.3 of DuATM), one draw for each item.

    ω = u·k / Σ(u·k) with u uniform in [0, 1] and k zero with probability `drop`. An item whose
    weights are all dropped keeps its u.

    Args:
        key: random key.
        num_items: b.
        length: s.
        drop: p, the probability that a weight is set to zero.
    """
    key_u, key_k = jax.random.split(key)
    # Not below 1e-6: all-zero draws would divide by zero.
    u = jax.random.uniform(key_u, (num_items, length), minval=1e-6)
    kept = u * jax.random.bernoulli(key_k, 1 - drop, (num_items, length))
    w = jnp.where(kept.sum(axis=1, keepdims=True) > 0, kept, u)
    return w / w.sum(axis=1, keepdims=True)


def cross_entropy(
    logits: Float[Array, "b n"], labels: Int[Array, " b"], label_smoothing: float = 0.0
) -> Float[Array, ""]:
    """Softmax cross-entropy of integer labels, in float32.

    Args:
        logits: scores of the n classes.
        labels: the true class of each item.
        label_smoothing: ε; the target is (1 - ε)·(the true class) + ε/n·(every class), as in
            Szegedy et al. 2016.
    """
    logits = logits.astype(jnp.float32)
    true = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    every = jax.nn.logsumexp(logits, axis=1) - logits.mean(axis=1)
    return jnp.mean((1 - label_smoothing) * true + label_smoothing * every)
