"""Tracklets through the whole road, with a tiny COSAM and a tiny DuATM."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxreid.errors import UserError
from jaxreid.logs import read_metrics
from jaxreid.main import run
from jaxreid.models import duatm


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
        run(config, tmp_path)
    config = tiny()
    config.data.clip_length = 4
    with pytest.raises(UserError, match=r"data\.clip_length=4: synthetic holds images"):
        run(config, tmp_path)
    config = tiny_video()
    config.model = duatm.Config()
    with pytest.raises(UserError, match=r"model\.sequence='positions': expected images"):
        run(dataclasses.replace(config), tmp_path)
