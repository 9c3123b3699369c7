"""DenseNet-121 (Huang et al., Densely Connected Convolutional Networks, CVPR 2017).

Every layer sees the maps of all layers before it in its block. The names of the parameters
follow the published network: stem, block 1 to 4, the transitions between them, a final norm.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxreid.backbones import layers
from jaxreid.backbones.layers import batch_norm, conv


class DenseNet(nn.Module):
    """DenseNet with bottleneck layers and compression, of any depth.

    Attributes:
        layers: layers of each dense block.
        growth: channels that each layer adds.
        stem: channels of the first convolution.
        num_classes: of the classifier; 0 leaves it out.
        dtype: of the computation; parameters and statistics stay in float32.
    """

    layers: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    stem: int = 64
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
        """Runs the network up to its final norm and ReLU, or to the classifier's logits.

        Args:
            images: RGB in grey levels. Heights and widths lose a factor of 32 and are rounded.
            train: BatchNorm by the statistics of the batch, which are updated.

        Returns:
            The output, and every intermediate by its name: `stem`, `block1`, ..., `norm5`.

        Raises:
            UserError: the images are too small.
        """
        layers.require_size(images, 2 ** (len(self.layers) + 1), "densenet")

        def norm_relu(x: Array, name: str) -> Array:
            return nn.relu(
                batch_norm(use_running_average=not train, dtype=self.dtype, name=name)(x)
            )

        maps = {}
        x = conv(self.stem, 7, 2, dtype=self.dtype, name="conv0")(layers.normalise(self, images))
        x = nn.max_pool(norm_relu(x, "norm0"), (3, 3), (2, 2), ((1, 1), (1, 1)))
        maps["stem"] = x
        for block, depth in enumerate(self.layers, 1):
            for layer in range(1, depth + 1):
                name = f"block{block}_layer{layer}"
                y = norm_relu(x, f"{name}_norm1")
                # The bottleneck is four times the growth, as published.
                y = conv(4 * self.growth, 1, dtype=self.dtype, name=f"{name}_conv1")(y)
                y = norm_relu(y, f"{name}_norm2")
                y = conv(self.growth, 3, dtype=self.dtype, name=f"{name}_conv2")(y)
                x = jnp.concatenate([x, y], axis=-1)
            maps[f"block{block}"] = x
            if block < len(self.layers):
                x = norm_relu(x, f"transition{block}_norm")
                x = conv(x.shape[-1] // 2, 1, dtype=self.dtype, name=f"transition{block}_conv")(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
        maps["norm5"] = x = norm_relu(x, "norm5")
        if self.num_classes:
            x = layers.Linear(self.num_classes, name="classifier")(x.mean(axis=(1, 2)))
        return x, maps


def densenet121(num_classes: int = 0, dtype: Any = jnp.float32) -> DenseNet:
    """The published DenseNet-121: 6,953,856 parameters without a classifier, 1,024 channels."""
    return DenseNet(num_classes=num_classes, dtype=dtype)
