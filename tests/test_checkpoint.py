import gc
import logging
import os
import re
import resource
import shutil
import subprocess
from contextlib import contextmanager, nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.checkpoint import Checkpoints, load_variables
from jaxreid.errors import UserError
from jaxreid.types import TrainState


def write(workdir):
    state = TrainState(
        step=jnp.asarray(3),
        params={"kernel": jnp.array([1.0, 2.0])},
        model_state={"batch_stats": {"mean": jnp.array([3.0])}},
        opt_state=(jnp.array([4.0]),),
    )
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(3, state)
    return state


def test_reading_says_nothing(tmp_path, caplog):
    state = write(tmp_path)
    with caplog.at_level(logging.WARNING), Checkpoints(tmp_path) as checkpoints:
        variables, restored = load_variables(tmp_path), checkpoints.restore(state)
    assert caplog.text == ""
    np.testing.assert_array_equal(variables["params"]["kernel"], [1, 2])
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [3])
    assert int(restored.step) == 3


def test_the_folder_of_several_splits(tmp_path):
    write(tmp_path / "split0")
    write(tmp_path / "split1")
    (tmp_path / "split2").mkdir()
    with pytest.raises(UserError) as error:
        load_variables(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: has no checkpoint of its own; expected the folder of one of the runs in it:"
        " split0, split1"
    )


def state_of(step, size=10):
    noise = np.random.default_rng(step).integers(0, 2**31, size, np.int32)  # It does not compress.
    return TrainState(
        step=jnp.asarray(step),
        params={"kernel": jnp.asarray(noise)},
        model_state={"batch_stats": {"mean": jnp.array([3.0])}},
        opt_state=(jnp.array([4.0]),),
    )


def write_steps(workdir, *steps):
    with Checkpoints(workdir, keep=len(steps)) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step))
    return workdir / "checkpoints"


def largest(step):
    return max(step.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "truncated": lambda step: os.truncate(largest(step), 20),
    "missing": lambda step: largest(step).unlink(),
    "garbage": lambda step: largest(step).write_bytes(os.urandom(300)),
    "a flipped bit": lambda step: flip_a_bit(largest(step)),
    "no metadata": lambda step: (step / "default" / "_METADATA").write_bytes(b""),
    "no manifest": lambda step: (step / "default" / "manifest.ocdbt").unlink(),
    "no checksums": lambda step: (step / "checksums.json").write_bytes(b""),
    "empty": lambda step: [shutil.rmtree(step), step.mkdir()],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside(tmp_path, how, capfd):
    folder = write_steps(tmp_path, 3, 6, 9)
    DAMAGE[how](folder / "9")
    kernel = load_variables(tmp_path)["params"]["kernel"]
    np.testing.assert_array_equal(kernel, state_of(6).params["kernel"])
    said = capfd.readouterr()
    assert said.out.startswith(f"{folder / '9'}: damaged (")
    assert said.out.endswith("; step 6 is used\n")
    with pytest.raises(UserError, match=rf"{folder}: damaged \(9: "):
        load_variables(tmp_path, step=9)
    assert (folder / "9").is_dir()  # Looking changes nothing.

    with Checkpoints(tmp_path, keep=3) as checkpoints:
        restored = checkpoints.restore(state_of(0))
        jax.tree.map(np.testing.assert_array_equal, restored, state_of(6))
        checkpoints.save(9, state_of(9))
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.startswith(f"{folder / '9'}: damaged (")
    assert said.out.count("\n") == 1
    assert "set aside as 9.damaged; the newest checkpoint that is whole is of step 6" in said.out
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["3", "6", "9", "9.damaged"]
    np.testing.assert_array_equal(
        load_variables(tmp_path)["params"]["kernel"], state_of(9).params["kernel"]
    )
    assert capfd.readouterr().out == ""


def test_two_damaged_checkpoints_of_one_step_are_both_kept(tmp_path, capsys):
    folder = write_steps(tmp_path, 3, 6)
    for _ in range(2):
        os.truncate(largest(folder / "6"), 20)
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(6, state_of(6))
    assert {path.name for path in folder.iterdir()} == {"3", "6", "6.damaged", "6.damaged1"}
    assert capsys.readouterr().out.count("\n") == 2


def test_where_all_are_damaged_nothing_is_touched(tmp_path):
    folder = write_steps(tmp_path, 3, 6)
    for step in (3, 6):
        (folder / str(step) / "default" / "_METADATA").unlink()
    for look in (Checkpoints, load_variables):
        with pytest.raises(UserError) as error:
            look(tmp_path)
        assert str(error.value) == (
            f"{folder}: damaged (3: default/_METADATA is missing, 6: default/_METADATA is missing),"
            " and no other checkpoint is there; without that folder the same command starts from"
            " the beginning"
        )
    assert {path.name for path in folder.iterdir()} == {"3", "6"}


def test_a_checkpoint_without_checksums_is_read_to_see(tmp_path, capsys):
    folder = write_steps(tmp_path, 3, 6)
    for step in (3, 6):
        (folder / str(step) / "checksums.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state_of(0)).step) == 6
    assert capsys.readouterr().out == ""
    os.truncate(largest(folder / "6"), 20)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state_of(0)).step) == 3
    assert "6: damaged (" in capsys.readouterr().out


def test_what_a_kill_leaves_is_removed(tmp_path):
    folder = write_steps(tmp_path, 3)
    # Killed during a save, and while an old checkpoint was being deleted.
    shutil.copytree(folder / "3", folder / "6.orbax-checkpoint-tmp")
    (folder / "old" / "0").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state_of(0)).step) == 3
    assert [path.name for path in folder.iterdir()] == ["3"]


def test_the_best_is_kept_over_starts(tmp_path):
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, None)):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(step, state_of(step), score and {"mAP": score})
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "5"}


@contextmanager
def small_disk(folder, size):
    """A file system of so many bytes; where none can be mounted, no file may grow beyond 1 MB."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield nullcontext
        finally:
            subprocess.run(["umount", str(folder)], check=True)
    else:
        yield small_files


@contextmanager
def small_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def mounted(folder):
    return small_disk(folder, 20_000_000)


@contextmanager
def limited(folder):
    folder.mkdir()
    yield small_files


@pytest.mark.parametrize("disk", [mounted, limited])
def test_a_disk_that_fills_during_a_save(tmp_path, disk, capfd):
    with disk(tmp_path / "disk") as full, Checkpoints(tmp_path / "disk", keep=3) as checkpoints:
        folder = checkpoints.folder
        for step in (1, 2):
            checkpoints.save(step, state_of(step, 2_000_000))
        with full(), pytest.raises(UserError) as error:
            checkpoints.save(3, state_of(3, 2_000_000))
        assert re.fullmatch(
            rf"{folder}: cannot save step 3 \((No space left on device|File too large)\): about 8"
            r" MB needed, \S+ MB free; the same command goes on from step 2",
            str(error.value),
        )
        del error
        gc.collect()
        assert {path.name for path in folder.iterdir()} == {"1", "2"}
        assert capfd.readouterr() == ("", "")
        for step in (1, 2):
            kernel = load_variables(tmp_path / "disk", step)["params"]["kernel"]
            np.testing.assert_array_equal(kernel, state_of(step, 2_000_000).params["kernel"])
        shutil.rmtree(folder / "1")
        with Checkpoints(tmp_path / "disk") as again:
            assert int(again.restore(state_of(0, 2_000_000)).step) == 2
            again.save(3, state_of(3, 2_000_000))
        kernel = load_variables(tmp_path / "disk")["params"]["kernel"]
        np.testing.assert_array_equal(kernel, state_of(3, 2_000_000).params["kernel"])
