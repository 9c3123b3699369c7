"""All pairs of Market-1501 by DuATM's distance: exact, by the dot algorithms of `eval.precision`,
and with sequences in half precision.
"""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.dual_attention import sequences
from benchmarks.gpu.figures import Figures, time_calls
from jaxreid.ops import FeatureSequence, dual_attention_distmat

WAYS = {
    "exact": (jnp.float32, None),
    "TF32_TF32_F32_X3": (jnp.float32, "TF32_TF32_F32_X3"),
    "TF32_TF32_F32": (jnp.float32, "TF32_TF32_F32"),
    "BF16_BF16_F32_X3": (jnp.float32, "BF16_BF16_F32_X3"),
    "BF16_BF16_F32": (jnp.float32, "BF16_BF16_F32"),
    "bfloat16 sequences": (jnp.bfloat16, "default"),
}


def run(figures: Figures) -> None:
    """Seconds of all queries against the whole gallery, and how far the distances are off."""
    queries, gallery, length, dim = (8, 32, 4, 16) if figures.tiny else (3_368, 15_913, 32, 256)
    block, part = (4, 16) if figures.tiny else (64, 1_024)
    rng = np.random.default_rng(0)
    feats_q, feats_g = (
        padded(sequences(rng, n, length, dim), size)
        for n, size in ((queries, block), (gallery, part))
    )
    exact = None
    for name, (dtype, algorithm) in WAYS.items():
        a, b = (
            FeatureSequence(*(jnp.asarray(x, dtype).reshape(-1, size, length, dim) for x in items))
            for items, size in ((feats_q, block), (feats_g, part))
        )

        @jax.jit
        def rows(query: FeatureSequence, parts: FeatureSequence) -> jax.Array:
            return jax.lax.map(lambda some: dual_attention_distmat(query, some), parts)

        def whole(a: FeatureSequence = a, b: FeatureSequence = b) -> None:
            for query in zip(*a):
                out = rows(FeatureSequence(*query), b)
            out.block_until_ready()

        what = f"{queries} x {gallery} pairs, S={length}, D={dim}, {name}"
        note = f"in blocks of {block} x {part}, of which the last are padded"
        with jax.default_matmul_precision(algorithm) if algorithm else nullcontext():
            try:
                seconds = time_calls(whole, 3)
            except (
                ValueError,
                jax.errors.JaxRuntimeError,
            ) as error:  # Not every device has every algorithm.
                figures.add(what, "not on this device", note=str(error).splitlines()[0])
                continue
            found = np.asarray(rows(FeatureSequence(*(x[0] for x in a)), b), np.float64)
        median = figures.add_seconds(what, seconds, "s", note)
        operations = 4 * len(a.x) * block * len(b.x) * part * length**2 * (2 * dim + length)
        figures.add(f"rate, {name}", 1e-12 * operations / median, "TFLOP/s")
        found = np.moveaxis(found, 0, 1).reshape(block, -1)[:, :gallery]
        if exact is None:
            exact = found
        else:
            figures.add(f"apart from exact, {name}", float(np.abs(found - exact).max()))
            order, theirs = exact.argsort(axis=1), found.argsort(axis=1)
            figures.add(f"places that change, {name}", float((order != theirs).mean()))


def padded(items: FeatureSequence, size: int) -> FeatureSequence:
    """Up to a multiple of `size`, by its first items again."""
    n = len(items.x)
    wanted = np.arange(-(-n // size) * size) % n
    return jax.tree.map(lambda x: np.asarray(x)[wanted], items)
