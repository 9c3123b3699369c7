"""The page that lays the papers beside the code stays true."""

import ast
import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from jaxreid.command import load_config
from jaxreid.config import flat_keys

ROOT = Path(__file__).parent.parent
_SPEC = importlib.util.spec_from_file_location("render", ROOT / "docs" / "fidelity" / "render.py")
render = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(render)

PAPERS = {name: render.read(name) for name in render.PAPERS}
ROWS = [(name, row) for name, paper in PAPERS.items() for row in paper["row"]]
HEAD = {"method", "title", "venue", "equations", "tables", "figures", "row"}
KEYS = {"item", "section", "says", "code", "test", "config", "departure", "run"}


@cache
def symbols(path):
    """What a file defines, by names such as `Network.filters`, functions within functions too."""
    text = (ROOT / path).read_text()
    if path.endswith(".toml"):
        return set(tomllib.loads(text))
    found = set()

    def visit(body, prefix):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update(prefix + t.id for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.AnnAssign):
                found.add(prefix + node.target.id)

    visit(ast.parse(text).body, "")
    return found


def test_the_page_is_what_the_files_make_of_it():
    assert render.PAGE.read_text() == render.render(), "python docs/fidelity/render.py writes it"


def test_every_file_is_on_the_page():
    assert {path.stem for path in (ROOT / "docs" / "fidelity").glob("*.toml")} == set(PAPERS)


def test_rows_have_no_other_keys():
    assert [name for name, paper in PAPERS.items() if set(paper) != HEAD] == []
    assert [(name, row["item"]) for name, row in ROWS if set(row) != KEYS] == []


@pytest.mark.parametrize("name", PAPERS)
def test_every_number_of_the_paper_has_a_row(name):
    paper = PAPERS[name]
    items = [row["item"] for row in paper["row"]]
    assert len(set(items)) == len(items)
    numbered = [f"Eq. ({n})" for n in range(1, paper["equations"] + 1)]
    numbered += [f"Table {n}" for n in paper["tables"]]
    numbered += [f"Fig. {n}" for n in range(1, paper["figures"] + 1)]
    assert sorted(set(numbered) - set(items)) == []
    assert sorted(i for i in items if re.match(r"Eq|Table|Fig", i) and i not in numbered) == []


@pytest.mark.parametrize("name", PAPERS)
def test_every_place_exists(name):
    for row in PAPERS[name]["row"]:
        assert all(place.startswith("tests/") for place in row["test"]), row["item"]
        for place in row["code"] + row["test"]:
            path, _, symbol = place.partition("::")
            assert (ROOT / path).is_file(), (row["item"], place)
            assert not symbol or symbol in symbols(path), (row["item"], place)
            assert symbol or not path.endswith(".py"), (row["item"], place)


@pytest.mark.parametrize("name", PAPERS)
def test_every_row_is_held_or_says_why_not(name):
    rows = PAPERS[name]["row"]
    assert [r["item"] for r in rows if not (r["code"] or r["config"] or r["departure"])] == []
    # A value that a row states is held by this file.
    assert [r["item"] for r in rows if r["code"] and not (r["test"] or r["config"])] == []


@pytest.mark.parametrize("name", PAPERS)
def test_every_value_is_the_configs(name):
    stated = [(row["item"], *pair) for row in PAPERS[name]["row"] for pair in row["config"].items()]
    assert len(stated) >= 5
    for item, config, values in stated:
        file, _, variant = config.partition(":")
        assert file.startswith(name), (item, config)
        flat = flat_keys(load_config(file, *filter(None, [variant])).to_dict())
        for key, value in values.items():
            assert flat[key] == (None if value == "None" else value), (item, config, key)


def test_every_run_is_in_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    headings = set(re.findall(r"^## (.*)$", results, re.MULTILINE))
    assert {heading for _, row in ROWS for heading in row["run"]} <= headings
