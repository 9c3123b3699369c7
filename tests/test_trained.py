"""From config.json and a checkpoint back to the network."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxreid import trained
from jaxreid.command import load_config
from jaxreid.config import Config, Data, Optim
from jaxreid.errors import UserError
from jaxreid.models import duatm
from jaxreid.workdir import claim_workdir, read_config
from tests.search.conftest import make_run

CONFIGS = sorted(Path("configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_comes_back(path, tmp_path):
    config = load_config(path)
    config.data.root = "/data"
    claim_workdir(config, tmp_path, "abc", 625)
    found, num_ids = read_config(tmp_path)
    assert found == config
    assert type(found.model) is type(config.model)
    assert num_ids == 625


def test_a_run_comes_back(tiny, tmp_path):
    config = tiny(matching="average")
    make_run(tmp_path / "run", config)
    found = trained.load(tmp_path / "run")
    assert found.config == config
    assert jax.tree.map(lambda x: x.shape, found.features) == (1, 16)
    classifier = found.variables["params"]["classifier"]["kernel"]
    assert isinstance(classifier, np.ndarray)
    assert classifier.shape == (16, 10)
    # Another network's config.
    tree = json.loads((tmp_path / "run" / "config.json").read_text())
    tree["model"]["dim"] = 8
    (tmp_path / "run" / "config.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"run: its checkpoint does not fit its config.json \(.*16"):
        trained.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match=r"checkpoints: no checkpoint there"):
        trained.load(tmp_path / "run")


def test_what_is_no_config_of_a_run(tmp_path):
    config = Config(model=duatm.Config(), data=Data(root="x"), optim=Optim(lr=0.5))
    claim_workdir(config, tmp_path, "abc", 751)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())

    def error_of(text):
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        with pytest.raises(UserError) as error:
            read_config(tmp_path)
        assert "\n" not in str(error.value)
        return str(error.value)

    earlier = {key: value for key, value in good.items() if key != "method"}
    assert "written by an earlier version; run jaxreid.main with the same --config" in error_of(
        earlier
    )
    changed = {**good, "model": {**good["model"], "margins": 1}}
    assert error_of(changed).endswith(
        "model has a key 'margins' that this version does not know; did you mean 'margin'?"
    )
    assert "the method nowhere.Config cannot be imported (No module named 'nowhere')" in error_of(
        {**good, "method": "nowhere.Config"}
    )
    assert "the method Config cannot be imported" in error_of({**good, "method": "Config"})
    assert "os.system is not the Config of a method" in error_of({**good, "method": "os.system"})
    assert "expected 0 or more" in error_of({**good, "model": {**good["model"], "margin": -1.0}})
    for text in ("{", "[]", "3", {**good, "data": None}, {**good, "num_ids": None}, b"\xff".hex()):
        assert "not the config of a run" in error_of(text)
    path.unlink()
    with pytest.raises(UserError, match=r"config.json: No such file .*; expected the folder of a"):
        read_config(tmp_path)
    # What an earlier version did not know has its default.
    del good["eval"]["rerank"]
    path.write_text(json.dumps(good))
    assert read_config(tmp_path)[0] == config
    assert dataclasses.asdict(read_config(tmp_path)[0])["optim"]["lr"] == 0.5
