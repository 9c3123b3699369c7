import jaxtyping
import numpy as np
import pytest

from jaxreid.metrics import Ranking, evaluate_rank, match_ranks, summarise, top_k

DEFINITIONS = ("mean_precision", "trapezoid")


def by_definition(distmat, q_pids, g_pids, q_camids, g_camids, max_rank, ap) -> Ranking:
    """Builds every ranked list, ties put against the query, and walks it."""
    curves, aps, inps = [], [], []
    for i in range(len(q_pids)):
        ranked = []
        for j in range(len(g_pids)):
            if g_pids[j] == -1 or (g_pids[j] == q_pids[i] and g_camids[j] == q_camids[i]):
                continue
            ranked.append((float(distmat[i, j]), bool(g_pids[j] == q_pids[i])))
        hits = [hit for _, hit in sorted(ranked)]  # False before True: a tie is a miss first
        if not any(hits):
            aps.append(np.nan)
            inps.append(np.nan)
            continue
        num_good, found, area, precisions = sum(hits), 0, 0.0, []
        recall_before, precision_before, curve = 0.0, 1.0, []
        for k, hit in enumerate(hits, start=1):
            found += hit
            recall, precision = found / num_good, found / k
            area += (recall - recall_before) * (precision + precision_before) / 2
            recall_before, precision_before = recall, precision
            if hit:
                precisions.append(precision)
            curve.append(float(found > 0))
        curves.append([curve[min(k, len(curve) - 1)] for k in range(max_rank)])
        inps.append(num_good / max(k for k, hit in enumerate(hits, start=1) if hit))
        aps.append(sum(precisions) / num_good if ap == "mean_precision" else area)
    cmc = np.mean(curves, axis=0) if curves else np.full(max_rank, np.nan)
    mean_ap = float(np.nanmean(aps)) if curves else np.nan
    mean_inp = float(np.nanmean(inps)) if curves else np.nan
    return Ranking(cmc, mean_ap, np.array(aps), len(curves), np.array(inps), mean_inp)


def random_case(seed):
    """Junk, distractors, same-camera items, few and many ties, galleries of 1 to 79."""
    rng = np.random.default_rng(seed)
    q, g, people = rng.integers(1, 9), rng.integers(1, 80), rng.integers(2, 12)
    distmat = rng.random((q, g))
    if seed % 3:
        levels = rng.integers(1, 8)
        distmat = np.round(distmat * levels) / levels
    return (
        distmat.astype(np.float32 if seed % 2 else np.float64),
        rng.integers(1, people, q),
        rng.integers(-1, people, g),
        rng.integers(1, 4, q),
        rng.integers(1, 4, g),
    )


def from_hits(hits, **options):
    """One query, and a gallery that lies in this order."""
    pids = np.where(hits, 7, 8)
    distmat = np.arange(len(hits), dtype=float)[None]
    return evaluate_rank(
        distmat, np.array([7]), pids, np.array([1]), np.full(len(hits), 2), **options
    )


def test_equals_the_definition_on_random_cases():
    uncounted = 0
    for seed in range(300):
        case, ap = random_case(seed), DEFINITIONS[seed % 2]
        got, want = evaluate_rank(*case, ap=ap), by_definition(*case, 50, ap)
        np.testing.assert_allclose(got.cmc, want.cmc, rtol=1e-12)
        np.testing.assert_allclose(got.ap, want.ap, rtol=1e-12)
        np.testing.assert_allclose(got.mean_ap, want.mean_ap, rtol=1e-12)
        np.testing.assert_allclose(got.inp, want.inp, rtol=1e-12)
        np.testing.assert_allclose(got.mean_inp, want.mean_inp, rtol=1e-12)
        assert got.num_valid == want.num_valid
        uncounted += len(got.ap) - got.num_valid
    assert uncounted > 100  # the cases do hold queries without a match


@pytest.mark.parametrize(
    ("hits", "ap", "want"),
    [
        ([0, 1], "mean_precision", 0.5),
        ([0, 1], "trapezoid", 0.25),
        ([1, 0, 1], "mean_precision", 0.8333),
        ([1, 0, 1], "trapezoid", 0.7917),
        ([1, 1, 0], "mean_precision", 1.0),
        ([1, 1, 0], "trapezoid", 1.0),
    ],
)
def test_average_precision_of_literal_lists(hits, ap, want):
    ranking = from_hits(hits, ap=ap)
    assert ranking.mean_ap == pytest.approx(want, abs=5e-5)
    assert ranking.ap.tolist() == [ranking.mean_ap]


@pytest.mark.parametrize(("hits", "want"), [([1, 1, 0], 1.0), ([0, 1], 0.5), ([1, 0, 1, 0], 2 / 3)])
def test_inverse_negative_penalty_of_literal_lists(hits, want):
    ranking = from_hits(hits)
    assert ranking.inp.tolist() == [want]
    assert ranking.mean_inp == want


def test_float64_is_ranked_as_float64():
    """The match is farther by less than float32 can tell."""
    distmat = np.array([[1.0, 1.0 + 1e-12, 1.0 + 2e-12]])
    labels = (np.array([1]), np.array([2, 1, 2]), np.array([1]), np.full(3, 2))
    assert match_ranks(distmat, *labels)[0].tolist() == [2]
    assert match_ranks(distmat.astype(np.float32), *labels)[0].tolist() == [3]


@pytest.mark.parametrize("people", [300, 2_000])  # many matches, and few
def test_a_gallery_of_several_pieces(people):
    """Longer than what is looked at together, junk in between, and a transposed matrix."""
    rng = np.random.default_rng(0)
    distmat = rng.integers(0, 50, (70_000, 3)).astype(np.float32).T
    pids, camids = rng.integers(-1, people, 70_000), rng.integers(1, 4, 70_000)
    got = match_ranks(distmat, np.array([0, 5, 9]), pids, np.array([1, 2, 3]), camids)
    for row, pid, camid, ranks in zip(distmat, [0, 5, 9], [1, 2, 3], got, strict=True):
        matches = np.sort(row[(pids == pid) & (camids != camid)])
        others = row[(pids != pid) & (pids != -1)]
        want = [j + (others <= m).sum() for j, m in enumerate(matches, start=1)]
        assert ranks.tolist() == want
        assert len(want) > 0


def test_cmc_keeps_its_last_value_beyond_a_small_gallery():
    assert from_hits([0, 0, 1], max_rank=6).cmc.tolist() == [0, 0, 1, 1, 1, 1]
    assert from_hits([0, 0, 1], max_rank=2).cmc.tolist() == [0, 0]
    assert from_hits([0, 0, 1]).cmc.shape == (50,)


def test_protocol():
    #                  own camera, junk, distractor, match, other
    g_pids = np.array([5, -1, 0, 5, 6])
    g_camids = np.array([1, 2, 2, 2, 2])
    distmat = np.array([[0.0, 0.1, 0.2, 0.3, 0.4]])
    case = (distmat, np.array([5]), g_pids, np.array([1]), g_camids)
    assert [r.tolist() for r in match_ranks(*case)] == [[2]]
    assert top_k(*case, k=2).tolist() == [[2, 3]]


def test_pid_zero_is_a_person_when_a_query_has_it():
    distmat = np.array([[0.1, 0.2]])
    ranks = match_ranks(distmat, np.array([0]), np.array([3, 0]), np.array([1]), np.array([2, 2]))
    assert [r.tolist() for r in ranks] == [[2]]


def test_junk_never_matches_even_a_junk_query():
    ranks = match_ranks(
        np.zeros((1, 2)), np.array([-1]), np.array([-1, 3]), np.array([1]), np.array([2, 2])
    )
    assert [len(r) for r in ranks] == [0]


def test_ties_count_against_the_query():
    case = (np.full((1, 4), 0.5), np.array([1]), np.array([1, 2, 1, 2]), np.array([1]))
    assert [r.tolist() for r in match_ranks(*case, np.full(4, 2))] == [[3, 4]]


def test_infinite_distances_rank_last():
    distmat = np.array([[np.inf, 1.0, np.inf]])
    case = (distmat, np.array([1]), np.array([1, 1, 2]), np.array([1]), np.full(3, 2))
    assert [r.tolist() for r in match_ranks(*case)] == [[1, 3]]


def test_order_of_the_gallery_does_not_matter():
    for seed in range(20):
        distmat, q_pids, g_pids, q_camids, g_camids = random_case(seed)
        order = np.random.default_rng(seed).permutation(len(g_pids))
        straight = match_ranks(distmat, q_pids, g_pids, q_camids, g_camids)
        shuffled = match_ranks(distmat[:, order], q_pids, g_pids[order], q_camids, g_camids[order])
        for a, b in zip(straight, shuffled, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("block", [1, 3])
def test_blocks_of_queries_equal_the_whole(block):
    distmat, q_pids, g_pids, q_camids, g_camids = random_case(4)
    ranks = []
    for i in range(0, len(q_pids), block):
        rows = slice(i, i + block)
        ranks += match_ranks(distmat[rows], q_pids[rows], g_pids, q_camids[rows], g_camids)
    got = summarise(ranks, max_rank=20, ap="trapezoid")
    want = evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank=20, ap="trapezoid")
    np.testing.assert_array_equal(got.cmc, want.cmc)
    np.testing.assert_array_equal(got.ap, want.ap)
    assert got[1::2] == want[1::2]


def test_no_query_with_a_match():
    ranking = evaluate_rank(
        np.zeros((2, 1)), np.array([1, 2]), np.array([3]), np.array([1, 1]), np.array([2])
    )
    assert ranking.num_valid == 0
    assert np.isnan(ranking.mean_ap)
    assert np.isnan(ranking.mean_inp)
    assert np.isnan(ranking.inp).tolist() == [True, True]
    assert np.isnan(ranking.cmc).all()
    assert np.isnan(ranking.ap).tolist() == [True, True]


def test_top_k_is_stable_and_padded():
    distmat = np.array([[0.5, 0.1, 0.5, 0.1], [0.4, 0.3, 0.2, 0.1]])
    pids, camids = np.array([1, 2]), np.array([1, 1])
    g_pids, g_camids = np.array([3, 3, 2, -1]), np.array([1, 1, 1, 1])
    nearest = top_k(distmat, pids, g_pids, camids, g_camids, k=4)
    assert nearest.tolist() == [[1, 0, 2, -1], [1, 0, -1, -1]]


def test_top_k_keeps_the_order_of_many_ties():
    far = np.tile([1.0, 0.0], 200)[None]  # long enough for an unstable sort to shuffle it
    nearest = top_k(far, np.array([1]), np.full(400, 2), np.array([1]), np.full(400, 2), k=300)
    assert nearest.tolist() == [[*range(1, 400, 2), *range(0, 200, 2)]]


def test_nan_names_the_query():
    distmat = np.zeros((3, 2), np.float32)
    distmat[1, 0] = np.nan
    with pytest.raises(ValueError, match=r"query row 1 \(pid 8, camid 4\)"):
        evaluate_rank(
            distmat, np.array([7, 8, 9]), np.array([7, 8]), np.array([3, 4, 5]), np.array([1, 1])
        )


@pytest.fixture
def unchecked():
    """As a user runs it: without the shape checks of the test session."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", range(5))
def test_shapes_that_disagree(wrong):
    case = list(random_case(2))
    case[wrong] = case[wrong][:-1]
    with pytest.raises(ValueError, match="shapes disagree"):
        evaluate_rank(*case)


@pytest.mark.usefixtures("unchecked")
def test_a_flat_distmat_is_refused():
    with pytest.raises(ValueError, match="shapes disagree"):
        evaluate_rank(np.zeros(2), *[np.zeros(2, int)] * 4)


@pytest.mark.usefixtures("unchecked")
def test_unknown_definition():
    with pytest.raises(ValueError, match="'voc'; expected 'mean_precision' or 'trapezoid'"):
        summarise([np.array([1])], ap="voc")
