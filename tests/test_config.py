import dataclasses
import functools
import importlib
import itertools
import json
import re
import typing
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from jaxreid.command import CONFIGS, find_config, load_config, parse_flags
from jaxreid.config import Config, Data, Eval, Optim, Train, validate
from jaxreid.errors import UserError
from jaxreid.models import attention_driven, bot, cosam, duatm, osnet, vit
from jaxreid.train import make_optimizer
from jaxreid.variants import Variant, choose
from jaxreid.workdir import claim_workdir, of_the_protocol

FILES = sorted(Path("configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_file_is_valid(path):
    config = load_config(path)
    validate(config)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    assert path.read_text().startswith('"""')
    assert f"--config={path}" in path.read_text()


def rows(name):
    return getattr(importlib.import_module(f"configs.{name}"), "VARIANTS", {})


WITH_VARIANTS = [path for path in FILES if rows(path.stem)]


def test_the_papers_configs_have_variants():
    assert {path.stem for path in WITH_VARIANTS} >= {
        "attention_driven_cuhk03",
        "attention_driven_duke",
        "attention_driven_market",
        "bot_duke",
        "bot_market",
        "cosam_duke_video",
        "cosam_ilids",
        "cosam_mars",
        "duatm_duke",
        "duatm_market",
        "duatm_mars",
        "jst_rnn_ilids",
        "jst_rnn_mars",
        "jst_rnn_prid",
        "osnet_market",
        "siamese_attention_ilids",
        "siamese_attention_mars",
        "siamese_attention_prid",
        "vit_market",
    }


@pytest.mark.parametrize("path", WITH_VARIANTS, ids=lambda path: path.stem)
def test_every_variant_is_valid_and_changes_what_it_says(path):
    for variant, row in rows(path.stem).items():
        config = load_config(path, variant)
        validate(config)
        for key, value in row.changes.items():
            section, field = key.split(".")
            assert getattr(getattr(config, section), field) == value
        assert config.paper == row.paper
        assert set(row.paper) <= {"rank1", "rank5", "rank10", "rank20", "mAP"}
        assert all(0 < figure < 1 for figure in row.paper.values())
        assert config.paper_source == row.source != ""


def test_the_recipe_of_duatm():
    config = load_config(Path("configs/duatm_market.py"))
    assert config.model == duatm.Config(
        dim=256, matching="dual", margin=0.2, lambda1=0.1, lambda2=0.5, drop=0.2
    )
    assert config.data.image_size == (256, 128)
    assert config.data.load_size == (288, 144)
    assert (config.data.num_ids, config.data.num_instances) == (10, 4)
    assert config.optim == Optim("sgd", 0.01, 0.9, 5e-4, 0, (250,), 0.1, 100)
    assert config.train.epochs == 300


def test_the_recipe_of_osnet():
    config = load_config(Path("configs/osnet_market.py"))
    assert config.model == osnet.Config("osnet_x1_0", label_smoothing=0.1, test_norm=False)
    assert config.data.image_size == config.data.load_size == (256, 128)
    assert (config.data.batch_size, config.data.sampling, config.data.flip) == (64, "shuffle", True)
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("amsgrad", 1.5e-3, 5e-4)
    assert (optim.frozen_epochs, optim.decay_epochs, config.train.epochs) == (10, (60, 120), 150)
    ain = load_config(Path("configs/osnet_market.py"), "ain_x1_0")
    assert ain.model == osnet.Config("osnet_ain_x1_0", test_norm=True)


def test_the_recipe_of_duatm_for_sequences():
    config = load_config(Path("configs/duatm_mars.py"))
    assert config.model == duatm.Config(
        dim=256, sequence="gru", matching="dual", margin=0.2, lambda1=0.1, lambda2=0.5, drop=0.2
    )
    data = config.data
    assert (data.num_ids, data.num_instances, data.clip_length) == (7, 3, 16)
    assert data.image_size == data.load_size == (128, 64)
    assert data.flip is False
    assert config.optim == Optim("sgd", 0.01, 0.9, 5e-4, 0, (250,), 0.1, 100)
    assert config.train.epochs == 300
    assert (config.eval.clips, config.eval.clip_length) == ("first", 64)
    assert (config.eval.ap, config.eval.mars_protocol) == ("trapezoid", "official")


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("mars", "query_removed"),
        ("duke_video", "official"),  # only MARS has two
        ("ilids", "official"),
    ],
)
def test_the_recipe_of_cosam(name, protocol):
    config = load_config(Path(f"configs/cosam_{name}.py"))
    assert config.model == cosam.Config(
        backbone="se_resnet50", blocks=(4, 5), head="tp", margin=0.3, label_smoothing=0.1
    )
    data = config.data
    assert (data.num_ids, data.num_instances, data.clip_length) == (8, 4, 4)
    assert data.image_size == data.load_size == (256, 128)
    assert data.enlarged_size == (288, 144)
    assert (data.enlarge_probability, data.clip_draw) == (0.5, "frame")
    optim = config.optim
    assert (optim.name, optim.lr, optim.weight_decay) == ("adam", 3e-4, 5e-4)
    assert (optim.decay_epochs, optim.decay_factor) == ((200, 400, 600), 0.1)
    assert (optim.warmup, optim.frozen_epochs) == (0, 0)
    assert config.train.epochs == 800
    assert (config.eval.clips, config.eval.mars_protocol) == ("all", protocol)
    for variant in rows(f"cosam_{name}"):
        rate = 1e-4 if "_rnn" in variant or variant == "paper" else 3e-4
        assert load_config(Path(f"configs/cosam_{name}.py"), variant).optim.lr == rate


def test_cosam_on_ilids_for_as_many_steps_as_the_paper_says():
    config = load_config(Path("configs/cosam_ilids.py"), "long")
    steps = 150 // config.data.num_ids
    assert config.train.epochs * steps == 59_940
    assert [epoch * steps for epoch in config.optim.decay_epochs] == [14_994, 29_988, 44_982]


@pytest.mark.parametrize(("name", "ids"), [("mars", 625), ("duke_video", 702), ("ilids", 150)])
def test_cosams_recipe_as_printed(name, ids):
    config = load_config(Path(f"configs/cosam_{name}.py"), "paper")
    assert (config.model.variant, config.model.label_smoothing) == ("paper", 0)
    assert (config.optim.lr, config.optim.decay_factor) == (1e-4, 0.1)
    steps = ids // config.data.num_ids
    assert config.train.epochs * steps == pytest.approx(60_000, rel=2e-3)  # "about 60 k"
    decays = [epoch * steps for epoch in config.optim.decay_epochs]
    assert decays == pytest.approx([15_000, 30_000, 45_000], abs=steps)
    assert config.paper == {}


def test_cosams_rows_are_the_papers():
    mars, duke, ilids = rows("cosam_mars"), rows("cosam_duke_video"), rows("cosam_ilids")
    assert mars["se_resnet50_cosam3"].paper == {
        "rank1": 0.85,
        "rank5": 0.947,
        "rank20": 0.978,
        "mAP": 0.795,
    }
    assert mars["resnet50_rnn_cosam45"].changes == {
        "model.backbone": "resnet50",
        "model.blocks": (4, 5),
        "model.head": "rnn",
        "optim.lr": 1e-4,
    }
    # Table 4 does not print rank-20.
    assert mars["resnet50_ta_cosam45"].paper == {"rank1": 0.836, "rank5": 0.937, "mAP": 0.769}
    assert duke["n8"].paper == {"rank1": 0.919, "rank5": 0.99, "rank20": 0.996, "mAP": 0.921}
    assert ilids["se_resnet50_rnn_cosam45"].paper == {"rank1": 0.778, "rank5": 0.973}
    for table in (mars, duke, ilids):
        borrowed = {name for name, row in table.items() if "Gao and Nevatia" in row.source}
        assert borrowed == {"resnet50_tp", "resnet50_ta", "resnet50_rnn"}


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
    large = rows("duatm_mars")["large"]
    assert large.paper == {"rank1": 0.8116, "rank5": 0.9247, "mAP": 0.6773}


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


def test_a_config_by_its_name(tmp_path, monkeypatch):
    there = CONFIGS / "duatm_market.py"
    assert there.samefile("configs/duatm_market.py")
    monkeypatch.chdir(tmp_path)
    assert find_config("duatm_market") == find_config("duatm_market.py") == there
    assert load_config("duatm_market", "tuned").model.drop == 0.4
    for mistake in ("duatm_markt", "duatm_markt.py", "configs/duatm_market.py"):
        with pytest.raises(UserError, match=rf"{mistake}: .*did you mean 'duatm_market'\?"):
            find_config(mistake)
    with pytest.raises(UserError, match=f"{tmp_path}/duatm_market.py: no such config"):
        find_config(f"{tmp_path}/duatm_market.py")
    # A file of the user's own comes first, but not a folder.
    Path("duatm_market").mkdir()
    assert find_config("duatm_market") == there
    Path("duatm_market.py").touch()
    assert find_config("duatm_market.py") == Path("duatm_market.py")
    assert find_config("duatm_market") == there
    Path("mine.txt").touch()
    with pytest.raises(UserError, match=r"mine\.txt: expected a config, which is a Python file"):
        load_config("mine.txt")


def test_help_lists_the_configs(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(["main", "--config=help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(FILES) + 2
    assert "duatm_market                DuATM on Market-1501" in lines
    assert "jst_rnn_mars                JST-RNN on MARS" in lines


def test_help_lists_the_variants(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_flags(["main", "--config=configs/duatm_market.py:help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert ":tuned " in out
    assert "rank1 91.42%" in out
    assert "model.lambda1=0.3" in out


def test_choose_leaves_the_default_alone():
    config = Config(model=duatm.Config(), paper={"mAP": 0.5})
    variants = {"a": Variant({"model.dim": 8}, {}, "MARS", "D = 8", ("9",))}
    assert choose(config, variants, None).paper == {"mAP": 0.5}
    assert choose(config, variants, "a").model.dim == 8


def test_a_cosine_has_two_ends_or_none():
    config = Config(duatm.Config(), optim=Optim(decay="cosine"))
    validate(config)
    config.optim.decay_epochs = (5,)
    with pytest.raises(UserError, match=r"optim.decay_epochs=\(5,\): expected two epochs, between"):
        validate(config)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        (Data, "image_size", (16, 8), "config.data.image_size=(16, 8): expected height,width"),
        (Data, "enlarge", 0.5, "config.data.enlarge=0.5"),
        (Data, "num_ids", 1, "2 persons or more"),
        (Data, "num_instances", 1, "a triplet needs another image"),
        (Optim, "lr", 0.0, "a positive learning rate"),
        (Optim, "decay_epochs", (30, 10), "rising epochs"),
        (Optim, "average", 1.0, "config.optim.average=1.0: expected above 0, below 1"),
        (Data, "erase", 2.0, "config.data.erase=2.0: expected a probability"),
        (Data, "erase_area", (0.4, 0.02), "config.data.erase_area=(0.4, 0.02): expected two"),
        (Data, "pad", -1, "config.data.pad=-1: expected 0 pixels"),
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


def keys_of(holder, path=()):
    """Every key of a config below its sections, with its type."""
    for name, kind in typing.get_type_hints(type(holder)).items():
        value = getattr(holder, name)
        if dataclasses.is_dataclass(value):
            yield from keys_of(value, (*path, name))
        else:
            yield (*path, name), kind


EVERY_KEY = [
    pytest.param(file, path, kind, id=f"{file.stem}:{'.'.join(path)}")
    for file in FILES
    if file.stem.endswith("_synthetic")
    for path, kind in keys_of(load_config(file))
    if path[0] == "model" or file.stem == "duatm_synthetic"
]


def words_of(kind):
    """The words among a type's values, those of a union's members too."""
    if typing.get_origin(kind) is typing.Literal:
        return [word for word in typing.get_args(kind) if isinstance(word, str)]
    return [word for arg in typing.get_args(kind) for word in words_of(arg)]


@pytest.mark.parametrize(("file", "path", "kind"), EVERY_KEY)
def test_no_key_takes_a_value_of_another_type(file, path, kind):
    """A word that is none of the choices, a number out of range, and what is of no key's type."""
    wrong = [object(), *(f"{word}_" for word in words_of(kind)), *map(str.swapcase, words_of(kind))]
    wrong += [2**31, -(2**31), float("nan"), float("inf")]
    for value in wrong:
        config = load_config(file)
        section = functools.reduce(getattr, path[:-1], config)
        setattr(section, path[-1], value)
        with pytest.raises(UserError, match=rf"^config\.{re.escape('.'.join(path))}=.*: expected "):
            validate(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("eval.metric", "KISSME", r"'KISSME': expected 'model' or 'kissme' or 'lfda'"),
        ("eval.metric", "kisme", r"did you mean 'kissme'\?"),
        ("train.precision", "bf16", r"expected 'float32' or 'bfloat16'"),
        ("data.num_ids", "4", r"expected a whole number"),
        ("data.num_ids", True, r"expected a whole number"),
        ("optim.lr", "5e-2", r"expected a number"),
        ("train.steps", 3.0, r"expected a whole number or None"),
        ("train.steps", 2**40, r"expected -2,147,483,647 to 2,147,483,647"),
        ("optim.lr", float("inf"), r"expected a finite number"),
        ("data.image_size", [64, 32], r"expected a tuple \(a whole number, a whole number\)"),
        ("data.image_size", (64, 32, 3), r"expected a tuple"),
        ("eval.flip", 1, r"expected True or False"),
        ("data", {}, r"expected Data"),
    ],
)
def test_types_and_words_are_those_of_the_schema(key, value, message):
    config = load_config("duatm_synthetic")
    *sections, last = key.split(".")
    setattr(functools.reduce(getattr, sections, config), last, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def parse(monkeypatch, *arguments):
    """The config that a command line with these flags leaves."""
    argv = ["main", *arguments]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    monkeypatch.setattr(flags, "FLAGS", values)
    parse_flags(argv)
    return values["config"].value


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
@pytest.mark.parametrize("file", sorted({key.values[0] for key in EVERY_KEY}), ids=lambda f: f.stem)
def test_flags_unset_what_is_optional(monkeypatch, file):
    config = load_config(file)
    keys = [".".join(path) for path, kind in keys_of(config) if type(None) in typing.get_args(kind)]
    assert {"data.clip_length", "model.pretrained"} <= set(keys)
    config = parse(monkeypatch, f"--config={file}", *(f"--config.{key}=None" for key in keys))
    for key in keys:
        assert functools.reduce(getattr, key.split("."), config) is None, key


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
def test_flags_do_not_unset_what_has_to_be_there(monkeypatch):
    config = parse(monkeypatch, "--config=duatm_synthetic", "--config.train.epochs=None")
    with pytest.raises(UserError, match=r"config\.train\.epochs=None: expected a whole number"):
        validate(config)


def test_an_int_will_do_for_a_float():
    config = load_config("duatm_synthetic")
    config.optim.lr = 1
    validate(config)
    config.optim.lr = True
    with pytest.raises(UserError, match=r"^config\.optim\.lr=True: expected a number$"):
        validate(config)


def test_get_config_returns_a_config(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    return {'data': {}}\n")
    with pytest.raises(UserError, match=r"mine\.py: get_config returned dict; expected .*Config"):
        load_config(file)


TEXT = """from __future__ import annotations
import dataclasses
from typing import Literal
from jaxreid.models import duatm
@dataclasses.dataclass
class Model(duatm.Config):
    word: Literal['a', 'b'] | None = None
"""
CONFIG = """from jaxreid.config import Config
def get_config():
    return Config(model=Model())
"""


def test_annotations_of_a_config_file_may_be_text(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.py"
    file.write_text(TEXT + CONFIG)
    config = load_config(file)
    validate(config)
    config.model.word = "c"
    with pytest.raises(UserError, match=r"config\.model\.word='c': expected 'a' or 'b' or None"):
        validate(config)
    with pytest.raises(SystemExit):
        parse(monkeypatch, f"--config={file}", "--config.model.word=b")
    assert "own Model whose annotations are text; expected the file" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
def test_annotations_of_a_method_of_ones_own_may_be_text(tmp_path, monkeypatch):
    (tmp_path / "my_method_in_text.py").write_text(TEXT)
    (tmp_path / "mine.py").write_text(f"from my_method_in_text import Model\n{CONFIG}")
    monkeypatch.syspath_prepend(tmp_path)
    keys = ("model.word=b", "model.dim=6", "model.pretrained=None", "train.steps=7")
    flags = (f"--config.{key}" for key in keys)
    config = parse(monkeypatch, f"--config={tmp_path / 'mine.py'}", *flags)
    assert (config.model.word, config.model.dim, config.model.pretrained) == ("b", 6, None)
    assert config.train.steps == 7


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("eval.rerank", True, False),
        ("eval.mars_protocol", "official", False),
        ("eval.clips", "first", False),
        ("eval.batch_size", 7, True),
        ("eval.every", 7, True),
        ("optim.lr", 7.0, True),
        ("data.root", "/elsewhere", True),
    ],
)
def test_no_papers_figures_beside_another_protocol(key, value, kept, capsys):
    printed, config = load_config("cosam_mars"), load_config("cosam_mars")
    section, field = key.split(".")
    setattr(getattr(config, section), field, value)
    found = of_the_protocol(config, printed)
    assert found.paper == (printed.paper if kept else {})
    assert bool(found.paper_source) == kept
    assert (f"the paper's figures are left out: {key} " in capsys.readouterr().out) != kept


def test_a_workdir_belongs_to_one_config(tmp_path):
    claim_workdir(Config(model=duatm.Config()), tmp_path, "abc", 751)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model"]["dim"] == 256
    assert written["fingerprint"] == "abc"
    assert (written["method"], written["num_ids"]) == ("jaxreid.models.duatm.Config", 751)
    # The same, and what may change.
    claim_workdir(Config(model=duatm.Config(), data=Data(root="/elsewhere")), tmp_path, "abc", 751)
    with pytest.raises(UserError, match=r"another config \(model.dim: there 256, now 128\)"):
        claim_workdir(Config(model=duatm.Config(dim=128)), tmp_path, "abc", 751)
    with pytest.raises(UserError, match=r"have changed since it began"):
        claim_workdir(Config(model=duatm.Config()), tmp_path, "def", 751)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json: not the config of a run"):
        claim_workdir(Config(model=duatm.Config()), tmp_path, "abc", 751)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_of_persons_to_hold_out(share):
    config = load_config(Path("configs/cosam_mars.py"))
    config.data.validation = share
    with pytest.raises(UserError, match=r"config\.data\.validation=.*: expected a share of"):
        validate(config)


def test_cross_camera_positives_are_for_methods_that_have_any():
    config = load_config(Path("configs/cosam_mars.py"))
    config.data.positives = "cross_camera"
    validate(config)
    config = load_config(Path("configs/attention_driven_market.py"))
    config.data.positives = "cross_camera"
    with pytest.raises(UserError, match=r"positives='cross_camera': expected 'any': this model"):
        validate(config)


@pytest.mark.parametrize(("name", "persons"), [("mars", 625), ("ilids", 150), ("prid", 89)])
def test_the_recipe_of_jst_rnn(name, persons):
    config = load_config(Path(f"configs/jst_rnn_{name}.py"))
    tuned = name != "mars"  # Section 4.4 fine-tunes the network of MARS.
    model, data, optim = config.model, config.data, config.optim
    assert (model.feature, model.metric, model.test_lambda) == ("tam", "srm", 1.0)
    sizes = (16, 2, 6) if tuned else (8, 4, 6)
    assert (data.num_ids, data.num_instances, data.clip_length) == sizes
    assert data.load_size == (227, 227)
    assert data.positives == "cross_camera"
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 1e-3, 0.9, 5e-4)
    assert (optim.bias_lr_scale, optim.bias_decay) == (2.0, False)
    assert optim.head_lr_scale == (1.0 if tuned else 10.0)
    assert config.train.from_scratch is (False if tuned else None)
    total, an_epoch = (6_000, persons // 16) if tuned else (60_000, persons // 8)
    assert config.train.steps == total
    steps = [epoch * an_epoch for epoch in optim.decay_epochs]
    assert steps == pytest.approx([total / 3, 2 * total / 3], abs=an_epoch)
    assert (config.eval.clips, config.eval.mars_protocol) == ("central", "official")
    assert (data.clip_sampling, config.scored_clip_length) == ("consecutive", 6)


def test_jst_rnns_rows_are_the_papers():
    mars = rows("jst_rnn_mars")
    assert mars["cnn_tam"].paper == {"rank1": 0.627, "rank5": 0.806, "rank20": 0.905, "mAP": 0.434}
    assert mars["cnn_srm"].changes == {"model.feature": "none", "model.metric": "srm"}
    assert mars["all"].changes == {}
    # Of PRID2011 the paper prints Table 3 alone.
    prid = {name: row.paper for name, row in rows("jst_rnn_prid").items() if row.paper}
    assert prid == {"all": {"rank1": 0.794, "rank5": 0.944, "rank20": 0.993}}
    assert rows("jst_rnn_prid")["all"].tables == ("3",)


@pytest.mark.parametrize(("name", "epochs"), [("mars", 2000), ("ilids", 1000), ("prid", 1000)])
def test_the_recipe_of_siamese_attention(name, epochs):
    config = load_config(Path(f"configs/siamese_attention_{name}.py"))
    model, data, optim = config.model, config.data, config.optim
    assert (model.backbone, model.kernels) == ("googlenet", (3, 5, 5))
    assert model.channels == (128, 256, 256)
    assert (model.dropout, model.penalty, model.initial) == (0.7, 1.0, "glorot")
    assert (data.sampling, data.batch_size, data.clip_length) == ("pairs", 20, 20)
    assert (data.load_size, data.shift) == ((252, 252), 0.05)
    assert (optim.name, optim.lr, optim.momentum, optim.grad_clip) == ("rmsprop", 1e-4, 0.9, 5.0)
    assert (config.train.epochs, optim.frozen_epochs) == (epochs, 0)  # all is trained
    assert (config.eval.clips, config.eval.clip_length) == ("first_last", 128)
    # Of MARS, as its authors score it; of the others no mAP is printed.
    assert config.eval.ap == ("trapezoid" if name == "mars" else "mean_precision")


def test_siamese_attentions_rows_are_the_papers():
    mars, ilids, prid = (rows(f"siamese_attention_{name}") for name in ("mars", "ilids", "prid"))
    assert prid["vgg16_1_9"].changes == {"model.backbone": "vgg16", "model.kernels": (3, 1, 9)}
    assert prid["vgg16_1_9"].paper == {
        "rank1": 0.637,
        "rank5": 0.858,
        "rank10": 0.88,
        "rank20": 0.93,
    }
    assert mars["kissme"].changes == {"eval.metric": "kissme", "model.test_conditions": 1}
    assert mars["kissme"].paper["rank1"] == 0.735
    assert "rank5" not in ilids["max"].paper  # printed below rank-1
    for name, data_set in (("on_ilids", "ilids_vid"), ("on_prid", "prid2011_all")):
        config = load_config(Path("configs/siamese_attention_mars.py"), name)
        assert config.paper_data == data_set
        assert config.eval.data.partition(":")[0] == data_set
        assert mars[name].tables == ("VIII",)
    assert mars["average"].changes == {"model.pooling": "average"}
    assert not mars["average"].paper
    validate(load_config(Path("configs/siamese_attention_mars.py"), "cached"))
    frozen = {"optim.frozen_epochs": None}
    assert prid["frozen"].changes == frozen
    assert mars["cached"].changes.items() > frozen.items()
    # Section V-C fine-tunes VGG-16 + FC-GRU on MARS.
    for name, data_set in (("ilids", ilids), ("prid", prid), ("mars", mars)):
        config = load_config(Path(f"configs/siamese_attention_{name}.py"), "vgg16_fc")
        assert config.train.from_scratch is (None if name == "mars" else False)
        assert config.optim.frozen_epochs == 0
        note = "VGG_ILSVRC_16_layers.caffemodel" if name == "mars" else "vgg16_fc on MARS"
        assert note in config.paper_source
        for row, variant in data_set.items():
            assert not row.startswith("vgg16") or variant.note
    assert ilids["fisher"].paper["rank10"] == 0.922


@pytest.mark.parametrize(
    ("name", "data_set", "image_size", "split", "tuned_weight"),
    [
        ("market", "market1501", (128, 64), None, 0.1),
        ("duke", "dukemtmc_reid", (256, 128), None, 0.1),
        ("cuhk03", "cuhk03_classic_labeled", (256, 128), 0, 0.2),
    ],
)
def test_the_recipe_of_attention_driven(name, data_set, image_size, split, tuned_weight):
    path = Path(f"configs/attention_driven_{name}.py")
    config = load_config(path)
    assert config.model == attention_driven.Config(
        branches="all", intra=True, inter="attention", branch_weight=0.5, overlap=0.1, dropout=0.5
    )
    assert config.model.size == (384, 192)
    data = config.data
    assert (data.name, data.split, data.joints) == (data_set, split, "joints.npz")
    assert data.load_size == data.image_size == image_size
    assert (data.flip, data.shift, data.sampling, data.batch_size) == (False, 0, "shuffle", 32)
    assert config.optim == Optim("sgd", 0.01, 0.9, 5e-4, 0, (40, 80), 0.1, 0)
    assert config.train.epochs == 100
    assert config.eval.ap == "trapezoid"
    tuned = load_config(path, "tuned").model
    assert (tuned.branch_weight, tuned.overlap) == (tuned_weight, 0.0625)


def test_attention_drivens_rows_are_the_papers():
    market, duke, cuhk03 = (rows(f"attention_driven_{n}") for n in ("market", "duke", "cuhk03"))
    assert market["baseline"].changes == {
        "model.parts": "strips",
        "data.joints": None,
        "model.intra": False,
        "model.inter": "concat",
    }
    assert market["aligned"].changes == {"model.intra": False, "model.inter": "concat"}
    assert market["aligned"].paper == {
        "rank1": 0.8998,
        "rank5": 0.9631,
        "rank10": 0.9768,
        "rank20": 0.9849,
        "mAP": 0.7246,
    }
    assert market["intra"].changes == {"model.inter": "concat"}
    assert market["inter"].changes == {"model.intra": False}
    assert market["intra_inter"].changes == {}
    assert market["upper_legs"].changes == {"model.branches": "upper_legs"}
    assert market["upper_legs"].paper == {
        "rank1": 0.4896,
        "rank5": 0.7141,
        "rank10": 0.7954,
        "mAP": 0.2854,
    }
    assert market["parts_no_intra"].changes == {"model.branches": "parts", "model.intra": False}
    assert market["not_decomposed"].changes == {"model.decomposed": False}
    assert market["not_decomposed"].paper["rank20"] == 0.9917
    assert market["fc"].changes == {"model.intra": False, "model.inter": "fc"}
    assert market["beta_3"].changes == {"model.overlap": 0.0625}
    assert duke["lambda_0.1"].changes == {"model.branch_weight": 0.1}
    assert duke["lambda_0.1"].paper == {"rank1": 0.859, "mAP": 0.741}
    assert duke["beta_6"].paper == {
        "rank1": 0.8441,
        "rank5": 0.9268,
        "rank10": 0.9479,
        "mAP": 0.7142,
    }
    assert cuhk03["tuned"].paper == {"rank1": 0.9643, "rank5": 0.9973, "rank10": 0.9991}
    assert cuhk03["detected_inter"].changes == {
        "model.intra": False,
        "data.name": "cuhk03_classic_detected",
    }
    assert cuhk03["detected_inter"].paper == {"rank1": 0.8953}
    assert "mAP" not in {key for row in cuhk03.values() for key in row.paper}


@pytest.mark.parametrize("name", ["market", "duke", "cuhk03"])
def test_where_tables_of_attention_driven_meet(name):
    table = rows(f"attention_driven_{name}")
    default = load_config(Path(f"configs/attention_driven_{name}.py")).paper
    assert table["intra_inter"].paper == default
    # lambda = 0.5 is the default, and so is beta = 5H/48 but for a rounding.
    for row in {"lambda_0.5", "beta_5"} & table.keys():
        for metric in ("rank1", "mAP"):
            assert table[row].paper.get(metric) == default.get(metric)
    ranked = ("baseline", "aligned", "intra", "intra_inter", "tuned")
    scores = [table[row].paper["rank1"] for row in ranked]
    assert scores == sorted(scores)


def test_the_recipe_of_bot():
    """Luo et al., sections 2 and 3, and the released code's settings."""
    config = load_config(Path("configs/bot_market.py"))
    data, optim = config.data, config.optim
    assert config.model == bot.Config()
    assert (data.num_ids, data.num_instances, data.image_size) == (16, 4, (256, 128))
    assert (data.pad, data.enlarge, data.flip) == (10, 1.0, True)
    assert (data.erase, data.erase_area) == (0.5, (0.02, 0.4))
    assert (optim.name, optim.lr, optim.weight_decay, optim.decay) == (
        "adam",
        3.5e-4,
        5e-4,
        "steps",
    )
    # Of 120 epochs: warm-up over 10, a tenth at 40 and at 70.
    assert (config.train.epochs, optim.warmup, optim.decay_epochs) == (480, 40, (160, 280))
    _, schedule = make_optimizer(optim, steps_per_epoch=46, total=46 * 120)
    epochs = (0, 20, 40, 120, 200, 400)
    rates = [float(schedule(46 * epoch)) for epoch in epochs]
    assert rates == pytest.approx([3.5e-5, 1.75e-4, 3.5e-4, 3.5e-4, 3.5e-5, 3.5e-6], rel=1e-4)
    assert config.paper == {"rank1": 0.945, "mAP": 0.859}


@pytest.mark.parametrize("name", ["bot_market", "bot_duke"])
def test_bots_rows_add_a_trick_each(name):
    """Each differs from the next by the keys of one trick, and agw by its three parts."""
    table = rows(name)
    tricks = [dict(table[row].changes) for row in list(table)[:7]]
    gone = [set(a) - set(b) for a, b in itertools.pairwise(tricks)]
    assert gone == [
        {"optim.warmup"},
        {"data.erase"},
        {"model.label_smoothing"},
        {"model.last_stride"},
        {"model.neck", "model.distance"},
        {"model.centre"},
    ]
    maps = [table[row].paper["mAP"] for row in list(table)[:8]]
    assert maps == sorted(maps)
    agw = load_config(Path(f"configs/{name}.py"), "agw").model
    assert (agw.pooling, agw.non_local, agw.triplet) == ("gem", (0, 2, 3, 0), "weighted")


def test_the_recipe_of_transreid():
    """He et al., section 4.2, and the released configs; and CLIP-ReID's baseline."""
    config = load_config(Path("configs/vit_market.py"))
    data, optim = config.data, config.optim
    assert config.model == vit.Config(stride=12, sie=3.0, cameras=6, jpm=True)
    assert (data.num_ids, data.num_instances, data.image_size) == (16, 4, (256, 128))
    assert (data.pad, data.enlarge, data.flip, data.erase) == (10, 1.0, True, 0.5)
    assert (optim.name, optim.momentum, optim.weight_decay) == ("sgd", 0.9, 1e-4)
    assert optim.bias_lr_scale == 2.0
    # Of 120 epochs: warm-up over 5, and a cosine down to a five-hundredth.
    assert (config.train.epochs, optim.warmup, optim.decay) == (480, 20, "cosine")
    _, schedule = make_optimizer(optim, steps_per_epoch=46, total=46 * 480)
    rates = [float(schedule(46 * epoch)) for epoch in (0, 20, 240, 480)]
    assert rates == pytest.approx([8e-4, 7.966e-3, 4.008e-3, 1.6e-5], rel=1e-3)
    assert config.paper == {"rank1": 0.951, "mAP": 0.89}
    baseline = load_config(Path("configs/vit_market.py"), "baseline")
    assert baseline.model == vit.Config()
    clip = load_config(Path("configs/vit_market.py"), "clip")
    assert clip.model == vit.Config("clip", drop_path=0.0, label_smoothing=0.1)
    assert (clip.optim.name, clip.optim.lr) == ("adam", 5e-6)
    _, schedule = make_optimizer(clip.optim, steps_per_epoch=46, total=46 * 240)
    rates = [float(schedule(46 * epoch)) for epoch in (0, 40, 119, 130, 210)]
    assert rates == pytest.approx([5e-7, 5e-6, 5e-6, 5e-7, 5e-8], rel=1e-3)
