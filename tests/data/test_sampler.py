import numpy as np
import pytest

from jaxreid.data.index import Tracklets
from jaxreid.data.sampler import ClipRule, IdentityPlan
from jaxreid.errors import UserError

# Person 0 has 6 images, 1 has 4, 2 has 2, 3 has 5, 4 has 4.
PIDS = np.array([0] * 6 + [1] * 4 + [2] * 2 + [3] * 5 + [4] * 4)


def tracklets(lengths):
    """Of the persons above, one after another in the index."""
    first = np.cumsum(lengths) - lengths
    return Tracklets(first, lengths, PIDS, np.ones_like(PIDS), np.arange(len(PIDS)))


IMAGES = tracklets(np.ones_like(PIDS))


def test_a_batch_is_p_persons_with_k_images_each():
    plan = IdentityPlan(IMAGES, num_ids=2, num_instances=4, seed=0)
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
    plan = IdentityPlan(IMAGES, num_ids=5, num_instances=2, seed=3)
    orders = [tuple(PIDS[plan.rows(step)][::2]) for step in range(10)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len(set(orders)) > 5


def test_the_plan_is_a_function_of_seed_and_step():
    a, b = (IdentityPlan(IMAGES, 2, 2, seed=7) for _ in range(2))
    forwards = [a.rows(step) for step in range(9)]
    backwards = [b.rows(step) for step in reversed(range(9))][::-1]
    np.testing.assert_array_equal(forwards, backwards)
    other = IdentityPlan(IMAGES, 2, 2, seed=8)
    assert any((other.rows(step) != forwards[step]).any() for step in range(9))


def test_too_few_persons():
    with pytest.raises(UserError, match=r"num_ids=6: the training set has 5 persons"):
        IdentityPlan(IMAGES, num_ids=6, num_instances=2, seed=0)


def test_clips_are_of_the_tracklets_that_images_would_be():
    lengths = np.arange(len(PIDS)) % 7 + 1
    tracks = tracklets(lengths)
    plan = IdentityPlan(tracks, 2, 3, seed=1, clip=ClipRule(4))
    person_of = np.repeat(PIDS, lengths)
    tracklet_of = np.repeat(np.arange(len(PIDS)), lengths)
    for step in range(12):
        rows = plan.rows(step)
        assert rows.shape == (6, 4)
        assert (tracklet_of[rows] == tracklet_of[rows[:, :1]]).all()
        persons = person_of[rows[:, 0]].reshape(2, 3)
        assert (persons == persons[:, :1]).all()
        np.testing.assert_array_equal(rows, IdentityPlan(tracks, 2, 3, 1, ClipRule(4)).rows(step))


def test_clips_begin_at_other_frames_in_other_epochs():
    tracks = tracklets(np.full_like(PIDS, 50))
    plan = IdentityPlan(tracks, 5, 2, seed=1, clip=ClipRule(4))
    starts = np.concatenate([plan.rows(step)[:, 0] % 50 for step in range(40)])
    assert len(set(starts)) > 40
