from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import ResNet, resnet50, se_resnet50
from jaxreid.errors import UserError
from tests.backbones.tracing import count, drawn, run, trace


@pytest.mark.parametrize(
    ("make", "parameters", "with_classifier"),
    [(resnet50, 23_508_032, 25_557_032), (se_resnet50, 26_039_024, 28_088_024)],
)
@pytest.mark.parametrize(("last_stride", "last"), [(1, (16, 8, 2048)), (2, (8, 4, 2048))])
def test_the_networks_have_the_published_sizes(
    make, parameters, with_classifier, last_stride, last
):
    variables, out, maps = trace(make(last_stride, num_classes=1000), 256, 128)
    assert count(variables["params"]) == with_classifier
    assert count(variables["params"].pop("classifier")) == 1000 * 2048 + 1000
    assert count(variables["params"]) == parameters
    assert count(variables["batch_stats"]) == 2 * 26_560
    assert out.shape == (1, 1000)
    assert {name: m.shape[1:] for name, m in maps.items()} == {
        "stem": (64, 32, 64),
        "layer1": (64, 32, 256),
        "layer2": (32, 16, 512),
        "layer3": (16, 8, 1024),
        "layer4": last,
    }
    assert make(last_stride).num_classes == 0


def test_layers_have_the_names_that_weights_are_converted_to():
    variables, _, _ = trace(ResNet((2, 1), width=8, num_classes=5), 32, 32)
    block = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3"]
    projection = ["downsample_conv", "downsample_bn"]
    resnet = {
        *("conv1", "bn1", "classifier"),
        *(f"layer1_0_{x}" for x in block + projection),
        *(f"layer1_1_{x}" for x in block),
        *(f"layer2_0_{x}" for x in block + projection),
    }
    assert set(variables["params"]) == resnet
    assert set(variables["batch_stats"]) == {name for name in resnet if "bn" in name}
    assert set(variables["preprocessing"]) == {"mean", "std"}

    variables, _, _ = trace(ResNet((2, 1), width=8, se=True, num_classes=5), 32, 32)
    se = {f"{b}_se_fc{i}" for b in ("layer1_0", "layer1_1", "layer2_0") for i in (1, 2)}
    assert set(variables["params"]) == resnet | se
    # 4 * 8 channels, a sixteenth of them, and back.
    assert jax.tree.map(np.shape, variables["params"]["layer1_0_se_fc1"]) == {
        "kernel": (1, 1, 32, 2),
        "bias": (2,),
    }
    assert variables["params"]["layer1_0_se_fc2"]["kernel"].shape == (1, 1, 2, 32)


def test_the_two_networks_round_the_stem_differently():
    # 65 -> 33 after the convolution: padded windows are 17, Caffe's 16.
    _, out, maps = trace(ResNet((1, 1), width=8), 65, 33)
    assert [m.shape[1:3] for m in (maps["stem"], out)] == [(17, 9), (9, 5)]
    _, out, maps = trace(ResNet((1, 1), width=8, se=True), 65, 33)
    assert [m.shape[1:3] for m in (maps["stem"], out)] == [(16, 8), (8, 4)]


@pytest.fixture(scope="module", params=[False, True], ids=["resnet", "se_resnet"])
def small(request):
    network = ResNet((1, 1, 1), width=8, last_stride=1, se=request.param, num_classes=3)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 32, 3), dtype=np.uint8)
    return network, drawn(network, 64, 32), images


def test_images_are_normalised_by_the_preprocessing_of_the_weights(small):
    network, variables, images = small
    out, _ = run(network, variables, images)
    preprocessing = {
        "mean": 2 * variables["preprocessing"]["mean"] + 10,
        "std": 2 * variables["preprocessing"]["std"],
    }
    other = {**variables, "preprocessing": preprocessing}
    same, _ = run(network, other, 2 * images.astype(np.float32) + 10)
    np.testing.assert_allclose(same, out, atol=1e-4 * float(jnp.abs(out).max()))


def test_se_weighs_channels_by_a_gate():
    """With gates of zero nothing but the shortcut is left."""
    network = ResNet((1,), width=8, se=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    variables = drawn(network, 32, 32)
    shut = {"kernel": jnp.zeros((1, 1, 2, 32)), "bias": jnp.full(32, -100.0)}
    params = {**variables["params"], "layer1_0_se_fc2": shut}
    _, maps = run(network, {**variables, "params": params}, images)

    norm = {k: v["layer1_0_downsample_bn"] for k, v in variables.items() if k != "preprocessing"}
    kernel = variables["params"]["layer1_0_downsample_conv"]["kernel"][0, 0]
    shortcut = np.float64(maps["stem"]) @ kernel - norm["batch_stats"]["mean"]
    shortcut = shortcut / np.sqrt(norm["batch_stats"]["var"] + 1e-5) * norm["params"]["scale"]
    want = np.maximum(shortcut + norm["params"]["bias"], 0)
    np.testing.assert_allclose(maps["layer1"], want, atol=1e-5 * want.max())
    _, maps = run(network, variables, images)
    assert np.abs(maps["layer1"] - want).max() > 0.01 * want.max()


def halve(name, x):
    return x / 2 if name == "layer2" else x


@partial(jax.jit, static_argnames="network")
def run_halved(network, variables, images):
    return network.apply(variables, images, train=False, between=halve)


def test_what_between_returns_goes_on(small):
    network, variables, images = small
    seen = {}

    def look(name, x):
        seen[name] = x.shape
        return x

    def forward(variables, images):
        return network.apply(variables, images, train=False, between=look)

    _, shapes = jax.eval_shape(forward, variables, images)
    assert list(seen) == ["stem", "layer1", "layer2", "layer3"]
    assert seen == {name: x.shape for name, x in shapes.items()}

    out, plain = run(network, variables, images)
    halved_out, halved = run_halved(network, variables, images)
    np.testing.assert_allclose(halved["layer1"], plain["layer1"], rtol=1e-5)
    np.testing.assert_allclose(halved["layer2"], plain["layer2"] / 2, rtol=1e-5)
    assert np.abs(halved["layer3"] - plain["layer3"]).max() > 0.01 * plain["layer3"].max()
    assert (halved_out != out).all()


class Wrapped(nn.Module):
    """Uses a layer of its own between the stages of the backbone."""

    @nn.compact
    def __call__(self, images):
        scale = nn.Conv(16, (1, 1), name="scale")
        backbone = ResNet((1, 1), width=4, name="backbone")
        return backbone(
            images, train=False, between=lambda name, x: scale(x) if name == "layer1" else x
        )[0]


def test_a_module_between_stages_belongs_to_its_maker():
    params = jax.eval_shape(Wrapped().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert set(params) == {"scale", "backbone"}
    assert "scale" not in params["backbone"]


@partial(jax.jit, static_argnames=("network", "train"))
def statistics(network, variables, images, train):
    _, state = network.apply(variables, images, train=train, mutable=["batch_stats"])
    return state["batch_stats"]


def test_statistics_change_in_training_alone(small):
    network, variables, images = small
    before = variables["batch_stats"]
    after = statistics(network, variables, images, train=True)
    assert set(after) == set(before)
    for name in before:
        assert (after[name]["mean"] != before[name]["mean"]).any(), name
        assert (after[name]["var"] != before[name]["var"]).any(), name
    after = statistics(network, variables, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_half_precision_keeps_parameters_and_logits_in_full(small):
    network, variables, images = small
    half = network.clone(dtype=jnp.bfloat16)
    traced, _, _ = trace(half, 64, 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(traced)} == {jnp.dtype("float32")}
    out, maps = run(half, variables, images)
    assert {m.dtype for m in maps.values()} == {jnp.dtype("bfloat16")}
    assert out.dtype == jnp.float32
    full, _ = run(network, variables, images)
    np.testing.assert_allclose(out, full, atol=0.05 * float(jnp.abs(full).max()))


def test_small_images_are_one_clear_line():
    with pytest.raises(UserError, match=r"^resnet: images of 31 x 64 are too small; expected 32"):
        trace(resnet50(), 31, 64)
    with pytest.raises(
        UserError, match=r"^se_resnet: images of 64 x 15 are too small; expected 16"
    ):
        trace(se_resnet50(last_stride=1), 64, 15)
    _, out, maps = trace(ResNet((1, 1, 1, 1), width=8, se=True, last_stride=1), 16, 16)
    assert out.shape == maps["layer4"].shape == (1, 1, 1, 256)


def test_half_of_the_channels_are_normalised_per_image():
    """ResNet-IBN-a: behind the first convolution of each bottleneck but the last stage's."""
    network = ResNet((1, 1), width=8, ibn=True)
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    variables = drawn(network, 32, 32)
    params, stats = variables["params"], variables["batch_stats"]
    assert "layer1_0_bn1_in" in params
    assert "layer2_0_bn1_in" not in params
    _, state = network.apply(
        variables, images, train=False, capture_intermediates=True, mutable=["intermediates"]
    )
    seen = {
        name: value["__call__"][0]
        for name, value in state["intermediates"].items()
        if "_" in name and "__call__" in value
    }
    y = np.float64(seen["layer1_0_conv1"])
    alone, together = y[..., :4], y[..., 4:]
    mean, var = alone.mean(axis=(1, 2), keepdims=True), alone.var(axis=(1, 2), keepdims=True)
    layer = params["layer1_0_bn1_in"]
    want = (alone - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["bias"]
    np.testing.assert_allclose(seen["layer1_0_bn1_in"], want, atol=1e-4)
    layer, kept = params["layer1_0_bn1"], stats["layer1_0_bn1"]
    want = (together - kept["mean"]) / np.sqrt(kept["var"] + 1e-5) * layer["scale"] + layer["bias"]
    np.testing.assert_allclose(seen["layer1_0_bn1"], want, atol=1e-4)


def test_what_stands_behind_every_bottleneck():
    seen = []

    def look(name, x):
        seen.append(name)
        return x

    trace_with(ResNet((2, 1), width=8), behind=look, between=look)
    assert seen == ["stem", "layer1_0", "layer1_1", "layer1", "layer2_0", "layer2"]


def trace_with(network, **hooks):
    images = jnp.zeros((1, 32, 32, 3))
    jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False, **hooks), images)
