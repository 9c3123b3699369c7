import itertools

import numpy as np
import pytest

from jaxreid.metrics import NotDistances, calibration


def random_case(seed, q=30, g=40, persons=6):
    rng = np.random.default_rng(seed)
    distmat = rng.integers(0, 12, (q, g)).astype(np.float32) / 4  # few values: many ties
    q_pids, g_pids = rng.integers(0, persons, q), rng.integers(-1, persons + 2, g)
    return distmat, q_pids, g_pids, rng.integers(1, 4, q), rng.integers(1, 4, g)


def kinds(q_pids, g_pids, q_camids, g_camids):
    """Pairs (query, item) of one person, and of two, by the definition."""
    true, impostor = [], []
    for i, j in itertools.product(range(len(q_pids)), range(len(g_pids))):
        if g_pids[j] == -1 or g_pids[j] not in q_pids:
            continue
        if q_pids[i] != g_pids[j]:
            impostor.append((i, j))
        elif q_camids[i] != g_camids[j]:
            true.append((i, j))
    return true, impostor


def collected(case, rate=0.2, block=7):
    distmat, *labels = case
    blocks = (distmat[i : i + block] for i in range(0, len(distmat), block))
    return calibration.collect(blocks, calibration.populate(*labels), rate)


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_those_of_the_definition(seed):
    distmat, *labels = random_case(seed)
    true, impostor = kinds(*labels)
    people = calibration.populate(*labels)
    assert (people.num_true, people.num_impostor) == (len(true), len(impostor))
    pairs = collected((distmat, *labels))
    assert pairs.true.tolist() == sorted(float(distmat[pair]) for pair in true)
    found = zip(pairs.true.tolist(), people.persons[pairs.true_of].tolist())
    assert sorted(found) == sorted((float(distmat[i, j]), int(labels[0][i])) for i, j in true)
    wanted = int(0.2 * len(impostor)) + 1
    assert pairs.near.tolist() == sorted(float(distmat[pair]) for pair in impostor)[:wanted]
    assert pairs.histogram.sum() == len(impostor)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rate", "miss"), [(0.2, 0.1), (0.05, 0.6), (0.2, 0.9)])
def test_thresholds_and_rates(seed, rate, miss):
    distmat, *labels = random_case(seed)
    true, impostor = ([float(distmat[pair]) for pair in some] for some in kinds(*labels))
    pairs = collected((distmat, *labels))
    got = calibration.answers(pairs, rate, miss, draws=20)
    within = [t for t in set(impostor) if sum(d <= t for d in impostor) <= rate * len(impostor)]
    if not within:
        assert got is None
        return
    same = max(within)
    assert got.same == same
    lost = min(t for t in set(true) if sum(d > t for d in true) <= miss * len(true))
    assert (got.nobody == same) == (lost <= same)
    # The border of a bin: a little more, and no distance lies between.
    assert got.nobody == pytest.approx(max(lost, same), rel=2**-11)
    assert got.false_match.value == pytest.approx(np.mean([d <= same for d in impostor]))
    assert got.true_match.value == pytest.approx(np.mean([d <= same for d in true]))
    assert got.lost.value == pytest.approx(np.mean([d > max(lost, same) for d in true]))
    assert got.lost.value <= miss
    assert got.cleared == pytest.approx(np.mean([d > max(lost, same) for d in impostor]))


def test_intervals_are_those_of_persons_drawn_again():
    """Each draw lists persons, some of them twice; a pair counts for each way to choose its two."""
    distmat, *labels = random_case(3)
    q_pids, g_pids, *_ = labels
    true, impostor = kinds(*labels)
    pairs = collected((distmat, *labels))
    got = calibration.answers(pairs, 0.2, 0.1, draws=50, seed=4)
    persons = pairs.people.persons.tolist()
    rates = [], [], []
    for weights in calibration._draw_persons(len(persons), 50, seed=4):
        drawn = [p for p, w in zip(persons, weights) for _ in range(int(w))]
        assert len(drawn) == len(persons)
        false_match, true_match, lost = [], [], []
        for one, two in itertools.product(drawn, drawn):
            for i, j in impostor:
                if (q_pids[i], g_pids[j]) == (one, two):
                    false_match.append(distmat[i, j] <= got.same)
        for one in drawn:
            for i, j in true:
                if q_pids[i] == one:
                    true_match.append(distmat[i, j] <= got.same)
                    lost.append(distmat[i, j] > got.nobody)
        for rate, some in zip(rates, (false_match, true_match, lost)):
            rate.append(np.mean(some))
    for rate, found in zip(rates, (got.false_match, got.true_match, got.lost)):
        assert found[1:] == pytest.approx(np.percentile(rate, [2.5, 97.5]).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_curve(seed):
    distmat, *labels = random_case(seed)
    true, impostor = ([float(distmat[pair]) for pair in some] for some in kinds(*labels))
    got = calibration.curve(collected((distmat, *labels)))
    assert (np.diff(got, axis=0) >= 0).all()
    for threshold, false_match, true_match in got:
        assert false_match == pytest.approx(np.mean([d <= threshold for d in impostor]))
        assert true_match == pytest.approx(np.mean([d <= threshold for d in true]))
    assert got[-1, 1:].tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("far", [0.1, 0.5, 0.95])
def test_detection_and_identification(seed, far):
    distmat, q_pids, g_pids, q_camids, g_camids = random_case(seed, q=60)
    distmat = distmat + np.random.default_rng(seed).random(distmat.shape, np.float32)
    pairs = collected((distmat, q_pids, g_pids, q_camids, g_camids))
    out = set(q_pids[pairs.out].tolist())
    assert len(out) == 3  # of 6
    gallery = [j for j, pid in enumerate(g_pids) if pid != -1 and pid not in out]
    strangers, known = [], []
    for i, pid in enumerate(q_pids):
        row = distmat[i].astype(float)
        if pid in out:
            strangers.append(min(row[j] for j in gallery))
            continue
        own = [j for j in gallery if g_pids[j] == pid and g_camids[j] != q_camids[i]]
        others = [j for j in gallery if g_pids[j] != pid]
        if own:
            nearest = min(own, key=lambda j: row[j])
            known.append((row[nearest], all(row[nearest] < row[j] for j in others)))
    possible = [t for t in strangers if sum(d <= t for d in strangers) <= far * len(strangers)]
    got = calibration.detection_rate(pairs, far)
    assert got[0] == max(possible)
    assert got[1] == pytest.approx(np.mean([right and d <= got[0] for d, right in known]))


def test_a_gallery_that_shows_the_person_no_more_raises_alarms_by_distractors_too():
    # Persons 1 and 2 are queries; one of them is taken out. The distractor (0) is nearest to all.
    distmat = np.float32([[2, 3, 1], [3, 2, 1]])
    labels = np.array([1, 2]), np.array([1, 2, 0]), np.array([1, 1]), np.array([2, 2, 2])
    pairs = collected((distmat, *labels))
    assert pairs.out.sum() == 1
    assert pairs.other.tolist() == [1, 1]
    assert pairs.people.num_impostor == 2  # It makes no pairs.


def test_blocks_play_no_part():
    case = random_case(1, q=50)
    results = []
    for block in (1, 7, 50):
        pairs = collected(case, block=block)
        of_all = calibration.curve(pairs).tolist(), calibration.detection_rate(pairs, 0.5)
        results.append((calibration.answers(pairs, 0.2, 0.1, draws=20), *of_all))
    assert results[0] == results[1] == results[2]


def test_bins_are_in_order_and_borders_in_their_bins():
    rng = np.random.default_rng(0)
    powers = np.float32(10) ** rng.integers(-30, 30, 1000).astype(np.float32)
    x = np.sort(rng.normal(size=1000).astype(np.float32) * powers)
    bins = calibration._bin(x)
    assert (np.diff(bins) >= 0).all()
    borders = calibration._border(bins)
    assert (borders >= x).all()
    assert (borders <= x + 2**-11 * abs(x)).all()
    assert np.array_equal(calibration._bin(borders), bins)
    assert calibration._bin(np.float32([-0.0])) == calibration._bin(np.float32([0.0]))


def test_shares_of_counts_are_not_cut_by_rounding():
    assert [calibration.allowed(rate, 100) for rate in (0.29, 0.57, 0.01)] == [29, 57, 1]
    assert calibration.allowed(0.01, 99) == 0


def test_ties_are_never_split():
    distances = np.array([1.0, 2.0, 2.0, 2.0, 5.0])
    got = [calibration.largest_within(distances, count) for count in range(6)]
    assert got == [None, 1, 1, 1, 2, 5]


def test_a_network_that_tells_nobody_apart_has_no_threshold():
    distmat, *labels = random_case(0)
    assert calibration.answers(collected((np.ones_like(distmat), *labels)), 0.2, 0.1) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_names_the_query(bad):
    distmat, q_pids, *labels = random_case(0)
    distmat[11, 3] = bad
    with pytest.raises(
        NotDistances, match=rf"query row 11 \(pid {q_pids[11]}\) has distances that"
    ):
        collected((distmat, q_pids, *labels))


def population(seed, persons, spread=0.35):
    """What a network could make of persons: each has a place, and a picture lies around it."""
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(persons, 16))
    q_pids, g_pids = np.repeat(np.arange(persons), 2), np.repeat(np.arange(persons), 6)
    pictures = [
        places[pids] + spread * rng.normal(size=(len(pids), 16)) for pids in (q_pids, g_pids)
    ]
    distmat = np.linalg.norm(pictures[0][:, None] - pictures[1], axis=2).astype(np.float32)
    cameras = rng.integers(1, 4, len(q_pids)), rng.integers(1, 4, len(g_pids))
    return distmat, q_pids, g_pids, *cameras


def test_the_wanted_rate_is_met_on_persons_that_were_held_out():
    """Calibrated on some of a population, measured on others: 1 % within 0.5 points."""
    inside = 0
    for seed in range(6):
        distmat, *labels = population(seed, persons=800)
        half = [pids < 400 for pids in labels[:2]]
        parts = []
        for q, g in (half, [~some for some in half]):
            part = labels[0][q], labels[1][g], labels[2][q], labels[3][g]
            parts.append((distmat[q][:, g], part))
        found = calibration.answers(collected((parts[0][0], *parts[0][1]), 0.01, 100), 0.01, 0.01)
        rows, held_out = parts[1]
        _, impostor = kinds_at_once(*held_out)
        rate = np.mean(rows[impostor] <= found.same)
        assert abs(rate - 0.01) <= 0.005
        assert found.false_match.value == pytest.approx(0.01, abs=1e-4)
        inside += found.false_match.low <= rate <= found.false_match.high
    # The held-out persons are a sample too, so that it is not 95 %.
    assert inside >= 4


def kinds_at_once(q_pids, g_pids, q_camids, g_camids):
    one = q_pids[:, None] == g_pids
    return one & (q_camids[:, None] != g_camids), ~one


def test_intervals_hold_the_rate_of_all_persons():
    """Of 30 persons each time, the interval has the rate of very many about as often as it says."""
    distmat, *labels = population(100, 600)
    _, impostor = kinds_at_once(*labels)
    truth = np.sort(distmat[impostor])
    held = 0
    for seed in range(40):
        pairs = collected(population(seed, 30), rate=0.02)
        found = calibration.answers(pairs, 0.02, 0.05, draws=200)
        rate = truth.searchsorted(found.same, side="right") / len(truth)
        held += found.false_match.low <= rate <= found.false_match.high
    assert held >= 30
