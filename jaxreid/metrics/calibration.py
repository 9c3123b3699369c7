"""From which distance on is it the same person? Thresholds from pairs that are known.

A pair is a query and a gallery item. Pairs of one person seen by two cameras are true pairs, and
pairs of two persons are impostor pairs. As in the ranking protocol, a pair of one person *and* one
camera is left out, and so is pid -1 (junk). Gallery items of persons whom no query shows
(distractors) make no pairs, for they are nobody that could be drawn again, but they stay in the
gallery for `detection_rate`. A pair is accepted if its distance is at most the threshold:

    false match rate = impostor pairs accepted / impostor pairs
    true match rate  = true pairs accepted / true pairs

Pairs that share a person are not independent, so intervals come from a bootstrap over persons: they
are drawn with replacement, and a pair counts as often as its two persons were drawn, one times the
other (the vertex bootstrap: Snijders and Borgatti, "Non-parametric standard errors and tests for
network statistics", Connections 22(2), 1999; for such rates Fogliato, Patil and Perona, "Confidence
intervals for error rates in 1:1 matching tasks", IJCV 2024). A person drawn twice makes no impostor
pairs with itself.

Blocks of distances pass once. What is kept are all true pairs, the smallest impostor distances up
to the wanted rate, and a histogram of the others. Its bins are so fine that their borders will do
as thresholds, and counts at borders are exact.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxreid.metrics.ranking import JUNK_PID
from jaxreid.metrics.reranking import NotDistances

# Bins of float32: all with the same sign, exponent and first 11 bits of the mantissa.
_SHIFT = 12
_HALF = 1 << (31 - _SHIFT)
POINTS = 100  # Of a curve, along either axis.


class Population(NamedTuple):
    """Who makes pairs with whom. A person is a place in `persons`.

    Attributes:
        persons: pids that queries show, ascending.
        queries: how many queries each has.
        items: how many gallery items.
        of_query: the person of each query.
        of_item: the person of each gallery item; -1 where no query shows it.
        matches: how many true pairs each query makes.
        q_camids: camera of each query.
        g_camids: camera of each gallery item.
        junk: which gallery items are junk.
    """

    persons: Int[np.ndarray, " p"]
    queries: Int[np.ndarray, " p"]
    items: Int[np.ndarray, " p"]
    of_query: Int[np.ndarray, " q"]
    of_item: Int[np.ndarray, " g"]
    matches: Int[np.ndarray, " q"]
    q_camids: Int[np.ndarray, " q"]
    g_camids: Int[np.ndarray, " g"]
    junk: Bool[np.ndarray, " g"]

    @property
    def num_true(self) -> int:
        """How many true pairs there are."""
        return int(self.matches.sum())

    @property
    def num_impostor(self) -> int:
        """How many impostor pairs there are."""
        return int(self.queries.sum() * self.items.sum() - (self.queries * self.items).sum())

    @property
    def matched(self) -> Int[np.ndarray, " _"]:
        """The persons that make true pairs."""
        return np.unique(self.of_query[self.matches > 0])


class Pairs(NamedTuple):
    """What is kept of the distances of all pairs.

    Attributes:
        people: who makes them.
        true: of true pairs, ascending.
        true_of: whose each is.
        near: of impostor pairs, the smallest, ascending.
        near_of: whose each is: the query's person times the number of persons, plus the item's.
        histogram: how many impostor pairs are in each bin.
        out: which queries are of persons that have been taken out of the gallery.
        own: of each query, to the nearest true match; inf where it has none.
        other: of each query, to the nearest item of others that is still in the gallery.
    """

    people: Population
    true: Float[np.ndarray, " t"]
    true_of: Int[np.ndarray, " t"]
    near: Float[np.ndarray, " k"]
    near_of: Int[np.ndarray, " k"]
    histogram: Int[np.ndarray, " bins"]
    out: Bool[np.ndarray, " q"]
    own: Float[np.ndarray, " q"]
    other: Float[np.ndarray, " q"]


class Rate(NamedTuple):
    """A rate, and between what it lies in 95 % of the bootstrap's draws."""

    value: float
    low: float
    high: float


class Answers(NamedTuple):
    """Three answers by two thresholds, and how often they are wrong.

    Attributes:
        same: up to this distance a pair is "same".
        nobody: above this one it is "nobody"; between the two it is "unsure". Where the share of
            true pairs that may be lost is lost above a smaller distance than `same`, `nobody` is
            `same`: nothing is "unsure", and both rates are kept.
        false_match: share of impostor pairs that are "same".
        true_match: share of true pairs that are "same".
        lost: share of true pairs that are "nobody".
        cleared: share of impostor pairs that are "nobody".
    """

    same: float
    nobody: float
    false_match: Rate
    true_match: Rate
    lost: Rate
    cleared: float


def populate(
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
) -> Population:
    """Counts pairs by labels alone.

    Args:
        q_pids: person of each query.
        g_pids: person of each gallery item; -1 is junk.
        q_camids: camera of each query.
        g_camids: camera of each gallery item.
    """
    persons, of_query = np.unique(q_pids, return_inverse=True)
    at = persons.searchsorted(g_pids).clip(max=len(persons) - 1)
    of_item = np.where((persons[at] == g_pids) & (g_pids != JUNK_PID), at, -1)
    queries = np.bincount(of_query, minlength=len(persons))
    items = np.bincount(of_item[of_item >= 0], minlength=len(persons))
    seen = Counter(zip(of_item.tolist(), g_camids.tolist()))
    near_copies = [seen[pair] for pair in zip(of_query.tolist(), q_camids.tolist())]
    matches = items[of_query] - np.array(near_copies, int)
    junk = g_pids == JUNK_PID
    return Population(persons, queries, items, of_query, of_item, matches, q_camids, g_camids, junk)


def collect(
    blocks: Iterable[Float[np.ndarray, "_ g"]], people: Population, rate: float, seed: int = 0
) -> Pairs:
    """Goes once over all distances.

    Args:
        blocks: of rows of distances, complete over the gallery; all queries in their order.
        people: who they are.
        rate: of false matches, the highest that a threshold is asked for.
        seed: draws the persons that are taken out of the gallery for `detection_rate`: half of
            those that make true pairs.

    Raises:
        NotDistances: a distance is not finite.
    """
    size, wanted = len(people.persons), allowed(rate, people.num_impostor) + 1
    matched = people.matched
    taken = np.random.default_rng(seed).permutation(matched)[: len(matched) // 2]
    out = np.isin(people.of_query, taken)
    there = ~people.junk & ~np.isin(people.of_item, taken)
    histogram = np.zeros(2 * _HALF, np.int64)
    near, near_of = np.zeros(0, np.float32), np.zeros(0, np.int64)
    true, true_of, own, other = [], [], [], []
    limit, start = np.inf, 0
    for block in blocks:
        rows = np.asarray(block, np.float32)
        some = slice(start, start + len(rows))
        start = some.stop
        for bad in np.flatnonzero(~np.isfinite(rows).all(axis=1)):
            pid = people.persons[people.of_query[some][bad]]
            raise NotDistances(
                f"query row {some.start + bad} (pid {pid}) has distances that are not finite"
            )
        mine = people.of_query[some, None]
        one = mine == people.of_item
        match = one & (people.q_camids[some, None] != people.g_camids)
        two = ~one & (people.of_item >= 0)
        true.append(rows[match])
        true_of.append(np.broadcast_to(mine, rows.shape)[match])
        own.append(np.where(match, rows, np.inf).min(axis=1))
        other.append(np.where(there & ~one, rows, np.inf).min(axis=1))
        histogram += np.bincount(_bin(rows[two]), minlength=len(histogram))
        nearer = two & (rows <= limit)
        near = np.concatenate([near, rows[nearer]])
        near_of = np.concatenate([near_of, (mine * size + people.of_item)[nearer]])
        if len(near) > wanted:
            kept = np.argpartition(near, wanted - 1)[:wanted]
            near, near_of = near[kept], near_of[kept]
            limit = near.max()
    of = np.concatenate(true_of)
    distances = np.concatenate(true)
    order, first = np.argsort(distances, kind="stable"), np.argsort(near, kind="stable")
    return Pairs(
        *(people, distances[order], of[order], near[first], near_of[first], histogram, out),
        *(np.concatenate(own), np.concatenate(other)),
    )


def allowed(rate: float, number: int) -> int:
    """How many of a number are within a rate of it: 29 of 100 at 0.29, though floats say 28.99."""
    return math.floor(rate * number + 1e-9)


def largest_within(distances: Float[np.ndarray, " n"], count: int) -> float | None:
    """The largest of some distances that accepts at most `count` of them, itself included.

    Args:
        distances: ascending.
        count: how many may be accepted.

    Returns:
        None where already more than that share the smallest.
    """
    within = len(distances)
    if count < within:
        within = int(distances.searchsorted(distances[count], side="left"))
    return float(distances[within - 1]) if within else None


def answers(
    pairs: Pairs, rate: float, miss: float, *, draws: int = 1000, seed: int = 0
) -> Answers | None:
    """Thresholds for wanted rates, and what they cost.

    `same` is the largest impostor distance at which the false match rate is at most `rate`, and
    `nobody` the smallest border of a bin above which at most the share `miss` of true pairs lies.

    Args:
        pairs: of at least one person each; collected for this `rate`, or a higher one.
        rate: of impostor pairs that may be "same".
        miss: share of true pairs that may be "nobody".
        draws: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        None where more impostor pairs than wanted share the smallest distance: then no threshold
        tells anybody apart.
    """
    people, true = pairs.people, pairs.true
    same = largest_within(pairs.near, allowed(rate, people.num_impostor))
    if same is None:
        return None
    last = true[[len(true) - 1 - allowed(miss, len(true))]]
    crossed = bool(last[0] <= same)
    nobody = same if crossed else float(_border(_bin(last))[0])
    weights = _draw_persons(len(people.persons), draws, seed)
    false_match = _false_match_rate(pairs, same, weights)
    not_nobody = pairs.histogram[: _bin(last)[0] + 1].sum() / people.num_impostor
    return Answers(
        same,
        nobody,
        false_match,
        _true_match_rate(pairs, true <= same, weights),
        _true_match_rate(pairs, true > nobody, weights),
        1 - (false_match.value if crossed else float(not_nobody)),
    )


def curve(pairs: Pairs) -> Float[np.ndarray, "n 3"]:
    """Thresholds, ascending, with the false match rate and the true match rate at each.

    Of all borders of bins these are about `POINTS` along either axis: the false match rates in
    equal steps of the logarithm, and the true match rates in equal steps.
    """
    true = np.bincount(_bin(pairs.true), minlength=len(pairs.histogram))
    bins = np.flatnonzero(true + pairs.histogram)
    false_match = pairs.histogram.cumsum()[bins] / pairs.people.num_impostor
    true_match = true.cumsum()[bins] / len(pairs.true)
    steps = np.geomspace(1 / pairs.people.num_impostor, 1, POINTS)
    some = [false_match.searchsorted(steps), true_match.searchsorted(np.linspace(0, 1, POINTS))]
    at = np.unique(np.concatenate(some).clip(max=len(bins) - 1))
    return np.stack([_border(bins[at]), false_match[at], true_match[at]], axis=1).astype(float)


def detection_rate(pairs: Pairs, far: float) -> tuple[float, float] | None:
    """Open-set identification at rank 1: DIR at a false alarm rate.

    After Phillips, Grother and Micheals, "Evaluation methods in face recognition" (Handbook of Face
    Recognition, second edition, 2011). Queries of persons that were taken out of the gallery raise
    a false alarm if anything in the gallery is within the threshold, and the false alarm rate is
    their share. Queries of the others, as far as they have a true match, are detected and
    identified if the nearest gallery item is such a match and within the threshold, and the
    detection and identification rate is their share. Ties count against the query.

    Args:
        pairs: what was collected.
        far: the false alarm rate.

    Returns:
        The largest distance at which the false alarm rate is at most `far`, and the detection and
        identification rate there; None where there are no queries of one kind, or no such distance.
    """
    enrolled = ~pairs.out & (pairs.people.matches > 0)
    alarms = np.sort(pairs.other[pairs.out])
    threshold = largest_within(alarms, allowed(far, len(alarms)))
    if threshold is None or not enrolled.any():
        return None
    own, other = pairs.own[enrolled], pairs.other[enrolled]
    return threshold, float(np.mean((own < other) & (own <= threshold)))


def _false_match_rate(pairs: Pairs, threshold: float, weights: Float[np.ndarray, "n p"]) -> Rate:
    people = pairs.people
    codes, counts = np.unique(pairs.near_of[pairs.near <= threshold], return_counts=True)
    first, second = np.divmod(codes, len(people.persons))
    accepted = np.array([(w[first] * w[second]) @ counts for w in weights])
    all_pairs = (weights @ people.queries) * (weights @ people.items)
    own_pairs = weights**2 @ (people.queries * people.items)
    return _rate(counts.sum() / people.num_impostor, accepted, all_pairs - own_pairs)


def _true_match_rate(
    pairs: Pairs, which: Bool[np.ndarray, " t"], weights: Float[np.ndarray, "n p"]
) -> Rate:
    size = len(pairs.people.persons)
    counted = np.bincount(pairs.true_of[which], minlength=size)
    everything = np.bincount(pairs.true_of, minlength=size)
    return _rate(which.mean(), weights @ counted, weights @ everything)


def _rate(value: Any, counted: Float[np.ndarray, " n"], of: Float[np.ndarray, " n"]) -> Rate:
    there = of > 0  # Else nobody was drawn that makes such pairs.
    low, high = np.percentile(counted[there] / of[there], [2.5, 97.5])
    return Rate(float(value), float(low), float(high))


def _draw_persons(size: int, draws: int, seed: int) -> Float[np.ndarray, "n p"]:
    """How often each person is drawn, in each draw of as many as there are."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)


def _bin(distances: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The bins of float32: the first bits of the numbers, in the order of the numbers."""
    return (_turned((distances + np.float32(0)).view(np.int32)) >> _SHIFT) + _HALF


def _border(bins: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The largest float32 of each bin."""
    return _turned((((bins - _HALF) << _SHIFT) | ((1 << _SHIFT) - 1)).astype(np.int32)).view(
        np.float32
    )


def _turned(bits: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Bits of float32 as integers of the same order, and back: negative ones run backwards."""
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
