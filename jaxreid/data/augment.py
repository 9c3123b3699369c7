"""Augmentation, on the device inside the jitted step. Images stay uint8."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

Size = tuple[int, int]


def random_crop_and_flip(
    key: Key[Array, ""],
    images: UInt8[Array, "b *t h w 3"],
    size: Size,
    flip: bool,
    *,
    enlarged: Size | None = None,
    probability: float = 1.0,
    clip_draw: Literal["clip", "frame"] = "clip",
    shift: float = 0.0,
) -> UInt8[Array, "b *t i j 3"]:
    """Crops each image at a random place, and mirrors half of them.

    Each image's draw depends on the key and its place in the batch alone, so the result is the
    same on any number of devices.

    Args:
        key: of this step.
        images: at least as large as `size`; or clips of such images.
        size: (height, width) of the crops.
        flip: whether to mirror.
        enlarged: if given, images are first enlarged to this (height, width), bilinearly, with
            the probability given, and otherwise come whole: they have to be of `size` then.
        probability: see above.
        clip_draw: all frames of a clip are cropped and mirrored alike, or each for itself.
        shift: share of height and width by which images are moved at most, in whole pixels. Their
            border is repeated.
    """
    if shift:
        margins = [round(shift * side) for side in images.shape[-3:-1]]
        around = [(0, 0)] * (images.ndim - 3) + [(m, m) for m in margins] + [(0, 0)]
        images = jnp.pad(images, around, mode="edge")

    def one(key: Key[Array, ""], image: UInt8[Array, "h w 3"]) -> UInt8[Array, "i j 3"]:
        key_top, key_left, key_flip = jax.random.split(key, 3)
        height, width = enlarged or image.shape[:2]
        top = jax.random.randint(key_top, (), 0, height - size[0] + 1)
        left = jax.random.randint(key_left, (), 0, width - size[1] + 1)
        if enlarged is None:
            crop = jax.lax.dynamic_slice(image, (top, left, 0), (*size, 3))
        else:
            whole = ~jax.random.bernoulli(jax.random.fold_in(key, 3), probability)
            crop = _window(image, enlarged, jnp.stack([top, left]), whole)
        mirrored = flip & jax.random.bernoulli(key_flip)
        return jnp.where(mirrored, crop[:, ::-1], crop)

    def frames(key: Key[Array, ""], clip: UInt8[Array, "t h w 3"]) -> UInt8[Array, "t i j 3"]:
        if clip_draw == "clip":
            return jax.vmap(one, (None, 0))(key, clip)
        return jax.vmap(one)(jax.random.split(key, len(clip)), clip)

    per_item = one if images.ndim == 4 else frames
    return jax.vmap(per_item)(jax.random.split(key, images.shape[0]), images)


def _window(
    image: UInt8[Array, "h w 3"], enlarged: Size, corner: Array, whole: Array
) -> UInt8[Array, "h w 3"]:
    """As much of the enlarged image, from a corner on, as the image is large; or all of it."""
    scale = jnp.array([enlarged[0] / image.shape[0], enlarged[1] / image.shape[1]])
    pixels = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        image.shape,
        (0, 1),
        jnp.where(whole, jnp.ones(2), scale),
        jnp.where(whole, jnp.zeros(2), -corner.astype(jnp.float32)),
        method="linear",
        antialias=False,
    )
    return jnp.round(pixels).astype(jnp.uint8)
