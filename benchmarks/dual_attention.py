"""What DuATM's distance costs at test, where every query meets every gallery item.

    python -m benchmarks.dual_attention [--queries=64 --gallery=1024 --length=32 --dim=256 --runs=5]
        [--bfloat16]

`block`: the package's distance of a block. `aligned`: the same hoisting (filters and refined
sequences once for each item, two batched products a direction, some gallery items at a time), but
the aligned sequences are formed. `definition`: `dual_attention_distance`, vmapped twice, on as many
gallery items as leave the aligned sequences of a direction under 256 MB; its time is of all pairs,
in proportion.

All run in turn in one process, and the peak is the best of square float32 products of 2,048 and
4,096, through XLA and through NumPy, in the same turns. Operations are counted as the block form
needs them, in all rows: two products a direction over all pairs, 2 x 2 x 2 q g s s d, and the
quadratic form, 2 x 2 q g s s s; nothing for the softmax, nor for what is computed once for an item.
`of block` is the median of the turns' ratios, `memory` XLA's plan of temporaries (libraries that it
calls may hold more), and `error` the largest difference from float64 on 8 x 16 pairs. With
`--bfloat16` the sequences are rounded, and the peak is still of float32.
"""

import argparse
import math
import statistics
import time
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid.ops import FeatureSequence, attend, dual_attention_distance, dual_attention_distmat

MARKET = 3_368, 19_732
ALIGNED_BYTES = 2**28
SAMPLE = 8, 16


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"queries": 64, "gallery": 1024, "length": 32, "dim": 256, "runs": 5}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--bfloat16", action="store_true")
    args = parser.parse_args()
    dtype: Any = jnp.bfloat16 if args.bfloat16 else jnp.float32
    shape = args.length, args.dim
    rng = np.random.default_rng(0)
    exact = [sequences(rng, n, *shape) for n in (args.queries, args.gallery)]
    queries, gallery = jax.tree.map(lambda x: jnp.asarray(x, dtype), exact)

    some = min(args.gallery, max(1, ALIGNED_BYTES // queries.x.nbytes))
    part = jax.tree.map(lambda x: x[:some], gallery)
    definition = jax.vmap(jax.vmap(dual_attention_distance, (None, 0)), (0, None))
    forms: dict[str, tuple[Any, FeatureSequence]] = {
        "block": (jax.jit(dual_attention_distmat), gallery),
        "aligned": (jax.jit(aligned), gallery),
        "definition": (jax.jit(definition), part),
    }
    memory = {
        name: run.lower(queries, items).compile().memory_analysis().temp_size_in_bytes
        for name, (run, items) in forms.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    found: dict[str, Any] = {}
    peaks: list[float] = []
    for turn in range(args.runs + 1):
        peaks += square_products(rng)
        for name, (run, items) in forms.items():
            start = time.perf_counter()
            found[name] = np.asarray(run(queries, items))
            if turn:
                scale = args.gallery / len(items.x)
                seconds[name].append(scale * (time.perf_counter() - start))

    pairs = args.queries * args.gallery
    operations = 4 * pairs * args.length**2 * (2 * args.dim + args.length)
    truth = float64_distances(*exact)
    device = jax.devices()[0].device_kind
    print(
        f"{args.queries} x {args.gallery} pairs, S={args.length}, D={args.dim}, {dtype.__name__},"
        f" on {device}; {operations / 1e9:.1f} GFLOP a block, peak {max(peaks) / 1e9:.0f} GFLOP/s"
    )
    print(f"{'':12}{'ms':>9}{'us a pair':>11}{'of block':>10}", end="")
    print(f"{'of peak':>9}{'memory MB':>11}{'error':>10}")
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(b / a for a, b in zip(seconds["block"], times))
        distances = found[name][: len(truth), : truth.shape[1]].astype(np.float64)
        error = np.abs(distances - truth[:, : distances.shape[1]]).max()
        share = operations / median / max(peaks)
        print(
            f"{name:12}{1e3 * median:9.0f}{1e6 * median / pairs:11.2f}{ratio:10.2f}"
            f"{share:9.0%}{memory[name] / 1e6:11.0f}{error:10.1e}"
        )
    whole = statistics.median(seconds["block"]) * MARKET[0] * MARKET[1] / pairs
    print(
        f"Extrapolated from this block, not run: Market-1501, {MARKET[0]:,} x {MARKET[1]:,} pairs,"
        f" {whole / 60:.1f} minutes"
    )


def sequences(rng: np.random.Generator, items: int, length: int, dim: int) -> FeatureSequence:
    """Unit vectors, filters after a ReLU, and what they make of each other."""
    x = rng.normal(size=(items, length, dim))
    unit = jnp.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))
    filters = jnp.float32(np.maximum(rng.normal(size=x.shape), 0))
    return FeatureSequence(unit, filters, attend(filters, unit))


def aligned(queries: FeatureSequence, gallery: FeatureSequence) -> Any:
    """The hoisted form with x̂, two gallery items at a time: the fastest of 1, 2, 4 and 16."""

    def norms(a: FeatureSequence, b: FeatureSequence) -> Any:
        logits = jnp.einsum("gnd,qsd->gnqs", b.x, a.filters, precision="highest")
        weights = jax.nn.softmax(logits, axis=1)
        hat = jnp.einsum("gnqs,gnd->gqsd", weights, b.x, precision="highest")
        return jnp.sqrt(jnp.sum(jnp.square(a.refined[None] - hat), axis=-1))

    def against(some: FeatureSequence) -> Any:
        d_a, d_b = norms(queries, some), norms(some, queries)
        return d_a.mean(axis=-1) / 2 + d_b.mean(axis=-1).T / 2

    tile = math.gcd(2, len(gallery.x))
    tiles = jax.tree.map(lambda x: x.reshape(-1, tile, *x.shape[1:]), gallery)
    return jax.lax.map(against, tiles).reshape(-1, len(queries.x)).T


def float64_distances(queries: FeatureSequence, gallery: FeatureSequence) -> np.ndarray:
    """Eqs. (3)-(5), pair by pair; the refined sequences too."""

    def attend64(filters: np.ndarray, memory: np.ndarray) -> np.ndarray:
        logits = np.asarray(filters, float) @ np.asarray(memory, float).T
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True) @ np.asarray(memory, float)

    def one_way(x: np.ndarray, filters: np.ndarray, other: np.ndarray) -> float:
        return np.linalg.norm(attend64(filters, x) - attend64(filters, other), axis=1).mean()

    return np.array(
        [
            [
                (one_way(x, q, y) + one_way(y, r, x)) / 2
                for y, r, _ in islice(zip(*gallery), SAMPLE[1])
            ]
            for x, q, _ in islice(zip(*queries), SAMPLE[0])
        ]
    )


def square_products(rng: np.random.Generator) -> list[float]:
    """Operations a second of large float32 products, by XLA and by NumPy."""
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    rates = []
    for n in (2048, 4096):
        a = rng.random((n, n), np.float32)
        on_device = jnp.asarray(a)
        product(on_device).block_until_ready()
        for run in (lambda x=on_device: product(x).block_until_ready(), lambda x=a: x @ x):
            start = time.perf_counter()
            run()
            rates.append(2 * n**3 / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    main()
