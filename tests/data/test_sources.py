"""The three sources give the same images for the same plan."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jaxreid.config import Data
from jaxreid.data import builders, index, pipeline
from jaxreid.data.sources import Labelled, from_arrays, open_source
from jaxreid.errors import UserError

SIZE = (48, 24)  # smaller than the files: the resize has to antialias


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(pipeline, "WAITS", (0.0, 0.0, 0.0))


PLAN = [np.array([3, 1, 4]), np.array([1, 5, 0]), np.array([2])]


@pytest.fixture(scope="module")
def sources(market, tmp_path_factory):
    out = tmp_path_factory.mktemp("tfds")
    builders.prepare(index.load("synthetic", market), out)
    config = Data(name="synthetic", root=str(market))
    return {
        "files": open_source(config),
        "memory": open_source(dataclasses.replace(config, source="memory")),
        "tfds": open_source(dataclasses.replace(config, source="tfds", root=str(out))),
    }


def read(source, split="train", plan=PLAN, size=SIZE):
    return list(source.images(split, plan, size))


@pytest.mark.parametrize("split", ["train", "query", "gallery"])
def test_files_and_tfds_are_equal_to_the_bit(sources, split):
    for a, b in zip(read(sources["files"], split), read(sources["tfds"], split), strict=True):
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)


def test_files_and_memory_are_equal_to_the_bit(sources):
    for rows, a, b in zip(PLAN, read(sources["files"]), read(sources["memory"]), strict=True):
        assert a.shape == b.shape == (len(rows), *SIZE, 3)
        np.testing.assert_array_equal(a, b)


def test_decoding_is_pillows_where_nothing_is_resized(sources, market):
    train = sources["files"].data.train
    (images,) = read(sources["files"], plan=[np.array([0, 7])], size=(64, 32))
    for row, image in zip((0, 7), images):
        with Image.open(train.path(row)) as file:
            np.testing.assert_array_equal(image, np.asarray(file.convert("RGB")))


def test_an_empty_plan(sources):
    assert read(sources["files"], plan=[]) == read(sources["memory"], plan=[]) == []


def test_a_file_that_does_not_decode_is_named(market, tmp_path):
    root = tmp_path / "market"
    root.mkdir()
    for folder in ("bounding_box_train", "query", "bounding_box_test"):
        (root / folder).mkdir()
        for file in (market / folder).glob("*.jpg"):
            (root / folder / file.name).write_bytes(file.read_bytes())
    source = open_source(Data(name="synthetic", root=str(root)))
    broken = source.data.train.path(4)
    with open(broken, "r+b") as file:
        file.truncate(200)
    images = source.images("train", [np.array([0, 1, 2]), np.array([3, 4, 5])], SIZE)
    assert next(images).shape == (3, *SIZE, 3)
    with pytest.raises(UserError, match=rf"{broken}: not an image that decodes"):
        list(images)
    source = open_source(Data(name="synthetic", root=str(root), source="memory"))
    with pytest.raises(UserError, match=rf"{broken}: not an image that decodes"):
        list(source.images("train", PLAN, SIZE))


def test_a_file_that_is_gone_is_named(market, tmp_path):
    (tmp_path / "data.csv").write_text(
        "path,pid,camid,split\n"
        + "".join(f"{split}.png,{pid},{pid},{split}\n" for pid, split in enumerate(index.SPLITS, 1))
    )
    for split in index.SPLITS:
        Image.new("RGB", (24, 48)).save(tmp_path / f"{split}.png")
    source = open_source(Data(name="csv", root=str(tmp_path / "data.csv")))
    (tmp_path / "query.png").unlink()
    with pytest.raises(UserError, match=r"query\.png: not an image that decodes"):
        read(source, "query", [np.array([0])])


def test_no_root():
    with pytest.raises(UserError, match=r"data\.root is not set: the folder of market1501"):
        open_source(Data())


def test_arrays_in_memory():
    rng = np.random.default_rng(0)
    pids = np.array([30, 10, 10, 30])
    images = rng.integers(0, 255, (4, *SIZE, 3), np.uint8)
    labelled = Labelled(images, pids, np.array([1, 2, 1, 2]))
    source = from_arrays(labelled, labelled, labelled)
    assert source.data.num_ids == 2
    assert source.data.train.pids.tolist() == [1, 0, 0, 1]
    assert source.data.query.pids.tolist() == [30, 10, 10, 30]
    (got,) = source.images("gallery", [np.array([2, 0])], SIZE)
    np.testing.assert_array_equal(got, images[[2, 0]])


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_joints_come_in_pixels_of_the_images_that_are_asked_for(market, kind):
    config = Data(name="synthetic", root=str(market), source=kind, joints="joints.npz")
    source = open_source(config)
    with np.load(market / "joints.npz") as there:
        true = dict(zip(there["names"].tolist(), there["joints"]))
    query = source.data.query
    rows = np.array([3, 0, 5])
    got = source.bodies.at("query", rows, (128, 96))
    for row, joints in zip(rows, got):
        want = true[str(query.paths[row])]
        sure = want[:, 2] >= 0.2
        if sure.all():
            # The files are 64 x 32.
            np.testing.assert_allclose(joints, want * [3, 2, 1], rtol=1e-5, atol=1e-3)
    assert sum((true[str(p)][:, 2] >= 0.2).all() for p in query.paths[rows]) > 0
    assert source.bodies.summary.startswith("joints: ")
    total = sum(split.size for split in source.data.splits.values())
    assert f"of {total} images" in source.bodies.summary


def test_joints_that_are_not_there(market):
    config = Data(name="synthetic", root=str(market), joints="joint.npz")
    with pytest.raises(UserError, match=r"joint.npz: not found; .*did you mean 'joints.npz'"):
        open_source(config)
    assert open_source(Data(name="synthetic", root=str(market))).bodies is None
