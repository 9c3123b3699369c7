"""CMC, mAP and mINP from exact counts: a true match's rank is how many items stand before it.

For a query whose admissible negatives lie at distances n, and whose true matches lie at sorted
distances m_1 <= ... <= m_k, the j-th match has rank j + #{n <= m_j}. CMC, both definitions of AP
and INP follow from these ranks, a few integers for each query, so a gallery can be ranked in
blocks of queries and no Q x G matrix is needed. Ties count against the query, so the result
depends neither on the order of the gallery nor on how the distances were computed in parts.

#{n <= m_j} is counted over the whole gallery, and the query's own person, a few items that are
looked up, is taken off again: no mask as long as the gallery is made for a query.

The protocol, for every query: gallery items with its pid *and* its camid are left out, pid -1
(junk) is left out, pid 0 (distractors) and all others stay as negatives. A query with no true
match left is not counted.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

AveragePrecision = Literal["mean_precision", "trapezoid"]

JUNK_PID = -1
# Distances that are looked at together: longer pieces leave the cache while they are sorted.
_PIECE = 65_536
# Each threshold is compared with a piece that has this many distances for it; where there are more
# thresholds, sorting the piece is less work (about half way, measured with AVX-512).
_WORTH_COMPARING = 2048
_TASKS = 32  # Of a block of queries; some threads are kept waiting by others' work.


class NanDistances(ValueError):
    """A row of distances holds NaN, so it has no order."""

    def __init__(
        self, query: int | np.integer, pid: int | np.integer, camid: int | np.integer
    ) -> None:
        """Names the query."""
        super().__init__(f"query row {query} (pid {pid}, camid {camid}) has NaN distances")


class Ranking(NamedTuple):
    """How well a gallery was ranked.

    Attributes:
        cmc: share of the counted queries with a true match among the first k items; `cmc[0]` is
            rank-1. NaN where no query counts.
        mean_ap: mean of `ap` over the counted queries, NaN where there are none.
        ap: average precision of each query, NaN for a query without a true match.
        num_valid: how many queries were counted.
        inp: inverse negative penalty of each query, NaN for a query without a true match.
        mean_inp: mINP, the mean of `inp` over the counted queries, NaN where there are none.
    """

    cmc: Float[np.ndarray, " max_rank"]
    mean_ap: float
    ap: Float[np.ndarray, " q"]
    num_valid: int
    inp: Float[np.ndarray, " q"]
    mean_inp: float


class Gallery(NamedTuple):
    """The labels of a gallery, sorted once so that a person's items are found by bisection.

    Attributes:
        pids: of all items, ascending.
        items: the items in that order.
        camids: of all items, in their own order.
        kept: which items each protocol ranks: what it admits, without junk.
        pieces: the columns of a row of distances, in pieces that are kept by the same protocols.
    """

    pids: Int[np.ndarray, " g"]
    items: Int[np.ndarray, " g"]
    camids: Int[np.ndarray, " g"]
    kept: Bool[np.ndarray, "p g"]
    pieces: list[tuple[slice | Int[np.ndarray, " _"], Bool[np.ndarray, " p"]]]

    def own(
        self, q_pids: Int[np.ndarray, " q"], q_camids: Int[np.ndarray, " q"]
    ) -> list["OwnItems"]:
        """What shows each query's person."""
        first, last = (self.pids.searchsorted(q_pids, side=side) for side in ("left", "right"))
        own = [self.items[a:b] for a, b in zip(first.tolist(), last.tolist())]
        return [OwnItems(some, self.camids[some] != cam) for some, cam in zip(own, q_camids)]


class OwnItems(NamedTuple):
    """The gallery items of a query's own person.

    Attributes:
        items: indices into the gallery.
        other_camera: which of them another camera saw, so that they are true matches.
    """

    items: Int[np.ndarray, " n"]
    other_camera: Bool[np.ndarray, " n"]


def index_gallery(
    pids: Int[np.ndarray, " g"],
    camids: Int[np.ndarray, " g"],
    admitted: Bool[np.ndarray, "p g"] | None = None,
) -> Gallery:
    """Sorts a gallery's labels.

    Args:
        pids: person of each item; -1 is junk.
        camids: camera of each item.
        admitted: where one matrix is scored under several protocols, which items each of them
            admits; by default there is one, which admits all.
    """
    items = np.argsort(pids, kind="stable")
    kept = np.broadcast_to(pids != JUNK_PID, (1, len(pids)))
    if admitted is not None:
        kept = kept & admitted
    kept_by = (kept * 2 ** np.arange(len(kept))[:, None]).sum(axis=0)
    pieces: list[tuple[slice | Int[np.ndarray, " _"], Bool[np.ndarray, " p"]]] = []
    for code in np.unique(kept_by):
        columns = np.flatnonzero(kept_by == code)
        for some in np.split(columns, range(_PIECE, len(columns), _PIECE)):
            first, end = int(some[0]), int(some[-1]) + 1
            whole = end - first == len(some)  # Then a row is sliced, which copies nothing.
            pieces.append((slice(first, end) if whole else some, kept[:, first]))
    return Gallery(pids[items], items, camids, kept, pieces)


def evaluate_rank(
    distmat: Float[np.ndarray, "q g"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
    *,
    max_rank: int = 50,
    ap: AveragePrecision = "mean_precision",
) -> Ranking:
    """Scores a whole matrix of distances.

    Args:
        distmat: smaller is more alike.
        q_pids: person of each query.
        g_pids: person of each gallery item; -1 is junk.
        q_camids: camera of each query.
        g_camids: camera of each gallery item.
        max_rank: length of the CMC curve.
        ap: the definition of average precision, see `summarise`.

    Raises:
        ValueError: shapes disagree, or a row of `distmat` holds NaN.
    """
    ranks = match_ranks(distmat, q_pids, g_pids, q_camids, g_camids)
    return summarise(ranks, max_rank=max_rank, ap=ap)


def match_ranks(
    distances: Float[np.ndarray, "q g"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
) -> list[Int[np.ndarray, " _"]]:
    """The ranks of every query's true matches, for any block of queries.

    Blocks are independent: their lists, joined, are what `summarise` takes.

    Args:
        distances: a block of rows, complete over the gallery.
        q_pids: person of each query of the block.
        g_pids: person of each gallery item; -1 is junk.
        q_camids: camera of each query of the block.
        g_camids: camera of each gallery item.

    Returns:
        For each query, the ranks of its true matches, 1-based and ascending; empty where it has
        none.

    Raises:
        ValueError: shapes disagree, or a row of `distances` holds NaN.
    """
    _check_shapes(distances, q_pids, g_pids, q_camids, g_camids)
    [ranks] = ranks_in_parts(distances[None], q_pids, q_camids, index_gallery(g_pids, g_camids))
    return ranks


def ranks_in_parts(
    parts: Float[np.ndarray, "n _ b"],
    q_pids: Int[np.ndarray, " q"],
    q_camids: Int[np.ndarray, " q"],
    gallery: Gallery,
    first: int = 0,
) -> list[list[Int[np.ndarray, " _"]]]:
    """What `match_ranks` gives, under each protocol, of distances that lie in parts.

    Rows are sorted in threads: NumPy lets go of the interpreter there.

    Args:
        parts: distances to n parts of the gallery of b items each. What the last part has beyond
            the gallery, and rows beyond the queries, are not looked at. A matrix is one part.
        q_pids: person of each query of the block.
        q_camids: camera of each query of the block.
        gallery: labels and protocols.
        first: number of the block's first query, for the error.

    Raises:
        ValueError: a row holds NaN.
    """
    own = gallery.own(q_pids, q_camids)

    def rank(queries: Int[np.ndarray, " _"]) -> list[list[Int[np.ndarray, " _"]]]:
        ranks = []
        for i in queries.tolist():
            row = parts[:, i].reshape(-1)  # A copy only where there are several parts.
            near = row[own[i].items]
            matches = near[own[i].other_camera]
            within = np.zeros((len(gallery.kept), len(matches)), int)
            for columns, kept in gallery.pieces:
                piece = row[columns]
                if np.isnan(piece.min()):
                    raise NanDistances(first + i, q_pids[i], q_camids[i])
                within += kept[:, None] * _count_within(piece, matches)
            ranks.append(ranks_of_matches(near, within, own[i], gallery))
        return ranks

    with ThreadPoolExecutor() as pool:
        found = pool.map(rank, np.array_split(np.arange(len(q_pids)), _TASKS))
        by_query = list(chain.from_iterable(found))
    return [[ranks[p] for ranks in by_query] for p in range(len(gallery.kept))]


def ranks_of_matches(
    near: Float[np.ndarray, " n"],
    within: Int[np.ndarray, "p m"],
    own: OwnItems,
    gallery: Gallery,
) -> list[Int[np.ndarray, " _"]]:
    """The ranks of one query's true matches under each protocol.

    Args:
        near: distances of the query's own items.
        within: how many of the items that a protocol keeps are as near as each of those that
            another camera saw, or nearer, own ones included.
        own: which these are.
        gallery: labels and protocols.
    """
    ranks, matches = [], near[own.other_camera]
    for kept, count in zip(gallery.kept[:, own.items], within):
        among = np.sort(near[kept]).searchsorted(matches, side="right")
        before = np.sort((count - among)[kept[own.other_camera]])
        ranks.append(before + np.arange(1, len(before) + 1))
    return ranks


def _count_within(
    distances: Float[np.ndarray, " n"], thresholds: Float[np.ndarray, " m"]
) -> Int[np.ndarray, " m"]:
    """How many distances do not exceed each threshold."""
    if len(thresholds) * _WORTH_COMPARING < len(distances):
        return np.array([np.count_nonzero(distances <= m) for m in thresholds], int)
    return np.sort(distances).searchsorted(thresholds, side="right")


def summarise(
    ranks: list[Int[np.ndarray, " _"]],
    *,
    max_rank: int = 50,
    ap: AveragePrecision = "mean_precision",
) -> Ranking:
    """CMC, mAP and mINP from the ranks of the true matches.

    With k matches at ranks r_1 < ... < r_k, the precision at the j-th is P_j = j / r_j, and just
    before it (j - 1) / (r_j - 1), which counts as 1 where r_j = 1. Then AP is the mean over j of

    * `mean_precision`: P_j;
    * `trapezoid`: the mean of P_j and the precision just before it. This is the area under the
      precision-recall curve as the authors of Market-1501 and MARS integrate it: recall only
      grows at a match.

    The results [miss, hit] give 0.5 and 0.25; [hit, miss, hit] give 0.8333 and 0.7917.

    INP is k / r_k, how dear the hardest match was (Ye, Shen, Lin, Xiang, Shao, Hoi, "Deep
    learning for person re-identification: a survey and outlook", TPAMI 2021, section 3.3).

    Args:
        ranks: what `match_ranks` returned, of all queries.
        max_rank: length of the CMC curve. Beyond the end of a smaller gallery it keeps its last
            value.
        ap: the definition of average precision.

    Raises:
        ValueError: `ap` names neither definition.
    """
    if ap not in ("mean_precision", "trapezoid"):
        raise ValueError(f"ap is {ap!r}; expected 'mean_precision' or 'trapezoid'")
    matches = np.array([len(r) for r in ranks], int)
    counted = matches > 0
    if not counted.any():
        nothing = np.full(len(ranks), np.nan)
        return Ranking(np.full(max_rank, np.nan), np.nan, nothing, 0, nothing.copy(), np.nan)
    rank = np.concatenate(ranks)
    ends = np.cumsum(matches)
    hits = np.arange(1, len(rank) + 1) - np.repeat(ends - matches, matches)
    precision = hits / rank
    if ap == "trapezoid":
        before = np.where(rank == 1, 1.0, (hits - 1) / np.maximum(rank - 1, 1))
        precision = (precision + before) / 2
    of_query = np.repeat(np.arange(len(ranks)), matches)
    sums = np.bincount(of_query, precision, minlength=len(ranks))
    each, inp = np.full((2, len(ranks)), np.nan)
    each[counted] = sums[counted] / matches[counted]
    inp[counted] = matches[counted] / rank[ends[counted] - 1]
    first = rank[(ends - matches)[counted]]
    cmc = np.mean(first[:, None] <= np.arange(1, max_rank + 1), axis=0)
    means = float(each[counted].mean()), float(inp[counted].mean())
    return Ranking(cmc, means[0], each, len(first), inp, means[1])


def top_k(
    distances: Float[np.ndarray, "q g"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
    k: int,
) -> Int[np.ndarray, "q k"]:
    """The k nearest admissible gallery items of each query, for pictures.

    Args:
        distances: a block of rows, complete over the gallery.
        q_pids: person of each query of the block.
        g_pids: person of each gallery item; -1 is junk.
        q_camids: camera of each query of the block.
        g_camids: camera of each gallery item.
        k: how many.

    Returns:
        Indices into the gallery, nearest first, the lower index first where distances are equal,
        and -1 where fewer than k items are admissible.

    Raises:
        ValueError: shapes disagree, or a row of `distances` holds NaN.
    """
    nearest = np.full((len(distances), k), -1)
    rows = admissible_rows(distances, q_pids, g_pids, q_camids, g_camids)
    for i, (row, admissible, _) in enumerate(rows):
        items = np.flatnonzero(admissible)
        items = items[np.argsort(row[items], kind="stable")][:k]
        nearest[i, : len(items)] = items
    return nearest


def admissible_rows(
    distances: Float[np.ndarray, "q g"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
) -> Iterator[tuple[Float[np.ndarray, " g"], Bool[np.ndarray, " g"], Bool[np.ndarray, " g"]]]:
    """For each query: its distances, what is admissible for it, and what is the same person."""
    _check_shapes(distances, q_pids, g_pids, q_camids, g_camids)
    for i, (row, pid, camid) in enumerate(zip(distances, q_pids, q_camids)):
        if np.isnan(row).any():
            raise NanDistances(i, pid, camid)
        same = g_pids == pid
        yield row, (g_pids != JUNK_PID) & ~(same & (g_camids == camid)), same


def _check_shapes(distances: Any, q_pids: Any, g_pids: Any, q_camids: Any, g_camids: Any) -> None:
    shapes = [np.shape(x) for x in (distances, q_pids, g_pids, q_camids, g_camids)]
    (num_queries, num_gallery), *labels = shapes if len(shapes[0]) == 2 else [(-1, -1)]
    if labels != [(num_queries,), (num_gallery,)] * 2:
        raise ValueError(
            "shapes disagree: distances {}, q_pids {}, g_pids {}, q_camids {}, g_camids {}; "
            "expected (q, g), (q,), (g,), (q,), (g,)".format(*shapes)
        )
