"""What a smaller storage of vectors costs, and the way to FAISS for what is approximate.

`nearest` is exact. For more than a machine holds, or where approximate search will do, `to_faiss`
makes an index of any of FAISS's kinds.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxreid.errors import UserError
from jaxreid.matching import rank_features
from jaxreid.neighbours import GALLERY_BLOCK, Distance, of_vectors
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.storage import PART, STORAGES, Stored, Vectors, restore, store


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
        labels = q_pids, g_pids, q_camids, g_camids
        ranking = rank_features(
            of_vectors(distance), queries, stored, *labels, gallery_block=GALLERY_BLOCK
        )
        mean_ap = ranking.mean_ap
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
