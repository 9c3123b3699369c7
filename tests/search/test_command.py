import csv
import os
import re
import shutil
import weakref

import numpy as np
import pytest
from PIL import Image

from jaxreid.data.sources import open_source
from jaxreid.search import Item, results
from jaxreid.search.__main__ import main
from tests.pretrained import osnet_files, writers
from tests.search.test_items import write_video


@pytest.fixture
def search(tmp_path, monkeypatch, capsys):
    """A function that runs the command in an empty folder: its exit code, and what it said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "set by the tests")

    def run(workdir, *flags):
        network = [] if workdir is None else [f"--workdir={workdir}"]
        code = main([*network, *map(str, flags)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def photos(photo_config, tmp_path):
    """The queries as photographs of one's own, in two folders; their index is in order."""
    index = open_source(photo_config.data).data.query
    for row in range(index.size):
        folder = tmp_path / "photos" / f"door {index.camids[row]}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(index.path(row), folder / f"{row}.jpg")
    return index


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_photograph_in_a_folder(search, photo_run, photos, tmp_path):
    shutil.copy(photos.path(3), tmp_path / "photo.jpg")
    (tmp_path / "photos" / "door 1" / "broken.jpg").write_bytes(b"\xff\xd8 cut off")
    flags = "--query=photo.jpg", "--gallery=photos/", "--top=5", "--out=found"
    code, said, errors = search(photo_run, *flags)
    assert (code, errors) == (0, "")
    lines = said.splitlines()
    assert re.match(r"skipped: photos/door 1/broken.jpg: not an image that decodes \(", lines[0])
    size = photos.size
    assert lines[1] == f"1 of {size + 1} photographs of the gallery skipped"
    assert re.match(rf"gallery: {size} photographs: 0 from the index, {size} computed in", lines[2])
    [index] = (tmp_path / "found").glob("gallery-*.npz")
    assert lines[3].startswith(f"index: found/{index.name} (")
    found = table("found/ranked.csv")
    assert [row["rank"] for row in found] == ["1", "2", "3", "4", "5"]
    assert found[0]["path"] == f"photos/door {photos.camids[3]}/3.jpg"
    assert float(found[0]["distance"]) < 0.001
    for row in found:
        far = f"{float(row['distance']):.3f}"
        assert re.search(rf"│ +{row['rank']} │ +{far} │ {row['path']} +│", said)
    assert lines[-1] == "written: found/ranked.html, found/ranked.png, found/ranked.csv"
    with Image.open("found/ranked.png") as image:
        assert image.width > image.height
    page = (tmp_path / "found" / "ranked.html").read_text()
    assert page.count('<figure class="item query">') == 1
    assert page.count('<figure class="item ">') == 5
    assert page.count("data:image/jpeg;base64,") == 6
    assert "photos/door" in page
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", page) == []
    # Once more: all but what cannot be read is known.
    again = search(photo_run, *flags)[1]
    assert f"gallery: {size} photographs: {size} from the index, 0 computed in" in again
    assert table("found/ranked.csv") == found


def test_labels_say_who_was_right(search, photo_run, photos, tmp_path):
    with open("who.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "pid", "camera"])
        for row, path in enumerate(sorted((tmp_path / "photos").rglob("*.jpg"))):
            row = int(path.stem)
            writer.writerow([path, photos.pids[row], f"<{photos.camids[row]}>"])
    code, said, _ = search(photo_run, "--query=who.csv", "--gallery=who.csv", "--index=gallery.npz")
    assert code == 0
    size = photos.size
    assert f"{size} of the queries lie in the gallery, and are not found for themselves" in said
    found = table(photo_run / "search" / "ranked.csv")
    assert len(found) == size * (size - 1)
    assert all(row["query"] != row["path"] for row in found)
    pid = {row["path"]: row["pid"] for row in table("who.csv")}
    hits = sum(pid[row["query"]] == row["pid"] for row in found)
    page = (photo_run / "search" / "ranked.html").read_text()
    assert hits > 0
    assert page.count('<figure class="item hit">') == hits
    assert page.count('<figure class="item miss">') == len(found) - hits
    assert "camera &lt;1&gt;" in page
    assert "red and dashed" in page


def test_any_name_that_a_file_may_have(search, photo_run, photos, tmp_path):
    names = [
        b"$\\frac$.jpg",
        b"caf\xe9.jpg",
        "犬.jpg".encode(),
        b"<b>[red] & co.jpg",
        b"two\nlines.jpg",
    ]
    (tmp_path / "odd").mkdir()
    for row, name in enumerate(names):
        shutil.copy(photos.path(row), os.path.join(os.fsencode(tmp_path), b"odd", name))
    code, said, errors = search(photo_run, "--query=odd", "--gallery=odd")
    assert (code, errors) == (0, "")
    found = table(photo_run / "search" / "ranked.csv")
    shown = {name.decode(errors="backslashreplace").replace("\\xe9", "\\udce9") for name in names}
    assert {row["path"] for row in found} == {f"odd/{name}" for name in shown}
    assert "caf\\udce9.jpg" in said
    page = (photo_run / "search" / "ranked.html").read_text(encoding="utf-8")
    assert "odd/<wbr>&lt;b&gt;[red] &amp; co.jpg" in page
    assert "<b>[red]" not in page


def test_a_query_is_not_found_for_itself_by_way_of_a_link(search, photo_run, photos, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    code, said, _ = search(photo_run, "--query=link/door 1", "--gallery=photos")
    assert code == 0
    assert " of the queries lie in the gallery, and are not found for themselves" in said
    for row in table(photo_run / "search" / "ranked.csv"):
        assert os.path.basename(row["query"]) != os.path.basename(row["path"])


def test_of_a_video_the_middle_frame_is_shown(monkeypatch):
    given = []

    def read_video(file):
        for i in range(7):
            frame = np.full((8, 4, 3), i, np.uint8)
            given.append(weakref.ref(frame))
            assert sum(each() is not None for each in given) <= 3  # Few are kept.
            yield frame

    monkeypatch.setattr(results.decode, "read_video", read_video)
    assert (results._thumbnail(Item("walk.mp4", ("walk.mp4",))) == 3).all()


def test_of_many_queries_all_are_in_the_table_only(search, photo_run, photos, monkeypatch):
    for name, value in (("TABLES", 1), ("DRAWN", 1), ("ON_PAGE", 6)):
        monkeypatch.setattr(results, name, value)
    code, said, _ = search(photo_run, "--query=photos", "--gallery=photos", "--top=2", "--out=out")
    assert code == 0
    assert said.count("┏") == 1
    assert f"and {photos.size - 1} more queries, in ranked.csv" in said
    with open("out/ranked.html") as file:
        page = file.read()
    assert page.count('<figure class="item query">') == 2
    assert f"{photos.size - 2} more queries are not shown here" in page
    assert len(table("out/ranked.csv")) == 2 * photos.size
    # And of many that were found for one.
    monkeypatch.setattr(results, "ON_PAGE", 2)
    search(photo_run, "--query=photos", "--gallery=photos", "--top=4", "--out=out")
    with open("out/ranked.html") as file:
        page = file.read()
    assert page.count('<figure class="item ') == 3
    assert "2 more are not shown here. All are in <code>ranked.csv</code>" in page
    assert len(table("out/ranked.csv")) == 4 * photos.size


def test_tracklets_as_folders_and_videos(search, clip_run, tmp_path):
    pytest.importorskip("av")
    rng = np.random.default_rng(0)
    walks = rng.integers(0, 256, (3, 4, 72, 72, 3)).astype(np.uint8)
    for name, walk in (("first", walks[0]), ("deeper/second", walks[1])):
        (tmp_path / "walks" / name).mkdir(parents=True)
        for i, frame in enumerate(walk):
            Image.fromarray(frame).save(tmp_path / "walks" / name / f"{i}.png")
    write_video(tmp_path / "walks" / "third.mov", walks[2])
    shutil.copytree(tmp_path / "walks" / "deeper" / "second", tmp_path / "query")
    code, said, errors = search(clip_run, "--query", "query", "walks/third.mov", "--gallery=walks")
    assert (code, errors) == (0, "")
    assert "gallery: 3 tracklets: 0 from the index, 3 computed" in said
    found = table(clip_run / "search" / "ranked.csv")
    assert [(row["query"], row["rank"]) for row in found] == [
        *(("query", "1"), ("query", "2"), ("query", "3")),
        *(("walks/third.mov", "1"), ("walks/third.mov", "2")),
    ]
    distances = [float(row["distance"]) for row in found]
    best = found[int(np.argmin(distances[:3]))]
    assert best["path"] == "walks/deeper/second"


@pytest.mark.slow
def test_a_network_that_others_trained(search, photos, tmp_path):
    weights = writers.write_zip(tmp_path / "osnet.pth", osnet_files.arrays())
    flags = f"--weights={weights}", "--query=photos/door 1", "--gallery=photos", "--top=2"
    code, said, errors = search(None, *flags, "--batch_size=8")
    assert (code, errors) == (0, "")
    assert said.startswith(f"weights: {weights}: osnet_x0_25, 256 x 128\n")
    assert f"{photos.size} computed" in said
    found = table("search/ranked.csv")
    assert len(found) == 2 * len(list((tmp_path / "photos" / "door 1").iterdir()))
    assert str(weights) in (tmp_path / "search" / "ranked.html").read_text()
    # The index is of this network, and --arch is another way to say which it is.
    code, said, _ = search(None, *flags, "--batch_size=8", "--arch=osnet_x0_25")
    assert code == 0
    assert f"{photos.size} from the index, 0 computed" in said
    cases = [
        (("--weights=none.pth",), "none.pth: No such file"),
        ((f"--weights={weights}", "--arch=osnet"), "arch=osnet: expected osnet_x1_0, "),
        ((f"--weights={weights}", "--arch=osnet_x1_0"), "do not fit the model"),
        ((f"--weights={weights}", "--step=3"), "--step=3: of --workdir alone"),
        (("--workdir=x", "--arch=osnet_x1_0"), "--arch=osnet_x1_0: of --weights alone"),
    ]
    for network, message in cases:
        code, _, errors = search(None, *network, "--query=photos", "--gallery=photos")
        assert code == 2
        assert message in errors
        assert errors.count("\n") == 1


def test_bad_input_is_one_line(search, photo_run, photos, tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.jpg").write_text("no picture")
    (tmp_path / "gallery.npz").write_text("no index")
    shutil.copytree(photo_run, tmp_path / "splits" / "split0")
    photo = "--query=photos/door 1"
    cases = [
        (("nowhere", photo, "--gallery=photos"), "nowhere/checkpoints: no checkpoint there; train"),
        (("splits", photo, "--gallery=photos"), "folder of one of the runs in it: split0"),
        ((photo_run, "--query=notes.txt", "--gallery=photos"), "notes.txt: not an image that"),
        ((photo_run, "--query=photo", "--gallery=photos"), "did you mean 'photos'?"),
        ((photo_run, photo, "--gallery=empty"), "empty: no photographs there; expected some"),
        ((photo_run, photo, "--gallery=junk"), "none of the 1 photographs of the gallery can be"),
        (
            (photo_run, photo, "--gallery=photos", "--index=gallery.npz"),
            "gallery.npz: not a gallery's index, or damaged (it is not an .npz); remove it",
        ),
        ((photo_run, photo, "--gallery=photos", "--top=0"), "--top=0: expected 1 or more"),
        (
            (photo_run, photo, "--gallery=photos", "--step=7"),
            "no checkpoint of step 7; there are 0",
        ),
        (
            (photo_run, photo, "--gallery=photos", "--out=notes.txt"),
            "notes.txt",
        ),
    ]
    for flags, message in cases:
        code, _, errors = search(*flags)
        assert code == 2, flags
        assert errors.count("\n") == 1, errors
        assert errors.startswith("jaxreid: error: ")
        assert message in errors
    with pytest.raises(SystemExit) as stopped:
        main(["--workdir=x", "--query=y"])
    assert stopped.value.code == 2
