import numpy as np
import pytest

from jaxreid.synthetic import scene, street
from jaxreid.synthetic.pedestrian import people
from jaxreid.synthetic.scene import Difficulty, stream


def film(seed=3, walkers=5, length=6):
    (camera,) = scene.cameras(seed, 1, Difficulty())
    return street.film(people(stream(seed, "people", 9), walkers), camera, length=length, seed=seed)


@pytest.fixture(scope="module")
def drawn():
    return film()


def test_everything_follows_from_the_seed(drawn):
    again, other = film(), film(seed=4, length=2)
    for a, b in zip(drawn, again):
        np.testing.assert_array_equal(a, b)
    assert (drawn.frames[:2] != other.frames).any()


def test_boxes_are_in_the_frame_and_walk_on(drawn):
    height, width = drawn.frames.shape[1:3]
    assert (height, width) == (200, 480)
    assert (drawn.boxes >= 0).all()
    assert (drawn.boxes <= [width, height, width, height]).all()
    assert (drawn.boxes[:, :2] < drawn.boxes[:, 2:]).all()
    assert ((drawn.visible >= 0) & (drawn.visible <= 1)).all()
    for pid in np.unique(drawn.pids):
        of = drawn.boxes[drawn.pids == pid]
        assert (np.abs(np.diff(of.mean(axis=1))) < 0.06 * width).all()
    assert len(set(zip(drawn.number.tolist(), drawn.pids.tolist()))) == len(drawn.pids)


def test_who_is_in_front_hides_who_is_behind():
    """A walker by himself is whole; what others hide of him, they cover."""
    many = film(walkers=12, length=1)
    for i, box in enumerate(many.boxes):
        others = np.delete(many.boxes, i, axis=0)
        low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
        if not (high > low).all(axis=1).any():
            assert many.visible[i] == 1
    assert many.visible.min() < 0.9
    alone = film(walkers=1)
    assert (alone.visible == 1).all()


def test_a_box_surrounds_what_differs_from_the_empty_street():
    """Without light and noise, pixels far from all boxes are those of the street alone."""
    how = Difficulty(cast=0.0, light=0.0, blur=0.0, noise=0.0)
    (camera,) = scene.cameras(3, 1, how)
    walkers = people(stream(3, "people", 9), 4)
    some, nobody = (
        street.film(of, camera, length=2, seed=3, difficulty=how) for of in (walkers, [])
    )
    assert len(nobody.boxes) == 0
    for t in range(2):
        differs = (
            np.abs(some.frames[t].astype(int) - nobody.frames[t]).max(axis=2) > 80
        )  # Shadows are less.
        inside = np.zeros_like(differs)
        for left, top, right, bottom in some.boxes[some.number == t].astype(int):
            inside[max(0, top - 2) : bottom + 3, max(0, left - 2) : right + 3] = True
        assert differs.any()
        assert not (differs & ~inside).any()
