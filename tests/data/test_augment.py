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
