import json
from pathlib import Path

import pytest

from jaxreid import config as configs
from jaxreid.config import (
    Config,
    Data,
    Eval,
    Optim,
    Train,
    Variant,
    claim_workdir,
    load_config,
    validate,
)
from jaxreid.errors import UserError
from jaxreid.models import duatm

FILES = sorted(Path("configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_file_is_valid(path):
    config = load_config(path)
    validate(config)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    assert path.read_text().startswith('"""')
    assert f"--config={path}" in path.read_text()


def rows(name):
    import importlib

    return importlib.import_module(f"configs.{name}").VARIANTS


def test_every_variant_is_valid_and_changes_what_it_says():
    for name in ("duatm_market", "duatm_duke"):
        for variant, row in rows(name).items():
            config = load_config(Path(f"configs/{name}.py"), variant)
            validate(config)
            flat = config.to_dict()
            for key, value in row.changes.items():
                section, field = key.split(".")
                assert flat[section][field] == value
            assert config.paper == row.paper


def test_the_papers_recipe():
    config = load_config(Path("configs/duatm_market.py"))
    assert config.model == duatm.Config(
        dim=256, matching="dual", margin=0.2, lambda1=0.1, lambda2=0.5, drop=0.2
    )
    assert config.data.image_size == (256, 128)
    assert config.data.load_size == (288, 144)
    assert (config.data.num_ids, config.data.num_instances) == (10, 4)
    assert config.optim == Optim("sgd", 0.01, 0.9, 5e-4, 0, (250,), 0.1, 100)
    assert config.train.epochs == 300


def test_the_tables_rows_are_the_papers():
    market, duke = rows("duatm_market"), rows("duatm_duke")
    assert market["tuned"].changes == {
        "model.lambda1": 0.3,
        "model.lambda2": 0.9,
        "model.drop": 0.4,
    }
    assert market["tuned_flip"].changes["eval.flip"] is True
    assert market["tuned_flip"].paper["rank1"] == 0.9142
    assert market["intra"].paper == {
        "rank1": 0.7878,
        "rank5": 0.9069,
        "rank20": 0.9673,
        "mAP": 0.6176,
    }
    assert duke["l0_l2"].paper["mAP"] == 0.6155
    assert market["d16"].changes == {"model.dim": 16}


def test_an_unknown_variant_gets_the_nearest():
    with pytest.raises(UserError, match=r"'avpool'.*did you mean 'avepool'\?"):
        load_config(Path("configs/duatm_market.py"), "avpool")


def test_a_config_file_that_fails_names_the_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def get_config(variant=None):\n    return undefined\n")
    with pytest.raises(UserError, match=r"mine.py: NameError: .*mine.py, line 2\)"):
        load_config(path)


def test_a_config_without_variants():
    with pytest.raises(UserError, match="variant 'tuned': there is none of that name"):
        load_config(Path("configs/duatm_synthetic.py"), "tuned")


def test_help_lists_the_variants(capsys):
    with pytest.raises(SystemExit) as stop:
        load_config(Path("configs/duatm_market.py"), "help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert ":tuned " in out
    assert "rank1 91.42%" in out
    assert "model.lambda1=0.3" in out


def test_choose_leaves_the_default_alone():
    config = Config(model=duatm.Config(), paper={"mAP": 0.5})
    variants = {"a": Variant({"model.dim": 8}, {}, "Table 9")}
    assert configs.choose(config, variants, None).paper == {"mAP": 0.5}
    assert configs.choose(config, variants, "a").model.dim == 8


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        (Data, "image_size", (16, 8), "config.data.image_size=(16, 8): expected height,width"),
        (Data, "enlarge", 0.5, "config.data.enlarge=0.5"),
        (Data, "num_ids", 1, "2 persons or more"),
        (Data, "num_instances", 1, "a triplet needs another image"),
        (Optim, "lr", 0.0, "a positive learning rate"),
        (Optim, "decay_epochs", (30, 10), "rising epochs"),
        (Train, "steps", 0, "config.train.steps=0"),
        (Train, "keep", 0, "config.train.keep=0"),
        (Train, "seed", -1, "config.train.seed=-1"),
        (Optim, "warmup", -1, "config.optim.warmup=-1"),
        (Eval, "pictures", 0, "config.eval.pictures=0"),
        (Eval, "max_rank", 5, "rank-20 is reported"),
    ],
)
def test_values_that_no_run_can_have(part, field, value, message):
    name = {Data: "data", Optim: "optim", Train: "train", Eval: "eval"}[part]
    config = Config(model=duatm.Config(), **{name: part(**{field: value})})
    with pytest.raises(UserError) as error:
        validate(config)
    assert message in str(error.value)


def test_a_workdir_belongs_to_one_config(tmp_path):
    claim_workdir(Config(model=duatm.Config()), tmp_path, "abc")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model"]["dim"] == 256
    assert written["fingerprint"] == "abc"
    # The same, and what may change.
    claim_workdir(Config(model=duatm.Config(), data=Data(root="/elsewhere")), tmp_path, "abc")
    with pytest.raises(UserError, match=r"another config \(model.dim: there 256, now 128\)"):
        claim_workdir(Config(model=duatm.Config(dim=128)), tmp_path, "abc")
    with pytest.raises(UserError, match=r"have changed since it began"):
        claim_workdir(Config(model=duatm.Config()), tmp_path, "def")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not the config of a run"):
        claim_workdir(Config(model=duatm.Config()), tmp_path, "abc")
