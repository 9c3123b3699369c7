import subprocess
import sys

import numpy as np
import pytest

from jaxreid.pretrained import __main__, load
from tests.pretrained import writers

ARRAYS = {
    "conv1.weight": np.ones((2, 3, 1, 1), "<f4"),
    "bn1.num_batches_tracked": np.array(7, "<i8"),
}


def test_converts_and_says_what_it_did(tmp_path, capsys):
    source = writers.write_zip(tmp_path / "x.pth", ARRAYS)
    out = tmp_path / "x.safetensors"
    assert __main__.main([str(source), "--arch=resnet50", f"--out={out}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{source}: resnet50, 3 arrays, 12 numbers",
        "left out by rule: 1 (such as bn1.num_batches_tracked)",
        "preprocessing/mean: 123.675 116.28 103.53 (R G B, grey levels)",
        "preprocessing/std: 58.395 57.12 57.375 (R G B, grey levels)",
        f"written: {out}",
    ]
    assert load(out).leaves["params/conv1/kernel"].shape == (1, 1, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.pth", "--arch=resnet", "--out=x.safetensors"], "arch=resnet: expected dense"),
        (["x.pth", "--arch=resnet50", "--out=x.safetensors"], "x.pth: No such file or"),
        (["x.pth", "--arch=resnet50", "--out=x.npz"], "--out=x.npz: expected a name"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert __main__.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"jaxreid: error: {message}")
    assert printed.err.count("\n") == 1


def test_conversion_needs_no_framework(tmp_path):
    source = writers.write_zip(tmp_path / "x.pth", ARRAYS)
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("flax", "tensorflow", "torch", "huggingface_hub")))
from jaxreid.pretrained.__main__ import main
assert main([{str(source)!r}, "--arch=resnet50", {f"--out={tmp_path / 'x.safetensors'}"!r}]) == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
