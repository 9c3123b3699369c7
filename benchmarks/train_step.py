"""The whole training step of a config, at its own batch: time, memory, and share of the peak.

    python -m benchmarks.train_step --config=configs/cosam_mars.py [--precision=bfloat16]
        [--image-size=256,128 --num-ids=8 --num-instances=4 --steps=10]

Augmentation, loss, gradient and update, as `jaxreid.train` runs them, on random images that lie on
the device. Operations are XLA's own count of the compiled program (a multiply-add is two); the
share is of the matrix unit's dense peak, where the device is known.
"""

import argparse
import contextlib
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import sharding
from jaxreid.command import load_config
from jaxreid.config import Config, validate
from jaxreid.train import PRECISIONS, example_batch, make_optimizer, make_train_step
from jaxreid.types import Batch, TrainState

# Dense peaks in TFLOP/s, from NVIDIA's data sheets: bfloat16, and TF32, in which float32 products
# run by default.
PEAKS = {
    "H100": {"bfloat16": 989.0, "float32": 495.0},
    "H200": {"bfloat16": 989.0, "float32": 495.0},
    "A100": {"bfloat16": 312.0, "float32": 156.0},
}


def main() -> None:
    """Prints one line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="file.py or file.py:variant")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--image-size", help="height,width")
    parser.add_argument("--num-ids", type=int)
    parser.add_argument("--num-instances", type=int)
    parser.add_argument("--persons", type=int, default=625, help="of the classifier")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()

    path, *variant = args.config.split(":", 1)
    config = load_config(Path(path), *variant)
    config.train.precision = args.precision
    if args.image_size:
        height, width = args.image_size.split(",")
        config.data.image_size = int(height), int(width)
    config.data.num_ids = args.num_ids or config.data.num_ids
    config.data.num_instances = args.num_instances or config.data.num_instances
    validate(config)
    measured = measure(config, args.persons, args.steps)

    device = jax.devices()[0]
    median = statistics.median(measured.seconds)
    devices = f"{jax.device_count()} x {device.device_kind}"
    print(f"{args.config}, batch {measured.shape}, {args.precision}, {devices}")
    print(f"compile      {measured.compile_seconds:9.1f} s")
    print(f"step         {median:9.4f} s, median of {args.steps}")
    items = measured.shape[0]
    print(f"throughput   {measured.images / median:9.0f} images/s, {items / median:.1f} items/s")
    operations = measured.operations
    print(f"operations   {operations / 1e12:9.3f} TFLOP a step and device, by XLA's count")
    peak = next((p for name, p in PEAKS.items() if name in device.device_kind), None)
    if peak is not None:
        share = operations / median / 1e12 / peak[args.precision]
        print(f"share        {share:9.1%} of {peak[args.precision]:.0f} TFLOP/s dense peak")
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if memory is not None:
        print(f"peak memory  {memory / 2**30:9.2f} GiB in use on the device")
    planned = measured.planned_bytes / 2**30
    print(f"planned      {planned:9.2f} GiB by XLA: arguments and temporaries")


class Measured(NamedTuple):
    """A training step.

    Attributes:
        shape: of the batch's images, as they are decoded.
        compile_seconds: of tracing and compiling.
        seconds: of each step.
        operations: of a step and device, by XLA's count.
        planned_bytes: arguments and temporaries, by XLA's plan.
    """

    shape: tuple[int, ...]
    compile_seconds: float
    seconds: list[float]
    operations: float
    planned_bytes: int

    @property
    def images(self) -> int:
        """Images of a step, frames of clips counted one by one."""
        return math.prod(self.shape[:-3])


def measure(config: Config, persons: int, steps: int, trace: str | None = None) -> Measured:
    """Times the step of a config on random images, after one that is not timed.

    Args:
        config: whose batch and precision are taken.
        persons: of the classifier.
        steps: that are timed.
        trace: a folder that takes `jax.profiler`'s trace of them.
    """
    data, mesh = config.data, sharding.make_mesh()
    model = config.model.make(persons, dtype=PRECISIONS[config.train.precision])
    optimizer, _ = make_optimizer(config.optim, 100, 100)

    def init() -> TrainState:
        variables = model.init(jax.random.key(0), example_batch(config, data.clip_length))
        params = variables.pop("params")
        return TrainState(jnp.int32(0), params, variables, optimizer.init(params))

    state = jax.jit(init, out_shardings=sharding.replicated(mesh))()
    frames = () if data.clip_length is None else (data.clip_length,)
    shape = (data.batch_size, *frames, *data.load_size, 3)
    images = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    pids = np.arange(data.batch_size, dtype=np.int32) // data.num_instances
    batch = sharding.put(Batch(images, pids, np.ones_like(pids)), sharding.split(mesh))

    start = time.perf_counter()
    train_step: Any = make_train_step(config, model, optimizer, mesh)
    step = train_step.lower(state, batch, True).compile()
    compile_seconds = time.perf_counter() - start
    state, metrics = step(state, batch, True)
    jax.block_until_ready(metrics)
    seconds = []
    with jax.profiler.trace(trace) if trace else contextlib.nullcontext():
        for _ in range(steps):
            start = time.perf_counter()
            state, metrics = step(state, batch, True)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - start)
    assert bool(metrics["finite"])
    planned = step.memory_analysis()
    return Measured(
        shape,
        compile_seconds,
        seconds,
        step.cost_analysis()["flops"],
        planned.temp_size_in_bytes + planned.argument_size_in_bytes,
    )


if __name__ == "__main__":
    main()
