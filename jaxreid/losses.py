"""Losses: pure functions, arrays in, a scalar out. Each is a mean over the batch."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key


def batch_hard_triplet(
    distmat: Float[Array, "b b"],
    pids: Int[Array, " b"],
    margin: float | None,
    positives: Bool[Array, "b b"] | None = None,
) -> Float[Array, ""]:
    """Batch-hard triplet loss (Hermans et al. 2017; Eq. (6) of DuATM), hinge or softplus.

    For each anchor: the farthest item of its person (another one than itself) and the nearest
    of any other person. An anchor that lacks either is left out of the mean.

    Args:
        distmat: distance of every item to every item. Its diagonal is ignored.
        pids: person ids.
        margin: how much nearer the positive has to be, in units of the distance. None: the soft
            margin of Hermans et al., log(1 + exp(farthest - nearest)).
        positives: which items of one person are positives of each other, see `Batch.positives`;
            the others are neither positives nor negatives. None: all.
    """
    same = pids[:, None] == pids[None, :]
    positive = same & ~jnp.eye(len(pids), dtype=bool)
    if positives is not None:
        positive &= positives
    farthest = jnp.max(distmat, axis=1, where=positive, initial=0.0)
    nearest = jnp.min(distmat, axis=1, where=~same, initial=jnp.inf)
    valid = positive.any(axis=1) & ~same.all(axis=1)
    # The inner `where` keeps the infinity of an anchor without negatives out of the gradient.
    gap = farthest - jnp.where(valid, nearest, 0.0)
    each = jax.nn.softplus(gap) if margin is None else jnp.maximum(0.0, margin + gap)
    return jnp.sum(each, where=valid) / jnp.maximum(valid.sum(), 1)


def weighted_triplet(
    distmat: Float[Array, "b b"],
    pids: Int[Array, " b"],
    positives: Bool[Array, "b b"] | None = None,
) -> Float[Array, ""]:
    """Weighted regularisation triplet loss (Ye et al., TPAMI 2021, Eq. 10), without a margin.

    log(1 + exp(d+ - d-)) of each anchor, where d+ is the mean distance of its positives, with
    weights that are the softmax of the distances themselves, and d- that of its negatives, with
    weights that are the softmax of minus theirs. Of anchors that lack either there is none.

    Args:
        distmat: distance of every item to every item. Its diagonal is ignored.
        pids: person ids.
        positives: as in `batch_hard_triplet`.
    """
    same = pids[:, None] == pids[None, :]
    positive = same & ~jnp.eye(len(pids), dtype=bool)
    if positives is not None:
        positive &= positives

    def weighted(sign: float, counted: Bool[Array, "b b"]) -> Float[Array, " b"]:
        weights = jax.nn.softmax(sign * distmat, axis=1, where=counted)
        return jnp.sum(weights * distmat, axis=1, where=counted)

    valid = positive.any(axis=1) & ~same.all(axis=1)
    # An anchor without a positive or a negative would have a softmax of nothing.
    everyone = jnp.broadcast_to(~valid[:, None], same.shape)
    apart = weighted(1.0, positive | everyone) - weighted(-1.0, ~same | everyone)
    return jnp.sum(jax.nn.softplus(apart), where=valid) / jnp.maximum(valid.sum(), 1)


def centre_loss(
    x: Float[Array, "b d"], centres: Float[Array, "n d"], pids: Int[Array, " b"]
) -> Float[Array, ""]:
    """Squared distance of each item to the centre of its person (Wen et al., ECCV 2016, Eq. 2).

    Args:
        x: vectors of the items.
        centres: of the persons.
        pids: person ids, 0..n-1.
    """
    return jnp.mean(jnp.sum(jnp.square(x - centres[pids]), axis=1))


def semi_hard_negatives(
    distmat: Float[Array, "b b"], pids: Int[Array, " b"], hardest: bool = False
) -> Int[Array, " n"]:
    """FaceNet's choice of negatives (Schroff et al. 2015), among the items of the batch.

    Items 2i and 2i+1 are an anchor and its positive. Its negative is the nearest item of another
    person that is farther than the positive; where none is farther, the nearest of all. (Where
    there is no other person, an item of its own.)

    Args:
        distmat: distance, or squared distance, of every item to every item.
        pids: person ids; b is even.
        hardest: the nearest of all always.
    """
    from_anchor, positive = distmat[::2], jnp.diagonal(distmat, 1)[::2]
    other = pids[::2, None] != pids[None, :]
    beyond = other & (hardest | (from_anchor > positive[:, None]))
    admitted = jnp.where(beyond.any(axis=1, keepdims=True), beyond, other)
    return jnp.argmin(jnp.where(admitted, from_anchor, jnp.inf), axis=1)


def semi_hard_triplet(
    distmat: Float[Array, "b b"],
    pids: Int[Array, " b"],
    margin: float,
    positives: Bool[Array, "b b"] | None = None,
    hardest: bool = False,
) -> Float[Array, ""]:
    """FaceNet's triplet loss, hinge, with the negatives of `semi_hard_negatives`.

    A pair of items 2i and 2i+1 that is not of one person, is not one of `positives`, or has no
    negative, is left out of the mean.

    Args:
        distmat: squared distance of every item to every item.
        pids: person ids; b is even.
        margin: how much nearer the positive has to be, in units of `distmat`.
        positives: as in `batch_hard_triplet`.
        hardest: as in `semi_hard_negatives`.
    """
    anchor, negative = pids[::2], semi_hard_negatives(distmat, pids, hardest)
    positive_distance = jnp.diagonal(distmat, 1)[::2]
    negative_distance = jnp.take_along_axis(distmat[::2], negative[:, None], axis=1)[:, 0]
    valid = (anchor == pids[1::2]) & (anchor != pids[negative])
    if positives is not None:
        valid &= jnp.diagonal(positives, 1)[::2]
    hinge = jnp.maximum(0.0, margin + positive_distance - negative_distance)
    return jnp.sum(hinge, where=valid) / jnp.maximum(valid.sum(), 1)


def pair_verification(
    logits: Float[Array, " n"],
    same: Bool[Array, " n"],
    *,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """Binary cross-entropy of pairs: are they of one person? In float32.

    Args:
        logits: log-odds of one person; of a softmax of two classes, the difference of its logits.
        same: whether they are.
        where: the pairs that count in the mean; None: all.
    """
    counted = jnp.ones_like(same) if where is None else where
    terms = optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), same)
    return jnp.sum(terms, where=counted) / jnp.maximum(counted.sum(), 1)


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


def attention_penalty(
    weights: Float[Array, "b t n"], mask: Bool[Array, "b t"] | None = None
) -> Float[Array, ""]:
    """Doubly stochastic attention, the first term of Eq. (9) of Where-and-When, above its least.

    Over time, every location is to gather as much attention as every other. Eq. (9) has
    Σ_i (1 - Σ_t m_{t,i})², which is Σ_i (T/n - Σ_t m_{t,i})² + n (1 - T/n)² since the weights of a
    frame sum to 1. The second term is constant, 17.16 for 20 frames of 7 x 7, and is left out: the
    gradient is that of Eq. (9). A mean over pairs of ½ the sum over a pair's two sequences is the
    mean over items.

    Args:
        weights: m, of the n locations of t frames; each frame's sum to 1.
        mask: the frames that count, T of them; None: all.
    """
    b, t, n = weights.shape
    counted = jnp.ones((b, t), bool) if mask is None else mask
    gathered = jnp.sum(weights.astype(jnp.float32), axis=1, where=counted[..., None])
    even = counted.sum(axis=1, keepdims=True) / n
    return jnp.mean(jnp.sum(jnp.square(even - gathered), axis=1))
