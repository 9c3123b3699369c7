"""CaffeNet, the reference model of Caffe (Jia et al., Caffe: Convolutional Architecture for Fast
Feature Embedding, ACM MM 2014).

It is AlexNet (Krizhevsky et al., NIPS 2012) with each pooling before its normalisation. The second,
fourth and fifth convolution are in two groups: AlexNet was trained on two GPUs.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxreid.backbones import layers
from jaxreid.backbones.layers import conv, max_pool


class CaffeNet(nn.Module):
    """CaffeNet of any width.

    Attributes:
        widths: channels of each convolution.
        fc: width of fc6 and fc7, 4096 as published; 0 leaves them out.
        num_classes: of the classifier; 0 leaves it out.
        dtype: of the computation; parameters stay in float32.
    """

    widths: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    fc: int = 0
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
        """Runs the network up to its last pooling, to fc7, or to the classifier's logits.

        Args:
            images: RGB in grey levels, 227 x 227 as published; the map is then 6 x 6.
            train: dropout behind fc6 and fc7, by the random numbers `dropout`.

        Returns:
            The output, and every intermediate by its name: `conv1` to `conv5`, each after its
            ReLU, `norm1`, `norm2`, `pool5`, `fc6` and `fc7`.

        Raises:
            UserError: the images are too small, or fc6 was made for images of another size.
        """
        # What conv1 makes 8 positions of, and three poolings one.
        layers.require_size(images, 39, "caffenet")

        def conv_relu(x: Array, layer: int, size: int, **options: Any) -> Array:
            name, width = f"conv{layer}", self.widths[layer - 1]
            return nn.relu(conv(width, size, bias=True, dtype=self.dtype, name=name, **options)(x))

        def pool(x: Array) -> Array:
            return max_pool(x, 3, 2, ceil=True)

        maps = {}
        x = layers.normalise(self, images)
        maps["conv1"] = x = conv_relu(x, 1, 11, stride=4, padding=0)
        maps["norm1"] = x = layers.local_response_norm(pool(x))
        maps["conv2"] = x = conv_relu(x, 2, 5, groups=2)
        maps["norm2"] = x = layers.local_response_norm(pool(x))
        maps["conv3"] = x = conv_relu(x, 3, 3)
        maps["conv4"] = x = conv_relu(x, 4, 3, groups=2)
        maps["conv5"] = x = conv_relu(x, 5, 3, groups=2)
        maps["pool5"] = x = pool(x)
        x, ends = layers.fc_head(x, self.fc, self.num_classes, train=train, dtype=self.dtype)
        return x, maps | ends


def caffenet(num_classes: int = 0, *, fc: int = 0, dtype: Any = jnp.float32) -> CaffeNet:
    """The published CaffeNet up to pool5: 256 channels.

    With `fc=1024` and images of 227 x 227: 12,821,888 parameters. With `fc=4096, num_classes=1000`
    the ImageNet classifier: 60,965,224.
    """
    return CaffeNet(fc=fc, num_classes=num_classes, dtype=dtype)
