"""Boxes of body parts from joints, and the crops of boxes.

Yang, Yan, Lu, Jia, Xie, Gao: Attention Driven Person Re-identification (Pattern Recognition, 2019),
section 3.2. A box is (x0, y0, x1, y1): its edges in pixels, where pixel k spans k to k + 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

# By their places in OpenPose's order of 18 joints, left before right. The paper numbers them K1 to
# K18: nose, eyes, ears, neck, shoulders, elbows, wrists, hips, knees, ankles. What it prints of the
# parts is garbled; P3 = {K13..K16} and P4 = {K15..K18} share the knees. That the head has the neck
# follows from Eq. (2), which would cut it off at the top with the face alone.
_HEAD = np.array([0, 15, 14, 17, 16, 1])  # P1 = {K1..K6}
_TORSO = np.array([5, 2, 11, 8])  # P2 without the arms: shoulders and hips
_ARMS = np.array([6, 3, 7, 4])  # K9..K12: elbows and wrists
_UPPER_LEGS = np.array([11, 8, 12, 9])  # P3 = {K13..K16}: hips and knees
_LOWER_LEGS = np.array([12, 9, 13, 10])  # P4 = {K15..K18}: knees and ankles


def body_part_boxes(
    joints: Float[Array, "b 18 3"], overlap: float = 0.1, arms_in_torso: bool = True
) -> Float[Array, "b 5 4"]:
    """Eqs. (1)-(2): the boxes R0..R4 of whole body, head, torso, upper and lower legs.

    A box may lie partly outside its image. All five are equally wide: half the body's height H,
    or more where an arm sticks out.

    Args:
        joints: in OpenPose's order, all of them known; the confidence plays no part.
        overlap: β / H. Boxes that share joints overlap by 2β, as Eq. (2) is printed.
        arms_in_torso: whether P2 holds elbows and wrists besides shoulders and hips.
    """
    x, y = joints[..., 0], joints[..., 1]
    torso = np.concatenate([_TORSO, _ARMS]) if arms_in_torso else _TORSO
    parts = (_HEAD, torso, _UPPER_LEGS, _LOWER_LEGS)
    highest = [y[:, part].min(axis=1) for part in parts]
    lowest = [y[:, part].max(axis=1) for part in parts]
    top = 2 * highest[0] - lowest[0]
    bottom = 4 / 3 * lowest[3] - 1 / 3 * highest[3]
    height = bottom - top
    centre = x.mean(axis=1)
    left = jnp.minimum(centre - height / 4, x.min(axis=1))  # Eq. (1)
    right = jnp.maximum(centre + height / 4, x.max(axis=1))
    beta = overlap * height
    starts = (top, top, *(edge - beta for edge in highest[1:]))  # Eq. (2)
    ends = (bottom, *(edge + beta for edge in lowest[:3]), bottom)
    boxes = [jnp.stack([left, y0, right, y1], axis=1) for y0, y1 in zip(starts, ends)]
    return jnp.stack(boxes, axis=1)


def strip_boxes(height: int, width: int) -> Float[Array, "5 4"]:
    """The whole image and its four equal horizontal strips: the parts where no joints are known.

    Args:
        height: of the image.
        width: of the image.
    """
    rows = [(0, 4), (0, 1), (1, 2), (2, 3), (3, 4)]
    return jnp.array([[0, y0 * height / 4, width, y1 * height / 4] for y0, y1 in rows])


def crop_and_resize(
    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
    boxes: Float[Array, "b n 4"],
    size: tuple[int, int],
    fill: Float[Array, "b 3"] | None = None,
) -> Float[Array, "b n i j 3"]:
    """Cuts boxes out of each image and resizes them: bilinear, antialiased where it shrinks.

    Inside of the image, pixels are those of Pillow's bilinear `resize` with a box, unrounded. A
    pixel of the crop that the image's edge divides is mixed from both sides by area.

    Args:
        images: of any range of values.
        boxes: of each image.
        size: (height, width) of the crops.
        fill: the colour outside of the image; None: the mean colour of that image.
    """
    pixels = images.astype(jnp.float32)
    if fill is None:
        fill = pixels.mean(axis=(1, 2))
    x0, y0, x1, y1 = jnp.moveaxis(boxes, -1, 0)
    down = _weights(y0, y1, size[0], images.shape[1])
    across = _weights(x0, x1, size[1], images.shape[2])
    # What the weights leave of a pixel stays at zero, which is where the fill is.
    rows = jnp.einsum(
        "bnih,bhwc->bniwc", down, pixels - fill[:, None, None], precision=jax.lax.Precision.HIGHEST
    )
    crops = jnp.einsum("bnjw,bniwc->bnijc", across, rows, precision=jax.lax.Precision.HIGHEST)
    return crops + fill[:, None, None, None]


def _weights(
    start: Float[Array, "b n"], end: Float[Array, "b n"], size: int, length: int
) -> Float[Array, "b n i k"]:
    """What each of the `length` pixels of an axis gives to each of the `size` pixels of a crop.

    A pixel's weights sum up to the share of it that lies in the image.
    """
    step = ((end - start) / size)[..., None]
    centres = start[..., None] + step * (jnp.arange(size) + 0.5)[None, None]
    reach = jnp.maximum(jnp.abs(step), 1)
    distances = jnp.abs(centres[..., None] - (jnp.arange(length) + 0.5)[None, None, None])
    triangle = jnp.maximum(0, 1 - distances / reach[..., None])
    half = jnp.maximum(jnp.abs(step) / 2, 1e-6)
    outside = jnp.maximum(half - centres, 0) + jnp.maximum(centres + half - length, 0)
    inside = jnp.clip(1 - outside / (2 * half), 0, 1)
    total = triangle.sum(axis=-1)
    return triangle * (inside / jnp.where(total > 0, total, 1))[..., None]
