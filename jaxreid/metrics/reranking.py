"""A second look at a ranking: k-reciprocal encoding, and average query expansion.

Zhong, Zheng, Cao, Li, "Re-ranking person re-identification with k-reciprocal encoding", CVPR 2017:
two items are alike where they share neighbours that they are neighbours of in turn. Of N items,
queries and gallery together, the paper's released code keeps several N x N matrices. Here each item
keeps a list of its k1 + 1 nearest, found in one pass over blocks of rows, and everything after that
is sparse: a graph of neighbours, its products with itself, and encodings of some dozens of numbers.

Where the released code departs from the paper, it is followed, for it is what is compared with:

* d(p, ·) are squares, divided by the largest of them;
* N(p, k) has k + 1 items, of which p itself is mostly the first;
* k/2 is rounded to the nearest even number where it ends in .5;
* the overlap of Eq. (4) has to be more than two thirds, where the paper has at least;
* the weights of Eq. (7) are divided by their sum, so that Σ max = 2 - Σ min in Eq. (10);
* there is no mean of Eq. (11) at k2 = 1, not even where the first of the list is not p itself.

Items at equal distances are neighbours in the order of their indices, queries first. Nothing
depends on how the rows were cut into blocks.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

Block = Callable[[slice], Float[np.ndarray, "n items"]]
Pairs = Callable[[Int[np.ndarray, " n"], Int[np.ndarray, " n"]], Float[np.ndarray, " n"]]


_TILE = 16  # rows that a thread works on at a time: they stay in its cache


class NotDistances(ValueError):
    """A distance is negative or not finite."""


def k_reciprocal_rerank(
    q_g: Float[np.ndarray, "q g"],
    q_q: Float[np.ndarray, "q q"],
    g_g: Float[np.ndarray, "g g"],
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Float[np.ndarray, "q g"]:
    """Distances of queries to gallery items after re-ranking, from given matrices.

    The matrices may be asymmetric. As in the released code, the distances of a query p to the
    queries are then its column of `q_q`, and those of a gallery item its columns of `q_g` and
    `g_g`.

    Args:
        q_g: Euclidean distances, not squared.
        q_q: the queries' own.
        g_g: the gallery's own.
        k1: how many neighbours are asked whether they are so in turn. Where there are fewer items,
            all of them.
        k2: over how many of them the encodings are averaged.
        lambda_value: λ, the share of the squared distance beside the Jaccard distance.

    Returns:
        d* of Eq. (12), between 0 and 1, in float32.

    Raises:
        ValueError: shapes disagree, a distance is negative or not finite, not 1 <= k2 <= k1, or λ
            is not between 0 and 1.
    """
    if q_q.shape != q_g.shape[:1] * 2 or g_g.shape != q_g.shape[1:] * 2:
        raise ValueError(
            f"shapes disagree: q_g {q_g.shape}, q_q {q_q.shape}, g_g {g_g.shape}; "
            "expected (q, g), (q, q), (g, g)"
        )
    num_queries, num_items = len(q_g), sum(q_g.shape)

    def block(rows: slice) -> Float[np.ndarray, "n items"]:
        cut = np.clip([rows.start, rows.stop], 0, num_queries)
        q, g = slice(*cut), slice(*(np.array([rows.start, rows.stop]) - cut))
        out = np.empty((rows.stop - rows.start, num_items), np.result_type(q_g, q_q, g_g))
        of_queries, of_gallery = np.split(out, [cut[1] - cut[0]])
        _copy_transposed(q_q[:, q], of_queries[:, :num_queries])
        of_queries[:, num_queries:] = q_g[q]
        _copy_transposed(q_g[:, g], of_gallery[:, :num_queries])
        _copy_transposed(g_g[:, g], of_gallery[:, num_queries:])
        return out

    def pairs(i: Int[np.ndarray, " n"], j: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        first, last = np.minimum(i, j), np.maximum(i, j)
        queries, gallery = last < num_queries, first >= num_queries
        mixed = ~(queries | gallery)
        out = np.empty(len(i), np.result_type(q_g, q_q, g_g))
        out[queries] = q_q[j[queries], i[queries]]
        out[mixed] = q_g[first[mixed], last[mixed] - num_queries]
        out[gallery] = g_g[j[gallery] - num_queries, i[gallery] - num_queries]
        return out

    reranked = np.empty(q_g.shape, np.float32)
    settings: dict[str, Any] = {"k1": k1, "k2": k2, "lambda_value": lambda_value, "block_size": 64}
    for rows, part in rerank_blocks(block, num_queries, num_items, pairs=pairs, **settings):
        reranked[rows] = part
    return reranked


def rerank_blocks(
    block: Block,
    num_queries: int,
    num_items: int,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    pairs: Pairs | None = None,
    block_size: int = 256,
) -> Iterator[tuple[slice, Float[np.ndarray, "n g"]]]:
    """`k_reciprocal_rerank` for distances that do not fit into memory, block by block of queries.

    Items are the queries, then the gallery. `block` is called once for all rows, and once more for
    the queries'. A neighbour's neighbour need not stand in an item's own list: its distance comes
    from `pairs`, or else from another call of `block` for all rows. A block is computed, in a
    thread, while the one before is in use; beside these two, memory is in proportion to the lists,
    N x k1.

    Args:
        block: `(rows) -> [n, num_items]`, the distances of these items to all items.
        num_queries: how many of the items are queries.
        num_items: N.
        k1: see `k_reciprocal_rerank`.
        k2: see `k_reciprocal_rerank`.
        lambda_value: see `k_reciprocal_rerank`.
        pairs: `(i, j) -> [n]`, the distances of items i to items j, the same as of `block`. It is
            called with some thousand pairs at a time.
        block_size: how many rows `block` is asked for at a time.

    Yields:
        A slice of the queries, and d* of Eq. (12) between these and the gallery, in float32.

    Raises:
        NotDistances: a distance is negative or not finite.
        ValueError: a block has the wrong shape, not 1 <= k2 <= k1, or λ is not between 0 and 1.
    """
    if not 1 <= k2 <= k1:
        raise ValueError(f"k1 is {k1} and k2 is {k2}; expected 1 <= k2 <= k1")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value is {lambda_value}; expected 0 to 1")

    def checked(rows: slice) -> Float[np.ndarray, "n items"]:
        distances = block(rows)
        expected = (rows.stop - rows.start, num_items)
        if distances.shape != expected:
            raise ValueError(f"block({rows}) has shape {distances.shape}; expected {expected}")
        return distances

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        near, far = _neighbours(pool, checked, num_queries, num_items, k1 + 1, block_size)
        v = _encode(checked, pairs, near, far, k1, block_size)
        if k2 > 1:  # Eq. (11)
            v = _graph(near[:, :k2], np.float32(1 / near[:, :k2].shape[1])) @ v
        queries, by_neighbour = v[:num_queries], v[num_queries:].tocsc()

        for rows, distances in _ahead(pool, checked, num_queries, block_size):
            part = np.empty((len(distances), num_items - num_queries), np.float32)

            def mix(tile: slice, those: slice, x: np.ndarray, part: np.ndarray = part) -> None:
                d = np.square(x[:, num_queries:] / far[those, None])
                jaccard = _jaccard(queries[those], by_neighbour)
                part[tile] = (1 - lambda_value) * jaccard + lambda_value * d  # Eq. (12)

            _in_tiles(pool, mix, rows, distances)
            yield rows, part


def average_query_expansion(
    feats_q: Float[np.ndarray, "q d"],
    feats_g: Float[np.ndarray, "g d"],
    k: int = 10,
    *,
    alpha: float = 0.0,
    normalise: bool = True,
    block_size: int = 256,
) -> Float[np.ndarray, "q d"]:
    """Each query's mean with its k nearest gallery vectors, to ask the gallery once more.

    Chum, Philbin, Sivic, Isard, Zisserman, "Total recall: automatic query expansion with a
    generative feature model for object retrieval", ICCV 2007; with α, Radenović, Tolias, Chum,
    "Fine-tuning CNN image retrieval with no human annotation", TPAMI 41, 2019.

    Args:
        feats_q: one vector in each row.
        feats_g: the gallery's.
        k: how many neighbours by Euclidean distance, the lower index first where distances are
            equal; all where the gallery has fewer.
        alpha: a neighbour weighs as the α-th power of its cosine with the query (0 where that is
            negative), the query 1. At 0 all weigh the same, Chum et al.'s mean.
        normalise: whether the means are brought to length 1, as is the convention for features of
            length 1. Otherwise they are left as they are, for features whose length matters.
        block_size: queries whose distances to the gallery are in memory at a time.

    Raises:
        ValueError: shapes disagree, the gallery is empty, k < 1, alpha < 0, or a feature is not
            finite.
    """
    if feats_q.shape[1] != feats_g.shape[1] or not len(feats_g):
        raise ValueError(
            f"feats_q has shape {feats_q.shape} and feats_g {feats_g.shape}; "
            "expected (q, d) and (g, d), g at least 1"
        )
    if k < 1 or alpha < 0:
        raise ValueError(f"k is {k} and alpha is {alpha}; expected at least 1 and 0")
    k = min(k, len(feats_g))
    squares = np.square(feats_g).sum(axis=1)
    if not np.isfinite(squares).all() or not np.isfinite(feats_q).all():
        raise ValueError("feats_q or feats_g holds numbers that are not finite")
    tiny = np.finfo(feats_q.dtype).tiny
    expanded = np.empty_like(feats_q)
    for rows in _slices(len(feats_q), block_size):
        queries = feats_q[rows]
        # The squared distance less the query's own square, which changes no order.
        near = feats_g[_smallest(squares - 2 * (queries @ feats_g.T), k)]
        lengths = np.linalg.norm(near, axis=2) * np.linalg.norm(queries, axis=1)[:, None]
        cosines = np.einsum("qkd,qd->qk", near, queries) / np.maximum(lengths, tiny)
        weights = np.maximum(cosines, 0) ** alpha
        total = queries + np.einsum("qk,qkd->qd", weights, near)
        length = np.linalg.norm(total, axis=1) if normalise else 1 + weights.sum(axis=1)
        expanded[rows] = total / np.maximum(length, tiny)[:, None]
    return expanded


def _slices(length: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, length)) for i in range(0, length, step))


def _ahead(
    pool: ThreadPoolExecutor, block: Block, length: int, step: int
) -> Iterator[tuple[slice, Float[np.ndarray, "n items"]]]:
    """Blocks of rows, each of which is computed while the one before is in use."""
    slices = list(_slices(length, step))
    coming = pool.submit(block, slice(0, min(step, length)))
    for rows, following in itertools.zip_longest(slices, slices[1:]):
        distances = coming.result()
        if following:
            coming = pool.submit(block, following)
        yield rows, distances


def _in_tiles(
    pool: ThreadPoolExecutor,
    work: Callable[[slice, slice, np.ndarray], None],
    rows: slice,
    distances: Float[np.ndarray, "n items"],
) -> None:
    """`work(rows of the block, rows of the matrix, their distances)`, a tile at a time."""
    tiles = list(_slices(len(distances), _TILE))
    those = [slice(rows.start + tile.start, rows.start + tile.stop) for tile in tiles]
    list(pool.map(work, tiles, those, [distances[tile] for tile in tiles]))


def _copy_transposed(source: Float[np.ndarray, "m n"], out: Float[np.ndarray, "n m"]) -> None:
    """`out[:] = source.T`, by squares that a cache holds: a third of the time."""
    for part in _slices(len(source), 64):
        out[:, part] = source[part].T


def _smallest(x: Float[np.ndarray, "n items"], k: int) -> Int[np.ndarray, "n k"]:
    """The columns of each row's k smallest numbers, in order; the lower first where equal.

    Cut into groups of columns, a row has k groups with a number up to the k-th smallest of the
    groups' minima, so its k smallest numbers are not above that. With many more groups than k
    there is hardly a number more under this bound, and one is found at the speed of `min`.
    """
    n, items = x.shape
    groups = min(items, 24 * k)
    each = items // groups
    minima = x[:, : each * groups].reshape(n, each, groups).min(axis=1)
    bound = np.partition(minima, k - 1, axis=1)[:, k - 1]
    row, column = np.divmod(np.flatnonzero(x <= bound[:, None]), items)
    order = np.lexsort((x[row, column], row))  # stable, and columns came in ascending order
    starts = np.searchsorted(row, np.arange(n))
    return column[order[starts[:, None] + np.arange(k)]]


def _neighbours(
    pool: ThreadPoolExecutor,
    block: Block,
    num_queries: int,
    num_items: int,
    k: int,
    block_size: int,
) -> tuple[Int[np.ndarray, "items k"], Float[np.ndarray, " items"]]:
    """Each item's k nearest, in order, and its largest distance; 1 where that is 0."""
    k = min(k, num_items)
    near = np.empty((num_items, k), np.int32)
    far = np.empty(num_items)

    def search(tile: slice, those: slice, x: np.ndarray) -> None:
        largest = x.max(axis=1)
        bad = ~(np.isfinite(largest) & (x.min(axis=1) >= 0))  # NaN: neither holds
        if bad.any():
            i = those.start + int(bad.argmax())
            item = f"query {i}" if i < num_queries else f"gallery item {i - num_queries}"
            raise NotDistances(f"a distance of {item} is negative or not finite")
        near[those] = _smallest(x, k)
        far[those] = np.where(largest > 0, largest, 1)

    for rows, distances in _ahead(pool, block, num_items, block_size):
        _in_tiles(pool, search, rows, distances)
    return near, far


def _graph(near: Int[np.ndarray, "items k"], weight: np.generic) -> scipy.sparse.csr_array:
    """The matrix with this weight where column j is in the list of row i."""
    items, k = near.shape
    data = np.full(near.size, weight)
    return scipy.sparse.csr_array(
        (data, near.flatten(), np.arange(0, near.size + 1, k)), shape=(items, items)
    )


def _reciprocal(near: Int[np.ndarray, "items k"]) -> scipy.sparse.csr_array:
    """R(p, k) in row p: neighbours that have p in their lists, Eq. (3)."""
    graph = _graph(near, np.int32(1))
    return graph.multiply(graph.T.tocsr()).tocsr()


def _encode(
    block: Block,
    pairs: Pairs | None,
    near: Int[np.ndarray, "items k"],
    far: Float[np.ndarray, " items"],
    k1: int,
    block_size: int,
) -> scipy.sparse.csr_array:
    """V: Gaussian weights of each item's expanded set of reciprocal neighbours, Eqs. (4) and (7).

    In terms of graphs, |R(p, k1) ∩ R(q, k1/2)| of all p and q is one product of two of them.
    """
    reciprocal = _reciprocal(near)
    half = _reciprocal(near[:, : round(k1 / 2) + 1])  # symmetric: its own transpose
    sizes = np.diff(half.indptr)
    parts = []
    for rows in _slices(len(near), block_size):
        r = reciprocal[rows]
        overlap = (r @ half).multiply(r).tocsr()
        overlap.data = (3 * overlap.data > 2 * sizes[overlap.indices]).astype(np.int32)
        overlap.eliminate_zeros()
        v = (r + overlap @ half).tocsr()  # Eq. (4)
        local = np.repeat(np.arange(v.shape[0]), np.diff(v.indptr))
        if pairs:
            distances = pairs(local + rows.start, v.indices)
        else:
            distances = block(rows)[local, v.indices]
        weights = np.exp(-np.square(distances / far[rows][local]))  # Eq. (7)
        sums = np.bincount(local, weights, minlength=v.shape[0])
        v.data = (weights / sums[local]).astype(np.float32)
        parts.append(v)
    return scipy.sparse.vstack(parts, format="csr")


def _jaccard(
    queries: scipy.sparse.csr_array, gallery: scipy.sparse.csc_array
) -> Float[np.ndarray, "n g"]:
    """Eq. (10): 1 - Σ min / Σ max, over the neighbours that encodings of both sides hold."""
    n, g = queries.shape[0], gallery.shape[0]
    counts = np.diff(gallery.indptr)[queries.indices]
    # From each number of a query's encoding to the gallery's numbers for the same neighbour.
    skipped = gallery.indptr[queries.indices] - (np.cumsum(counts) - counts)
    at = np.arange(counts.sum()) + np.repeat(skipped, counts)
    least = np.minimum(np.repeat(queries.data, counts), gallery.data[at])
    local = np.repeat(np.arange(n), np.diff(queries.indptr))
    cells = np.repeat(local * g, counts) + gallery.indices[at]
    shared = np.bincount(cells, least, minlength=n * g).reshape(n, g)
    np.minimum(shared, 1, out=shared)  # the weights' sums are 1 up to rounding
    return 1 - shared / (2 - shared)
