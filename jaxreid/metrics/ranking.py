"""CMC and mAP from exact counts: the rank of a true match is how many items stand before it.

For a query whose admissible negatives lie at distances n, and whose true matches lie at sorted
distances m_1 <= ... <= m_k, the j-th match has rank j + #{n <= m_j}. CMC and both definitions of
AP follow from these ranks, a few integers for each query, so a gallery can be ranked in blocks of
queries and no Q x G matrix is needed. Ties count against the query, so the result depends
neither on the order of the gallery nor on how the distances were computed in parts.

The protocol, for every query: gallery items with its pid *and* its camid are left out, pid -1
(junk) is left out, pid 0 (distractors) and all others stay as negatives. A query with no true
match left is not counted.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

AveragePrecision = Literal["mean_precision", "trapezoid"]

JUNK_PID = -1


class Ranking(NamedTuple):
    """How well a gallery was ranked.

    Attributes:
        cmc: share of the counted queries with a true match among the first k items; `cmc[0]` is
            rank-1. NaN where no query counts.
        mean_ap: mean of `ap` over the counted queries, NaN where there are none.
        ap: average precision of each query, NaN for a query without a true match.
        num_valid: how many queries were counted.
    """

    cmc: Float[np.ndarray, " max_rank"]
    mean_ap: float
    ap: Float[np.ndarray, " q"]
    num_valid: int


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
    ranks = []
    for row, admissible, same in admissible_rows(distances, q_pids, g_pids, q_camids, g_camids):
        matches = np.sort(row[admissible & same])
        negatives = np.sort(row[admissible & ~same])
        before = np.searchsorted(negatives, matches, side="right")  # right: ties stand before
        ranks.append(np.arange(1, len(matches) + 1) + before)
    return ranks


def summarise(
    ranks: list[Int[np.ndarray, " _"]],
    *,
    max_rank: int = 50,
    ap: AveragePrecision = "mean_precision",
) -> Ranking:
    """CMC and mAP from the ranks of the true matches.

    With k matches at ranks r_1 < ... < r_k, the precision at the j-th is P_j = j / r_j, and just
    before it (j - 1) / (r_j - 1), which counts as 1 where r_j = 1. Then AP is the mean over j of

    * `mean_precision`: P_j;
    * `trapezoid`: the mean of P_j and the precision just before it. This is the area under the
      precision-recall curve as the authors of Market-1501 and MARS integrate it: recall only
      grows at a match.

    The results [miss, hit] give 0.5 and 0.25; [hit, miss, hit] give 0.8333 and 0.7917.

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
    first = np.array([r[0] for r in ranks if len(r)], int)
    if not len(first):
        return Ranking(np.full(max_rank, np.nan), np.nan, np.full(len(ranks), np.nan), 0)
    cmc = np.mean(first[:, None] <= np.arange(1, max_rank + 1), axis=0)
    per_query = np.array([_average_precision(r, ap) if len(r) else np.nan for r in ranks])
    return Ranking(cmc, float(np.nanmean(per_query)), per_query, len(first))


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


def _average_precision(ranks: Int[np.ndarray, " k"], ap: AveragePrecision) -> float:
    hits = np.arange(1, len(ranks) + 1)
    at = hits / ranks
    if ap == "mean_precision":
        return float(at.mean())
    before = np.where(ranks == 1, 1.0, (hits - 1) / np.maximum(ranks - 1, 1))
    return float((at + before).mean() / 2)


def admissible_rows(
    distances: Float[np.ndarray, "q g"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
) -> Iterator[tuple[Float[np.ndarray, " g"], Bool[np.ndarray, " g"], Bool[np.ndarray, " g"]]]:
    """For each query: its distances, what is admissible for it, and what is the same person."""
    shapes = [np.shape(x) for x in (distances, q_pids, g_pids, q_camids, g_camids)]
    (num_queries, num_gallery), *labels = shapes if len(shapes[0]) == 2 else [(-1, -1)]
    if labels != [(num_queries,), (num_gallery,)] * 2:
        raise ValueError(
            "shapes disagree: distances {}, q_pids {}, g_pids {}, q_camids {}, g_camids {}; "
            "expected (q, g), (q,), (g,), (q,), (g,)".format(*shapes)
        )
    for i, (row, pid, camid) in enumerate(zip(distances, q_pids, q_camids)):
        if np.isnan(row).any():
            raise ValueError(f"query row {i} (pid {pid}, camid {camid}) has NaN distances")
        same = g_pids == pid
        yield row, (g_pids != JUNK_PID) & ~(same & (g_camids == camid)), same
