"""k-reciprocal re-ranking, against the published algorithm written out with dense matrices.

    python -m benchmarks.reranking [--queries=3368 --gallery=15913 --dim=256 --turns=1]
        [--without-direct]

`matrices`: `metrics.k_reciprocal_rerank` on given distances. `features`: `metrics.rerank_blocks`
on distances that are computed from features when they are asked for, so no matrix is ever whole.
`direct`: N x N matrices, a full sort of every row, and Python loops over items; at the size of
Market-1501 it takes about 6 GB beside its input of 1.3.

Features are unit vectors around one centre for each person, 20 items of each in the gallery, with
noise that brings strangers among the neighbours. Each form runs in a process of its own, the first
two three times, of which the median counts; `memory` is how far the first run raised the largest
resident size, the result (4 bytes for each query and gallery item) included. The ratio is the
median of the turns', and `apart` the largest difference from `matrices`. Linux only.
"""

import argparse
import functools
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from jaxreid.metrics.reranking import k_reciprocal_rerank, rerank_blocks

K1, K2, LAMBDA = 20, 6, 0.3


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {"queries": 3368, "gallery": 15913, "dim": 256, "turns": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--without-direct", action="store_true")
    args = parser.parse_args()
    forms = ["matrices", "features"] + ["direct"] * (not args.without_direct)
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    megabytes, apart = {}, {}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.turns):
            for form in forms:
                with ProcessPoolExecutor(1, spawn) as child:
                    size = (args.queries, args.gallery, args.dim)
                    took, megabytes[form] = child.submit(measure, form, *size, folder).result()
                seconds[form].append(took)
        results = {form: np.load(Path(folder, f"{form}.npy"), mmap_mode="r") for form in forms}
        for form, result in results.items():
            rows = zip(result, results["matrices"])
            apart[form] = max(float(np.abs(a - b).max()) for a, b in rows)
    print(f"{args.queries} + {args.gallery} items of {args.dim} numbers, k1={K1}, k2={K2}")
    print(f"{'':10}{'seconds':>10}{'of matrices':>13}{'memory MB':>11}{'apart':>10}")
    for form, times in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(seconds["matrices"], times))
        median = statistics.median(times)
        print(f"{form:10}{median:10.2f}{ratio:13.1f}{megabytes[form]:11.0f}{apart[form]:10.1e}")


def measure(form: str, queries: int, gallery: int, dim: int, folder: str) -> tuple[float, float]:
    """Runs one form, alone in its process, and writes its result into the folder.

    Returns:
        Seconds, and the rise of the largest resident size in MB.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(1, gallery // 20), dim))

    def draw(n: int) -> np.ndarray:
        x = centres[rng.integers(len(centres), size=n)] + 2 * rng.normal(size=(n, dim))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    feats_q, feats_g = draw(queries), draw(gallery)
    if form == "features":
        run = functools.partial(from_features, feats_q, feats_g)
    else:
        forms: dict[str, Callable[..., np.ndarray]] = {
            "matrices": k_reciprocal_rerank,
            "direct": direct,
        }
        pairs = [(feats_q, feats_g), (feats_q, feats_q), (feats_g, feats_g)]
        run = functools.partial(forms[form], *(euclidean(x, y) for x, y in pairs), K1, K2, LAMBDA)
    times = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1 if form == "direct" else 3):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            np.save(Path(folder, f"{form}.npy"), result)
        del result
    return statistics.median(times), (after - before) / 1024


def euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distances of unit vectors, in place: beside the result there is nothing of its size."""
    out = x @ y.T
    out *= -2
    out += 2
    np.maximum(out, 0, out=out)
    return np.sqrt(out, out=out)


def from_features(feats_q: np.ndarray, feats_g: np.ndarray) -> np.ndarray:
    feats = np.concatenate([feats_q, feats_g])

    def block(rows: slice) -> np.ndarray:
        return euclidean(feats[rows], feats)

    def pairs(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        cosines = np.einsum("nd,nd->n", feats[i], feats[j])
        return np.sqrt(np.maximum(2 - 2 * cosines, 0))

    out = np.empty((len(feats_q), len(feats_g)), np.float32)
    run = functools.partial(rerank_blocks, k1=K1, k2=K2, lambda_value=LAMBDA, pairs=pairs)
    for rows, part in run(block, len(feats_q), len(feats)):
        out[rows] = part
    return out


def direct(
    q_g: np.ndarray, q_q: np.ndarray, g_g: np.ndarray, k1: int, k2: int, lambda_value: float
) -> np.ndarray:
    """The published algorithm as it is usually released: see `jaxreid.metrics.reranking`."""
    num_queries, num_items = len(q_g), len(q_g) + len(g_g)
    d = np.square(np.block([[q_q, q_g], [q_g.T, g_g]]))
    d = np.transpose(d / d.max(axis=0))
    order = np.argsort(d).astype(np.int32)

    def reciprocal(p: int, k: int) -> np.ndarray:
        forward = order[p, : k + 1]
        backward = order[forward, : k + 1]
        return forward[(backward == p).any(axis=1)]

    v = np.zeros_like(d)
    for p in range(num_items):
        near = reciprocal(p, k1)
        expanded = [near]
        for q in near:
            others = reciprocal(q, round(k1 / 2))
            if len(np.intersect1d(near, others)) > 2 / 3 * len(others):
                expanded.append(others)
        members = np.unique(np.concatenate(expanded))
        weights = np.exp(-d[p, members])
        v[p, members] = weights / weights.sum()
    d = d[:num_queries]
    if k2 > 1:
        averaged = np.zeros_like(v)
        for p in range(num_items):
            averaged[p] = v[order[p, :k2]].mean(axis=0)
        v = averaged
        del averaged
    del order
    holders = [np.flatnonzero(v[:, j]) for j in range(num_items)]
    jaccard = np.zeros_like(d)
    for p in range(num_queries):
        shared = np.zeros(num_items, np.float32)
        for j in np.flatnonzero(v[p]):
            shared[holders[j]] += np.minimum(v[p, j], v[holders[j], j])
        jaccard[p] = 1 - shared / (2 - shared)
    return ((1 - lambda_value) * jaccard + lambda_value * d)[:, num_queries:]


if __name__ == "__main__":
    main()
