import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import sharding
from jaxreid.data.augment import random_crop_and_flip


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
