import json
import logging
import sys
import time
import types

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxreid.errors import UserError
from jaxreid.pretrained import convert, read, sources
from tests.pretrained import writers

ARRAYS = {
    "conv1.weight": np.arange(24, dtype="<f4").reshape(2, 3, 2, 2),
    "bn1.weight": np.array([1, 2.5], "<f4"),
    "fc.bias": np.array([3], "<f4"),
}
BLOBS = {
    "conv1/7x7_s2": [ARRAYS["conv1.weight"], ARRAYS["bn1.weight"]],
    "loss3/classifier": [np.arange(6, dtype="<f4").reshape(2, 3), ARRAYS["bn1.weight"]],
}
FORMS = {
    "zip": lambda path: writers.write_zip(path / "x.pth", ARRAYS),
    "legacy": lambda path: writers.write_legacy(path / "x.pt", ARRAYS),
    "caffe": lambda path: writers.write_caffe(path / "x.caffemodel", BLOBS),
    "caffe_v1": lambda path: writers.write_caffe(path / "x.caffemodel", BLOBS, v1=True),
    "safetensors": lambda path: write_safetensors(path / "x.safetensors", ARRAYS),
}


def write_safetensors(path, arrays):
    save_file(arrays, path)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_give_one_line(tmp_path, form):
    """Cut off anywhere, or with bits flipped anywhere: what is there, or one error."""
    path = FORMS[form](tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in range(0, len(whole), max(1, len(whole) // 100))]
    for _ in range(300):
        content = np.frombuffer(whole, np.uint8).copy()
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            content[position] ^= 1 << rng.integers(0, 8)
        damaged.append(content.tobytes())
    start, errors = time.monotonic(), []
    for content in damaged:
        path.write_bytes(content)
        try:
            assert sum(a.nbytes for a in read(path).arrays.values()) <= 2 * len(whole)
        except UserError as error:
            errors.append(str(error))
    assert time.monotonic() - start < 60
    assert len(errors) >= 50
    for error in errors:
        assert error.startswith(f"{path}: ")
        assert error.isprintable()
        assert len(error) < 500


def test_a_file_that_is_none_of_pytorchs(tmp_path):
    """Bytes that happen to be a pickle's first steps give no puzzling error of such a step."""
    path = tmp_path / "x.pth"
    for content in (b"jabcdefg.", b"Hello, this is text\n", b"<html>", b"import torch\n", b"N."):
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value) == f"{path}: damaged, or not weights: in none of PyTorch's formats"


def test_one_line_says_of_what_kind_a_key_error_is():
    assert sources.one_line(KeyError(174812789)) == "KeyError 174812789"
    assert sources.one_line(KeyError("std")) == "KeyError 'std'"
    assert sources.one_line(ValueError("a\nb")) == "a"
    assert sources.one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize("v1", [False, True])
def test_caffemodel(tmp_path, v1):
    raw = read(writers.write_caffe(tmp_path / "x.caffemodel", BLOBS, v1))
    assert raw.family == "caffe"
    want = {f"{name}.{leaf}": blob for name, blobs in BLOBS.items()
            for leaf, blob in zip(("weight", "bias"), blobs)}  # fmt: skip
    assert list(raw.arrays) == list(want)
    for name, blob in want.items():
        assert raw.arrays[name].shape == blob.shape
        np.testing.assert_array_equal(raw.arrays[name], blob)


def test_caffemodel_on_the_wire(tmp_path):
    """Field numbers by hand: layer 100 of name 1 and blob 7, with shape 7 and packed data 5."""
    data = np.float32([1.5, -2]).tobytes()
    blob = b"\x3a\x03\x0a\x01\x02" + b"\x2a\x08" + data
    layer = b"\x0a\x02fc" + b"\x12\x04Type" + b"\x3a" + bytes([len(blob)]) + blob
    path = tmp_path / "x.caffemodel"
    path.write_bytes(b"\x0a\x03net" + b"\xa2\x06" + bytes([len(layer)]) + layer)
    raw = read(path)
    assert list(raw.arrays) == ["fc.weight"]
    np.testing.assert_array_equal(raw.arrays["fc.weight"], [1.5, -2])
    # layers 2 of name 4 and blob 6, with num 1, channels 2, height 3 and width 4.
    blob = b"\x08\x01\x10\x01\x18\x01\x20\x02" + b"\x2a\x08" + data
    layer = b"\x22\x02fc" + b"\x28\x0e" + b"\x32" + bytes([len(blob)]) + blob
    path.write_bytes(b"\x12" + bytes([len(layer)]) + layer)
    np.testing.assert_array_equal(read(path).arrays["fc.weight"], [[1.5, -2]])


def test_caffemodel_with_a_shape_that_is_not_its_size(tmp_path):
    path = writers.write_caffe(tmp_path / "x.caffemodel", {"conv1": [np.ones((2, 3), "<f4")]})
    path.write_bytes(path.read_bytes().replace(b"\x08\x02\x08\x03", b"\x08\x02\x08\x04"))
    with pytest.raises(UserError, match=r"a blob of 6 numbers has another shape: \(2, 4\)"):
        read(path)
    writers.write_caffe(path, {"data": []})
    with pytest.raises(UserError, match="no layer with weights"):
        read(path)


def test_small_floats_of_safetensors_are_widened(tmp_path):
    path = tmp_path / "x.safetensors"
    arrays = {"a": np.array([1, -3], ml_dtypes.bfloat16), "b": np.array([0.5], np.float16)}
    raw = read(write_safetensors(path, arrays))
    np.testing.assert_array_equal(raw.arrays["a"], np.float32([1, -3]))
    assert {array.dtype for array in raw.arrays.values()} == {np.dtype(np.float32)}
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x00")
    with pytest.raises(UserError, match="a is of type F8_E4M3; expected 16 bits or more"):
        read(path)


def test_a_config_beside_the_weights_is_honoured(tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", ARRAYS)
    config = tmp_path / "config.json"
    for content in (
        {"architecture": "resnet50", "pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [1, 1, 2]}},
        {"mean": [0.5, 0.4, 0.3], "std": [1, 1, 2]},
    ):
        config.write_text(json.dumps(content))
        leaves = convert(path, "resnet50").leaves
        np.testing.assert_allclose(leaves["preprocessing/mean"], [127.5, 102, 76.5], rtol=1e-6)
        np.testing.assert_allclose(leaves["preprocessing/std"], [255, 255, 510], rtol=1e-6)
    config.write_text("{}")
    leaves = convert(path, "resnet50").leaves
    np.testing.assert_allclose(leaves["preprocessing/mean"], [123.675, 116.28, 103.53], rtol=1e-6)
    for text in ("{", "[]", '{"mean": [1, 2], "std": [1, 1, 1]}', '{"mean": [0, 0, 0]}',
                 '{"mean": [0, 0, 0], "std": [1, 1, 0]}', '{"mean": "a", "std": "b"}'):  # fmt: skip
        config.write_text(text)
        with pytest.raises(UserError, match=r"config\.json: expected three numbers as mean and"):
            read(path)


def hub(monkeypatch, folder, fetched):
    """A stand-in for huggingface_hub that has the files of a folder."""

    class EntryNotFoundError(Exception):
        pass

    class LocalEntryNotFoundError(EntryNotFoundError):
        pass

    def hf_hub_download(repo_id, filename):
        fetched.append((repo_id, filename))
        logging.getLogger("huggingface_hub.utils").warning("Retrying in 1s [Retry 1/5].")
        if repo_id.startswith("away/"):
            error = LocalEntryNotFoundError("Cannot find it.\nCheck your connection.")
            raise error from OSError("Name or service not known")
        if not (folder / filename).is_file():
            raise EntryNotFoundError(f"404 Client Error: {filename} not found.\n\nmore")
        return str(folder / filename)

    module, errors = types.ModuleType("huggingface_hub"), types.ModuleType("errors")
    module.hf_hub_download = hf_hub_download
    errors.EntryNotFoundError = EntryNotFoundError
    errors.LocalEntryNotFoundError = LocalEntryNotFoundError
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


def test_the_hub(tmp_path, monkeypatch):
    fetched = []
    hub(monkeypatch, tmp_path, fetched)
    write_safetensors(tmp_path / "model.safetensors", ARRAYS)
    raw = read("hf://owner/name")
    assert raw.source == "hf://owner/name"
    assert set(raw.arrays) == set(ARRAYS)
    (tmp_path / "sub").mkdir()
    writers.write_zip(tmp_path / "sub" / "x.bin", ARRAYS)
    assert set(read("hf://owner/name/sub/x.bin").arrays) == set(ARRAYS)
    assert fetched == [
        ("owner/name", "model.safetensors"),
        ("owner/name", "config.json"),
        ("owner/name", "sub/x.bin"),
        ("owner/name", "sub/config.json"),
    ]
    with pytest.raises(UserError) as caught:
        read("hf://owner/name/y.bin")
    assert str(caught.value) == "hf://owner/name/y.bin: 404 Client Error: y.bin not found."
    with pytest.raises(UserError, match="expected hf://owner/name"):
        read("hf://owner")


def test_a_hub_that_cannot_be_reached(tmp_path, monkeypatch, caplog):
    hub(monkeypatch, tmp_path, [])
    before = logging.getLogger("huggingface_hub").level
    with pytest.raises(UserError) as caught:
        read("hf://away/name")
    assert str(caught.value) == (
        "hf://away/name: the Hub cannot be reached, and model.safetensors is not in its local "
        "cache (Name or service not known)"
    )
    assert caplog.text == ""
    assert logging.getLogger("huggingface_hub").level == before


def test_without_the_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"install it with pip install 'jaxreid\[hf\]'"):
        read("hf://owner/name")
