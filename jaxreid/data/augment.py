"""Augmentation, on the device inside the jitted step. Images stay uint8."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from jaxreid.backbones.layers import IMAGENET_MEAN

Size = tuple[int, int]
# Of random erasing: least and largest height of a rectangle over its width; and how often one is
# drawn that does not fit, before the image is left as it is.
ASPECTS = (0.3, 1 / 0.3)
ATTEMPTS = 16


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
    pad: int = 0,
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
        pad: black pixels that images get on every side before.
    """

    def around(*margins: int) -> list[Size]:
        return [(0, 0)] * (images.ndim - 3) + [(m, m) for m in margins] + [(0, 0)]

    if pad:
        images = jnp.pad(images, around(pad, pad))
    if shift:
        margins = [round(shift * side) for side in images.shape[-3:-1]]
        images = jnp.pad(images, around(*margins), mode="edge")

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

    return _each(one, key, images, clip_draw)


def random_erase(
    key: Key[Array, ""],
    images: UInt8[Array, "b *t h w 3"],
    probability: float,
    area: tuple[float, float] = (0.02, 0.4),
    clip_draw: Literal["clip", "frame"] = "clip",
) -> UInt8[Array, "b *t h w 3"]:
    """Random erasing (Zhong, Zheng, Kang, Li, Yang; AAAI 2020): a rectangle becomes grey.

    Its share of the image and its height over its width are uniform in `area` and `ASPECTS`, and
    one that does not fit is drawn anew. Then its corner is uniform among the places where it lies
    inside. The grey is ImageNet's mean, which a network sees as zero (the paper's RE-M). Each
    image's draw depends on the key and its place in the batch alone.

    Args:
        key: of this step.
        images: or clips of images.
        probability: that an image has a rectangle.
        area: least and largest share of the image.
        clip_draw: all frames of a clip have the same rectangle, or each has its own.
    """
    height, width = images.shape[-3:-1]
    grey = jnp.round(jnp.asarray(IMAGENET_MEAN)).astype(jnp.uint8)

    def one(key: Key[Array, ""], image: UInt8[Array, "h w 3"]) -> UInt8[Array, "h w 3"]:
        key_whether, key_area, key_aspect, key_top, key_left = jax.random.split(key, 5)
        pixels = (
            height
            * width
            * jax.random.uniform(key_area, (ATTEMPTS,), minval=area[0], maxval=area[1])
        )
        aspect = jax.random.uniform(key_aspect, (ATTEMPTS,), minval=ASPECTS[0], maxval=ASPECTS[1])
        heights, widths = jnp.sqrt(pixels * aspect), jnp.sqrt(pixels / aspect)
        sizes = jnp.round(jnp.stack([heights, widths])).astype(int)
        fits = (sizes[0] < height) & (sizes[1] < width)
        tall, wide = sizes[:, jnp.argmax(fits)]  # the first that fits
        top = jax.random.randint(key_top, (), 0, jnp.maximum(height - tall + 1, 1))
        left = jax.random.randint(key_left, (), 0, jnp.maximum(width - wide + 1, 1))
        rows, columns = jnp.arange(height)[:, None], jnp.arange(width)[None, :]
        inside = (
            (rows >= top)
            & (rows < top + tall)
            & (columns >= left)
            & (columns < left + wide)
            & (jax.random.bernoulli(key_whether, probability) & fits.any())
        )
        return jnp.where(inside[..., None], jnp.broadcast_to(grey, image.shape), image)

    return _each(one, key, images, clip_draw)


def _each(
    one: Callable[[Array, Array], Array],
    key: Key[Array, ""],
    images: UInt8[Array, "b *t h w 3"],
    clip_draw: Literal["clip", "frame"],
) -> UInt8[Array, "b *t i j 3"]:
    """`one(key, image)` of each image, or of each frame of each clip, with keys of their own."""

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
