"""What a method takes out of a batch: images, or clips."""

import jax.numpy as jnp
from jaxtyping import Array, Num

from jaxreid.errors import UserError
from jaxreid.types import Batch


def images_of(batch: Batch, compares: str) -> Num[Array, "b h w c"]:
    """A batch's images.

    Args:
        batch: of images.
        compares: who asks, and a verb, as in "BoT describes", for the message.

    Raises:
        UserError: the batch is of clips.
    """
    if batch.images.ndim != 4:
        raise UserError(f"{compares} images and got clips: expected config.data.clip_length=None")
    return jnp.asarray(batch.images)


def clips_of(batch: Batch, compares: str, least: int) -> Num[Array, "b t h w c"]:
    """A batch's clips.

    Args:
        batch: of clips.
        compares: who asks, and a verb with what of the clips, for the message.
        least: frames of a clip that the method can do with, for the message.

    Raises:
        UserError: the batch is of images.
    """
    if batch.images.ndim != 5:
        raise UserError(
            f"{compares} clips and got images: expected config.data.clip_length={least} or more"
        )
    return jnp.asarray(batch.images)
