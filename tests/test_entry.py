"""How commands end: every one of them, whatever goes wrong."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys

import jax
import pytest

from jaxreid.__main__ import COMMANDS
from jaxreid.command import load_config, use_compilation_cache
from jaxreid.config import validate
from jaxreid.entry import report_errors
from jaxreid.errors import Interrupted, Lost, UserError
from jaxreid.paths import local_path
from tests.test_main import REPOSITORY, TINY, environment


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("data.name: none"), 2, "jaxreid: error: data.name: none\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a/b"),
            2,
            "jaxreid: error: a/b: Permission denied\n",
        ),
        (
            OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"),
            2,
            "jaxreid: error: a: b: Invalid cross-device link\n",
        ),
        (OSError("no such luck"), 2, "jaxreid: error: no such luck\n"),
        (Lost("process 1 is silent"), 75, "jaxreid: error: process 1 is silent\n"),
        (
            Interrupted(signal.SIGTERM),
            143,
            "jaxreid: stopped by signal 15; the same command goes on from here\n",
        ),
        (KeyboardInterrupt(), 130, "jaxreid: stopped; the same command goes on from here\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_user_can_put_right_is_one_line(error, code, line, capsys):
    def command():
        raise error

    assert report_errors(command) == code
    assert capsys.readouterr().err == line


def test_faults_of_ours_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        report_errors(lambda: 1 // 0)


def test_a_command_gives_its_own_code():
    assert report_errors(lambda: 1) == 1
    assert report_errors(lambda: None) == 0


LONG = "x" * 300  # Longer than a name can be: whatever is done with it, the system refuses it.
REFUSED = {
    "synthetic": [f"--root={LONG}"],
    "prepare": ["--name=csv", f"--root={LONG}"],
    "joints": ["--name=csv", f"--root={LONG}", "--python=x", "--out=x.npz"],
    "cuhk03": [f"--root={LONG}"],
    "pretrained": [LONG, "--arch=resnet50", "--out=x.safetensors"],
    "train": ["--config=duatm_synthetic", f"--workdir={LONG}"],
    "report": ["table", "--paper=duatm", "--table=1", f"--out={LONG}"],
    "search": [f"--workdir={LONG}", "--query=a.jpg", "--gallery=b.jpg"],
    "calibrate": [f"--workdir={LONG}", "--name=csv", f"--root={LONG}"],
    "export": [f"--workdir={LONG}"],
}


def test_the_demo_is_the_only_command_without_a_path():
    assert set(COMMANDS) - set(REFUSED) == {"demo"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_system_refuses_is_one_line(name, tmp_path, monkeypatch, capsys):
    if name == "train":
        done = subprocess.run(
            [sys.executable, "-m", "jaxreid.main", *REFUSED[name]],
            cwd=REPOSITORY,
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        code, said = done.returncode, done.stderr
    else:
        monkeypatch.chdir(tmp_path)
        module = COMMANDS[name][0]
        if name in ("pretrained", "report", "search", "synthetic"):
            module += ".__main__"
        code = importlib.import_module(module).main(REFUSED[name])
        said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("jaxreid: error: ")
    assert said.count("\n") == 1
    assert LONG in said


def without_a_reader(*arguments, cwd, env):
    """Runs a command whose stdout nobody reads."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env=env,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        os.close(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_pipe_is_a_quiet_end(name, tmp_path):
    flags = ["--config=help"] if name == "train" else ["--help"]
    done = without_a_reader(
        "-m", COMMANDS[name][0], *flags, cwd=REPOSITORY, env=environment(tmp_path)
    )
    assert done.stderr == ""
    # argparse says nothing of it either, and goes on.
    assert done.returncode in (0, 128 + signal.SIGPIPE)


@pytest.mark.parametrize("many", [1, 100_000])
def test_what_is_printed_into_a_closed_pipe(many, tmp_path):
    code = (
        "import sys; from jaxreid.entry import report_errors;"
        f"sys.exit(report_errors(lambda: print('x' * {many})))"
    )
    done = without_a_reader("-c", code, cwd=REPOSITORY, env=environment(tmp_path))
    assert (done.stderr, done.returncode) == ("", 128 + signal.SIGPIPE)


@pytest.mark.slow
def test_a_training_outlives_its_reader(market, tmp_path):
    workdir = tmp_path / "run"
    flags = (f"--config.data.root={market}", "--config.train.steps=3", f"--workdir={workdir}")
    done = without_a_reader(
        *("-m", "jaxreid.main", "--config=configs/duatm_synthetic.py", *TINY, *flags),
        cwd=REPOSITORY,
        env=environment(tmp_path),
    )
    assert done.stderr == ""
    assert done.returncode == 0
    assert "mAP" in json.loads((workdir / "eval" / "metrics.json").read_text())


def test_where_the_cache_is(tmp_path):
    code = (
        "import jax; from jaxreid.command import use_compilation_cache;"
        "use_compilation_cache(); print(jax.config.jax_compilation_cache_dir)"
    )
    chosen = ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    there = {k: v for k, v in os.environ.items() if k not in chosen}
    for env, said in (
        ({**there, "HOME": str(tmp_path)}, f"{tmp_path}/.cache/jaxreid/xla\n"),
        ({**there, "XDG_CACHE_HOME": "/some"}, "/some/jaxreid/xla\n"),
        ({**there, "JAX_COMPILATION_CACHE_DIR": "/own"}, "/own\n"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, env=env, capture_output=True, text=True
        )
        assert done.stdout == said, done.stderr


def test_nobody_knows_the_home(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    before = jax.config.jax_compilation_cache_dir
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before


FAR = "gs://bucket/folder"
PLACES = {
    "synthetic": [[f"--root={FAR}"]],
    "prepare": [["--name=csv", f"--root={FAR}"], ["--name=csv", "--root=x", f"--out={FAR}"]],
    "joints": [
        [f"--{flag}={FAR if flag == far else 'x'}" for flag in ("name", *flags)]
        for flags in [("root", "python", "out")]
        for far in flags
    ],
    "cuhk03": [[f"--root={FAR}"]],
    "pretrained": [
        [FAR, "--arch=resnet50", "--out=x.safetensors"],
        ["x.pth", "--arch=resnet50", f"--out={FAR}.safetensors"],
    ],
    "report": [
        ["table", "--paper=duatm", "--table=1", f"--out={FAR}"],
        ["table", "--paper=duatm", "--table=1", FAR],
        ["parts", "--name=csv", f"--root={FAR}", "--out=x.png"],
        ["parts", "--name=csv", "--root=x", f"--out={FAR}"],
    ],
    "search": [
        [f"--{flag}={FAR if flag == far else 'x'}" for flag in flags]
        for flags in [("workdir", "query", "gallery", "index", "out", "calibration")]
        for far in flags
    ],
    "calibrate": [
        [f"--{flag}={FAR if flag == far else 'csv'}" for flag in ("workdir", "name", "root", "out")]
        for far in ("workdir", "root", "out")
    ],
    "export": [[f"--workdir={FAR}"], ["--workdir=x", f"--out={FAR}"]],
}


@pytest.mark.parametrize(
    ("name", "flags"), [(name, flags) for name, several in PLACES.items() for flags in several]
)
def test_other_machines_are_refused_in_one_line(name, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = COMMANDS[name][0]
    if name in ("pretrained", "report", "search", "synthetic"):
        module += ".__main__"
    assert importlib.import_module(module).main(flags) == 2
    said = capsys.readouterr().err
    assert FAR in said
    assert said.endswith(
        "expected a file or folder of this machine, mounted if need be; gs:// is not read\n"
    )
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["data.root", "data.cache", "data.joints", "eval.data"])
def test_other_machines_are_refused_in_a_config(key):
    config = load_config("cosam_synthetic" if key == "data.cache" else "duatm_synthetic")
    if key == "data.joints":
        config.data.enlarge, config.data.flip = 1.0, False
    if key == "data.cache":
        config.data.enlarge, config.data.clip_draw = 1.0, "clip"
    section, field = key.split(".")
    setattr(getattr(config, section), field, f"mars:{FAR}" if key == "eval.data" else FAR)
    with pytest.raises(
        UserError, match=rf"^config\.{key}={FAR}: expected a file or folder of this"
    ):
        validate(config)


def test_the_home_in_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert local_path("~/a b") == "/home/me/a b"
    assert local_path("a/~/b") == "a/~/b"
    assert local_path("C:/odd") == "C:/odd"
    with pytest.raises(UserError, match="~nobody_of_that_name is no home that is known here"):
        local_path("~nobody_of_that_name/x")
