"""The convolutional gated recurrent unit over the frames of a clip, as a scan.

Eq. (5) of Where-and-When to Look (Wu et al.), after Ballas et al. (ICLR 2016). With the gates
z, r = σ(W * x + U * h), no biases, and maps padded with zeros:

    ĥ = tanh(W * x + U * (r·h)),  h ← (1 - z)·h + z·ĥ

The reset stands before the product, other than in `gru_scan`. What does not depend on the state is
computed for all frames at once: the share of the inputs before the scan, the gradients of kernels
after it. Gates share one convolution. Convolutions take the dtype of `x`; states are float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class ConvGRUWeights(NamedTuple):
    """Square kernels of one odd size; the last axis is divided among the gates, `d` for each.

    Attributes:
        kernel: W of the inputs: update z, reset r, candidate ĥ; n is 3d.
        recurrent: U of the state before: z, r; m is 2d.
        candidate: U of the state that was reset.
    """

    kernel: Float[Array, "k k c n"]
    recurrent: Float[Array, "k k d m"]
    candidate: Float[Array, "k k d d"]


def conv_gru_scan(
    x: Float[Array, "b t h w c"],
    weights: ConvGRUWeights,
    initial: Float[Array, "b h w d"],
) -> tuple[Float[Array, "b t h w d"], Float[Array, "b h w d"]]:
    """One layer over all frames.

    Args:
        x: the maps of the frames.
        weights: see `ConvGRUWeights`.
        initial: the state before the first frame.

    Returns:
        The state of every frame, and the last one.
    """
    frames = x.swapaxes(0, 1)
    size = frames.shape[:4]
    inputs = convolve(frames.reshape(-1, *size[2:], x.shape[-1]), weights.kernel, x.dtype)
    recurrent, candidate = (LoopConvolution.of(kernel, size, x.dtype) for kernel in weights[1:])

    def step(state: Array, frame: Any) -> tuple[Array, Array]:
        inputs, taps_r, taps_c = frame
        state = conv_gru_step(inputs, state, recurrent.at(taps_r), candidate.at(taps_c))
        return state, state

    last, outputs = jax.lax.scan(
        step, initial, (inputs.reshape(*size, -1), recurrent.taps, candidate.taps)
    )
    return outputs.swapaxes(0, 1), last


def conv_gru_step(
    inputs: Float[Array, "b h w n"],
    state: Float[Array, "b h w d"],
    recurrent: Callable[[Array], Array],
    candidate: Callable[[Array], Array],
) -> Float[Array, "b h w d"]:
    """Eq. (5): the next state.

    Args:
        inputs: W * x of the frame, for z, r and ĥ; n is 3d.
        state: h.
        recurrent: convolution by U, for z and r.
        candidate: convolution by U, for ĥ.
    """
    of_gates, of_candidate = jnp.split(inputs, [2 * state.shape[-1]], axis=-1)
    z, r = jnp.split(jax.nn.sigmoid(of_gates + recurrent(state)), 2, axis=-1)
    return (1 - z) * state + z * jnp.tanh(of_candidate + candidate(r * state))


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "k k c n"], dtype: Any = jnp.float32
) -> Float[Array, "b h w n"]:
    """Convolution (as networks have it: the kernel is not turned) with zeros around the map.

    Args:
        x: maps.
        kernel: of an odd size.
        dtype: of the computation; the result is float32.
    """
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if kernel.shape[:2] == (1, 1):
        # As a matrix product: its gradients are faster on the CPU (`jaxreid.backbones.layers`).
        return (x @ kernel[0, 0]).astype(jnp.float32)
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.astype(jnp.float32)


class LoopConvolution(NamedTuple):
    """A convolution for the body of a scan, whose kernel has its gradient computed after the loop.

    JAX would add a gradient of the kernel's size in every step. Here the step back leaves only what
    that gradient is made of, the map that went in and the cotangent of the map that came out, and
    all steps' are convolved at once. (XLA's CPU backend, besides, is some twenty times slower at
    gradients of kernels inside of loops: `benchmarks.conv_gru`.)

    `taps` are zeros that nobody reads, with one entry for each step. They go through the scan
    beside the frames, so that their "gradients" come back in the order of the steps.

    Attributes:
        kernel: as the loop sees it: in the computation's dtype, and without a gradient.
        turned: the kernel of the transposed convolution.
        taps: like the map that goes in, and like the one that comes out.
    """

    kernel: Float[Array, "k k c n"]
    turned: Float[Array, "k k n c"]
    taps: tuple[Float[Array, "*t b h w c"], Float[Array, "*t b h w n"]]

    @classmethod
    def of(
        cls, kernel: Float[Array, "k k c n"], size: tuple[Any, ...], dtype: Any
    ) -> "LoopConvolution":
        """For a loop.

        Args:
            kernel: of an odd size.
            size: (steps, b, h, w).
            dtype: of the computation.
        """
        fixed = jax.lax.stop_gradient(kernel.astype(dtype))
        return cls(fixed, fixed[::-1, ::-1].swapaxes(2, 3), _taps(kernel, size, dtype))

    def at(self, taps: tuple[Array, Array]) -> Callable[[Array], Array]:
        """The convolution in one step, with that step's taps."""

        def convolution(x: Float[Array, "b h w c"]) -> Float[Array, "b h w n"]:
            return _convolve_tapped(x.astype(self.kernel.dtype), self.kernel, self.turned, taps)

        return convolution


class ConvGRULoop(NamedTuple):
    """A layer in the body of a scan over frames, whose inputs depend on the frame before.

    Attributes:
        of_input: convolution by W.
        recurrent: by U, for z and r.
        candidate: by U, for ĥ.
    """

    of_input: LoopConvolution
    recurrent: LoopConvolution
    candidate: LoopConvolution

    @classmethod
    def of(cls, weights: ConvGRUWeights, size: tuple[Any, ...], dtype: Any) -> "ConvGRULoop":
        """For a loop over `size` = (steps, b, h, w); convolutions are computed in `dtype`."""
        return cls(*(LoopConvolution.of(kernel, size, dtype) for kernel in weights))

    @property
    def taps(self) -> tuple[Any, ...]:
        """What goes through the scan beside the frames, see `LoopConvolution`."""
        return tuple(convolution.taps for convolution in self)

    def step(
        self, x: Float[Array, "b h w c"], state: Float[Array, "b h w d"], taps: tuple[Any, ...]
    ) -> Float[Array, "b h w d"]:
        """Eq. (5): the next state, with this step's taps."""
        of_input, recurrent, candidate = (
            convolution.at(tap) for convolution, tap in zip(self, taps)
        )
        return conv_gru_step(of_input(x), state, recurrent, candidate)


@jax.custom_vjp
def _convolve_tapped(x: Array, kernel: Array, turned: Array, taps: tuple[Array, Array]) -> Array:
    return convolve(x, kernel, kernel.dtype)


def _convolve_forward(
    x: Array, kernel: Array, turned: Array, taps: tuple[Array, Array]
) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, kernel.dtype), (x, turned)


def _convolve_backward(
    residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, None, None, tuple[Array, Array]]:
    x, turned = residuals
    back = convolve(cotangent, turned, turned.dtype).astype(x.dtype)
    return back, None, None, (x, cotangent)


_convolve_tapped.defvjp(_convolve_forward, _convolve_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _taps(kernel: Array, size: tuple[Any, ...], dtype: Any) -> tuple[Array, Array]:
    c, n = kernel.shape[2:]
    return jnp.zeros((*size, c), dtype), jnp.zeros((*size, n))


def _taps_forward(
    kernel: Array, size: tuple[Any, ...], dtype: Any
) -> tuple[tuple[Array, Array], Array]:
    return _taps(kernel, size, dtype), kernel


def _taps_backward(
    size: tuple[Any, ...], dtype: Any, kernel: Array, found: tuple[Array, Array]
) -> tuple[Array]:
    x, cotangent = (leaf.reshape(-1, *leaf.shape[2:]) for leaf in found)
    (gradient,) = jax.vjp(lambda kernel: convolve(x, kernel, dtype), kernel)[1](cotangent)
    return (gradient,)


_taps.defvjp(_taps_forward, _taps_backward)
