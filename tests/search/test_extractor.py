"""The same features as the evaluator's, and the same distance, from any kind of picture."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreid import sharding, trained
from jaxreid.data.decode import decode
from jaxreid.data.sources import open_source
from jaxreid.errors import UserError
from jaxreid.extract import make_extractor
from jaxreid.models import attention_driven
from jaxreid.search import Extractor, extractor, find
from jaxreid.types import Batch
from tests.networks import MODELS
from tests.search.conftest import make_run


def of_evaluator(workdir, config, split):
    """The features of a split, as a run scores them, and the matrix of the model's distances."""
    run, mesh = trained.load(workdir), sharding.make_mesh(jax.devices()[:1])
    extract = make_extractor(config, run.model, mesh).features
    return extract(run.variables, open_source(config.data), split), run


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def paths(config, split):
    index = open_source(config.data).data.splits[split]
    return [index.path(row) for row in range(index.size)]


def test_photographs_have_the_features_that_are_scored(of_photos, photo_run, photo_config):
    expected, _ = of_evaluator(photo_run, photo_config, "gallery")
    files = paths(photo_config, "gallery")
    assert len(files) == 13
    assert_close(of_photos(files), expected)
    assert not of_photos.tracklets
    assert of_photos.notes == []


def test_tracklets_have_the_features_that_are_scored(of_clips, clip_run, clip_config, clip_table):
    expected, _ = of_evaluator(clip_run, clip_config, "gallery")
    items = find([clip_table], tracklets=True)
    assert of_clips.tracklets
    assert {len(item.files) for item in items} >= {3, 7}  # one clip and a half, three and a half
    assert_close(of_clips(items), expected)


# Roots near zero are the less exact, which the blocks' shapes show. The clips' are 0.5 to 0.9.
@pytest.mark.parametrize(("kind", "atol"), [("photos", 3e-5), ("clips", 1e-3)])
@pytest.mark.parametrize("gallery_block", [8, 2])
def test_ranks_are_by_the_models_own_distance(kind, atol, gallery_block, request, monkeypatch):
    extractor = request.getfixturevalue(f"of_{kind}")
    workdir, config = (request.getfixturevalue(f"{kind[:-1]}_{x}") for x in ("run", "config"))
    queries, run = of_evaluator(workdir, config, "query")
    gallery, _ = of_evaluator(workdir, config, "gallery")
    distmat = np.asarray(jax.jit(run.model.distance)(run.variables, queries, gallery))
    size = distmat.shape[1]
    monkeypatch.setattr(extractor.config.eval, "gallery_block", gallery_block)
    indices, distances = extractor.rank(queries, gallery, top=size + 3)
    assert (indices[:, size:] == -1).all()
    assert np.isinf(distances[:, size:]).all()
    for row, found, far in zip(distmat, indices[:, :size], distances[:, :size]):
        assert sorted(found.tolist()) == list(range(size))
        assert (np.diff(far) >= 0).all()
        np.testing.assert_allclose(far, np.sort(row), rtol=1e-4, atol=atol)
        np.testing.assert_allclose(row[found], far, rtol=1e-4, atol=atol)


def test_paths_arrays_and_images_are_the_same_picture(of_photos, photo_config, tmp_path):
    file = paths(photo_config, "query")[0]
    pixels = decode(file)
    sideways = tmp_path / "phone.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned by 90 degrees clockwise.
    Image.fromarray(np.rot90(pixels)).save(sideways, exif=exif)
    mixed = [file, Path(file), pixels, Image.open(file), sideways, Image.open(sideways)]
    found = of_photos(mixed)
    for leaf in jax.tree.leaves(found):
        np.testing.assert_array_equal(leaf[1:], np.repeat(leaf[:1], 5, axis=0))
    assert_close(of_photos(file), jax.tree.map(lambda x: x[:1], found))
    # Any size is brought to the network's.
    larger = of_photos([np.asarray(Image.fromarray(pixels).resize((200, 450)))])
    assert [x.shape for x in jax.tree.leaves(larger)] == [(1, 2, 16)] * 3


def test_ranking_in_five_lines(photo_run, photo_config):
    files = paths(photo_config, "gallery")
    reid = Extractor(photo_run, batch_size=4)
    indices, distances = reid.rank([files[5]], files, top=3)
    assert (indices.shape, distances.shape) == ((1, 3), (1, 3))
    assert files[indices[0, 0]] == files[5]
    assert distances[0, 0] < 1e-3 < distances[0, 1]


def test_a_tracklet_in_every_form(of_clips, tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (5, 80, 40, 3)).astype(np.uint8)
    folder = tmp_path / "walk"
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i + 7}.png")  # 7 to 11: not in the words' order.
    mixed = [Image.fromarray(frames[0]), str(folder / "8.png"), *frames[2:]]
    found = of_clips([frames, list(frames), folder, str(folder), mixed])
    for leaf in jax.tree.leaves(found):
        np.testing.assert_array_equal(leaf[1:], np.repeat(leaf[:1], 4, axis=0))
    turned = of_clips([frames[::-1]])
    assert not np.allclose(turned.vector, found.vector[:1])
    # One photograph is a tracklet of one frame.
    assert_close(of_clips([frames[:1]]), of_clips([folder / "7.png"]))


def test_queries_may_be_cut_in_another_way(clip_run, tmp_path):
    rng = np.random.default_rng(1)
    changed = shutil.copytree(clip_run, tmp_path / "run")
    tree = json.loads((changed / "config.json").read_text())
    tree["eval"]["clips"] = "first_last"
    (changed / "config.json").write_text(json.dumps(tree))
    extractor = Extractor(changed)
    frames = rng.integers(0, 256, (6, 72, 72, 3)).astype(np.uint8)
    assert_close(extractor([frames], "query"), extractor([frames[:2]], "query"))
    assert_close(extractor([frames], "gallery"), extractor([frames[-2:]], "gallery"))


def test_what_is_not_a_picture(of_photos, of_clips, photo_config, tmp_path):
    good = paths(photo_config, "query")[0]
    (tmp_path / "notes.jpg").write_text("no picture")
    cases = [
        ([np.zeros((4, 4, 3), np.float32)], "picture 0: an array of float32 and shape (4, 4, 3)"),
        ([good, np.zeros((4, 4), np.uint8)], "picture 1: an array of uint8 and shape (4, 4)"),
        ([3.5], "picture 0: an array of float64 and shape ()"),
        ([tmp_path / "notes.jpg"], "notes.jpg: not an image that decodes"),
        ([tmp_path / "none.jpg"], "none.jpg: not an image that decodes (No such file"),
        ([tmp_path], f"{tmp_path}: a folder; expected a photograph"),
        ([tmp_path / "walk.mp4"], "walk.mp4: a video; this network compares photographs"),
        ([], "no pictures: expected one or more"),
    ]
    for pictures, message in cases:
        with pytest.raises(UserError) as error:
            of_photos(pictures)
        assert message in str(error.value)
    with pytest.raises(UserError, match="picture 0: a tracklet without a frame"):
        of_clips([[]])


def test_what_is_skipped_is_named_by_its_number(of_photos, photo_config, tmp_path):
    good = paths(photo_config, "query")[:3]
    skipped = {}
    mixed = [tmp_path / "a.jpg", *good, tmp_path / "b.jpg"]
    found = dict(of_photos.stream(mixed, skip=lambda n, error: skipped.update({n: str(error)})))
    assert sorted(found) == [1, 2, 3]
    assert sorted(skipped) == [0, 4]
    assert "b.jpg" in skipped[4]


def test_features_of_another_network_are_refused(of_photos, of_clips, photo_config):
    feats = of_photos(paths(photo_config, "query")[:2])
    for wrong in (np.zeros((2, 16), np.float32), jax.tree.map(lambda x: x[0], feats), None):
        with pytest.raises(UserError, match="rank: not features of this network"):
            of_photos.rank(wrong, feats)
    with pytest.raises(UserError, match="rank: not features of this network"):
        of_clips.rank(feats, feats)
    with pytest.raises(UserError, match="top is 0"):
        of_photos.rank(feats, feats, top=0)
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), feats)
    with pytest.raises(UserError, match="a distance is not a number"):
        of_photos.rank(broken, feats)


def test_the_fingerprint_is_of_the_weights_and_of_what_is_done_with_them(
    photo_run, tmp_path, monkeypatch
):
    def fingerprint(**changes):
        workdir = shutil.copytree(photo_run, tmp_path / str(len(list(tmp_path.iterdir()))))
        tree = json.loads((workdir / "config.json").read_text())
        for key, value in changes.items():
            section, field = key.split("__")
            tree[section][field] = value
        (workdir / "config.json").write_text(json.dumps(tree))
        return Extractor(workdir).fingerprint

    own = fingerprint()
    assert len(own) == 16
    assert fingerprint(data__root="/elsewhere", eval__query_block=7) == own
    assert fingerprint(model__pretrained="weights.pth") == own
    others = [fingerprint(eval__flip=True), fingerprint(data__image_size=[96, 32])]
    assert len({own, *others}) == 3
    monkeypatch.setattr(extractor, "DECODER", extractor.DECODER + 1)
    assert fingerprint() != own


@pytest.mark.parametrize("sie", [0.0, 3.0])
def test_a_network_of_cameras_says_that_photographs_have_none(sie, photo_config, tmp_path):
    model = dataclasses.replace(MODELS["vit"], sie=sie)
    config = dataclasses.replace(photo_config, model=model)
    notes = Extractor(make_run(tmp_path, config)).notes
    assert [note.partition(",")[0] for note in notes] == (
        ["this network was trained with the cameras of its images"] if sie else []
    )


@pytest.mark.slow
def test_a_network_that_needs_joints_makes_do_with_strips(photo_config, tmp_path):
    tiny = {"size": (64, 32), "backbone_units": 1, "backbone_width": 4}
    config = dataclasses.replace(
        photo_config,
        model=attention_driven.Config(**tiny, branches="head"),
        data=dataclasses.replace(
            photo_config.data, joints="joints.npz", enlarge=1.0, flip=False, sampling="shuffle"
        ),
    )
    extractor = Extractor(make_run(tmp_path, config))
    assert len(extractor.notes) == 1
    assert "trained with joints" in extractor.notes[0]
    file = paths(photo_config, "query")[0]
    found = extractor([file, file])
    assert found.shape[0] == 2
    assert np.isfinite(found).all()
    # What strips would give.
    strips = dataclasses.replace(config.model, parts="strips").make(10)
    nobody = np.zeros(1, np.int32)
    run = trained.load(tmp_path)
    image = np.asarray(Image.open(file))[None]
    assert image.shape == (1, 64, 32, 3)
    expected = jax.jit(strips.features)(run.variables, Batch(image, nobody, nobody))
    assert_close(found[:1], np.asarray(expected))
