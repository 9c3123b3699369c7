import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets")

from jaxreid import prepare as command
from jaxreid.data import builders, index
from jaxreid.errors import UserError
from tests.data.trees import csv_tree, ilids_tree, market_tree, mars_tree, prid_tree


@pytest.fixture
def prepared(tmp_path):
    """A data set, and the folder that it was written to."""
    data = index.load("folder", market_tree(tmp_path / "tree", num_ids=5))
    builders.prepare(data, tmp_path / "out")
    return data, tmp_path / "out"


def bytes_of(table, row):
    return Path(table.path(row)).read_bytes()


def assert_same_rows(data, read):
    for split, table in data.splits.items():
        for row in range(table.size):
            assert read[split](row) == bytes_of(table, row)


def test_round_trip(prepared):
    data, out = prepared
    there, read = builders.open_prepared(out, "folder")
    assert there.summary() == data.summary()
    assert there.fingerprint() == data.fingerprint()
    assert there.train_pids.tolist() == [2, 5, 8, 11, 14]
    for split, table in data.splits.items():
        assert there.splits[split].root == table.root
        for here, column in zip(table[1:], there.splits[split][1:]):
            np.testing.assert_array_equal(here, column, strict=True)
    assert list(read) == ["train", "query", "gallery"]
    assert_same_rows(data, read)


def test_folder_holds_records_and_labels_only(prepared):
    data, out = prepared
    folder = builders.prepare(data, out)
    assert folder == out / "reid_images/folder/1.1.0"
    assert sorted(os.listdir(out)) == ["reid_images"]
    assert sorted(os.listdir(folder)) == [
        "dataset_info.json",
        "features.json",
        "index.npz",
        "reid_images-gallery.array_record-00000-of-00001",
        "reid_images-query.array_record-00000-of-00001",
        "reid_images-train.array_record-00000-of-00001",
    ]


def test_records_by_tfds_itself(prepared):
    import tensorflow_datasets as tfds

    data, out = prepared
    builder = tfds.builder("reid_images/folder", data_dir=out)
    source = builder.as_data_source("query", decoders={"image": tfds.decode.SkipDecoding()})
    assert len(source) == data.query.size == 10
    assert {key: int(source[3][key]) for key in ("pid", "camid", "tracklet", "frame")} == {
        "pid": 6,
        "camid": 2,
        "tracklet": 3,
        "frame": 50,
    }
    assert source[3]["path"] == b"query/0006_c2s1_000050_00.jpg"
    assert builder.info.splits["train"].num_examples == 20


def test_csv_round_trip_keeps_png_and_tracklets(tmp_path):
    data = index.load("csv", csv_tree(tmp_path / "tree"))
    builders.prepare(data, tmp_path / "out")
    there, read = builders.open_prepared(tmp_path / "out", "csv")
    assert there.train.tracklets.tolist() == [4, 4, 5]
    assert_same_rows(data, read)
    assert read["train"](2).startswith(b"\x89PNG")


def test_video_round_trip(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = index.load("mars", mars_tree(tmp_path / "tree"))
    folder = builders.prepare(data, tmp_path / "out")
    assert folder == tmp_path / "out/reid_images/mars/1.1.0"
    there, read = builders.open_prepared(tmp_path / "out", "mars")
    assert there.shared_tracklets
    assert there.summary() == data.summary()
    assert there.fingerprint() == data.fingerprint()
    assert there.gallery.tracks().length.tolist() == [3, 2, 1, 2, 2, 3]
    assert there.gallery.tracks().ids[index.not_queries(there)].tolist() == [2, 4, 7]
    assert_same_rows(data, read)


def test_each_split_has_a_folder_of_its_own(tmp_path):
    root, out = ilids_tree(tmp_path / "tree"), tmp_path / "out"
    for split in (0, 3):
        builders.prepare(index.load("ilids_vid", root, split), out)
    folders = sorted(path.name for path in (out / "reid_images").glob("[!.]*"))
    assert folders == ["ilids_vid_split0", "ilids_vid_split3"]
    assert builders.open_prepared(out, "ilids_vid")[0].split == 0
    there, read = builders.open_prepared(out, "ilids_vid", 3)
    assert there.split == 3
    assert there.query.tracks().pids.tolist() == [9, 10, 319]
    assert_same_rows(index.load("ilids_vid", root, 3), read)
    with pytest.raises(UserError, match=r"^no prepared ilids_vid_split4 in .* --split=4 --out="):
        builders.open_prepared(out, "ilids_vid", 4)
    with pytest.raises(UserError, match=r"^config.data.split=11: ilids_vid has the splits 0 to 9"):
        builders.open_prepared(out, "ilids_vid", 11)
    with pytest.raises(UserError, match=r"^config.data.split=1: csv does not come in splits"):
        builders.open_prepared(out, "csv", 1)


def test_notes_are_kept(tmp_path):
    data = index.load("prid2011", prid_tree(tmp_path / "tree", published=False), 9)
    builders.prepare(data, tmp_path / "out")
    there = builders.open_prepared(tmp_path / "out", "prid2011", 9)[0]
    assert index.warnings(there) == index.warnings(data)
    assert "split 9 of the 3 people" in index.warnings(there)[0]


def test_reading_from_threads(prepared):
    data, out = prepared
    read = builders.open_prepared(out, "folder")[1]["train"]
    files = [bytes_of(data.train, row) for row in range(data.train.size)]
    rows = np.random.default_rng(0).integers(0, data.train.size, 2000)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read, rows)) == [files[row] for row in rows]


def test_preparing_twice_writes_once(prepared):
    data, out = prepared
    folder = out / "reid_images/folder/1.1.0"
    before = {file: os.stat(folder / file).st_mtime_ns for file in os.listdir(folder)}
    assert builders.prepare(data, out) == folder
    assert {file: os.stat(folder / file).st_mtime_ns for file in os.listdir(folder)} == before


def test_preparing_other_data_of_the_same_name(prepared):
    data, out = prepared
    Path(data.query.path(0)).unlink()
    changed = index.load("folder", data.query.root)
    with pytest.raises(UserError, match=r"folder/1.1.0 holds other data .*query 10 of 5.*--out$"):
        builders.prepare(changed, out)


def test_a_file_that_vanishes_leaves_nothing(tmp_path):
    data = index.load("folder", market_tree(tmp_path / "tree"))
    Path(data.gallery.path(3)).unlink()
    with pytest.raises(UserError, match=f"^cannot write .*{data.gallery.paths[3]}'$"):
        builders.prepare(data, tmp_path / "out")
    assert os.listdir(tmp_path / "out/reid_images/folder") == []


def test_nothing_prepared_names_the_command(tmp_path, prepared):
    out = prepared[1]
    run = f"run: python -m jaxreid.prepare --name=market1501 --root=FOLDER --out={tmp_path}/none"
    with pytest.raises(UserError, match=f"^no prepared market1501 in .*{re.escape(run)}$"):
        builders.open_prepared(tmp_path / "none", "market1501")
    with pytest.raises(UserError, match=r"^no prepared foldr in .*; did you mean 'folder'\?$"):
        builders.open_prepared(out, "foldr")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("index.npz", "index.npz: .*No such file or directory"),
        ("dataset_info.json", "Could not read dataset info"),
        ("reid_images-query.array_record-00000-of-00001", "reid_images-query.* is missing"),
    ],
)
def test_damaged_by_a_missing_file(prepared, file, message):
    out = prepared[1]
    (out / "reid_images/folder/1.1.0" / file).unlink()
    with pytest.raises(UserError, match=rf"is damaged \({message}.*; delete it and run: python"):
        builders.open_prepared(out, "folder")


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_damaged_index(prepared, content):
    out = prepared[1]
    (out / "reid_images/folder/1.1.0/index.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged \(index.npz: "):
        builders.open_prepared(out, "folder")


def test_damaged_records_are_not_read_as_nothing(prepared):
    out = prepared[1]
    file = out / "reid_images/folder/1.1.0/reid_images-train.array_record-00000-of-00001"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    read = builders.open_prepared(out, "folder")[1]["train"]
    with pytest.raises(UserError, match=r"the record of bounding_box_train/.* is not where index"):
        read(0)


def test_reading_records_does_not_import_tensorflow(prepared):
    script = (
        "import sys; from jaxreid.data import builders\n"
        f"read = builders.open_prepared({str(prepared[1])!r}, 'folder')[1]; read['train'](0)\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_command_prints_what_it_found(tmp_path, capsys):
    root = market_tree(tmp_path / "tree")
    assert command.main(["--name=folder", f"--root={root}"]) == 0
    assert capsys.readouterr().out == (
        "folder: train 12 images of 3 ids, query 6 of 3, gallery 14, 2 cameras; dropped 1 junk\n"
    )
    assert command.main(["--name=market1501", f"--root={root}"]) == 0
    assert "\nwarning: market1501: 6 queries, expected 3368\n" in capsys.readouterr().out


def test_command_takes_a_split(tmp_path, capsys):
    root, out = ilids_tree(tmp_path / "tree"), tmp_path / "out"
    assert command.main(["--name=ilids_vid", f"--root={root}", "--split=3", f"--out={out}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("ilids_vid split 3: train 6 tracklets (")
    assert printed[-1] == f"written: {out}/reid_images/ilids_vid_split3/1.1.0"
    assert command.main(["--name=ilids_vid", f"--root={root}", "--split=10"]) == 2
    assert "ilids_vid has the splits 0 to 9" in capsys.readouterr().err


def test_command_writes(tmp_path, capsys):
    root, out = market_tree(tmp_path / "tree"), tmp_path / "out"
    assert command.main(["--name=folder", f"--root={root}", f"--out={out}", "--check"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "every image decodes",
        f"written: {out}/reid_images/folder/1.1.0",
    ]
    assert builders.open_prepared(out, "folder")[0].query.size == 6


def test_command_finds_images_that_do_not_decode(tmp_path, capsys):
    root, out = market_tree(tmp_path / "tree"), tmp_path / "out"
    cut = root / "query" / "0003_c1s1_000050_00.jpg"
    cut.write_bytes(cut.read_bytes()[:-40])
    none = root / "bounding_box_test" / "0006_c2s1_000100_01.jpg"
    none.write_bytes(b"GIF89a")
    assert command.main(["--name=folder", f"--root={root}", f"--out={out}", "--check"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{none}: not an image that decodes (")
    assert lines[2].startswith(f"{cut}: not an image that decodes (")
    assert lines[3:] == ["2 images do not decode; nothing written"]
    assert not out.exists()


def test_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert command.main(["--name=foldr", f"--root={tmp_path}"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(
        r"jaxreid: error: data.name='foldr' .* did you mean 'folder'\?\n", printed.err
    )
