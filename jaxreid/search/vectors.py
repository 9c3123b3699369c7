"""Exact search among features, their storage, and the way to FAISS for what is approximate.

`nearest` compares every query with every gallery item and keeps the k nearest, in blocks, so a
gallery of a million vectors needs little memory beside its own. The gallery is divided among the
devices of one machine; each finds its own k nearest, and these are merged. For more than a machine
holds, or where approximate search will do, `to_faiss` makes an index of any of FAISS's kinds.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt64

from jaxreid import errors, sharding
from jaxreid.errors import UserError
from jaxreid.extract import blocks, pad
from jaxreid.metrics.ranking import evaluate_rank
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.search import npz

Storage = Literal["float32", "float16", "int8"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
MAX_INT8 = 127  # -128 is left unused, so that a vector and its negative are stored alike.

Distance = Callable[[Float[Array, "q d"], Float[Array, "g d"]], Float[Array, "q g"]]
Vectors = Shaped[np.ndarray, "g d"] | Shaped[Array, "g d"]
T = TypeVar("T")

# A block of distances takes 8 MiB, which a CPU's cache holds until it has been looked at.
QUERY_BLOCK = 1024
GALLERY_BLOCK = 2048
SIGN = np.uint32(1 << 31)  # of a float32
# Of this many distances in a row only the least is looked at, unless it is near enough.
RUN = 64
# How many blocks are computed while one is looked at: with one, a core may wait for the other.
AHEAD = 2
# How many items `store` converts, or an index is given, at once.
PART = 65_536


class Stored(NamedTuple):
    """Vectors as they are kept.

    An int8 vector has a scale of its own, its largest magnitude / 127. A scale for each dimension
    would have to span the largest item of the whole gallery, so one odd item would coarsen all
    others, and items that come later might not fit. Four bytes more for each item is the price.

    Attributes:
        values: float32, float16 or int8.
        scales: of int8 values: the vector is `scales * values`. None for the others.
    """

    values: Shaped[Any, "g d"]
    scales: Float[Any, " g"] | None = None

    @property
    def size(self) -> int:
        """How many vectors."""
        return self.values.shape[0]

    def take(self, rows: slice | Int[np.ndarray, " n"]) -> "Stored":
        """Some of the vectors."""
        return Stored(*(part if part is None else part[rows] for part in self))

    @property
    def bytes_per_item(self) -> int:
        """Of one vector and its scale."""
        scale = 0 if self.scales is None else self.scales.dtype.itemsize
        return self.values.shape[1] * self.values.dtype.itemsize + scale


class Loss(NamedTuple):
    """What a storage costs.

    Attributes:
        storage: its name.
        bytes_per_item: of one vector.
        mean_ap: mAP with the gallery stored so.
        lost: mAP with float32, less `mean_ap`.
    """

    storage: str
    bytes_per_item: int
    mean_ap: float
    lost: float


class Found(NamedTuple):
    """The nearest so far, sorted by distance and then by index.

    Attributes:
        distances: inf where there are no more.
        indices: into the gallery; anything where the distance is inf.
    """

    distances: Float[Any, "*n q k"]
    indices: Int[Any, "*n q k"]


def nearest(
    queries: Shaped[np.ndarray, "q d"] | Shaped[Array, "q d"],
    gallery: Vectors | Stored,
    k: int,
    *,
    mesh: Mesh | None = None,
    distance: Distance = pairwise_euclidean,
    merge_on: Literal["host", "device"] | None = None,
    query_block: int = QUERY_BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k nearest gallery items of each query, exactly.

    Smaller distances stand first, and the lower index among equal ones: what a stable sort of the
    distances would give. They are compared as `distance` rounds them, after the root, so the result
    depends on the blocks only as far as the distances do: a product's last bits may differ with
    its shape. On the host the blocks are the same for every number of devices.

    Args:
        queries: one vector in each row.
        gallery: likewise, or as `store` made it; restored to float32 a block at a time. Rows that
            lie on the devices already, divided among them, stay there for `merge_on="device"`.
        k: how many.
        mesh: the devices that the gallery is divided among, of one machine; all by default.
        distance: `(queries, block of the gallery) -> "q g"`, compiled; smaller is more alike.
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
        UserError: the widths differ, k or a block is not positive, a vector is not finite, or
            `merge_on` is neither.
    """
    queries = np.asarray(queries)
    gallery = gallery if isinstance(gallery, Stored) else Stored(gallery)
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
    search = _on_host if merge_on == "host" else _on_devices
    tiles = list(blocks(queries, len(queries), query_block))
    if not tiles:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
    keys = np.concatenate(search(tiles, gallery, k, mesh, distance, gallery_block))
    far = _distances_of(keys)
    return np.where(np.isinf(far), -1, (keys & 0xFFFFFFFF).astype(np.int64)), far


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


@partial(jax.jit, static_argnames="distance")
def _distances(
    queries: Shaped[Array, "q d"], block: Stored, distance: Distance
) -> Float[Array, "q g"]:
    return distance(queries.astype(jnp.float32), restore(block)).astype(jnp.float32)


def _on_host(
    tiles: list[Shaped[np.ndarray, "_ d"]],
    gallery: Stored,
    k: int,
    mesh: Mesh,
    distance: Distance,
    block: int,
) -> list[UInt64[np.ndarray, "_ k"]]:
    """Of each tile of queries. A thread for each device, which has a stretch of the gallery."""
    gallery = jax.tree.map(np.asarray, gallery)

    def stretch(device: jax.Device, first: int, end: int) -> list[UInt64[np.ndarray, "_ k"]]:
        placed = jax.device_put(tiles, device)

        def computed() -> Iterator[tuple[int, int, Any]]:
            for start in range(first, end, block):
                rows = slice(start, min(start + block, end))
                part = jax.device_put(gallery.take(rows), device)
                for i, tile in enumerate(placed):
                    yield i, start, _in_runs(tile, part, distance)

        found = [_keys(*_nothing((len(tile), k))) for tile in tiles]
        # While this block is looked at, the device computes the next two.
        for i, start, (far, least, finite) in _ahead(computed()):
            if not finite:
                raise _not_finite()
            _look_at(found[i], np.asarray(far), np.asarray(least), start)
        return found

    # Whole blocks, the same for every number of devices: so are the last bits of the distances.
    num_blocks = -(-gallery.size // block)
    ends = [min(num_blocks * i // mesh.size * block, gallery.size) for i in range(mesh.size + 1)]
    with ThreadPoolExecutor(mesh.size) as pool:
        stretches = list(pool.map(stretch, mesh.devices.flat, ends, ends[1:]))
    return [_merged(parts, k) for parts in zip(*stretches)]


def _merged(parts: Iterable[UInt64[np.ndarray, "q k"]], k: int) -> UInt64[np.ndarray, "q k"]:
    """The k nearest among the nearest of several stretches of a gallery."""
    return np.sort(np.concatenate(list(parts), axis=1), axis=1)[:, :k]


def _ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items; each is given out after the next two were asked for."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _nothing(shape: tuple[int, ...]) -> Found:
    return Found(np.full(shape, np.inf, np.float32), np.zeros(shape, np.int32))


@partial(jax.jit, static_argnames="distance")
def _in_runs(
    queries: Shaped[Array, "q d"], block: Stored, distance: Distance
) -> tuple[Float[Array, "q padded"], Float[Array, "q runs"], Bool[Array, ""]]:
    """Distances, filled up to whole runs with inf, the least of each run, and `_finite`."""
    far = _distances(queries, block, distance)
    finite = _finite(far)
    if short := -far.shape[1] % RUN:
        far = jnp.pad(far, ((0, 0), (0, short)), constant_values=jnp.inf)
    return far, far.reshape(len(far), -1, RUN).min(axis=2), finite


def _finite(far: Float[Array, "q g"]) -> Bool[Array, ""]:
    """Whether all vectors are: one that is not shows in its whole row or column."""
    return jnp.isfinite(far[0]).all() & jnp.isfinite(far[:, 0]).all()


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


def _not_finite() -> UserError:
    return UserError("a query or gallery item is not at a finite distance; expected finite vectors")


def _on_devices(
    tiles: list[Shaped[np.ndarray, "_ d"]],
    gallery: Stored,
    k: int,
    mesh: Mesh,
    distance: Distance,
    block: int,
) -> list[UInt64[np.ndarray, "_ k"]]:
    """Of each tile of queries. The gallery comes in slabs, divided among the devices."""
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    placed = [sharding.put(tile, everywhere) for tile in tiles]
    found = [sharding.put(_nothing((mesh.size, len(tile), k)), divided) for tile in tiles]
    step = partial(_step, distance=distance, block=block, mesh=mesh)

    def steps() -> Iterator[Bool[Array, " n"]]:
        for start, slab in _slabs(gallery, mesh, block):
            for i, tile in enumerate(placed):
                found[i], finite = step(found[i], tile, slab, start, gallery.size)
                yield finite

    # Waits for the step before the last two, so no more than three slabs are on the devices.
    for finite in _ahead(steps()):
        if not np.all(finite):
            raise _not_finite()
    return [_merged(_keys(*map(np.asarray, each)), k) for each in found]


def _slabs(gallery: Stored, mesh: Mesh, block: int) -> Iterator[tuple[int, Stored]]:
    """The whole of a gallery that lies on devices; a block for each device of one that does not."""
    divided = sharding.split(mesh)
    if isinstance(gallery.values, Array) and gallery.size and gallery.size % mesh.size == 0:
        yield 0, jax.device_put(gallery, divided)
        return
    gallery = jax.tree.map(np.asarray, gallery)
    rows = sharding.round_up(min(block * mesh.size, gallery.size), mesh.size)
    starts = range(0, gallery.size, max(rows, 1))
    for start, slab in zip(starts, blocks(gallery, gallery.size, max(rows, 1))):
        yield start, sharding.put(pad(slab, rows) if slab.size < rows else slab, divided)


@partial(jax.jit, static_argnames=("distance", "block", "mesh"), donate_argnums=0)
def _step(
    found: Found,
    queries: Shaped[Array, "q d"],
    slab: Stored,
    start: Int[Array, ""] | int,
    end: Int[Array, ""] | int,
    distance: Distance,
    block: int,
    mesh: Mesh,
) -> tuple[Found, Bool[Array, " n"]]:
    """The nearest so far on each device, after a slab that begins with item `start`.

    Rows of the slab from item `end` on are padding. Also whether the distances are finite.
    """

    def on_one(found: Found, queries: Any, slab: Stored, start: Any, end: Any) -> Any:
        rows = slab.size
        length = min(block, rows)
        own = start + jax.lax.axis_index(sharding.AXIS) * rows

        def look(i: Any, carry: Any) -> Any:
            kept, finite = carry
            # The last block is moved forward to end with the slab; what it repeats is left out.
            at = jnp.minimum(i * length, rows - length)
            part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, at, length), slab)
            far = _distances(queries, part, distance)
            finite &= _finite(far)
            item = at + jnp.arange(length)
            new = (item >= i * length) & (own + item < end)
            far = jnp.where(jnp.broadcast_to(new, far.shape), far, jnp.inf)
            # top_k puts -0 before 0, which are equal.
            far = jnp.where(far == 0, 0.0, far)
            nearest, columns = jax.lax.top_k(-far, min(kept.distances.shape[1], length))
            both = jnp.concatenate([-kept.distances, nearest], axis=1)
            which = jnp.concatenate([kept.indices, own + at + columns], axis=1)
            # Equal ones keep their order, and all that was kept has lower indices.
            both, columns = jax.lax.top_k(both, kept.distances.shape[1])
            return Found(-both, jnp.take_along_axis(which, columns, axis=1)), finite

        kept = jax.tree.map(lambda x: x[0], found)
        kept, finite = jax.lax.fori_loop(0, -(-rows // length), look, (kept, jnp.array(True)))
        return jax.tree.map(lambda x: x[None], (kept, finite))

    spec, whole = PartitionSpec(sharding.AXIS), PartitionSpec()
    return jax.shard_map(
        on_one,
        mesh=mesh,
        in_specs=(spec, whole, spec, whole, whole),
        out_specs=spec,
        check_vma=False,  # The distance is anyone's, and may start a loop from constants.
    )(found, queries, slab, jnp.asarray(start), jnp.asarray(end))


def store(features: Vectors, storage: Storage) -> Stored:
    """Features in float32 (4 bytes a number), float16 (2) or int8 (1, and 4 for each item).

    Args:
        features: one vector in each row. float32 ones are not copied where they stay so.
        storage: which. What it costs of mAP: `storage_loss`.

    Raises:
        UserError: there is no such storage, or the features do not fit it.
    """
    if storage not in STORAGES:
        raise UserError(
            f"storage is {storage!r}; expected {', '.join(STORAGES[:-1])} or {STORAGES[-1]}"
            f"{errors.nearest(storage, STORAGES)}"
        )
    features = np.asarray(features)
    as_is = storage == "float32"
    values = features.astype(np.float32, copy=False) if as_is else np.empty(features.shape, storage)
    scales = np.ones(len(features), np.float32) if storage == "int8" else None
    limit = np.finfo(np.float16 if storage == "float16" else np.float32).max
    for start in range(0, len(features), PART):
        rows = slice(start, start + PART)
        part = features[rows].astype(np.float32, copy=False)
        # NaN is not below the limit either.
        fits = np.abs(part).max(axis=1, initial=0) <= limit
        if not fits.all():
            raise UserError(
                f"the features of item {start + np.argmin(fits)} are not all finite and within"
                f" {limit:.5g} of zero; expected so for storage {storage}"
            )
        if storage == "float16":
            values[rows] = part
        elif scales is not None:
            scale = np.abs(part).max(axis=1, initial=0) / MAX_INT8
            scales[rows] = scale = np.where(scale > 0, scale, np.float32(1))
            values[rows] = np.rint(part / scale[:, None]).clip(-MAX_INT8, MAX_INT8)
    return Stored(values, scales)


def restore(block: Stored) -> Float[Array, "g d"]:
    """Vectors in float32, on the device."""
    values = jnp.asarray(block.values).astype(jnp.float32)
    return values if block.scales is None else values * jnp.asarray(block.scales)[:, None]


def save(path: Path, stored: Stored) -> None:
    """Writes one `.npz`, not compressed: `values`, and `scales` where there are any.

    Raises:
        UserError: nothing can be written there.
    """
    arrays = {name: part for name, part in stored._asdict().items() if part is not None}
    try:
        npz.write(path, arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot write the features ({error.strerror})") from None


def load(path: Path) -> Stored:
    """Reads what `save` wrote. Nothing in the file is run, and it is not larger in memory.

    Raises:
        UserError: the file is missing, damaged, or another's.
    """
    try:
        with npz.opened(path) as arrays:
            names = set(arrays.files)
            if not {"values"} <= names <= set(Stored._fields):
                raise ValueError(f"it holds {', '.join(sorted(names)) or 'nothing'}")
            stored = Stored(*(arrays[name] for name in Stored._fields if name in names))
        values, scales = stored
        if values.ndim != 2 or values.dtype not in STORAGES:
            raise ValueError(f"its values are {values.dtype} of shape {values.shape}")
        if (scales is not None) != (values.dtype == np.int8):
            raise ValueError("scales belong to int8 values, and only to those")
        if scales is not None and (scales.dtype, scales.shape) != (np.float32, values.shape[:1]):
            raise ValueError(f"its scales are {scales.dtype} of shape {scales.shape}")
        if scales is not None and not np.all((scales > 0) & np.isfinite(scales)):
            raise ValueError("a scale is not a positive number")
        return stored
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds.
        raise UserError(
            f"{path}: expected stored features, as jaxreid.search.save writes them"
            f" ({npz.reason(error)})"
        ) from None


def storage_loss(
    queries: Float[np.ndarray, "q d"],
    gallery: Float[np.ndarray, "g d"],
    q_pids: Int[np.ndarray, " q"],
    g_pids: Int[np.ndarray, " g"],
    q_camids: Int[np.ndarray, " q"],
    g_camids: Int[np.ndarray, " g"],
    *,
    distance: Distance = pairwise_euclidean,
) -> list[Loss]:
    """mAP with a gallery in each storage, and what it is short of float32's.

    Queries stay in float32: they are compared once, and not stored.

    Args:
        queries: features.
        gallery: features.
        q_pids: person of each query.
        g_pids: person of each gallery item; -1 is junk.
        q_camids: camera of each query.
        g_camids: camera of each gallery item.
        distance: see `nearest`.

    Raises:
        UserError: the features do not fit a storage.
    """
    losses: list[Loss] = []
    for storage in STORAGES:
        stored = store(gallery, storage)
        columns = [
            np.asarray(_distances(jnp.asarray(queries), block, distance))
            for block in blocks(stored, stored.size, GALLERY_BLOCK)
        ]
        distmat = np.concatenate(columns, axis=1)
        mean_ap = evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids).mean_ap
        best = losses[0].mean_ap if losses else mean_ap
        losses.append(Loss(storage, stored.bytes_per_item, mean_ap, best - mean_ap))
    return losses


def to_faiss(
    features: Vectors | Stored,
    factory: str = "Flat",
    *,
    path: Path | None = None,
    train_on: int = 262_144,
    seed: int = 0,
) -> Any:
    """A FAISS index over Euclidean distances, trained where it needs that, and filled.

    `index.search(queries, k)` returns distances, *squared*, and indices; and -1 where there are
    no more.

    Args:
        features: one vector in each row; item i has the id i.
        factory: the kind, in FAISS's own words: `Flat` is exact, `HNSW32` a graph, `IVF1024,Flat`
            1,024 lists of which `index.nprobe` are searched.
        path: where `faiss.write_index` writes it as well.
        train_on: an index that needs training sees this many items at most, drawn without
            replacement.
        seed: of that draw.

    Raises:
        UserError: FAISS is missing, it does not know the factory, it needs more items for
            training, a vector is not finite, or nothing can be written there.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "an index needs FAISS; install the extra 'search' (pip install 'jaxreid[search]')"
        ) from error
    stored = features if isinstance(features, Stored) else store(features, "float32")
    stored = jax.tree.map(np.asarray, stored)

    def vectors(rows: Any) -> Float[np.ndarray, "n d"]:
        return np.asarray(restore(stored.take(rows)))

    try:
        index = faiss.index_factory(stored.values.shape[1], factory, faiss.METRIC_L2)
    except RuntimeError as error:
        raise UserError(
            f"FAISS does not know the factory {factory!r} for vectors of"
            f" {stored.values.shape[1]} numbers ({_reason(error)}); expected one like Flat,"
            " 'IVF1024,Flat' or HNSW32"
        ) from None
    try:
        if not index.is_trained:
            rng = np.random.default_rng(seed)
            chosen = rng.choice(stored.size, min(train_on, stored.size), replace=False)
            index.train(vectors(np.sort(chosen)))
    except RuntimeError as error:
        raise UserError(
            f"FAISS cannot train {factory!r} with {min(train_on, stored.size)} items"
            f" ({_reason(error)}); expected more of them, or fewer lists"
        ) from None
    for start in range(0, stored.size, PART):
        index.add(vectors(slice(start, start + PART)))
    if path is not None:
        try:
            faiss.write_index(index, str(path))
        except RuntimeError as error:
            raise UserError(f"{path}: cannot write the index ({_reason(error)})") from None
    return index


def _reason(error: RuntimeError) -> str:
    """What FAISS says, without the place in its source."""
    return " ".join(str(error).rpartition("failed: ")[2].rpartition("Error: ")[2].split())
