import json
import re
import shutil
import sys

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jaxreid.data import cuhk03, index, tables
from jaxreid.errors import UserError
from tests.data.trees import (
    cuhk03_mat,
    cuhk03_np_tree,
    cuhk03_tree,
    write_cuhk03_config,
    write_image,
)


def error_of(call, *args):
    with pytest.raises(UserError) as error:
        call(*args)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------------- classic protocol


def test_classic_rows(tmp_path):
    data = cuhk03.classic("labeled", cuhk03_tree(tmp_path / "exp-01_c2"), 0)
    assert data.train.root == str(tmp_path / "exp-01_c2")
    assert data.train.paths.tolist() == [
        "images_labeled/1_003_1_03.png",
        "images_labeled/1_003_1_04.png",
        "images_labeled/1_003_1_05.png",
        "images_labeled/1_003_2_08.png",
        "images_labeled/1_003_2_09.png",
        "images_labeled/1_003_2_10.png",
        "images_labeled/2_001_1_01.png",
        "images_labeled/2_001_2_06.png",
        "images_labeled/2_002_1_02.png",
        "images_labeled/2_002_2_10.png",
    ]
    assert data.train.pids.tolist() == [0] * 6 + [1] * 2 + [2] * 2
    assert data.train.camids.tolist() == [1, 1, 1, 2, 2, 2, 1, 2, 1, 2]
    assert data.train.frames.tolist() == [3, 4, 5, 8, 9, 10, 1, 6, 2, 10]
    assert data.train.tracklets.tolist() == list(range(10))
    assert data.train_pids.tolist() == [1003, 2001, 2002]
    assert data.query.pids.tolist() == [1001, 1001, 1001, 1002, 1002, 1002]
    assert data.query.camids.tolist() == [1, 1, 2, 1, 2, 2]
    assert data.gallery.paths.tolist() == data.query.paths.tolist()
    assert (data.split, data.single_shot, data.shared_tracklets) == (0, True, False)
    assert all(c.dtype == np.int32 for table in data.splits.values() for c in table[2:])
    assert not data.is_video
    assert data.summary() == (
        "cuhk03_classic_labeled split 0: train 10 images of 3 ids, query 6 of 2, gallery 6, "
        "2 cameras"
    )
    assert index.warnings(data) == [
        "cuhk03_classic_labeled: 16 images of 5 people, 2 of them to test on; expected 14096 "
        "images of 1467 people, 100 of them to test on"
    ]


def test_classic_splits_and_kinds(tmp_path):
    cuhk03_tree(tmp_path / "cuhk03")
    odd = cuhk03.classic("detected", tmp_path, 19)
    assert odd.train.root == str(tmp_path / "cuhk03")
    assert np.unique(odd.query.pids).tolist() == [1003, 2002]
    assert odd.train_pids.tolist() == [1001, 1002, 2001]
    assert odd.train.paths.tolist()[0] == "images_detected/1_001_1_02.png"
    assert odd.counts == tables.Counts(train=7, train_ids=3, query=8, query_ids=2, gallery=8)
    assert "15 images of 5 people" in odd.notes[0]


def test_classic_of_the_right_size_has_no_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(cuhk03, "_IMAGES", {"labeled": 16})
    monkeypatch.setattr(cuhk03, "_PEOPLE", 5)
    monkeypatch.setattr(cuhk03, "_TEST_PEOPLE", 2)
    assert cuhk03.classic("labeled", cuhk03_tree(tmp_path), 3).notes == ()


def test_single_shot_is_kept(tmp_path):
    data = cuhk03.classic("labeled", cuhk03_tree(tmp_path), 1)
    tables.save(tmp_path / "kept.npz", data, "stamp")
    kept = tables.restore(tmp_path / "kept.npz", "stamp")
    assert kept.single_shot
    assert kept.fingerprint() == data.fingerprint()
    with np.load(tmp_path / "kept.npz") as columns:
        older = {key: columns[key] for key in columns if key != "single_shot"}
    np.savez(tmp_path / "older.npz", **older)
    assert not tables.restore(tmp_path / "older.npz", "stamp").single_shot


def test_no_test_sets(tmp_path):
    (cuhk03_tree(tmp_path) / "splits_classic.json").unlink()
    assert error_of(cuhk03.classic, "labeled", tmp_path, 0) == (
        f"cuhk03_classic_labeled: no {tmp_path}/splits_classic.json, the 20 published sets of test "
        f"people; they are in cuhk-03.mat: with it at {tmp_path}/cuhk03_release/cuhk-03.mat run: "
        f"python -m jaxreid.data.cuhk03 --root={tmp_path}"
    )


@pytest.mark.parametrize(
    "splits",
    [
        {},
        None,
        7,
        [],
        [[[1, 1]]] * 19,
        [[[1, 1]]] * 19 + [[]],
        [[[1, 1]]] * 19 + [[[1, 1], [1, 1]]],
        [[[1, 1]]] * 19 + [[[1, 1.5]]],
        [[[1, 1]]] * 19 + [[[0, 1]]],
        [[[1, 1]]] * 19 + [[[1, 1000]]],
        [[[1, 1]]] * 19 + [[["1", "1"]]],
        [[[1, 1]]] * 19 + [[[1, 1, 1]]],
        [[[1, 1]]] * 19 + ["ab"],
        [[[1, 1]]] * 19 + [[[None, [1]]]],
    ],
)
def test_damaged_test_sets(tmp_path, splits):
    (cuhk03_tree(tmp_path) / "splits_classic.json").write_text(json.dumps(splits))
    assert error_of(cuhk03.classic, "labeled", tmp_path, 0) == (
        f"cuhk03_classic_labeled: {tmp_path}/splits_classic.json is not 20 lists of people, none "
        "twice in a list, each as [camera pair, person of the pair]"
    )


def test_test_sets_that_are_not_json_or_of_others(tmp_path):
    file = cuhk03_tree(tmp_path) / "splits_classic.json"
    file.write_text(json.dumps([[[1, 1], [2, 7]]] * 20))
    assert error_of(cuhk03.classic, "labeled", tmp_path, 4) == (
        f"cuhk03_classic_labeled: {file} split 4 has person 7 of pair 2, of whom there is no image "
        f"in {tmp_path}/images_labeled"
    )
    file.write_text("[" * 100_000)
    assert "splits_classic.json cannot be read (" in error_of(
        cuhk03.classic, "labeled", tmp_path, 0
    )
    file.write_text(json.dumps([[[1, 1], [1, 2], [1, 3], [2, 1], [2, 2]]] * 20))
    assert "holds no train images" in error_of(cuhk03.classic, "labeled", tmp_path, 0)


@pytest.mark.parametrize(
    "file",
    ["1_001_2_01.png", "1_001_1_06.png", "1_001_2_11.png", "0_001_1_01.png", "1_0001_1_01.png"],
)
def test_strange_names(tmp_path, file):
    write_image(cuhk03_tree(tmp_path) / "images_labeled" / file)
    assert re.search(
        rf"images_labeled/{file} is not named like 1_001_1_01.png \(camera pair",
        error_of(cuhk03.classic, "labeled", tmp_path, 0),
    )


def test_no_images(tmp_path):
    assert re.search(
        r"^cuhk03_classic_labeled: no images_labeled/ in .*, nor in its cuhk03; expected "
        r"cuhk03_release/cuhk-03.mat, or images_labeled/ with images named like 1_001_1_01.png",
        error_of(cuhk03.classic, "labeled", tmp_path, 0),
    )
    assert error_of(cuhk03.new_protocol, "detected", tmp_path).endswith(
        "image), or cuhk03-np/detected/ in Market-1501's layout"
    )
    (tmp_path / "images_labeled").mkdir()
    (tmp_path / "images_labeled/Thumbs.db").write_bytes(b"")
    assert f"no images in {tmp_path}/images_labeled; expected some named like" in error_of(
        cuhk03.classic, "labeled", tmp_path, 0
    )
    assert "is not a folder" in error_of(cuhk03.new_protocol, "labeled", tmp_path / "nowhere")


# ---------------------------------------------------------------------- new protocol


def test_new_protocol_rows(tmp_path):
    data = cuhk03.new_protocol("labeled", cuhk03_tree(tmp_path))
    assert data.name == "cuhk03_labeled"
    assert data.train.paths.tolist() == [
        "images_labeled/1_001_1_01.png",
        "images_labeled/1_001_1_02.png",
        "images_labeled/1_001_2_06.png",
        "images_labeled/2_001_1_01.png",
        "images_labeled/2_001_2_06.png",
    ]
    assert data.train.pids.tolist() == [0, 0, 0, 1, 1]
    assert data.train.camids.tolist() == [1, 1, 2, 1, 2]
    assert data.train_pids.tolist() == [0, 3]
    assert data.query.paths.tolist() == [
        "images_labeled/1_002_1_01.png",
        "images_labeled/2_002_1_02.png",
        "images_labeled/2_002_2_10.png",
    ]
    assert data.query.pids.tolist() == [1, 4, 4]
    assert data.query.camids.tolist() == [1, 1, 2]
    assert data.gallery.pids.tolist() == [1, 1, 2, 2, 2, 2, 2, 2]
    assert data.gallery.frames.tolist() == [6, 7, 3, 4, 5, 8, 9, 10]
    assert not data.single_shot
    assert data.split is None
    assert all(c.dtype == np.int32 for table in data.splits.values() for c in table[2:])
    detected = cuhk03.new_protocol("detected", tmp_path)
    assert detected.train.paths.tolist()[0] == "images_detected/1_001_1_02.png"
    assert detected.counts == tables.Counts(4, 2, 3, 2, 8)


def test_config_beside_the_mat(tmp_path):
    file = cuhk03_tree(tmp_path) / "cuhk03_new_protocol_config_labeled.mat"
    (tmp_path / "cuhk03_release").mkdir()
    file.rename(tmp_path / "cuhk03_release" / file.name)
    assert cuhk03.new_protocol("labeled", tmp_path).counts == tables.Counts(5, 2, 3, 2, 8)


def test_no_config(tmp_path):
    file = cuhk03_tree(tmp_path) / "cuhk03_new_protocol_config_labeled.mat"
    file.unlink()
    assert error_of(cuhk03.new_protocol, "labeled", tmp_path) == (
        f"cuhk03_labeled: no {file} (No such file or directory); expected the new protocol's "
        "lists, handed out with its authors' code"
    )


NAMES = ["1_001_1_01.png", "1_002_1_01.png", "1_002_2_06.png"]


@pytest.mark.parametrize(
    ("names", "labels", "train", "query", "gallery", "shown"),
    [
        (NAMES, [1, 2], [1], [2], [3], "has 2 labels, from 1, and 3 names"),
        (NAMES, [1, -1, 2], [1], [2], [3], "has 3 labels, from -1, and 3 names"),
        (NAMES, [1, 2, 2], [0], [2], [3], "must be numbers from 1 to 3, the number of its names"),
        (NAMES, [1, 2, 2], [1], [2], [4], "must be numbers from 1 to 3, the number of its names"),
        (NAMES, [1, 2, 2], [1], [2], [2], "name no image twice"),
        ([*NAMES[:2], NAMES[1]], [1, 2, 2], [1], [2], [3], "name no image twice"),
        (NAMES, [1, 2, 2.5], [1], [2], [3], "labels in .* must be a matrix of whole numbers"),
        (["a.png", *NAMES[1:]], [1, 2, 2], [1], [2], [3], "image\\), not 'a.png'"),
        ([7, *NAMES[1:]], [1, 2, 2], [1], [2], [3], "must be cells of names like"),
    ],
)
def test_config_that_does_not_fit(tmp_path, names, labels, train, query, gallery, shown):
    cuhk03_tree(tmp_path)
    for squeezed in (False, True):
        write_cuhk03_config(
            tmp_path, "labeled", names, labels, train, query, gallery, do_compression=squeezed
        )
        assert re.search(shown, error_of(cuhk03.new_protocol, "labeled", tmp_path))


@pytest.mark.parametrize("filelist", [None, 7.0, "text", {"a": 1}])
def test_filelist_that_is_no_cells(tmp_path, filelist):
    file = cuhk03_tree(tmp_path) / "cuhk03_new_protocol_config_labeled.mat"
    savemat(file, {"labels": [[1]]} if filelist is None else {"filelist": filelist})
    assert re.search(
        r"filelist in .* must be cells of names like",
        error_of(cuhk03.new_protocol, "labeled", tmp_path),
    )


def test_config_of_the_other_boxes(tmp_path):
    file = cuhk03_tree(tmp_path) / "cuhk03_new_protocol_config_detected.mat"
    shutil.copy(tmp_path / "cuhk03_new_protocol_config_labeled.mat", file)
    assert error_of(cuhk03.new_protocol, "detected", tmp_path) == (
        f"cuhk03_detected: {file} names 1 images that {tmp_path}/images_detected does not hold; "
        "the first is 1_001_1_01.png"
    )


@pytest.mark.parametrize("squeezed", [False, True])
def test_damaged_config(tmp_path, squeezed):
    """Wherever bytes of filelist are changed, it is read as before or refused in one line."""
    cuhk03_tree(tmp_path)
    file = write_cuhk03_config(
        tmp_path, "labeled", NAMES, [1, 2, 2], [1], [2], [3], do_compression=squeezed
    )
    content, rng, errors = file.read_bytes(), np.random.default_rng(0), []
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(136, 136 + 264, 3):  # behind the header and filelist's own
            damaged[place] = rng.integers(0, 256)
        file.write_bytes(damaged)
        try:
            cuhk03.new_protocol("labeled", tmp_path)
        except UserError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert not any("\n" in error for error in errors)


# ---------------------------------------------------------------------- Market-1501's layout


@pytest.mark.parametrize("above", ["", "cuhk03-np", "cuhk03-np/labeled"])
def test_np_root_and_its_parents(tmp_path, above):
    cuhk03_np_tree(tmp_path)
    data = cuhk03.new_protocol("labeled", tmp_path / above)
    assert data.name == "cuhk03_labeled"
    assert data.train.root == str(tmp_path / "cuhk03-np/labeled")
    assert data.train.paths.tolist()[2] == "bounding_box_train/0001_c2_6.png"
    assert data.train.camids.tolist() == [1, 1, 2]
    assert data.query.pids.tolist() == [0, 0]  # a person, not a distractor
    assert data.gallery.pids.tolist() == [0, 0, 3]
    assert data.gallery.frames.tolist() == [2, 7, 8]
    assert data.junk == 0


def test_np_strange_names(tmp_path):
    write_image(cuhk03_np_tree(tmp_path) / "detected/query/0001_c3_1.png")
    assert "query/0001_c3_1.png is not named like 0001_c1_1.png (pid, camera from 1" in error_of(
        cuhk03.new_protocol, "detected", tmp_path
    )
    assert cuhk03.new_protocol("labeled", tmp_path).counts == tables.Counts(3, 1, 2, 1, 3)


# ---------------------------------------------------------------------- unpacking


def test_unpack(tmp_path, capsys):
    cuhk03_mat(tmp_path)
    assert cuhk03.main([f"--root={tmp_path}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/splits_classic.json: 20 sets of test people",
        f"{tmp_path}/images_labeled: a few minutes ...",
        f"{tmp_path}/images_labeled: 16 images",
        f"{tmp_path}/images_detected: a few minutes ...",
        f"{tmp_path}/images_detected: 15 images",
    ]
    # Both forms hold the same names, and the same test sets.
    there = cuhk03_tree(tmp_path / "unpacked before")
    for kind in ("labeled", "detected"):
        here = {file.name for file in (tmp_path / f"images_{kind}").iterdir()}
        assert here == {file.name for file in (there / f"images_{kind}").iterdir()}
        data = cuhk03.classic(kind, tmp_path, 1)
        assert data.fingerprint() == cuhk03.classic(kind, there, 1).fingerprint()
    with Image.open(tmp_path / "images_detected/1_003_2_10.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (6, 4, 3)
    assert pixels[0, 3].tolist() == [255, 255, 255]  # upright: upper right
    assert (pixels.reshape(-1, 3) == [1, 3, 10]).all(axis=1).sum() == 23
    assert not list(tmp_path.glob("*.partial")) + list(tmp_path.glob(".*"))
    # Once more: nothing is read or written.
    assert cuhk03.main([f"--root={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("there already") == 3


@pytest.mark.parametrize("above", ["cuhk03", "cuhk03_release"])
def test_unpack_from_the_folder_above_and_below(tmp_path, above):
    cuhk03_mat(tmp_path / "cuhk03")
    root = tmp_path if above == "cuhk03" else tmp_path / "cuhk03/cuhk03_release"
    cuhk03.unpack(root)
    home = tmp_path / "cuhk03" if above == "cuhk03" else root
    assert cuhk03.classic("labeled", root, 0).train.root == str(home)


def test_not_unpacked_yet(tmp_path):
    file = cuhk03_mat(tmp_path)
    for call in (cuhk03.classic, cuhk03.new_protocol):
        split = [0] if call is cuhk03.classic else []
        assert re.fullmatch(
            rf"cuhk03_(classic_)?labeled: {file} is not unpacked \(no images_labeled/ in {tmp_path}"
            rf"\); run this once: python -m jaxreid.data.cuhk03 --root={tmp_path}",
            error_of(call, "labeled", tmp_path, *split),
        )


def test_a_call_that_was_stopped_goes_on(tmp_path, monkeypatch, capsys):
    cuhk03_mat(tmp_path)
    save, saved = Image.Image.save, []

    def stop_at_five(self, file, **options):
        save(self, file, **options)
        saved.append(file)
        if len(saved) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop_at_five)
    with pytest.raises(KeyboardInterrupt):
        cuhk03.unpack(tmp_path)
    assert not (tmp_path / "images_labeled").exists()
    assert len(list((tmp_path / "images_labeled.partial").glob("[!.]*"))) == 4
    assert "is not unpacked" in error_of(cuhk03.classic, "labeled", tmp_path, 0)
    (tmp_path / "images_labeled.partial/.1.png").write_bytes(b"of another call")
    cuhk03.unpack(tmp_path)
    assert len(saved) == 5 + 12 + 15
    assert len(list((tmp_path / "images_labeled").iterdir())) == 16
    assert cuhk03.classic("labeled", tmp_path, 0).train.size == 10


def test_only_the_test_sets_are_missing(tmp_path):
    """Images that another tool unpacked are left as they are."""
    cuhk03_mat(tmp_path)
    cuhk03_tree(tmp_path)
    (tmp_path / "splits_classic.json").unlink()
    before = (tmp_path / "images_labeled/1_001_1_01.png").read_bytes()
    cuhk03.unpack(tmp_path)
    assert (tmp_path / "images_labeled/1_001_1_01.png").read_bytes() == before
    assert json.loads((tmp_path / "splits_classic.json").read_text())[1] == [[1, 3], [2, 2]]


def test_a_folder_that_cannot_be_written(tmp_path):
    cuhk03_mat(tmp_path)
    (tmp_path / "images_labeled.partial").write_bytes(b"in the way")
    assert error_of(cuhk03.unpack, tmp_path) == (
        f"cuhk03: cannot write {tmp_path}/images_labeled.partial (File exists)"
    )


def test_no_h5py(tmp_path, monkeypatch):
    cuhk03_mat(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert re.search(
        r"h5py, which reads cuhk-03.mat, cannot be imported \(.*; install the extra 'data'",
        error_of(cuhk03.unpack, tmp_path),
    )


def test_no_mat(tmp_path, capsys):
    assert cuhk03.main([f"--root={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        f"jaxreid: error: cuhk03: no cuhk-03.mat in {tmp_path}, nor in its cuhk03_release, cuhk03 "
        "or cuhk03/cuhk03_release\n"
    )


def test_mat_that_is_cut_short_or_another_file(tmp_path):
    file = cuhk03_mat(tmp_path)
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no HDF5"):
        file.write_bytes(damaged)
        assert f"cuhk03: {file} is not an HDF5 file, or cut short (" in error_of(
            cuhk03.unpack, tmp_path
        )
    assert not list(tmp_path.glob("images*"))


def _edit(change):
    def edited(tmp_path):
        file = cuhk03_mat(tmp_path)
        with h5py.File(file, "r+") as mat:
            change(mat, tmp_path)
        return file

    return edited


def _replaced(key, **options):
    def change(mat, tmp_path):
        del mat[key]
        mat.create_dataset(key, **options)

    return _edit(change)


def _first_picture(new):
    """In place of the picture of pair 1, person 1, image 1."""

    def change(mat, tmp_path):
        people = mat[mat["labeled"][0, 0]]
        cells = people[()]
        cells[0, 0] = new(mat, tmp_path)
        people[...] = cells

    return _edit(change)


def _elsewhere(mat, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(72))
    return mat.create_dataset(
        "elsewhere", (3, 4, 6), "u1", external=[(str(tmp_path / "secret"), 0, 72)]
    ).ref


def _virtual(mat, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros((3, 4, 6), np.uint8)
    layout = h5py.VirtualLayout((3, 4, 6), np.uint8)
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3, 4, 6))
    return mat.create_virtual_dataset("virtual", layout).ref


def _linked(mat, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other.create_dataset("x", (1, 20), h5py.ref_dtype)
    del mat["testsets"]
    mat["testsets"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")


def _dataset(*args, **options):
    return lambda mat, _: mat.create_dataset("another", *args, **options).ref


NO_PICTURE = "labeled pair 1 person 1 image 1 is not 3 x width x height bytes"


@pytest.mark.parametrize(
    ("edited", "shown"),
    [
        (_first_picture(lambda mat, _: mat["#refs#"].ref), NO_PICTURE),
        (_first_picture(_dataset(data=np.zeros((3, 4, 6)))), NO_PICTURE),
        (_first_picture(_dataset((4, 4, 6), "u1")), NO_PICTURE),
        (_first_picture(_dataset((), "u1")), NO_PICTURE),
        (_first_picture(_dataset(data=h5py.Empty("u1"))), NO_PICTURE),
        (_first_picture(_dataset((3, 2**14, 2**14), "u1")), NO_PICTURE),
        (
            _first_picture(
                _dataset((3, 1, 1), "u1", maxshape=(3, None, None), chunks=(3, 2**14, 2**14))
            ),
            NO_PICTURE,
        ),
        (_first_picture(_elsewhere), NO_PICTURE),
        (_first_picture(_virtual), NO_PICTURE),
        (_first_picture(lambda *_: h5py.Reference()), rf"{NO_PICTURE} \(.+\)"),
        (_edit(_linked), r"testsets is not 1 x \(1 to 20\) cells$"),
        (_replaced("labeled", data=np.zeros((1, 5))), r"labeled is not 1 x \(1 to 9\) cells"),
        (
            _replaced("labeled", shape=(1, 10), dtype=h5py.ref_dtype),
            r"labeled is not 1 x \(1 to 9\)",
        ),
        (
            _replaced("testsets", shape=(1, 3), dtype=h5py.ref_dtype),
            r"testsets is not|testsets 1 is not",
        ),
        (_edit(lambda mat, _: mat.pop("testsets")), "testsets is not .*doesn't exist"),
        (_edit(lambda mat, _: mat.pop("labeled")), "labeled is not .*doesn't exist"),
    ],
)
def test_hostile_mat(tmp_path, edited, shown):
    file = edited(tmp_path)
    message = error_of(cuhk03.unpack, tmp_path)
    assert message.startswith(f"cuhk03: {file}: ")
    assert re.search(shown, message)
    assert not (tmp_path / "images_labeled").exists()


@pytest.mark.parametrize("values", [[[1.0], [np.nan]], [[1.5], [1.0]], [[1, 1], [1, 1]]])
def test_test_sets_in_the_mat_that_do_not_fit(tmp_path, values):
    def change(mat, tmp_path):
        reference = mat.create_dataset("a", data=np.array(values)).ref
        mat["testsets"][0, 19] = reference

    file = _edit(change)(tmp_path)
    assert f"cuhk03: testsets in {file} is not 20 lists of people" in error_of(
        cuhk03.unpack, tmp_path
    )
    assert not (tmp_path / "splits_classic.json").exists()
