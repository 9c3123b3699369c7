import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import layers
from jaxreid.checkpoint import Checkpoints
from jaxreid.errors import UserError
from jaxreid.pretrained import Raw, Weights, convert, install, load, rules, save
from jaxreid.pretrained.weights import PREFIXES
from jaxreid.types import TrainState


def renamed(published, arch, family="torch"):
    architecture = rules.ARCHITECTURES[arch]
    table = architecture.torch if family == "torch" else architecture.caffe
    return rules.rename(published, table)


@pytest.mark.parametrize(
    ("arch", "family", "names"),
    [
        (
            "densenet121",
            "torch",
            {
                "features.conv0": "conv0",
                "features.denseblock2.denselayer12.norm1": "block2_layer12_norm1",
                "features.denseblock2.denselayer12.norm.1": "block2_layer12_norm1",
                "features.denseblock4.denselayer3.conv.2": "block4_layer3_conv2",
                "features.transition1.norm": "transition1_norm",
                "features.norm5": "norm5",
                "features.norm6": None,
            },
        ),
        (
            "resnet50",
            "torch",
            {
                "bn1": "bn1",
                "layer3.5.bn3": "layer3_5_bn3",
                "layer2.0.downsample.0": "layer2_0_downsample_conv",
                "layer2.0.downsample.1": "layer2_0_downsample_bn",
                "fc": "classifier",
                "resnet.embedder.embedder.convolution": "conv1",
                "resnet.embedder.embedder.normalization": "bn1",
                "resnet.encoder.stages.0.layers.0.shortcut.convolution": "layer1_0_downsample_conv",
                "resnet.encoder.stages.2.layers.5.layer.0.normalization": "layer3_5_bn1",
                "encoder.stages.3.layers.1.layer.2.convolution": "layer4_1_conv3",
                "classifier.1": "classifier",
                "layer1.0.se_module.fc1": None,
            },
        ),
        (
            "se_resnet50",
            "torch",
            {
                "layer0.conv1": "conv1",
                "layer0.bn1": "bn1",
                "layer1.0.se_module.fc1": "layer1_0_se_fc1",
                "layer1.0.downsample.1": "layer1_0_downsample_bn",
                "last_linear": "classifier",
                # Another network, with its strides elsewhere.
                "layer1.0.se.fc1": None,
            },
        ),
        (
            "googlenet",
            "caffe",
            {
                "conv1/7x7_s2": "conv1",
                "conv2/3x3_reduce": "conv2_reduce",
                "conv2/3x3": "conv2",
                "inception_4d/5x5_reduce": "inception4d_5x5_reduce",
                "inception_5b/pool_proj": "inception5b_pool_proj",
                "loss1/conv": "aux1_conv",
                "loss2/fc": "aux2_fc",
                "loss2/classifier": "aux2_classifier",
                "loss3/classifier": "classifier",
            },
        ),
        (
            "googlenet_bn",
            "torch",
            {
                "conv2.conv": "conv2_reduce",
                "conv3.bn": "conv2_bn",
                "inception3a.branch1.conv": "inception3a_1x1",
                "inception3a.branch2.0.bn": "inception3a_3x3_reduce_bn",
                "inception5b.branch3.1.conv": "inception5b_5x5",
                "inception5b.branch4.1.bn": "inception5b_pool_proj_bn",
                "aux1.conv.bn": "aux1_conv_bn",
                "aux2.fc1": "aux2_fc",
                "aux2.fc2": "aux2_classifier",
                "fc": "classifier",
            },
        ),
        (
            "vgg16",
            "torch",
            {
                "features.0": "conv1_1",
                "features.14": "conv3_3",
                "features.28": "conv5_3",
                "features.1": None,
                "classifier.0": "fc6",
                "pre_logits.fc2": "fc7",
                "head.fc": "classifier",
            },
        ),
        (
            "osnet_x1_0",
            "torch",
            {
                "conv1.conv": "conv1",
                "conv1.bn": "conv1_norm",
                "conv2.0.conv1.conv": "conv2_0_conv1",
                "conv3.1.conv3.bn": "conv3_1_conv3_norm",
                "conv4.0.downsample.conv": "conv4_0_downsample",
                "conv2.0.conv2a.conv1": "conv2_0_stream1_0_conv1",
                "conv2.0.conv2d.3.bn": "conv2_0_stream4_3_norm",
                "conv3.0.conv2.1.layers.0.conv2": "conv3_0_stream2_0_conv2",  # OSNet-AIN
                "conv2.0.gate.fc1": "conv2_0_gate_fc1",
                "conv2.1.IN": "conv2_1_in",
                "conv3.2.0.conv": "pool3",
                "pool3.0.bn": "pool3_norm",
                "conv5.bn": "conv5_norm",
                "fc.0": "fc",
                "fc.1": "fc_norm",
                "classifier": "classifier",
                "conv2.0.conv2e.0.conv1": None,
                "fc.3": None,
            },
        ),
        ("vgg16", "caffe", {"conv5_3": "conv5_3", "fc7": "fc7", "fc8": "classifier"}),
        ("caffenet", "caffe", {"conv5": "conv5", "fc6": "fc6", "fc8": "classifier"}),
    ],
)
def test_names(arch, family, names):
    assert {name: renamed(name, arch, family) for name in names} == names


def convert_one(arch, name, array, family="torch"):
    """Our name and value of a single array."""
    leaves = convert(Raw("x", family, {name: array}), arch).leaves
    (ours,) = [leaf for leaf in leaves if not leaf.startswith("preprocessing")]
    assert leaves[ours].dtype == np.float32
    assert leaves[ours].flags.c_contiguous
    return ours, leaves[ours]


def test_axes():
    kernel = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    name, ours = convert_one("resnet50", "conv1.weight", kernel)
    assert name == "params/conv1/kernel"
    assert ours.shape == (4, 5, 3, 2)
    assert ours[3, 1, 2, 0] == kernel[0, 2, 3, 1]
    name, ours = convert_one("resnet50", "fc.weight", kernel[0, 0])
    assert name == "params/classifier/kernel"
    np.testing.assert_array_equal(ours, kernel[0, 0].T)
    vector = np.array([1.0, 2.0])
    for published, name in {
        "bn1.weight": "params/bn1/scale",
        "bn1.bias": "params/bn1/bias",
        "bn1.running_mean": "batch_stats/bn1/mean",
        "bn1.running_var": "batch_stats/bn1/var",
    }.items():
        got, ours = convert_one("resnet50", published, vector)
        assert got == name
        np.testing.assert_array_equal(ours, vector)


def test_squeeze_and_excitation_may_be_linear():
    weight = np.arange(6.0).reshape(2, 3)
    for array in (weight, weight[:, :, None, None]):
        name, ours = convert_one("se_resnet50", "layer1.0.se_module.fc1.weight", array)
        assert name == "params/layer1_0_se_fc1/kernel"
        np.testing.assert_array_equal(ours, weight.T[None, None])


@pytest.mark.parametrize(
    ("arch", "published", "size", "family"),
    [
        ("vgg16", "classifier.0", (512, 7, 7), "torch"),
        ("caffenet", "fc6", (256, 6, 6), "caffe"),
        ("googlenet", "loss1/fc", (128, 4, 4), "caffe"),
        ("googlenet_bn", "aux2.fc1", (128, 4, 4), "torch"),
    ],
)
def test_linear_layers_on_an_unrolled_map(arch, published, size, family):
    channels, height, width = size
    weight = np.arange(2 * channels * height * width, dtype=np.float64).reshape(2, -1)
    _, ours = convert_one(arch, f"{published}.weight", weight, family)
    for c, y, x in [(0, 0, 0), (1, 0, 0), (5, 2, 3), (channels - 1, height - 1, width - 1)]:
        row = (y * width + x) * channels + c
        np.testing.assert_array_equal(ours[row], weight[:, (c * height + y) * width + x])
    with pytest.raises(UserError, match=rf"{published}.weight is not of {arch}: cannot reshape"):
        convert_one(arch, f"{published}.weight", weight[:, 1:], family)


def test_timm_has_vggs_linear_layers_as_convolutions():
    weight = np.arange(2 * 512 * 49, dtype=np.float64).reshape(2, 512, 7, 7)
    _, as_convolution = convert_one("vgg16", "pre_logits.fc1.weight", weight)
    _, as_linear = convert_one("vgg16", "classifier.0.weight", weight.reshape(2, -1))
    np.testing.assert_array_equal(as_convolution, as_linear)
    _, ours = convert_one("vgg16", "pre_logits.fc2.weight", weight[:, :3, :1, :1])
    np.testing.assert_array_equal(ours, weight[:, :3, 0, 0].T)


def test_caffe_orders_the_channels_of_the_image_blue_green_red():
    kernel = np.arange(3.0).reshape(1, 3, 1, 1)
    for arch, name in {
        "caffenet": "conv1",
        "googlenet": "conv1/7x7_s2",
        "vgg16": "conv1_1",
    }.items():
        _, ours = convert_one(arch, f"{name}.weight", kernel, "caffe")
        np.testing.assert_array_equal(ours.ravel(), [2, 1, 0])
    _, ours = convert_one("vgg16", "features.0.weight", kernel)
    np.testing.assert_array_equal(ours.ravel(), [0, 1, 2])
    _, ours = convert_one("vgg16", "conv1_2.weight", kernel, "caffe")
    np.testing.assert_array_equal(ours.ravel(), [0, 1, 2])


@pytest.mark.parametrize(
    ("arch", "family", "mean", "std"),
    [
        ("resnet50", "torch", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("googlenet_bn", "torch", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("caffenet", "caffe", (123, 117, 104), (1, 1, 1)),
        ("googlenet", "caffe", (123, 117, 104), (1, 1, 1)),
        ("vgg16", "caffe", (123.68, 116.779, 103.939), (1, 1, 1)),
    ],
)
def test_preprocessing(arch, family, mean, std):
    leaves = convert(Raw("x", family, {}), arch).leaves
    np.testing.assert_allclose(leaves["preprocessing/mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(leaves["preprocessing/std"], std, rtol=1e-6)


def test_preprocessing_of_torchvisions_googlenet():
    """Its images are normalised by ImageNet's figures, and its `transform_input` follows."""
    image = np.linspace(0, 255, 12).reshape(4, 3)
    mean, std = np.array(rules.IMAGENET)
    normalised = (image / 255 - mean) / std
    transformed = normalised * (std / 0.5) + (mean - 0.5) / 0.5
    np.testing.assert_allclose((image - 127.5) / 127.5, transformed, atol=1e-12)


def test_models_start_from_the_same_preprocessing():
    np.testing.assert_allclose(np.array(rules.IMAGENET[0]) * 255, layers.IMAGENET_MEAN)
    np.testing.assert_allclose(np.array(rules.IMAGENET[1]) * 255, layers.IMAGENET_STD)


def test_prefixes_and_counters():
    arrays = {"module.bn1.bias": np.ones(2), "module.bn1.num_batches_tracked": np.array(3)}
    weights = convert(Raw("x", "torch", arrays), "resnet50")
    assert weights.dropped == ("bn1.num_batches_tracked",)
    assert set(weights.leaves) == {"params/bn1/bias", "preprocessing/mean", "preprocessing/std"}


@pytest.mark.parametrize("prefix", ["", *PREFIXES, "_orig_mod.module.", "module.model.backbone."])
@pytest.mark.parametrize(
    "heads",
    [
        (),
        ("heads.bottleneck.0.weight", "heads.weight", "pixel_mean", "pixel_std"),  # fast-reid
        ("bottleneck.weight", "classifier.weight"),  # reid-strong-baseline
    ],
)
def test_other_toolkits_names(prefix, heads):
    names = ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var")
    arrays = {f"{prefix}{name}": np.ones((1,) * (4 if "conv" in name else 1)) for name in names}
    arrays |= {name: np.ones((2, 2)) for name in heads if prefix}
    weights = convert(Raw("x", "torch", arrays), "resnet50")
    assert {name for name in weights.leaves if not name.startswith("preprocessing")} == {
        "params/conv1/kernel",
        *("params/bn1/scale", "params/bn1/bias", "batch_stats/bn1/mean", "batch_stats/bn1/var"),
    }
    assert weights.dropped == (heads if prefix else ())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("backbone", "first"), [("resnet50", "base.1"), ("se_resnet50", "base.layer0.bn1")]
)
def test_a_whole_release_is_known_where_its_backbone_is_asked_for(prefix, backbone, first):
    module = "attention_modules.attention_modules.0.dim_reduction.1"
    arrays = {f"{prefix}{name}.bias": np.ones(2) for name in (first, module, "classifier")}
    weights = convert(Raw("x", "torch", arrays), backbone)
    assert (weights.arch, weights.whole) == (f"cosam_{backbone}", True)
    names = {name for name in weights.leaves if name.startswith("params")}
    assert {"params/backbone/bn1/bias", "params/classifier/bias"} < names
    assert len(names) == 3
    alone = {f"{prefix}layer1.0.bn{i}.bias": np.ones(2) for i in (1, 2)}
    assert convert(Raw("x", "torch", alone), backbone).arch == backbone


def test_torchreids_classifier():
    arrays = {"bn1.bias": np.ones(2), "classifier.weight": np.ones((3, 2))}
    leaves = convert(Raw("x", "torch", arrays), "resnet50").leaves
    assert leaves["params/classifier/kernel"].shape == (2, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    raw = Raw("x.pth", "torch", {"bn1.bias": np.array([1.0, bad])})
    with pytest.raises(UserError, match=r"weights that are not finite: 1 \(params/bn1/bias"):
        convert(raw, "resnet50")


def test_what_is_not_known_is_named():
    raw = Raw("x.pth", "torch", {f"stage{i}.conv.weight": np.ones(1) for i in range(5)})
    with pytest.raises(UserError) as caught:
        convert(raw, "resnet50")
    names = "stage0.conv.weight, stage1.conv.weight, stage2.conv.weight"
    assert str(caught.value) == (
        f"x.pth: not weights of resnet50: 5 ({names} and 2 more) not known there"
    )
    with pytest.raises(UserError, match=r"arch=resnet5: expected densenet121, .*'resnet50'"):
        convert(raw, "resnet5")
    with pytest.raises(UserError, match="say with --arch which network this is: densenet121, "):
        convert(raw)
    with pytest.raises(UserError, match="there are no weights of caffenet in such files"):
        convert(raw, "caffenet")
    with pytest.raises(UserError, match=r"bn1\.gamma is not of resnet50: no layer has a gamma"):
        convert(raw._replace(arrays={"bn1.gamma": np.ones(1)}), "resnet50")
    with pytest.raises(UserError, match=r"conv1\.weight is not of resnet50: 3 axes; expected 1, 2"):
        convert(raw._replace(arrays={"conv1.weight": np.ones((1, 1, 1))}), "resnet50")


def tree(classes=3):
    """Variables of a small made-up model with a backbone."""
    return {
        "params": {
            "backbone": {
                "conv1": {"kernel": jnp.zeros((1, 1, 3, 2))},
                "classifier": {"kernel": jnp.zeros((2, classes)), "bias": jnp.zeros(classes)},
            },
            "classifier": {"kernel": jnp.ones((2, 5))},
        },
        "batch_stats": {"backbone": {"bn1": {"mean": jnp.zeros(2)}}},
        "preprocessing": {"backbone": {"mean": jnp.zeros(3), "std": jnp.ones(3)}},
    }


def weights(**changes):
    leaves = {
        "params/conv1/kernel": np.full((1, 1, 3, 2), 2.0, np.float32),
        "params/classifier/kernel": np.full((2, 3), 3.0, np.float32),
        "params/classifier/bias": np.full(3, 4.0, np.float32),
        "batch_stats/bn1/mean": np.full(2, 5.0, np.float32),
        "preprocessing/mean": np.full(3, 6.0, np.float32),
        "preprocessing/std": np.full(3, 7.0, np.float32),
    }
    leaves = {name: leaf for name, leaf in (leaves | changes).items() if leaf is not None}
    return Weights("x.pth", "resnet50", leaves)


def test_install():
    before = tree()
    variables, report = install(before, weights())
    backbone = variables["params"]["backbone"]
    np.testing.assert_array_equal(backbone["conv1"]["kernel"], np.full((1, 1, 3, 2), 2.0))
    np.testing.assert_array_equal(backbone["classifier"]["bias"], np.full(3, 4.0))
    np.testing.assert_array_equal(variables["params"]["classifier"]["kernel"], np.ones((2, 5)))
    np.testing.assert_array_equal(variables["batch_stats"]["backbone"]["bn1"]["mean"], [5, 5])
    np.testing.assert_array_equal(variables["preprocessing"]["backbone"]["std"], [7, 7, 7])
    assert jax.tree.structure(variables) == jax.tree.structure(before)
    assert float(before["params"]["backbone"]["conv1"]["kernel"].max()) == 0
    assert len(report.taken) == 6
    assert report.left_out == ()
    assert str(report) == "x.pth (resnet50): 6 arrays"


def test_install_looks_at_shapes_alone():
    shapes = jax.eval_shape(tree)
    variables, _ = install(shapes, weights())
    assert variables["params"]["backbone"]["classifier"]["bias"].tolist() == [4, 4, 4]
    assert variables["params"]["classifier"]["kernel"] == shapes["params"]["classifier"]["kernel"]


def test_a_classifier_of_another_size_is_left_out():
    variables, report = install(tree(classes=4), weights())
    assert float(variables["params"]["backbone"]["classifier"]["kernel"].max()) == 0
    assert report.left_out == (
        "params/backbone/classifier/bias ((3,), the model's is (4,))",
        "params/backbone/classifier/kernel ((2, 3), the model's is (2, 4))",
    )
    assert str(report).endswith(
        "4 arrays; left out by rule: 2"
        " (params/backbone/classifier/bias ((3,), the model's is (4,)),"
        " params/backbone/classifier/kernel ((2, 3), the model's is (2, 4)))"
    )


def test_a_classifier_that_the_model_lacks_is_left_out():
    model = tree()
    del model["params"]["backbone"]["classifier"]
    _, report = install(model, weights())
    assert report.left_out[0] == "params/backbone/classifier/bias (the model has none)"
    assert len(report.taken) == 4


def test_a_layer_is_left_out_as_a_whole():
    changed = weights(**{"params/classifier/kernel": np.ones((9, 3), np.float32)})
    variables, report = install(tree(), changed)
    assert float(variables["params"]["backbone"]["classifier"]["bias"].max()) == 0
    assert report.left_out[0] == "params/backbone/classifier/bias (with its layer)"


def test_all_that_does_not_fit_is_in_one_line():
    changed = weights(
        **{
            "params/conv1/kernel": np.ones((1, 1, 3, 9), np.float32),
            "params/conv2/kernel": np.ones(1, np.float32),
            "batch_stats/bn1/mean": None,
            "params/classifier/bias": None,
        }
    )
    with pytest.raises(UserError) as caught:
        install(tree(), changed)
    assert str(caught.value) == (
        "x.pth: weights of resnet50 do not fit the model:"
        " missing 2 (batch_stats/backbone/bn1/mean, params/backbone/classifier/bias);"
        " unexpected 1 (params/backbone/conv2/kernel);"
        " of another shape 1"
        " (params/backbone/conv1/kernel (1, 1, 3, 9), the model's is (1, 1, 3, 2))"
    )


@pytest.mark.parametrize(
    ("arch", "heads", "others"),
    [
        ("vgg16", ["fc6", "fc7", "classifier"], ["conv1_1"]),
        ("caffenet", ["fc6", "fc7", "classifier"], ["conv1"]),
        ("googlenet", ["aux1_conv", "aux2_fc", "aux1_classifier", "classifier"], ["conv2"]),
        ("googlenet_bn", ["aux1_conv_bn", "aux2_fc"], ["inception3a_1x1_bn"]),
        ("densenet121", ["classifier"], ["norm5", "fc6"]),
    ],
)
def test_heads(arch, heads, others):
    model = {"params": {"backbone": {"kept": {"bias": np.zeros(1)}}}}
    kept = {"params/kept/bias": np.ones(1, np.float32)}
    given = kept | {f"params/{head}/bias": np.ones(1, np.float32) for head in heads}
    _, report = install(model, Weights("x", arch, given))
    assert len(report.left_out) == len(heads)
    for other in others:
        with pytest.raises(UserError, match="unexpected 1"):
            install(model, Weights("x", arch, {**kept, f"params/{other}/bias": np.ones(1)}))


def test_save_and_load(tmp_path):
    path = tmp_path / "x.safetensors"
    save(weights(), path)
    again = load(path)
    assert again.arch == "resnet50"
    assert not again.whole
    assert again.leaves.keys() == weights().leaves.keys()
    for name, leaf in weights().leaves.items():
        np.testing.assert_array_equal(again.leaves[name], leaf)
    variables, _ = install(tree(), path, "resnet50")
    assert float(variables["params"]["backbone"]["conv1"]["kernel"][0, 0, 0, 0]) == 2
    with pytest.raises(UserError, match=r"x\.safetensors: weights of resnet50; expected vgg16"):
        install(tree(), path, "vgg16")
    with pytest.raises(UserError, match="cannot be written"):
        save(weights(), tmp_path / "none" / "x.safetensors")
    save(weights()._replace(whole=True, arch=None), path)
    assert load(path).whole
    assert load(path).arch is None


def test_a_run_gives_its_whole_network(tmp_path):
    made, _ = install(tree(classes=4), weights())
    params = made.pop("params")
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, TrainState(jnp.int32(3), params, made, {}))
    fresh = tree(classes=4)
    fresh["params"]["classifier"]["kernel"] = jnp.zeros((2, 7))
    variables, report = install(fresh, tmp_path, "resnet50")
    np.testing.assert_array_equal(variables["batch_stats"]["backbone"]["bn1"]["mean"], [5, 5])
    np.testing.assert_array_equal(variables["preprocessing"]["backbone"]["mean"], [6, 6, 6])
    assert report.left_out == ("params/classifier/kernel ((2, 5), the model's is (2, 7))",)
    with pytest.raises(UserError, match="no checkpoint there"):
        install(fresh, tmp_path / "checkpoints")
