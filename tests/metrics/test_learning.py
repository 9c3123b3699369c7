import jaxtyping
import numpy as np
import pytest
import scipy.linalg

from jaxreid.metrics import evaluate_rank, kissme, lfda, pca
from jaxreid.metrics.learning import SHRINKAGE

MIXING = scipy.linalg.qr(np.random.default_rng(99).normal(size=(30, 30)))[0]


def pairs_of(pids, wanted):
    return [(i, j) for i in range(len(pids)) for j in range(i) if wanted(i, j)]


def mean_outer(x, pairs):
    return np.mean([np.outer(x[i] - x[j], x[i] - x[j]) for i, j in pairs], axis=0)


def few(seed=0, n=40, d=5, persons=8, cameras=3):
    """A few items of a few persons, some with one item, some with seven or more."""
    rng = np.random.default_rng(seed)
    pids = rng.choice(persons, n, p=np.arange(1, persons + 1) / (persons * (persons + 1) / 2))
    centres = 2 * rng.normal(size=(persons, d))
    x = centres[pids] + rng.normal(size=(n, d))
    return x, pids * 3 + 1, rng.integers(1, cameras + 1, n)


def persons_and_nuisance(seed, persons, items=6):
    """Persons differ in 5 of 30 dimensions; the other 25 shake ten times as much. Then all mix."""
    rng = np.random.default_rng(seed)
    pids = np.repeat(np.arange(persons), items)
    x = rng.normal(size=(len(pids), 30)) * np.repeat([0.3, 10], [5, 25])
    x[:, :5] += rng.normal(size=(persons, 5))[pids]
    return x @ MIXING + 7, pids


def rank1(x, pids):
    """The first item of each person asks for the others."""
    query = np.r_[True, pids[1:] != pids[:-1]]
    distmat = np.linalg.norm(x[query][:, None] - x[~query][None], axis=2)
    camids = np.where(query, 1, 2)
    return evaluate_rank(distmat, pids[query], pids[~query], camids[query], camids[~query]).cmc[0]


# PCA


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (20, 20)])
def test_pca_is_the_svd_of_the_centred_items(shape):
    x = np.random.default_rng(0).normal(size=shape) + 3
    fitted = pca(x, 5)
    _, s, vt = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(fitted.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.abs(vt[:5] @ fitted.matrix), np.eye(5), atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(fitted(x), axis=0), s[:5], rtol=1e-10)


@pytest.mark.parametrize("shape", [(30, 2100), (2100, 30)])
def test_pca_of_float32_items_in_several_blocks(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    fitted = pca(x, 6)
    want = np.linalg.svd(x - x.mean(axis=0, dtype=float), full_matrices=False)
    np.testing.assert_allclose(np.abs(want.Vh[:6] @ fitted.matrix), np.eye(6), atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(fitted(x), axis=0), want.S[:6], rtol=1e-10)
    assert fitted(x).dtype == np.float64


@pytest.mark.parametrize("shape", [(9, 300), (300, 9)])
def test_pca_keeps_no_more_axes_than_there_are(shape):
    x = np.random.default_rng(1).normal(size=shape)
    if shape[1] == 9:
        x[:, 7] = x[:, 1] - x[:, 2]  # a dimension that depends on others
    fitted = pca(x, 150)
    assert fitted.matrix.shape == (shape[1], 8)
    np.testing.assert_allclose(fitted.matrix.T @ fitted.matrix, np.eye(8), atol=1e-12)
    centred = x - x.mean(axis=0)  # nothing is lost
    np.testing.assert_allclose(fitted(x) @ fitted.matrix.T, centred, atol=1e-10)


def test_pca_is_orthonormal_where_variances_differ_by_ten_orders():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(30, 12)) * 10.0 ** -np.arange(12) @ rng.normal(size=(12, 200))
    fitted = pca(x, 12)
    k = fitted.matrix.shape[1]
    assert 6 <= k < 12
    np.testing.assert_allclose(fitted.matrix.T @ fitted.matrix, np.eye(k), atol=1e-13)


# KISSME


@pytest.mark.parametrize("cameras", [None, 3])
@pytest.mark.parametrize("shrinkage", [0.0, SHRINKAGE, 0.3])
def test_kissme_equals_the_list_of_all_pairs(cameras, shrinkage):
    x, pids, camids = few()
    fitted = kissme(x, pids, camids if cameras else None, shrinkage=shrinkage)
    similar = pairs_of(
        pids, lambda i, j: pids[i] == pids[j] and not (cameras and camids[i] == camids[j])
    )
    sigma_d = mean_outer(x, pairs_of(pids, lambda i, j: pids[i] != pids[j]))
    sigma_s = (1 - shrinkage) * mean_outer(x, similar) + shrinkage * sigma_d
    values, vectors = np.linalg.eigh(np.linalg.inv(sigma_s) - np.linalg.inv(sigma_d))
    want = vectors @ np.diag(values.clip(0)) @ vectors.T
    np.testing.assert_allclose(fitted.matrix @ fitted.matrix.T, want, atol=1e-9)
    assert fitted.matrix.shape == (5, (values > 0).sum())
    lengths = np.linalg.norm(fitted.matrix, axis=0)
    assert (np.diff(lengths) <= 0).all()


def test_kissme_clips_the_directions_in_which_persons_are_less_alike_than_others():
    # Two items of each person lie on opposite sides in the second dimension.
    x = np.array([[0, 3], [0.1, -3], [2, 3], [2.1, -3], [5, 3], [5.1, -3.0]])
    pids = np.array([1, 1, 2, 2, 3, 3])
    fitted = kissme(x, pids, shrinkage=1e-9)
    assert fitted.matrix.shape == (2, 1)
    distance = np.abs(fitted(x) - fitted(x).T)
    assert distance[0, 1] < 0.1 * distance[0, 2]


def test_kissme_finds_the_known_covariances():
    rng = np.random.default_rng(3)
    within, between = np.diag([0.5, 2, 1]), np.array([[3, 1, 0], [1, 2, 0], [0, 0, 1.0]])
    pids = np.repeat(np.arange(4000), 4)
    x = rng.multivariate_normal(np.zeros(3), between, 4000)[pids]
    x = x + rng.multivariate_normal(np.zeros(3), within, len(x))
    fitted = kissme(x, pids, shrinkage=0.0)
    # A difference of two draws has twice their covariance.
    want = np.linalg.inv(2 * within) - np.linalg.inv(2 * (within + between))
    assert np.linalg.eigvalsh(want)[0] > 0
    np.testing.assert_allclose(fitted.matrix @ fitted.matrix.T, want, atol=0.02)


def test_kissme_takes_pairs_of_one_camera_where_there_are_no_others():
    x, pids, _ = few()
    for camids in (np.ones(len(x), int), pids):
        np.testing.assert_array_equal(kissme(x, pids, camids).matrix, kissme(x, pids).matrix)


# LFDA


def lfda_by_definition(x, pids, neighbours, shrinkage):
    """S_w and S_b by Sugiyama's pairwise form, a term for each pair in both orders."""
    n, d = x.shape
    distance = np.linalg.norm(x[:, None] - x[None], axis=2)
    sigma = []
    for i in range(n):
        own = sorted(distance[i, j] for j in range(n) if j != i and pids[j] == pids[i])
        sigma.append(own[min(neighbours, len(own)) - 1] if own else 0)
    within, between, apart = np.zeros((3, d, d))
    for i in range(n):
        for j in range(n):
            outer = np.outer(x[i] - x[j], x[i] - x[j])
            if i != j and pids[i] == pids[j]:
                count = np.sum(pids == pids[i])
                affinity = np.exp(-(distance[i, j] ** 2) / (sigma[i] * sigma[j]))
                within += outer * affinity / count / 2
                between += outer * affinity * (1 / n - 1 / count) / 2
            elif i != j:
                apart += outer / n / 2
    return (1 - shrinkage) * within + shrinkage * apart, between + apart


@pytest.mark.parametrize("neighbours", [1, 3, 7])
@pytest.mark.parametrize("shrinkage", [0.0, SHRINKAGE])
def test_lfda_solves_the_problem_of_the_pairwise_scatters(neighbours, shrinkage):
    x, pids, _ = few(seed=5, n=50)
    sizes = np.unique(pids, return_counts=True)[1]
    assert sizes.min() <= 2
    assert sizes.max() > 8
    fitted = lfda(x, pids, neighbours=neighbours, shrinkage=shrinkage)
    within, between = lfda_by_definition(x, pids, neighbours, shrinkage)
    values, axes = scipy.linalg.eigh(between, within)  # φᵀ S_w φ = 1
    kept = values > 0
    want = (axes[:, kept] * np.sqrt(values[kept]))[:, ::-1]
    signs = np.sign((want * fitted.matrix).sum(axis=0))
    np.testing.assert_allclose(fitted.matrix * signs, want, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(
        lfda(x, pids, 2, neighbours, shrinkage=shrinkage).matrix, fitted.matrix[:, :2]
    )


def test_lfda_does_not_see_copies_of_an_item():
    x, pids, _ = few(seed=6)
    x[pids == pids[0]] = x[0]  # a person of whom every item is the same
    fitted = lfda(x, pids)
    assert np.isfinite(fitted.matrix).all()
    assert fitted.matrix.shape == (5, 5)


def test_lfda_keeps_two_looks_of_a_person_apart_where_fisher_would_not():
    """Each person has two looks, far apart in dimension 0, which holds persons 0 and 1 apart."""
    rng = np.random.default_rng(8)
    pids = np.repeat([0, 1], 40)
    x = np.stack([np.tile([-10.0, 10], 40) + 5 * pids, np.zeros(80)], axis=1)
    x += rng.normal(size=x.shape) * [0.3, 1]
    axis = lfda(x, pids, 1).matrix[:, 0]
    assert abs(axis[0]) > 3 * abs(axis[1])
    means = np.array([x[pids == p].mean(axis=0) for p in (0, 1)])
    within = sum(np.cov(x[pids == p].T) for p in (0, 1))
    fisher = np.linalg.solve(within, means[1] - means[0])
    assert fisher @ within @ fisher < 1  # two looks of one person: to Fisher it is all noise


# Both


@pytest.mark.parametrize("learn", [kissme, lfda])
def test_a_learned_metric_finds_persons_under_nuisance(learn):
    x, pids = persons_and_nuisance(0, persons=100)
    test_x, test_pids = persons_and_nuisance(1, persons=50)
    assert rank1(test_x, test_pids) == 0
    best = rank1((test_x @ MIXING.T)[:, :5], test_pids)  # as who knows which dimensions count
    assert best == pytest.approx(0.84)
    assert rank1(learn(x, pids)(test_x), test_pids) >= best - 0.02


@pytest.mark.parametrize("learn", [kissme, lfda])
def test_pca_first_and_fewer_pairs_than_dimensions(learn):
    """As on PRID2011: two items of each person, so the scatter of one person's is singular."""
    axes = np.random.default_rng(4).normal(size=(120, 600)) * 0.97 ** np.arange(120)[:, None]
    shake = np.exp(np.random.default_rng(5).normal(size=120))

    def sample(seed, persons):
        rng = np.random.default_rng(seed)
        pids = np.repeat(np.arange(persons), 2)
        x = rng.normal(size=(persons, 120))[pids] + shake * rng.normal(size=(len(pids), 120))
        return (x @ axes).astype(np.float32), pids

    (x, pids), (test_x, test_pids) = sample(0, 40), sample(1, 100)
    reduce = pca(x, 60)
    with pytest.raises(ValueError, match="no inverse in 60 dimensions: reduce them by pca"):
        learn(reduce(x), pids, shrinkage=0.0)
    before = rank1(reduce(test_x), test_pids)
    after = rank1(learn(reduce(x), pids)(reduce(test_x)), test_pids)
    assert before == pytest.approx(0.1, abs=0.02)
    assert after > 0.6


@pytest.mark.parametrize("learn", [kissme, lfda])
def test_distances_depend_neither_on_origin_order_rotation_nor_scale(learn):
    x, pids, _ = few(seed=2)
    rng = np.random.default_rng(0)
    rotation = scipy.linalg.qr(rng.normal(size=(5, 5)))[0]
    order = rng.permutation(len(x))
    moved = 100 * x[order] @ rotation + 40

    def distances(fitted, items):
        z = fitted(items)
        return np.linalg.norm(z[:, None] - z[None], axis=2)

    want = distances(learn(x, pids), x)[np.ix_(order, order)]
    got = distances(learn(moved, pids[order]), moved)
    np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("learn", [kissme, lfda])
def test_float32_features_give_the_metric_of_float64(learn):
    x, pids, _ = few()
    got, want = learn(x.astype(np.float32), pids), learn(x, pids)
    assert got.matrix.dtype == np.float64
    np.testing.assert_allclose(got.matrix @ got.matrix.T, want.matrix @ want.matrix.T, rtol=1e-4)


def test_a_projection_of_many_rows_is_the_plain_product():
    x, pids, _ = few()
    fitted = kissme(x, pids)
    many = np.tile(x, (60, 1))
    assert len(many) > 2048
    np.testing.assert_allclose(fitted(many), (many - fitted.mean) @ fitted.matrix, atol=1e-12)
    assert fitted(many[:0]).shape == (0, fitted.matrix.shape[1])


# What is refused


@pytest.mark.parametrize("learn", [kissme, lfda])
@pytest.mark.parametrize(
    ("pids", "message"),
    [
        ([4, 4, 4, 4], "all items are of person 4; expected two or more persons"),
        ([1, 2, 3, 4], "none of the 4 persons has two items"),
        ([1, 1, -1, 2], "item 2 has pid -1, which is nobody"),
    ],
)
def test_persons_that_teach_nothing(learn, pids, message):
    x = np.random.default_rng(0).normal(size=(4, 2))
    with pytest.raises(ValueError, match=message):
        learn(x, np.array(pids))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite(value):
    x, pids, _ = few()
    x[3, 1] = value
    for learn in (lambda: pca(x, 2), lambda: kissme(x, pids), lambda: lfda(x, pids)):
        with pytest.raises(ValueError, match="item 3 has features that are not finite"):
            learn()


def test_features_that_are_all_the_same():
    x, pids = np.full((6, 3), 0.1, np.float32), np.array([1, 1, 2, 2, 3, 3])
    for learn in (lambda: pca(x, 2), lambda: kissme(x, pids), lambda: lfda(x, pids)):
        with pytest.raises(ValueError, match="the 6 items all have the same features"):
            learn()


def test_features_that_tell_nobody_apart():
    x = np.array([[-1.0], [1], [-1], [1]])
    pids = np.array([1, 1, 2, 2])
    with pytest.raises(ValueError, match="nothing to learn"):
        kissme(x, pids)


def test_counts_below_one():
    x, pids, _ = few()
    with pytest.raises(ValueError, match="dim is 0; expected 1 or more"):
        pca(x, 0)
    with pytest.raises(ValueError, match="dim is 0; expected 1 or more"):
        lfda(x, pids, 0)
    with pytest.raises(ValueError, match="neighbours is 0; expected 1 or more"):
        lfda(x, pids, neighbours=0)


@pytest.fixture
def unchecked():
    """As a user runs it: without the shape checks of the test session."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_disagree():
    x, pids, camids = few()
    with pytest.raises(ValueError, match=r"x has shape \(40,\); expected \(n, d\)"):
        pca(x[:, 0], 2)
    with pytest.raises(ValueError, match=r"shapes disagree: x \(40, 5\), pids \(39,\)"):
        lfda(x, pids[1:])
    with pytest.raises(ValueError, match=r"shapes disagree: x \(40, 5\), camids \(39,\)"):
        kissme(x, pids, camids[1:])
