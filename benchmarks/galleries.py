"""A gallery of a million vectors in LanceDB: written, and searched beside our exact `nearest`.

    python -m benchmarks.galleries [--items=1000000 --dim=256 --queries=20 --top=100]

LanceDB searches a table without an index here, which is exact too. Vectors are drawn at random.
"""

import argparse
import tempfile
import time

import lancedb
import numpy as np

from jaxreid.search import nearest
from jaxreid.search.galleries import from_lancedb, to_lancedb


def main() -> None:
    """Prints the times, and how many of the nearest are the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {"items": 1_000_000, "dim": 256, "queries": 20, "top": 100}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((args.items, args.dim), np.float32)
    queries = rng.standard_normal((args.queries, args.dim), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        db = lancedb.connect(folder)
        start = time.perf_counter()
        to_lancedb(db, "people", vectors)
        written = time.perf_counter()
        found = from_lancedb(db, "people", queries, args.top)
        searched = time.perf_counter()
    ours, _ = map(np.asarray, nearest(queries, vectors, args.top))
    same = np.mean([len(set(a) & set(b)) / args.top for a, b in zip(found.tolist(), ours.tolist())])
    print(
        f"{args.items:,} vectors of {args.dim}: written in {written - start:.1f} s,"
        f" {(searched - written) / args.queries:.2f} s a query; {same:.1%} of the {args.top}"
        " nearest are those of `nearest`"
    )


if __name__ == "__main__":
    main()
