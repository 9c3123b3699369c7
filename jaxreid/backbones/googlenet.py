"""GoogLeNet (Szegedy et al., Going Deeper with Convolutions, CVPR 2015), in two forms.

The original has biases, local response normalisation (LRN) and no BatchNorm. torchvision's form
has BatchNorm behind convolutions without biases, no LRN, 3x3 convolutions in the branches that are
called 5x5, 2x2 windows in the last pooling, and a dropout of 0.2 before the classifier.

The original pools as Caffe does, where the published weights come from: a window that reaches over
the far border is kept.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from jaxreid.backbones import layers
from jaxreid.backbones.layers import batch_norm, conv, max_pool

# Table 1 of the paper: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
INCEPTIONS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
# The modules whose outputs the auxiliary classifiers see.
AUXILIARY = {"4a": "aux1", "4d": "aux2"}


class GoogLeNet(nn.Module):
    """GoogLeNet of any width.

    Attributes:
        num_classes: of the classifiers; 0 leaves all three out.
        aux: with the two auxiliary classifiers of training.
        bn: torchvision's form.
        width: channels of the first convolution; all others are in proportion to the published.
        dtype: of the computation; parameters and statistics stay in float32.
    """

    num_classes: int = 0
    aux: bool = False
    bn: bool = False
    width: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
        """Runs the network up to `inception5b`, or to the classifier's logits.

        Args:
            images: RGB in grey levels, 224 x 224 as published; the map is then 7 x 7.
            train: dropout before the classifiers, by the random numbers `dropout`, and BatchNorm
                by the statistics of the batch, which are updated.

        Returns:
            The output, and every intermediate by its name: `conv1`, `pool1`, `norm1` (the original
            alone), `conv2`, `norm2`, `pool2`, `inception3a`, ..., `inception5b`, `pool3`, `pool4`,
            and the auxiliary logits `aux1` and `aux2`.

        Raises:
            UserError: the images are too small, or the auxiliary classifiers, whose size is fixed
                in the original, were made for images of another size.
        """
        aux = self.aux and self.num_classes > 0
        # What leaves one position of the last map, or a 5x5 window for the auxiliary classifiers.
        least = 15 if self.bn else 79 if aux else 31
        layers.require_size(images, least, "googlenet")

        def channels(published: int) -> int:
            return published * self.width // 64

        def conv_relu(x: Array, published: int, size: int, name: str, stride: int = 1) -> Array:
            features = channels(published)
            x = conv(features, size, stride, bias=not self.bn, dtype=self.dtype, name=name)(x)
            if self.bn:
                norm = batch_norm(epsilon=1e-3, dtype=self.dtype, name=f"{name}_bn")
                x = norm(x, use_running_average=not train)
            return nn.relu(x)

        def inception(x: Array, name: str) -> Array:
            one, three_reduce, three, five_reduce, five, project = INCEPTIONS[name[-2:]]
            by_three = conv_relu(x, three_reduce, 1, f"{name}_3x3_reduce")
            by_five = conv_relu(x, five_reduce, 1, f"{name}_5x5_reduce")
            branches = [
                conv_relu(x, one, 1, f"{name}_1x1"),
                conv_relu(by_three, three, 3, f"{name}_3x3"),
                conv_relu(by_five, five, 3 if self.bn else 5, f"{name}_5x5"),
                conv_relu(max_pool(x, 3, 1, 1), project, 1, f"{name}_pool_proj"),
            ]
            return jnp.concatenate(branches, axis=-1)

        def classify(x: Array, name: str, drop: float) -> Array:
            x = nn.Dropout(drop, deterministic=not train)(x)
            return layers.Linear(self.num_classes, name=name)(x)

        def auxiliary(x: Array, name: str) -> Array:
            x = grid_means(x, 4) if self.bn else nn.avg_pool(x, (5, 5), (3, 3))
            x = conv_relu(x, 128, 1, f"{name}_conv").reshape(len(x), -1)
            x = nn.relu(layers.Linear(channels(1024), self.dtype, name=f"{name}_fc")(x))
            return classify(x, f"{name}_classifier", 0.7)

        maps = {}
        maps["conv1"] = x = conv_relu(layers.normalise(self, images), 64, 7, "conv1", stride=2)
        maps["pool1"] = x = max_pool(x, 3, 2, ceil=True)
        if not self.bn:
            maps["norm1"] = x = layers.local_response_norm(x)
        maps["conv2"] = x = conv_relu(conv_relu(x, 64, 1, "conv2_reduce"), 192, 3, "conv2")
        if not self.bn:
            maps["norm2"] = x = layers.local_response_norm(x)
        maps["pool2"] = x = max_pool(x, 3, 2, ceil=True)
        for module in INCEPTIONS:
            maps[f"inception{module}"] = x = inception(x, f"inception{module}")
            if aux and module in AUXILIARY:
                maps[AUXILIARY[module]] = auxiliary(x, AUXILIARY[module])
            if module == "3b":
                maps["pool3"] = x = max_pool(x, 3, 2, ceil=True)
            if module == "4e":
                maps["pool4"] = x = max_pool(x, 2 if self.bn else 3, 2, ceil=True)
        if self.num_classes:
            x = classify(x.mean(axis=(1, 2)), "classifier", 0.2 if self.bn else 0.4)
        return x, maps


def grid_means(x: Float[Array, "b h w c"], bins: int) -> Float[Array, "b bins bins c"]:
    """PyTorch's adaptive average pooling: means over equal bins that overlap where they must."""
    for axis in (1, 2):
        n = x.shape[axis]
        ends = [(i * n // bins, -(-(i + 1) * n // bins)) for i in range(bins)]
        means = [lax.slice_in_dim(x, *end, axis=axis).mean(axis=axis) for end in ends]
        x = jnp.stack(means, axis=axis)
    return x


def googlenet(
    num_classes: int = 0, *, aux: bool = False, bn: bool = False, dtype: Any = jnp.float32
) -> GoogLeNet:
    """The published GoogLeNet: 5,973,552 parameters without a classifier, 1,024 channels.

    With `bn`, torchvision's: 5,599,904 parameters.
    """
    return GoogLeNet(num_classes, aux, bn, dtype=dtype)
