"""Every kind of folder is listed alike: the same suffixes, the same order, the same left out."""

import importlib.util
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from jaxreid.data import decode, index
from jaxreid.data.files import say_skipped
from jaxreid.data.images import FOLDERS
from jaxreid.errors import UserError
from jaxreid.search import items

KINDS = [*decode.SUFFIXES, *(suffix.upper() for suffix in decode.SUFFIXES)]
SAID = "skipped 1 without a suffix, 2 .xyz"
HIDDEN_FOLDERS = (".thumbnails", "@eaDir", "__MACOSX")


def draw(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 8)).save(path, "PNG")


def fill(folder, stem="{}"):
    """Images 1 to n, one of each suffix, and what else lies in folders. Returns their names."""
    names = [stem.format(n) + kind for n, kind in enumerate(KINDS, start=8)]
    for name in reversed(names):
        draw(folder / name)
    for name in (".1_c1.jpg", "._1_c1.jpg", *(f"{name}/1_c1.jpg" for name in HIDDEN_FOLDERS)):
        draw(folder / name)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.xyz", "NOTES.XYZ", "README"):
        (folder / name).write_bytes(b"")
    return names


def hide(folder):
    for name in HIDDEN_FOLDERS:
        draw(folder / name / "1" / "1_c1.jpg")


def last_parts(paths):
    return [str(path).rpartition("/")[2] for path in paths]


def three_folders(root):
    names = fill(root / FOLDERS["query"], "{}_c1")
    for split in ("train", "gallery"):
        draw(root / FOLDERS[split] / "1_c1.png")
    data = index.load("folder", root)
    return names, data.query.paths, data.notes


def classes(root):
    names = fill(root / "train" / "cat")
    for n in (1, 2):
        draw(root / "val" / "cat" / f"{n}.png")
    hide(root / "train")
    data = index.load("imagenet", root)
    return names, data.train.paths, data.notes


def duke_video(root):
    names = fill(root / "train" / "0001" / "0001", "0001C1F{:04}X1")
    for split in ("query", "gallery"):
        draw(root / split / "0002" / "0001" / "0002C1F0001X1.png")
    hide(root / "train")
    hide(root / "train" / "0001")
    data = index.load("duke_video", root)
    return names, data.train.paths, data.notes


def two_cameras(root):
    names = fill(root / "multi_shot" / "cam_a" / "person_0001")
    for person, camera in ((1, "b"), (2, "a"), (2, "b")):
        draw(root / "multi_shot" / f"cam_{camera}" / f"person_{person:04}" / "0001.png")
    hide(root / "multi_shot" / "cam_a")
    data = index.load("prid2011_all", root, 0)
    paths = [path for split in data.splits.values() for path in split.paths]
    notes = [note for note in data.notes if note.startswith("skipped")]
    return names, [path for path in paths if "cam_a/person_0001" in path], notes


def search(root, place="", *, tracklets=False):
    names = fill(root)
    skipped: Counter[str] = Counter()
    found = items.find([f"{root}{place}"], tracklets=tracklets, skipped=skipped)
    return names, [file for item in found for file in item.files], say_skipped(skipped)


def search_by_pattern(root):
    return search(root, "/*")


def search_by_deep_pattern(root):
    return search(root, "/**/*.*")


def search_tracklets(root):
    return search(root, tracklets=True)


def by_person(root):
    path = Path("docs/examples/by_person.py")
    spec = importlib.util.spec_from_file_location("by_person", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    names = fill(root / "ann" / "door")
    hide(root)
    hide(root / "ann")
    skipped: Counter[str] = Counter()
    lines = example.rows(root, 0.0, 0, skipped)
    assert {(line["pid"], line["camid"]) for line in lines} == {(1, 1)}
    return names, [line["path"] for line in lines], say_skipped(skipped)


def a_csv_of_frames(root):
    """Listed by name, so that nothing is skipped: without a column `frame`, in natural order."""
    names = fill(root)
    lines = [f"{name},1,1,{split},7" for split in index.SPLITS for name in sorted(names)]
    (root / "data.csv").write_text("\n".join(["path,pid,camid,split,tracklet", *lines]))
    data = index.load("csv", root / "data.csv")
    [walk] = items.find([root / "data.csv"], tracklets=True)
    assert list(dict.fromkeys(last_parts(walk.files))) == data.query.paths.tolist()
    return names, data.query.paths, [SAID]


def a_csv_of_images(root):
    names = fill(root)
    lines = [f"{name},1,1,{split}" for split in index.SPLITS for name in sorted(names)]
    (root / "data.csv").write_text("\n".join(["path,pid,camid,split", *lines]))
    return names, index.load("csv", root / "data.csv").query.paths, [SAID]


ENTRIES = [
    *(three_folders, classes, duke_video, two_cameras, search, search_by_pattern),
    *(search_tracklets, by_person, a_csv_of_frames, a_csv_of_images),
]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_every_listing_is_the_same(tmp_path, entry):
    names, found, notes = entry(tmp_path / "here")
    assert last_parts(found) == names
    assert list(notes) == [SAID]


def test_a_pattern_takes_what_fits_it_and_no_more(tmp_path):
    names, found, notes = search_by_deep_pattern(tmp_path / "here")
    assert last_parts(found) == names
    assert notes == ("skipped 2 .xyz",)
    hidden = tmp_path / "here" / ".thumbnails"  # Whoever names it means it.
    found = items.find([hidden, f"{hidden}/*"], tracklets=False)
    assert last_parts(item.name for item in found) == ["1_c1.jpg"]


def test_where_all_is_skipped_that_is_said(tmp_path):
    (tmp_path / "a.xyz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no photographs there; .*; skipped 1 \.xyz$"):
        items.find([tmp_path], tracklets=False)
    for split in FOLDERS.values():
        (tmp_path / split).mkdir()
    (tmp_path / FOLDERS["train"] / "a.xyz").write_bytes(b"")
    with pytest.raises(UserError, match=r"no images in .*train \(skipped 1 \.xyz\); expected"):
        index.load("folder", tmp_path)
