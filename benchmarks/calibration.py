"""Is the wanted rate of false matches met on persons that a calibration has not seen?

    python -m benchmarks.calibration --workdir=RUN --name=synthetic --root=DIR [--other=DIR]
        [--rate=0.01 --splits=20]

The persons of a data set are divided into two halves, again and again. On one half the threshold is
found as `jaxreid.calibrate` finds it, and on the other half the rate of false matches is measured
there. With `--other`, the threshold of all persons is also tried on another data set of that name.
"""

import argparse

import numpy as np
from jaxtyping import Int

from jaxreid.calibrate import features_of
from jaxreid.data import index
from jaxreid.metrics import calibration
from jaxreid.search import Extractor


class Distances:
    """All distances of a data set, with their labels."""

    def __init__(self, extractor: Extractor, name: str, root: str) -> None:
        """Computes them."""
        data = index.load(name, root)
        feats = [features_of(extractor, data, side) for side in ("query", "gallery")]
        self.distmat = np.concatenate(list(extractor.distances(*feats)))
        self.query, self.gallery = data.query.tracks(), data.gallery.tracks()
        self.persons = np.unique(self.query.pids)

    def rate(self, persons: Int[np.ndarray, " p"], threshold: float) -> float:
        """Of false matches among some of the persons."""
        q, g = (np.isin(side.pids, persons) for side in (self.query, self.gallery))
        two = self.query.pids[q][:, None] != self.gallery.pids[g]
        return float(np.mean(self.distmat[q][:, g][two] <= threshold))

    def calibrate(self, persons: Int[np.ndarray, " p"], rate: float) -> calibration.Answers:
        """By some of the persons."""
        q, g = (np.isin(side.pids, persons) for side in (self.query, self.gallery))
        query, gallery = self.query.take(q), self.gallery.take(g)
        people = calibration.populate(query.pids, gallery.pids, query.camids, gallery.camids)
        found = calibration.answers(
            calibration.collect([self.distmat[q][:, g]], people, rate), rate, 0.01
        )
        assert found is not None
        return found


def main() -> None:
    """Prints a few lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("workdir", "name", "root"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--other")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--splits", type=int, default=20)
    args = parser.parse_args()
    extractor = Extractor(args.workdir)
    here = Distances(extractor, args.name, args.root)
    rates, inside, half = [], 0, len(here.persons) // 2
    for seed in range(args.splits):
        persons = np.random.default_rng(seed).permutation(here.persons)
        found = here.calibrate(persons[:half], args.rate)
        rates.append(here.rate(persons[half:], found.same))
        inside += found.false_match.low <= rates[-1] <= found.false_match.high
    off = np.abs(np.array(rates) - args.rate)
    print(
        f"{half} persons calibrate, {len(here.persons) - half} others measure, {args.splits} times:"
        f" mean {np.mean(rates):.2%}, {min(rates):.2%} to {max(rates):.2%}; within 0.5 points"
        f" {np.mean(off <= 0.005):.0%}, within the interval {inside / args.splits:.0%}"
    )
    if args.other is not None:
        there = Distances(extractor, args.name, args.other)
        found = here.calibrate(here.persons, args.rate)
        print(f"{args.other}: {there.rate(there.persons, found.same):.2%}")


if __name__ == "__main__":
    main()
