"""Exact search of the nearest of a million vectors, beside the product that it cannot do without.

    python -m benchmarks.search [--queries=1000 --gallery=1000000 --dim=256 --k=20 --runs=3]
        [--devices=1]

`product`: queries times gallery in the blocks of `nearest`, the result dropped. `float32`,
`float16`, `int8`: `nearest` in a gallery stored so. `NumPy`: NumPy's product and argpartition for
each of the same blocks. `FAISS`: `to_faiss(gallery, "Flat")`, where FAISS is installed.
With `--devices=8`, `nearest` once more, over as many devices made of the same cores.

The forms take turns in one process. `share` is the product's time over the form's, the median of
the turns' shares. `over` is the peak of resident memory during a form over what was resident before
it, `bytes` what an item takes, and `found` the share of float32's nearest that a form names too.

Below: the loss in mAP by storage, on vectors that are drawn around one centre for each person. They
are not a network's features: of those, `jaxreid.search.storage_loss` says it.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxreid import neighbours, search, sharding

PERSONS, IMAGES, SPREAD = 400, 6, 1.9


def resident(key: str) -> float:
    """MB, by the kernel's account: `VmRSS` now, `VmHWM` at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measured(form: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a form returns, its seconds, and its peak of memory in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # The peak so far is forgotten.
    before, start = resident("VmRSS"), time.perf_counter()
    found = form()
    return found, time.perf_counter() - start, resident("VmHWM") - before


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"queries": 1000, "gallery": 1_000_000, "dim": 256, "k": 20, "runs": 3, "devices": 1}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    if args.devices > 1:
        jax.config.update("jax_num_cpu_devices", args.devices)
    rng = np.random.default_rng(0)
    queries, gallery = (
        rng.standard_normal((n, args.dim), dtype=np.float32) for n in (args.queries, args.gallery)
    )
    kept: dict[str, search.Stored] = {
        storage: search.store(gallery, storage) for storage in search.STORAGES
    }
    starts = range(0, args.gallery, neighbours.GALLERY_BLOCK)
    tiles = [
        queries[i : i + neighbours.QUERY_BLOCK]
        for i in range(0, args.queries, neighbours.QUERY_BLOCK)
    ]

    @jax.jit
    def times(queries: Any, gallery: Any) -> Any:
        return jnp.matmul(queries, gallery.T, precision="highest")

    def product() -> None:
        waiting = []
        for start in starts:
            block = jax.device_put(gallery[start : start + neighbours.GALLERY_BLOCK])
            for tile in tiles:
                waiting.append(times(tile, block))
                if len(waiting) > neighbours.AHEAD:  # As many at a time as `nearest` has.
                    jax.block_until_ready(waiting.pop(0))
        jax.block_until_ready(waiting)

    def nearest(storage: str, devices: int) -> Any:
        mesh = sharding.make_mesh(jax.devices()[:devices])
        return search.nearest(queries, kept[storage], args.k, mesh=mesh)

    def by_numpy() -> Any:
        best = np.full((args.queries, args.k), np.inf, np.float32)
        which = np.full((args.queries, args.k), -1)
        for start in starts:
            block = gallery[start : start + neighbours.GALLERY_BLOCK]
            # The query's own norm changes no order.
            far = (block * block).sum(axis=1) - 2 * queries @ block.T
            columns = np.broadcast_to(start + np.arange(len(block)), far.shape)
            far = np.concatenate([best, far], axis=1)
            columns = np.concatenate([which, columns], axis=1)
            chosen = np.argpartition(far, args.k - 1, axis=1)[:, : args.k]
            best, which = (np.take_along_axis(x, chosen, axis=1) for x in (far, columns))
        order = np.argsort(best, axis=1)
        return np.take_along_axis(which, order, axis=1), best

    forms: dict[str, Callable[[], Any]] = {"product": product}
    for storage in search.STORAGES:
        forms[storage] = partial(nearest, storage, 1)
    if args.devices > 1:
        forms[f"{args.devices} devices"] = partial(nearest, "float32", args.devices)
    forms["NumPy"] = by_numpy
    if importlib.util.find_spec("faiss") is not None:
        index = search.to_faiss(gallery, "Flat")
        forms["FAISS"] = lambda: index.search(queries, args.k)[::-1]

    seconds: dict[str, list[float]] = {name: [] for name in forms}
    memory, found = dict.fromkeys(forms, 0.0), {}
    for turn in range(args.runs + 1):
        for name, form in forms.items():
            found[name], took, peak = measured(form)
            memory[name] = max(memory[name], peak)
            if turn:
                seconds[name].append(took)

    device = jax.devices()[0].device_kind
    print(f"{args.k} nearest of {args.queries} queries in {args.gallery} x {args.dim}, on {device}")
    print(f"{'':10}{'seconds':>10}{'share':>10}{'over MB':>10}{'bytes':>8}{'found':>12}")
    exact = found["float32"][0]
    for name, turns in seconds.items():
        share = statistics.median(a / b for a, b in zip(seconds["product"], turns))
        line = f"{name:10}{statistics.median(turns):10.3f}{share:10.2f}{memory[name]:10.0f}"
        if name != "product":
            each = [len(np.intersect1d(a, b)) for a, b in zip(found[name][0], exact)]
            bytes_per_item = kept.get(name, kept["float32"]).bytes_per_item
            line += f"{bytes_per_item:8}{np.sum(each) / exact.size:12.6f}"
        print(line)
    if args.devices > 1:
        pairs = zip(found["float32"], found[f"{args.devices} devices"])
        same = all(np.array_equal(a, b) for a, b in pairs)
        print(f"indices and distances are {'' if same else 'NOT '}the same on 1 and {args.devices}")

    pids = np.repeat(np.arange(1, PERSONS + 1), IMAGES)
    camids = np.tile(np.arange(1, IMAGES + 1), PERSONS)
    centres = rng.standard_normal((PERSONS, args.dim), dtype=np.float32)
    noise = rng.standard_normal((len(pids), args.dim), dtype=np.float32)
    vectors = centres[pids - 1] + SPREAD * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = slice(0, None, IMAGES)
    losses = search.storage_loss(vectors[asked], vectors, pids[asked], pids, camids[asked], camids)
    print(f"\n{len(pids)} drawn vectors of {PERSONS} persons, of unit length")
    print(f"{'':10}{'mAP':>10}{'lost':>10}{'bytes':>8}")
    for loss in losses:
        print(f"{loss.storage:10}{loss.mean_ap:10.4%}{loss.lost:10.4%}{loss.bytes_per_item:8}")


if __name__ == "__main__":
    main()
