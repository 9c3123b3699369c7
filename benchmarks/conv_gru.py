"""The convolutional GRU's scan against loops in Python, and what stands outside of it.

    python -m benchmarks.conv_gru [--batch=20 --frames=20 --size=7 --turns=3]
        [--forms=scan,unrolled,stepwise,in_loop]

The paper's three layers (Where-and-When to Look: 1024 channels to 128, 256, 256; kernels of 3, 5,
5), forward and backward, float32, without attention and pooling. All forms in one process, in turn.

`scan`: one jitted scan over the frames. `unrolled`: one jitted program with all frames written out.
`stepwise`: a jitted step and its jitted pullback, called frame by frame. `in_loop`: the scan with
JAX's own gradients of the kernels, which are added up inside of the loop.

Then one layer: `conv_gru_scan`, whose inputs are convolved before the loop, against the same with
them inside.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxreid.ops.conv_gru import (
    ConvGRUWeights,
    LoopConvolution,
    conv_gru_scan,
    conv_gru_step,
    convolve,
)

CHANNELS, KERNELS = (1024, 128, 256, 256), (3, 5, 5)
Layers = tuple[ConvGRUWeights, ...]
States = tuple[Array, ...]


def draw(batch: int, frames: int, size: int) -> tuple[Layers, Array, States]:
    """Glorot's weights, non-negative maps `[t b h w c]`, and initial states."""
    keys = iter(jax.random.split(jax.random.key(0), 16))

    def weights(k: int, c: int, d: int) -> ConvGRUWeights:
        bound = (6 / (k * k * (c + d))) ** 0.5
        shapes = (k, k, c, 3 * d), (k, k, d, 2 * d), (k, k, d, d)
        draws = (jax.random.uniform(next(keys), s, minval=-bound, maxval=bound) for s in shapes)
        return ConvGRUWeights(*draws)

    layers = tuple(weights(*of) for of in zip(KERNELS, CHANNELS, CHANNELS[1:]))
    maps = jax.nn.relu(jax.random.normal(next(keys), (frames, batch, size, size, CHANNELS[0])))
    states = tuple(jnp.full((batch, size, size, d), 0.1) for d in CHANNELS[1:])
    return layers, maps, states


def one_step(convolutions: Any, states: States, x: Array) -> States:
    """All layers, one frame. `convolutions`: three functions for each layer."""
    after = []
    for (of_input, recurrent, candidate), state in zip(convolutions, states):
        x = conv_gru_step(of_input(x), state, recurrent, candidate)
        after.append(x)
    return tuple(after)


def plain(layers: Layers) -> Any:
    """Convolutions with JAX's own gradients."""
    return [[partial(convolve, kernel=kernel) for kernel in layer] for layer in layers]


def by_scan(layers: Layers, maps: Array, states: States) -> Array:
    """As the model runs them."""
    size = maps.shape[:4]
    convolutions = [[LoopConvolution.of(k, size, maps.dtype) for k in layer] for layer in layers]

    def step(states: States, frame: Any) -> tuple[States, Array]:
        x, taps = frame
        here = [
            [convolution.at(tap) for convolution, tap in zip(*of_layer)]
            for of_layer in zip(convolutions, taps)
        ]
        states = one_step(here, states, x)
        return states, states[-1]

    taps = [[convolution.taps for convolution in layer] for layer in convolutions]
    return jnp.mean(jnp.square(jax.lax.scan(step, states, (maps, taps))[1]))


def by_plain_scan(layers: Layers, maps: Array, states: States) -> Array:
    """The kernels' gradients inside of the loop."""

    def step(states: States, x: Array) -> tuple[States, Array]:
        states = one_step(plain(layers), states, x)
        return states, states[-1]

    return jnp.mean(jnp.square(jax.lax.scan(step, states, maps)[1]))


def by_unrolled(layers: Layers, maps: Array, states: States) -> Array:
    """All frames written out."""
    tops = []
    for x in maps:
        states = one_step(plain(layers), states, x)
        tops.append(states[-1])
    return jnp.mean(jnp.square(jnp.stack(tops)))


def stepwise(layers: Layers, maps: Array, states: States) -> Callable[..., Any]:
    """Forward and backward with one call for each frame and direction."""

    @jax.jit
    def forward(layers: Layers, states: States, x: Array) -> States:
        return one_step(plain(layers), states, x)

    @jax.jit
    def backward(layers: Layers, states: States, x: Array, cotangent: Any, total: Any) -> Any:
        _, pull = jax.vjp(lambda w, h: one_step(plain(w), h, x), layers, states)
        of_layers, of_states = pull(cotangent)
        return jax.tree.map(jnp.add, total, of_layers), of_states

    scale = 2 / (len(maps) * states[-1].size)

    def run(layers: Layers, maps: Array, states: States) -> Any:
        seen = [states]
        for x in maps:
            seen.append(forward(layers, seen[-1], x))
        total = jax.tree.map(jnp.zeros_like, layers)
        cotangent = jax.tree.map(jnp.zeros_like, states)
        for t in reversed(range(len(maps))):
            top = cotangent[-1] + scale * seen[t + 1][-1]
            total, cotangent = backward(layers, seen[t], maps[t], (*cotangent[:-1], top), total)
        return total

    return run


def by_inputs_inside(x: Array, weights: ConvGRUWeights, initial: Array) -> Array:
    """`conv_gru_scan` with the convolution of the inputs in the loop."""
    frames = x.swapaxes(0, 1)
    convolutions = [LoopConvolution.of(k, frames.shape[:4], x.dtype) for k in weights]

    def step(state: Array, frame: Any) -> tuple[Array, Array]:
        x, taps = frame
        of_input, *others = (c.at(tap) for c, tap in zip(convolutions, taps))
        state = conv_gru_step(of_input(x), state, *others)
        return state, state

    taps = [convolution.taps for convolution in convolutions]
    return jax.lax.scan(step, initial, (frames, taps))[1]


def compare(forms: Mapping[str, Callable[..., Any]], arguments: Any, turns: int) -> None:
    """Compiles each, runs them in turn, and prints medians and ratios to the first."""
    first: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for name, run in forms.items():
        start = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        first[name] = time.perf_counter() - start
    for _ in range(turns):
        for name, run in forms.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            seconds[name].append(time.perf_counter() - start)
    base = next(iter(forms))
    print(f"{'':12}{'first call s':>14}{'median s':>12}{'ratio':>10}")
    for name in forms:
        ratio = statistics.median(b / a for a, b in zip(seconds[base], seconds[name]))
        median = statistics.median(seconds[name])
        print(f"{name:12}{first[name]:14.2f}{median:12.4f}{ratio:10.2f}", flush=True)


def main() -> None:
    """Prints three tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (("batch", 20), ("frames", 20), ("size", 7), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--forms", default="scan,unrolled,stepwise,in_loop", help="of the first")
    args = parser.parse_args()
    layers, maps, states = arguments = draw(args.batch, args.frames, args.size)
    losses = {"scan": by_scan, "unrolled": by_unrolled, "in_loop": by_plain_scan}
    forms = {
        name: stepwise(*arguments) if name == "stepwise" else jax.jit(jax.grad(losses[name]))
        for name in args.forms.split(",")
    }
    print(
        f"{args.batch} clips of {args.frames} frames of {args.size} x {args.size}, float32, on"
        f" {jax.devices()[0].device_kind}"
    )
    print("three layers, forward and backward")
    compare(forms, arguments, args.turns)

    def gradient(run: Callable[..., Array]) -> Callable[..., Any]:
        def total(x: Array, weights: ConvGRUWeights, initial: Array) -> Array:
            return jnp.mean(jnp.square(run(x, weights, initial)))

        return jax.jit(jax.grad(total, argnums=1))

    def hoisted(x: Array, weights: ConvGRUWeights, initial: Array) -> Array:
        return conv_gru_scan(x, weights, initial)[0]

    one = maps.swapaxes(0, 1), layers[0], states[0]
    for title, wrap in (("forward", jax.jit), ("forward and backward", gradient)):
        print(f"the first layer, inputs convolved before the loop or in it, {title}")
        compare({"before": wrap(hoisted), "inside": wrap(by_inputs_inside)}, one, args.turns)


if __name__ == "__main__":
    main()
