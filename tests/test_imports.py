"""Who may import whom, and life without TensorFlow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxreid"
MODULES = sorted(PACKAGE.rglob("*.py"))

WITHOUT_TENSORFLOW = """
import sys

# An entry of None makes `import` fail, and `find_spec` find nothing, as where it is not installed.
sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_datasets", "array_record")))
"""


def imported(path, top_level_only=False):
    """The modules that a file imports, by their full names."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def uses(path, package, **kwargs):
    return any(name.split(".")[0] == package for name in imported(path, **kwargs))


def parts(path):
    return path.relative_to(PACKAGE).as_posix()


def test_tensorflow_is_imported_in_one_place_when_it_first_runs():
    assert [parts(p) for p in MODULES if uses(p, "tensorflow")] == ["data/pipeline.py"]
    assert not uses(PACKAGE / "data" / "pipeline.py", "tensorflow", top_level_only=True)
    assert [parts(p) for p in MODULES if uses(p, "tensorflow_datasets")] == ["data/builders.py"]
    importers = [p for p in MODULES if "jaxreid.data.builders" in imported(p)]
    assert {parts(p) for p in importers} == {"data/sources.py", "prepare.py"}
    assert not any("jaxreid.data.builders" in imported(p, top_level_only=True) for p in importers)


def test_flax_is_for_models_and_backbones():
    users = {parts(p).split("/")[0] for p in MODULES if uses(p, "flax")}
    assert users == {"models", "backbones"}


@pytest.mark.parametrize("folder", ["ops", "losses", "metrics"])
def test_the_mathematics_stands_alone(folder):
    files = [p for p in MODULES if parts(p).split("/")[0].removesuffix(".py") == folder]
    assert files
    for path in files:
        for name in imported(path):
            assert name.split(".")[0] not in ("flax", "tensorflow", "ml_collections")
            if name.startswith("jaxreid."):
                assert name.split(".")[1] in (folder, "ops", "types")


LEVELS = [
    {"main", "demo"},
    {"train", "evaluate", "report", "search"},
    {"models"},
    {"backbones", "ops", "losses"},
]


def test_imports_point_downwards():
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    for path in MODULES:
        own = level.get(parts(path).split("/")[0].removesuffix(".py"))
        if path.name == "__main__.py":  # A command stands above all.
            own = 0
        for name in imported(path):
            other = level.get(name.split(".")[1]) if name.startswith("jaxreid.") else None
            if own is not None and other is not None:
                assert other >= own, f"{parts(path)} imports {name}"


def test_no_shared_file_names_a_method():
    """Neither imports one, nor has its name as a word of the code; docstrings may, as examples."""
    methods = {p.stem for p in (PACKAGE / "models").glob("*.py") if p.stem != "__init__"}
    shared = [
        PACKAGE / f"{name}.py" for name in ("train", "evaluate", "main", "config", "variants")
    ]
    for path in (*shared, *(PACKAGE / "report").glob("*.py")):
        words = {part for name in imported(path) for part in name.split(".")}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant):
                words.add(node.value)
            elif isinstance(node, ast.Name):
                words.add(node.id)
            elif isinstance(node, ast.Attribute):
                words.add(node.attr)
        assert not methods & words, path


@pytest.mark.slow
def test_everything_imports_and_trains_from_memory_without_tensorflow(market, tmp_path):
    code = f"""{WITHOUT_TENSORFLOW}
import dataclasses
import pkgutil, importlib, jaxreid
for module in pkgutil.walk_packages(jaxreid.__path__, "jaxreid."):
    if module.name not in ("jaxreid.data.builders",):
        importlib.import_module(module.name)
from pathlib import Path
from jaxreid.command import load_config
from jaxreid.errors import UserError
from jaxreid.main import run
config = load_config(Path("configs/duatm_synthetic.py"))
config.model = dataclasses.replace(config.model, dim=8, backbone_layers=(1, 1, 1, 1),
    backbone_growth=4, backbone_stem=8)
config.data = dataclasses.replace(config.data, root={str(market)!r}, image_size=(64, 32),
    source="memory", num_ids=2, num_instances=2)
config.train.steps = 2
run(config, Path({str(tmp_path / "run")!r}))
for source in ("files", "tfds"):
    config.data.source = source
    config.data.check = False
    try:
        run(config, Path({str(tmp_path)!r}) / source)
    except UserError as error:
        assert "pip install 'jaxreid[data]'" in str(error), error
        assert not (Path({str(tmp_path)!r}) / source).exists()
    else:
        raise AssertionError(source)
assert sys.modules["tensorflow"] is None
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        env={
            "JAX_PLATFORMS": "cpu",
            "PATH": "",
            "HOME": str(tmp_path),
            "XLA_FLAGS": os.environ["XLA_FLAGS"],
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "report.md").is_file()
