import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxreid.data import decode
from jaxreid.errors import UserError
from jaxreid.search import find, items


def draw(path, size=(20, 10), color=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (color, 0, 0)).save(path)
    return path


@pytest.fixture
def tree(tmp_path):
    """Photographs, frames, and what lies about in folders."""
    for name in ("b.jpg", "a/10.PNG", "a/9.webp", "a/b/1.tif", "c/x.bmp"):
        draw(tmp_path / "photos" / name)
    for name in ("Thumbs.db", ".hidden.jpg", "a/notes.txt", "walk.mp4"):
        (tmp_path / "photos" / name).write_bytes(b"something")
    draw(tmp_path / "photos" / ".trash" / "old.jpg")
    (tmp_path / "photos" / "a" / "up").symlink_to(tmp_path / "photos")
    return tmp_path


def names(places, root, **kwargs):
    return [str(Path(item.name).relative_to(root)) for item in find(places, **kwargs)]


def test_photographs_in_folders(tree):
    found = find([tree / "photos"], tracklets=False)
    assert [str(Path(item.name).relative_to(tree / "photos")) for item in found] == [
        *("b.jpg", "a/9.webp", "a/10.PNG", "a/b/1.tif", "c/x.bmp")
    ]
    assert all(item.files == (item.name,) and item.labels == {} for item in found)


def test_tracklets_in_folders(tree, monkeypatch):
    monkeypatch.setattr(decode, "require_videos", lambda: None)
    found = find([tree / "photos"], tracklets=True)
    frames = [
        (str(Path(item.name).relative_to(tree)), [Path(file).name for file in item.files])
        for item in found
    ]
    assert frames == [
        ("photos", ["b.jpg"]),
        ("photos/walk.mp4", ["walk.mp4"]),
        ("photos/a", ["9.webp", "10.PNG"]),
        ("photos/a/b", ["1.tif"]),
        ("photos/c", ["x.bmp"]),
    ]
    assert [items.is_video(item) for item in found] == [False, True, False, False, False]


def test_patterns_and_files_each_once(tree, monkeypatch):
    photos = tree / "photos"
    (photos / "a" / "up").unlink()
    found = names([f"{photos}/*/*"], photos, tracklets=False)
    assert found == ["a/9.webp", "a/10.PNG", "a/b/1.tif", "c/x.bmp"]
    found = names([f"{photos}/**/*.[tb]*"], photos, tracklets=False)
    assert found == ["a/b/1.tif", "c/x.bmp"]
    twice = [photos / "b.jpg", f"{photos}/b*", photos / "b.jpg"]
    assert names(twice, photos, tracklets=False) == ["b.jpg"]
    odd = draw(photos / "odd [1].jpg")
    assert find([odd], tracklets=False)[0].files == (str(odd),)
    monkeypatch.chdir(photos)
    assert [item.name for item in find(["b.jpg", "c"], tracklets=False)] == ["b.jpg", "c/x.bmp"]


def test_a_table_has_labels(tree):
    table = tree / "photos" / "people.csv"
    table.write_text("\ufeffpath, pid ,time\nb.jpg,7,noon\n\na/9.webp, 8,\n", encoding="utf-8")
    found = find([table], tracklets=False)
    assert [item.labels for item in found] == [
        {"pid": "7", "time": "noon"},
        {"pid": "8", "time": ""},
    ]
    assert found[1].files == (f"{tree}/photos/a/9.webp",)


def test_a_table_of_tracklets(tree, monkeypatch):
    monkeypatch.setattr(decode, "require_videos", lambda: None)
    table = tree / "photos" / "walks.csv"
    table.write_text("path,who\na,7\nwalk.mp4,8\n")
    found = find([table], tracklets=True)
    assert [len(item.files) for item in found] == [2, 1]
    assert found[1].labels == {"who": "8"}
    table.write_text(
        "path,tracklet,frame,who\na/10.PNG,x,2,7\nc/x.bmp,y,1,8\na/9.webp,x,10,7\nb.jpg,x,1,7\n"
    )
    found = find([table], tracklets=True)
    assert [item.name for item in found] == [f"{table}:x", f"{table}:y"]
    assert [Path(file).name for file in found[0].files] == ["b.jpg", "10.PNG", "9.webp"]
    assert found[0].labels == {"tracklet": "x", "who": "7"}
    # Without a number for each, the numbers in the paths decide, as in a data set's CSV.
    table.write_text("path,tracklet\na/10.PNG,x\nb.jpg,x\na/9.webp,x\n")
    [walk] = find([table], tracklets=True)
    assert [Path(file).name for file in walk.files] == ["9.webp", "10.PNG", "b.jpg"]


def test_places_where_nothing_is(tree, monkeypatch):
    photos, table = tree / "photos", tree / "table.csv"
    (tree / "videos").mkdir()
    (tree / "videos" / "walk.avi").write_bytes(b"")
    (tree / "empty").mkdir()
    cases = [
        (tree / "photo", False, r"photo: no such file or folder; did you mean 'photos'\?"),
        (f"{photos}/*.gif", False, r"\*.gif: no photographs there; expected some \(.jpg, .jpeg, "),
        (tree / "empty", False, "empty: no photographs there"),
        (tree / "empty", True, "empty: no tracklets there; expected folders of frames"),
        (tree / "videos", False, "walk.avi is a video, and this network compares photographs"),
        (photos / "walk.mp4", False, "walk.mp4: a video; this network compares photographs"),
        (tree / "tabel.csv", False, "tabel.csv: No such file or directory; expected a CSV"),
    ]
    for place, tracklets, message in cases:
        with pytest.raises(UserError, match=message):
            find([place], tracklets=tracklets)
    tables = [
        ("", "table.csv line 1: no column 'path' among none"),
        ("paht,pid\na,1\n", r"no column 'path' among paht, pid; did you mean 'paht'\?"),
        ("path,pid\nb.jpg\n", "table.csv line 2: 1 fields, expected 2: path, pid"),
        ("path,pid\nb.jpg,1,2\n", "table.csv line 2: 3 fields, expected 2: path, pid"),
        ("path,pid\n,1\n", "table.csv line 2: expected a path, not ''"),
        ("path\nb\0.jpg\n", r"table.csv line 2: expected a path, not 'b\\x00.jpg'"),
        ("path,pid\n", "table.csv: no photographs there"),
        (b"path\n\xff\xff\n", "table.csv: not a CSV file in UTF-8"),
        ('path\n"b.jpg', "table.csv: not a CSV file in UTF-8"),
    ]
    for content, message in tables:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=message):
            find([table], tracklets=False)
    table.write_text("path,tracklet,frame\nphotos/b.jpg,1,first\n")
    with pytest.raises(UserError, match=r"line 2: frame must be a whole number .* not 'first'"):
        find([table], tracklets=True)
    table.write_text("path\nempty\n")
    with pytest.raises(UserError, match="empty: holds no frames"):
        find([table], tracklets=True)


def test_pixels_of_more_than_eight_bits_are_not_cut_off(tmp_path):
    deep = np.arange(0, 64000, 1000, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    for photo in (tmp_path / "deep.png", Image.fromarray(deep)):
        assert (decode.decode(photo) == (deep >> 8)[..., None]).all()
    with pytest.raises(UserError, match=r"deep: .* mode F; expected 8 or 16 bits a channel"):
        decode.decode(Image.fromarray(deep.astype(np.float32)), "deep")


def test_frames_are_resized_and_counted(tmp_path, monkeypatch):
    for number, color in ((2, 50), (10, 200)):
        draw(tmp_path / "walk" / f"{number}.png", (20 + number, 30), color)
    [item] = find([tmp_path / "walk"], tracklets=True)
    frames = items.read(item, (8, 4))
    assert frames.shape == (2, 8, 4, 3)
    assert frames[:, 3, 2, 0].tolist() == [50, 200]
    monkeypatch.setattr(decode, "MOST_FRAMES", 1)
    with pytest.raises(UserError, match="walk: more than 1 frames; expected a tracklet"):
        items.read(item, (8, 4))


def write_video(path, frames, turned=0):
    """Without loss; players turn it by so many degrees counterclockwise."""
    av = pytest.importorskip("av")
    with av.open(path, "w") as container:
        stream = container.add_stream("png", rate=5)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        if turned:
            stream.set_display_rotation(turned)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_the_frames_of_a_video(tmp_path, monkeypatch):
    drawn = np.random.default_rng(0).integers(0, 256, (4, 16, 32, 3)).astype(np.uint8)
    write_video(tmp_path / "walk.mov", drawn)
    [item] = find([tmp_path / "walk.mov"], tracklets=True)
    np.testing.assert_array_equal(items.read(item, (16, 32)), drawn)
    assert items.read(item, (8, 4)).shape == (4, 8, 4, 3)
    write_video(tmp_path / "phone.mov", drawn, turned=-90)
    upright = list(decode.read_video(str(tmp_path / "phone.mov")))
    np.testing.assert_array_equal(upright, np.rot90(drawn, -1, axes=(1, 2)))
    monkeypatch.setattr(decode, "MOST_FRAMES", 3)
    with pytest.raises(UserError, match=r"walk.mov: more than 3 frames"):
        items.read(item, (16, 32))
    (tmp_path / "cut.mkv").write_bytes(b"\x1a\x45\xdf\xa3 and so on")
    (tmp_path / "none.avi").write_text("no video")
    for name in ("cut.mkv", "none.avi", "not_there.mp4"):
        with pytest.raises(UserError, match=rf"{name}: not a video that decodes \("):
            list(decode.read_video(str(tmp_path / name)))


def test_videos_need_an_extra(tmp_path, monkeypatch):
    (tmp_path / "walk.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    message = r"install the extra 'video' \(pip install 'jaxreid\[video\]'\)"
    with pytest.raises(UserError, match=message):
        find([tmp_path], tracklets=True)
    with pytest.raises(UserError, match=message):
        list(decode.read_video("walk.mp4"))
