import itertools
import math

import numpy as np
import pytest

from jaxreid.metrics import evaluate_rank, single_shot_cmc


def expected_cmc(distmat, q_pids, g_pids, q_camids, g_camids, max_rank):
    """By going over every gallery that can be drawn."""
    cmc, counted = np.zeros(max_rank), 0
    for row, pid, camid in zip(distmat.tolist(), q_pids.tolist(), q_camids.tolist()):
        images = {}
        for i, (g_pid, g_camid) in enumerate(zip(g_pids.tolist(), g_camids.tolist())):
            if g_camid != camid and g_pid != -1:
                images.setdefault(g_pid, []).append(i)
        if pid not in images:
            continue
        counted += 1
        galleries = list(itertools.product(*images.values()))
        for gallery in galleries:
            true = row[next(i for i in gallery if g_pids[i] == pid)]
            rank = 1 + sum(row[i] <= true for i in gallery if g_pids[i] != pid)
            cmc[rank - 1 :] += 1 / len(galleries)
    return cmc / counted


def random_case(seed, q=12, g=14):
    rng = np.random.default_rng(seed)
    distmat = rng.integers(0, 6, (q, g)).astype(np.float32)  # few values: many ties
    return (
        distmat,
        rng.integers(0, 5, q),
        rng.integers(-1, 5, g),
        rng.integers(1, 4, q),
        rng.integers(1, 4, g),
    )


@pytest.mark.parametrize("seed", range(5))
def test_tends_to_the_expectation_over_all_galleries(seed):
    case = random_case(seed)
    got = single_shot_cmc(*case, draws=20_000, max_rank=6)
    np.testing.assert_allclose(got, expected_cmc(*case, max_rank=6), atol=0.01)


def test_one_image_of_each_person_leaves_nothing_to_draw():
    # The gallery's second camera has one image of each of four people.
    distmat = np.array([[3, 1, 2, 4], [1, 2, 3, 0.5], [5, 5, 5, 5]])
    pids, ones, twos = np.arange(4), np.ones(3, int), np.full(4, 2)
    got = single_shot_cmc(distmat, pids[:3], pids, ones, twos, draws=1, max_rank=5)
    # Ranks: 3; 3 (before it 0.5 and 1); 4, for ties count against the query.
    np.testing.assert_allclose(got, [0, 0, 2 / 3, 1, 1])
    np.testing.assert_allclose(
        got, evaluate_rank(distmat, pids[:3], pids, ones, twos, max_rank=5).cmc
    )


def test_protocol():
    """Other people seen by the query's own camera do not stand before the match, nor does junk."""
    distmat = np.array([[0.0, 0.1, 0.2, 0.3, 0.4]])
    g_pids, g_camids = np.array([1, 2, -1, 3, 1]), np.array([1, 1, 2, 2, 2])
    got = single_shot_cmc(distmat, np.array([1]), g_pids, np.array([1]), g_camids, max_rank=3)
    assert got.tolist() == [0, 1, 1]  # person 3 alone stands before it


def test_a_draw_is_a_gallery_of_one_image_each():
    # Person 1 has an image nearer than the match and one farther: the match is first every
    # second time. Person 2 has two of both: of the three before it, one or none or two.
    distmat = np.array([[0.5, 0.1, 0.9, 0.1, 0.2, 0.8, 0.9]])
    g_pids = np.array([0, 1, 1, 2, 2, 2, 2])
    q, cameras = np.array([0]), np.full(7, 2)
    got = single_shot_cmc(distmat, q, g_pids, np.array([1]), cameras, draws=40_000, max_rank=4)
    np.testing.assert_allclose(got, [1 / 4, 3 / 4, 1, 1], atol=0.01)
    once = single_shot_cmc(distmat, q, g_pids, np.array([1]), cameras, draws=1, max_rank=4)
    assert set(once.tolist()) <= {0.0, 1.0}


def test_pid_zero_is_a_person():
    got = single_shot_cmc(
        np.array([[0.1, 0.2]]), np.array([0]), np.array([0, 3]), np.array([1]), np.array([2, 2])
    )
    assert got.tolist() == [1.0] * 50


def test_seeds():
    case = random_case(7)
    first, again, other = (single_shot_cmc(*case, draws=5, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_blocks_of_queries_meet_the_galleries_of_the_whole():
    distmat, q_pids, g_pids, q_camids, g_camids = random_case(3)
    has_match = [any((g_pids == pid) & (g_camids != camid)) for pid, camid in zip(q_pids, q_camids)]
    parts = [
        single_shot_cmc(distmat[[i]], q_pids[[i]], g_pids, q_camids[[i]], g_camids, draws=7)
        for i in np.flatnonzero(has_match)
    ]
    whole = single_shot_cmc(distmat, q_pids, g_pids, q_camids, g_camids, draws=7)
    assert 1 < len(parts) < len(q_pids)
    np.testing.assert_allclose(np.mean(parts, axis=0), whole)


def test_no_query_counts():
    one = np.array([1])
    got = single_shot_cmc(np.array([[0.5]]), one, one, one, one, max_rank=3)
    assert len(got) == 3
    assert all(map(math.isnan, got))


def test_nan_names_the_query():
    one, two = np.array([1]), np.array([2])
    with pytest.raises(ValueError, match=r"query row 0 \(pid 1, camid 1\) has NaN"):
        single_shot_cmc(np.array([[np.nan]]), one, one, one, two)
