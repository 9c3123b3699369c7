"""The k nearest of a gallery by any distance, exactly, in blocks that are not kept.

The gallery is divided among the devices of one machine; each finds the k nearest of its own
stretch, and these are merged.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt64

from jaxreid import sharding
from jaxreid.errors import UserError
from jaxreid.extract import blocks
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.storage import Stored, restore
from jaxreid.types import Features

Distance = Callable[[Any, Any], Float[Array, "q g"]]
MergeOn = Literal["host", "device"]
T = TypeVar("T")

Tiles = list[Features]
Parts = Iterator[tuple[int, Features]]
"""Blocks of the gallery on the device, each with the number of its first item."""

# A block of distances takes 8 MiB, which a CPU's cache holds until it has been looked at.
QUERY_BLOCK = 1024
GALLERY_BLOCK = 2048
SIGN = np.uint32(1 << 31)  # of a float32
# Of this many distances in a row only the least is looked at, unless it is near enough.
RUN = 64
# How many blocks are computed while one is looked at: with one, a core may wait for the other.
AHEAD = 2


class NotFinite(UserError):
    """A distance is infinite or not a number."""


class Found(NamedTuple):
    """The nearest so far, sorted by distance and then by index.

    Attributes:
        distances: inf where there are no more.
        indices: into the gallery; anything where the distance is inf.
    """

    distances: Float[Any, "q k"]
    indices: Int[Any, "q k"]


class _Stretch(NamedTuple):
    """A part of the gallery, and the device that searches it.

    Attributes:
        device: which.
        first: the number of its first item.
        size: how many items.
        items: their features.
    """

    device: jax.Device
    first: int
    size: int
    items: Features


def nearest(
    queries: Features,
    gallery: Features | Stored,
    k: int,
    *,
    mesh: Mesh | None = None,
    distance: Distance = pairwise_euclidean,
    merge_on: MergeOn | None = None,
    query_block: int = QUERY_BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k nearest gallery items of each query, exactly.

    Smaller distances come first, and the lower index among equal ones: what a stable sort of the
    distances would give. They are compared as `distance` rounds them, so the result depends on the
    blocks only as far as the distances do: a product's last bits may differ with its shape. Of a
    gallery on the host the blocks are the same for every number of devices.

    Args:
        queries: vectors "q d", or features of any kind whose leaves have the leading axis q.
        gallery: likewise; or vectors as `store` made them, restored to float32 a block at a time.
            What lies on the devices already stays there for `merge_on="device"`, if it divides
            among them.
        k: how many.
        mesh: the devices that the gallery is divided among, of one machine; all by default.
        distance: `(queries, block of the gallery) -> "q g"`, compiled; smaller is more alike.
            Where it depends on arrays, a `jax.tree_util.Partial` of them.
        merge_on: where a block's distances are compared with the nearest so far. `host`: on the
            CPU in NumPy, where only what is nearer than a query's k-th is sorted; XLA's top-k would
            cost more there than the product does. `device`: by `jax.lax.top_k`, and no distance
            leaves its device. By default `host` where the devices are CPUs.
        query_block: how many queries at a time.
        gallery_block: how many gallery items of each device at a time.

    Returns:
        Indices into the gallery and the distances to them, nearest first. Where the gallery has
        fewer than k items, what is missing has index -1 and distance inf.

    Raises:
        UserError: the widths differ, k or a block is not positive, or `merge_on` is neither.
        NotFinite: a distance is not finite.
    """
    queries = jax.tree.map(np.asarray, queries)
    if isinstance(gallery, np.ndarray | Array):
        gallery = Stored(gallery)
    if isinstance(gallery, Stored):
        distance = of_vectors(distance)
        if queries.shape[1] != gallery.values.shape[1]:
            raise UserError(
                f"queries have {queries.shape[1]} numbers each and gallery items"
                f" {gallery.values.shape[1]}; expected the same"
            )
    for name, number in (("k", k), ("query_block", query_block), ("gallery_block", gallery_block)):
        if number < 1:
            raise UserError(f"{name} is {number}; expected 1 or more")
    mesh = mesh or sharding.make_mesh()
    if merge_on not in ("host", "device", None):
        raise UserError(f"merge_on is {merge_on!r}; expected 'host' or 'device'")
    if merge_on is None:
        merge_on = "host" if mesh.devices.flat[0].platform == "cpu" else "device"
    merge = _on_host if merge_on == "host" else _on_device
    if not isinstance(distance, jax.tree_util.Partial):
        distance = jax.tree_util.Partial(distance)
    tiles = list(blocks(queries, len(jax.tree.leaves(queries)[0]), query_block))
    if not tiles:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)

    def search(stretch: _Stretch, there: tuple[Distance, Tiles]) -> list[UInt64[np.ndarray, "_ k"]]:
        parts = (
            (stretch.first + i * gallery_block, jax.device_put(part, stretch.device))
            for i, part in enumerate(blocks(stretch.items, stretch.size, gallery_block))
        )
        return merge(*there, parts, k)

    stretches = _divided(gallery, mesh, gallery_block, stay=merge_on == "device")
    # Not by the threads: arrays that are on all devices may not be taken apart by several at once.
    placed = [jax.device_put((distance, tiles), stretch.device) for stretch in stretches]
    with ThreadPoolExecutor(mesh.size) as pool:
        by_stretch = list(pool.map(search, stretches, placed))
    by_tile = [np.concatenate(parts, axis=1) for parts in zip(*by_stretch)]
    keys = np.concatenate([np.sort(found, axis=1)[:, :k] for found in by_tile])
    far = _distances_of(keys)
    return np.where(np.isinf(far), -1, (keys & 0xFFFFFFFF).astype(np.int64)), far


def _divided(gallery: Features, mesh: Mesh, block: int, *, stay: bool) -> list[_Stretch]:
    leaves = jax.tree.leaves(gallery)
    size = len(leaves[0])
    if stay and size and size % mesh.size == 0 and all(isinstance(x, Array) for x in leaves):
        leaves, tree = jax.tree.flatten(jax.device_put(gallery, sharding.split(mesh)))
        shards = zip(*({s.device: s.data for s in x.addressable_shards}.values() for x in leaves))
        rows = size // mesh.size
        return [
            _Stretch(device, i * rows, rows, jax.tree.unflatten(tree, own))
            for i, (device, own) in enumerate(zip(mesh.devices.flat, shards))
        ]
    gallery = jax.tree.map(np.asarray, gallery)
    # Whole blocks, the same for every number of devices: so are the last bits of the distances.
    num_blocks = -(-size // block)
    ends = [min(num_blocks * i // mesh.size * block, size) for i in range(mesh.size + 1)]
    return [
        _Stretch(device, i, end - i, jax.tree.map(lambda x, i=i, end=end: x[i:end], gallery))
        for device, i, end in zip(mesh.devices.flat, ends, ends[1:])
    ]


def of_vectors(distance: Distance) -> Distance:
    """A distance between vectors and such as are kept. The same one is compiled once."""
    return jax.tree_util.Partial(_restored, jax.tree_util.Partial(distance))


def _restored(
    distance: Distance, queries: Shaped[Array, "q d"], block: Stored
) -> Float[Array, "q g"]:
    return distance(queries.astype(jnp.float32), restore(block)).astype(jnp.float32)


# ------------------------------------------------------------------ merging, on one device


def _on_device(
    distance: Distance, tiles: Tiles, parts: Parts, k: int
) -> list[UInt64[np.ndarray, "_ k"]]:
    """The nearest of each tile of queries, which stay on the device until all is compared."""
    found = [_nothing(tile, k) for tile in tiles]

    def steps() -> Iterator[Bool[Array, ""]]:
        for start, part in parts:
            for i, tile in enumerate(tiles):
                found[i], finite = _merge(found[i], distance, tile, part, np.int32(start))
                yield finite

    for finite in _ahead(steps()):
        _require(finite)
    return [_keys(*map(np.asarray, each)) for each in found]


@partial(jax.jit, donate_argnums=0)
def _merge(
    found: Found, distance: Distance, queries: Features, part: Features, start: Int[Array, ""]
) -> tuple[Found, Bool[Array, ""]]:
    k = found.distances.shape[1]
    far = distance(queries, part)
    finite = jnp.isfinite(far).all()
    # top_k puts -0 before 0, which are equal.
    far = jnp.where(far == 0, 0.0, far)
    nearest, columns = jax.lax.top_k(-far, min(k, far.shape[1]))
    # Equal ones keep their order, and all that was found has lower indices.
    both, which = jax.lax.top_k(jnp.concatenate([-found.distances, nearest], axis=1), k)
    indices = jnp.concatenate([found.indices, start + columns], axis=1)
    return Found(-both, jnp.take_along_axis(indices, which, axis=1)), finite


def _on_host(
    distance: Distance, tiles: Tiles, parts: Parts, k: int
) -> list[UInt64[np.ndarray, "_ k"]]:
    """The nearest of each tile of queries, found in NumPy while the device computes more."""
    found = [_keys(*_nothing(tile, k)) for tile in tiles]

    def steps() -> Iterator[tuple[int, int, Any]]:
        for start, part in parts:
            for i, tile in enumerate(tiles):
                yield i, start, _in_runs(distance, tile, part)

    for i, start, (far, least, finite) in _ahead(steps()):
        _require(finite)
        _look_at(found[i], np.asarray(far), np.asarray(least), start)
    return found


@jax.jit
def _in_runs(
    distance: Distance, queries: Features, part: Features
) -> tuple[Float[Array, "q padded"], Float[Array, "q runs"], Bool[Array, ""]]:
    """Distances, filled up to whole runs with inf, the least of each run, and if all is finite."""
    far = distance(queries, part)
    finite = jnp.isfinite(far).all()
    if short := -far.shape[1] % RUN:
        far = jnp.pad(far, ((0, 0), (0, short)), constant_values=jnp.inf)
    return far, far.reshape(len(far), -1, RUN).min(axis=2), finite


def _look_at(
    found: UInt64[np.ndarray, "q k"],
    far: Float[np.ndarray, "q padded"],
    least: Float[np.ndarray, "q runs"],
    start: int,
) -> None:
    """Keeps in `found` the nearest so far, after a block of later items from item `start` on."""
    k, width = found.shape[1], far.shape[1]
    bound = _distances_of(found[:, -1])
    if k < width and np.isinf(bound).any():
        # The k-th in the block itself and all that equal it: sorting the block costs far more.
        bound = np.nextafter(np.partition(far, k - 1, axis=1)[:, k - 1], np.float32(np.inf))
    # An equal one would stand behind the k-th, as its index is higher.
    runs = np.flatnonzero(least < bound[:, None])
    rows = runs // least.shape[1]
    those = far.reshape(-1, RUN)[runs]
    run, place = np.divmod(np.flatnonzero(those < bound[rows, None]), RUN)
    if not len(run):
        return
    rows, indices = rows[run], start + runs[run] % least.shape[1] * RUN + place
    touched, row, counts = np.unique(rows, return_inverse=True, return_counts=True)
    column = k + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((len(touched), k + counts.max()), np.iinfo(np.uint64).max, np.uint64)
    table[:, :k] = found[touched]
    table[row, column] = _keys(those[run, place], indices)
    found[touched] = np.sort(table, axis=1)[:, :k]


def _keys(
    distances: Float[np.ndarray, "*n"], indices: Int[np.ndarray, "*n"]
) -> UInt64[np.ndarray, "*n"]:
    """Numbers that sort as (distance, index) do, which NumPy sorts many times faster than pairs.

    Seen as whole numbers, positive floats keep their order, and negative ones have it reversed.
    """
    bits = np.where(distances == 0, np.float32(0), distances).view(np.uint32)
    bits = np.where(bits >> 31, ~bits, bits | SIGN)
    return bits.astype(np.uint64) << 32 | indices.astype(np.uint64)


def _distances_of(keys: UInt64[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    bits = (keys >> 32).astype(np.uint32)
    return np.where(bits >> 31, bits ^ SIGN, ~bits).view(np.float32)


def _nothing(tile: Features, k: int) -> Found:
    shape = (len(jax.tree.leaves(tile)[0]), k)
    return Found(np.full(shape, np.inf, np.float32), np.zeros(shape, np.int32))


def _ahead(steps: Iterable[T]) -> Iterator[T]:
    """The same; each is given out after the next two were asked for, so few are on the device."""
    waiting: deque[T] = deque()
    for step in steps:
        waiting.append(step)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _require(finite: Any) -> None:
    if not finite:
        raise NotFinite(
            "a query or gallery item is not at a finite distance; expected finite vectors"
        )
