import hashlib
import os
import re
import shutil

import numpy as np
import pytest

from jaxreid.data import images, index, tables
from jaxreid.errors import UserError
from tests.data.trees import csv_tree, duke_tree, market_tree, write_image


def rewrite(file, old, new):
    file.write_text(file.read_text().replace(old, new, 1))


@pytest.mark.parametrize("above", ["Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15"])
def test_market_root_and_its_parent(tmp_path, above):
    # The folders above would read as pid 1, camera 2.
    parent = tmp_path / "exp-01_c2"
    home = market_tree(parent / above)
    here, there = index.load("market1501", home), index.load("market1501", parent)
    assert here.train.root == there.train.root == str(home)
    assert here.fingerprint() == there.fingerprint()


def test_market_rows(tmp_path):
    data = index.load("market1501", market_tree(tmp_path / "exp-01_c2", num_ids=2))
    assert data.train.paths.tolist() == [
        "bounding_box_train/0002_c1s1_000100_01.jpg",
        "bounding_box_train/0002_c1s1_000200_01.jpg",
        "bounding_box_train/0002_c2s1_000100_01.jpg",
        "bounding_box_train/0002_c2s1_000200_01.jpg",
        "bounding_box_train/0005_c1s1_000100_01.jpg",
        "bounding_box_train/0005_c1s1_000200_01.jpg",
        "bounding_box_train/0005_c2s1_000100_01.jpg",
        "bounding_box_train/0005_c2s1_000200_01.jpg",
    ]
    assert data.train.pids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]  # relabelled
    assert data.train.camids.tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    assert data.train.tracklets.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert data.train.frames.tolist() == [100, 200, 100, 200, 100, 200, 100, 200]
    assert data.train_pids.tolist() == [2, 5]
    assert data.num_ids == 2
    assert data.query.pids.tolist() == [3, 3, 6, 6]  # raw
    assert data.query.camids.tolist() == [1, 2, 1, 2]
    # Two distractors stay, the junk is gone; Thumbs.db never was.
    assert data.gallery.pids.tolist() == [0, 0, 3, 3, 3, 3, 6, 6, 6, 6]
    assert data.gallery.camids.tolist() == [1, 2, 1, 1, 2, 2, 1, 1, 2, 2]
    assert data.junk == 1
    assert all(c.dtype == np.int32 for table in data.splits.values() for c in table[2:])


def test_summary_beside_what_is_expected(tmp_path):
    data = index.load("market1501", market_tree(tmp_path))
    assert data.summary() == (
        "market1501: train 12 images of 3 ids, query 6 of 3, gallery 14 "
        "(expected 12936/751, 3368/750, 15913), 2 cameras; dropped 1 junk"
    )
    assert index.warnings(data) == [
        "market1501: 12 training images, expected 12936",
        "market1501: 3 training ids, expected 751",
        "market1501: 6 queries, expected 3368",
        "market1501: 3 query ids, expected 750",
        "market1501: 14 gallery images, expected 15913",
    ]


def test_no_warning_where_the_counts_are_right(tmp_path, monkeypatch):
    monkeypatch.setitem(index.EXPECTED, "market1501", index.Counts(12, 3, 6, 3, 14))
    data = index.load("market1501", market_tree(tmp_path))
    assert index.warnings(data) == []
    assert "(expected 12/3, 6/3, 14)" in data.summary()


def test_duke(tmp_path):
    duke_tree(tmp_path / "DukeMTMC-reID")
    data = index.load("dukemtmc_reid", tmp_path)
    assert data.summary() == (
        "dukemtmc_reid: train 4 images of 2 ids, query 2 of 1, gallery 4 "
        "(expected 16522/702, 2228/702, 17661), 6 cameras"
    )
    assert data.train_pids.tolist() == [1, 7]
    assert data.train.camids.tolist() == [2, 3, 2, 8]
    assert data.train.frames.tolist() == [46182, 46302, 46422, 100042]
    assert data.gallery.pids.tolist() == [5, 5, 9, 9]


def test_duke_has_no_junk_ids(tmp_path):
    bad = write_image(duke_tree(tmp_path) / "bounding_box_test" / "-1_c1_f0000001.jpg")
    with pytest.raises(UserError, match=f"{re.escape(str(bad))} is not named like 0001_c2_f00461"):
        index.load("dukemtmc_reid", tmp_path)


def test_camera_12_is_not_camera_1(tmp_path):
    write_image(market_tree(tmp_path) / "query" / "0003_c12s1_000050_00.jpg")
    data = index.load("market1501", tmp_path)
    assert data.query.camids.tolist() == [1, 2, 12, 1, 2, 1, 2]


@pytest.mark.parametrize(
    "file",
    [
        "0002_c1.jpg",
        "x0002_c1s1_000451_03.jpg",
        "0002_c1s1_000451_03_copy.jpg",
        "-2_c1s1_000451_03.jpg",
        "0002_c0s1_000451_03.jpg",
        "99999999999_c1s1_000451_03.jpg",
    ],
)
def test_market_name_that_does_not_fit(tmp_path, file):
    bad = write_image(market_tree(tmp_path) / "bounding_box_train" / file)
    with pytest.raises(UserError, match=f"^market1501: {re.escape(str(bad))} is not named like 0"):
        index.load("market1501", tmp_path)


@pytest.mark.parametrize("folder", ["bounding_box_train", "query"])
def test_distractor_outside_the_gallery(tmp_path, folder):
    bad = write_image(market_tree(tmp_path) / folder / "0000_c1s1_000451_03.jpg")
    with pytest.raises(UserError, match=f"{re.escape(str(bad))} has pid 0, a distractor"):
        index.load("market1501", tmp_path)


def test_suffixes_and_the_systems_own_files(tmp_path):
    train = market_tree(tmp_path) / "bounding_box_train"
    write_image(train / "0011_c1s1_000451_03.JPG")
    write_image(train / "0011_c1s1_000452_03.jpeg")
    write_image(train / "0011_c1s1_000453_03.Png")
    (train / "._0011_c1s1_000451_03.jpg").write_bytes(b"")
    (train / "readme.txt").write_text("")
    assert index.load("market1501", tmp_path).train_pids.tolist() == [2, 5, 8, 11]
    assert index.load("market1501", tmp_path).train.size == 15


def test_own_folder_takes_shorter_names(tmp_path):
    for file in ("7_c12.jpg", "0007_c3_f0046182.jpg", "9_c1_hall_22.png", "9_c2s4_17_1.jpg"):
        for folder in images.FOLDERS.values():
            write_image(tmp_path / folder / file)
    data = index.load("folder", tmp_path)
    assert data.query.paths.tolist() == [
        "query/0007_c3_f0046182.jpg",
        "query/7_c12.jpg",
        "query/9_c1_hall_22.png",
        "query/9_c2s4_17_1.jpg",
    ]
    assert data.query.pids.tolist() == [7, 7, 9, 9]
    assert data.query.camids.tolist() == [3, 12, 1, 2]
    assert data.query.frames.tolist() == [46182, 0, 0, 17]
    assert data.summary() == ("folder: train 4 images of 2 ids, query 4 of 2, gallery 4, 4 cameras")


def test_synthetic_is_read_like_a_folder(tmp_path):
    folder, synthetic = (index.load(n, market_tree(tmp_path)) for n in ("folder", "synthetic"))
    assert synthetic.summary() == folder.summary().replace("folder", "synthetic")
    assert synthetic.fingerprint() == folder.fingerprint()


def test_missing_root_names_the_nearest(tmp_path):
    market_tree(tmp_path / "Market-1501")
    with pytest.raises(UserError, match=r"Market1501 is not a folder.*mean 'Market-1501'\?$"):
        index.load("market1501", tmp_path / "Market1501")


def test_missing_folders(tmp_path):
    with pytest.raises(
        UserError,
        match=r"^market1501: no bounding_box_train/ in .*, nor in its Market-1501-v15.09.15, .*; "
        r"expected bounding_box_train/, query/, bounding_box_test/ with images named like 0002_c1",
    ):
        index.load("market1501", tmp_path)
    shutil.rmtree(market_tree(tmp_path) / "query")
    with pytest.raises(UserError, match=r"no .*/query \(No such file or directory\); expected bou"):
        index.load("market1501", tmp_path)


def test_empty_folder(tmp_path):
    gallery = market_tree(tmp_path) / "bounding_box_test"
    for file in gallery.glob("*.jpg"):
        file.unlink()
    with pytest.raises(UserError, match=r"no images in .*/bounding_box_test; expected .*\.jpeg"):
        index.load("market1501", tmp_path)
    write_image(gallery / "-1_c1s1_000009_03.jpg")
    with pytest.raises(UserError, match=r"holds no gallery images but junk; expected"):
        index.load("market1501", tmp_path)


def test_unknown_data_set():
    with pytest.raises(UserError, match=r"^data.name='market' is not.*mean 'market1501'\?$"):
        index.load("market", "/nowhere")


def test_take_and_path(tmp_path):
    query = index.load("folder", market_tree(tmp_path)).query
    rows = query.take(np.array([4, 0]))
    assert rows.size == 2
    assert rows.pids.tolist() == [9, 3]
    assert rows.tracklets.tolist() == [4, 0]
    assert rows.path(0) == str(tmp_path / "query" / "0009_c1s1_000050_00.jpg")
    assert os.path.isfile(query.path(np.int64(5)))
    assert query.take(query.camids == 2).pids.tolist() == [3, 6, 9]


def test_stills_are_tracklets_of_one_image(tmp_path):
    data = index.load("market1501", market_tree(tmp_path, num_ids=1))
    assert not data.is_video
    tracks = data.gallery.tracks()
    assert tracks.size == 6
    assert tracks.first.tolist() == tracks.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert tracks.length.tolist() == [1, 1, 1, 1, 1, 1]
    assert tracks.pids.tolist() == [0, 0, 3, 3, 3, 3]
    assert tracks.camids.tolist() == [1, 2, 1, 1, 2, 2]
    assert tracks.take(tracks.pids == 0).first.tolist() == [0, 1]
    assert data.gallery.take(np.array([], int)).tracks().size == 0
    assert index.not_queries(data).tolist() == [True] * 6


def test_tracks_by_a_slow_loop():
    rng = np.random.default_rng(0)
    lengths, ids = rng.integers(1, 5, 40), rng.choice(1000, 40, replace=False)
    owner = np.repeat(np.arange(40), lengths)
    pids, camids = rng.integers(0, 9, 40)[owner], rng.integers(1, 4, 40)[owner]
    frames = np.arange(len(owner))
    tracks = index.Index("/", frames.astype(str), pids, camids, ids[owner], frames).tracks()
    rows = [np.flatnonzero(owner == i) for i in range(40)]
    assert tracks.first.tolist() == [r[0] for r in rows]
    assert tracks.length.tolist() == [len(r) for r in rows]
    assert tracks.pids.tolist() == [pids[r[0]] for r in rows]
    assert tracks.camids.tolist() == [camids[r[0]] for r in rows]
    assert tracks.ids.tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("market1501", 0, "market1501 does not come in splits; those that do are ilids_vid, "),
        ("mars", 3, "mars does not come in splits; those that do are ilids_vid, prid2011, "),
        ("ilids_vid", 10, "ilids_vid has the splits 0 to 9$"),
        ("prid2011", -1, "prid2011 has the splits 0 to 9$"),
    ],
)
def test_split_that_there_is_not(tmp_path, name, split, message):
    with pytest.raises(UserError, match=f"^config.data.split={split}: {message}"):
        index.load(name, tmp_path, split)


def test_save_and_restore(tmp_path):
    data = index.load("market1501", market_tree(tmp_path / "tree"))
    data = data._replace(split=3, notes=("one", "two"), shared_tracklets=True)
    tables.save(tmp_path / "data.npz", data, stamp="now")
    there = tables.restore(tmp_path / "data.npz", "now")
    for split, table in data.splits.items():
        assert there.splits[split].root == table.root
        for here, column in zip(table[1:], there.splits[split][1:]):
            np.testing.assert_array_equal(here, column, strict=True)
    assert there.train_pids.tolist() == [2, 5, 8]
    names = ("name", "junk", "split", "notes", "shared_tracklets")
    assert [getattr(there, n) for n in names] == ["market1501", 1, 3, ("one", "two"), True]
    with pytest.raises(ValueError, match="its stamp differs"):
        tables.restore(tmp_path / "data.npz", "later")
    lame = data._replace(query=data.query._replace(pids=data.query.pids[1:]))
    tables.save(tmp_path / "lame.npz", lame)
    with pytest.raises(ValueError, match="its columns differ in length"):
        tables.restore(tmp_path / "lame.npz")


def test_fingerprint_by_a_slow_loop(tmp_path):
    data = index.load("csv", csv_tree(tmp_path))
    text = b""
    for table in data.splits.values():
        text += "\0".join([str(table.size), *table.paths.tolist()]).encode()
        text += b"".join(column.astype("<i4").tobytes() for column in table[2:])
    text += data.train_pids.astype("<i4").tobytes()
    assert data.fingerprint() == hashlib.sha256(text).hexdigest()[:16]


def test_fingerprint_is_of_names_and_labels(tmp_path):
    here = index.load("folder", market_tree(tmp_path / "a"))
    there = index.load("folder", market_tree(tmp_path / "b"))
    assert here.fingerprint() == there.fingerprint()
    assert re.fullmatch("[0-9a-f]{16}", here.fingerprint())
    changed = here._replace(query=here.query._replace(pids=here.query.pids + 1))
    assert changed.fingerprint() != here.fingerprint()
    (tmp_path / "b/query/0003_c1s1_000050_00.jpg").unlink()
    assert index.load("folder", tmp_path / "b").fingerprint() != here.fingerprint()


def test_warns_of_one_camera(tmp_path):
    for folder in images.FOLDERS.values():
        write_image(tmp_path / folder / "0001_c4.jpg")
    data = index.load("folder", tmp_path)
    assert data.summary().endswith(", 1 camera")
    assert index.warnings(data) == [
        "folder: one camera only; a true match needs another camera than the query's",
        "folder: 1 of 1 queries have no true match (same pid, another camera) in the gallery; "
        "they are not scored",
        "folder: 1 training ids are in the query or the gallery too (pids 1); scores will be too "
        "high",
    ]


def test_unmatched_queries_by_a_slow_loop():
    rng = np.random.default_rng(0)

    def table(n):
        rows, ones = np.arange(n), np.ones(n, np.int32)
        pids, camids = rng.integers(0, 12, n, np.int32), rng.integers(1, 4, n, np.int32)
        return index.Tracklets(rows, ones, pids, camids, rows)

    query, gallery = table(60), table(25)
    unmatched = 0
    for pid, camid in zip(query.pids, query.camids):
        unmatched += not np.any((gallery.pids == pid) & (gallery.camids != camid))
    assert 0 < unmatched < 60
    assert index.num_unmatched(query, gallery) == unmatched


def test_csv(tmp_path):
    data = index.load("csv", csv_tree(tmp_path))
    assert data.train.root == str(tmp_path)
    assert data.train.paths.tolist() == ["clips/a.jpg", "clips/b.jpg", "clips/c.PNG"]
    assert data.is_video
    assert data.train.pids.tolist() == [1, 1, 0]
    assert data.train.tracklets.tolist() == [4, 4, 5]
    assert data.train.frames.tolist() == [1, 2, 1]
    assert data.train_pids.tolist() == [3, 7]
    assert data.query.pids.tolist() == [0]  # a person like any other
    assert data.gallery.pids.tolist() == [0, 3]
    assert data.junk == 1


def test_csv_of_stills_with_other_columns_order_and_absolute_paths(tmp_path):
    a, b = write_image(tmp_path / "x/b.jpg"), write_image(tmp_path / "x/a.jpg")
    lines = ["\ufeffsplit, pid ,path,camid", f"train,1,{a},1", "train,1,../x/a.jpg,2", ""]
    lines += [f"query,2,{b},1", f'gallery,2,"{b}",2']
    file = tmp_path / "list" / "index.csv"
    file.parent.mkdir()
    file.write_text("\r\n".join(lines), encoding="utf-8")
    data = index.load("csv", file)
    assert data.train.paths.tolist() == ["../x/a.jpg", str(a)]
    assert data.train.camids.tolist() == [2, 1]
    assert data.train.tracklets.tolist() == data.train.frames.tolist() == [0, 1]
    assert data.train.path(1) == str(a)
    assert data.query.path(0) == data.gallery.path(0) == str(b)


def test_csv_of_clips_is_sorted_by_tracklet_and_frame(tmp_path):
    lines = ["path,pid,camid,split,tracklet,frame"]
    lines += [f"z{k}.jpg,1,1,train,2,{k}" for k in (10, 9, 1)]  # by name: z1, z10, z9
    lines += ["b.jpg,5,2,train,7,0", "y.jpg,1,1,train,2,4", "a.jpg,-1,1,gallery,3,0"]
    lines += ["c.jpg,-1,1,gallery,3,1", "q.jpg,4,1,query,0,0", "d.jpg,4,2,gallery,0,0"]
    for line in lines[1:]:
        write_image(tmp_path / line.split(",")[0])
    (tmp_path / "index.csv").write_text("\n".join(lines))
    data = index.load("csv", tmp_path / "index.csv")
    assert data.train.paths.tolist() == ["z1.jpg", "y.jpg", "z9.jpg", "z10.jpg", "b.jpg"]
    assert data.train.frames.tolist() == [1, 4, 9, 10, 0]
    tracks = data.train.tracks()
    assert tracks.first.tolist() == [0, 4]
    assert tracks.length.tolist() == [4, 1]
    assert tracks.ids.tolist() == [2, 7]
    assert data.summary() == (
        "csv: train 2 tracklets (5 frames) of 2 ids, query 1 (1 frames) of 1, "
        "gallery 1 (1 frames), 2 cameras; dropped 1 junk"
    )
    # Without a number for each frame, the numbers in the paths decide.
    lines = [line.rpartition(",")[0] for line in lines]
    (tmp_path / "index.csv").write_text("\n".join(lines))
    data = index.load("csv", tmp_path / "index.csv")
    assert data.train.paths.tolist() == ["y.jpg", "z1.jpg", "z9.jpg", "z10.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",camid", ",cameraid", r"line 1: unknown column 'cameraid'; .*; did you mean 'camid'\?$"),
        (",tracklet", "", r"line 2: 6 fields, expected 5: path, pid, camid, split, frame$"),
        (",camid", ",pid", r"line 1: the column 'pid' is there twice$"),
        (",split,tracklet", ",tracklet,frame", r"line 1: the column 'frame' is there twice$"),
        ("path,pid,camid,split", "path,pid", r"line 1: no column camid, split; the header must"),
        ("b.jpg,7,1", "b.jpg,seven,1", r"line 2: pid must be a whole number from -1, not 'seven'"),
        ("b.jpg,7,1", "b.jpg,-2,1", r"line 2: pid must be a whole number from -1, not '-2'"),
        ("b.jpg,7,1", "b.jpg,7,0", r"line 2: camid must be a whole number from 1, not '0'"),
        ("train,4,2", "train,4,9999999999", r"line 2: frame must be .* not '9999999999'"),
        ("1,train,4,1", "1,trian,4,1", r"line 3: split must be .* not 'trian'; did you.*'train'"),
        ("clips/a.jpg", "clips/none.jpg", r"line 3: there is no file .*clips/none.jpg$"),
        ("clips/a.jpg", "index.csv", r"line 3: 'index.csv' is not a .jpg, .jpeg, .*png, "),
        ("clips/a.jpg", "clips/b.jpg", r"line 3: clips/b.jpg is in train twice$"),
        ("a.jpg,7,1", "a.jpg,7,2", r"line 3: tracklet 4 of train has pid 7, camid 2 here and pid"),
        ("0,1,query,0,0", "0,1,train,0,0", r"^csv: .* holds no query images; expected some"),
    ],
)
def test_csv_errors_name_file_and_line(tmp_path, old, new, message):
    file = csv_tree(tmp_path)
    rewrite(file, old, new)
    with pytest.raises(UserError, match=message) as error:
        index.load("csv", file)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_csv_file_that_is_none(tmp_path):
    file = csv_tree(tmp_path)
    with pytest.raises(UserError, match=r"indx.csv is not a file; .* did you mean 'index.csv'\?$"):
        index.load("csv", tmp_path / "indx.csv")
    with pytest.raises(UserError, match=r"is not a file; expected a CSV with the columns path, "):
        index.load("csv", tmp_path)
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"line 1: no column path, pid, camid, split"):
        index.load("csv", file)
    file.write_bytes(b"path,pid,camid,split\nx.jpg,\xff\xfe,1,train\n")
    with pytest.raises(UserError, match=r"not a CSV file in UTF-8"):
        index.load("csv", file)


def imagenet_tree(root):
    for folder, count in (("train", 3), ("val", 4)):
        for name in ("n01440764", "n02102040"):
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                write_image(root / folder / name / f"{name}_{i}.JPEG")
    return root


def test_classes_in_folders(tmp_path):
    root = imagenet_tree(tmp_path)
    (root / "train" / "n01440764" / "notes.txt").write_text("no image")
    data = index.load("imagenet", root)
    assert (data.train.size, data.num_ids) == (6, 2)
    np.testing.assert_array_equal(data.train.pids, [0, 0, 0, 1, 1, 1])
    # Validation images in turns; each query has matches before the other "camera".
    assert [path.rpartition("_")[2] for path in data.query.paths] == ["0.JPEG", "2.JPEG"] * 2
    assert [path.rpartition("_")[2] for path in data.gallery.paths] == ["1.JPEG", "3.JPEG"] * 2
    assert (set(data.query.camids), set(data.gallery.camids)) == ({1}, {2})
    np.testing.assert_array_equal(data.gallery.pids, [0, 0, 1, 1])


def test_classes_that_differ(tmp_path):
    root = imagenet_tree(tmp_path)
    (root / "val" / "n03000000").mkdir()
    with pytest.raises(UserError, match="the class 'n03000000' is in one of train/ and val/ only"):
        index.load("imagenet", root)
    with pytest.raises(UserError, match="train"):
        index.load("imagenet", tmp_path / "val")
