"""DuATM's training step with DenseNet-121, and what its 1x1 convolutions cost in either form.

    python -m benchmarks.step [--height=128 --width=64 --persons=8 --instances=4 --steps=5]

`products`: the package's form, 1x1 convolutions as matrix products. `convolutions`: all of them
through XLA's convolution, in the same process, step by step in turn.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreid.backbones import layers
from jaxreid.models import duatm
from jaxreid.types import Batch


def compiled(batch: Batch, num_ids: int, dtype: Any) -> tuple[Callable[..., Any], Any, float]:
    """The jitted gradient step, its variables, and the seconds to compile it."""
    model = duatm.Config().make(num_ids, dtype=dtype)
    variables = jax.jit(model.init)(jax.random.key(0), batch)

    def step(variables: Any, batch: Batch, key: Any) -> Any:
        def loss(params: Any) -> Any:
            return model.loss({**variables, "params": params}, batch, key, jnp.int32(0))[0]

        grads = jax.grad(loss)(variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], grads)
        return {**variables, "params": params}

    start = time.perf_counter()
    run = jax.jit(step).lower(variables, batch, jax.random.key(0)).compile()
    return run, variables, time.perf_counter() - start


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("height", 128), ("width", 64), ("persons", 8), ("instances", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    size = args.persons * args.instances
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (size, args.height, args.width, 3), np.uint8)
    pids = jnp.arange(size) // args.instances
    batch = Batch(jnp.asarray(images), pids, jnp.ones(size, int))
    dtype = jnp.bfloat16 if args.bfloat16 else jnp.float32

    def through_xla(x: Any, kernel: Any, strides: Any, padding: Any, **options: Any) -> Any:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    forms, ours = {}, layers.convolve
    forms["products"] = compiled(batch, 128, dtype)
    layers.convolve = through_xla  # type: ignore[assignment]
    forms["convolutions"] = compiled(batch, 128, dtype)
    layers.convolve = ours

    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(args.steps + 1):
        for name, (run, variables, _) in forms.items():
            start = time.perf_counter()
            jax.block_until_ready(run(variables, batch, jax.random.key(turn)))
            if turn:
                seconds[name].append(time.perf_counter() - start)
    device = jax.devices()[0].device_kind
    print(f"{size} images of {args.height}x{args.width}, {dtype.__name__}, on {device}")
    print(f"{'':14}{'compile s':>12}{'step s':>12}{'images/s':>12}")
    for name, (_, _, compile_seconds) in forms.items():
        median = statistics.median(seconds[name])
        print(f"{name:14}{compile_seconds:12.1f}{median:12.3f}{size / median:12.1f}")
    ratios = [b / a for a, b in zip(seconds["products"], seconds["convolutions"])]
    print(f"convolutions / products, median of {args.steps} pairs: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
