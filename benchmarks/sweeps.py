"""The six sweeps of JST-RNN, forward and with gradients, against two plainer ways to write them.

    python -m benchmarks.sweeps [--batch=8 --side=6 --width=128 --runs=10 --cells=forward]

`fused`: `ops.six_direction_lstm`, one scan. `six scans`: `ops.lstm_scan` for each direction, its
lines as the batch. `cells`: a Python loop over every cell, unrolled by jit; `--cells=both` times
its gradients as well, which XLA compiles at `--side=3` but not at 6 (on the CPU with JAX 0.10.2 it
ran out of stack after four minutes), and `--cells=none` leaves it out. The forms take turns in one
process, and their results are compared before any is timed. Ratios are medians over the turns.

`products alone`: the same multiplications at the speed of a product of two 1024 x 1024 matrices.
The forward pass has one product of all inputs, and one of all states but those before a first cell;
the gradients take two more for each.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import ops
from jaxreid.ops.recurrence import lstm_cell, product

# Axis of "b t h w c" and step along it, in the order of `ops.SixDirections`.
WAYS = [(1, 1), (1, -1), (3, 1), (3, -1), (2, 1), (2, -1)]


def six_scans(x: Any, weights: ops.SixDirections) -> Any:
    outputs = []
    for (axis, step), each in zip(WAYS, weights):
        lines = jnp.moveaxis(x, axis, -2)
        flat = lines.reshape(-1, *lines.shape[-2:])
        h, _ = ops.lstm_scan(flat, each, reverse=step < 0)
        outputs.append(jnp.moveaxis(h.reshape(*lines.shape[:-1], -1), -2, axis))
    return jnp.concatenate(outputs, axis=-1)


def cells(x: Any, weights: ops.SixDirections) -> Any:
    sides = x.shape[1:4]
    outputs = []
    for (axis, step), each in zip(WAYS, weights):
        states: dict[tuple[int, ...], ops.LSTMState] = {}
        zeros = jnp.zeros((len(x), each.recurrent.shape[0]))
        order = list(np.ndindex(*sides))[::step]
        for at in order:
            back = list(at)
            back[axis - 1] -= step
            before = states.get(tuple(back), ops.LSTMState(zeros, zeros))
            gates = product(x[:, *at], each.kernel) + product(before.h, each.recurrent)
            bias = jnp.broadcast_to(each.bias + each.recurrent_bias, gates.shape)
            states[at] = lstm_cell(gates + bias, before.c)
        h = jnp.stack([states[at].h for at in np.ndindex(*sides)], axis=1)
        outputs.append(h.reshape(*x.shape[:4], -1))
    return jnp.concatenate(outputs, axis=-1)


def gradients(form: Callable[..., Any]) -> Callable[..., Any]:
    def total(x: Any, weights: ops.SixDirections) -> Any:
        return jnp.sum(jnp.sin(form(x, weights)))

    return jax.grad(total, argnums=(0, 1))


def compiled(function: Callable[..., Any], *args: Any) -> tuple[Callable[..., Any], float]:
    start = time.perf_counter()
    run = jax.jit(function).lower(*args).compile()
    return run, time.perf_counter() - start


def timed(run: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - start


def distance(a: Any, b: Any) -> float:
    """The largest difference, as a share of the largest value of each array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b))
    return max(float(jnp.abs(u - v).max() / jnp.abs(v).max()) for u, v in pairs)


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("batch", 8), ("side", 6), ("width", 128), ("runs", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--cells", choices=["none", "forward", "both"], default="forward")
    args = parser.parse_args()
    side, d = args.side, args.width
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.uniform(-(d**-0.5), d**-0.5, shape), jnp.float32)

    def lstm() -> ops.RecurrentWeights:
        return ops.RecurrentWeights(draw(d, 4 * d), draw(d, 4 * d), draw(4 * d), draw(4 * d))

    weights = ops.SixDirections(*(lstm() for _ in range(6)))
    x = jnp.asarray(rng.normal(size=(args.batch, side, side, side, d)), jnp.float32)

    forms: dict[str, Callable[..., Any]] = {"fused": ops.six_direction_lstm, "six scans": six_scans}
    square = draw(1024, 1024)
    vectors = args.batch * 6 * (side**3 + side**2 * (side - 1))  # inputs, and states before a cell
    share = vectors * d * 4 * d / 1024**3
    multiply, _ = compiled(product, square, square)
    print(f"{args.batch} clips of {side}x{side}x{side}, {d} channels and units, {args.runs} runs")
    print(f"float32, on {jax.devices()[0].device_kind}")
    print(f"{'':26}{'compile s':>12}{'ms':>10}{'/ fused':>10}")
    for title, wrap, passes in (("forward", lambda form: form, 1), ("gradients", gradients, 3)):
        looped = {"cells": cells} if args.cells in (title, "both") else {}
        programs = {
            name: compiled(wrap(form), x, weights) for name, form in {**forms, **looped}.items()
        }
        want = programs["six scans"][0](x, weights)
        for name, (run, _) in programs.items():
            if not (apart := distance(run(x, weights), want)) < 1e-5:
                raise SystemExit(f"{title}: {name} is {apart:.1e} away from the six scans")
        seconds: dict[str, list[float]] = {name: [] for name in [*programs, "products alone"]}
        for turn in range(args.runs + 1):
            for name, (run, _) in programs.items():
                took = timed(run, x, weights)
                if turn:
                    seconds[name].append(took)
            took = passes * share * timed(multiply, square, square)
            if turn:
                seconds["products alone"].append(took)
        for name, times in seconds.items():
            compiling = f"{programs[name][1]:.1f}" if name in programs else ""
            ratio = statistics.median(a / b for a, b in zip(times, seconds["fused"]))
            ms = 1000 * statistics.median(times)
            print(f"{title:10}{name:16}{compiling:>12}{ms:10.1f}{ratio:10.2f}")


if __name__ == "__main__":
    main()
