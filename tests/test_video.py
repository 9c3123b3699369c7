"""Tracklets through the whole road, with a tiny COSAM and a tiny DuATM."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreid import demo, sharding
from jaxreid.checkpoint import load_variables
from jaxreid.config import Optim
from jaxreid.data import decode, index
from jaxreid.data.sources import open_source
from jaxreid.errors import UserError
from jaxreid.logs import read_metrics
from jaxreid.main import run
from jaxreid.models import duatm, siamese_attention
from jaxreid.train import train
from jaxreid.workdir import differences, read_run
from tests.data.trees import ilids_tree


@pytest.mark.slow
def test_a_run_on_tracklets_trains_scores_and_draws(tiny_video, tmp_path, capsys):
    config = tiny_video()
    scores = run(config, tmp_path / "run")
    assert 0 <= scores["rank1"] <= 1
    assert scores["clips"] == "all, 2 frames"
    assert json.loads((tmp_path / "run/eval/metrics.json").read_text()) == scores
    report = (tmp_path / "run/report.md").read_text()
    assert "- MARS protocol: official" in report
    for picture in ("ranked", "attention", "cmc"):
        with Image.open(tmp_path / "run/eval" / f"{picture}.png") as image:
            assert np.asarray(image).std() > 5
    out = capsys.readouterr().out
    assert "starts from scratch: config.model.pretrained is not set" in out
    records = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3]
    # The same command again scores the same.
    assert run(config, tmp_path / "run") == scores
    ratios = demo.masks_on_persons(config, tmp_path / "run")
    assert set(ratios) == {"cosam4", "cosam5"}
    assert all(0.5 < ratio < 2 for ratio in ratios.values())


@pytest.mark.slow
def test_files_and_memory_give_the_same_clips(tiny_video, tmp_path):
    runs = []
    for source in ("memory", "files"):
        config = tiny_video()
        config.data.source = source
        config.train.steps = 1
        run(config, tmp_path / source)
        runs += read_metrics(tmp_path / source / "metrics.jsonl")[:1]
    # The images are of the size that the network sees, so nothing is resized.
    assert runs[0]["loss"] == pytest.approx(runs[1]["loss"], rel=1e-4)


@pytest.mark.slow
def test_duatm_on_tracklets(tiny_video, tmp_path):
    config = tiny_video()
    config.model = duatm.Config(
        sequence="gru", dim=16, backbone_layers=(1, 1, 1, 1), backbone_growth=4, backbone_stem=8
    )
    config.train.steps, config.eval.flip = 1, True
    config.eval.clips, config.eval.clip_length = "first", 5
    scores = run(config, tmp_path / "run")
    assert scores["clips"] == "first, 5 frames"
    assert scores["num_valid"] > 0


def test_clips_of_images_and_images_of_tracklets_are_refused(tiny_video, tiny, tmp_path):
    config = tiny_video()
    config.data.clip_length = None
    with pytest.raises(UserError, match=r"data\.clip_length=None: synthetic_video holds trackl"):
        run(config, tmp_path / "run")
    config = tiny()
    config.data.clip_length = 4
    with pytest.raises(UserError, match=r"data\.clip_length=4: synthetic holds images"):
        run(config, tmp_path / "run")
    config = tiny_video()
    config.model = duatm.Config()
    with pytest.raises(UserError, match=r"model\.sequence='positions': expected images"):
        run(config, tmp_path / "run")
    config = tiny_video()
    config.data.clip_length = 1
    with pytest.raises(UserError, match=r"cosam4 compares the frames of a clip and got 1"):
        run(config, tmp_path / "run")
    config = tiny_video()
    config.eval.clip_length = 3
    with pytest.raises(UserError, match=r"config\.eval\.clip_length=3: cosam4 compares"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_on_tracklets_goes_on_where_it_stopped(tiny_video, tmp_path):
    for name, stops in (("whole", (3,)), ("stopped", (2, 3))):
        for steps in stops:
            config = tiny_video()
            config.train.steps = 3
            source, mesh = open_source(config.data), sharding.make_mesh(jax.devices()[:1])
            config.train.checkpoint_every = 2

            def scores(_, steps=steps):
                if steps == 2:
                    raise KeyboardInterrupt  # in the scoring after the second step
                return {"rank1": 0.0, "mAP": 0.0}

            config.eval.every = 2
            try:
                train(config, tmp_path / name, source, mesh, scores)
            except KeyboardInterrupt:
                assert steps == 2
    jax.tree.map(
        np.testing.assert_array_equal,
        load_variables(tmp_path / "whole"),
        load_variables(tmp_path / "stopped"),
    )


@pytest.mark.slow
def test_a_data_set_with_splits_runs_them_all_and_reports_the_mean(
    tiny_video, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(index.NUM_SPLITS, "ilids_vid", 2)
    config = tiny_video()
    config.data.name, config.data.root = "ilids_vid", str(ilids_tree(tmp_path / "ilids"))
    config.data.num_ids, config.data.num_instances, config.train.steps = 2, 4, 1
    config.paper, config.paper_source = {"rank1": 0.796}, "Table 4"
    scores = run(config, tmp_path / "run")
    each = [json.loads((tmp_path / f"run/split{k}/eval/metrics.json").read_text()) for k in (0, 1)]
    assert [one["split"] for one in each] == [0, 1]
    assert scores["mAP"] == pytest.approx(np.mean([one["mAP"] for one in each]))
    assert scores["split"] == "mean of 2"
    page = (tmp_path / "run/report.md").read_text()
    assert "the paper's figures (Table 4)" in page
    assert "- split: mean of 2" in page
    assert "Table 4" not in (tmp_path / "run/split0/report.md").read_text()
    page = (tmp_path / "run/report.html").read_text()
    assert '<a href="split1/report.html">split1</a>' in page
    assert "Table 4" in page
    assert "Table 4" not in (tmp_path / "run/split1/report.html").read_text()
    assert "all splits, ilids_vid: rank1" in capsys.readouterr().out
    # One split alone.
    config.data.split = 1
    assert run(config, tmp_path / "run/split1")["split"] == 1


@pytest.mark.slow
def test_a_run_is_scored_on_another_data_set(tiny_video, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(index.NUM_SPLITS, "ilids_vid", 2)
    config = tiny_video()
    config.train.steps, config.paper, config.paper_source = 1, {"rank1": 0.796}, "Table 4"
    config.eval.data = f"ilids_vid:{ilids_tree(tmp_path / 'ilids')}"
    scores = run(config, tmp_path / "run")
    each = [
        json.loads((tmp_path / f"run/on_ilids_vid/split{k}/eval/metrics.json").read_text())
        for k in (0, 1)
    ]
    assert [one["data"] for one in each] == ["ilids_vid"] * 2
    assert scores["rank1"] == pytest.approx(np.mean([one["rank1"] for one in each]))
    assert scores["split"] == "mean of 2"
    page = (tmp_path / "run/on_ilids_vid/report.md").read_text()
    assert "- split: mean of 2" in page
    assert "Table 4" not in page  # The paper's figures are of the data that was trained on.
    assert not (tmp_path / "run/eval").exists()
    # The same run is scored on its own data with the flag left out, and nothing is trained again.
    # And the figures of a row that is of that data stand beside the mean over the splits.
    assert "79.6" not in page
    config.paper_data = "ilids_vid"
    run(config, tmp_path / "run", "evaluate")
    page = (tmp_path / "run/on_ilids_vid/report.md").read_text()
    assert "79.6" in page
    assert "79.6" not in (tmp_path / "run/on_ilids_vid/split0/report.md").read_text()
    found = read_run(tmp_path / "run")
    assert found.scores["split"] == "mean of 2"
    assert differences(found.config, config) == []
    elsewhere = dataclasses.replace(config.eval, data="ilids_vid:/elsewhere")
    assert differences(found.config, dataclasses.replace(config, eval=elsewhere)) == []
    config.eval.data = None
    own = run(config, tmp_path / "run")
    assert own["data"] == "synthetic_video"
    assert "resumed from step 1 of 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("ilids_vid", "expected name:folder"),
        ("ilids:/data", "did you mean 'ilids_vid'"),
        ("mars:/nowhere", "config.eval.data=mars:/nowhere: .*/nowhere"),
    ],
)
def test_another_data_set_that_is_not_there(tiny_video, tmp_path, data, message):
    config = tiny_video()
    config.eval.data = data
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_are_no_other_data_for_clips(tiny_video, market, tmp_path):
    config = tiny_video()
    config.eval.data = f"synthetic:{market}"
    with pytest.raises(UserError, match=r"clip_length=2: synthetic holds images"):
        run(config, tmp_path / "run")


@pytest.mark.slow
def test_rank1_by_length_is_drawn_and_written(tiny_video, tmp_path):
    config = tiny_video(head="rnn", blocks=())  # COSAM itself is made for one length of clips
    config.train.steps, config.eval.lengths, config.eval.clips = 1, (1, 4), "first"
    run(config, tmp_path / "run")
    found = json.loads((tmp_path / "run/eval/lengths.json").read_text())
    assert found["lengths"] == [1, 4]
    assert np.shape(found["rank1"]) == (2, 2)
    with Image.open(tmp_path / "run/eval/lengths.png") as image:
        assert np.asarray(image).std() > 5
    assert "![Length of clips](eval/lengths.png)" in (tmp_path / "run/report.md").read_text()


def test_lengths_that_the_network_cannot_take_are_found_before_training(tiny_video, tmp_path):
    config = tiny_video()
    config.eval.lengths = (2, 4)
    with pytest.raises(UserError, match=r"config.eval.lengths=4: cosam4 compares"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def siamese(tiny_video, **data):
    """A tiny Where-and-When whose backbone is frozen, on maps of 3 x 3."""
    config = tiny_video()
    config.model = siamese_attention.Config(
        backbone="vgg16", backbone_width=4, kernels=(3, 3, 3), channels=(4, 4, 4)
    )
    config.data.image_size, config.data.enlarge, config.data.clip_draw = (96, 96), 1.0, "clip"
    config.data.enlarge_probability, config.data.sampling = 1.0, "pairs"
    config.data.num_ids, config.data.num_instances = 2, 4
    config.optim = Optim(
        name="rmsprop", lr=1e-3, weight_decay=0.0, grad_clip=5.0, frozen_epochs=100
    )
    config.train.from_scratch = True
    config.eval.clips, config.eval.clip_length = "first_last", 5
    for key, value in data.items():
        setattr(config.data, key, value)
    return config


def test_training_says_which_frames_only_repeat(tiny_video, tmp_path, monkeypatch):
    config = tiny_video(head="rnn", blocks=())
    tracks = open_source(config.data).data.train.tracks()
    config.data.clip_length = int(tracks.length.max()) + 1
    seen = []

    def step(state, batch, sound):
        seen.append(jax.device_get(batch))
        raise UserError("enough")

    monkeypatch.setattr("jaxreid.train.make_train_step", lambda *_: step)
    with pytest.raises(UserError, match="enough"):
        train_alone(config, tmp_path)
    (batch,) = seen
    assert batch.mask.shape == batch.images.shape[:2]
    assert set(batch.mask.sum(axis=1)) <= set(tracks.length)
    assert not batch.mask.all(axis=1).any()
    assert batch.mask[:, 0].all()


@pytest.mark.slow
def test_maps_of_a_frozen_backbone_are_kept_and_train_the_same(
    tiny_video, tmp_path, capsys, monkeypatch
):
    """Without mirroring, the only difference is that maps are kept in half precision."""
    losses = {}
    for cache in (None, str(tmp_path / "maps")):
        config = siamese(tiny_video, cache=cache, flip=False)
        run(config, tmp_path / f"run{cache is None}")
        records = read_metrics(tmp_path / f"run{cache is None}" / "metrics.jsonl")
        losses[cache] = [record["loss"] for record in records if "loss" in record]
    np.testing.assert_allclose(losses[None], losses[str(tmp_path / "maps")], rtol=2e-3)
    out = capsys.readouterr().out
    assert "maps to compute" in out
    # With mirror images, only those are missing.
    frames = open_source(config.data).data.train.size
    config.data.flip = True
    run(config, tmp_path / "mirrored")
    assert f"{frames} of {2 * frames} maps to compute" in capsys.readouterr().out
    # Other weights: the maps are dropped.
    config.train.seed = 1
    run(config, tmp_path / "other")
    assert "made with another weights; its maps are dropped" in capsys.readouterr().out
    # A decoder that gives other pixels: again.
    monkeypatch.setattr(decode, "VERSION", decode.VERSION + 1)
    run(config, tmp_path / "decoded")
    assert "made with another decoder; its maps are dropped" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_on_kept_maps_goes_on_where_it_stopped(tiny_video, tmp_path):
    whole = siamese(tiny_video, cache=str(tmp_path / "maps"))
    whole.train.steps = 4
    want = train_alone(whole, tmp_path / "whole")
    part = siamese(tiny_video, cache=str(tmp_path / "maps"))
    part.train.steps = 2
    train_alone(part, tmp_path / "parts")
    got = train_alone(whole, tmp_path / "parts")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), got, want))


def train_alone(config, workdir):
    source, mesh = open_source(config.data), sharding.make_mesh(jax.devices()[:1])
    return jax.device_get(train(config, workdir, source, mesh, lambda _: {}).params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frozen_epochs": 0}, "the backbone is frozen for 0 steps of 3 only"),
        ({"model": True}, "this model cannot train on kept maps"),
        ({"shift": 0.05}, "config.data.cache='maps': expected none, unless"),
    ],
)
def test_maps_that_cannot_be_kept(tiny_video, tmp_path, changes, message):
    config = siamese(tiny_video, cache="maps")
    config.optim.frozen_epochs = changes.get("frozen_epochs", 100)
    config.data.shift = changes.get("shift", 0.0)
    if "model" in changes:
        config.model, config.data.sampling = tiny_video().model, "identity"
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
