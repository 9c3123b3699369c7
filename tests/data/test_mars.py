import os
import re
import shutil
import zlib

import numpy as np
import pytest
from scipy.io import savemat

from jaxreid.data import files, index, mars
from jaxreid.errors import UserError
from tests.data.trees import mars_tree, write_image, write_mat


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, empty and apart."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/jaxreid/index"


@pytest.fixture
def tree(tmp_path):
    # The folders above would read as pid 1, camera 2.
    return mars_tree(tmp_path / "exp-01_c2" / "MARS")


def edit_names(tree, half, old, new):
    file = tree / f"info/{half}_name.txt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def edit_info(tree, half, row, values):
    file = tree / f"info/tracks_{half}_info.mat"
    info = files.read_matrix("mars", file, f"track_{half}_info")
    info[row - 1] = values
    write_mat(file, f"track_{half}_info", info.tolist())


def error_of(tree, name="mars"):
    with pytest.raises(UserError) as error:
        index.load(name, tree)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_rows(tree):
    data = index.load("mars", tree)
    assert data.train.root == str(tree)
    assert data.train.paths.tolist() == [
        "bbox_train/0003/0003C1T0001F001.jpg",
        "bbox_train/0003/0003C1T0001F002.jpg",
        "bbox_train/0003/0003C1T0001F003.jpg",
        "bbox_train/0003/0003C2T0002F007.jpg",
        "bbox_train/0003/0003C2T0002F008.jpg",
        "bbox_train/0007/0007C1T0001F001.jpg",
        "bbox_train/0007/0007C5T0002F010.jpg",
        "bbox_train/0007/0007C5T0002F011.jpg",
        "bbox_train/0007/0007C5T0002F012.jpg",
        "bbox_train/0007/0007C5T0002F014.jpg",
    ]
    assert data.train.pids.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]  # relabelled
    assert data.train.camids.tolist() == [1, 1, 1, 2, 2, 1, 5, 5, 5, 5]
    assert data.train.tracklets.tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3, 3]
    assert data.train.frames.tolist() == [1, 2, 3, 7, 8, 1, 10, 11, 12, 14]
    assert data.train_pids.tolist() == [3, 7]
    tracks = data.train.tracks()
    assert tracks.first.tolist() == [0, 3, 5, 6]
    assert tracks.length.tolist() == [3, 2, 1, 4]
    assert tracks.camids.tolist() == [1, 2, 1, 5]
    assert all(c.dtype == np.int32 for table in data.splits.values() for c in table[2:])
    assert all(os.path.isfile(t.path(row)) for t in data.splits.values() for row in range(t.size))


def test_queries_stay_in_the_gallery(tree):
    data = index.load("mars", tree)
    assert data.shared_tracklets
    assert data.junk == 2
    query, gallery = data.query.tracks(), data.gallery.tracks()
    assert gallery.ids.tolist() == [2, 3, 4, 5, 6, 7]  # 0 and 1 are junk
    assert gallery.pids.tolist() == [0, 4, 4, 4, 9, 9]  # the distractor stays
    assert gallery.length.tolist() == [3, 2, 1, 2, 2, 3]
    assert query.ids.tolist() == [3, 5, 6]  # rows 4, 6 and 7 of the file
    assert query.pids.tolist() == [4, 4, 9]
    assert query.camids.tolist() == [1, 3, 2]
    assert data.query.paths.tolist()[:3] == [
        "bbox_test/0004/0004C1T0001F001.jpg",
        "bbox_test/0004/0004C1T0001F002.jpg",
        "bbox_test/0004/0004C3T0003F001.jpg",
    ]
    left = data.gallery.tracks().take(index.not_queries(data))
    assert left.ids.tolist() == [2, 4, 7]
    # They are still rows of the same table.
    assert data.gallery.paths[left.first].tolist() == [
        "bbox_test/0000/0000C2T0001F001.jpg",
        "bbox_test/0004/0004C1T0002F005.jpg",
        "bbox_test/0009/0009C6T0002F004.jpg",
    ]
    assert data.gallery.tracks().size == 6


def test_summary_and_warnings(tree):
    data = index.load("mars", tree)
    assert data.summary() == (
        "mars: train 4 tracklets (10 frames) of 2 ids, query 3 (6 frames) of 2, gallery 6 "
        "(13 frames) (expected 8298/625, 1980/626, 11310), 5 cameras; dropped 2 junk"
    )
    assert index.warnings(data) == [
        "mars: 4 training tracklets, expected 8298",
        "mars: 2 training ids, expected 625",
        "mars: 3 queries, expected 1980",
        "mars: 2 query ids, expected 626",
        "mars: 6 gallery tracklets, expected 11310",
    ]
    left = data.gallery.tracks().take(index.not_queries(data))
    # The queries of person 4 lose each other; only the one by camera 3 has another camera left.
    assert index.num_unmatched(data.query.tracks(), left) == 1


def test_root_or_its_parent(tree):
    here, there = index.load("mars", tree), index.load("mars", tree.parent)
    assert here.train.root == there.train.root
    assert here.fingerprint() == there.fingerprint()


def test_synthetic_video_is_read_like_mars_and_not_cached(tree, cache):
    data = index.load("synthetic_video", tree)
    assert data.fingerprint() == index.load("mars", tree).fingerprint()
    assert "expected" not in data.summary()
    assert index.warnings(data) == []
    assert [file.name.split("-")[0] for file in cache.iterdir()] == ["mars"]
    assert error_of(tree / "none", "synthetic_video").endswith(
        f"draw it: python -m jaxreid.synthetic --video --root={tree / 'none'}"
    )
    assert "draw it" not in error_of(tree / "none")


def test_a_missing_image_is_named(tree):
    gone = tree / "bbox_test/0009/0009C6T0002F005.jpg"
    gone.unlink()
    folder = re.escape(str(gone.parent))
    assert re.fullmatch(
        rf"mars: .*test_name.txt names 1 images that {folder} does not hold; the first is "
        rf"{folder}/0009C6T0002F005.jpg",
        error_of(tree),
    )
    shutil.rmtree(gone.parent)
    assert re.fullmatch(
        rf"mars: no {folder} \(No such file or directory\); .*test_name.txt names 5 images in it",
        error_of(tree),
    )


def test_what_is_not_listed_plays_no_part(tree):
    before = index.load("mars", tree).fingerprint()
    shutil.rmtree(tree / "bbox_test/00-1")  # junk need not be there
    write_image(tree / "bbox_test/0009/0009C1T0009F001.jpg")
    (tree / "bbox_train/Thumbs.db").write_bytes(b"")
    assert index.load("mars", tree).fingerprint() == before


@pytest.mark.parametrize(
    ("half", "row", "values", "message"),
    [
        ("train", 2, [5, 4, 3, 2], r"row 2 \[5, 4, 3, 2\] .*: a tracklet without frames$"),
        ("train", 4, [7, 11, 7, 5], r"row 4 .*: .*train_name.txt has 10 names$"),
        ("train", 1, [0, 3, 3, 1], r"row 1 .*: .*train_name.txt has 10 names$"),
        ("train", 1, [1, 4, 3, 1], r"row 2 .*: shares names with another tracklet$"),
        ("train", 3, [6, 6, 0, 1], r"row 3 .*: pid 0 is a distractor, which belongs in the test"),
        ("train", 3, [6, 6, 8, 1], r"row 3 .*: train_name.txt has 0007C1T0001F001.jpg there; a"),
        ("train", 2, [4, 5, 3, 1], r"row 2 .*: train_name.txt has 0003C2T0002F007.jpg there; a"),
        ("test", 3, [1, 5, 0, 2], r"row 3 .*: test_name.txt has 00-1C1T0001F001.jpg there; a"),
        ("test", 7, [11, 12, -1, 2], r"query_IDX.mat names row 7 of .* junk, a distractor, or"),
    ],
)
def test_tracklets_that_do_not_fit(tree, half, row, values, message):
    edit_info(tree, half, row, values)
    error = error_of(tree)
    assert re.search(message, error), error
    assert str(tree / "info") in error


def test_two_people_or_cameras_in_a_tracklet(tree):
    edit_names(tree, "train", "0007C5T0002F012", "0007C4T0002F012")
    assert re.search(
        r"row 4 \[7, 10, 7, 5\].* has 0007C4T0002F012.jpg there; .* one camera$", error_of(tree)
    )
    edit_names(tree, "train", "0003C2T0002F008", "0004C2T0002F008")
    assert re.search(r"row 2 \[4, 5, 3, 2\].* has 0004C2T0002F008.jpg there; a ", error_of(tree))


@pytest.mark.parametrize("rows", [[[4, 4]], [[3]], [[1]], [[9]], [[0]]])
def test_queries_that_do_not_fit(tree, rows):
    write_mat(tree / "info/query_IDX.mat", "query_IDX", rows)
    message = "names a query twice" if len(rows[0]) == 2 else f"names row {rows[0][0]} of"
    assert f"query_IDX.mat {message}" in error_of(tree)


@pytest.mark.parametrize(
    "name",
    [b"0003C0T0001F003.jpg", b"003C1T0001F003.jpg", b"0003C12T0001F003.jpg", b"", b"\xff" * 200],
)
def test_names_that_do_not_fit(tree, name):
    file = tree / "info/train_name.txt"
    file.write_bytes(file.read_bytes().replace(b"0003C1T0001F003.jpg", name, 1))
    assert re.search(
        r"train_name.txt line 1: b.* is not named like 0001C1T0001F001", error_of(tree)
    )
    assert len(error_of(tree)) < 600


def test_lists_that_are_missing_or_empty(tree):
    (tree / "info/test_name.txt").write_bytes(b"")
    assert "test_name.txt is empty; expected names like 0001C1T" in error_of(tree)
    (tree / "info/test_name.txt").unlink()
    assert re.search(r"no .*/info/test_name.txt \(No such file .*expected one name", error_of(tree))
    shutil.rmtree(tree / "info")
    assert re.search(
        r"^mars: no info/ in .*, nor in its MARS, mars; expected bbox_train/, bbox_test/ and "
        r"info/train_name.txt, .*query_IDX.mat",
        error_of(tree),
    )


@pytest.mark.parametrize("size", [0, 1, 60, 128, 135, 150, 200])
def test_mat_file_cut_short(tree, size):
    file = tree / "info/tracks_train_info.mat"
    file.write_bytes(file.read_bytes()[:size])
    assert re.search(r"tracks_train_info.mat (cannot be read as|has no track_)", error_of(tree))


def test_mat_files_with_something_else(tree):
    file = tree / "info/tracks_train_info.mat"
    file.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(600))
    assert "tracks_train_info.mat cannot be read as a MATLAB file (" in error_of(tree)
    write_mat(file, "tracks_train_info", [[1, 3, 3, 1]])
    assert "has no track_train_info, but 'tracks_train_info'; did you mean" in error_of(tree)
    savemat(file, {})
    assert error_of(tree).endswith("has no track_train_info, but nothing")
    write_mat(file, "track_train_info", [[1, 3, 3]])
    assert "tracks_train_info.mat has 3 columns, expected 4: first and" in error_of(tree)
    for matrix in ([[1.5, 3, 3, 1]], [[np.nan, 3, 3, 1]], [[np.inf, 3, 3, 1]], [[1e300, 3, 3, 1]]):
        write_mat(file, "track_train_info", matrix)
        assert "track_train_info in " in error_of(tree)
        assert error_of(tree).endswith("must be a matrix of whole numbers")
    for value in ("text", {"a": 1}, np.array([[1.0, 2.0]], object), np.zeros((0, 4))):
        savemat(file, {"track_train_info": value})
        assert error_of(tree).endswith("must be a matrix of whole numbers")
    file.unlink()
    assert re.search(
        r"no .*tracks_train_info.mat \(No such file .*expected a MATLAB", error_of(tree)
    )


def test_mat_files_that_were_exchanged(tree):
    train, test = tree / "info/tracks_train_info.mat", tree / "info/tracks_test_info.mat"
    content = train.read_bytes()
    train.write_bytes(test.read_bytes())
    assert error_of(tree) == (
        f"mars: {train} holds track_test_info, not track_train_info: it is probably another "
        "file, tracks_test_info.mat, under this name"
    )
    train.write_bytes(content)
    (tree / "info/query_IDX.mat").write_bytes(content)
    assert "query_IDX.mat holds track_train_info, not query_IDX: it is" in error_of(tree)


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_file_with_numbers_of_no_type(tmp_path, compressed):
    # A reader that looks the type up without asking reads memory that is not its own.
    file = tmp_path / "a.mat"
    savemat(file, {"a": np.arange(6.0).reshape(2, 3)})
    content = bytearray(file.read_bytes())
    at = content.index(np.array([9, 48], "<u4").tobytes())  # 48 bytes of doubles
    content[at] = 132
    if compressed:
        packed = zlib.compress(content[128:])
        content[128:] = np.array([15, len(packed)], "<u4").tobytes() + packed
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"MATLAB file \(numbers of an unknown type 132\)$"):
        files.read_matrix("mars", file, "a")


@pytest.mark.parametrize("how", [{"do_compression": True}, {"format": "4"}, {}])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, np.int64])
def test_mat_files_of_every_kind(tmp_path, how, dtype):
    rows = np.arange(12).reshape(3, 4).astype(dtype)
    more = {} if "format" in how else {"text": "abc", "cells": np.array([[1, "b"]], object)}
    savemat(tmp_path / "a.mat", {**more, "rows": rows, "other": rows.T}, **how)
    assert files.read_matrix("mars", tmp_path / "a.mat", "rows").tolist() == rows.tolist()
    assert files.read_matrix("mars", tmp_path / "a.mat", "other").tolist() == rows.T.tolist()


# ---------------------------------------------------------------------- the kept index


@pytest.fixture
def reads(monkeypatch):
    """How often the lists of names were read; twice for each parsing."""
    calls = []
    read = mars._read_names
    monkeypatch.setattr(mars, "_read_names", lambda *args: calls.append(args) or read(*args))
    return calls


def test_cache_hit(tree, reads, cache):
    first, second = index.load("mars", tree), index.load("mars", tree)
    assert len(reads) == 2
    assert len(list(cache.iterdir())) == 1
    assert second.summary() == first.summary()
    assert second.fingerprint() == first.fingerprint()
    assert second.shared_tracklets
    assert second.train.root == str(tree)


def test_cache_is_of_one_folder(tree, reads, tmp_path):
    index.load("mars", tree)
    other = index.load("mars", mars_tree(tmp_path / "other"))
    assert len(reads) == 4
    assert other.train.root == str(tmp_path / "other")


def test_cache_notices_a_file_that_went(tree, reads):
    index.load("mars", tree)
    (tree / "bbox_train/0003/0003C1T0001F002.jpg").unlink()
    assert "0003C1T0001F002.jpg" in error_of(tree)
    write_image(tree / "bbox_train/0003/0003C1T0001F002.jpg")
    index.load("mars", tree)
    assert len(reads) == 2 + 1 + 2  # the one in the middle ended at the training half


def test_cache_notices_a_list_that_changed(tree):
    index.load("mars", tree)
    write_mat(tree / "info/query_IDX.mat", "query_IDX", [[4]])
    assert index.load("mars", tree).query.tracks().ids.tolist() == [3]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", "half", "middle"])
def test_cache_that_is_damaged_is_built_anew(tree, reads, cache, damage):
    data = index.load("mars", tree)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "middle":
        content[len(content) // 2 - 500 : len(content) // 2 + 500] = bytes(1000)
    file.write_bytes(
        content[: len(content) // 2]
        if damage == "half"
        else content
        if damage == "middle"
        else damage
    )
    assert index.load("mars", tree).fingerprint() == data.fingerprint()
    assert len(reads) == 4
    index.load("mars", tree)
    assert len(reads) == 4


def test_cache_that_cannot_be_written(tree, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")  # a file where a folder should be
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert index.load("mars", tree).train.size == 10
    assert (tmp_path / "file").read_bytes() == b""


def test_cache_below_home_where_xdg_says_nothing(tree, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    index.load("mars", tree)
    (file,) = (tmp_path / "home/.cache/jaxreid/index").iterdir()
    assert re.fullmatch(r"mars-[0-9a-f]{16}\.npz", file.name)
