import numpy as np
import pytest

from jaxreid.data.index import Tracklets
from jaxreid.data.sampler import ClipRule, Plan
from jaxreid.errors import UserError

# Person 0 has 6 images, 1 has 4, 2 has 2, 3 has 5, 4 has 4.
PIDS = np.array([0] * 6 + [1] * 4 + [2] * 2 + [3] * 5 + [4] * 4)


def tracklets(lengths):
    """Of the persons above, one after another in the index."""
    first = np.cumsum(lengths) - lengths
    return Tracklets(first, lengths, PIDS, np.ones_like(PIDS), np.arange(len(PIDS)))


IMAGES = tracklets(np.ones_like(PIDS))


def test_a_batch_is_p_persons_with_k_images_each():
    plan = Plan(IMAGES, num_ids=2, num_instances=4, seed=0)
    assert plan.steps_per_epoch == 2  # the fifth person of an epoch is left over
    assert plan.short_ids == 1
    for step in range(20):
        rows = plan.rows(step)
        assert rows.shape == (8,)
        persons = PIDS[rows].reshape(2, 4)
        assert (persons == persons[:, :1]).all()
        assert persons[0, 0] != persons[1, 0]
        for person, drawn in zip(persons[:, 0], rows.reshape(2, 4)):
            # Without replacement where there are enough.
            assert len(set(drawn)) == (4 if person != 2 else len(set(drawn)))


def test_an_epoch_visits_every_person_once():
    plan = Plan(IMAGES, num_ids=5, num_instances=2, seed=3)
    orders = [tuple(PIDS[plan.rows(step)][::2]) for step in range(10)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(orders)) > 5


def test_the_plan_is_a_function_of_seed_and_step():
    a, b = (Plan(IMAGES, 2, 2, seed=7) for _ in range(2))
    forwards = [a.rows(step) for step in range(9)]
    backwards = [b.rows(step) for step in reversed(range(9))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    other = Plan(IMAGES, 2, 2, seed=8)
    assert any((other.rows(step) != forwards[step]).any() for step in range(9))


def test_positive_pairs_of_two_cameras():
    """iLIDS-VID and PRID2011: a tracklet of each person in each of two cameras, and K = 2."""
    persons = 150
    pids, camids = np.repeat(np.arange(persons), 2), np.tile([1, 2], persons)
    lengths = np.full(2 * persons, 73)
    tracks = Tracklets(np.cumsum(lengths) - lengths, lengths, pids, camids, np.arange(2 * persons))
    plan = Plan(tracks, num_ids=16, num_instances=2, seed=0, clip=ClipRule(6))
    assert plan.steps_per_epoch == 9
    assert plan.short_ids == 0
    for step in range(50):
        anchor, positive = (plan.rows(step)[i::2, 0] // 73 for i in (0, 1))
        np.testing.assert_array_equal(pids[anchor], pids[positive])
        assert (camids[anchor] != camids[positive]).all()
    # K = 4, which draws with replacement, would make half of the pairs one tracklet with itself.
    plan = Plan(tracks, num_ids=8, num_instances=4, seed=0, clip=ClipRule(6))
    pairs = np.concatenate([plan.rows(step)[:, 0].reshape(-1, 2) // 73 for step in range(100)])
    assert np.mean(pairs[:, 0] == pairs[:, 1]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_cross_camera_positives_are_drawn_in_pairs(k):
    """As in MARS: some cameras have several tracklets of a person, and some persons have one."""
    rng = np.random.default_rng(0)
    pids = np.repeat(np.arange(30), rng.integers(1, 12, 30))
    camids = rng.integers(1, 7, len(pids))
    ones = np.ones_like(pids)
    tracks = Tracklets(np.arange(len(pids)), ones, pids, camids, np.arange(len(pids)))
    plan = Plan(tracks, 10, k, seed=0, positives="cross_camera")
    alone = {pid for pid in range(30) if len(set(camids[pids == pid])) == 1}
    assert plan.one_camera_ids == len(alone) > 0
    drawn, same_camera = set(), 0
    for step in range(60):
        rows = plan.rows(step).reshape(10, k)
        drawn |= set(rows.ravel().tolist())
        assert (pids[rows] == pids[rows[:, :1]]).all()
        for pid, pair in zip(pids[rows[:, 0]], rows[:, :2]):
            assert (camids[pair[0]] == camids[pair[1]]) == (pid in alone)
        default = Plan(tracks, 10, k, seed=0).rows(step).reshape(10, k)
        same_camera += (camids[default[:, 0]] == camids[default[:, 1]]).sum()
    assert len(drawn) > 0.95 * len(pids)
    assert same_camera > 60  # Without it, many pairs are of one camera.


def test_cross_camera_positives_that_nobody_has():
    with pytest.raises(UserError, match=r"positives='cross_camera': no training person was seen"):
        Plan(IMAGES, num_ids=2, num_instances=2, seed=0, positives="cross_camera")


def test_too_few_persons():
    with pytest.raises(UserError, match=r"num_ids=6: the training set has 5 persons"):
        Plan(IMAGES, num_ids=6, num_instances=2, seed=0)


def test_clips_are_of_the_tracklets_that_images_would_be():
    lengths = np.arange(len(PIDS)) % 7 + 1
    tracks = tracklets(lengths)
    plan = Plan(tracks, 2, 3, seed=1, clip=ClipRule(4))
    person_of = np.repeat(PIDS, lengths)
    tracklet_of = np.repeat(np.arange(len(PIDS)), lengths)
    for step in range(12):
        rows = plan.rows(step)
        assert rows.shape == (6, 4)
        assert (tracklet_of[rows] == tracklet_of[rows[:, :1]]).all()
        persons = person_of[rows[:, 0]].reshape(2, 3)
        assert (persons == persons[:, :1]).all()
        np.testing.assert_array_equal(rows, Plan(tracks, 2, 3, 1, ClipRule(4)).rows(step))


def test_clips_begin_at_other_frames_in_other_epochs():
    tracks = tracklets(np.full_like(PIDS, 50))
    plan = Plan(tracks, 5, 2, seed=1, clip=ClipRule(4))
    starts = np.concatenate([plan.rows(step)[:, 0] % 50 for step in range(40)])
    assert len(set(starts)) > 40


def test_pairs_are_half_of_one_person():
    """Two clips of a person, then that person and another one, from two cameras if there are."""
    lengths = np.full(len(PIDS), 7)
    camids = np.arange(len(PIDS)) % 3
    camids[PIDS == 2] = 1  # has one camera
    tracks = tracklets(lengths)._replace(camids=camids)
    plan = Plan(tracks, num_ids=5, num_instances=4, seed=2, clip=ClipRule(3), sampling="pairs")
    assert (plan.steps_per_epoch, plan.short_ids) == (1, 0)
    others = set()
    for step in range(40):
        rows = plan.rows(step)
        assert rows.shape == (20, 3)
        np.testing.assert_array_equal(rows, plan.rows(step))
        items = rows[:, 0] // 7
        assert (rows // 7 == items[:, None]).all()  # each clip is of one tracklet
        pairs = items.reshape(5, 2, 2)
        pids = PIDS[pairs]
        assert (pids[:, 0, 0] == pids[:, 0, 1]).all()
        assert (pids[:, 1, 0] == pids[:, 0, 0]).all()
        assert (pids[:, 1, 1] != pids[:, 1, 0]).all()
        assert sorted(pids[:, 0, 0]) == [0, 1, 2, 3, 4]
        others |= set(zip(pids[:, 1, 0].tolist(), pids[:, 1, 1].tolist()))
        assert (pairs[:, 0, 0] != pairs[:, 0, 1]).all()
        differ = camids[pairs[..., 0]] != camids[pairs[..., 1]]
        assert differ[pids[:, 0, 0] != 2, 0].all()
        assert not differ[pids[:, 0, 0] == 2, 0].any()
    assert len(others) == 20


def test_a_person_with_one_tracklet_is_paired_with_itself():
    pids = np.array([0, 1, 1])
    tracks = Tracklets(np.arange(3) * 5, np.full(3, 5), pids, np.array([1, 1, 2]), np.arange(3))
    plan = Plan(tracks, 2, 4, seed=0, clip=ClipRule(2), sampling="pairs")
    assert plan.short_ids == 1
    items = plan.rows(0)[:, 0] // 5
    pair = next(pair for pair in items.reshape(4, 2)[::2] if pair[0] == 0)
    np.testing.assert_array_equal(pair, [0, 0])


def test_a_shuffled_epoch_visits_every_item_once():
    plan = Plan(IMAGES, num_ids=2, num_instances=3, seed=4, sampling="shuffle")
    assert (plan.steps_per_epoch, plan.short_ids) == (3, 0)  # three of 21 images are left over
    for epoch in range(5):
        rows = np.concatenate([plan.rows(3 * epoch + step) for step in range(3)])
        assert len(set(rows.tolist())) == 18
    assert (plan.rows(0) != plan.rows(3)).any()
    with pytest.raises(UserError, match="the training set has 21 items"):
        Plan(IMAGES, num_ids=11, num_instances=2, seed=0, sampling="shuffle")


def test_mixed_pairs_show_strangers_in_one_camera_too():
    camids = np.arange(len(PIDS)) % 2 + 1
    tracks = tracklets(np.full(len(PIDS), 7))._replace(camids=camids)
    plan = Plan(tracks, 5, 4, seed=2, clip=ClipRule(3), sampling="mixed_pairs")
    same_camera = []
    for step in range(40):
        pairs = (plan.rows(step)[:, 0] // 7).reshape(5, 2, 2)
        assert (PIDS[pairs[:, 0, 0]] == PIDS[pairs[:, 0, 1]]).all()
        assert (camids[pairs[:, 0, 0]] != camids[pairs[:, 0, 1]]).all()
        assert (PIDS[pairs[:, 1, 0]] != PIDS[pairs[:, 1, 1]]).all()
        same_camera += list(camids[pairs[:, 1, 0]] == camids[pairs[:, 1, 1]])
    assert 0.35 < np.mean(same_camera) < 0.65
