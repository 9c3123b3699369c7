"""The losses against loops written from the papers, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import losses


def triplet_loop(distmat, pids, margin):
    terms = []
    for a in range(len(pids)):
        positives = [distmat[a][i] for i in range(len(pids)) if pids[i] == pids[a] and i != a]
        negatives = [distmat[a][i] for i in range(len(pids)) if pids[i] != pids[a]]
        if positives and negatives:
            terms.append(max(0.0, margin + max(positives) - min(negatives)))
    return np.mean(terms) if terms else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_batch_hard_triplet_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    pids = rng.integers(0, 5, 12)
    distmat = rng.uniform(0, 2, (12, 12))
    np.fill_diagonal(distmat, 0)
    got = losses.batch_hard_triplet(jnp.float32(distmat), jnp.array(pids), 0.2)
    assert got == pytest.approx(triplet_loop(distmat, pids, 0.2), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_triplets_of_some_positives_against_loops(seed):
    """Items of one person and camera are neither positives nor negatives."""
    rng = np.random.default_rng(seed)
    pids, camids = np.repeat(rng.integers(0, 4, 8), 2), rng.integers(0, 3, 16)
    distmat = rng.uniform(0, 2, (16, 16))
    hard, semi_hard = [], []
    for a in range(16):
        others = [distmat[a, i] for i in range(16) if pids[i] != pids[a]]
        mine = [distmat[a, i] for i in range(16) if pids[i] == pids[a] and camids[i] != camids[a]]
        if mine and others:
            hard.append(max(0, 0.2 + max(mine) - min(others)))
    for a, p, n in semi_hard_loop(distmat, pids):
        if camids[a] != camids[p]:
            semi_hard.append(max(0, 0.2 + distmat[a, p] - distmat[a, n]))
    apart = jnp.array(camids[:, None] != camids)
    for function, terms in (
        (losses.batch_hard_triplet, hard),
        (losses.semi_hard_triplet, semi_hard),
    ):
        got = function(jnp.float32(distmat), jnp.array(pids), 0.2, apart)
        assert got == pytest.approx(np.mean(terms), abs=1e-6)
        everyone = function(jnp.float32(distmat), jnp.array(pids), 0.2)
        same = function(jnp.float32(distmat), jnp.array(pids), 0.2, jnp.ones((16, 16), bool))
        assert everyone == same != got


def test_batch_hard_triplet_by_hand():
    # Anchor 0: 0.3 + 0.5 - 0.4; anchor 1: 0.3 + 0.5 - 0.9 < 0; anchor 2 has no positive.
    distmat = jnp.array([[0.0, 0.5, 0.4], [0.5, 0.0, 0.9], [0.4, 0.9, 0.0]])
    got = losses.batch_hard_triplet(distmat, jnp.array([7, 7, 8]), 0.3)
    assert got == pytest.approx(0.4 / 2, abs=1e-6)


@pytest.mark.parametrize("pids", [[1, 1, 1], [1, 2, 3]])
def test_batch_hard_triplet_without_any_triplet(pids):
    distmat = jnp.ones((3, 3))
    value, gradient = jax.value_and_grad(losses.batch_hard_triplet)(distmat, jnp.array(pids), 0.2)
    assert value == 0
    assert (gradient == 0).all()


def semi_hard_loop(distmat, pids):
    """Anchor, positive and negative of each pair that has all three."""
    triplets = []
    for a in range(0, len(pids), 2):
        others = [i for i in range(len(pids)) if pids[i] != pids[a]]
        if pids[a + 1] != pids[a] or not others:
            continue
        beyond = [i for i in others if distmat[a][i] > distmat[a][a + 1]]
        triplets.append((a, a + 1, min(beyond or others, key=lambda i, a=a: distmat[a][i])))
    return triplets


@pytest.mark.parametrize("seed", range(5))
def test_semi_hard_triplet_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    pids = np.repeat(rng.integers(0, 5, 6), 2)
    pids[3] = 9  # a pair of two persons
    distmat = rng.uniform(0, 2, (12, 12))
    triplets = semi_hard_loop(distmat, pids)
    assert len(triplets) == 5
    negatives = losses.semi_hard_negatives(jnp.float32(distmat), jnp.array(pids))
    assert [int(negatives[a // 2]) for a, _, _ in triplets] == [n for _, _, n in triplets]
    want = np.mean([max(0, 0.2 + distmat[a, p] - distmat[a, n]) for a, p, n in triplets])
    got = losses.semi_hard_triplet(jnp.float32(distmat), jnp.array(pids), 0.2)
    assert got == pytest.approx(want, abs=1e-6)


def test_semi_hard_triplet_by_hand():
    # Anchor 0, positive at 0.5: 0.6 is the nearest beyond. Anchor 2, positive at 0.8: none is
    # beyond, and 0.4 is the nearest.
    distmat = jnp.zeros((4, 4)).at[0].set(jnp.array([0.0, 0.5, 0.3, 0.6]))
    distmat = distmat.at[2].set(jnp.array([0.7, 0.4, 0.0, 0.8]))
    pids = jnp.array([4, 4, 5, 5])
    assert losses.semi_hard_negatives(distmat, pids).tolist() == [3, 1]
    assert losses.semi_hard_negatives(distmat, pids, hardest=True).tolist() == [2, 1]
    hardest = ((0.2 + 0.5 - 0.3) + (0.2 + 0.8 - 0.4)) / 2
    assert losses.semi_hard_triplet(distmat, pids, 0.2, hardest=True) == pytest.approx(hardest)
    want = ((0.2 + 0.5 - 0.6) + (0.2 + 0.8 - 0.4)) / 2
    value, gradient = jax.value_and_grad(losses.semi_hard_triplet)(distmat, pids, 0.2)
    assert value == pytest.approx(want, abs=1e-6)
    assert {(i, j): float(gradient[i, j]) for i, j in np.argwhere(gradient)} == {
        (0, 1): 0.5,
        (0, 3): -0.5,
        (2, 3): 0.5,
        (2, 1): -0.5,
    }


def test_a_negative_that_is_as_near_as_the_positive_is_not_beyond_it():
    distmat = jnp.array([[0.0, 0.5, 0.5, 0.9]] * 4)
    assert losses.semi_hard_negatives(distmat, jnp.array([1, 1, 2, 2]))[0] == 3


@pytest.mark.parametrize("pids", [[1, 1, 1, 1], [1, 2, 3, 4]])
def test_semi_hard_triplet_without_any_triplet(pids):
    value, gradient = jax.value_and_grad(losses.semi_hard_triplet)(
        jnp.ones((4, 4)), jnp.array(pids), 0.2
    )
    assert value == 0
    assert (gradient == 0).all()


def test_pair_verification_by_hand():
    logits, same = jnp.array([0.0, 2.0, -3.0]), jnp.array([True, True, False])
    terms = [np.log(2), np.log(1 + np.exp(-2)), np.log(1 + np.exp(-3))]
    assert losses.pair_verification(logits, same) == pytest.approx(np.mean(terms), 1e-6)
    some = losses.pair_verification(logits, same, where=jnp.array([True, False, True]))
    assert some == pytest.approx((terms[0] + terms[2]) / 2, 1e-6)
    assert losses.pair_verification(logits, same, where=jnp.zeros(3, bool)) == 0


def test_pair_verification_is_the_cross_entropy_of_two_classes():
    logits = np.random.default_rng(0).normal(size=(5, 2)) * 4
    same = np.array([1, 0, 0, 1, 1])
    want = losses.cross_entropy(jnp.float32(logits), jnp.array(same))
    got = losses.pair_verification(jnp.float32(logits[:, 1] - logits[:, 0]), jnp.array(same == 1))
    assert got == pytest.approx(float(want), 1e-5)


def test_pair_verification_is_in_float32_and_finite():
    logits = jnp.array([1e4, -1e4], jnp.bfloat16)
    value, gradient = jax.value_and_grad(losses.pair_verification)(logits, jnp.array([False, True]))
    assert value.dtype == jnp.float32
    assert value == pytest.approx(1e4, rel=1e-2)
    assert gradient.astype(float).tolist() == [0.5, -0.5]


def test_decorrelation_against_a_loop():
    x = np.random.default_rng(0).normal(size=(3, 5, 4))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    want = np.mean([np.sum((np.eye(5) - item @ item.T) ** 2) / 25 for item in x])
    assert losses.decorrelation(jnp.float32(x)) == pytest.approx(want, abs=1e-6)


def test_decorrelation_at_its_ends():
    orthonormal = jnp.eye(32, 256)[None]
    assert losses.decorrelation(orthonormal) == 0
    alike = jnp.broadcast_to(jnp.eye(1, 256), (2, 32, 256))
    assert losses.decorrelation(alike) == pytest.approx(0.96875)  # 1 - 1/32


@pytest.mark.parametrize("drop", [0.0, 0.2, 0.6, 1.0])
def test_convex_pooling_weights_are_convex(drop):
    weights = losses.convex_pooling_weights(jax.random.key(0), 500, 16, drop)
    assert weights.shape == (500, 16)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    dropped = float((weights == 0).mean())
    # At p = 1 everything is dropped, so nothing is.
    assert dropped == pytest.approx(drop % 1, abs=0.02)


def test_convex_pooling_weights_differ_by_item_and_key():
    a = losses.convex_pooling_weights(jax.random.key(0), 2, 8, 0.2)
    b = losses.convex_pooling_weights(jax.random.key(1), 2, 8, 0.2)
    assert (a[0] != a[1]).any()
    assert (a != b).any()


def test_cross_entropy_against_a_loop():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 6)) * 5, np.array([0, 5, 2, 2])
    want = -np.mean([np.log(np.exp(row[y]) / np.exp(row).sum()) for row, y in zip(logits, labels)])
    assert losses.cross_entropy(jnp.float32(logits), jnp.array(labels)) == pytest.approx(want, 1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_cross_entropy_against_a_loop(smoothing):
    """The target is (1 - ε) of the true class, and ε/n of every class."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 6)) * 5, np.array([0, 5, 2, 2])
    total = 0.0
    for row, label in zip(logits, labels):
        for i in range(6):
            target = (1 - smoothing) * (i == label) + smoothing / 6
            total -= target * np.log(np.exp(row[i]) / np.exp(row).sum())
    got = losses.cross_entropy(jnp.float32(logits), jnp.array(labels), smoothing)
    assert got == pytest.approx(total / 4, 1e-5)


def test_smoothing_of_equal_logits_changes_nothing():
    got = losses.cross_entropy(jnp.zeros((2, 625)), jnp.array([0, 7]), 0.1)
    assert got == pytest.approx(np.log(625), 1e-6)


def eq_9(m, counted):
    """Over pairs, half of the sum over their two sequences; and what it cannot go below."""
    pairs, least = [], []
    for pair in ((0, 1), (2, 3)):
        total, floor = 0.0, 0.0
        for k in pair:
            for i in range(9):
                gathered = sum(frame[i] for frame, counts in zip(m[k], counted[k]) if counts)
                total += (1 - gathered) ** 2 / 2
            floor += 9 * (1 - counted[k].sum() / 9) ** 2 / 2
        pairs.append(total)
        least.append(floor)
    return np.mean(pairs), np.mean(least)


def test_attention_penalty_is_eq_9_above_its_least():
    m = np.random.default_rng(0).dirichlet(np.ones(9), (4, 5))
    some = np.arange(5) < np.array([5, 3, 1, 4])[:, None]
    for mask, counted in ((None, np.ones((4, 5), bool)), (jnp.array(some), some)):
        total, least = eq_9(m, counted)
        got = losses.attention_penalty(jnp.float32(m), mask)
        assert got == pytest.approx(total - least, rel=1e-5)


def test_attention_penalty_has_the_gradient_of_eq_9():
    """Of the scores that the weights are the softmax of."""
    scores = jnp.array(np.random.default_rng(0).normal(size=(4, 5, 9)), jnp.float32)

    def printed(scores):
        gathered = jax.nn.softmax(scores).sum(axis=1)
        return jnp.mean(jnp.sum(jnp.square(1 - gathered), axis=1))

    got = jax.grad(lambda x: losses.attention_penalty(jax.nn.softmax(x)))(scores)
    np.testing.assert_allclose(got, jax.grad(printed)(scores), atol=1e-6)
    assert jnp.abs(got).max() > 1e-3


def test_attention_penalty_of_the_papers_clip_at_its_least():
    even = jnp.full((2, 20, 49), 1 / 49)
    assert losses.attention_penalty(even) == pytest.approx(0, abs=1e-9)
    # And its gradient, along the weights that still sum to 1, is zero there.
    gradient = jax.grad(losses.attention_penalty)(even)
    assert jnp.abs(gradient - gradient.mean()).max() < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_weighted_triplet_against_a_loop(seed):
    """Eq. (10) of AGW, anchor by anchor; some of cameras, and anchors that lack a positive."""
    rng = np.random.default_rng(seed)
    pids, camids = rng.integers(0, 5, 12), rng.integers(0, 2, 12)
    distmat = rng.uniform(0, 30, (12, 12))
    np.fill_diagonal(distmat, 0)
    apart = camids[:, None] != camids
    for positives in (None, apart):
        terms = []
        for a in range(12):
            near = [distmat[a, i] for i in range(12) if pids[i] != pids[a]]
            far = [
                distmat[a, i]
                for i in range(12)
                if pids[i] == pids[a] and i != a and (positives is None or positives[a, i])
            ]
            if far and near:
                plus = sum(np.exp(d) * d for d in far) / sum(np.exp(d) for d in far)
                minus = sum(np.exp(-d) * d for d in near) / sum(np.exp(-d) for d in near)
                terms.append(np.log1p(np.exp(plus - minus)))
        given = positives if positives is None else jnp.array(positives)
        got = losses.weighted_triplet(jnp.float32(distmat), jnp.array(pids), given)
        assert got == pytest.approx(np.mean(terms) if terms else 0.0, rel=1e-5, abs=1e-6)


def test_weighted_triplets_have_finite_gradients_where_there_are_none():
    for pids in ([0, 0, 0], [0, 1, 2]):
        gradient = jax.grad(losses.weighted_triplet)(jnp.ones((3, 3)), jnp.array(pids))
        np.testing.assert_array_equal(gradient, np.zeros((3, 3)))


def test_centre_loss_against_a_loop():
    rng = np.random.default_rng(0)
    x, centres, pids = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), rng.integers(0, 3, 6)
    want = sum(((item - centres[pid]) ** 2).sum() for item, pid in zip(x, pids)) / 6
    got = losses.centre_loss(jnp.float32(x), jnp.float32(centres), jnp.array(pids))
    assert got == pytest.approx(want, rel=1e-6)
