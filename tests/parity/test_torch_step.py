"""The benchmark's steps in PyTorch, beside which ours are timed."""

from benchmarks.gpu import torch_step
from benchmarks.gpu.figures import Figures, read


def test_the_steps_in_pytorch_run(tmp_path):
    figures = Figures(tmp_path / "figures.jsonl", tiny=True, seconds=60)
    torch_step.measure(figures, "DenseNet-121", "eager")
    step, rate = read(figures.path)
    assert step["name"] == "PyTorch eager: DenseNet-121, 2 of 64 x 32, bfloat16: step"
    assert step["unit"] == "ms"
    assert rate["value"] == 2 / (step["value"] / 1e3)
