"""ResNet-50 (He et al., Deep Residual Learning for Image Recognition, CVPR 2016) and SE-ResNet-50.

Both are four stages of bottlenecks behind a stem, and differ in three places:

*   ResNet is version 1.5, whose bottlenecks stride in their 3x3 convolution. SE-ResNet (Hu et al.,
    Squeeze-and-Excitation Networks, CVPR 2018) was published in Caffe and strides in the first 1x1.
*   Caffe's max pooling in the stem does not pad, and keeps the window that reaches over the border.
*   A squeeze-and-excitation module weighs the channels of every bottleneck.

The last stage may keep its stride at 1, which doubles the final grid: usual in re-identification.

ResNet-50-IBN-a (Pan, Luo, Shi, Tang; ECCV 2018) normalises the first half of the channels of the
first BatchNorm of each bottleneck per image instead, in all stages but the last.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, Num

from jaxreid.backbones import layers
from jaxreid.backbones.layers import batch_norm, conv, max_pool

# From random weights, every bottleneck adds little to its input at first. Goyal et al. 2017 start
# this scale at 0; here it lets gradients through from the first step. Starting at 1, the network
# learned nothing in the hundred steps in which it now does (benchmarks/RESULTS.md).
residual_gain = initializers.constant(0.1)


class ResNet(nn.Module):
    """A residual network of bottlenecks, of any depth, with or without squeeze-and-excitation.

    Attributes:
        layers: bottlenecks of each stage.
        width: channels of the stem; stage i ends with 4 * 2^(i-1) times as many.
        last_stride: of the last stage, 1 or 2.
        se: SE-ResNet, as published in Caffe.
        ibn: ResNet-IBN-a.
        ceil: the stem's max pooling is Caffe's, as it always is in SE-ResNet.
        num_classes: of the classifier; 0 leaves it out.
        dtype: of the computation; parameters and statistics stay in float32.
    """

    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    last_stride: int = 2
    se: bool = False
    ibn: bool = False
    ceil: bool = False
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Num[Array, "b h w 3"],
        *,
        train: bool,
        between: Callable[[str, Array], Array] = lambda name, x: x,
        behind: Callable[[str, Array], Array] = lambda name, x: x,
    ) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
        """Runs the network up to its last stage, or to the classifier's logits.

        Args:
            images: RGB in grey levels. Heights and widths lose a factor of 16 * last_stride and
                are rounded up.
            train: BatchNorm by the statistics of the batch, which are updated.
            between: is given the name and the map of every stage, and returns what goes on in
                its place. Modules that it calls belong to whoever made them.
            behind: the same of every bottleneck, as `layer1_0`, before `between`.

        Returns:
            The output, and every intermediate by its name: `stem`, `layer1`, ..., `layer4`.

        Raises:
            UserError: the images are too small.
        """
        strides = (1, *[2] * (len(self.layers) - 2), self.last_stride)[: len(self.layers)]
        layers.require_size(images, 4 * math.prod(strides), "se_resnet" if self.se else "resnet")
        conv_ = partial(conv, dtype=self.dtype)
        norm = partial(batch_norm, use_running_average=not train, dtype=self.dtype)

        def first_norm(y: Array, name: str, *, ibn: bool) -> Array:
            if not ibn:
                return norm(name=name)(y)
            half = y.shape[-1] // 2
            alone = layers.instance_norm(dtype=self.dtype, name=f"{name}_in")(y[..., :half])
            return jnp.concatenate([alone, norm(name=name)(y[..., half:])], axis=-1)

        def bottleneck(x: Array, width: int, stride: int, name: str, *, ibn: bool) -> Array:
            first, second = (stride, 1) if self.se else (1, stride)
            y = conv_(width, 1, first, name=f"{name}_conv1")(x)
            y = nn.relu(first_norm(y, f"{name}_bn1", ibn=ibn))
            y = conv_(width, 3, second, name=f"{name}_conv2")(y)
            y = nn.relu(norm(name=f"{name}_bn2")(y))
            y = conv_(4 * width, 1, name=f"{name}_conv3")(y)
            y = norm(scale_init=residual_gain, name=f"{name}_bn3")(y)
            if self.se:
                # The reduction is 16, as published.
                z = y.mean(axis=(1, 2), keepdims=True)
                z = conv_(max(1, width // 4), 1, bias=True, name=f"{name}_se_fc1")(z)
                z = conv_(4 * width, 1, bias=True, name=f"{name}_se_fc2")(nn.relu(z))
                y = y * nn.sigmoid(z)
            if x.shape != y.shape:
                x = conv_(4 * width, 1, stride, name=f"{name}_downsample_conv")(x)
                x = norm(name=f"{name}_downsample_bn")(x)
            return nn.relu(x + y)

        x = conv_(self.width, 7, 2, name="conv1")(layers.normalise(self, images))
        x = nn.relu(norm(name="bn1")(x))
        x = max_pool(x, 3, 2, ceil=True) if self.se or self.ceil else max_pool(x, 3, 2, padding=1)
        x = between("stem", x)
        maps = {"stem": x}
        for stage, (depth, stride) in enumerate(zip(self.layers, strides), 1):
            width = self.width * 2 ** (stage - 1)
            ibn = self.ibn and stage < len(self.layers)
            for block in range(depth):
                name = f"layer{stage}_{block}"
                x = behind(name, bottleneck(x, width, 1 if block else stride, name, ibn=ibn))
            x = between(f"layer{stage}", x)
            maps[f"layer{stage}"] = x
        if self.num_classes:
            x = layers.Linear(self.num_classes, name="classifier")(x.mean(axis=(1, 2)))
        return x, maps


def resnet50(last_stride: int = 2, num_classes: int = 0, dtype: Any = jnp.float32) -> ResNet:
    """The published ResNet-50: 23,508,032 parameters without a classifier, 2,048 channels."""
    return ResNet(last_stride=last_stride, num_classes=num_classes, dtype=dtype)


def se_resnet50(last_stride: int = 2, num_classes: int = 0, dtype: Any = jnp.float32) -> ResNet:
    """The published SE-ResNet-50: 26,039,024 parameters without a classifier, 2,048 channels."""
    return ResNet(last_stride=last_stride, se=True, num_classes=num_classes, dtype=dtype)
