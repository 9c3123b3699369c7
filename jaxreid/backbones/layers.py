"""The few layers that the backbones share."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import initializers
from jaxtyping import Array, Float

# He et al. 2015, over the fan-in: what the published DenseNet and ResNet start from.
kaiming_normal = initializers.variance_scaling(2.0, "fan_in", "normal")


def _convolve(
    inputs: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ d"],
    window_strides: tuple[int, ...],
    padding: Any,
    **options: Any,
) -> Float[Array, "b _ _ d"]:
    # A 1x1 convolution is a matrix product. Written as one, its gradients do not go through
    # XLA's convolution gradients, which are slow on the CPU (benchmarks/RESULTS.md).
    if kernel.shape[:2] == (1, 1) and set(window_strides) == {1}:
        return inputs @ kernel[0, 0]
    return lax.conv_general_dilated(inputs, kernel, window_strides, padding, **options)


def conv(
    features: int,
    size: int,
    stride: int = 1,
    *,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution, padded so that stride 1 keeps the size."""
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=kaiming_normal,
        conv_general_dilated=_convolve,
        name=name,
    )


# PyTorch's BatchNorm: its momentum 0.1 is 0.9 here. Statistics stay in float32.
batch_norm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)


class Linear(nn.Module):
    """A linear layer with PyTorch's default start: weights and bias U(±1/√fan_in)."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        """Maps the last axis."""
        bound = x.shape[-1] ** -0.5

        def start(key: Array, shape: tuple[int, ...]) -> Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        kernel = self.param("kernel", start, (x.shape[-1], self.features))
        bias = self.param("bias", start, (self.features,))
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)
