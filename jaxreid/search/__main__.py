"""Ranks your own photographs, or tracklets, by how much they look like a query.

    python -m jaxreid.search --workdir=runs/duatm --query=photo.jpg --gallery=folder/
    python -m jaxreid.search --weights=osnet_x1_0.pth --query=photo.jpg --gallery=folder/

Each picture shows one person, cut out as in the data set that the run was trained on. Photographs
are files, folders, patterns ('photos/**/*.jpg') or CSV files with a column `path`, whose other
columns are shown; `pid` says who it is. For a run over tracklets, each is a folder of frames or a
video.

The features of the gallery are kept in an index; next time, only new and changed files are
computed. What is found is printed, and written to --out as ranked.html, ranked.png and ranked.csv.
"""

import argparse
import hashlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxreid.command import use_compilation_cache
from jaxreid.data.files import say_skipped
from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError
from jaxreid.paths import local_path
from jaxreid.search import results
from jaxreid.search.answers import CALIBRATION, Calibration, read_calibration
from jaxreid.search.extractor import Extractor
from jaxreid.search.index import open_gallery
from jaxreid.search.items import Item, find
from jaxreid.search.network import add_flags, bar, open_network
from jaxreid.types import Features

_NAMED = 20  # Of the pictures that cannot be read, so many are named.


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the flags; by default those of the process.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    several: dict[str, Any] = {
        "nargs": "+",
        "action": "extend",
        "metavar": "PATH",
        "type": local_path,
    }
    add_flags(parser)
    parser.add_argument("--query", required=True, **several, help="whom to search for")
    parser.add_argument("--gallery", required=True, **several, help="where to search")
    parser.add_argument("--top", type=int, default=20, help="how many to list (20)")
    parser.add_argument(
        "--index", type=local_path, help="file of the gallery's features (.npz; one below --out)"
    )
    parser.add_argument(
        "--out", type=local_path, help="folder for the results (WORKDIR/search, or search)"
    )
    parser.add_argument(
        "--calibration",
        type=local_path,
        help="file of jaxreid.calibrate, for answers (WORKDIR/calibration.json, if it is there)",
    )
    args = parser.parse_args(argv)
    use_compilation_cache()
    search(args)
    return 0


def search(args: argparse.Namespace) -> None:
    """Searches, as the flags say.

    Raises:
        UserError: bad input.
    """
    if args.top < 1:
        raise UserError(f"--top={args.top}: expected 1 or more")
    extractor = open_network(args)
    calibration = _calibration(args, extractor)
    queries = _find("query", args.query, extractor)
    items = _find("gallery", args.gallery, extractor)
    out = Path(args.out) if args.out else Path(args.workdir or "") / "search"
    index = Path(args.index) if args.index else _own_index(out, args.gallery, extractor)
    kind = "tracklets" if extractor.tracklets else "photographs"

    queries, features = _compute_queries(extractor, queries, kind)
    start, skipped = time.perf_counter(), _Skipped(items)
    with bar(f"{kind} of the gallery", len(items)) as advance:
        gallery = open_gallery(extractor, items, index, skip=skipped, advance=advance)
    skipped.report(kind, "gallery")
    if not gallery.items:
        raise UserError(f"none of the {len(items)} {kind} of the gallery can be read")
    print(
        f"gallery: {len(gallery.items):,} {kind}: {gallery.kept:,} from the index,"
        f" {gallery.computed:,} computed in {time.perf_counter() - start:.1f} s,"
        f" {gallery.dropped:,} dropped from it",
        f"index: {index} ({index.stat().st_size / 1e6:.3g} MB)",
        sep="\n",
        flush=True,
    )
    found = _rank(extractor, queries, features, gallery.items, gallery.features, args.top)
    facts = {
        **({"Run": args.workdir} if args.workdir else {"Weights": args.weights}),
        "Searched for": ", ".join(args.query),
        "Searched in": f"{', '.join(args.gallery)}: {len(gallery.items):,} {kind}",
        "Distance": "the network's own: smaller is more alike",
    }
    if calibration is None:
        facts["Distance"] += "; it says nothing of how sure it is"
    else:
        facts["Answers"] = calibration.words(len(gallery.items))
    if any(each.kind(item) for each in found for item in each.found):
        facts["Frames"] = "green and solid: of the query's pid; red and dashed: of another"
    written = results.write(out, found, facts, calibration)
    results.print_tables(found, calibration)
    if (more := len(found) - results.TABLES) > 0:
        print(f"and {more:,} more queries, in ranked.csv")
    if calibration is not None:
        print(f"answers: {facts['Answers']}")
    print("written: " + ", ".join(map(str, written)))


def _calibration(args: argparse.Namespace, extractor: Extractor) -> Calibration | None:
    """The one that the flags name, or the run's own if it has one that is of this network."""
    if args.calibration is not None:
        return read_calibration(Path(args.calibration), extractor.fingerprint)
    path = Path(args.workdir or "") / CALIBRATION
    if args.workdir is None or not path.exists():
        return None
    try:
        return read_calibration(path, extractor.fingerprint)
    except UserError as error:
        print(f"note: no answers: {error}", flush=True)
        return None


def _find(side: str, places: Sequence[str], extractor: Extractor) -> list[Item]:
    skipped: Counter[str] = Counter()
    items = find(places, tracklets=extractor.tracklets, skipped=skipped)
    for line in say_skipped(skipped):
        print(f"{side}: {line}", flush=True)
    return items


def _own_index(out: Path, gallery: Sequence[str], extractor: Extractor) -> Path:
    """Each gallery has an index of its own, for each network."""
    places = "\n".join(sorted(os.path.abspath(os.path.expanduser(place)) for place in gallery))
    name = hashlib.sha256(os.fsencode(places)).hexdigest()[:8]
    return out / f"gallery-{name}-{extractor.fingerprint[:8]}.npz"


def _compute_queries(
    extractor: Extractor, queries: list[Item], kind: str
) -> tuple[list[Item], Features]:
    skipped, found = _Skipped(queries), []
    with bar("queries", len(queries)) as advance:
        for number, features in extractor.stream(queries, "query", skipped):
            found.append((queries[number], features))
            advance(1)
    if not found:
        raise skipped.first
    skipped.report(kind, "queries")
    which, features = zip(*found)
    return list(which), jax.tree.map(lambda *x: np.stack(x), *features)


def _rank(
    extractor: Extractor,
    queries: list[Item],
    features: Features,
    items: list[Item],
    gallery: Features,
    top: int,
) -> list[results.Ranked]:
    """What is nearest to each query. A query that lies in the gallery is not found for itself."""
    # By their real paths: the working folder, for one, may be known by a link.
    places = {tuple(map(os.path.realpath, item.files)): i for i, item in enumerate(items)}
    own = [places.get(tuple(map(os.path.realpath, query.files)), -1) for query in queries]
    if among := sum(i >= 0 for i in own):
        print(f"{among:,} of the queries lie in the gallery, and are not found for themselves")
    indices, distances = extractor.rank(features, gallery, min(top, len(items)) + 1)
    found = []
    for query, itself, row, far in zip(queries, own, indices, distances):
        there = np.flatnonzero((row >= 0) & (row != itself))[:top]
        found.append(results.Ranked(query, [items[i] for i in row[there]], far[there].tolist()))
    return found


class _Skipped:
    """What cannot be read is named, and counted."""

    def __init__(self, items: list[Item]) -> None:
        self._items, self._count = items, 0
        self.first = UserError("")

    def __call__(self, number: int, error: UserError) -> None:
        self._count += 1
        if self._count == 1:
            self.first = error
        if self._count <= _NAMED:
            print(f"skipped: {error}", flush=True)

    def report(self, kind: str, where: str) -> None:
        if self._count:
            print(f"{self._count:,} of {len(self._items):,} {kind} of the {where} skipped")


if __name__ == "__main__":
    # A scheduler's SIGTERM is like Ctrl-C: the index keeps what was computed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
