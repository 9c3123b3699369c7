"""Weights of ONNX files. The real exporter's files are read in the same way: by these fields."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from jaxreid.errors import UserError
from jaxreid.pretrained import convert, read
from tests.pretrained import osnet_files, writers

ONE = np.ones((2, 1, 1, 1), np.float32)


def test_names_come_from_weights_and_from_places(tmp_path):
    nodes = [
        ("/conv1/conv/Conv", "Conv", {"onnx::Conv_1": ONE, "onnx::Conv_2": ONE[:, 0, 0, 0]}),
        ("/a/a.0/a.0.1/conv/Conv", "Conv", {"7": 2 * ONE}),
        ("/gate/fc1/Conv", "Conv", {"gate.fc1.weight": 3 * ONE}),
        ("/gate/fc1_1/Conv", "Conv", {"gate.fc1.weight": 3 * ONE}),
        ("/Gather", "Gather", {"/Constant": np.array([4])}),
        ("/half/Gemm", "Gemm", {"half.weight": np.ones((2, 3), np.float16)}),
    ]
    raw = read(writers.write_onnx(tmp_path / "x.onnx", nodes))
    assert raw.family == "torch"
    assert {name: array.ravel()[0] for name, array in raw.arrays.items()} == {
        "conv1.conv.weight": 1,
        "conv1.conv.bias": 1,
        "a.0.1.conv.weight": 2,
        "gate.fc1.weight": 3,
        "half.weight": 1,
    }
    assert {array.dtype for array in raw.arrays.values()} == {np.dtype("float32")}


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_of_the_package_onnx(tmp_path, packed):
    array = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    tensor = numpy_helper.from_array(array, "conv.weight")
    if packed:
        tensor = helper.make_tensor("conv.weight", TensorProto.FLOAT, (2, 3, 1, 1), array.ravel())
    node = helper.make_node("Conv", ["x", "conv.weight"], ["y"], name="/conv/Conv")
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([node], "g", sides[:1], sides[1:], [tensor])
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    np.testing.assert_array_equal(read(tmp_path / "x.onnx").arrays["conv.weight"], array)


def test_folded_norms_compute_the_same(tmp_path):
    state = osnet_files.arrays()
    path = osnet_files.write_onnx(tmp_path / "x.onnx", state)
    folded, plain = convert(path, "osnet_x0_25").leaves, osnet_files.arrays()
    plain = convert(writers.write_zip(tmp_path / "x.pth", state), "osnet_x0_25").leaves
    assert set(folded) == {name for name in plain if "classifier" not in name}
    rng = np.random.default_rng(0)
    for layer, name in (
        ("conv1", "conv1_norm"),
        ("conv3_0_stream2_1_conv2", "conv3_0_stream2_1_norm"),
        ("conv2_1_conv3", "conv2_1_conv3_norm"),
        ("pool2", "pool2_norm"),
    ):
        patch = rng.normal(size=plain[f"params/{layer}/kernel"].shape[:-1])
        values = []
        for leaves in (plain, folded):
            y = np.tensordot(patch, np.float64(leaves[f"params/{layer}/kernel"]), 3)
            y = (y - leaves[f"batch_stats/{name}/mean"]) / np.sqrt(
                leaves[f"batch_stats/{name}/var"] + 1e-5
            )
            values.append(y * leaves[f"params/{name}/scale"] + leaves[f"params/{name}/bias"])
        np.testing.assert_allclose(values[1], values[0], atol=1e-5)


def change(node=None, tensor=None):
    """A whole file, with one field changed."""
    from jaxreid.pretrained import onnxfile

    model = onnxfile.describe()()
    fields = {"name": "/conv/Conv", "op_type": "Conv", "input": ["x", "w"]} | (node or {})
    model.graph.node.add(**fields)
    weights = {"name": "w", "data_type": 1, "dims": [2, 1, 1, 1], "raw_data": ONE.tobytes()}
    model.graph.initializer.add(**weights | (tensor or {}))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no layer with weights"),
        (b"\x00" * 64, "damaged, or not weights"),
        (change()[:-3], "damaged, or not weights"),
        (change(tensor={"dims": [2, 2]}), "a tensor of 2 numbers has another shape: (2, 2)"),
        (change(tensor={"dims": [-1, -2]}), "another shape: (-1, -2)"),
        (change(tensor={"dims": [2**62, 2**62]}), "another shape"),
        (change(tensor={"dims": [1] * 70}), "another shape"),
        (change(tensor={"raw_data": b"\x00" * 7}), "damaged, or not weights"),
        (change(tensor={"data_location": 1}), "w is in another file"),
        (change(tensor={"data_type": 8}), "w is of type 8; expected floats"),
        (change(node={"input": []}), "no layer with weights"),
        (change(node={"op_type": "Relu"}), "no layer with weights"),
        # Field 7 within field 7, and so on.
        (b"".join(b"\x3a" + bytes([n]) for n in range(120, 0, -2)), "damaged, or not weights"),
    ],
)
def test_a_hostile_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_any_cut_and_any_flipped_byte_is_an_error_or_harmless(tmp_path):
    content, rng = change(), np.random.default_rng(0)
    path = tmp_path / "x.onnx"
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged[: rng.integers(1, len(content) + 1)])
        try:
            arrays = read(path).arrays
        except UserError:
            continue
        assert all(array.size <= 2 for array in arrays.values())


def test_a_nameless_place_is_an_unknown_name(tmp_path):
    """Older exporters give nodes no places: nothing can be known of their weights."""
    path = writers.write_onnx(tmp_path / "x.onnx", [("Conv_0", "Conv", {"591": ONE})])
    with pytest.raises(UserError, match=r"not weights of osnet_x0_25: 1 \(\.weight\)"):
        convert(path, "osnet_x0_25")
