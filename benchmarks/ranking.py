"""What ranking a gallery costs: of a given matrix, and from features, at any size.

    python -m benchmarks.ranking [--queries=3368 --gallery=15913 --distractors=500000
        --features=512 --persons=750 --cameras=6 --query-block=128 --gallery-block=1024 --runs=3]
        [--only=matrix|features]

`matrix`: `evaluate_rank` of a matrix of queries x gallery, and the usual form: one query at a time,
argsort, masks of what is admissible and of what matches. Memory is the peak over the matrix itself
(NumPy reports what it allocates), of a run that is not timed.

`features`: from features on the host to CMC and mAP, the gallery with the distractors, blocks of
distances counted as they come. `products` is the floor: the same products of the same blocks, of
features that lie on the device already, their results dropped. Memory is the process's peak, the
features themselves included, before the floor is run.

The forms run in turn in one process, and each part in a process of its own. Seconds are medians, a
ratio is the median of the runs' ratios.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxreid.matching import rank_features
from jaxreid.metrics import evaluate_rank
from jaxreid.ops import pairwise_euclidean


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"queries": 3368, "gallery": 15913, "distractors": 500_000, "features": 512}
    sizes |= {"persons": 750, "cameras": 6, "query-block": 128, "gallery-block": 1024, "runs": 3}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=["matrix", "features"])
    args = parser.parse_args()
    print(f"{'':34}{'seconds':>10}{'ratio':>22}{'memory MB':>12}{'mAP':>10}")
    # A process's peak is its own only if it starts from nothing.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for part in (matrix, features):
            if args.only in (None, part.__name__):
                for line in pool.apply(part, (args,)):
                    print(line, flush=True)


def matrix(args: argparse.Namespace) -> list[str]:
    rng = np.random.default_rng(0)
    labels = people(rng, args, 0)
    distmat = rng.random((args.queries, args.gallery), np.float32)
    forms = {
        "argsort": lambda: by_argsort(distmat, *labels),
        "evaluate_rank": lambda: evaluate_rank(distmat, *labels),
    }
    seconds, found = in_turn(forms, args.runs)
    ratio = median_ratio(seconds["argsort"], seconds["evaluate_rank"])
    peaks = {}
    for name, run in forms.items():
        tracemalloc.start()
        run()
        peaks[name] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    what = f"{args.queries} x {args.gallery} "
    notes = {"argsort": "", "evaluate_rank": f"{ratio:.1f} x as fast"}
    return [
        row(what + name, seconds[name], notes[name], peaks[name], found[name][1]) for name in forms
    ]


def by_argsort(
    distmat: Any, q_pids: Any, g_pids: Any, q_camids: Any, g_camids: Any, max_rank: int = 50
) -> tuple[Any, float]:
    """CMC and mAP as they are usually written down. Distances are without ties."""
    curves, aps = [], []
    for distances, pid, camid in zip(distmat, q_pids, q_camids):
        order = np.argsort(distances)
        left_out = (g_pids[order] == pid) & (g_camids[order] == camid)
        hits = (g_pids[order] == pid)[~left_out]
        if not hits.any():
            continue
        found = hits.cumsum()
        curves.append(found[:max_rank] > 0)
        precision = found / np.arange(1, len(hits) + 1)
        aps.append((precision * hits).sum() / hits.sum())
    return np.mean(curves, axis=0), float(np.mean(aps))


def features(args: argparse.Namespace) -> list[str]:
    rng = np.random.default_rng(0)
    labels = people(rng, args, args.distractors)
    feats_q, feats_g = (
        rng.standard_normal((len(pids), args.features), np.float32) for pids in labels[:2]
    )
    sizes = {"query_block": args.query_block, "gallery_block": args.gallery_block}

    def stream() -> tuple[Any, float]:
        ranking = rank_features(pairwise_euclidean, feats_q, feats_g, *labels, **sizes)
        return ranking.cmc, ranking.mean_ap

    found: Any = stream()  # Compiles, and knows the peak.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    whole = len(feats_g) // args.gallery_block * args.gallery_block
    parts = jnp.asarray(feats_g[:whole].reshape(-1, args.gallery_block, args.features))

    @jax.jit
    def products(queries: Any, parts: Any) -> Any:
        return lax.map(lambda part: jnp.matmul(queries, part.T, precision="highest"), parts)

    def floor() -> tuple[Any, float]:
        for start in range(0, args.queries, args.query_block):
            some = jnp.asarray(feats_q[start : start + args.query_block])
            jax.block_until_ready(products(some, parts))
        return None, float("nan")

    seconds, _ = in_turn({"products": floor, "rank_features": stream}, args.runs)
    share = median_ratio(seconds["products"], seconds["rank_features"])
    what = f"{args.queries} x {len(feats_g)} x {args.features} "
    gflops = 2e-9 * args.queries * whole * args.features / statistics.median(seconds["products"])
    return [
        row(what + "products", seconds["products"], f"{gflops:.0f} GFLOP/s", np.nan, np.nan),
        row(what + "ranks", seconds["rank_features"], f"{share:.0%} of products", peak, found[1]),
    ]


def people(rng: np.random.Generator, args: argparse.Namespace, distractors: int) -> tuple[Any, ...]:
    """Labels in the order of `evaluate_rank`; distractors are pid 0 and come last."""
    q_pids, g_pids = (
        rng.integers(1, args.persons + 1, size) for size in (args.queries, args.gallery)
    )
    size = args.gallery + distractors
    q_camids, g_camids = (rng.integers(1, args.cameras + 1, n) for n in (args.queries, size))
    return q_pids, np.pad(g_pids, (0, distractors)), q_camids, g_camids


def in_turn(
    forms: dict[str, Callable[[], Any]], runs: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each run, and what the last one found; the first run of each is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    found = {}
    for turn in range(runs + 1):
        for name, run in forms.items():
            start = time.perf_counter()
            found[name] = run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds, found


def median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below))


def row(what: str, seconds: list[float], note: str, memory: float, mean_ap: float) -> str:
    peak, mean = (
        "" if np.isnan(x) else f"{x:{fmt}}" for x, fmt in ((memory, ".0f"), (mean_ap, ".5f"))
    )
    return f"{what:34}{statistics.median(seconds):10.3f}{note:>22}{peak:>12}{mean:>10}"


if __name__ == "__main__":
    main()
