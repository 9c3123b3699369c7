import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import sharding
from jaxreid.data.augment import random_crop_and_flip, random_erase


def images(n=16, height=9, width=7):
    """Every pixel of an image tells its place: channel 0 the row, channel 1 the column."""
    grid = np.stack([*np.mgrid[:height, :width], np.zeros((height, width))], axis=-1)
    return jnp.asarray(np.broadcast_to(grid, (n, height, width, 3)).astype(np.uint8))


def test_crops_and_mirrors_are_places_of_the_image():
    out = np.asarray(random_crop_and_flip(jax.random.key(0), images(64), (6, 4), True), int)
    assert out.shape == (64, 6, 4, 3)
    tops, lefts = out[:, 0, 0, 0], out[:, 0, :, 1].min(axis=1)
    assert (np.diff(out[..., 0], axis=1) == 1).all()  # rows follow each other
    steps = np.diff(out[..., 1], axis=2)
    mirrored = steps[:, 0, 0] == -1
    assert (steps == np.where(mirrored, -1, 1)[:, None, None]).all()
    assert 0.25 < mirrored.mean() < 0.75
    assert set(tops) == set(range(4))
    assert set(lefts) == set(range(4))


def test_without_mirroring():
    out = np.asarray(random_crop_and_flip(jax.random.key(0), images(), (9, 7), False))
    np.testing.assert_array_equal(out, images())


def test_the_draw_does_not_depend_on_the_devices():
    crop = jax.jit(random_crop_and_flip, static_argnums=(2, 3))
    want = np.asarray(crop(jax.random.key(1), images(), (6, 4), True))
    mesh = sharding.make_mesh(jax.devices()[:8])
    shared = sharding.put(np.asarray(images()), sharding.split(mesh))
    got = crop(jax.random.key(1), shared, (6, 4), True)
    np.testing.assert_array_equal(got, want)


def test_frames_of_a_clip_are_cropped_alike_or_each_for_itself():
    clips = jnp.broadcast_to(images(8)[:, None], (8, 5, 9, 7, 3))
    alike = np.asarray(random_crop_and_flip(jax.random.key(0), clips, (6, 4), True))
    assert alike.shape == (8, 5, 6, 4, 3)
    assert (alike == alike[:, :1]).all()
    assert len({clip.tobytes() for clip in alike[:, 0]}) > 2
    each = np.asarray(
        random_crop_and_flip(jax.random.key(0), clips, (6, 4), True, clip_draw="frame")
    )
    assert (each != each[:, :1]).any()


def test_an_image_is_enlarged_and_cropped_or_comes_whole():
    ramp = np.broadcast_to(10 * np.arange(16)[:, None, None], (64, 16, 8, 3)).astype(np.uint8)
    out = np.asarray(
        random_crop_and_flip(
            jax.random.key(0), jnp.asarray(ramp), (16, 8), False, enlarged=(32, 12), probability=0.5
        )
    )
    whole = (out == ramp).all(axis=(1, 2, 3))
    assert 0.25 < whole.mean() < 0.75
    # Twice as high: a row of the enlarged image lies at (row + 1/2) / 2 - 1/2 of the image.
    tall = np.interp((np.arange(32) + 0.5) / 2 - 0.5, np.arange(16), 10.0 * np.arange(16))
    tops = set()
    for crop in out[~whole][:, :, 0, 0].astype(float):
        (top,) = (t for t in range(17) if np.abs(tall[t : t + 16] - crop).max() <= 0.5)
        tops.add(top)
    assert len(tops) > 5


def test_an_image_is_moved_and_its_border_repeated():
    """By at most 20 % of 10 rows and 5 columns: two rows, one column."""
    out = np.asarray(
        random_crop_and_flip(jax.random.key(3), images(64, 10, 5), (10, 5), False, shift=0.2), int
    )
    down, across = out[:, 5, 0, 0] - 5, out[:, 0, 2, 1] - 2
    assert set(down) == {-2, -1, 0, 1, 2}
    assert set(across) == {-1, 0, 1}
    for image, dy, dx in zip(out, down, across):
        np.testing.assert_array_equal(image[:, 0, 0], np.clip(np.arange(10) + dy, 0, 9))
        np.testing.assert_array_equal(image[0, :, 1], np.clip(np.arange(5) + dx, 0, 4))


def test_an_image_is_padded_with_black_and_cropped():
    """By three pixels of 9 rows and 7 columns, whose numbers start at 1: black has none."""
    out = np.asarray(
        random_crop_and_flip(jax.random.key(4), images(64) + 1, (9, 7), False, pad=3), int
    )
    tops = set()
    for image in out:
        seen = image[..., 0] > 0
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        top, left = image[rows[0], columns[0], :2] - [rows[0] + 1, columns[0] + 1]
        want = np.zeros((9, 7, 3), int)
        padded = np.pad(np.asarray(images(1)[0], int) + 1, ((3, 3), (3, 3), (0, 0)))
        want[:] = padded[top + 3 : top + 12, left + 3 : left + 10]
        np.testing.assert_array_equal(image, want)
        tops.add(top)
    assert tops == set(range(-3, 4))


def rectangle(erased):
    """(top, left, height, width) of the pixels that were erased, which fill a rectangle."""
    rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
    top, left = rows[0], columns[0]
    height, width = rows[-1] - top + 1, columns[-1] - left + 1
    assert erased[top : top + height, left : left + width].all()
    return top, left, height, width


def test_random_erasing_is_the_papers():
    """Shares uniform in 0.02 to 0.4, aspects in 0.3 to 3.33 where they fit, anywhere inside."""
    given = jnp.full((2000, 64, 32, 3), 7, jnp.uint8)
    out = np.asarray(jax.jit(random_erase, static_argnums=2)(jax.random.key(0), given, 0.5))
    erased = (out != 7).all(axis=-1)
    assert (out[erased] == [124, 116, 104]).all()  # ImageNet's mean
    assert (out[~erased] == 7).all()
    touched = erased.any(axis=(1, 2))
    assert 0.45 < touched.mean() < 0.55
    found = np.array([rectangle(each) for each in erased[touched]])
    tops, lefts, heights, widths = found.T
    # What a loop of the paper's Algorithm 1 draws, with the corner drawn where it fits.
    rng, want = np.random.default_rng(0), []
    while len(want) < len(found):
        pixels, aspect = 64 * 32 * rng.uniform(0.02, 0.4), rng.uniform(0.3, 1 / 0.3)
        height, width = round((pixels * aspect) ** 0.5), round((pixels / aspect) ** 0.5)
        if height < 64 and width < 32:
            top, left = rng.integers(64 - height + 1), rng.integers(32 - width + 1)
            want.append((top, left, height, width))
    for got, expected in zip(found.T, np.array(want).T):
        for share in (0.1, 0.25, 0.5, 0.75, 0.9):
            near = np.quantile(expected, share)
            assert np.quantile(got, share) == pytest.approx(near, abs=0.1 * expected.max())
    assert (tops + heights).max() == 64
    assert (lefts + widths).max() == 32


def test_erasing_of_clips_and_devices():
    clips = jnp.broadcast_to(images(8, 32, 32)[:, None] + 150, (8, 3, 32, 32, 3))
    alike = np.asarray(random_erase(jax.random.key(1), clips, 1.0))
    masks = (alike != clips).any(axis=-1)
    assert masks.any(axis=(1, 2, 3)).all()
    assert (masks == masks[:, :1]).all()
    each = np.asarray(random_erase(jax.random.key(1), clips, 1.0, clip_draw="frame"))
    masks = (each != clips).any(axis=-1)
    assert (masks != masks[:, :1]).any()
    mesh = sharding.make_mesh(jax.devices()[:8])
    shared = sharding.put(np.asarray(clips), sharding.split(mesh))
    again = jax.jit(random_erase, static_argnums=2)(jax.random.key(1), shared, 1.0)
    np.testing.assert_array_equal(again, alike)
    # No rectangle of such a share fits: the images stay.
    flat = images(8, 2, 64)
    np.testing.assert_array_equal(random_erase(jax.random.key(1), flat, 1.0, (0.9, 0.9)), flat)
