"""The persons in a frame, as a tracker gives them: a frame and boxes."""

import jax
import numpy as np
import pytest

from jaxreid.errors import UserError
from jaxreid.search import Extractor


@pytest.fixture(scope="module")
def frame():
    return np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)


def leaves(features):
    return jax.tree.leaves(features)


def test_crops_are_pictures_of_their_own(of_photos, frame):
    boxes = [(10, 20, 40, 80), (0.4, 0, 30.2, 60), (5, 5, 6, 6)]
    cuts = [frame[20:80, 10:40], frame[0:60, 0:31], frame[5:6, 5:6]]
    for got, want in zip(leaves(of_photos.crops(frame, boxes)), leaves(of_photos(cuts))):
        np.testing.assert_allclose(got, want, atol=1e-5)
    other = leaves(of_photos.crops(frame[..., ::-1], np.array(boxes), order="bgr"))
    for got, want in zip(other, leaves(of_photos(cuts))):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_frame_of_nobody_has_features_of_nobody(of_photos, frame):
    for empty in ([], np.zeros((0, 4))):
        for got, shape in zip(leaves(of_photos.crops(frame, empty)), leaves(of_photos.shapes)):
            assert got.shape == (0, *shape.shape)
            assert got.dtype == shape.dtype


def test_what_reaches_beyond_the_frame_is_cut_off_and_counted(photo_run, frame):
    reid = Extractor(photo_run)
    boxes = [(-5, 10, 30, 70), (10, 10, 30, 70), (100, 60, 140, 95)]
    want = reid([frame[10:70, 0:30], frame[10:70, 10:30], frame[60:90, 100:120]])
    for got, of in zip(leaves(reid.crops(frame, boxes)), leaves(want)):
        np.testing.assert_allclose(got, of, atol=1e-5)
    assert reid.clipped == 2
    reid.crops(frame, boxes[:1])
    assert reid.clipped == 3


def test_a_stream_compiles_a_few_sizes_and_then_none(photo_run, frame):
    reid, box, compiled = Extractor(photo_run), (10, 20, 40, 80), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "compile" in name else None
    )
    for count in (1, 2, 3, 8):  # Of 8 at a time.
        reid.crops(frame, [box] * count)
    assert len(compiled) >= 4
    compiled.clear()
    for count in range(1, 20):
        got = reid.crops(frame, [box] * count)
        assert {len(leaf) for leaf in leaves(got)} == {count}
    assert not compiled


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([(1, 1, 5, 5), (200, 1, 300, 9)], "box 1, [200.0, 1.0, 300.0, 9.0], has no pixel in a"),
        ([(5, 1, 5, 9)], "has no pixel in a frame of 120 x 90"),
        ([(9, 1, 5, 9)], "box 0, "),
        ([(np.nan, 1, 5, 9)], "box 0, [nan, 1.0, 5.0, 9.0], has no pixel"),
        ([(np.inf, 1, np.inf, 9)], "box 0, "),
        ([(1, 2, 3)], "boxes of shape (1, 3); expected [n, 4]: left, top, right, bottom"),
        ((1, 2, 3, 4), "boxes of shape (4,)"),
    ],
)
def test_boxes_that_cannot_be_are_one_line(of_photos, frame, boxes, said):
    with pytest.raises(UserError) as error:
        of_photos.crops(frame, boxes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "order", "said"),
    [
        (lambda x: x / 255, "rgb", "crops: the frame: an array of float64 and shape (90, 120, 3)"),
        (lambda x: x[..., 0], "bgr", "an array of uint8 and shape (90, 120); expected uint8"),
        (lambda x: x, "BGR", "crops: order='BGR'; expected 'rgb' or 'bgr'"),
    ],
)
def test_frames_that_cannot_be_are_one_line(of_photos, frame, change, order, said):
    with pytest.raises(UserError) as error:
        of_photos.crops(change(frame), [(1, 1, 9, 9)], order=order)
    assert said in str(error.value)


def test_tracklets_have_no_crops(of_clips, frame):
    with pytest.raises(UserError, match="this network compares tracklets"):
        of_clips.crops(frame, [(1, 1, 9, 9)])
