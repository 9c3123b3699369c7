import json
import os
import shutil
import time

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreid.errors import UserError
from jaxreid.search import Extractor, find
from jaxreid.search import index as gallery_index
from jaxreid.search.index import open_gallery


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (64, 32, 3)).astype(np.uint8)).save(
            folder / f"{i}.png"
        )
    return folder


@pytest.fixture
def opened(of_photos, photos, monkeypatch):
    """A function that opens the gallery, and says by name what was computed for it."""
    stream = Extractor.stream

    def open_it(index, extractor=of_photos, **kwargs):
        computed = []

        def watched(self, pictures, side, skip):
            computed.extend(os.path.basename(item.name) for item in pictures)
            yield from stream(self, pictures, side, skip)

        monkeypatch.setattr(Extractor, "stream", watched)
        try:
            gallery = open_gallery(extractor, find([photos], tracklets=False), index, **kwargs)
        finally:
            monkeypatch.setattr(Extractor, "stream", stream)
        return gallery, computed

    return open_it


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def counts(gallery):
    return gallery.kept, gallery.computed, gallery.dropped


def test_only_what_is_new_is_computed(opened, of_photos, photos, tmp_path):
    index = tmp_path / "new folder" / "gallery.npz"
    first, computed = opened(index)
    assert computed == [f"{i}.png" for i in range(6)]
    assert counts(first) == (0, 6, 0)
    written = index.read_bytes()
    again, computed = opened(index)
    assert computed == []
    assert counts(again) == (6, 0, 0)
    assert_same(first.features, again.features)
    assert index.read_bytes() == written
    # One is gone, one is other, one is new, one was only touched.
    (photos / "0.png").unlink()
    shutil.copy(photos / "4.png", photos / "2.png")
    shutil.copy(photos / "5.png", photos / "17.png")
    later = time.time_ns() + 10**9
    os.utime(photos / "3.png", ns=(later, later))
    changed, computed = opened(index)
    assert computed == ["2.png", "3.png", "17.png"]
    assert counts(changed) == (3, 3, 3)
    assert [os.path.basename(item.name) for item in changed.items] == [
        *("1.png", "2.png", "3.png", "4.png", "5.png", "17.png")
    ]
    assert_same(changed.features, of_photos([item.name for item in changed.items]))
    assert counts(opened(index)[0]) == (6, 0, 0)
    assert sorted(path.name for path in index.parent.iterdir()) == ["gallery.npz"]


def test_without_an_index_nothing_is_kept(opened, tmp_path):
    assert counts(opened(None)[0]) == (0, 6, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_what_cannot_be_read_is_left_out_and_tried_again(opened, photos, tmp_path):
    good = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(good[:100])
    (photos / "5.png").write_text("no picture")
    skipped, done = {}, []
    index = tmp_path / "gallery.npz"

    def skip(number, error):
        skipped[number] = str(error)

    gallery, _ = opened(index, skip=skip, advance=done.append)
    assert sorted(skipped) == [2, 5]
    assert "2.png: not an image that decodes" in skipped[2]
    assert sum(done) == 6
    assert len(gallery.items) == 4
    assert [len(x) for x in jax.tree.leaves(gallery.features)] == [4, 4, 4]
    (photos / "2.png").write_bytes(good)
    gallery, computed = opened(index, skip=skip)
    assert computed == ["2.png", "5.png"]
    assert counts(gallery) == (4, 1, 0)
    with pytest.raises(UserError, match=r"5.png: not an image that decodes"):
        opened(index)


def test_an_interrupted_search_keeps_what_it_has(of_photos, opened, photos, tmp_path):
    index = tmp_path / "gallery.npz"
    done = []

    def advance(more):
        done.append(more)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened(index, advance=advance)
    gallery, computed = opened(index)
    assert counts(gallery) == (3, 3, 0)
    assert computed == ["3.png", "4.png", "5.png"]
    assert_same(gallery.features, of_photos([item.name for item in gallery.items]))


def test_a_killed_search_keeps_what_it_wrote(opened, photos, tmp_path, monkeypatch):
    """The file is there, whole, while more is computed."""
    index, kept = tmp_path / "gallery.npz", []
    monkeypatch.setattr(gallery_index, "SAVE_EVERY", 0)

    def advance(more):
        kept.append(shutil.copy(index, tmp_path / f"{len(kept)}.npz"))

    opened(index, advance=advance)
    assert len(kept) == 6
    for number, file in enumerate(kept, start=1):
        gallery, computed = opened(file)
        assert counts(gallery) == (number, 6 - number, 0)
        assert computed == [f"{i}.png" for i in range(number, 6)]
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_an_index_of_another_network_is_refused(opened, photo_run, tmp_path):
    index = tmp_path / "gallery.npz"
    opened(index)
    other = shutil.copytree(photo_run, tmp_path / "run")
    tree = json.loads((other / "config.json").read_text())
    tree["eval"]["flip"] = True
    (other / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"gallery.npz: an index of another network, or of another"):
        opened(index, Extractor(other))
    assert counts(opened(index)[0]) == (6, 0, 0)


def test_an_index_that_is_none_is_left_alone(opened, tmp_path):
    index = tmp_path / "gallery.npz"
    opened(index)
    whole = index.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1

    def arrays(**changes):
        with np.load(tmp_path / "good.npz") as found:
            np.savez(index, **{**found, **changes})
        return index.read_bytes()

    (tmp_path / "good.npz").write_bytes(whole)
    contents = {
        "a text": b"my own notes",
        "nothing": b"",
        "the half": whole[: len(whole) // 2],
        "a changed bit": bytes(damaged),
        "another's arrays": arrays(format="something else"),
        "pickles": arrays(stamps=np.array([{}] * 6, object)),
        "other shapes": arrays(features0=np.zeros((6, 3), np.float32)),
        "too few items": arrays(features1=np.zeros((5, 2, 16), np.float32)),
    }
    for what, content in contents.items():
        index.write_bytes(content)
        with pytest.raises(
            UserError, match=r"gallery.npz: not a gallery's index, or damaged \(.+\)"
        ):
            opened(index)
        assert index.read_bytes() == content, what


def test_where_nothing_can_be_written(opened, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the index \(.+\)"):
        opened(tmp_path / "file" / "gallery.npz")
