"""Files with fast-reid's and reid-strong-baseline's names, made of a network of ours."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from jaxreid.errors import UserError
from jaxreid.models import bot, cosam
from jaxreid.pretrained import convert, install, save
from jaxreid.pretrained.sources import flatten
from tests.models.test_bot import TINY, four
from tests.pretrained.writers import write_zip

AGW = dataclasses.replace(
    TINY, backbone="resnet50_ibn_a", pooling="gem", non_local=(0, 1, 1, 0), triplet="weighted"
)
HEADS = {
    "fast-reid": ("backbone", "heads.bottleneck.0", "heads", "heads.pool_layer"),
    "fast-reid, earlier": ("backbone", "heads.bottleneck", "heads.classifier", "heads.pool_layer"),
    "fast-reid, first": ("backbone", "heads.bnneck", "heads.classifier", "heads.pool_layer"),
    "reid-strong-baseline": ("base", "bottleneck", "classifier", "global_pool"),
}
LEAVES = {"mean": "running_mean", "var": "running_var", "kernel": "weight", "scale": "weight"}


def published(variables, below, neck, classifier, pool):
    """A network's arrays by the names and with the axes of a release."""
    arrays = {}
    for name, leaf in flatten(variables).items():
        collection, *layers, last = name.split("/")
        array = np.array(leaf)
        if collection == "preprocessing" or "classifier_centres" in layers:
            continue
        layer = ".".join(layers).removeprefix("backbone.")
        layer = re.sub(r"^(layer\d)_(\d)_(\w+)$", r"\1.\2.\3", layer)
        layer = layer.replace("downsample_conv", "downsample.0")
        layer = layer.replace("downsample_bn", "downsample.1")
        if f"{name.rpartition('/')[0]}_in/scale" in flatten(variables) or layer.endswith("_in"):
            layer = layer.replace("bn1_in", "bn1.IN") if "_in" in layer else f"{layer}.BN"
        elif collection == "batch_stats" and f"params/{'/'.join(layers)}_in/scale" in flatten(
            variables
        ):
            layer = f"{layer}.BN"
        layer = re.sub(r"^non_local(\d)_(\d)\.", r"NL_\1.\2.", layer)
        layer = re.sub(r"\.out$", ".W.0", layer)
        layer = re.sub(r"\.out_bn$", ".W.1", layer)
        of_head = {"bottleneck": neck, "classifier": classifier, "pool": pool}
        layer = of_head.get(layer, f"{below}.{layer}")
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:
            array = array.T[:, :, None, None] if "NL_" in layer else array.T
        arrays[f"{layer}.{LEAVES.get(last, last)}"] = np.ascontiguousarray(array, np.float32)
    arrays[f"{neck}.bias"] = np.zeros_like(arrays[f"{neck}.weight"])
    return arrays


@pytest.fixture(scope="module", params=["bot", "agw"])
def made(request):
    """(the config, its variables with drawn values, and their shapes)."""
    config = {"bot": TINY, "agw": AGW}[request.param]
    start = jax.eval_shape(config.make(5).init, jax.random.key(0), four())
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: np.float32(rng.uniform(0.1, 1, leaf.shape)), start)
    return config, drawn, start


@pytest.mark.parametrize("release", HEADS)
def test_a_release_is_read(made, release, tmp_path):
    config, variables, start = made
    arrays = published(variables, *HEADS[release])
    assert f"{HEADS[release][0]}.layer1.0.conv1.weight" in arrays
    if release.startswith("fast-reid"):
        arrays["pixel_mean"] = np.float32([120, 110, 100]).reshape(1, 3, 1, 1)
        arrays["pixel_std"] = np.float32([60, 61, 62]).reshape(1, 3, 1, 1)
    path = write_zip(tmp_path / "model.pth", arrays, "model")
    got, report = install(start, path, config.arch)
    assert [entry.split()[0] for entry in report.left_out] == [
        "batch_stats/classifier_centres/mean"
    ]
    for name, leaf in flatten(got).items():
        if "classifier_centres" in name:
            continue
        if name.startswith("preprocessing"):
            if release.startswith("fast-reid"):
                want = {"mean": [120, 110, 100], "std": [60, 61, 62]}[name.rpartition("/")[2]]
                np.testing.assert_array_equal(leaf, want)
        else:
            np.testing.assert_array_equal(leaf, flatten(variables)[name], err_msg=name)
    # Of other persons: the classifier is left out, and what is around it stays.
    other = jax.eval_shape(config.make(6).init, jax.random.key(0), four())
    _, report = install(other, path, config.arch)
    assert {entry.split()[0] for entry in report.left_out} == {
        "batch_stats/classifier_centres/mean",
        "params/classifier/kernel",
    }
    # Once converted.
    save(convert(path, config.arch), tmp_path / "ours.safetensors")
    again, _ = install(start, tmp_path / "ours.safetensors", config.arch)
    jax.tree.map(
        np.testing.assert_array_equal, again["params"]["backbone"], got["params"]["backbone"]
    )


def test_a_file_of_the_backbone_alone_is_read(made, tmp_path):
    config, variables, start = made
    arrays = published(variables, *HEADS["reid-strong-baseline"])
    alone = {
        name.removeprefix("base."): array
        for name, array in arrays.items()
        if name.startswith("base.") and "NL_" not in name
    }
    alone["fc.weight"] = np.ones((1000, 32 * config.backbone_width), np.float32)
    path = write_zip(tmp_path / "imagenet.pth", alone)
    got, report = install(start, path, config.arch)
    assert report.weights.arch == config.backbone
    kernel = "params/backbone/layer4_0_conv3/kernel"
    np.testing.assert_array_equal(flatten(got)[kernel], flatten(variables)[kernel])
    save(convert(path, config.backbone), tmp_path / "ours.safetensors")
    install(start, tmp_path / "ours.safetensors", config.arch)
    with pytest.raises(UserError, match=r"weights of resnet50.*; expected vgg16"):
        install(start, tmp_path / "ours.safetensors", "vgg16")


def test_what_does_not_fit_is_said(made, tmp_path):
    config, variables, start = made
    arrays = published(variables, *HEADS["fast-reid"])
    shifted = {**arrays, "heads.bottleneck.0.bias": arrays["heads.bottleneck.0.weight"]}
    path = write_zip(tmp_path / "shifted.pth", shifted)
    with pytest.raises(UserError, match=r"heads\.bottleneck\.0\.bias is not of .*expected zeros"):
        install(start, path, config.arch)
    other = TINY if config is AGW else dataclasses.replace(TINY, non_local=(0, 1, 1, 0))
    start = jax.eval_shape(other.make(5).init, jax.random.key(0), four())
    with pytest.raises(UserError, match=r"do not fit the model|not known there"):
        install(start, write_zip(tmp_path / "other.pth", arrays), other.arch)


def test_another_method_takes_the_backbone_of_a_release(tmp_path):
    """As before: the head is left out, and said."""
    start = jax.eval_shape(TINY.make(5).init, jax.random.key(0), four())
    arrays = published(jax.tree.map(lambda x: np.ones(x.shape), start), *HEADS["fast-reid"])
    path = write_zip(tmp_path / "model.pth", arrays)
    weights = convert(path, cosam.Config(backbone="resnet50").arch)
    assert (weights.arch, weights.whole) == ("resnet50", False)
    assert "heads.weight" in weights.dropped
    assert bot.Config().arch == "bot_resnet50"
