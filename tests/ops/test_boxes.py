"""Boxes of body parts and their crops against loops written from the definitions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxreid import ops

# The paper's K1..K18 by their places in OpenPose's order: the face, the neck, shoulders, elbows,
# wrists, hips, knees, ankles.
K = [0, 15, 14, 17, 16, 1, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
HEAD, ARMS, BARE, THIGHS, SHANKS = (
    [K[k - 1] for k in numbers]
    for numbers in (range(1, 7), range(7, 15), (7, 8, 13, 14), range(13, 17), range(15, 19))
)


def boxes_loop(joints, overlap, torso):
    """Eqs. (1) and (2) of one body."""
    x, y = joints[:, 0].tolist(), joints[:, 1].tolist()
    parts = [[y[j] for j in part] for part in (HEAD, torso, THIGHS, SHANKS)]
    top = 2 * min(parts[0]) - max(parts[0])
    bottom = 4 / 3 * max(parts[3]) - 1 / 3 * min(parts[3])
    height = bottom - top
    left = min(sum(x) / 18 - height / 4, min(x))
    right = max(sum(x) / 18 + height / 4, max(x))
    beta = overlap * height
    spans = [
        (top, bottom),
        (top, max(parts[0]) + beta),
        (min(parts[1]) - beta, max(parts[1]) + beta),
        (min(parts[2]) - beta, max(parts[2]) + beta),
        (min(parts[3]) - beta, bottom),
    ]
    return [[left, y0, right, y1] for y0, y1 in spans]


def standing(arm=0.1):
    """A body that faces the camera, 1 high, its feet at y = 0; by the usual proportions."""
    heights = {0.926: [0], 0.936: range(14, 18), 0.818: [1, 2, 5], 0.63: [3, 6], 0.485: [4, 7]}
    heights |= {0.53: [8, 11], 0.285: [9, 12], 0.039: [10, 13]}
    joints = np.zeros((18, 3), np.float32)
    for height, places in heights.items():
        joints[list(places), 1] = -height
    joints[[2, 3, 8, 9, 10], 0], joints[[5, 6, 11, 12, 13], 0] = -0.1, 0.1
    joints[4, 0], joints[7, 0] = -arm, arm
    return joints


body_part_boxes = jax.jit(ops.body_part_boxes, static_argnums=(1, 2))


def parts_of(joints, overlap=0.1, arms_in_torso=True):
    return np.asarray(body_part_boxes(joints[None], overlap, arms_in_torso))[0]


@pytest.mark.parametrize(("arms", "torso"), [(True, ARMS), (False, BARE)])
@pytest.mark.parametrize("overlap", [0.0, 0.1, 3 / 48])
def test_boxes_follow_the_equations(arms, torso, overlap):
    joints = np.random.default_rng(0).normal(60, 30, (20, 18, 3)).astype(np.float32)
    found = body_part_boxes(joints, overlap, arms)
    expected = [boxes_loop(body.astype(np.float64), overlap, torso) for body in joints]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_boxes_of_a_standing_body_tile_it():
    boxes = parts_of(standing(), overlap=0.0, arms_in_torso=False)
    np.testing.assert_allclose(boxes[1:-1, 3], boxes[2:, 1], atol=1e-6)
    assert boxes[1, 1] == boxes[0, 1]
    assert boxes[4, 3] == boxes[0, 3]
    height = boxes[0, 3] - boxes[0, 1]
    shares = (boxes[1:, 3] - boxes[1:, 1]) / height
    np.testing.assert_allclose(shares, [0.215, 0.2625, 0.2233, 0.299], atol=1e-3)
    # Above the head and below the feet, in statures.
    np.testing.assert_allclose([-boxes[0, 1] - 1, boxes[0, 3]], [0.054, 0.043], atol=1e-3)


def test_neighbours_that_share_joints_overlap_by_twice_beta():
    boxes = parts_of(standing(), overlap=0.1, arms_in_torso=False)
    height = boxes[0, 3] - boxes[0, 1]
    np.testing.assert_allclose(boxes[1:-1, 3] - boxes[2:, 1], 0.2 * height, rtol=1e-5)


@pytest.mark.parametrize(("arm", "share"), [(0.1, 0.5), (0.27, 0.5), (0.4, 0.8 / 1.097)])
def test_all_boxes_are_half_as_wide_as_the_body_is_high_or_hold_its_arms(arm, share):
    boxes = parts_of(standing(arm))
    widths = boxes[:, 2] - boxes[:, 0]
    np.testing.assert_allclose(widths, share * (boxes[0, 3] - boxes[0, 1]), rtol=1e-4)


def test_confidence_plays_no_part():
    joints = np.random.default_rng(1).normal(size=(18, 3)).astype(np.float32)
    unsure = joints * np.float32([1, 1, 0])
    np.testing.assert_array_equal(parts_of(joints), parts_of(unsure))


def test_strips():
    expected = [[0, 0, 64, 128], [0, 0, 64, 32], [0, 32, 64, 64], [0, 64, 64, 96], [0, 96, 64, 128]]
    np.testing.assert_array_equal(ops.strip_boxes(128, 64), expected)


# ---------------------------------------------------------------------------- crops

crop_and_resize = jax.jit(ops.crop_and_resize, static_argnums=2)


def share_inside(low, high, length):
    return max(0.0, min(high, length) - max(low, 0.0)) / (high - low)


def crop_loop(image, box, size, fill):
    """One pixel of the crop at a time: a triangle as wide as the pixel, or one input pixel."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    down, across = (y1 - y0) / size[0], (x1 - x0) / size[1]
    crop = np.zeros((*size, 3))
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = y0 + (i + 0.5) * down, x0 + (j + 0.5) * across
            colour, total = np.zeros(3), 0.0
            for r in range(height):
                for c in range(width):
                    weight = max(0.0, 1 - abs(r + 0.5 - y) / max(down, 1))
                    weight *= max(0.0, 1 - abs(c + 0.5 - x) / max(across, 1))
                    colour, total = colour + weight * image[r, c], total + weight
            inside = share_inside(y0 + i * down, y0 + (i + 1) * down, height)
            inside *= share_inside(x0 + j * across, x0 + (j + 1) * across, width)
            crop[i, j] = (1 - inside) * fill + (inside * colour / total if inside else 0)
    return crop


BOXES = [
    (0, 0, 7, 12),  # the whole image
    (1.3, 2.1, 4.2, 5.6),  # inside
    (-4.7, -3.2, 5.5, 8.3),  # over one corner
    (-9, -20, 18.5, 31),  # far around, so that it shrinks
    (5.2, 1, 6.1, 11),  # shrinks one way, grows the other
    (20, 20, 30, 30),  # outside
]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("size", [(5, 4), (9, 3)])
def test_crops_follow_the_definition(size, mean):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, 12, 7, 3), np.uint8)
    boxes = np.broadcast_to(np.float32(BOXES), (2, len(BOXES), 4)).copy()
    boxes[1] += 0.37
    fill = images.mean(axis=(1, 2)) if mean else rng.uniform(0, 255, (2, 3))
    crops = crop_and_resize(images, boxes, size, None if mean else jnp.asarray(fill, jnp.float32))
    assert crops.shape == (2, len(BOXES), *size, 3)
    assert crops.dtype == jnp.float32
    for b in range(2):
        for n in range(len(BOXES)):
            expected = crop_loop(images[b], boxes[b, n].astype(np.float64), size, fill[b])
            np.testing.assert_allclose(crops[b, n], expected, atol=2e-3)


@pytest.mark.parametrize("size", [(96, 48), (7, 5), (96, 5)])
def test_crops_are_pillows_inside_of_the_image(size):
    image = np.random.default_rng(3).uniform(0, 255, (40, 20, 3)).astype(np.float32)
    boxes = [(0, 0, 20, 40), (0, 10, 20, 20), (3.25, 4.5, 17.75, 39), (0, 0, 2, 40)]
    crops = crop_and_resize(jnp.asarray(image)[None], jnp.float32(boxes)[None], size)[0]
    for box, crop in zip(boxes, crops):
        for c in range(3):
            channel = Image.fromarray(image[..., c])
            expected = channel.resize(size[::-1], Image.Resampling.BILINEAR, box)
            np.testing.assert_allclose(crop[..., c], expected, atol=2e-3)


def test_a_crop_of_whole_pixels_is_a_copy():
    image = np.random.default_rng(4).integers(0, 256, (1, 12, 7, 3), np.uint8)
    crops = crop_and_resize(jnp.asarray(image), jnp.float32([[[2, 3, 6, 11]]]), (8, 4))
    np.testing.assert_allclose(crops[0, 0], image[0, 3:11, 2:6], atol=1e-4)


def test_outside_is_the_images_own_mean():
    images = np.random.default_rng(5).integers(0, 256, (2, 12, 7, 3), np.uint8)
    boxes = jnp.broadcast_to(jnp.float32([-8, 0, -1, 12]), (2, 1, 4))
    crops = crop_and_resize(jnp.asarray(images), boxes, (4, 3))
    mean = images.mean(axis=(1, 2))[:, None, None, None]
    np.testing.assert_allclose(crops, np.broadcast_to(mean, crops.shape), rtol=1e-5)


@pytest.mark.parametrize("box", [(3, 3, 3, 3), (5, 9, 2, 1), (0, 0, 0, 12), (1e6, 1e6, 2e6, 2e6)])
def test_crops_of_boxes_that_are_none_are_finite(box):
    image = np.random.default_rng(6).integers(0, 256, (1, 12, 7, 3), np.uint8)
    crops = crop_and_resize(jnp.asarray(image), jnp.float32(box)[None, None], (4, 3))
    assert np.isfinite(crops).all()
    assert crops.min() >= -1e-3
    assert crops.max() <= 255 + 1e-3
