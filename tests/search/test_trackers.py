"""Trackers of others, with the real packages, on a drawn street."""

import numpy as np
from deep_sort_realtime.deepsort_tracker import DeepSort

from benchmarks.trackers import accumulate, apart, detected, track
from jaxreid.synthetic import scene, street
from jaxreid.synthetic.pedestrian import people
from jaxreid.synthetic.scene import Difficulty, stream


def test_deepsort_follows_with_our_features(of_photos):
    (camera,) = scene.cameras(5, 1, Difficulty())
    film = street.film(people(stream(5, "people", 9), 4), camera, length=10, seed=5)
    boxes = detected(film, seed=0)
    tracker = DeepSort(max_age=5, n_init=2, max_cosine_distance=0.2, embedder=None)
    found = list(track(of_photos, list(film.frames), boxes, tracker))
    assert len(found) == 10
    assert found[0] == []  # Nobody is sure yet.
    for t, tracks in enumerate(found[2:], start=2):
        numbers = [number for number, _ in tracks]
        assert len(set(numbers)) == len(numbers) >= len(boxes[t]) - 1
        near = apart(np.array([box for _, box in tracks]).reshape(-1, 4), boxes[t])
        assert np.nanmin(near, axis=1).max() < 0.1  # Each is where a box was.
    record = accumulate(film, found)
    assert (record.mot_events.Type == "MATCH").sum() > 15


def test_a_stream_may_have_empty_frames(of_photos):
    tracker = DeepSort(embedder=None)
    frames, nobody = [np.zeros((50, 60, 3), np.uint8)] * 3, np.zeros((0, 4))
    assert list(track(of_photos, frames, [nobody] * 3, tracker)) == [[], [], []]


def test_apart_is_one_less_the_share_in_common():
    a, b = np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 0, 2, 2], [0, 0, 2, 3], [0, 1, 2, 3]])
    got = apart(a, b)[0]
    np.testing.assert_allclose(got[:2], [0, 1 / 3])
    assert np.isnan(got[2])
