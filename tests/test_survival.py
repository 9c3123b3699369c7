"""What comes in the way of a run, and that the same command goes on from there."""

import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import main, sharding
from jaxreid import train as training
from jaxreid import workdir as folder
from jaxreid.checkpoint import load_variables
from jaxreid.data import pipeline
from jaxreid.data.sampler import Plan
from jaxreid.data.sources import open_source
from jaxreid.entry import report_errors
from jaxreid.errors import Interrupted, UserError
from jaxreid.logs import RunLog, read_metrics
from jaxreid.workdir import hold


def run(config, workdir, evaluate=lambda _: {}):
    mesh = sharding.make_mesh(jax.devices()[:1])
    return jax.device_get(training.train(config, workdir, open_source(config.data), mesh, evaluate))


def steps(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line)["step"] for line in text.splitlines()]


def saved(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ---- signals


@pytest.mark.parametrize("signals", [["SIGUSR1", "SIGTERM"], ["SIGTERM", "SIGTERM", "SIGTERM"]])
def test_schedulers_may_say_it_twice(tiny, tmp_path, monkeypatch, signals):
    config = tiny()
    config.train.steps = 6
    rows, asked = Plan.rows, []

    def rows_and_signals(self, step):
        asked.append(step)
        if step == 3 and asked.count(3) == 1:
            for name in signals:
                os.kill(os.getpid(), getattr(signal, name))
        return rows(self, step)

    monkeypatch.setattr(Plan, "rows", rows_and_signals)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Interrupted) as stopped:
        run(config, tmp_path)
    assert stopped.value.exit_code == 143
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    (step,) = saved(tmp_path)
    assert steps(tmp_path) == list(range(1, step + 1))
    assert step < 6


def test_a_signal_in_another_process_stops_this_one(tiny, tmp_path, monkeypatch):
    config = tiny()

    def gather(value, what, seconds=None):
        said.append(what)
        return {1: "15"} if said.count("the next step") == 3 else {}

    said = []
    monkeypatch.setattr(training.distributed, "gather", gather)
    with pytest.raises(Interrupted) as stopped:
        run(config, tmp_path)
    assert stopped.value.exit_code == 143
    assert saved(tmp_path) == [2]
    monkeypatch.setattr(training.distributed, "gather", lambda *_: {1: training._DATA})
    with pytest.raises(UserError) as error:
        run(config, tmp_path)
    assert str(error.value) == (
        "process 1 cannot read its images; stopped after step 2, and the same command goes on from"
        " there"
    )


# ---- the loss


@pytest.mark.slow
def test_the_last_good_state_is_saved(tiny, tmp_path, monkeypatch):
    """Also where it is seen only when later steps have been handed to the device."""
    config = tiny()
    config.train = dataclasses.replace(config.train, steps=6, log_every=100)
    make_model = training.make_model

    def make_with_a_hole(*args, **kwargs):
        model = make_model(*args, **kwargs)

        def loss(variables, batch, key, step):
            value, aux = model.loss(variables, batch, key, step)
            return jnp.where(step == 3, jnp.nan, value), aux

        return model._replace(loss=loss)

    monkeypatch.setattr(training, "make_model", make_with_a_hole)
    with pytest.raises(UserError, match=r"at step 4 .*the state after step 3 is kept\. The batch:"):
        run(config, tmp_path / "hole")
    assert saved(tmp_path / "hole") == [3]
    config.train.steps = 3
    assert_equal(run(config, tmp_path / "short").variables, load_variables(tmp_path / "hole"))
    assert int(run(config, tmp_path / "hole").step) == 3


# ---- data


@pytest.fixture
def copied(tiny, market, tmp_path):
    """A function that makes a config over a copy of the data, which can be damaged."""

    def make(source):
        root = shutil.copytree(market, tmp_path / "market")
        config = tiny()
        config.data = dataclasses.replace(config.data, root=str(root), source=source)
        return config, root / "bounding_box_train"

    return make


@pytest.mark.slow
def test_data_that_vanishes_stops_the_run_with_its_state(copied, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(pipeline, "WAITS", (0.0, 0.0, 0.0))
    config, folder = copied("files")
    config.train.steps = 60
    away, write = tmp_path / "away", RunLog.write

    def write_and_lose(self, step, values):
        write(self, step, values)
        if step == 2:
            folder.rename(away)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", write_and_lose)
        with pytest.raises(UserError) as error:
            run(config, tmp_path / "cut")
    (step,) = saved(tmp_path / "cut")
    assert 2 <= step < 60
    assert str(error.value).startswith(f"{folder}/")
    assert ".jpg: not an image that decodes (" in str(error.value)
    assert str(error.value).endswith(
        f"; stopped after step {step}, and the same command goes on from there"
    )
    said = capfd.readouterr().err
    assert [f"; try {n} of 4, the next in 0 s" in said for n in (1, 2, 3, 4)] == [True] * 3 + [
        False
    ]
    assert steps(tmp_path / "cut") == list(range(1, step + 1))

    away.rename(folder)
    config.train.steps = step + 3
    cut = run(config, tmp_path / "cut")
    assert_equal(cut, run(config, tmp_path / "whole"))
    assert steps(tmp_path / "cut") == list(range(1, step + 4))


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_data_that_comes_back_is_waited_for(copied, tmp_path, monkeypatch, kind):
    config, folder = copied(kind)
    plan = [np.arange(start, start + 4) for start in range(0, 40, 4)] + [np.arange(2)]
    size = (64, 32)
    whole = list(open_source(config.data).images("train", plan, size))
    away, waited = tmp_path / "away", []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            away.rename(folder)

    source = open_source(config.data)
    monkeypatch.setattr(pipeline.time, "sleep", wait)
    folder.rename(away)
    again = list(source.images("train", plan, size))
    assert waited == [1, 2]
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_data_that_vanishes_while_scoring(tiny, tmp_path):
    config = tiny()
    config.eval.every = 2

    def evaluate(_):
        raise UserError("query/1.jpg: not an image that decodes")

    with pytest.raises(UserError) as error:
        run(config, tmp_path, evaluate)
    assert str(error.value) == (
        "query/1.jpg: not an image that decodes; stopped after step 2, and the same command goes on"
        " from there"
    )
    assert saved(tmp_path) == [2]
    assert steps(tmp_path) == [1, 2]


# ---- disks


@pytest.mark.slow
def test_no_state_is_saved_whose_lines_are_not(tiny, tmp_path, monkeypatch):
    config = tiny()
    config.train = dataclasses.replace(config.train, steps=5, checkpoint_every=2)
    append = RunLog._append

    def full(self, line):
        if json.loads(line)["step"] == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, line)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "_append", full)
        with pytest.raises(UserError, match=r"metrics.jsonl: cannot write there \(No space left"):
            run(config, tmp_path)
    assert saved(tmp_path) == [2]
    assert steps(tmp_path) == [1, 2, 3]
    run(config, tmp_path)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]


def test_a_full_disk_is_one_line_anywhere(capsys):
    def command():
        with open("/dev/full", "w", buffering=1) as file:
            file.write("a picture\n")

    assert report_errors(command) == 2
    assert capsys.readouterr().err == "jaxreid: error: No space left on device\n"


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_the_steps_since_the_last(tiny, tmp_path, capsys):
    config = tiny()
    config.train = dataclasses.replace(config.train, steps=4, checkpoint_every=2)
    whole = run(config, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "checkpoints" / "4" / "default" / "_METADATA").unlink()
    capsys.readouterr()
    assert_equal(whole, run(config, tmp_path))
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(
        "checkpoints/4: damaged (default/_METADATA is missing), and set aside as 4.damaged; the"
        " newest checkpoint that is whole is of step 2"
    )
    assert said[1] == "resumed from step 2 of 4"
    again = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]
    assert steps(tmp_path) == [1, 2, 3, 4]


# ---- two processes in one folder


def test_the_second_process_is_refused(tiny, tmp_path):
    workdir = tmp_path / "run"
    with hold(workdir):
        with pytest.raises(UserError) as error:
            main.run(tiny(), workdir)
        assert str(error.value) == (
            f"--workdir={workdir}: process {os.getpid()} on {socket.gethostname()} is at work"
            " there; wait for it, or give another --workdir"
        )
        (workdir / "lock").write_text("{")
        with pytest.raises(UserError, match="another process is at work there"), hold(workdir):
            pass
        (workdir / "config.json").touch()
    with hold(workdir):
        assert {path.name for path in workdir.iterdir()} == {"lock", "config.json"}


HOLD = """
import sys
from pathlib import Path
from jaxreid.workdir import hold

with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_no_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"process {other.pid} on "), hold(tmp_path):
            pass
        other.kill()
    assert json.loads((tmp_path / "lock").read_text())["pid"] == other.pid
    with hold(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_folder_that_got_nothing_is_removed(tmp_path):
    with pytest.raises(UserError, match="bad input"), hold(tmp_path / "a" / "run"):
        raise UserError("bad input")
    assert [path.name for path in (tmp_path / "a").iterdir()] == []


def test_a_lock_that_is_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    flock, calls = fcntl.flock, []

    def late(file, operation):
        if not calls:
            (tmp_path / "lock").unlink()  # by the process that held it, as it leaves
        calls.append(file)
        flock(file, operation)

    monkeypatch.setattr(folder.fcntl, "flock", late)
    with hold(tmp_path):
        assert len(calls) == 2
        with pytest.raises(UserError, match="is at work there"), hold(tmp_path):
            pass


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder.fcntl, "flock", none)
    with hold(tmp_path):
        assert capsys.readouterr().out == (
            f"{tmp_path / 'lock'}: no lock can be had there (No locks available), so none is\n"
        )


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(folder.distributed, "is_first", lambda: False)
    with hold(tmp_path), hold(tmp_path), RunLog(tmp_path, step=0, total=1) as log:
        log.write(1, {"loss": 1.0})
        log.advance(1)
    assert list(tmp_path.iterdir()) == []
