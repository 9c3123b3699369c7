"""The few layers that the backbones share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float, Num

from jaxreid.errors import UserError

# He et al. 2015, over the fan-in: what the published DenseNet and ResNet start from.
kaiming_normal = initializers.variance_scaling(2.0, "fan_in", "normal")


def uniform(bound: float) -> Callable[..., Array]:
    """An initialiser of parameters: U(±bound)."""

    def start(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return start


# RGB mean and deviation of ImageNet, in grey levels.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

# Mean, and deviation, of weights that see pixels from -1 to 1.
EVEN = (127.5, 127.5, 127.5)

PREPROCESSING = "preprocessing"


def normalise(
    module: nn.Module,
    images: Num[Array, "b h w 3"],
    start: tuple[tuple[float, ...], tuple[float, ...]] = (IMAGENET_MEAN, IMAGENET_STD),
) -> Float[Array, "b h w 3"]:
    """What the module's weights expect of RGB images in grey levels: `(images - mean) / std`.

    Mean and deviation belong to the weights, so they are variables of the module (collection
    `preprocessing`), are saved with them, and are not trained. They start at ImageNet's, or at
    `start`.
    """
    mean = module.variable(PREPROCESSING, "mean", lambda: jnp.asarray(start[0])).value
    std = module.variable(PREPROCESSING, "std", lambda: jnp.asarray(start[1])).value
    images = images.astype(jnp.float32)
    return (images - jnp.broadcast_to(mean, images.shape)) / jnp.broadcast_to(std, images.shape)


_PLAIN = ContextVar("plain", default=False)


@contextmanager
def plain_convolutions() -> Iterator[None]:
    """What is traced within has convolutions alone, where other forms are quicker in JAX on a CPU.

    Runtimes of exported networks know convolutions best.
    """
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def are_plain() -> bool:
    """Whether this is within `plain_convolutions`."""
    return _PLAIN.get()


def convolve(
    inputs: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ d"],
    window_strides: tuple[int, ...],
    padding: Any,
    **options: Any,
) -> Float[Array, "b _ _ d"]:
    """`lax.conv_general_dilated`, but for a 1x1 convolution, which is a matrix product.

    Written as one, its gradients do not go through XLA's convolution gradients, which are slow on
    the CPU (benchmarks/RESULTS.md).
    """
    if are_plain():
        return lax.conv_general_dilated(inputs, kernel, window_strides, padding, **options)
    whole = kernel.shape[2] == inputs.shape[-1]  # Not in groups.
    if whole and kernel.shape[:2] == (1, 1) and set(window_strides) == {1}:
        return inputs @ kernel[0, 0]
    return lax.conv_general_dilated(inputs, kernel, window_strides, padding, **options)


def conv(
    features: int,
    size: int,
    stride: int = 1,
    *,
    padding: int | None = None,
    groups: int = 1,
    bias: bool = False,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution; by default padded so that stride 1 keeps the size."""
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=size // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=kaiming_normal,
        conv_general_dilated=convolve,
        name=name,
    )


# PyTorch's BatchNorm: its momentum 0.1 is 0.9 here. Statistics stay in float32.
batch_norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)

# PyTorch's InstanceNorm with weights: over the places of each channel of each image.
instance_norm = partial(nn.InstanceNorm, epsilon=1e-5)


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: int = 0, *, ceil: bool = False
) -> Float[Array, "b _ _ c"]:
    """The largest value of each square window.

    Args:
        x: the map.
        size: of the window.
        stride: between windows.
        padding: on every side, with values that are never the largest.
        ceil: as in Caffe, a window that reaches over the far border is kept, if it starts inside.
    """

    def pads(length: int) -> tuple[int, int]:
        over = (length + 2 * padding - size) % stride
        more = stride - over if ceil and over else 0
        # The last window starts at or before the last value that is not padding.
        starts = (length + 2 * padding + more - size) // stride * stride
        return padding, padding + (more if starts < length + padding else 0)

    return nn.max_pool(x, (size, size), (stride, stride), (pads(x.shape[1]), pads(x.shape[2])))


def local_response_norm(
    x: Float[Array, "b h w c"], size: int = 5, alpha: float = 1e-4, beta: float = 0.75
) -> Float[Array, "b h w c"]:
    """Caffe's LRN: x / (1 + (α/n) Σ x²)^β, the sum over n neighbouring channels, in float32."""
    wide = x.astype(jnp.float32)
    half = size // 2
    sums = lax.reduce_window(
        jnp.square(wide),
        0.0,
        lax.add,
        (1, 1, 1, size),
        (1, 1, 1, 1),
        ((0, 0), (0, 0), (0, 0), (half, size - 1 - half)),
    )
    return (wide * (1 + alpha / size * sums) ** -beta).astype(x.dtype)


def require_size(images: Num[Array, "b h w 3"], least: int, network: str) -> None:
    """Raises `UserError` for images that the strides would leave nothing of."""
    height, width = images.shape[1:3]
    if min(height, width) < least:
        raise UserError(
            f"{network}: images of {height} x {width} are too small; expected {least} x {least}"
            " or more"
        )


class Linear(nn.Module):
    """A linear layer with PyTorch's default start: weights and bias U(±1/√fan_in).

    Raises:
        UserError: the layer was made for inputs of another width.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        """Maps the last axis."""
        start = uniform(x.shape[-1] ** -0.5)
        if self.has_variable("params", "kernel"):
            made_for: int = self.get_variable("params", "kernel").shape[0]
            if made_for != x.shape[-1]:
                raise UserError(
                    f"{'/'.join(self.path)} takes {made_for} inputs and got {x.shape[-1]}: the"
                    " network was made for images of another size"
                )
        kernel = self.param("kernel", start, (x.shape[-1], self.features))
        bias = self.param("bias", start, (self.features,))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)


def fc_head(
    x: Float[Array, "b h w c"], fc: int, num_classes: int, *, train: bool, dtype: Any
) -> tuple[Float[Array, "b ..."], dict[str, Array]]:
    """What AlexNet and VGG have behind their maps; a part of width 0 is left out.

    To be called inside of a network's `__call__`: the layers become the network's own.

    Args:
        x: the last map. Positions are flattened in reading order, channels innermost.
        fc: width of fc6 and fc7, each with its ReLU and a dropout of a half.
        num_classes: of the classifier, which sees fc7, or the map's mean where there is none.
        train: whether to drop.
        dtype: of fc6 and fc7; the classifier is in float32.

    Returns:
        The output of the last layer, and `fc6` and `fc7` as the next layer sees them.

    Raises:
        UserError: fc6 was made for a map of another size.
    """
    maps = {}
    if fc:
        x = x.reshape(x.shape[0], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(Linear(fc, dtype, name=name)(x))
            maps[name] = x = nn.Dropout(0.5, deterministic=not train)(x)
    if num_classes:
        x = Linear(num_classes, name="classifier")(x if fc else x.mean(axis=(1, 2)))
    return x, maps
