"""Features in, blocks of distances, ranks out: a gallery of any size, without a Q x G matrix.

The gallery goes to the devices once, cut into parts of equal size, each divided over the mesh. A
block of queries is then compared with all parts, and its rows are complete before anything is
counted, so a threshold and what is compared with it are the very same floats. They are looked at

* on the host where that is also the device: NumPy's sort takes a row apart faster than XLA's CPU
  code counts it, and nothing is copied to look at it;
* on the devices otherwise: each counts its own share, and what reaches the host are the distances
  of a query's own person and one number for each of them.

While one block is looked at, the next one is being computed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int

from jaxreid import sharding
from jaxreid.extract import blocks, pad
from jaxreid.metrics.ranking import (
    AveragePrecision,
    Gallery,
    NanDistances,
    Ranking,
    index_gallery,
    ranks_in_parts,
    ranks_of_matches,
    summarise,
    top_k,
)
from jaxreid.metrics.reranking import rerank_blocks
from jaxreid.types import Features

Distance = Callable[[Features, Features], Float[Array, "q g"]]
"""Where it depends on arrays, a `jax.tree_util.Partial` of them: then they are not constants of
the compiled code."""


class Block(NamedTuple):
    """Distances of some queries to the whole gallery.

    Attributes:
        queries: which.
        parts: to n parts of the gallery, the last of which is padded, as may be the queries. An
            array of NumPy's may stand here too: rows that were made on the host are one part.
        listed: what was shortlisted for each query, -1 where there are no more; None without a
            shortlist.
    """

    queries: slice
    parts: Float[Array | np.ndarray, "n _ b"]
    listed: Int[np.ndarray, "_ k"] | None = None

    def rows(self, which: Int[np.ndarray, " m"], num_gallery: int) -> Float[np.ndarray, "m g"]:
        """Some rows on the host. `which` counts from the first query of the block."""
        n, _, b = self.parts.shape
        if isinstance(self.parts, np.ndarray):
            some = self.parts[:, which]
        else:
            some = np.asarray(_fetch(self.parts, which, _mesh(self.parts)))
        return np.moveaxis(some, 0, 1).reshape(len(which), n * b)[:, :num_gallery]


class Labels(NamedTuple):
    """Who is to be seen and by which camera, in the order of `evaluate_rank`'s arguments."""

    q_pids: Int[np.ndarray, " q"]
    g_pids: Int[np.ndarray, " g"]
    q_camids: Int[np.ndarray, " q"]
    g_camids: Int[np.ndarray, " g"]

    def of(self, queries: slice) -> "Labels":
        """Of some queries and the whole gallery."""
        return self._replace(q_pids=self.q_pids[queries], q_camids=self.q_camids[queries])


def rank_features(
    distance: Distance,
    feats_q: Features,
    feats_g: Features,
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
    *,
    mesh: Mesh | None = None,
    query_block: int = 128,
    gallery_block: int = 1024,
    on_host: bool | None = None,
    max_rank: int = 50,
    ap: AveragePrecision = "mean_precision",
) -> Ranking:
    """Scores features: what `evaluate_rank` gives for the matrix of their distances.

    Args:
        distance: such as `jaxreid.ops.pairwise_euclidean`.
        feats_q: of the queries; on the host, every leaf with the leading axis q.
        feats_g: of the gallery, with the leading axis g.
        q_pids: person of each query.
        g_pids: person of each gallery item; -1 is junk.
        q_camids: camera of each query.
        g_camids: camera of each gallery item.
        mesh: its devices share the gallery; by default all there are.
        query_block: queries that are compared with the gallery at a time.
        gallery_block: items of a part of the gallery, over all devices. On a CPU, products of
            small parts are finished in the cache; a large GPU is kept busy by larger ones.
        on_host: where distances are counted; by default on the host if the devices are CPUs.
        max_rank: length of the CMC curve.
        ap: the definition of average precision, see `jaxreid.metrics.summarise`.

    Raises:
        ValueError: shapes disagree, or a query has a distance that is NaN.
    """
    labels = Labels(q_pids, g_pids, q_camids, g_camids)
    sizes = [jax.tree.leaves(feats)[0].shape[:1] for feats in (feats_q, feats_g)] * 2
    if (shapes := [np.shape(of_label) for of_label in labels]) != sizes:
        raise ValueError(
            "shapes disagree: q_pids {}, g_pids {}, q_camids {}, g_camids {}; the features are of"
            " {} and {} items".format(*shapes, *sizes[0], *sizes[1])
        )
    mesh = mesh or sharding.make_mesh()
    found = distance_blocks(distance, feats_q, feats_g, mesh, query_block, gallery_block)
    ranks = [of_block for _, [of_block] in rank_blocks(found, labels, on_host=on_host)]
    return summarise(list(chain.from_iterable(ranks)), max_rank=max_rank, ap=ap)


def distance_blocks(
    distance: Distance,
    feats_q: Features,
    feats_g: Features,
    mesh: Mesh,
    query_block: int,
    gallery_block: int,
) -> Iterator[Block]:
    """Blocks of the matrix of distances, some queries at a time; one is computed ahead.

    The arguments are those of `rank_features`.
    """
    (num_queries, *_), (num_gallery, *_) = (
        jax.tree.leaves(feats)[0].shape for feats in (feats_q, feats_g)
    )
    gallery_block = sharding.round_up(min(gallery_block, num_gallery), mesh.size)
    query_block = min(query_block, num_queries)
    gallery = _place(feats_g, num_gallery, gallery_block, mesh)
    if not isinstance(distance, jax.tree_util.Partial):
        distance = jax.tree_util.Partial(distance)

    ahead = None
    for i, some in enumerate(blocks(feats_q, num_queries, query_block)):
        start = i * query_block
        queries = sharding.put(pad(some, query_block), sharding.replicated(mesh))
        parts = _against_gallery(distance, queries, gallery, mesh)
        if ahead is not None:
            yield ahead
        ahead = Block(slice(start, min(start + query_block, num_queries)), parts)
    if ahead is not None:
        yield ahead


def rank_blocks(
    found: Iterator[Block],
    labels: Labels,
    admitted: Bool[np.ndarray, "p g"] | None = None,
    on_host: bool | None = None,
) -> Iterator[tuple[Block, list[list[Int[np.ndarray, " _"]]]]]:
    """Every block with the ranks of its queries' true matches, under each protocol.

    A block that is counted on the host comes back with its distances there.

    Args:
        found: blocks of distances.
        labels: of all queries, and of the gallery.
        admitted: which gallery items each protocol ranks; by default there is one, of all.
        on_host: where distances are counted; by default on the host if they are there, or on a
            CPU. On devices, counting takes as many comparisons for a row as the person with the
            most gallery items has of these.

    Raises:
        ValueError: a query has a distance that is NaN.
    """
    gallery = index_gallery(labels.g_pids, labels.g_camids, admitted)
    first, last = (gallery.pids.searchsorted(labels.q_pids, side=s) for s in ("left", "right"))
    most = sharding.round_up(max(1, int((last - first).max(initial=0))), 8)
    kept = None
    for block in found:
        of_block, parts = labels.of(block.queries), block.parts
        names = of_block.q_pids, of_block.q_camids
        if isinstance(parts, np.ndarray) or (_on_cpu(parts) if on_host is None else on_host):
            parts = np.asarray(parts)
            block = block._replace(parts=parts)
            ranks = ranks_in_parts(parts, *names, gallery, block.queries.start)
        else:
            if kept is None:
                kept = _lay_out(gallery.kept, parts)
            ranks = _counted_on_devices(parts, kept, *names, gallery, most, block.queries.start)
        yield block, ranks


def reranked(
    distance: Distance,
    feats_q: Features,
    feats_g: Features,
    mesh: Mesh,
    query_block: int,
    gallery_block: int,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Iterator[Block]:
    """Blocks of k-reciprocal re-ranked distances, see `jaxreid.metrics.k_reciprocal_rerank`.

    Every item is compared with every other, queries and gallery alike: once for its neighbours,
    and once more for theirs.

    The other arguments are those of `rank_features`.

    Raises:
        NotDistances: a distance is negative or not finite.
    """
    items = jax.tree.map(lambda *both: np.concatenate(both), feats_q, feats_g)
    num_queries, num_items = (len(jax.tree.leaves(feats)[0]) for feats in (feats_q, items))
    gallery_block = sharding.round_up(min(gallery_block, num_items), mesh.size)
    placed = _place(items, num_items, gallery_block, mesh)
    if not isinstance(distance, jax.tree_util.Partial):
        distance = jax.tree_util.Partial(distance)

    def block(rows: slice) -> Float[np.ndarray, "n items"]:
        some = pad(jax.tree.map(lambda x: x[rows], items), query_block)
        queries = sharding.put(some, sharding.replicated(mesh))
        found = Block(rows, _against_gallery(distance, queries, placed, mesh))
        return found.rows(np.arange(rows.stop - rows.start), num_items)

    numbers: dict[str, Any] = {"k1": k1, "k2": k2, "lambda_value": lambda_value}
    sizes = num_queries, num_items
    for rows, part in rerank_blocks(block, *sizes, block_size=query_block, **numbers):
        yield Block(rows, part[None])


def shortlisted(
    found: Iterator[Block],
    exact: Callable[[Features, Features], Float[Array, "1 g"]],
    feats_q: Features,
    feats_g: Features,
    labels: Labels,
    length: int,
    mesh: Mesh,
) -> Iterator[Block]:
    """Blocks where only what is near by a cheap distance is ranked by the exact one.

    All that is not on the list lies behind it, in the order of the cheap distances.

    Args:
        found: blocks of cheap distances.
        exact: the distance of one query to as many items as the list has, of which it is given
            those that lie on this process's devices.
        feats_q: of the queries.
        feats_g: of the gallery.
        labels: of all queries, and of the gallery.
        length: of the list.
        mesh: its devices share the list.

    Raises:
        ValueError: a query has a cheap distance that is NaN.
    """
    padded = sharding.round_up(length, mesh.size)
    mine = sharding.own_rows(padded, sharding.split(mesh))
    for block in found:
        size = block.queries.stop - block.queries.start
        cheap = block.rows(np.arange(size), len(labels.g_pids))
        of_block = labels.of(block.queries)
        for bad in block.queries.start + np.flatnonzero(np.isnan(cheap).any(axis=1)):
            raise NanDistances(bad, labels.q_pids[bad], labels.q_camids[bad])
        listed = top_k(cheap, *of_block, k=length)
        whole = np.empty_like(cheap)
        for i, items in enumerate(listed):
            items = items[items >= 0]
            at = block.queries.start + i
            one = jax.tree.map(lambda x, at=at: x[at : at + 1], feats_q)
            own = np.resize(items, padded)[mine]
            some = jax.tree.map(lambda x, own=own: x[own], feats_g)
            near = jax.device_get(exact(one, some))[0, : len(items)]
            whole[i] = cheap[i] + near.max(initial=0) + 1
            whole[i, items] = near
        yield Block(block.queries, whole[None], listed)


def _on_cpu(array: Array) -> bool:
    """Whether all of it lies where this process can look at it."""
    cpu = all(device.platform == "cpu" for device in array.devices())
    return cpu and array.is_fully_addressable


def _mesh(array: Array) -> Mesh:
    where = array.sharding
    assert isinstance(where, NamedSharding)
    assert isinstance(where.mesh, Mesh)
    return where.mesh


@partial(jax.jit, static_argnames="mesh")
def _fetch(
    parts: Float[Array, "n q b"], which: Int[Array, " m"], mesh: Mesh
) -> Float[Array, "n m b"]:
    return lax.with_sharding_constraint(parts[:, which], sharding.replicated(mesh))


def _place(feats: Features, size: int, block: int, mesh: Mesh) -> Features:
    """Host features as parts of `block` items, [n b ...], each part divided over the devices.

    They are laid down part by part, so that no second copy of the gallery is made on the way.
    """
    shape = (-(-size // block), block)
    divided = sharding.split(mesh)
    empty = partial(jax.tree.map, lambda x: jnp.zeros((*shape, *x.shape[1:]), x.dtype))
    across = NamedSharding(mesh, PartitionSpec(None, sharding.AXIS))
    parts = jax.jit(lambda: empty(feats), out_shardings=across)()
    mine = sharding.own_rows(block, divided)  # Of each part; all, but where hosts share the mesh.
    for i, some in enumerate(blocks(feats, size, block)):
        share = jax.tree.map(lambda x: x[mine], pad(some, block))
        parts = _lay_down(parts, np.int32(i), sharding.put(share, divided))
    return parts


@partial(jax.jit, donate_argnums=0)
def _lay_down(parts: Features, i: Int[Array, ""], some: Features) -> Features:
    return jax.tree.map(lambda all, x: all.at[i].set(x), parts, some)


@partial(jax.jit, static_argnames="mesh")
def _against_gallery(
    distance: Distance, queries: Features, gallery: Features, mesh: Mesh
) -> Float[Array, "n q b"]:
    across = NamedSharding(mesh, PartitionSpec(None, None, sharding.AXIS))
    return lax.with_sharding_constraint(lax.map(partial(distance, queries), gallery), across)


def _lay_out(kept: Bool[np.ndarray, "p g"], parts: Float[Array, "n q b"]) -> Bool[Array, "p n b"]:
    """What protocols keep, as the gallery lies on the devices. Padding is kept by none."""
    n, _, b = parts.shape
    padded = np.zeros((len(kept), n * b), bool)
    padded[:, : kept.shape[1]] = kept
    # Placed like a block of distances, whose middle axis is on all devices too.
    return jax.device_put(padded.reshape(-1, n, b), parts.sharding)


def _counted_on_devices(
    parts: Float[Array, "n _ b"],
    kept: Bool[Array, "p n b"],
    q_pids: Int[np.ndarray, " q"],
    q_camids: Int[np.ndarray, " q"],
    gallery: Gallery,
    most: int,
    first: int,
) -> list[list[Int[np.ndarray, " _"]]]:
    """`ranks_in_parts` where the parts stay on the devices; no query has over `most` own items."""
    own = gallery.own(q_pids, q_camids)
    items = np.zeros((parts.shape[1], most), np.int32)
    for i, of_query in enumerate(own):
        items[i, : len(of_query.items)] = of_query.items
    found = _count(parts, kept, items, np.int32(len(gallery.items)), _mesh(parts))
    near, within, bad = jax.device_get(found)
    by_query = []
    for i, of_query in enumerate(own):
        if bad[i]:
            raise NanDistances(first + i, q_pids[i], q_camids[i])
        size = len(of_query.items)
        matches = within[:, i, :size][:, of_query.other_camera]
        by_query.append(ranks_of_matches(near[i, :size], matches, of_query, gallery))
    return [[ranks[p] for ranks in by_query] for p in range(len(gallery.kept))]


@partial(jax.jit, static_argnames="mesh")
def _count(
    parts: Float[Array, "n q b"],
    kept: Bool[Array, "p n b"],
    items: Int[Array, "q m"],
    num_gallery: Int[Array, ""],
    mesh: Mesh,
) -> tuple[Float[Array, "q m"], Int[Array, "p q m"], Bool[Array, " q"]]:
    """Distances of some items, how many that a protocol keeps are within them, and where NaN is."""
    n, q, b = parts.shape
    rows = jnp.swapaxes(parts, 0, 1)
    near = rows[jnp.arange(q)[:, None], items // b, items % b]
    closer = rows[:, None] <= near[:, :, None, None]  # [q m n b], which is never stored
    within = jnp.sum(closer[None] & kept[:, None, None], axis=(3, 4), dtype=jnp.int32)
    real = jnp.arange(n)[:, None] * b + jnp.arange(b)[None] < num_gallery
    bad = jnp.any(jnp.isnan(rows) & real[None], axis=(1, 2))
    return lax.with_sharding_constraint((near, within, bad), sharding.replicated(mesh))
