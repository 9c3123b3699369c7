"""Single-gallery-shot CMC: a gallery of one image of each person, drawn many times.

The protocol of CUHK03 with its 20 published test sets (W. Li et al., "DeepReID: Deep Filter
Pairing Neural Network for Person Re-Identification", CVPR 2014). Whether a person is found then
depends on which images were drawn, so CMC is averaged over draws.
"""

import numpy as np
from jaxtyping import Float, Int

from jaxreid.metrics.ranking import JUNK_PID, admissible_rows


def single_shot_cmc(
    distmat: Float[np.ndarray, "q g"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
    *,
    draws: int = 100,
    seed: int = 0,
    max_rank: int = 50,
) -> Float[np.ndarray, " max_rank"]:
    """CMC where the gallery holds one image of each person, averaged over seeded draws.

    A query is searched for among the images of the *other* cameras, whoever they show: this is
    stricter than `evaluate_rank`, which leaves out only the query's own person there. A draw takes
    one of these images of each person, all alike likely, and is the same for all queries of a
    camera. Junk (pid -1) is left out. A query whose person no other camera has seen is not
    counted. Ties count against the query.

    Args:
        distmat: smaller is more alike.
        q_pids: person of each query.
        g_pids: person of each gallery image; -1 is junk.
        q_camids: camera of each query, from 0.
        g_camids: camera of each gallery image.
        draws: how many galleries are drawn.
        seed: of the draws.
        max_rank: length of the curve. Beyond the number of people it keeps its last value.

    Returns:
        Share of the counted queries and draws whose person is among the first k; `cmc[0]` is
        rank-1. NaN where no query counts.

    Raises:
        ValueError: shapes disagree, or a row of `distmat` holds NaN.
    """
    ranks = single_shot_ranks(distmat, q_pids, g_pids, q_camids, g_camids, draws=draws, seed=seed)
    return cmc_of_draws(ranks, max_rank)


def single_shot_ranks(
    distances: Float[np.ndarray, "q g"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
    *,
    draws: int = 100,
    seed: int = 0,
) -> list[Int[np.ndarray, " draws"]]:
    """The rank of each counted query's person in every draw, for any block of queries.

    Blocks are independent: their lists, joined, are what `cmc_of_draws` takes. The arguments are
    those of `single_shot_cmc`.

    Raises:
        ValueError: shapes disagree, or a row of `distances` holds NaN.
    """
    galleries = {
        int(camid): _draw(g_pids, g_camids, int(camid), draws, seed)
        for camid in np.unique(q_camids)
    }
    ranks = []
    for (row, *_), pid, camid in zip(
        admissible_rows(distances, q_pids, g_pids, q_camids, g_camids), q_pids, q_camids
    ):
        people, images = galleries[int(camid)]
        if pid in people:
            drawn = row[images]
            true = drawn[np.searchsorted(people, pid)]
            ranks.append((drawn <= true).sum(axis=0))  # itself, and ties stand before it
    return ranks


def cmc_of_draws(
    ranks: list[Int[np.ndarray, " draws"]], max_rank: int = 50
) -> Float[np.ndarray, " max_rank"]:
    """CMC from what `single_shot_ranks` returned, of all queries; NaN where none counts."""
    if not ranks:
        return np.full(max_rank, np.nan)
    return np.mean(np.stack(ranks)[..., None] <= np.arange(1, max_rank + 1), axis=(0, 1))


def _draw(
    g_pids: Int[np.ndarray, " g"],
    g_camids: Int[np.ndarray, " g"],
    camid: int,
    draws: int,
    seed: int,
) -> tuple[Int[np.ndarray, " people"], Int[np.ndarray, "people draws"]]:
    """The people whom a camera's queries may meet, sorted, and an image of each for each draw."""
    items = np.flatnonzero((g_camids != camid) & (g_pids != JUNK_PID))
    items = items[np.argsort(g_pids[items], kind="stable")]
    people, first, count = np.unique(g_pids[items], return_index=True, return_counts=True)
    # By the camera too: which other cameras have queries must not change what this one draws.
    chance = np.random.default_rng((seed, camid)).random((len(people), draws))
    return people, items[first[:, None] + (chance * count[:, None]).astype(int)]
