"""Runs that start from weights made elsewhere, and from another run's."""

import jax
import numpy as np
import pytest

from jaxreid import pretrained, sharding
from jaxreid.checkpoint import Checkpoints, load_variables
from jaxreid.data.sources import open_source
from jaxreid.errors import UserError
from jaxreid.main import run
from jaxreid.train import init_state, restore_or_start


def start(config, workdir):
    source, mesh = open_source(config.data), sharding.make_mesh()
    with Checkpoints(workdir) as checkpoints:
        return restore_or_start(checkpoints, config, source, mesh)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture
def backbone(tiny, tmp_path):
    """A file of backbone weights: other random ones, with Caffe's preprocessing."""
    config = tiny()
    config.train.seed = 5
    state = init_state(config, open_source(config.data), sharding.make_mesh())
    leaves = {
        "/".join([collection, *(str(part.key) for part in path)]): np.asarray(leaf)
        for collection in ("params", "batch_stats")
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            state.variables[collection]["backbone"]
        )
    }
    leaves["preprocessing/mean"] = np.float32([123, 117, 104])
    leaves["preprocessing/std"] = np.ones(3, np.float32)
    path = tmp_path / "backbone.safetensors"
    pretrained.save(pretrained.Weights("drawn", "densenet121", leaves), path)
    return path, state


def test_from_scratch_is_said(tiny, tmp_path, capsys):
    start(tiny(), tmp_path)
    assert capsys.readouterr().out == ("starts from scratch: config.model.pretrained is not set\n")


def test_a_backbone_comes_with_its_preprocessing(tiny, tmp_path, backbone, capsys):
    path, theirs = backbone
    scratch = start(tiny(), tmp_path / "a")
    state = start(tiny(pretrained=str(path)), tmp_path / "b")
    assert_equal(state.params["backbone"], theirs.params["backbone"])
    assert_equal(state.params["classifier"], scratch.params["classifier"])
    assert state.model_state["preprocessing"]["backbone"]["mean"].tolist() == [123, 117, 104]
    assert f"starts from {path}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trained_run_keeps_the_preprocessing_and_needs_the_file_no_more(tiny, tmp_path, backbone):
    path, _ = backbone
    config = tiny(pretrained=str(path))
    config.train.steps = 2
    scores = run(config, tmp_path / "run")
    variables = load_variables(tmp_path / "run")
    assert variables["preprocessing"]["backbone"]["mean"].tolist() == [123, 117, 104]
    path.unlink()
    assert run(config, tmp_path / "run") == scores


@pytest.mark.slow
def test_fine_tuning_another_run(tiny, tmp_path, market):
    """As from MARS to iLIDS-VID: everything but a classifier of another number of persons."""
    config = tiny()
    config.train.steps = 1
    run(config, tmp_path / "first")
    first = load_variables(tmp_path / "first")
    state = start(tiny(pretrained=str(tmp_path / "first")), tmp_path / "same")
    assert_equal(state.params, first["params"])

    fewer = tmp_path / "fewer.csv"
    source = open_source(config.data)
    lines = ["path,pid,camid,split"]
    for split, table in source.data.splits.items():
        lines += [
            f"{table.path(row)},{table.pids[row] + 1},{table.camids[row]},{split}"
            for row in range(table.size)
            if split != "train" or table.pids[row] < 6
        ]
    fewer.write_text("\n".join(lines))
    config = tiny(pretrained=str(tmp_path / "first"))
    config.data.name, config.data.root = "csv", str(fewer)
    state = start(config, tmp_path / "fewer")
    assert state.params["classifier"]["kernel"].shape[-1] == 6
    assert_equal(state.params["backbone"], first["params"]["backbone"])
    assert_equal(state.params["embedding"], first["params"]["embedding"])


def test_bad_weights_are_found_before_the_folder_is_claimed(tiny, tmp_path, backbone):
    path, _ = backbone
    for given, message in (
        (str(path) + "x", "backbone.safetensorsx"),
        (str(tmp_path / "runs"), "runs"),
    ):
        with pytest.raises(UserError, match=message):
            run(tiny(pretrained=given), tmp_path / "run")
    config = tiny(pretrained=str(path))
    config.model.backbone_growth = 8
    with pytest.raises(UserError, match=r"backbone\.safetensors.*shape"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
