"""The benchmarks in PyTorch, beside which ours are timed."""

import sys

from benchmarks.gpu import torch_step, torch_topk
from benchmarks.gpu.figures import Figures, read


def test_the_steps_in_pytorch_run(tmp_path):
    figures = Figures(tmp_path / "figures.jsonl", tiny=True, seconds=60)
    torch_step.measure(figures, "DenseNet-121", "eager")
    step, rate = read(figures.path)
    assert step["name"] == "PyTorch eager: DenseNet-121, 2 of 64 x 32, bfloat16: step"
    assert step["unit"] == "ms"
    assert rate["value"] == 2 / (step["value"] / 1e3)


def test_the_nearest_in_pytorch_run(tmp_path, monkeypatch):
    path = tmp_path / "figures.jsonl"
    monkeypatch.setattr(sys, "argv", ["torch_topk", f"--out={path}", "--tiny"])
    torch_topk.main()
    (figure,) = read(path)
    assert figure["name"] == "PyTorch: 20 nearest of 16 in 1000 x 256"
    assert figure["value"] > 0
