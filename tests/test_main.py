"""The command, as a user types it. Slow runs share one process where they can."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxreid import prepare, report
from jaxreid.checkpoint import load_variables
from jaxreid.command import profiled_steps
from jaxreid.data.sources import open_source
from jaxreid.errors import UserError
from jaxreid.main import run

REPOSITORY = Path(__file__).parent.parent
TINY = (
    *("--config.model.dim=16", "--config.model.backbone_layers=1,1,1,1"),
    *("--config.model.backbone_growth=4", "--config.model.backbone_stem=8"),
    *("--config.data.image_size=64,32", "--config.data.num_ids=4"),
    *("--config.data.num_instances=2", "--config.data.source=memory"),
    *("--config.train.log_every=1", "--config.eval.batch_size=16"),
)


def command(*arguments):
    return [sys.executable, "-m", "jaxreid.main", *arguments]


def environment(tmp_path):
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")}


def call(tmp_path, *arguments):
    return subprocess.run(
        command(*arguments),
        cwd=REPOSITORY,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_a_run_leaves_what_the_design_says(tiny, tmp_path, capsys):
    config = tiny()
    config.data.source = "files"
    config.paper = {"rank1": 0.9}
    workdir = tmp_path / "run"
    scores = run(config, workdir)
    files = {path.relative_to(workdir).as_posix() for path in workdir.rglob("*.*")}
    assert files >= {
        "config.json",
        "metrics.jsonl",
        "report.html",
        "report.md",
        "training.png",
        "eval/cameras.json",
        "eval/metrics.json",
        "eval/cmc.json",
        "eval/cmc.png",
        "eval/ranked.png",
        "eval/attention.png",
    }
    assert any(path.name.startswith("events") for path in (workdir / "tensorboard").iterdir())
    assert (workdir / "checkpoints" / "5").is_dir()
    assert json.loads((workdir / "eval" / "metrics.json").read_text()) == scores
    curve = json.loads((workdir / "eval" / "cmc.json").read_text())
    assert (curve[0], curve[4], len(curve)) == (scores["rank1"], scores["rank5"], 50)
    assert {"rank1", "rank5", "rank10", "rank20", "mAP", "num_queries", "num_gallery"} <= set(
        scores
    )
    for picture in workdir.rglob("*.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 100
            assert np.asarray(image.convert("L")).std() > 5
    report = (workdir / "report.md").read_text()
    assert report.startswith("# DuATM on synthetic\n")
    assert "<title>DuATM on synthetic" in (workdir / "report.html").read_text()
    assert "the paper's figures" in report
    assert "mean_precision" in report
    out = capsys.readouterr().out
    assert "synthetic: train 44 images of 10 ids" in out
    assert "AP mean_precision" in out

    # Scoring again gives the same figures, from the checkpoint.
    assert run(config, workdir, "evaluate") == scores
    assert load_variables(workdir)["params"].keys() == {
        "backbone",
        "classifier",
        "embedding",
        "transform",
        "transform_norm",
    }


def train_alone(config, tmp_path):
    """A CSV of the training images of a data set, which has no query and no gallery."""
    index = open_source(config.data).data.train
    columns = "path,pid,camid,split,tracklet,frame"
    lines = [
        f"{index.path(row)},{index.pids[row]},1,train,{index.tracklets[row]},{index.frames[row]}"
        for row in range(index.size)
    ]
    if config.data.clip_length is None:
        columns, lines = "path,pid,camid,split", [line.rsplit(",", 2)[0] for line in lines]
    file = tmp_path / "train.csv"
    file.write_text("\n".join([columns, *lines]) + "\n")
    config.data.name, config.data.root, config.train.steps = "csv", str(file), 2
    return config


@pytest.mark.parametrize("source", ["files", "memory", "tfds"])
def test_training_alone_needs_no_query_no_gallery_and_no_second_camera(
    source, tiny, tmp_path, capsys
):
    config = train_alone(tiny(), tmp_path)
    config.data.source = source
    if source == "tfds":
        flags = ["--name=csv", f"--root={config.data.root}", f"--out={tmp_path / 'tfds'}"]
        assert prepare.main(flags) == 0
        config.data.root = str(tmp_path / "tfds")
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match=r"no query and no gallery images.*--mode=train"):
        run(config, workdir)
    assert not workdir.exists()
    assert run(config, workdir, "train") == {"step": 2}
    assert "csv: train 44 images of 10 ids, query 0 of 0, gallery 0" in capsys.readouterr().out
    assert (workdir / "checkpoints" / "2").is_dir()
    assert not (workdir / "eval").exists()
    with pytest.raises(UserError, match="nothing can be scored"):
        run(config, workdir, "evaluate")


def test_training_alone_on_clips(tiny, mars, tmp_path):
    config = tiny(sequence="gru")
    config.data.name, config.data.root, config.data.clip_length = "synthetic_video", str(mars), 2
    config.optim.lr = 1e-4
    assert run(train_alone(config, tmp_path), tmp_path / "run", "train") == {"step": 2}


@pytest.mark.parametrize(("key", "value"), [("every", 5), ("data", "csv:elsewhere.csv")])
def test_training_alone_scores_nothing(key, value, tiny, tmp_path):
    config = tiny()
    setattr(config.eval, key, value)
    with pytest.raises(UserError, match=rf"config.eval.{key}={value}: --mode=train scores nothing"):
        run(config, tmp_path / "run", "train")


def test_files_are_checked_before_anything_is_trained_and_not_again(tiny, tmp_path, capsys):
    config = tiny()
    config.data.source, config.train.steps = "files", 2
    for begins in (True, False):
        run(config, tmp_path / "run")
        assert ("files to check them" in capsys.readouterr().out) == begins


def test_evaluate_without_a_checkpoint_scores_the_start(tiny, tmp_path, capsys):
    scores = run(tiny(matching="average"), tmp_path / "run", "evaluate")
    assert 0 <= scores["mAP"] <= 1
    assert "scoring the network as it starts" in capsys.readouterr().out
    assert not (tmp_path / "run" / "eval" / "attention.png").exists()


def test_a_broken_file_stops_the_run_before_training(tiny, market, tmp_path):
    config = tiny()
    config.data.source = "files"
    root = tmp_path / "market"
    for file in market.rglob("*.jpg"):
        copy = root / file.relative_to(market)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    broken = sorted((root / "query").iterdir())[0]
    broken.write_bytes(b"no picture")
    config.data.root = str(root)
    with pytest.raises(UserError, match=rf"{broken}: not an image that decodes"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.model.dmi=3"], "config has no key 'dmi'; did you mean 'dim'?"),
        (["--config.modle.dim=3"], "config has no key 'modle'; did you mean 'model'?"),
        (["--config.model.matching=duel"], "matching"),
        (["--config.optim.lr=fast"], "config.optim.lr=fast: expected a number"),
        (["--config.optim.lr.value=3"], "there are no keys below 0.01"),
        (["--config.model.dim=3", "--config.model.dim=4"], "model.dim is given more than once"),
        (["--config.model.drop=1.5"], "config.model.drop=1.5: expected a probability"),
        (["--config.data.root=/nowhere"], "/nowhere"),
        (["train.steps=1"], "unexpected argument 'train.steps=1'"),
        ([], "config.data.root is not set"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    done = call(
        tmp_path, "--config=configs/duatm_market.py", *arguments, f"--workdir={tmp_path / 'run'}"
    )
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("jaxreid: error: ")
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("configs/duatm_markt.py", "did you mean 'configs/duatm_market.py'?"),
        ("configs/duatm_market.py:interr", "did you mean 'inter'?"),
    ],
)
def test_a_config_that_is_not_there(tmp_path, config, message):
    done = call(tmp_path, f"--config={config}", "--workdir=x")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr


def test_a_key_that_is_gone_gets_the_nearest(tmp_path):
    done = call(
        tmp_path,
        "--config=configs/siamese_attention_mars.py",
        "--config.model.penalty_target=uniform",
        "--workdir=x",
    )
    assert done.returncode == 2
    assert "config has no key 'penalty_target'; did you mean 'penalty'?" in done.stderr


def test_a_run_that_could_not_start_leaves_its_workdir_free(tiny, tmp_path):
    config = tiny()
    config.data.num_ids = 40
    with pytest.raises(UserError, match="the training set has 10 persons"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_workdir_that_is_a_file(tiny, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="cannot write there"):
        run(tiny(), tmp_path / "run", "evaluate")


def test_the_figures_outlive_a_picture_that_fails(tiny, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(report.run, "plot_cmc", broken)
    with pytest.raises(MemoryError):
        run(tiny(), tmp_path / "run", "evaluate")
    scores = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
    assert f"mAP {scores['mAP']:.2%}" in capsys.readouterr().out


def test_another_config_in_the_workdir_is_refused(tiny, tmp_path):
    run(tiny(), tmp_path / "run", "evaluate")
    with pytest.raises(UserError, match=r"model.margin: there 0.2, now 0.3"):
        run(tiny(margin=0.3), tmp_path / "run", "evaluate")


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bits(market, tmp_path):
    """kill -9, twice, then SIGINT, each followed by the same command."""
    arguments = [
        "--config=configs/duatm_synthetic.py",
        f"--config.data.root={market}",
        *TINY,
        "--config.train.steps=20",
        "--config.train.checkpoint_every=3",
    ]
    whole = call(tmp_path, *arguments, f"--workdir={tmp_path / 'whole'}")
    assert whole.returncode == 0, whole.stderr

    workdir = tmp_path / "cut"
    metrics = workdir / "metrics.jsonl"
    for lines, signum in ((4, signal.SIGKILL), (9, signal.SIGKILL), (14, signal.SIGINT)):
        with subprocess.Popen(
            command(*arguments, f"--workdir={workdir}"),
            cwd=REPOSITORY,
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            deadline = time.monotonic() + 200
            while time.monotonic() < deadline and process.poll() is None:
                if metrics.is_file() and metrics.read_text().count("\n") >= lines:
                    break
                time.sleep(0.005)
            process.send_signal(signum)
            _, errors = process.communicate(timeout=100)
            if signum == signal.SIGINT:
                # 130, unless the last step was faster than the signal.
                assert process.returncode in (130, 0), errors
            else:
                assert process.returncode in (-9, 0)
    last = call(tmp_path, *arguments, f"--workdir={workdir}")
    assert last.returncode == 0, last.stderr

    import jax

    jax.tree.map(
        np.testing.assert_array_equal,
        load_variables(tmp_path / "whole"),
        load_variables(workdir),
    )
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 21))
    a, b = (
        json.loads((folder / "eval" / "metrics.json").read_text())
        for folder in (tmp_path / "whole", workdir)
    )
    assert a == b


def test_the_steps_of_a_profile():
    assert profiled_steps("10:5", trains=True) == range(10, 15)
    assert not profiled_steps(None, trains=False)
    for text in ("10", "10:0", "a:b", "-1:2", "1:2:3"):
        with pytest.raises(UserError, match=rf"--profile={text}: expected FIRST:COUNT"):
            profiled_steps(text, trains=True)
    with pytest.raises(UserError, match=r"--profile=1:2: --mode=evaluate does not train"):
        profiled_steps("1:2", trains=False)
