import numpy as np
import pytest

from jaxreid.data import clips
from jaxreid.data.index import Tracklets


def draws(frames, length, how="consecutive", number=200, **kwargs):
    rng = np.random.default_rng(0)
    return np.stack([clips.sample(rng, frames, length, how, **kwargs) for _ in range(number)])


def test_consecutive_windows_start_anywhere_that_they_fit():
    drawn = draws(7, 4)
    assert (np.diff(drawn, axis=1) == 1).all()
    assert sorted(set(drawn[:, 0])) == [0, 1, 2, 3]


def test_the_authors_off_by_one_never_draws_the_last_window():
    assert sorted(set(draws(7, 4, compat=True)[:, 0])) == [0, 1, 2]
    assert (draws(4, 4, compat=True) == [0, 1, 2, 3]).all()
    assert (draws(5, 4, compat=True) == [0, 1, 2, 3]).all()


@pytest.mark.parametrize("how", ["consecutive", "evenly", "random"])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_every_offset_lies_in_the_tracklet(how, frames):
    drawn = draws(frames, 4, how)
    assert drawn.shape == (200, 4)
    assert drawn.min() >= 0
    assert drawn.max() < frames


def test_short_tracklets_are_read_in_a_circle():
    assert (draws(3, 8) == [0, 1, 2, 0, 1, 2, 0, 1]).all()


def test_evenly_spaced_frames_are_the_middles_of_equal_parts():
    np.testing.assert_array_equal(clips.evenly(8, 4), [1, 3, 5, 7])
    np.testing.assert_array_equal(clips.evenly(9, 3), [1, 4, 7])
    np.testing.assert_array_equal(clips.evenly(2, 4), [0, 0, 1, 1])


def test_random_frames_come_in_the_order_of_time_without_repetition():
    drawn = draws(9, 4, "random")
    assert (np.diff(drawn, axis=1) > 0).all()
    assert set(drawn.ravel()) == set(range(9))


def test_all_clips_cover_the_tracklet_once_and_the_tail_repeats_itself():
    np.testing.assert_array_equal(
        clips.cut(10, 4, "all", "query"), [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 8, 9]]
    )
    np.testing.assert_array_equal(clips.cut(8, 4, "all", "query"), [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(clips.cut(3, 4, "all", "query"), [[0, 1, 2, 0]])
    np.testing.assert_array_equal(clips.cut(1, 4, "all", "query"), [[0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("how", "split", "long", "short"),
    [
        ("first", "query", [0, 1, 2, 3], [0, 1, 2, 0]),
        ("last", "query", [6, 7, 8, 9], [0, 1, 2, 0]),
        ("first_last", "query", [0, 1, 2, 3], [0, 1, 2, 0]),
        ("first_last", "gallery", [6, 7, 8, 9], [0, 1, 2, 0]),
        ("central", "gallery", [3, 4, 5, 6], [0, 1, 2, 0]),
        ("evenly", "gallery", [1, 3, 6, 8], [0, 1, 1, 2]),
    ],
)
def test_one_clip_of_a_tracklet(how, split, long, short):
    np.testing.assert_array_equal(clips.cut(10, 4, how, split), [long])
    np.testing.assert_array_equal(clips.cut(3, 4, how, split), [short])


def test_clips_of_a_split_know_their_tracklet():
    column = np.array([0, 5, 6])
    tracks = Tracklets(column, np.array([5, 1, 4]), *[np.ones(3, int)] * 2, np.arange(3))
    rows, items, mask = clips.scored_clips(tracks, 4, "all", "query")
    np.testing.assert_array_equal(rows, [[0, 1, 2, 3], [4] * 4, [5] * 4, [6, 7, 8, 9]])
    np.testing.assert_array_equal(items, [0, 0, 1, 2])
    np.testing.assert_array_equal(
        mask, [[True] * 4, [True, False, False, False], [True, False, False, False], [True] * 4]
    )
    rows, items, mask = clips.scored_clips(tracks, None, "all", "query")
    np.testing.assert_array_equal(rows, column)
    np.testing.assert_array_equal(items, [0, 1, 2])
    assert mask is None
