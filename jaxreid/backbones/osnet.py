"""OSNet (Zhou, Yang, Cavallaro, Xiang; Omni-Scale Feature Learning for Person Re-Identification,
ICCV 2019), and its two forms with instance normalisation (the same authors; Learning Generalisable
Omni-Scale Representations for Person Re-Identification, TPAMI 2021).

A block has four streams of 1 to 4 light convolutions, so that they see 3, 5, 7 and 9 pixels, and
one gate that weighs the channels of each:

    y = x + F(Σ_t G(x_t) ⊙ x_t),  t = 1..4

OSNet-IBN normalises each image's channels by themselves in the stem and behind the sum of the
blocks of `conv2`; OSNet-AIN in the stem and inside of four blocks, where a search has put it.

The names of the maps are those of the paper's Table 1. The last layer there, of 512 channels with
BatchNorm and ReLU, belongs to the network: what it says of an image are its features.
"""

import functools
import itertools
import operator
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn import initializers
from jaxtyping import Array, Float, Num

from jaxreid.backbones import layers
from jaxreid.backbones.layers import batch_norm, conv, max_pool

Norm: TypeAlias = Literal["batch", "ibn", "ain"]

# Which blocks of conv2, conv3 and conv4 normalise instances inside of their residual.
_AIN = ((True, True), (False, True), (True, False))

# The mean first: the fast variance cancels where a map is nearly constant.
instance_norm = partial(layers.instance_norm, use_fast_variance=False)


@jax.custom_vjp
def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"]
) -> Float[Array, "b h w c"]:
    """A 3x3 convolution of each channel by itself, padded by zeros, as a sum of nine products.

    `lax.conv_general_dilated` in groups is slow on the CPU: with this in its place, and with a
    gradient of the same form, a step of OSNet x0.25 takes a quarter of the time there, and its
    features a seventh.
    """
    products = (part * kernel[i, j][None, None] for (i, j), part in _shifted(x))
    return functools.reduce(operator.add, products)


def _shifted(x: Float[Array, "b h w c"]) -> Iterator[tuple[tuple[int, int], Array]]:
    """What each of the nine weights of a kernel sees."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i, j in itertools.product(range(3), range(3)):
        yield (i, j), padded[:, i : i + height, j : j + width]


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return depthwise(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    of_kernel = [jnp.sum(part * gradient, axis=(0, 1, 2)) for _, part in _shifted(x)]
    return depthwise(gradient, kernel[::-1, ::-1]), jnp.stack(of_kernel).reshape(kernel.shape)


depthwise.defvjp(_forward, _backward)


def _convolve(x: Array, kernel: Array, *places: Any, **options: Any) -> Array:
    """`depthwise` in the place of `lax.conv_general_dilated`, in float32."""
    if layers.are_plain():
        return jax.lax.conv_general_dilated(x, kernel, *places, **options)
    return depthwise(x.astype(jnp.float32), kernel.astype(jnp.float32)).astype(x.dtype)


class OSNet(nn.Module):
    """An omni-scale network.

    Attributes:
        channels: of the stem, and of conv2, conv3 and conv4; the streams of a block have a quarter.
        blocks: in each of conv2, conv3 and conv4, 1 or 2.
        norm: OSNet, OSNet-IBN or OSNet-AIN.
        features: channels of the last layer.
        num_classes: of the classifier; 0 leaves it out.
        dtype: of the computation up to the last map; parameters, statistics and what follows stay
            in float32.
    """

    channels: tuple[int, ...] = (64, 256, 384, 512)
    blocks: int = 2
    norm: Norm = "batch"
    features: int = 512
    num_classes: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: Num[Array, "b h w 3"], *, train: bool
    ) -> tuple[Float[Array, "b _"], dict[str, Array]]:
        """Runs the network up to its features, or to the classifier's logits.

        Args:
            images: RGB in grey levels. Heights and widths lose a factor of 16 up to the last map.
            train: BatchNorm by the statistics of the batch, which are updated.

        Returns:
            The output, and every intermediate by its name: `stem`, `conv2`, ..., `conv5`, and
            `features`.

        Raises:
            UserError: the images are too small.
        """
        layers.require_size(images, 16, "osnet")
        conv_ = partial(conv, dtype=self.dtype)
        norm = partial(batch_norm, use_running_average=not train, dtype=self.dtype)
        by_instance = partial(instance_norm, dtype=self.dtype)

        def light(x: Array, name: str) -> Array:
            channels = x.shape[-1]
            x = conv_(channels, 1, name=f"{name}_conv1")(x)
            x = nn.Conv(
                channels,
                (3, 3),
                padding=1,
                feature_group_count=channels,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=layers.kaiming_normal,
                conv_general_dilated=_convolve,
                name=f"{name}_conv2",
            )(x)
            return nn.relu(norm(name=f"{name}_norm")(x))

        def block(x: Array, width: int, name: str, *, inside: bool, behind: bool) -> Array:
            middle = width // 4
            y = conv_(middle, 1, name=f"{name}_conv1")(x)
            y = nn.relu(norm(name=f"{name}_conv1_norm")(y))
            # The reduction is 16, as published. One gate for all streams.
            hidden = conv_(max(1, middle // 16), 1, bias=True, name=f"{name}_gate_fc1")
            gate = conv_(middle, 1, bias=True, name=f"{name}_gate_fc2")
            total = jnp.zeros_like(y)
            for depth in (1, 2, 3, 4):
                z = y
                for place in range(depth):
                    z = light(z, f"{name}_stream{depth}_{place}")
                mean = z.mean(axis=(1, 2), keepdims=True)
                total += z * nn.sigmoid(gate(nn.relu(hidden(mean))))
            y = conv_(width, 1, name=f"{name}_conv3")(total)
            y = by_instance(name=f"{name}_in")(y) if inside else norm(name=f"{name}_conv3_norm")(y)
            if x.shape != y.shape:
                x = conv_(width, 1, name=f"{name}_downsample")(x)
                x = norm(name=f"{name}_downsample_norm")(x)
            x = x + y
            return nn.relu(by_instance(name=f"{name}_in")(x) if behind else x)

        stem, *widths = self.channels
        x = conv_(stem, 7, 2, name="conv1")(layers.normalise(self, images))
        x = (norm if self.norm == "batch" else by_instance)(name="conv1_norm")(x)
        x = max_pool(nn.relu(x), 3, 2, padding=1)
        maps = {"stem": x}
        for stage, width in enumerate(widths):
            name = f"conv{stage + 2}"
            for number in range(self.blocks):
                inside = self.norm == "ain" and _AIN[stage][number]
                behind = self.norm == "ibn" and stage == 0
                x = block(x, width, f"{name}_{number}", inside=inside, behind=behind)
            if stage < 2:
                x = conv_(width, 1, name=f"pool{stage + 2}")(x)
                x = nn.relu(norm(name=f"pool{stage + 2}_norm")(x))
                x = nn.avg_pool(x, (2, 2), (2, 2))
            maps[name] = x
        x = conv_(x.shape[-1], 1, name="conv5")(x)
        maps["conv5"] = x = nn.relu(norm(name="conv5_norm")(x))

        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        linear = partial(nn.Dense, kernel_init=initializers.normal(0.01))  # As published.
        x = linear(self.features, name="fc")(x)
        x = batch_norm(use_running_average=not train, name="fc_norm")(x)
        maps["features"] = x = nn.relu(x)
        if self.num_classes:
            x = linear(self.num_classes, name="classifier")(x)
        return x, maps


def osnet(
    width: float = 1.0, norm: Norm = "batch", num_classes: int = 0, dtype: Any = jnp.float32
) -> OSNet:
    """The published networks, without a classifier: of OSNet x1.0, 2,169,508 parameters.

    Args:
        width: β of the paper: 1, 0.75, 0.5 or 0.25.
        norm: see `OSNet`.
        num_classes: see `OSNet`.
        dtype: see `OSNet`.
    """
    channels = tuple(round(width * each) for each in (64, 256, 384, 512))
    return OSNet(channels, norm=norm, num_classes=num_classes, dtype=dtype)
