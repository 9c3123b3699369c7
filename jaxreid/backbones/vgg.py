"""VGG-16 (Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
ICLR 2015), configuration D: 3x3 convolutions in five blocks, each followed by a 2x2 pooling.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxreid.backbones import layers
from jaxreid.backbones.layers import conv, max_pool

# Convolutions of each block.
DEPTHS = (2, 2, 3, 3, 3)


class VGG16(nn.Module):
    """VGG-16 of any width.

    Attributes:
        widths: channels of each block.
        fc: width of fc6 and fc7, 4096 as published; 0 leaves them out.
        num_classes: of the classifier; 0 leaves it out.
        dtype: of the computation; parameters stay in float32.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    fc: int = 0
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
        """Runs the network up to its last pooling, to fc7, or to the classifier's logits.

        Args:
            images: RGB in grey levels, 224 x 224 as published; the map is then 7 x 7. Every
                pooling rounds down, as in PyTorch.
            train: dropout behind fc6 and fc7, by the random numbers `dropout`.

        Returns:
            The output, and every intermediate by its name: `block1` to `block5`, each after its
            pooling, `fc6` and `fc7`.

        Raises:
            UserError: the images are too small, or fc6 was made for images of another size.
        """
        layers.require_size(images, 2 ** len(DEPTHS), "vgg16")
        maps = {}
        x = layers.normalise(self, images)
        for block, (depth, width) in enumerate(zip(DEPTHS, self.widths), 1):
            for layer in range(1, depth + 1):
                name = f"conv{block}_{layer}"
                x = nn.relu(conv(width, 3, bias=True, dtype=self.dtype, name=name)(x))
            maps[f"block{block}"] = x = max_pool(x, 2, 2)
        x, ends = layers.fc_head(x, self.fc, self.num_classes, train=train, dtype=self.dtype)
        return x, maps | ends


def vgg16(num_classes: int = 0, *, fc: int = 0, dtype: Any = jnp.float32) -> VGG16:
    """The published VGG-16: 14,714,688 parameters up to its last pooling, 512 channels.

    With `fc=4096, num_classes=1000` the ImageNet classifier: 138,357,544 parameters.
    """
    return VGG16(fc=fc, num_classes=num_classes, dtype=dtype)
