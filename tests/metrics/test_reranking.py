import collections

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreid.metrics.reranking import (
    average_query_expansion,
    k_reciprocal_rerank,
    rerank_blocks,
)


def by_definition(q_g, q_q, g_g, k1, k2, lam):
    """The paper's equations in sets and dictionaries, float64; one pair of items at a time."""
    q, g = q_g.shape
    whole = np.block([[q_q, q_g], [q_g.T, g_g]]).astype(np.float64)
    columns = whole.T  # the released code ranks by columns
    items = range(q + g)
    d = [[x * x / (max(row) ** 2 or 1.0) for x in row] for row in columns.tolist()]
    order = [sorted(items, key=lambda j, p=p: (columns[p, j], j)) for p in items]

    def reciprocal(p, k):  # Eq. (3)
        return {j for j in order[p][: k + 1] if p in order[j][: k + 1]}

    v = []
    for p in items:
        r = reciprocal(p, k1)
        expanded = set(r)
        for j in r:  # Eq. (4)
            others = reciprocal(j, int(np.around(k1 / 2)))
            if 3 * len(r & others) > 2 * len(others):
                expanded |= others
        weights = {j: np.exp(-d[p][j]) for j in expanded}  # Eq. (7)
        v.append({j: w / sum(weights.values()) for j, w in weights.items()})
    if k2 > 1:  # Eq. (11)
        means = []
        for p in items:
            mean = collections.defaultdict(float)
            for j in order[p][:k2]:
                for i, w in v[j].items():
                    mean[i] += w / len(order[p][:k2])
            means.append(mean)
        v = means
    out = np.empty((q, g))
    for p in range(q):
        for j in range(g):
            shared = sum(min(w, v[q + j].get(i, 0.0)) for i, w in v[p].items())
            jaccard = 1 - shared / (2 - shared)  # Eq. (10)
            out[p, j] = (1 - lam) * jaccard + lam * d[p][q + j]  # Eq. (12)
    return out


def clusters(q, g, seed=0, dtype=np.float32):
    """Distances between noisy views of a few persons: q_g, q_q, g_g."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, g // 6), 8))
    x = centres[rng.integers(len(centres), size=q + g)] + 0.6 * rng.normal(size=(q + g, 8))
    d = np.linalg.norm(x[:, None] - x, axis=2).astype(dtype)
    return d[:q, q:], d[:q, :q], d[q:, q:]


def integers(q, g, seed, highest):
    """Asymmetric, with ties everywhere, and an item need not be the nearest to itself."""
    rng = np.random.default_rng(seed)
    return tuple(
        rng.integers(0, highest + 1, size).astype(np.float32) for size in [(q, g), (q, q), (g, g)]
    )


def joined(q_g, q_q, g_g):
    """A function for `rerank_blocks`, and the rows that it was asked for."""
    d, asked = np.block([[q_q, q_g], [q_g.T, g_g]]).T.copy(), collections.Counter()

    def block(rows):
        asked.update(range(rows.start, rows.stop))
        return d[rows]

    return block, asked, lambda i, j: d[i, j]


def in_blocks(block, q, n, **options):
    slices, parts = zip(*rerank_blocks(block, q, n, **options))
    assert [i for rows in slices for i in range(rows.start, rows.stop)] == list(range(q))
    return np.concatenate(parts)


@pytest.mark.parametrize(
    ("q", "g", "k1", "k2", "lam"),
    [
        (20, 130, 20, 6, 0.3),
        (7, 250, 3, 2, 0.3),  # many more columns than `_smallest` makes groups
        (30, 60, 5, 5, 0.5),  # 5 / 2 is rounded to 2
        (12, 80, 7, 1, 0.0),  # 7 / 2 is rounded to 4
        (9, 90, 1, 1, 0.3),
        (1, 40, 20, 6, 0.3),
        (40, 1, 10, 3, 0.3),
        (4, 9, 20, 6, 0.3),  # fewer items than k1 + 1
        (1, 2, 20, 6, 0.3),  # and than k2
        (1, 1, 20, 6, 0.3),
    ],
)
def test_equals_the_equations(q, g, k1, k2, lam):
    for dtype in (np.float32, np.float64):
        given_ = clusters(q, g, seed=q, dtype=dtype)
        got = k_reciprocal_rerank(*given_, k1, k2, lam)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, by_definition(*given_, k1, k2, lam), atol=2e-6)


def test_three_items_by_hand():
    """With k1 = 1 the query and the first item have each other, and the second only itself."""
    q_g, q_q = np.array([[1.0, 2.0]]), np.zeros((1, 1))
    g_g = np.array([[0.0, 2.0], [2.0, 0.0]])
    other = np.exp(-1 / 4) / (1 + np.exp(-1 / 4))  # the weight of each in the other's encoding
    near = 1 - 2 * other / (2 - 2 * other)
    got = k_reciprocal_rerank(q_g, q_q, g_g, k1=1, k2=1, lambda_value=0.3)
    np.testing.assert_allclose(got, [[0.7 * near + 0.3 / 4, 1.0]], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    q=st.integers(1, 12),
    g=st.integers(1, 60),
    highest=st.integers(0, 12),
    k1=st.integers(1, 12),
    k2=st.integers(1, 12),
    block_size=st.integers(1, 80),
)
def test_ties_asymmetry_and_blocks(seed, q, g, highest, k1, k2, block_size):
    k2 = min(k1, k2)
    given_ = integers(q, g, seed, highest)
    got = k_reciprocal_rerank(*given_, k1, k2)
    np.testing.assert_allclose(got, by_definition(*given_, k1, k2, 0.3), atol=2e-6)
    block, _, pairs = joined(*given_)
    options = {"k1": k1, "k2": k2, "block_size": block_size}
    np.testing.assert_array_equal(in_blocks(block, q, q + g, pairs=pairs, **options), got)
    np.testing.assert_array_equal(in_blocks(block, q, q + g, **options), got)


def test_more_twins_than_neighbours():
    """30 items at one place: an item is not even in its own list."""
    given_ = clusters(3, 60)
    place = np.r_[np.zeros(30, int), np.arange(30, 60)]
    given_ = given_[0][:, place], given_[1], given_[2][np.ix_(place, place)]
    got = k_reciprocal_rerank(*given_, 8, 3)
    np.testing.assert_allclose(got, by_definition(*given_, 8, 3, 0.3), atol=2e-6)


def test_no_distance_at_all():
    zeros = np.zeros((2, 3)), np.zeros((2, 2)), np.zeros((3, 3))
    np.testing.assert_allclose(k_reciprocal_rerank(*zeros, 4, 2), 0, atol=1e-6)


def test_how_often_a_block_is_asked_for():
    block, asked, pairs = joined(*clusters(10, 50))
    in_blocks(block, 10, 60, pairs=pairs, block_size=7)
    assert [asked[i] for i in range(60)] == [2] * 10 + [1] * 50
    in_blocks(block, 10, 60, block_size=7)
    assert [asked[i] for i in range(60)] == [5] * 10 + [3] * 50


def test_the_two_ends_of_lambda():
    q_g, q_q, g_g = clusters(10, 80)
    block, _, _ = joined(q_g, q_q, g_g)
    largest = block(slice(0, 10)).max(axis=1, keepdims=True)
    jaccard, original, mixed = (
        k_reciprocal_rerank(q_g, q_q, g_g, lambda_value=lam) for lam in (0.0, 1.0, 0.3)
    )
    np.testing.assert_allclose(original, np.square(q_g / largest), rtol=1e-6)
    np.testing.assert_allclose(mixed, 0.7 * jaccard + 0.3 * original, atol=1e-6)
    assert 0 <= jaccard.min() < 0.5
    assert jaccard.max() == 1  # nothing in common


def test_helps_where_persons_are_clusters():
    """Chains of views: neighbours of neighbours are nearer than strangers at the same distance."""
    rng = np.random.default_rng(0)
    x = np.array([(0.0, 6.0 * (i // 20)) for i in range(200)])
    x[:, 0] = rng.uniform(0, 12, 200)
    d = np.linalg.norm(x[:, None] - x, axis=2)
    q = np.arange(0, 200, 20)
    g = np.setdiff1d(np.arange(200), q)
    given_ = d[np.ix_(q, g)], d[np.ix_(q, q)], d[np.ix_(g, g)]
    same = q[:, None] // 20 == g // 20

    def misplaced(distances):
        return sum(int((row[s].max() > row[~s]).sum()) for row, s in zip(distances, same))

    assert misplaced(k_reciprocal_rerank(*given_, k1=10, k2=3)) < misplaced(given_[0]) / 2


def test_no_queries_and_no_gallery():
    for q, g in ((0, 5), (5, 0)):
        d = np.zeros((q, g)), np.zeros((q, q)), np.zeros((g, g))
        assert k_reciprocal_rerank(*d, 3, 2).shape == (q, g)


def test_what_is_given_stays_as_it_is():
    given_ = clusters(5, 30)
    before = [x.copy() for x in given_]
    for x in given_:
        x.flags.writeable = False
    k_reciprocal_rerank(*given_)
    for x, y in zip(given_, before):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": 5, "k2": 6}, "k1 is 5 and k2 is 6; expected 1 <= k2 <= k1"),
        ({"k2": 0}, "k1 is 20 and k2 is 0; expected 1 <= k2 <= k1"),
        ({"lambda_value": 1.5}, "lambda_value is 1.5; expected 0 to 1"),
        ({"lambda_value": float("nan")}, "lambda_value is nan; expected 0 to 1"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        k_reciprocal_rerank(*clusters(4, 30), **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-3])
def test_distances_that_are_none(bad):
    for which, at, item in ((0, (1, 17), "query 1"), (1, (2, 3), "query 3"), (2, (5, 9), "item 9")):
        given_ = [x.copy() for x in clusters(4, 30)]
        given_[which][at] = bad
        with pytest.raises(ValueError, match=f"a distance of .*{item} is negative or not finite"):
            k_reciprocal_rerank(*given_)


@pytest.fixture
def unchecked_shapes():
    """As at a user's run: the annotations are checked in tests alone."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_shapes_that_disagree(unchecked_shapes):
    q_g, q_q, g_g = clusters(4, 30)
    message = r"q_g \(4, 30\), q_q \(30, 30\), g_g \(4, 4\); expected \(q, g\), \(q, q\), \(g, g\)"
    with pytest.raises(ValueError, match=message):
        k_reciprocal_rerank(q_g, g_g, q_q)
    with pytest.raises(ValueError, match=r"shape \(34, 33\); expected \(34, 34\)"):
        next(rerank_blocks(lambda rows: np.ones((34, 33)), 4, 34))
    with pytest.raises(ValueError, match=r"feats_q has shape \(2, 3\) and feats_g \(4, 5\)"):
        average_query_expansion(np.ones((2, 3)), np.ones((4, 5)))


def expanded_by_loop(feats_q, feats_g, k, alpha, normalise):
    out = []
    for q in feats_q.astype(np.float64):
        d = [np.linalg.norm(q - g) for g in feats_g.astype(np.float64)]
        total, weights = q.copy(), 1.0
        for j in sorted(range(len(d)), key=lambda j, d=d: (d[j], j))[:k]:
            g = feats_g[j].astype(np.float64)
            cosine = q @ g / (np.linalg.norm(q) * np.linalg.norm(g))
            weight = max(cosine, 0) ** alpha
            total, weights = total + weight * g, weights + weight
        out.append(total / (np.linalg.norm(total) if normalise else weights))
    return np.array(out)


@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("g", "k"), [(300, 4), (300, 10), (3, 5), (1, 1)])
def test_query_expansion_equals_a_loop(alpha, normalise, g, k):
    rng = np.random.default_rng(g)
    feats_q, feats_g = (rng.normal(size=(n, 6)).astype(np.float32) for n in (11, g))
    want = expanded_by_loop(feats_q, feats_g, k, alpha, normalise)
    for block_size in (1, 4, 256):
        got = average_query_expansion(
            feats_q, feats_g, k, alpha=alpha, normalise=normalise, block_size=block_size
        )
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_query_expansion_by_hand():
    q, g = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0], [5.0, 5.0], [0.0, 1.0]])
    np.testing.assert_allclose(average_query_expansion(q, g, 1, normalise=False), [[0.5, 0.5]])
    np.testing.assert_allclose(average_query_expansion(q, g, 1), [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(average_query_expansion(q, g, 2, normalise=False), [[1 / 3, 2 / 3]])
    np.testing.assert_allclose(average_query_expansion(q, g, 1, alpha=1.0), q)  # a right angle


@pytest.mark.parametrize(
    ("q", "g", "options", "message"),
    [
        (np.ones((2, 3)), np.ones((0, 3)), {}, "g at least 1"),
        (np.ones((2, 3)), np.ones((4, 3)), {"k": 0}, "k is 0"),
        (np.ones((2, 3)), np.ones((4, 3)), {"alpha": -1.0}, "alpha is -1"),
        (np.full((2, 3), np.nan), np.ones((4, 3)), {}, "not finite"),
        (np.ones((2, 3)), np.full((4, 3), np.inf), {}, "not finite"),
    ],
)
def test_query_expansion_of_bad_input(q, g, options, message):
    with pytest.raises(ValueError, match=message):
        average_query_expansion(q, g, **options)
