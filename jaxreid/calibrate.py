"""Is it the same person? Finds the distance up to which it is, by labelled data.

    python -m jaxreid.calibrate --workdir=runs/duatm --name=market1501 --root=/data/Market-1501

Query and gallery are those of the data set, or of a CSV; the network must not have been trained on
these persons. Of pairs of two persons, the share --rate (1 %) is called "same"; of pairs of one
person, the share --miss (1 %) is called "nobody"; what lies between is "unsure". Writes
calibration.json, which jaxreid.search reads, and calibration.png into the run's folder or --out.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxreid.command import use_compilation_cache
from jaxreid.config import Data
from jaxreid.data import index
from jaxreid.data.index import Index, ReidData
from jaxreid.entry import ends_in_one_line
from jaxreid.errors import UserError
from jaxreid.metrics import NotDistances, calibration
from jaxreid.metrics.calibration import Pairs, Population
from jaxreid.paths import local_path
from jaxreid.report.curves import plot_matches
from jaxreid.search.answers import CALIBRATION, FORMAT
from jaxreid.search.extractor import Extractor, Side
from jaxreid.search.items import Item
from jaxreid.search.network import add_flags, bar, open_network
from jaxreid.types import Features
from jaxreid.workdir import write_json

SEED = 0
LEAST = 10  # Persons, pairs at a rate, and queries at a false alarm rate: fewer are chance.
ALARMS = (0.01, 0.1)


@ends_in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the flags; by default those of the process.

    Returns:
        The exit code: 0, or 2 for bad input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m jaxreid.calibrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser)
    index.add_flags(parser)
    parser.add_argument("--rate", type=float, default=0.01, help="of false matches (0.01)")
    parser.add_argument("--miss", type=float, default=0.01, help="of true pairs lost (0.01)")
    parser.add_argument(
        "--bootstrap", type=int, default=1000, help="draws of the persons, for intervals (1000)"
    )
    parser.add_argument("--out", type=local_path, help="folder for the results (WORKDIR)")
    args = parser.parse_args(argv)
    use_compilation_cache()
    calibrate(args)
    return 0


def calibrate(args: argparse.Namespace) -> None:
    """Calibrates, as the flags say.

    Raises:
        UserError: bad input.
    """
    for name in ("rate", "miss"):
        if not 0 < (value := getattr(args, name)) < 1:
            raise UserError(f"--{name}={value}: expected a share above 0 and below 1")
    if args.bootstrap < 1:
        raise UserError(f"--bootstrap={args.bootstrap}: expected 1 or more")
    if args.out is None and args.workdir is None:
        raise UserError("--out is not set: with --weights, the folder for the results")
    out = Path(args.out or args.workdir)
    data = index.load(args.name, args.root, args.split)
    print(data.summary())
    query, gallery = data.query.tracks(), data.gallery.tracks()
    people = calibration.populate(query.pids, gallery.pids, query.camids, gallery.camids)
    _check_enough(data, people, args.rate, args.miss)
    extractor = open_network(args)
    _check_kind(data, extractor)
    for line in _cautions(args, extractor.config.data, data):
        print(f"warning: {line}", flush=True)
    feats = [features_of(extractor, data, side) for side in ("query", "gallery")]
    try:
        pairs = calibration.collect(extractor.distances(*feats), people, args.rate, SEED)
    except NotDistances as error:
        raise UserError(f"{error}: the network's weights are not finite") from None
    found = calibration.answers(pairs, args.rate, args.miss, draws=args.bootstrap, seed=SEED)
    if found is None:
        raise UserError(
            f"{data.name}: more than --rate={args.rate} of the pairs of two persons have the"
            f" smallest distance, {pairs.near[0]:.6g}: this network tells nobody apart"
        )
    tree = {
        "format": FORMAT,
        "network": extractor.fingerprint,
        "data": {
            "name": data.name,
            "split": data.split,
            "fingerprint": data.fingerprint(),
            "persons": len(people.persons),
            "true_pairs": people.num_true,
            "impostor_pairs": people.num_impostor,
        },
        "wanted": {"rate": args.rate, "miss": args.miss},
        "same": found.same,
        "nobody": found.nobody,
        "false_match_rate": found.false_match._asdict(),
        "true_match_rate": found.true_match._asdict(),
        "lost": found.lost._asdict(),
        "impostors_nobody": found.cleared,
        "bootstrap": {"of": "persons", "draws": args.bootstrap, "seed": SEED, "interval": 0.95},
        "open_set": _open_set(pairs),
        "curve": calibration.curve(pairs).tolist(),
    }
    try:
        # The picture first: where the JSON is, all is there.
        title = f"{data.name}: {len(people.persons):,} persons"
        plot_matches(out / "calibration.png", np.array(tree["curve"]), found, title)
        write_json(out / CALIBRATION, tree)
    except OSError as error:
        raise UserError(f"--out={out}: cannot write there ({error.strerror})") from None
    print("\n".join(_say(tree)))
    print(f"written: {out / CALIBRATION}, {out / 'calibration.png'}")


def _check_enough(data: ReidData, people: Population, rate: float, miss: float) -> None:
    """Raises `UserError` where a rate would be of so few pairs or persons that it is chance."""
    if not people.num_true:
        raise UserError(
            f"{data.name}: no pair of one person: none of the {data.query.tracks().size} queries"
            " has the same person from another camera in the gallery"
        )
    for what, number, needed in (
        ("persons that two cameras saw", len(people.matched), LEAST),
        (f"pairs of two persons for --rate={rate}", people.num_impostor, LEAST / rate),
        (f"pairs of one person for --miss={miss}", people.num_true, LEAST / miss),
    ):
        if number < needed - 1e-9:
            raise UserError(f"{data.name}: {number:,} {what}; expected {needed:,.0f} or more")


def _check_kind(data: ReidData, extractor: Extractor) -> None:
    """Raises `UserError` where a network of photographs is given tracklets, or the other way."""
    if data.is_video != extractor.tracklets:
        kinds = "photographs", "tracklets"
        raise UserError(
            f"{data.name}: holds {kinds[data.is_video]}; this network compares"
            f" {kinds[extractor.tracklets]}"
        )


def _cautions(args: argparse.Namespace, config: Data, data: ReidData) -> list[str]:
    """What to know before the rates are trusted, one line each."""
    unknown = "if it was trained on these persons, the rates are too low"
    if args.weights is not None:
        return [f"{args.weights}: nothing says on whom this network was trained: {unknown}"]
    try:
        trained = index.load(config.name, config.root or "", config.split)
    except UserError:
        return [f"{config.root}: the data of the run is not there any more: {unknown}"]
    lines = []
    run = json.loads((Path(args.workdir) / "config.json").read_bytes())
    if run.get("fingerprint") == data.fingerprint():
        lines.append(
            f"{data.name} is what the run was trained on: these are other persons of the same"
            " cameras; expect more errors at another place"
        )
        pids = np.union1d(data.query.pids, data.gallery.pids)
        if of_training := np.isin(pids, data.train_pids).sum():
            lines.append(f"{data.name}: {of_training} persons were trained on: too low rates")
    pictures = [_files(table) for table in (trained.train, data.query, data.gallery)]
    if seen := len(pictures[0] & (pictures[1] | pictures[2])):
        lines.append(f"{data.name}: {seen:,} pictures were trained on: too low rates")
    return lines


def _files(table: Index) -> set[str]:
    return {os.path.realpath(table.path(row)) for row in range(table.size)}


def features_of(extractor: Extractor, data: ReidData, side: Side) -> Features:
    """Of all items of a side, as a search computes them."""
    items = _items(data.splits[side])
    found = []
    with bar(f"{side}: pictures", len(items)) as advance:
        for _, features in extractor.stream(items, side):
            found.append(features)
            advance(1)
    return jax.tree.map(lambda *x: np.stack(x), *found)


def _items(table: Index) -> list[Item]:
    tracks = table.tracks()
    rows = zip(tracks.first.tolist(), tracks.length.tolist())
    files = [tuple(table.path(row) for row in range(a, a + length)) for a, length in rows]
    return [Item(some[0], some) for some in files]


def _open_set(pairs: Pairs) -> dict[str, Any]:
    """DIR at each FAR; None at those that too few queries of taken out persons would decide."""
    strangers = int(pairs.out.sum())
    rates = {}
    for far in ALARMS:
        found = calibration.detection_rate(pairs, far) if far * strangers >= LEAST - 1e-9 else None
        rates[str(far)] = found and dict(zip(("threshold", "dir"), found))
    known = int((~pairs.out & (pairs.people.matches > 0)).sum())
    return {"rank": 1, "known": known, "strangers": strangers, "seed": SEED, "at_far": rates}


def _say(tree: dict[str, Any]) -> list[str]:
    """The result, for people."""
    data, open_set = tree["data"], tree["open_set"]

    def rate(key: str) -> str:
        low, high = tree[key]["low"], tree[key]["high"]
        return f"{tree[key]['value']:.2%} (95 % of draws: {low:.2%} to {high:.2%})"

    lines = [
        f"{data['true_pairs']:,} pairs of one person, {data['impostor_pairs']:,} of two,"
        f" {data['persons']:,} persons",
        f'"same" up to {tree["same"]:.6g}: {rate("false_match_rate")} of pairs of two persons,'
        f" {rate('true_match_rate')} of pairs of one",
        f'"nobody" above {tree["nobody"]:.6g}: {rate("lost")} of pairs of one person,'
        f" {tree['impostors_nobody']:.2%} of pairs of two",
    ]
    if tree["same"] == tree["nobody"]:
        lines.append('nothing is "unsure": above "same", no more than --miss are left')
    for far, found in open_set["at_far"].items():
        words = (
            f"{found['dir']:.2%}, up to {found['threshold']:.6g}" if found else "too few queries"
        )
        lines.append(
            f"open set: DIR at rank 1 and FAR {float(far):.0%}: {words} ({open_set['known']:,}"
            f" queries of known persons, {open_set['strangers']:,} of strangers)"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
