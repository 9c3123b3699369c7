"""The train step on 1, 2, 4 and 8 devices with the same work for each: what the mesh costs.

    python -m benchmarks.scaling [--model=duatm --per-device=4 --height=128 --width=64 --steps=3]

Fake CPU devices share the machine's cores, so n devices are n times the work on the same cores,
and no time is won: what is measured is the overhead, `time / (devices x time of one device)`,
which is 1 where dividing the work costs nothing. The bytes that a device sends come from the
compiled program, from each of its collectives; in a ring, an all-reduce of b bytes over n devices
sends 2 b (n - 1) / n, and an all-gather or reduce-scatter with a result or an argument of b bytes
sends b (n - 1) / n.

What that takes on 8 GPUs over NVLink, and on 8 hosts of a GPU each over 100 Gb/s Ethernet, is
arithmetic: bytes / bandwidth; and 2 log2 n messages, up a tree and down, for each collective. GPUs
hide part of it behind computing, and their compiler merges the gradients' collectives, which is not
counted here; BatchNorm's cannot be merged, as each layer waits for the one before.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

DEVICES = (1, 2, 4, 8)
LINKS = {"NVLink, 450 GB/s": 450e9, "100 Gb/s Ethernet": 12.5e9}  # a GPU's, in one direction
LATENCY = {"NVLink, 450 GB/s": 2e-6, "100 Gb/s Ethernet": 15e-6}  # seconds of a small message
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Sent(NamedTuple):
    """What a device sends in a step by one kind of collective: how many there are, and bytes."""

    number: int
    size: float


def collectives(program: str, devices: int) -> dict[str, Sent]:
    """What a compiled program communicates, by kind of collective, as its text says."""
    found: dict[str, Sent] = {}
    for line in program.splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(_COLLECTIVES)})(-start)?\(", line)
        if match is None:
            continue
        size = sum(
            _BYTES[kind] * math.prod(map(int, filter(None, shape.split(","))))
            for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
        )
        rounds = 2 if match[2] == "all-reduce" else 1
        if match[2] == "reduce-scatter":
            size *= devices
        number, before = found.get(match[2], Sent(0, 0))
        sent = rounds * size * (devices - 1) / devices
        found[match[2]] = Sent(number + 1, before + sent)
    return found


def child(args: argparse.Namespace) -> None:
    """Prints what the step on all devices sends, and the seconds that it takes, as JSON."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxreid import sharding
    from jaxreid.config import Config, Data, Optim
    from jaxreid.models import cosam, duatm
    from jaxreid.train import make_optimizer, make_train_step
    from jaxreid.types import Batch, TrainState

    mesh, size = sharding.make_mesh(), args.per_device * jax.device_count()
    image_size = args.height, args.width
    models: dict[str, Any] = {"duatm": duatm.Config(), "cosam": cosam.Config(backbone="resnet50")}
    data = Data(image_size=image_size, clip_length=4 if args.model == "cosam" else None)
    config = Config(model=models[args.model], data=data, optim=Optim(lr=1e-3))
    frames = () if data.clip_length is None else (data.clip_length,)
    pixels = np.random.default_rng(0).integers(0, 255, (size, *frames, *image_size, 3), np.uint8)
    labels = np.arange(size, dtype=np.int32) // 2, np.ones(size, np.int32)
    model, (optimizer, _) = config.model.make(751), make_optimizer(config.optim, 100, 100)

    def init() -> TrainState:
        black = jnp.zeros((1, *pixels.shape[1:]), jnp.uint8)
        one = Batch(black, jnp.ones(1, jnp.int32), jnp.ones(1, jnp.int32))
        variables = model.init(jax.random.key(0), one)
        params = variables.pop("params")
        return TrainState(jnp.int32(0), params, variables, optimizer.init(params))

    state = jax.jit(init, out_shardings=sharding.replicated(mesh))()
    batch = sharding.put(Batch(pixels, *labels), sharding.split(mesh))
    jitted: Any = make_train_step(config, model, optimizer, mesh)
    step = jitted.lower(state, batch, np.True_).compile()
    seconds = []
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        state, metrics = jax.block_until_ready(step(state, batch, np.True_))
        seconds.append(time.perf_counter() - start)
    assert metrics["finite"]
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    sent = collectives(step.as_text(), jax.device_count())
    print(json.dumps([sent, statistics.median(seconds[1:]), weights]))


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["duatm", "cosam"], default="duatm")
    for name, value in (("per-device", 4), ("height", 128), ("width", 64), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    print(f"{args.model}, {args.per_device} items of {args.height}x{args.width} for each device")
    print(f"on {os.cpu_count()} cores, medians of {args.steps} steps")
    print(f"{'devices':>8}{'step s':>10}{'overhead':>10}{'collectives':>13}{'sent MB':>10}")
    first, sent, weights = 0.0, {}, 0
    for devices in DEVICES:
        cpu = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        command = [sys.executable, "-m", "benchmarks.scaling", *sys.argv[1:], "--child"]
        done = subprocess.run(command, env=os.environ | cpu, stdout=subprocess.PIPE, check=True)
        raw, seconds, weights = json.loads(done.stdout.splitlines()[-1])
        sent = {kind: Sent(*numbers) for kind, numbers in raw.items()}
        first = first or seconds
        number, size = (sum(one[i] for one in sent.values()) for i in (0, 1))
        overhead = seconds / (devices * first)
        print(
            f"{devices:8}{seconds:10.2f}{overhead:10.2f}{number:13}{size / 1e6:10.1f}", flush=True
        )

    print(
        f"\nwhat a device sends in a step on {devices}; the parameters are {weights / 1e6:.1f} MB"
    )
    for kind, one in sent.items():
        print(f"  {kind:20}{one.number:6} of them{one.size / 1e6:10.2f} MB")
    hops = 2 * math.log2(devices) * number
    print(f"{'on paper, ms a step':24}{'bytes':>10}{'latency':>10}")
    for link, bandwidth in LINKS.items():
        print(f"{link:24}{1e3 * size / bandwidth:10.2f}{1e3 * hops * LATENCY[link]:10.2f}")


if __name__ == "__main__":
    main()
