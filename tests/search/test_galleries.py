"""Databases of others, with the real packages: what goes in comes back as by sorting."""

import gc

import lancedb
import numpy as np
import pytest
from qdrant_client import QdrantClient

from jaxreid.errors import UserError
from jaxreid.search import galleries, to_faiss

# Qdrant's client leaves a connection of its own open, which Python 3.13 says.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")


@pytest.fixture(autouse=True)
def _collected():
    """It is said here, and not in a test that comes later."""
    yield
    gc.collect()


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


@pytest.fixture(params=["qdrant", "lancedb"])
def keeper(request, tmp_path):
    """A database, and the two functions for it."""
    if request.param == "qdrant":
        client = QdrantClient(path=str(tmp_path / "qdrant"))
        yield client, galleries.to_qdrant, galleries.from_qdrant
        client.close()
    else:
        db = lancedb.connect(str(tmp_path / "lance"))
        yield db, galleries.to_lancedb, galleries.from_lancedb


def test_the_nearest_come_back_as_by_sorting(keeper, vectors):
    db, write, read = keeper
    write(db, "people", vectors[:30], {"path": [f"{i}.jpg" for i in range(30)]})
    found = read(db, "people", vectors[28:], 7)
    apart = np.linalg.norm(vectors[28:, None] - vectors[None, :30], axis=-1)
    np.testing.assert_array_equal(found, np.argsort(apart, axis=1)[:, :7])
    np.testing.assert_array_equal(read(db, "people", vectors[:1], 32)[0, 30:], [-1, -1])


def test_labels_stand_beside_the_vectors(vectors, tmp_path):
    paths = [f"{i}.jpg" for i in range(40)]
    db = lancedb.connect(str(tmp_path / "lance"))
    galleries.to_lancedb(db, "people", vectors, {"path": paths})
    assert db.open_table("people").search(vectors[3]).limit(1).to_list()[0]["path"] == "3.jpg"
    client = QdrantClient(":memory:")
    galleries.to_qdrant(client, "people", vectors, {"path": paths})
    (point,) = client.query_points("people", query=vectors[3], limit=1).points
    client.close()
    assert point.payload == {"path": "3.jpg"}


def test_what_cannot_be_is_one_line(keeper, vectors):
    db, write, _ = keeper
    with pytest.raises(UserError, match="39 of 'path'; expected one for each of 40 items"):
        write(db, "people", vectors, {"path": ["x"] * 39})
    write(db, "people", vectors)
    with pytest.raises(UserError, match=r"people.*already.*; expected another name"):
        write(db, "people", vectors)


def test_candidates_are_ranked_by_the_methods_own_distance(of_photos, photo_config):
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 255, (9, 64, 32, 3), np.uint8))
    gallery, queries = of_photos(pictures[:6]), of_photos(pictures[6:], "query")
    vectors = of_photos.vectors(gallery)
    np.testing.assert_allclose(vectors, np.asarray(gallery.x).mean(axis=1), atol=1e-6)
    index = to_faiss(vectors)
    _, candidates = index.search(of_photos.vectors(queries), 4)
    candidates[1, 3] = -1
    indices, distances = of_photos.rank(queries, gallery, top=3, candidates=candidates)
    whole, far = of_photos.rank(queries, gallery, top=6)
    for i in range(3):
        kept = np.isin(whole[i], candidates[i][candidates[i] >= 0])
        np.testing.assert_array_equal(indices[i], whole[i][kept][:3])
        np.testing.assert_allclose(distances[i], far[i][kept][:3], atol=5e-5)  # Small ones cancel.
    few, none = of_photos.rank(queries, gallery, top=3, candidates=np.array([[5], [-1], [0]]))
    np.testing.assert_array_equal(few, [[5, -1, -1], [-1, -1, -1], [0, -1, -1]])
    assert np.isinf(none[1]).all()


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        ([[0, 1]], "shape (1, 2); expected a row of indices for each of 2 queries"),
        ([[0], [3]], "from 0 to 3; expected indices into a gallery of 3 items"),
        ([[0], [-2]], "from -2 to 0"),
    ],
)
def test_candidates_of_something_else_are_one_line(of_photos, candidates, said):
    pictures = list(np.zeros((3, 64, 32, 3), np.uint8))
    with pytest.raises(UserError) as error:
        of_photos.rank(pictures[:2], pictures, candidates=np.array(candidates))
    assert said in str(error.value)
