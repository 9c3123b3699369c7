"""The residual units of a ResNet-50 made slim, as in Attention Driven Person Re-identification.

Yang, Yan, Lu, Jia, Xie, Gao (Pattern Recognition, 2019), section 3.1 and Table 1: bottlenecks that
widen by 2 instead of 4, otherwise as in `resnet`: they stride in their 3x3 convolution. Keras's
defaults hold: Glorot's start, its BatchNorm, and padding that is larger at the far border where the
two cannot be equal.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax.nn.initializers import glorot_uniform
from jaxtyping import Array, Float

from jaxreid.backbones import layers

conv = partial(
    nn.Conv,
    use_bias=False,
    padding="SAME",
    kernel_init=glorot_uniform(),
    conv_general_dilated=layers.convolve,
)
linear = partial(nn.Dense, kernel_init=glorot_uniform())
batch_norm = partial(nn.BatchNorm, momentum=0.99, epsilon=1e-3)


def max_pool(
    x: Float[Array, "b h w c"], strides: tuple[int, int] = (2, 2)
) -> Float[Array, "b _ _ c"]:
    """The largest value of each 3x3 window."""
    return nn.max_pool(x, (3, 3), strides, "SAME")


class Bottleneck(nn.Module):
    """A residual unit: 1x1, 3x3 and 1x1 convolutions around which the input goes on.

    Attributes:
        features: channels of the output; half as many between the convolutions.
        stride: of the 3x3 convolution, and of the way around.
        shortcut: what stands in the way around where the shape changes: a 1x1 convolution, or
            nothing that has parameters: places are left out, and channels of zeros are added.
        dtype: of the computation; parameters and statistics stay in float32.
    """

    features: int
    stride: int = 1
    shortcut: Literal["projection", "none"] = "projection"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _ _ d"]:
        """The unit's output. `train`: BatchNorm by the statistics of the batch."""
        conv_ = partial(conv, dtype=self.dtype)
        norm = partial(batch_norm, use_running_average=not train, dtype=self.dtype)
        strides = (self.stride, self.stride)

        y = conv_(self.features // 2, (1, 1), name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv_(self.features // 2, (3, 3), strides, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = conv_(self.features, (1, 1), name="conv3")(y)
        y = norm(name="bn3")(y)
        if x.shape != y.shape and self.shortcut == "projection":
            x = conv_(self.features, (1, 1), strides, name="downsample_conv")(x)
            x = norm(name="downsample_bn")(x)
        elif x.shape != y.shape:
            more = self.features - x.shape[-1]
            x = x[:, :: self.stride, :: self.stride].astype(y.dtype)
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))
        return nn.relu(x + y)
