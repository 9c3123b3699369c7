import json
import subprocess
import sys

import numpy as np
import pytest

from jaxreid import report
from tests.report.drawing import pixels

SCORES = {
    "rank1": 0.88748,
    "rank5": 0.951,
    "rank10": 0.97,
    "rank20": 0.985,
    "mAP": 0.7046,
    "num_queries": 3368,
    "num_gallery": 15913,
    "num_valid": 3361,
    "ap": "trapezoid",
    "flip": False,
    "rerank": "k1=20, k2=6",
}


def read_back(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_report(tmp_path):
    workdir = tmp_path / "duatm"
    report.plot_cmc(workdir / "eval" / "cmc.png", {"this run": np.ones(50)}, "title")
    path = report.write_report(
        workdir,
        config={"data": {"image_size": (256, 128)}, "note": "naïve"},
        scores=SCORES,
        paper={"rank1": 0.9142, "mAP": 0.7662},
        history=[{"step": s, "loss": 1 / (s + 1), "lr": 0.01} for s in range(200)],
    )
    assert path == workdir / "report.md"
    lines = read_back(path)
    assert lines[0] == "# duatm"
    start = lines.index("| | rank-1 | rank-5 | rank-10 | rank-20 | mAP |")
    assert lines[start + 1 : start + 4] == [
        "|---|---:|---:|---:|---:|---:|",
        "| this run | 88.7 | 95.1 | 97.0 | 98.5 | 70.5 |",
        "| the paper's figures | 91.4 | – | – | – | 76.6 |",
    ]
    start = lines.index("## Protocol")
    assert lines[start + 2 : start + 7] == [
        "- 3,368 queries against 15,913 gallery items",
        "- 7 queries without a match in the gallery, not counted",
        "- AP definition: trapezoid",
        "- flip augmentation: off",
        "- re-ranking: k1=20, k2=6",
    ]
    assert [line for line in lines if line.startswith("![")] == [
        "![Training](training.png)",
        "![Cumulative match curve](eval/cmc.png)",
    ]
    assert pixels(workdir / "training.png").shape == (691, 896, 3)
    assert "<details><summary>config.json</summary>" in lines
    fold = "\n".join(lines[lines.index("```json") + 1 : lines.index("```")])
    assert json.loads(fold) == {"data": {"image_size": [256, 128]}, "note": "naïve"}


def test_report_of_an_evaluation_alone(tmp_path):
    path = report.write_report(tmp_path, config={}, scores={**SCORES, "mAP": None})
    lines = read_back(path)
    assert "| this run | 88.7 | 95.1 | 97.0 | 98.5 | – |" in lines
    assert not any("paper" in line or line.startswith("![") for line in lines)


def test_report_refuses_percentages(tmp_path):
    with pytest.raises(ValueError, match=r"a score is 91\.42; expected a fraction"):
        report.write_report(tmp_path, config={}, scores=SCORES, paper={"rank1": 91.42})


def test_imports_neither_pyplot_nor_tensorflow():
    code = (
        "import sys, jaxreid.report; print({'matplotlib.pyplot', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
