"""Ranking at gallery size on the device: features to CMC and mAP, re-ranking, the k nearest."""

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.gpu.figures import Figures, time_calls
from jaxreid import sharding
from jaxreid.matching import rank_features, reranked
from jaxreid.ops import pairwise_euclidean


def run(figures: Figures) -> None:
    """Figures of random unit vectors around a centre for each person."""
    tiny = figures.tiny
    queries, gallery, distractors = (40, 200, 500) if tiny else (3_368, 15_913, 500_000)
    rng = np.random.default_rng(0)

    def labels(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(1, 751, n), rng.integers(1, 7, n)

    (q_pids, q_camids), (g_pids, g_camids) = labels(queries), labels(gallery + distractors)
    g_pids[gallery:] = 0
    centres = rng.normal(size=(751, 512)).astype(np.float32)
    feats_q, feats_g = (
        centres[pids] + 3 * rng.standard_normal((len(pids), 512), np.float32)
        for pids in (q_pids, g_pids)
    )
    found = {}
    for on_host in (False, True):

        def rank(on_host: bool = on_host) -> None:
            found[on_host] = rank_features(
                pairwise_euclidean,
                feats_q,
                feats_g,
                q_pids,
                g_pids,
                q_camids,
                g_camids,
                gallery_block=1024 if tiny else 16_384,
                on_host=on_host,
            )

        where = "host" if on_host else "device"
        what = f"{queries} x {len(g_pids)} x 512 to CMC and mAP, counted on the {where}"
        figures.add_seconds(what, time_calls(rank, 1 if on_host else 3), "s")
    figures.add("both count alike", bool(np.array_equal(found[False].cmc, found[True].cmc)))
    nearest(figures)
    if importlib.util.find_spec("torch") is None:
        figures.add("PyTorch", "not installed")
    else:
        command = [sys.executable, "-m", "benchmarks.gpu.torch_topk", f"--out={figures.path}"]
        subprocess.run([*command, *(["--tiny"] * tiny)], check=True, timeout=figures.left / 2)
    feats_g, mesh = feats_g[:gallery], sharding.make_mesh()

    def rerank() -> None:
        for _ in reranked(
            pairwise_euclidean, feats_q, feats_g, mesh, 128, 1024 if tiny else 16_384
        ):
            pass

    what = f"re-ranking of {queries} + {gallery} items of 512"
    figures.add_seconds(
        what, time_calls(rerank, 3), "s", "distances on the device, sets on the host"
    )


def nearest(figures: Figures) -> None:
    """The 20 nearest of many, by one product and `lax.top_k`."""
    queries, gallery, k = (16, 1_000, 20) if figures.tiny else (1_000, 1_000_000, 20)
    x, y = (
        jax.random.normal(jax.random.key(i), (n, 256)) for i, n in enumerate((queries, gallery))
    )

    @jax.jit
    def run(x: jax.Array, y: jax.Array) -> jax.Array:
        products = jnp.matmul(x, y.T, precision="highest")
        return jax.lax.top_k(products, k)[1]

    seconds = time_calls(lambda: run(x, y).block_until_ready(), 5)
    figures.add_seconds(f"{k} nearest of {queries} in {gallery} x 256", seconds)
