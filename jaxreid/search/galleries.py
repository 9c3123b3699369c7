"""Galleries that others keep: vectors go there, and candidates come back.

    features = reid(paths)
    to_qdrant(client, "people", reid.vectors(features), {"path": paths})
    candidates = from_qdrant(client, "people", reid.vectors(queries), 100)
    indices, distances = reid.rank(queries, features, top=20, candidates=candidates)

and with LanceDB likewise; with FAISS, by `to_faiss` and its index's own `search`. Their distance is
the Euclidean one of `Extractor.vectors`. For a method that compares vectors that is its own; for
one that compares pairs it chooses the candidates, and `Extractor.rank` ranks these exactly.

Items have the ids 0, 1, ... in the order of the vectors.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from jaxreid.errors import UserError

if TYPE_CHECKING:
    from lancedb import DBConnection
    from qdrant_client import QdrantClient

Vectors = Float[np.ndarray, "n d"]
Labels = Mapping[str, Sequence[Any]]


def to_qdrant(
    client: "QdrantClient", collection: str, vectors: Vectors, labels: Labels | None = None
) -> None:
    """Makes a collection of Qdrant and fills it.

    Args:
        client: of a server, or `QdrantClient(path=...)`, which needs none.
        collection: its name, which is not taken yet.
        vectors: one for each item.
        labels: what stands beside each item, by name.

    Raises:
        UserError: the collection is there already, or labels are not one for each item.
    """
    from qdrant_client import models

    labels = _checked(vectors, labels)
    rows = ({name: of[i] for name, of in labels.items()} for i in range(len(vectors)))
    if client.collection_exists(collection):
        raise UserError(f"{collection}: there is such a collection already; expected another name")
    size = models.VectorParams(size=vectors.shape[1], distance=models.Distance.EUCLID)
    client.create_collection(collection, vectors_config=size)
    client.upload_collection(collection, vectors, payload=rows, ids=range(len(vectors)))


def from_qdrant(
    client: "QdrantClient", collection: str, queries: Vectors, k: int
) -> Int[np.ndarray, "n k"]:
    """The ids of each query's k nearest, nearest first; -1 where there are no more."""
    from qdrant_client import models

    asked = [models.QueryRequest(query=query.tolist(), limit=k) for query in queries]
    found = client.query_batch_points(collection, requests=asked)
    return _table([[int(point.id) for point in each.points] for each in found], k)


def to_lancedb(
    db: "DBConnection", name: str, vectors: Vectors, labels: Labels | None = None
) -> None:
    """Makes a table of LanceDB, whose columns are `id`, `vector` and the labels.

    Args:
        db: what `lancedb.connect(folder)` gave.
        name: of the table, which is not taken yet.
        vectors: one for each item.
        labels: what stands beside each item, by name.

    Raises:
        UserError: the table is there already, or labels are not one for each item.
    """
    import pyarrow as pa

    labels = _checked(vectors, labels)
    values = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns = {
        "id": pa.array(np.arange(len(vectors))),
        "vector": pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]),
        **{label: pa.array(list(of)) for label, of in labels.items()},
    }
    try:
        db.create_table(name, pa.table(columns))
    except ValueError as error:
        raise UserError(f"{name}: {error}; expected another name") from None


def from_lancedb(db: "DBConnection", name: str, queries: Vectors, k: int) -> Int[np.ndarray, "n k"]:
    """The ids of each query's k nearest, nearest first; -1 where there are no more."""
    table: Any = db.open_table(name)
    searches = (table.search(query).distance_type("l2").limit(k) for query in queries)
    return _table(
        [each.select(["id", "_distance"]).to_arrow()["id"].to_pylist() for each in searches], k
    )


def _checked(vectors: Vectors, labels: Labels | None) -> Labels:
    """The labels, if there is one of each for each item."""
    labels = labels or {}
    for name, values in labels.items():
        if len(values) != len(vectors):
            raise UserError(
                f"labels: {len(values)} of {name!r}; expected one for each of {len(vectors)} items"
            )
    return labels


def _table(ids: Sequence[Sequence[int]], k: int) -> Int[np.ndarray, "n k"]:
    table = np.full((len(ids), k), -1)
    for row, found in zip(table, ids):
        row[: len(found)] = found
    return table
