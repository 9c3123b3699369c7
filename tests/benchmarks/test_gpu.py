"""The examination on a GPU: what it leaves, and what a phase that fails takes with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent


def examine(out, *options):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--tiny", f"--out={out}", *options],
        cwd=REPOSITORY,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# `make gpu` runs the others, on the stack of a GPU machine: they take minutes.
QUICK = ("sanity", "pairs", "rank")


@pytest.mark.parametrize("name", QUICK)
def test_a_phase_runs_at_tiny_sizes(name, tmp_path):
    done = examine(tmp_path, f"--only={name}")
    assert done.returncode == 0, (tmp_path / "gpu.log").read_text()
    phase = json.loads((tmp_path / "gpu.json").read_text())["phases"][name]
    assert phase["state"].startswith("done")
    assert len(phase["figures"]) > 2
    assert all(figure["value"] is not None for figure in phase["figures"])


def test_a_fault_costs_its_own_phase_alone(tmp_path):
    faults = {
        "crash": "failed with exit code -11",
        "hang": "stopped at its limit",
        "fill": "stopped: it held more than 0.5 GB",
    }
    modules = [f"tests.benchmarks.{name}" for name in faults]
    names = ",".join([*modules, "sanity"])
    # The hang gets a third of what is left after the crash, and the others what is left then.
    done = examine(tmp_path, f"--only={names}", "--minutes=0.5", "--memory=0.5")
    assert done.returncode == 1
    tree = json.loads((tmp_path / "gpu.json").read_text())["phases"]
    assert list(tree) == [*modules, "sanity"]
    for module, state in zip(modules, faults.values(), strict=True):
        assert tree[module]["state"].startswith(state)
        assert [figure["value"] for figure in tree[module]["figures"]] == [1]
    assert tree["sanity"]["state"].startswith("done")
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"## {module}: {state}" in text for module, state in zip(modules, faults.values()))


def test_a_second_run_merges(tmp_path):
    assert examine(tmp_path, "--only=sanity").returncode == 0
    before = json.loads((tmp_path / "gpu.json").read_text())["phases"]["sanity"]
    assert examine(tmp_path, "--only=rank").returncode == 0
    tree = json.loads((tmp_path / "gpu.json").read_text())["phases"]
    assert list(tree) == ["sanity", "rank"]
    assert tree["sanity"] == before
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.md", "gpu.log"}


def test_an_unknown_phase(tmp_path):
    done = examine(tmp_path, "--only=stpe")
    assert done.returncode == 2
    assert "there is no phase 'stpe'" in done.stderr
