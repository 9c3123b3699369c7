"""Exported networks, and the scripts that run them without the package."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxreid import export, onnx_export, onnx_graph, onnx_int8, sharding, tflite_export
from jaxreid.config import Config, Data
from jaxreid.data.sources import open_source
from jaxreid.errors import UserError
from jaxreid.evaluate import make_evaluator
from jaxreid.trained import Trained, load
from jaxreid.types import Batch
from tests.networks import CLIPS, MODELS, SIZES
from tests.ops.test_boxes import standing
from tests.search.conftest import make_run

SLOW = ("siamese", "attention-driven", "cosam", "bot", "agw", "vit-clip")
# One of each: features, distances and their shapes differ no further.
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] * name.startswith(SLOW))
    for name in (
        *("duatm", "duatm-gru", "cosam", "jst-rnn", "siamese-attention", "attention-driven"),
        *("bot", "agw", "vit", "vit-clip"),
    )
]


def network(name, dtype="float32"):
    """A tiny network of a method with random weights, and five items for it."""
    height, width = SIZES.get(name, (64, 32))
    joints = "joints.npz" if name == "attention-driven" else None
    data = Data(image_size=(height, width), clip_length=2 if name in CLIPS else None, joints=joints)
    config = Config(model=MODELS[name], data=data)
    rng = np.random.default_rng(0)
    clip = (2,) if name in CLIPS else ()
    # Smooth: a crop's edge that is rounded in another way is then not seen.
    waves = np.add.outer(np.arange(height), np.arange(width))[..., None] / 20
    images = 127 + 100 * np.sin(waves + rng.uniform(0, 6, (5, *clip, 1, 1, 3)))
    batch = Batch(
        images.astype(np.uint8),
        np.zeros(5, np.int32),
        np.zeros(5, np.int32),
        np.arange(10).reshape(5, 2) != 3 if clip else None,
        np.tile(standing() * [50, 50, 1] + [16, 60, 0], (5, 1, 1)).astype(np.float32)
        if joints
        else None,
    )
    model = config.model.make(4, dtype=dtype)
    variables = jax.device_get(jax.jit(model.init)(jax.random.key(0), batch))
    one = jax.tree.map(lambda x: x[:1], batch)
    found = jax.eval_shape(model.features, variables, one)
    return Trained(config, model, variables, found), batch


def arrays(batch, items):
    return [x[items] for x in (batch.images, batch.mask, batch.joints) if x is not None]


def again(exported):
    """After a way through bytes."""
    return jax.export.deserialize(exported.serialize())


def assert_close(a, b, tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance), a, b
    )


@pytest.mark.parametrize("name", NAMES)
def test_features_and_distances_are_the_packages_own(name):
    net, batch = network(name)
    run = jax.jit(net.model.features)
    own = jax.device_get(run(net.variables, batch))
    exported, about = export.export_features(net)
    call = again(exported).call
    for items in (slice(0, 5), slice(3, 4)):  # of any size
        want = export.by_name(jax.tree.map(lambda x, items=items: x[items], own))
        assert_close(call(*arrays(batch, items)), want, 1e-5)
    shapes = about["outputs"] if isinstance(want, dict) else {"": about["outputs"]}
    for array, said in zip(jax.tree.leaves(want), shapes.values(), strict=True):
        assert said == {"shape": ["b", *array.shape[1:]], "dtype": "float32"}
    assert list(about["inputs"]) == [
        "images",
        *["mask"] * (name in CLIPS),
        *["joints"] * (name == "attention-driven"),
    ]
    assert about["inputs"]["images"]["shape"] == ["b", *batch.images.shape[1:]]

    exported, about = export.export_distance(net)
    assert about["outputs"]["shape"] == ["q", "g"]
    queries, gallery = (jax.tree.map(lambda x, s=s: x[s], own) for s in (slice(2), slice(2, 5)))
    want = jax.jit(net.model.distance)(net.variables, queries, gallery)
    assert want.shape == (2, 3)
    got = again(exported).call(export.by_name(queries), export.by_name(gallery))
    assert_close(got, want, 1e-5)


@pytest.mark.parametrize("number", [1, 16, 17, 40])
def test_dual_attention_with_any_number_of_gallery_items(number):
    """The exported form takes 16 at a time, whatever their number."""
    net, _ = network("duatm")
    rng = np.random.default_rng(1)
    some = rng.normal(size=(3, number, 2, 16)).astype(np.float32)
    some /= np.linalg.norm(some, axis=-1, keepdims=True)
    gallery = type(net.features)(*some)
    queries = type(net.features)(*some[:, ::-1][:, :3] * np.float32(0.9))
    exported, _ = export.export_distance(net._replace(features=jax.eval_shape(lambda: gallery)))
    want = jax.jit(net.model.distance)(net.variables, queries, gallery)
    got = exported.call(export.by_name(queries), export.by_name(gallery))
    assert got.shape == (min(3, number), number)
    assert_close(got, want, 1e-5)


@pytest.fixture(scope="module")
def photo_run(market, tmp_path_factory):
    data = Data(name="synthetic", root=str(market), source="memory", image_size=(64, 32), num_ids=4)
    return make_run(tmp_path_factory.mktemp("run"), Config(model=MODELS["duatm"], data=data))


def run_script(script, *photos, cwd):
    """Runs a script in a process that cannot import the package."""
    blocked = "import sys; sys.modules['jaxreid'] = None\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", blocked + script, *map(str, photos)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(3)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    held = Image.Exif()
    for path, height in zip(paths, (64, 80, 200)):
        pixels = rng.integers(0, 255, (height, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, exif=held)
        held[0x0112] = 6  # All but the first were taken sideways.
    return paths


def test_the_command_and_the_script_that_it_prints(photo_run, photos, tmp_path, capsys):
    out = tmp_path / "net.stablehlo"
    assert export.main([f"--workdir={photo_run}", f"--out={out}", "--distance"]) == 0
    said = capsys.readouterr().out
    assert re.match(rf"written: {out} \(0\.\d+ MB\), described in {tmp_path / 'net.json'}\n", said)
    about = json.loads((tmp_path / "net.json").read_text())
    assert about["platforms"] == ["cpu", "cuda"]
    assert about["dtype"] == "float32"
    assert about["config"]["model"]["dim"] == 16
    assert about["features"]["inputs"]["images"]["shape"] == ["b", 64, 32, 3]
    assert about["features"]["outputs"]["x"] == {"shape": ["b", 2, 16], "dtype": "float32"}
    assert about["distance"]["file"] == "net.distance.stablehlo"

    script = said.split("\n\n", 1)[1]
    assert len(script.splitlines()) <= 12
    # The same script, and what it found, to a file.
    script += "np.savez('found.npz', **features)\n"
    script += (
        "far = bytearray((folder / 'net.distance.stablehlo').read_bytes())\n"
        "np.save('far.npy', jax.export.deserialize(far).call(features, features))\n"
    )
    ended = run_script(script, *photos, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "{'filters': (3, 2, 16), 'refined': (3, 2, 16), 'x': (3, 2, 16)}\n"

    net = load(photo_run)
    upright = [ImageOps.exif_transpose(Image.open(path)) for path in photos]
    resized = [image.resize((32, 64), Image.Resampling.BILINEAR) for image in upright]
    batch = Batch(np.stack(resized), np.zeros(3, int), np.zeros(3, int))
    want = jax.jit(net.model.features)(net.variables, batch)
    with np.load(tmp_path / "found.npz") as found:
        assert_close(dict(found), jax.device_get(want._asdict()), 1e-5)
    apart = ~np.eye(3, dtype=bool)  # The distance to itself is a difference that cancels.
    far = np.asarray(net.model.distance(net.variables, want, want))
    np.testing.assert_allclose(np.load(tmp_path / "far.npy")[apart], far[apart], atol=1e-5)
    assert "jaxreid" in run_script("import jaxreid", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    "name", ["jst-rnn-diff", pytest.param("attention-driven", marks=pytest.mark.slow)]
)
def test_the_scripts_for_clips_and_for_joints(name, photos, tmp_path):
    net, _ = network(name)
    exported, about = export.export_features(net)
    (tmp_path / "a.stablehlo").write_bytes(exported.serialize())
    (tmp_path / "a.json").write_text(json.dumps({"features": {"file": "a.stablehlo"} | about}))
    ended = run_script(export.loading_script(tmp_path / "a.json"), *photos, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    expected = {"jst-rnn-diff": "{'maps': (1, 2, 2, 2, 8)}", "attention-driven": "(3, 192)"}
    assert ended.stdout.strip() == expected[name]


def test_half_precision(photo_run, tmp_path):
    whole = export.write(photo_run, tmp_path / "whole.stablehlo", platforms=["cpu"])
    half = export.write(photo_run, tmp_path / "half.stablehlo", dtype="bfloat16", platforms=["cpu"])
    assert json.loads(half.read_text())["dtype"] == "bfloat16"
    rng = np.random.default_rng(2)
    images = rng.integers(0, 255, (4, 64, 32, 3), dtype=np.uint8)
    found = {
        path.stem: jax.export.deserialize(
            bytearray(path.with_suffix(".stablehlo").read_bytes())
        ).call(images)
        for path in (whole, half)
    }
    net = load(photo_run)
    model = net.config.model.make(10, dtype="bfloat16")
    batch = Batch(images, np.zeros(4, int), np.zeros(4, int))
    own = jax.jit(model.features)(net.variables, batch)
    assert_close(found["half"], jax.device_get(own._asdict()), 1e-2)
    assert not np.array_equal(found["half"]["x"], found["whole"]["x"])


def test_kernels_in_half_precision_take_half_the_room():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, 64)).astype(np.float32)
    variables = {"params": {"kernel": kernel, "bias": kernel[0]}, "batch_stats": {"mean": kernel}}
    half = export.with_half_kernels(variables)
    assert half["params"]["kernel"].nbytes == kernel.nbytes // 2
    assert half["params"]["bias"].dtype == np.float32
    assert half["batch_stats"]["mean"].dtype == np.float32
    assert variables["params"]["kernel"].dtype == np.float32


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(SLOW)) for name in MODELS],
)
def test_onnx_is_jax_at_any_batch_and_so_is_the_distance_of_pairs(name):
    net, batch = network(name)
    rng = np.random.default_rng(4)
    many = [np.resize(x, (64, *x.shape[1:])) for x in arrays(batch, slice(None))]
    noise = rng.normal(0, 10, many[0].shape)
    many[0] = np.clip(many[0] + noise, 0, 255).astype(np.uint8)
    function, inputs, _ = export.feature_function(net, 64)
    found = jax.device_get(jax.jit(function)(*many))
    names = onnx_export.output_names(net)
    want = found if isinstance(found, dict) else {"features": found}
    model = onnx_export.features_model(net)
    assert [o.name for o in model.graph.output] == names
    for number in (1, 7, 64):
        given = {k: x[:number] for k, x in zip(inputs, many)}
        assert_close(onnx_export.run(model, given), {k: x[:number] for k, x in want.items()}, 1e-5)

    if not name.startswith(("duatm", "jst-rnn")):
        return
    # Not the queries' own pictures: the distance to nearly the same is a difference that cancels.
    parts = {"query": [0, 1, 2], "gallery": [3, 4, 8, 9]}
    sides = {f"{side}_{k}": want[k][part] for side, part in parts.items() for k in names}
    tree = jax.tree.structure(net.features)
    both = (tree.unflatten([want[k][part] for k in names]) for part in parts.values())
    far = jax.jit(net.model.distance)(net.variables, *both)
    got = onnx_export.run(onnx_export.distance_model(net), sides)["distance"]
    np.testing.assert_allclose(got, far, atol=1e-5)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("normalised", ["within", "outside", "unit"])
@pytest.mark.parametrize("name", ["duatm", "jst-rnn"])
def test_onnx_as_its_consumers_feed_it(name, layout, normalised):
    net, batch = network(name)
    options = {"layout": layout, "normalised": normalised}
    model = onnx_export.features_model(net, **options)
    taken = onnx_export.as_taken(batch.images, net.variables, **options)
    assert taken.shape[-3:] == (
        (3, *SIZES.get(name, (64, 32))) if layout == "nchw" else (*SIZES.get(name, (64, 32)), 3)
    )
    assert taken.dtype == (np.uint8 if normalised == "within" else np.float32)
    want = jax.device_get(jax.jit(net.model.features)(net.variables, batch))
    assert_close(onnx_export.run(model, {"images": taken}), export.by_name(want), 1e-5)


def test_the_command_writes_onnx_that_says_what_it_takes(photo_run, tmp_path, capsys):
    out = tmp_path / "net.onnx"
    flags = [f"--workdir={photo_run}", f"--out={out}", "--format=onnx"]
    assert export.main([*flags, "--distance", "--layout=nchw", "--normalised=outside"]) == 0
    said = capsys.readouterr().out.splitlines()
    for line, file in zip(said, (out, tmp_path / "net.distance.onnx"), strict=True):
        size, largest = re.fullmatch(
            rf"written: {file} \((\S+) MB\); largest difference from JAX: (\S+)", line
        ).groups()
        assert float(size) == pytest.approx(file.stat().st_size / 1e6, rel=0.01)
        assert float(largest) < 1e-5
    held = {each.key: each.value for each in onnx_export.onnx.load(out).metadata_props}
    assert (held["height"], held["width"], held["pixel_order"]) == ("64", "32", "RGB")
    assert (held["layout"], held["normalised"]) == ("nchw", "outside")
    assert json.loads(held["mean"]) == pytest.approx([123.675, 116.28, 103.53], rel=1e-5)
    assert held["distance"] == "own"
    assert "root" not in json.loads(held["config"])["data"]

    half = tmp_path / "half.onnx"
    assert export.main([*flags[::2], f"--out={half}", "--dtype=float16"]) == 0
    largest = float(capsys.readouterr().out.split()[-1])
    assert 0 < largest < 1e-2
    assert half.stat().st_size < out.stat().st_size


def test_onnx_names_the_operation_that_it_does_not_know():
    vector = {"x": jax.ShapeDtypeStruct((3,), np.float32)}
    with pytest.raises(UserError, match="operation 'sort', which has no form"):
        onnx_graph.to_model(lambda x: (jax.numpy.sort(x),), vector, ["y"], {})


def test_onnx_that_differs_is_not_written(tmp_path, monkeypatch):
    net, _ = network("duatm")
    monkeypatch.setitem(onnx_graph._BINARY, "sub", "Add")
    with pytest.raises(UserError, match=r"not written: in ONNX Runtime, '\w+' is"):
        list(onnx_export.write(net, tmp_path / "a.onnx"))
    assert not list(tmp_path.iterdir())


def test_without_the_extra_one_line_says_what_to_install(photo_run, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "jaxreid.onnx_export")
    monkeypatch.delattr("jaxreid.onnx_export")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    flags = [f"--workdir={photo_run}", "--out=a.onnx", "--format=onnx"]
    assert export.main(flags) == 2
    assert "install the extra 'onnx' (pip install 'jaxreid[onnx]')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workdir=nowhere"], "nowhere/checkpoints: no checkpoint there"),
        (["--workdir={run}", "--out=a.json"], "--out=a.json: that is the name of the description"),
        (
            ["--workdir={run}", "--out=a.onnx"],
            "--out=a.onnx: what is written is StableHLO; expected",
        ),
        (["--workdir={run}", "--out={run}/config.hlo"], "would be a run's config.json; expected"),
        (["--workdir={run}", "--platforms=cpu,cudo"], "knows no 'cudo'; did you mean 'cuda'?"),
        (["--workdir={run}", "--out=/nowhere/a.hlo"], "--out=/nowhere/a.hlo: cannot write there"),
        (
            ["--workdir={run}", "--out=a.hlo", "--format=onnx"],
            "--out=a.hlo: expected a name that ends with .onnx for --format=onnx",
        ),
        (
            ["--workdir={run}", "--format=onnx", "--dtype=bfloat16"],
            "--dtype=bfloat16: for --format=onnx, expected one of float32, float16, int8",
        ),
        (
            ["--workdir={run}", "--format=tflite", "--normalised=unit"],
            "--normalised=unit: for --format=tflite, expected no such flag",
        ),
        (
            ["--workdir={run}", "--layout=nchw"],
            "--layout=nchw: for --format=stablehlo, expected no such flag",
        ),
        (["--workdir={run}", "--step=7"], "no checkpoint of step 7; there are 0"),
    ],
)
def test_what_is_wrong_is_one_line(photo_run, arguments, words, capsys):
    assert export.main([argument.format(run=photo_run) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("jaxreid: error: ")
    assert said.count("\n") == 1


@pytest.fixture(scope="module")
def vector_run(market, tmp_path_factory):
    data = Data(name="synthetic", root=str(market), source="memory", image_size=(64, 32), num_ids=4)
    config = Config(model=MODELS["duatm-average"], data=data)
    return make_run(tmp_path_factory.mktemp("run"), config)


def test_int8_is_scored_beside_float32(vector_run, tmp_path, capsys):
    out = tmp_path / "small.onnx"
    flags = [f"--workdir={vector_run}", f"--out={out}", "--format=onnx", "--layout=nchw"]
    assert export.main([*flags, "--precision=int8", "--normalised=unit"]) == 0
    first, *said = capsys.readouterr().out.splitlines()
    assert first.startswith(f"written: {out}; on the run's test set")
    form = r"(\w+): (\S+) MB, rank-1 (\S+)%, mAP (\S+)%"
    (whole, *of_whole), (small, size, *of_small) = (re.fullmatch(form, x).groups() for x in said)
    assert (whole, small) == ("float32", "int8")
    assert float(size) == pytest.approx(out.stat().st_size / 1e6, rel=0.01)
    net = load(vector_run)
    source = open_source(net.config.data)
    evaluate = make_evaluator(net.config, net.model, source, sharding.make_mesh(jax.devices()[:1]))
    own = evaluate(net.variables).scores
    assert float(of_whole[1]) == pytest.approx(100 * own["rank1"], abs=0.01)
    assert float(of_whole[2]) == pytest.approx(100 * own["mAP"], abs=0.01)
    assert float(of_small[1]) == pytest.approx(float(of_whole[2]), abs=5)

    model = onnx_export.onnx.load(out)
    assert {each.key: each.value for each in model.metadata_props}["dtype"] == "int8"
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {made_by[name] for node in convolutions for name in node.input} == {"DequantizeLinear"}
    (images,) = source.images("query", [np.arange(7)], (64, 32))
    taken = onnx_export.as_taken(images, net.variables, "nchw", "unit")
    found = onnx_export.run(model, {"images": taken})["features"]
    given = Batch(images, np.zeros(7, int), np.zeros(7, int))
    want = np.asarray(jax.jit(net.model.features)(net.variables, given))
    cosine = (found * want).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(want, axis=1)
    assert cosine.min() > 0.99

    assert export.main([*flags, "--dtype=int8", "--distance"]) == 2
    assert "--distance: computed in float32" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["osnet", "jst-rnn"])
def test_int8_is_near_float32(name):
    """Of biases with two axes, which the quantiser does not take, and of a recurrence."""
    net, batch = network(name)
    _, inputs, _ = export.feature_function(net, 5)
    given = dict(zip(inputs, arrays(batch, slice(None))))
    model = onnx_export.features_model(net)
    small = onnx_int8.quantised(model, iter([given]))
    want, found = (onnx_export.run(each, given) for each in (model, small))
    for key, array in want.items():
        assert 0 < np.abs(found[key] - array).max() < 0.05 * np.abs(array).max()


@pytest.mark.parametrize("name", ["osnet", pytest.param("agw", marks=pytest.mark.slow)])
def test_tflite_is_jax(name, tmp_path):
    net, batch = network(name)
    out = tmp_path / "net.tflite"
    assert tflite_export.write(net, out) < 1e-5
    found = tflite_export.run(out.read_bytes(), batch.images[2:3])
    want = jax.jit(net.model.features)(net.variables, jax.tree.map(lambda x: x[2:3], batch))
    assert_close(found, np.asarray(want), 1e-5)


def test_tflite_is_not_written_where_it_cannot_be(tmp_path, monkeypatch):
    out = tmp_path / "net.tflite"
    with pytest.raises(UserError, match="for networks of images whose features are one vector"):
        tflite_export.write(network("duatm")[0], out)
    with pytest.raises(UserError, match=r"does not convert it \('tfl.batch_matmul' op"):
        tflite_export.write(network("duatm-average")[0], out)
    monkeypatch.setattr(tflite_export, "run", lambda *_: np.zeros((1, 128), np.float32))
    monkeypatch.setattr(tflite_export, "converted", lambda *_: b"")
    with pytest.raises(UserError, match="not written: in TFLite, the features are"):
        tflite_export.write(network("bot")[0], out)
    assert not list(tmp_path.iterdir())


def test_tflite_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite_export.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"need the package tensorflow; install the extra 'data'"):
        tflite_export.write(network("osnet")[0], tmp_path / "net.tflite")
