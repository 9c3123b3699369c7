"""Augmentation, on the device inside the jitted step. Images stay uint8."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8


def random_crop_and_flip(
    key: Key[Array, ""], images: UInt8[Array, "b h w 3"], size: tuple[int, int], flip: bool
) -> UInt8[Array, "b i j 3"]:
    """Crops each image at a random place, and mirrors half of them.

    Each image's draw depends on the key and its place in the batch alone, so the result is the
    same on any number of devices.

    Args:
        key: of this step.
        images: at least as large as `size`.
        size: (height, width) of the crops.
        flip: whether to mirror.
    """

    def one(key: Key[Array, ""], image: UInt8[Array, "h w 3"]) -> UInt8[Array, "i j 3"]:
        key_top, key_left, key_flip = jax.random.split(key, 3)
        top = jax.random.randint(key_top, (), 0, image.shape[0] - size[0] + 1)
        left = jax.random.randint(key_left, (), 0, image.shape[1] - size[1] + 1)
        crop = jax.lax.dynamic_slice(image, (top, left, 0), (*size, 3))
        mirrored = flip & jax.random.bernoulli(key_flip)
        return jnp.where(mirrored, crop[:, ::-1], crop)

    return jax.vmap(one)(jax.random.split(key, images.shape[0]), images)
