import io
import math
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreid import sharding
from jaxreid import storage as storage_module
from jaxreid.errors import UserError
from jaxreid.metrics import evaluate_rank
from jaxreid.ops import pairwise_euclidean
from jaxreid.search import (
    STORAGES,
    Stored,
    load,
    nearest,
    restore,
    save,
    storage_loss,
    store,
    to_faiss,
    vectors,
)


def mesh_of(devices):
    return sharding.make_mesh(jax.devices()[:devices])


def by_sorting(queries, gallery, k):
    """Every pair in Python's integers, sorted by distance and then by index."""
    indices = np.full((len(queries), k), -1)
    distances = np.full((len(queries), k), np.inf, np.float32)
    for i, a in enumerate(queries.tolist()):
        pairs = []
        for j, b in enumerate(gallery.tolist()):
            square = sum(int(x - y) ** 2 for x, y in zip(a, b))
            pairs.append((math.sqrt(square), j))
        for place, (distance, j) in enumerate(sorted(pairs)[:k]):
            indices[i, place], distances[i, place] = j, distance
    return indices, distances


def whole_numbers(rng, n, dim=3, most=2):
    """Distances are exact in float32, and many are equal."""
    return rng.integers(-most, most + 1, (n, dim)).astype(np.float32)


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
# Few sizes, so that few programs are compiled.
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    sizes=st.sampled_from([(4, 1), (4, 19), (5, 40)]),
    k=st.sampled_from([1, 4, 30]),
    devices=st.sampled_from([1, 8]),
    merge_on=st.sampled_from(["host", "device"]),
    query_block=st.sampled_from([4, 100]),
    gallery_block=st.sampled_from([3, 16, 100]),
    most=st.sampled_from([0, 1, 2, 50]),
)
def test_nearest_is_a_sort_by_distance_and_index(
    seed, sizes, k, devices, merge_on, query_block, gallery_block, most
):
    rng = np.random.default_rng(seed)
    queries, gallery = (whole_numbers(rng, n, most=most) for n in sizes)
    got = nearest(
        queries,
        gallery,
        k,
        mesh=mesh_of(devices),
        merge_on=merge_on,
        query_block=query_block,
        gallery_block=gallery_block,
    )
    assert_same(got, by_sorting(queries, gallery, k))


@pytest.mark.parametrize("merge_on", ["host", "device", None])
def test_fewer_items_than_k(merge_on):
    queries = np.array([[0, 0], [3, 4]], np.float32)
    gallery = np.array([[3, 4], [0, 0], [0, 0]], np.float32)
    indices, distances = nearest(queries, gallery, 5, merge_on=merge_on)
    assert indices.tolist() == [[1, 2, 0, -1, -1], [0, 1, 2, -1, -1]]
    assert distances.tolist() == [[0, 0, 5, np.inf, np.inf], [0, 5, 5, np.inf, np.inf]]
    assert (indices.dtype, distances.dtype) == (np.int64, np.float32)
    nothing, far = nearest(queries, gallery[:0], 2, merge_on=merge_on)
    assert nothing.tolist() == [[-1, -1]] * 2
    assert np.isinf(far).all()
    assert [x.shape for x in nearest(queries[:0], gallery, 2, merge_on=merge_on)] == [(0, 2)] * 2


@pytest.mark.parametrize("rows", [40, 37])
def test_a_gallery_on_the_devices(rows):
    rng = np.random.default_rng(0)
    queries, gallery = whole_numbers(rng, 4), whole_numbers(rng, rows)
    want = by_sorting(queries, gallery, 6)
    mesh = mesh_of(8)
    placed = jnp.asarray(gallery)
    if rows == 40:
        placed = jax.device_put(gallery, sharding.split(mesh))
    for merge_on in ("host", "device"):
        got = nearest(
            jnp.asarray(queries), placed, 6, mesh=mesh, merge_on=merge_on, gallery_block=3
        )
        assert_same(got, want)


def test_blocks_that_do_not_divide_a_device_s_rows():
    """5 rows on each device, in blocks of 3: the second block begins in the first."""
    gallery = np.arange(40, dtype=np.float32)[:, None]
    mesh = mesh_of(8)
    placed = jax.device_put(gallery, sharding.split(mesh))
    indices, _ = nearest(gallery[:1], placed, 12, mesh=mesh, merge_on="device", gallery_block=3)
    assert indices.tolist() == [list(range(12))]


def test_blocks_are_the_same_for_every_number_of_devices():
    gallery = np.arange(96, dtype=np.float32)[:, None]
    for devices in (1, 8):
        widths = set()

        def distance(queries, block, widths=widths):
            widths.add(len(block))
            return pairwise_euclidean(queries, block)

        indices, _ = nearest(
            gallery[:1], gallery, 2, mesh=mesh_of(devices), distance=distance, gallery_block=10
        )
        assert indices.tolist() == [[0, 1]]
        assert widths == {10, 6}


@pytest.mark.parametrize("merge_on", ["host", "device"])
@pytest.mark.parametrize("devices", [1, 8])
def test_any_distance(merge_on, devices):
    def signed(queries, gallery):
        products = queries @ gallery.T
        return products * jnp.broadcast_to(gallery[:, 0], products.shape)

    rng = np.random.default_rng(1)
    queries, gallery = whole_numbers(rng, 4, most=1), whole_numbers(rng, 50, most=1)
    far = queries @ gallery.T * gallery[:, 0]
    assert len(np.unique(np.signbit(far[far == 0]))) == 2  # Minus zero and zero are equal.
    got = nearest(
        queries,
        gallery,
        30,
        mesh=mesh_of(devices),
        distance=signed,
        merge_on=merge_on,
        gallery_block=4,
    )
    order = np.argsort(far, axis=1, kind="stable")[:, :30]
    assert_same(got, (order, np.take_along_axis(far, order, axis=1)))


@pytest.mark.parametrize("devices", [1, 8])
def test_rounded_distances_are_ranked_as_they_are(devices):
    """Long vectors close together: their distances are rounding, which a block's shape decides."""
    rng = np.random.default_rng(2)
    gallery = (rng.normal(size=16) * 50 + rng.normal(size=(96, 16)) * 0.01).astype(np.float32)
    queries = gallery[:5]
    euclidean = jax.jit(pairwise_euclidean)
    parts = [euclidean(queries, gallery[start : start + 10]) for start in range(0, 96, 10)]
    far = np.concatenate(parts, axis=1)
    assert len(np.unique(far[0])) < 90
    got = nearest(queries, gallery, 20, mesh=mesh_of(devices), gallery_block=10)
    order = np.argsort(far, axis=1, kind="stable")[:, :20]
    assert_same(got, (order, np.take_along_axis(far, order, axis=1)))


@pytest.mark.parametrize("merge_on", ["host", "device"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite(merge_on, bad):
    good = np.ones((30, 3), np.float32)
    broken = good.copy()
    broken[17, 1] = bad
    for queries, gallery in ((good, broken), (broken, good)):
        with pytest.raises(UserError, match="not at a finite distance"):
            nearest(queries, gallery, 2, merge_on=merge_on, gallery_block=4)


@pytest.mark.parametrize("merge_on", ["host", "device"])
def test_one_distance_that_is_not_a_number(merge_on):
    def distance(queries, gallery):
        return pairwise_euclidean(queries, gallery).at[2, 3].set(jnp.nan)

    vectors = np.ones((5, 3), np.float32)
    with pytest.raises(UserError, match="not at a finite distance"):
        nearest(vectors, vectors, 2, merge_on=merge_on, distance=distance)


def test_what_nearest_will_not_take():
    vectors = np.ones((4, 3), np.float32)
    with pytest.raises(UserError, match="queries have 3 numbers each and gallery items 2; expect"):
        nearest(vectors, Stored(vectors[:, :2]), 1)
    with pytest.raises(UserError, match="k is 0; expected 1 or more"):
        nearest(vectors, vectors, 0)
    with pytest.raises(UserError, match="gallery_block is -1; expected 1 or more"):
        nearest(vectors, vectors, 1, gallery_block=-1)


def test_storages_literally():
    features = np.array([[127, -64.4, 0], [0, 0, 0], [-0.5, 0.25, 0.1]], np.float32)
    kept = store(features, "int8")
    assert kept.values.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 64, 25]]
    np.testing.assert_allclose(kept.scales, [1, 1, 0.5 / 127], rtol=1e-6)
    assert (kept.size, kept.bytes_per_item) == (3, 7)
    half = store(features, "float16")
    assert half.values.tolist() == features.astype(np.float16).tolist()
    assert (half.scales, half.bytes_per_item) == (None, 6)
    # Of the smallest numbers the scale is rounded too.
    assert store(np.array([[190, -190]]) * 2.0**-149, "int8").values.tolist() == [[127, -127]]
    assert store(features, "float32").values is features
    assert store(features, "float32").bytes_per_item == 12


@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_stored_comes_back(storage, monkeypatch):
    monkeypatch.setattr(storage_module, "PART", 7)
    rng = np.random.default_rng(3)
    features = rng.normal(size=(50, 8)).astype(np.float32) * 10.0 ** rng.integers(-3, 4, (50, 1))
    features = features.astype(np.float32)
    back = np.asarray(restore(store(features, storage)))
    assert back.dtype == np.float32
    most = np.abs(features).max(axis=1, keepdims=True)
    allowed = {"float32": 0, "float16": most * 2.0**-11 + 2.0**-25, "int8": most * 0.5001 / 127}
    assert (np.abs(back - features) <= allowed[storage]).all()


@pytest.mark.parametrize("merge_on", ["host", "device"])
@pytest.mark.parametrize("storage", STORAGES)
def test_search_in_what_is_stored(storage, merge_on):
    rng = np.random.default_rng(4)
    queries, gallery = whole_numbers(rng, 4), whole_numbers(rng, 50, most=100)
    gallery[:, 0] = 127  # A scale of 1: int8 keeps whole numbers.
    got = nearest(queries, store(gallery, storage), 9, merge_on=merge_on, gallery_block=3)
    assert_same(got, by_sorting(queries, gallery, 9))


def test_what_cannot_be_stored():
    features = np.ones((100, 2), np.float32)
    with pytest.raises(UserError, match="storage is 'fp16'; expected float32, float16 or int8"):
        # The annotation knows the names, too.
        getattr(store, "__wrapped__", store)(features, "fp16")
    features[70, 1] = 7e4
    assert store(features, "int8").values[70].tolist() == [0, 127]
    with pytest.raises(UserError, match="item 70 are not all finite and within 65504 of zero"):
        store(features, "float16")
    features[71, 1] = np.nan
    for storage in ("float32", "int8"):
        with pytest.raises(UserError, match="item 71 are not all finite"):
            store(features, storage)


@pytest.mark.parametrize("storage", STORAGES)
def test_files_hold_the_same(storage, tmp_path):
    features = np.random.default_rng(5).normal(size=(20, 4)).astype(np.float32)
    stored = store(features, storage)
    path = tmp_path / "gallery.npz"
    save(path, stored)
    assert [p.name for p in tmp_path.iterdir()] == ["gallery.npz"]
    again = load(path)
    assert again.values.dtype == storage
    np.testing.assert_array_equal(again.values, stored.values)
    if storage == "int8":
        np.testing.assert_array_equal(again.scales, stored.scales)
    else:
        assert again.scales is None
    with pytest.raises(UserError, match="cannot write the features"):
        save(tmp_path / "nowhere" / "gallery.npz", stored)


def written(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def compressed():
    file = io.BytesIO()
    np.savez_compressed(file, values=np.zeros((1000, 100), np.float32))
    return file.getvalue()


def with_header(header):
    """An array of no bytes that says of itself what the header says."""
    file, member = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("values.npy", member.getvalue())
    return file.getvalue()


VALUES = np.arange(6, dtype=np.int8).reshape(2, 3)
SCALES = np.ones(2, np.float32)
WHOLE = written(values=VALUES, scales=SCALES)
FLIPPED = bytearray(WHOLE)
FLIPPED[WHOLE.index(VALUES.tobytes())] ^= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "not an .npz"),
        (b"\x80\x04K\x01.", "not an .npz"),
        (WHOLE[:-30], "not an .npz"),
        (bytes(FLIPPED), "CRC"),
        (compressed(), "compressed"),
        (written(other=VALUES), "it holds other"),
        (written(values=VALUES, scales=SCALES, more=SCALES), "it holds more, scales, values"),
        (written(), "it holds nothing"),
        (written(values=np.array([{}, []], object)), "allow_pickle"),
        (
            with_header({"descr": "<f4", "fortran_order": False, "shape": (10**14, 1)}),
            "llocate|size",
        ),
        (with_header({"descr": "<f4", "fortran_order": False, "shape": (1000, 256)}), "EOF"),
        (written(values=VALUES), "scales belong to int8"),
        (written(values=VALUES.astype(np.float32), scales=SCALES), "scales belong to int8"),
        (written(values=VALUES.astype(np.float64)), "values are float64"),
        (written(values=SCALES), r"of shape \(2,\)"),
        (written(values=VALUES, scales=SCALES[:1]), r"scales are float32 of shape \(1,\)"),
        (written(values=VALUES, scales=SCALES * np.nan), "not a positive number"),
        (written(values=VALUES, scales=SCALES * 0), "not a positive number"),
    ],
)
def test_files_that_are_not_ours(content, reason, tmp_path):
    path = tmp_path / "gallery.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: expected stored features")
    assert "\n" not in str(caught.value)


def people(rng, num=20, each=4, dim=16, spread=0.5):
    pids = np.repeat(np.arange(1, num + 1), each)
    camids = np.tile(np.arange(1, each + 1), num)
    features = rng.normal(size=(num, dim))[pids - 1] + spread * rng.normal(size=(num * each, dim))
    return features.astype(np.float32), pids, camids


def test_what_a_storage_costs(monkeypatch):
    monkeypatch.setattr(vectors, "GALLERY_BLOCK", 33)
    features, pids, camids = people(np.random.default_rng(6), spread=1.5)
    losses = storage_loss(features[::4], features, pids[::4], pids, camids[::4], camids)
    assert [(each.storage, each.bytes_per_item) for each in losses] == [
        ("float32", 64),
        ("float16", 32),
        ("int8", 20),
    ]
    for each in losses:
        gallery = restore(store(features, each.storage))
        far = np.asarray(pairwise_euclidean(jnp.asarray(features[::4]), gallery))
        want = evaluate_rank(far, pids[::4], pids, camids[::4], camids).mean_ap
        assert each.mean_ap == pytest.approx(want, abs=1e-6)
        assert each.lost == losses[0].mean_ap - each.mean_ap
    assert 0.3 < losses[0].mean_ap < 0.95
    assert abs(losses[1].lost) < 0.005
    assert abs(losses[2].lost) < 0.02


@pytest.mark.parametrize("storage", STORAGES)
def test_faiss_flat_is_the_same_search(storage, tmp_path):
    faiss = pytest.importorskip("faiss")
    rng = np.random.default_rng(7)
    queries, gallery = whole_numbers(rng, 5), whole_numbers(rng, 60, most=100)
    gallery[:, 0] = 127
    gallery = np.unique(gallery, axis=0)
    path = tmp_path / "gallery.faiss"
    index = to_faiss(store(gallery, storage), path=path)
    indices, distances = nearest(queries, gallery, 8)
    for each in (index, faiss.read_index(str(path))):
        squares, found = each.search(queries, 8)
        np.testing.assert_allclose(np.sqrt(squares), distances, rtol=1e-6)
        # FAISS does not say which of equal ones stands first.
        alone = (np.diff(distances, axis=1, prepend=-1) > 0) & (
            np.diff(distances, axis=1, append=np.inf) > 0
        )
        alone[:, -1] = False
        assert alone.sum() > 20
        np.testing.assert_array_equal(found[alone], indices[alone])


@pytest.mark.parametrize(
    ("factory", "least"), [("Flat", 1.0), ("IVF16,Flat", 0.9), ("HNSW16", 0.95)]
)
def test_faiss_finds_most_of_the_nearest(factory, least):
    pytest.importorskip("faiss")
    features, _, _ = people(np.random.default_rng(8), num=150, each=8)
    queries = features[::40]
    index = to_faiss(features, factory, train_on=800)
    assert index.ntotal == len(features)
    if factory.startswith("IVF"):
        index.nprobe = 8
    want, _ = nearest(queries, features, 10)
    _, found = index.search(queries, 10)
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(want, found)])
    assert recall >= least


def test_what_faiss_will_not_take(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    features = np.random.default_rng(9).normal(size=(100, 8)).astype(np.float32)
    with pytest.raises(UserError, match="does not know the factory 'Flatt' for vectors of 8") as e:
        to_faiss(features, "Flatt")
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match=r"'IVF512,Flat' with 100 items .*512") as e:
        to_faiss(features, "IVF512,Flat")
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="cannot train 'IVF64,Flat' with 50 items"):
        to_faiss(features, "IVF64,Flat", train_on=50)
    with pytest.raises(UserError, match="cannot write the index"):
        to_faiss(features, path=tmp_path / "nowhere" / "gallery.faiss")
    broken = features.copy()
    broken[3, 3] = np.nan
    with pytest.raises(UserError, match="item 3 are not all finite"):
        to_faiss(broken)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"the extra 'search' \(pip install 'jaxreid\[search"):
        to_faiss(features)
