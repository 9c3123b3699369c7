"""What the documentation tells people to type has to work, and its examples are what it says."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxreid import main, trained
from jaxreid.command import load_config, load_variants
from jaxreid.data import index
from jaxreid.errors import UserError
from tests.models import test_contract as contract

DOCS = Path("docs")
EXAMPLES = DOCS / "examples"
PAGES = {path: path.read_text() for path in sorted(DOCS.rglob("*.md"))}
TEXT = "\n".join(PAGES.values())


# ------------------------------------------------------------------------------- pages


def test_there_are_pages_and_all_are_in_the_contents():
    assert len(PAGES) >= 20
    listed = set()
    for path, text in PAGES.items():
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {(path.parent / f"{name}.md").resolve() for name in names}
    assert listed == {path.resolve() for path in PAGES if path != DOCS / "index.md"}


def test_files_that_pages_name_exist():
    named = set(
        re.findall(r"`?((?:jaxreid|configs|tests|docs|benchmarks|launch)/[\w/]+(?:\.\w+|/))", TEXT)
    )
    assert {"jaxreid/matching.py", "jaxreid/ops/", "tests/networks.py"} <= named
    assert [name for name in sorted(named) if not Path(name).exists()] == []


def test_configs_variants_and_keys_exist():
    commands = re.findall(r"--config=([\w/.]+)(?::([\w.]+))?", TEXT)
    assert len(commands) >= 30
    for name, variant in commands:
        if name == "help" or name.startswith("docs/"):
            continue
        tables = {f"table{t}" for v in load_variants(name).values() for t in v.tables}
        assert variant in {"", "help"} | tables | set(load_variants(name)), (name, variant)
    config = load_config("duatm_market")
    keys = set(re.findall(r"(?:--config\.|`)(data|optim|train|eval)\.(\w+)[=`]", TEXT))
    assert len(keys) >= 20
    unknown = [(section, k) for section, k in keys if not hasattr(getattr(config, section), k)]
    assert unknown == []


def test_commands_and_files_exist():
    modules = set(re.findall(r"python -m ((?:jaxreid|benchmarks)[\w.]*\w)", TEXT))
    assert len(modules) >= 8
    assert [m for m in modules if importlib.util.find_spec(m) is None] == []
    scripts = set(re.findall(r"(?:python|sbatch|-f|ssh) ?((?:launch|docs)/[\w/.]+\w)", TEXT))
    assert len(scripts) >= 3
    assert [path for path in scripts if not Path(path).is_file()] == []
    targets = set(re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", TEXT, re.MULTILINE))
    makefile = Path("Makefile").read_text()
    assert [t for pair in targets for t in pair if t and f"\n{t}:" not in makefile] == []


def test_pictures_are_small_and_described():
    pictures = sorted((DOCS / "pictures").iterdir())
    assert sum(path.stat().st_size for path in pictures) < 1_000_000
    assert max(path.stat().st_size for path in pictures) < 200_000
    shown = re.findall(r"```\{(?:figure|image)\} (\S+)\n(.*?)```", TEXT, re.DOTALL)
    assert {Path(path).name for path, _ in shown} == {path.name for path in pictures}
    assert all(":alt: " in text for _, text in shown)


def test_links_to_files_of_the_repository_resolve():
    for path, text in PAGES.items():
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (path.parent / link).exists(), (path, link)


# ------------------------------------------------------------ the sixth method: a contract


# the contract: begin
@pytest.fixture(scope="module")
def name():
    return "part_pooling"


@pytest.fixture(scope="module")
def part_pooling():
    sys.path.insert(0, str(EXAMPLES.resolve()))
    yield importlib.import_module("part_pooling")
    sys.path.remove(str(EXAMPLES.resolve()))


@pytest.fixture(scope="module")
def built(part_pooling, batch):
    config = part_pooling.Config(parts=2, dim=8, backbone_layers=(1, 1, 1, 1), backbone_width=4)
    model = config.make(contract.NUM_IDS)
    return config, model, jax.jit(model.init)(jax.random.key(0), batch)


batch, features, gradient = contract.batch, contract.features, contract.gradient
slow = pytest.mark.slow
test_gradients = slow(contract.test_every_parameter_has_a_finite_gradient)
test_jit = slow(contract.test_jit_equals_eager)
test_blocks = slow(contract.test_distances_do_not_depend_on_the_blocks)
test_one_item = slow(contract.test_features_are_of_one_item_alone)
test_frozen = slow(contract.test_a_frozen_backbone_stays_bitwise_the_same)
test_overfits = slow(contract.test_it_overfits_a_few_identities)
# the contract: end


@pytest.mark.slow
def test_it_trains_from_its_config_and_can_be_loaded(part_pooling, market, tmp_path):
    config = load_config(EXAMPLES / "part_pooling_synthetic.py")
    config.model = part_pooling.Config(
        parts=2, dim=8, backbone_layers=(1, 1, 1, 1), backbone_width=4
    )
    config.data.root, config.data.source = str(market), "memory"
    config.data.image_size = (64, 32)
    config.data.num_ids, config.data.num_instances = 4, 2
    config.train.steps, config.eval.batch_size = 3, 16
    scores = main.run(config, tmp_path)
    assert 0 <= scores["rank1"] <= 1
    assert (tmp_path / "eval" / "attention.png").is_file()
    assert trained.load(tmp_path).config.model == config.model


def test_too_many_stripes_are_one_line(part_pooling, batch):
    model = part_pooling.Config(parts=3, backbone_layers=(1, 1, 1, 1), backbone_width=4).make(4)
    with pytest.raises(UserError, match=r"config\.model\.parts=3: expected a divisor of 4"):
        jax.eval_shape(model.init, jax.random.key(0), batch)


# ----------------------------------------------------------------------------- from Python


@pytest.mark.slow
def test_the_walk_through_python_use_runs(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("walkthrough", EXAMPLES / "walkthrough.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.walk(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    # Each of the 8 queries has one line, with the three nearest in order.
    ranked = [line for line in lines if re.match(r"\d{4}_c\d", line)]
    assert len(ranked) == 8
    for line in ranked:
        distances = [float(d) for d in re.findall(r"\((\d\.\d{3})\)", line)]
        assert len(distances) == 3
        assert distances == sorted(distances)
    # The last part has fixed inputs.
    [pure] = [line for line in lines if line.startswith("pure functions: ")]
    loss, mean_ap = map(float, re.findall(r"\d\.\d{3}", pure))
    assert loss == pytest.approx(0.223, abs=2e-3)
    assert mean_ap == pytest.approx(0.355, abs=2e-3)
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = json.loads((EXAMPLES / "calibrated_search.ipynb").read_text())
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["found"]) == 5
    distances = [far for _, far, _ in names["found"]]
    assert distances == sorted(distances)
    for _, far, answer in names["found"]:
        known = names["known"]
        want = "same" if far <= known.same else "unsure" if far <= known.nobody else "nobody"
        assert answer == want
    assert (tmp_path / "runs/notebook/run/calibration.png").is_file()


# ------------------------------------------------------------------------- data of one's own


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16)).save(path)


def test_folders_of_persons_become_a_csv(tmp_path):
    for person in "abcd":
        for camera in ("door", "hall"):
            for image in range(3):
                save(tmp_path / person / camera / f"{image}.jpg")
    command = [sys.executable, EXAMPLES / "by_person.py", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    data = index.load("csv", tmp_path / "index.csv")
    assert (data.train.size, data.query.size, data.gallery.size) == (12, 4, 8)
    assert data.num_ids == 2
    assert index.warnings(data) == []


def test_a_parser_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES.resolve())
    name = "own_layout:own_layout"
    for pid in (1, 2, 3, 4):
        for camid in (1, 12):
            for frame in range(2):
                save(tmp_path / f"person{pid:02d}_cam{camid}_{frame:05d}.jpg")
    data = index.load(name, tmp_path)
    assert (data.train.size, data.query.size, data.gallery.size) == (8, 4, 4)
    assert data.train_pids.tolist() == [1, 3]
    assert np.unique(data.query.camids).tolist() == [1, 12]
    save(tmp_path / "exp-01_c2.jpg")
    with pytest.raises(UserError, match=r"exp-01_c2\.jpg: expected a name like"):
        index.load(name, tmp_path)
    assert index.split_place(f"{name}:/a:b") == (name, "/a:b")
    assert index.split_place("mars:/a:b") == ("mars", "/a:b")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_module:f", "'no_such_module' cannot be imported (No module named"),
        ("own_layout:own_layuot", "has no function 'own_layuot'; did you mean 'own_layout'?"),
        ("own_layout:", "has no function ''"),
        (":f", "'' cannot be imported"),
        ("builtins:str", "returned str; expected jaxreid.data.index.ReidData"),
    ],
)
def test_a_parser_of_ones_own_that_is_none(name, words, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES.resolve())
    with pytest.raises(UserError, match=re.escape(f"data.name={name}: ")) as caught:
        index.load(name, tmp_path)
    assert words in str(caught.value)
