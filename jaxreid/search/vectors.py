"""Exact search among features, their storage, and the way to FAISS for what is approximate.

`nearest` compares every query with every gallery item and keeps the k nearest, in blocks, so a
gallery of a million vectors needs little memory beside its own. The gallery is divided among the
devices of one machine; each finds its own k nearest, and these are merged. For more than a machine
holds, or where approximate search will do, `to_faiss` makes an index of any of FAISS's kinds.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped

from jaxreid import errors
from jaxreid.errors import UserError
from jaxreid.extract import blocks
from jaxreid.metrics.ranking import evaluate_rank
from jaxreid.neighbours import GALLERY_BLOCK, QUERY_BLOCK, Distance, MergeOn, find_nearest
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.search import npz

Storage = Literal["float32", "float16", "int8"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
MAX_INT8 = 127  # -128 is left unused, so that a vector and its negative are stored alike.

Vectors = Shaped[np.ndarray, "g d"] | Shaped[Array, "g d"]

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


def nearest(
    queries: Shaped[np.ndarray, "q d"] | Shaped[Array, "q d"],
    gallery: Vectors | Stored,
    k: int,
    *,
    mesh: Mesh | None = None,
    distance: Distance = pairwise_euclidean,
    merge_on: MergeOn | None = None,
    query_block: int = QUERY_BLOCK,
    gallery_block: int = GALLERY_BLOCK,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """The k nearest gallery items of each query, exactly: `find_nearest` among vectors.

    Args:
        queries: one vector in each row.
        gallery: likewise, or as `store` made it; restored to float32 a block at a time.
        k: how many.
        mesh: see `jaxreid.neighbours.find_nearest`.
        distance: `(queries, block of the gallery) -> "q g"`, compiled; smaller is more alike.
        merge_on: see `jaxreid.neighbours.find_nearest`, and for what follows.
        query_block: how many queries at a time.
        gallery_block: how many gallery items of each device at a time.

    Returns:
        Indices into the gallery and the distances to them, nearest first, and the lower index
        first among equal ones. Where the gallery has fewer than k items, what is missing has index
        -1 and distance inf.

    Raises:
        UserError: the widths differ, k or a block is not positive, a vector is not finite, or
            `merge_on` is neither.
    """
    gallery = gallery if isinstance(gallery, Stored) else Stored(gallery)
    if queries.shape[1] != gallery.values.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} numbers each and gallery items"
            f" {gallery.values.shape[1]}; expected the same"
        )
    return find_nearest(
        _of_stored(distance),
        np.asarray(queries),
        gallery,
        k,
        mesh=mesh,
        merge_on=merge_on,
        query_block=query_block,
        gallery_block=gallery_block,
    )


def _of_stored(distance: Distance) -> Distance:
    """A distance to vectors as they are kept. The same one is compiled once."""
    return jax.tree_util.Partial(_to_stored, jax.tree_util.Partial(distance))


def _to_stored(
    distance: Distance, queries: Shaped[Array, "q d"], block: Stored
) -> Float[Array, "q g"]:
    return distance(queries.astype(jnp.float32), restore(block)).astype(jnp.float32)


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
    between = jax.jit(_of_stored(distance))
    losses: list[Loss] = []
    for storage in STORAGES:
        stored = store(gallery, storage)
        columns = [
            np.asarray(between(queries, block))
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
