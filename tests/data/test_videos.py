import json
import os
import re
import shutil

import numpy as np
import pytest

from jaxreid.data import index, videos
from jaxreid.errors import UserError
from tests.data.trees import duke_video_tree, ilids_tree, prid_tree, write_image, write_mat

ILIDS_SPLITS = "train-test people splits/train_test_splits_ilidsvid.mat"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, empty and apart."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/jaxreid/index"


def error_of(name, root, split=None):
    with pytest.raises(UserError) as error:
        index.load(name, root, split)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------- DukeMTMC-VideoReID


@pytest.mark.parametrize("above", ["DukeMTMC-VideoReID", "dukemtmc-vidreid/DukeMTMC-VideoReID"])
def test_duke_root_and_its_parent(tmp_path, above):
    home = duke_video_tree(tmp_path / "exp-01_c2" / above)
    here, there = index.load("duke_video", home), index.load("duke_video", tmp_path / "exp-01_c2")
    assert here.train.root == there.train.root == str(home)
    assert here.fingerprint() == there.fingerprint()


def test_duke_rows(tmp_path):
    data = index.load("duke_video", duke_video_tree(tmp_path))
    assert data.train.paths.tolist() == [
        "train/0001/0001/0001C6F0001X30725.jpg",
        "train/0001/0001/0001C6F0099X30823.jpg",
        "train/0001/0002/0001_C2_F0005_X41005.jpg",
        "train/0001/0002/0001_C2_F0103_X41103.jpg",
        "train/0012/0003/0012C1F0001X00001.jpg",
    ]
    assert data.train.pids.tolist() == [0, 0, 0, 0, 1]
    assert data.train.camids.tolist() == [6, 6, 2, 2, 1]
    assert data.train.frames.tolist() == [1, 99, 5, 103, 1]
    assert data.train.tracklets.tolist() == [0, 0, 1, 1, 2]
    assert data.train_pids.tolist() == [1, 12]
    gallery = data.gallery.tracks()
    assert gallery.pids.tolist() == [5, 5, 9]
    assert gallery.camids.tolist() == [2, 7, 8]
    assert gallery.length.tolist() == [2, 1, 2]
    assert gallery.ids.tolist() == [0, 1, 2]
    assert not data.shared_tracklets
    assert index.not_queries(data).tolist() == [True] * 3
    assert all(c.dtype == np.int32 for table in data.splits.values() for c in table[2:])
    assert data.summary() == (
        "duke_video: train 3 tracklets (5 frames) of 2 ids, query 1 (2 frames) of 1, gallery 3 "
        "(5 frames) (expected 2196/702, 702/702, 2636), 5 cameras"
    )
    assert index.warnings(data)[-1] == "duke_video: 3 gallery tracklets, expected 2636"


def test_duke_frames_are_sorted_by_number(tmp_path):
    folder = duke_video_tree(tmp_path) / "train/0012/0003"
    for file in ("0012C1F10000X1.jpg", "0012C1F0900X1.jpg", "0012C1F9999X1.jpg"):
        write_image(folder / file)
    train = index.load("duke_video", tmp_path).train
    assert train.frames.tolist()[4:] == [1, 900, 9999, 10000]


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("0012C2F0002X00002.jpg", "pid 12 by camera 1, pid 12 by camera 2"),
        ("0013C1F0002X00002.jpg", "pid 12 by camera 1, pid 13 by camera 1"),
    ],
)
def test_duke_tracklet_of_two(tmp_path, file, shown):
    folder = duke_video_tree(tmp_path) / "train/0012/0003"
    write_image(folder / file)
    assert error_of("duke_video", tmp_path) == (
        f"duke_video: the images in {folder} show {shown}; a tracklet has one camera, and the "
        "pid 12 of the folder above"
    )


def test_duke_tracklet_of_somebody_else(tmp_path):
    train = duke_video_tree(tmp_path) / "train"
    (train / "0012").rename(train / "0013")
    assert "0013/0003 show pid 12 by camera 1; a tracklet" in error_of("duke_video", tmp_path)


def test_duke_empty_folders_and_strange_names(tmp_path):
    query = duke_video_tree(tmp_path) / "query"
    (query / "0005/0099").mkdir()
    (query / "0005/0099/Thumbs.db").write_bytes(b"")
    assert re.search(
        r"query/0005/0099 is a tracklet without frames; expected .* 0001C6F0099X",
        error_of("duke_video", tmp_path),
    )
    write_image(query / "0005/0099/0005C12F0001X00100.jpg")
    assert "0005C12F0001X00100.jpg is not named like 0001C6" in error_of("duke_video", tmp_path)
    shutil.rmtree(query / "0005/0099")
    (query / "0006").mkdir()
    assert f"no folders in {query}/0006; expected a folder for each tracklet" in error_of(
        "duke_video", tmp_path
    )
    (query / "0006").rename(query / "six")
    assert "query/six is not named by a pid, like 0001" in error_of("duke_video", tmp_path)
    shutil.rmtree(query)
    assert re.search(
        rf"no {query} \(No such file or directory\); expected a folder for each person",
        error_of("duke_video", tmp_path),
    )
    shutil.rmtree(tmp_path / "gallery")
    assert re.search(
        r"no gallery/ in .*, nor in its DukeMTMC-VideoReID, .*; expected train/, query/",
        error_of("duke_video", tmp_path),
    )


def test_duke_is_kept_until_a_folder_changes(tmp_path, monkeypatch, cache):
    calls = []
    read = videos._duke_clips
    monkeypatch.setattr(videos, "_duke_clips", lambda *args: calls.append(args) or read(*args))
    home = duke_video_tree(tmp_path / "tree")
    first = index.load("duke_video", home)
    assert index.load("duke_video", home).fingerprint() == first.fingerprint()
    assert len(calls) == 3
    assert len(list(cache.iterdir())) == 1
    write_image(home / "gallery/0009/0007/0009C8F0003X00402.jpg")
    assert index.load("duke_video", home).gallery.size == 6
    write_image(home / "gallery/0009/0008/0009C1F0003X00402.jpg")
    assert index.load("duke_video", home).gallery.tracks().size == 4
    assert len(calls) == 9


# ---------------------------------------------------------------------- iLIDS-VID


def test_ilids_rows(tmp_path):
    data = index.load("ilids_vid", ilids_tree(tmp_path / "exp-01_c2"))
    assert data.train.root == str(tmp_path / "exp-01_c2/i-LIDS-VID")
    train = data.train.tracks()
    assert data.train_pids.tolist() == [9, 10, 319]
    assert train.pids.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.camids.tolist() == [1, 2, 1, 2, 1, 2]
    assert train.length.tolist() == [1, 2, 2, 2, 2, 2]
    assert train.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.query.paths.tolist() == [
        "sequences/cam1/person001/cam1_person001_00100.png",
        "sequences/cam1/person001/cam1_person001_00101.png",
        "sequences/cam1/person002/cam1_person002_00100.png",
        "sequences/cam1/person002/cam1_person002_00101.png",
        "sequences/cam1/person002/cam1_person002_00102.png",
        "sequences/cam1/person005/cam1_person005_00100.png",
        "sequences/cam1/person005/cam1_person005_00101.png",
        "sequences/cam1/person005/cam1_person005_00102.png",
    ]
    assert data.query.frames.tolist() == [100, 101, 100, 101, 102, 100, 101, 102]
    assert data.query.tracks().camids.tolist() == [1, 1, 1]
    assert data.gallery.tracks().pids.tolist() == [1, 2, 5]
    assert data.gallery.tracks().camids.tolist() == [2, 2, 2]
    assert (data.split, data.shared_tracklets, data.junk) == (0, False, 0)
    assert data.summary() == (
        "ilids_vid split 0: train 6 tracklets (11 frames) of 3 ids, query 3 (8 frames) of 3, "
        "gallery 3 (6 frames) (expected 300/150, 150/150, 150), 2 cameras"
    )


@pytest.mark.parametrize(
    ("split", "test"), [(1, [2, 5, 9]), (3, [9, 10, 319]), (4, [1, 10, 319]), (9, [9, 10, 319])]
)
def test_ilids_splits(tmp_path, split, test):
    data = index.load("ilids_vid", ilids_tree(tmp_path), split)
    assert data.split == split
    assert np.unique(data.query.pids).tolist() == np.unique(data.gallery.pids).tolist() == test
    assert sorted([*data.train_pids, *test]) == [1, 2, 5, 9, 10, 319]


def test_ilids_by_its_inner_folder_and_from_above(tmp_path):
    ilids_tree(tmp_path / "ilids-vid")
    prints = {
        index.load("ilids_vid", root, 2).fingerprint()
        for root in (tmp_path, tmp_path / "ilids-vid", tmp_path / "ilids-vid/i-LIDS-VID")
    }
    assert len(prints) == 1


def test_ilids_without_or_with_damaged_splits(tmp_path):
    file = ilids_tree(tmp_path) / ILIDS_SPLITS
    expected = re.escape(f"ls_set in {file} is ")
    for rows in ([[1, 2, 3, 4, 5, 5]] * 10, [[0, 1, 2, 3, 4, 5]] * 10, [[1, 2, 3, 4, 5, 6]] * 9):
        write_mat(file, "ls_set", rows)
        assert re.search(
            rf"{expected}{len(rows)} x 6; expected 10 rows that each hold 1 to 6, the number of "
            r"people in .*/cam1$",
            error_of("ilids_vid", tmp_path),
        )
    write_mat(file, "ls", [[1]])
    assert "has no ls_set, but 'ls'" in error_of("ilids_vid", tmp_path)
    file.write_bytes(file.read_bytes()[:140])
    assert re.search(r"cannot be read as a MATLAB|has no ls_set", error_of("ilids_vid", tmp_path))
    file.unlink()
    assert re.search(
        rf"no {re.escape(str(file))} \(No such file .*; expected a MATLAB file with the matrix ",
        error_of("ilids_vid", tmp_path),
    )


def test_ilids_people_who_are_not_there(tmp_path):
    sequences = ilids_tree(tmp_path) / "i-LIDS-VID/sequences"
    (sequences / "cam1/readme").mkdir()  # nobody
    assert index.load("ilids_vid", tmp_path).query.tracks().size == 3
    empty = sequences / "cam2/person009"
    for file in os.listdir(empty):
        (empty / file).unlink()
    assert f"{empty} is a tracklet without frames" in error_of("ilids_vid", tmp_path)
    empty.rmdir()
    assert f"no {empty} (No such file or directory)" in error_of("ilids_vid", tmp_path)
    write_image(empty / "first.png")
    assert f"{empty}/first.png is not named like 0001.png" in error_of("ilids_vid", tmp_path)
    shutil.rmtree(sequences / "cam1")
    assert f"no {sequences}/cam1 (No such" in error_of("ilids_vid", tmp_path)


# ---------------------------------------------------------------------- PRID2011


def test_prid_published_splits(tmp_path):
    prid_tree(tmp_path / "prid2011")
    for root in (tmp_path, tmp_path / "prid2011", tmp_path / "prid2011/prid_2011"):
        data = index.load("prid2011", root)
        assert data.train.root == str(tmp_path / "prid2011/prid_2011")
        assert data.train_pids.tolist() == [4]
        assert data.query.tracks().pids.tolist() == data.gallery.tracks().pids.tolist() == [1, 2]
    assert data.query.camids.tolist() == [1] * 44
    assert data.gallery.camids.tolist() == [2] * 44
    assert data.query.paths[21:23].tolist() == [
        "multi_shot/cam_a/person_0001/0022.png",
        "multi_shot/cam_a/person_0002/0001.png",
    ]
    assert data.query.frames[20:24].tolist() == [21, 22, 1, 2]
    assert data.train.tracks().camids.tolist() == [1, 2]
    assert data.summary() == (
        "prid2011 split 0: train 2 tracklets (44 frames) of 1 ids, query 2 (44 frames) of 2, "
        "gallery 2 (44 frames) (expected 178/89, 89/89, 89), 2 cameras"
    )
    assert index.load("prid2011", tmp_path, 3).query.tracks().pids.tolist() == [2, 4]


def test_prid_without_a_split_file(tmp_path):
    root = prid_tree(tmp_path, published=False)
    tests = set()
    for split in range(10):
        data = index.load("prid2011", root, split)
        test = data.query.tracks().pids.tolist()
        # Not 3 and 5, who are seen too little, nor 6, 7 and 201, who are in one camera only.
        assert sorted([*data.train_pids, *test]) == [1, 2, 4]
        assert len(test) == 1
        assert data.fingerprint() == index.load("prid2011", root, split).fingerprint()
        tests |= set(test)
        assert index.warnings(data)[0] == (
            f"prid2011: no splits_prid2011.json in {root}; split {split} of the 3 people of more "
            "than 21 frames was drawn by seed, and is not a published one"
        )
    assert tests == {1, 2, 4}


def test_prid_of_everyone(tmp_path):
    data = index.load("prid2011_all", prid_tree(tmp_path), 7)
    test = data.query.tracks().pids.tolist()
    assert sorted([*data.train_pids, *test]) == [1, 2, 3, 4, 5]
    assert len(test) == 2
    assert 1 in (*data.train.tracks().length, *data.query.tracks().length)  # person 5
    assert "(expected 200/100, 100/100, 100)" in data.summary()
    assert index.warnings(data)[0] == (
        "prid2011_all: split 7 of all 5 people was drawn by seed, and is not a published one"
    )


GOOD = {"train": ["person_0004"], "test": ["person_0001"]}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ([GOOD] * 9, "is not a list of 10"),
        ({"train": []}, "is not a list of 10"),
        ([{"train": ["person_0004"]}] * 10, "is not a list of 10"),
        ([GOOD | {"test": []}] * 10, "is not a list of 10"),
        ([GOOD | {"test": [["person_0001"]]}] * 10, "is not a list of 10"),
        ([1] * 10, "is not a list of 10"),
        ([GOOD | {"test": ["person_0006"]}] * 10, "split 0 names 'person_0006', who is not in"),
        ([GOOD | {"test": [1]}] * 10, "split 0 names 1, who is not in both"),
        ([GOOD | {"test": ["person_0004"]}] * 10, "split 0 names a person twice"),
    ],
)
def test_prid_splits_that_do_not_fit(tmp_path, splits, message):
    file = prid_tree(tmp_path) / "splits_prid2011.json"
    file.write_text(json.dumps(splits))
    assert f"prid2011: {file} {message}" in error_of("prid2011", tmp_path)


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff\xfe", b"[" * 100_000])
def test_prid_splits_that_are_no_json(tmp_path, content):
    file = prid_tree(tmp_path) / "splits_prid2011.json"
    file.write_bytes(content)
    message = error_of("prid2011", tmp_path)
    assert f"prid2011: {file} cannot be read (" in message
    assert 'expected a list of 10 {"train": [...], "test": [...]}' in message


def test_prid_folders_that_are_missing(tmp_path):
    home = prid_tree(tmp_path) / "prid_2011"
    shutil.rmtree(home / "multi_shot/cam_b")
    assert f"no {home}/multi_shot/cam_b (No such file" in error_of("prid2011", tmp_path)
    shutil.rmtree(home)
    assert re.search(
        r"no multi_shot/ in .*, nor in its prid_2011, .*; expected multi_shot/cam_a",
        error_of("prid2011", tmp_path),
    )
