"""BoT and AGW against their equations, and against the sizes of the released networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.errors import UserError
from jaxreid.models import bot
from jaxreid.types import Batch

TINY = bot.Config(backbone_layers=(1, 1, 1, 1), backbone_width=4)
AGW = {"pooling": "gem", "non_local": (0, 2, 3, 0), "triplet": "weighted"}


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(config, num_ids=751):
    batch = Batch(
        jax.ShapeDtypeStruct((1, 256, 128, 3), jnp.uint8),
        *[jax.ShapeDtypeStruct((1,), jnp.int32)] * 2,
    )
    model = config.make(num_ids)
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    return variables, jax.eval_shape(model.features, variables, batch)


# A block of c channels: three convolutions to one, one back, each with a bias, and a BatchNorm.
NON_LOCAL = {c: 3 * (c + 1) + 2 * c + 2 * c for c in (512, 1024)}


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({}, 23_508_032 + 2_048 + 751 * 2_048),
        # The affine weights of the instances are those that the batches' have there.
        ({"backbone": "resnet50_ibn_a"}, 23_508_032 + 2_048 + 751 * 2_048),
        (AGW, 23_508_032 + 2_048 + 751 * 2_048 + 1 + 2 * NON_LOCAL[512] + 3 * NON_LOCAL[1024]),
        ({"neck": False}, 23_508_032 + 751 * 2_048),
    ],
)
def test_the_networks_have_their_parameters(changes, parameters):
    variables, features = shapes(dataclasses.replace(bot.Config(), **changes))
    assert size(variables["params"]) == parameters
    assert features.shape == (1, 2048)
    centres = variables["batch_stats"]["classifier_centres"]["mean"]
    assert centres.shape == (751, 2048)


def test_what_the_options_add():
    variables, _ = shapes(bot.Config(**AGW))
    blocks = {name for name in variables["params"] if name.startswith("non_local")}
    assert blocks == {f"non_local{stage}_{i}" for stage, n in ((2, 2), (3, 3)) for i in range(n)}
    assert "bias" not in variables["params"]["bottleneck"]
    assert "bias" not in variables["params"]["classifier"]
    ibn, _ = shapes(bot.Config(backbone="resnet50_ibn_a"))
    params, stats = ibn["params"]["backbone"], ibn["batch_stats"]["backbone"]
    assert (
        params["layer3_5_bn1_in"]["scale"].shape == params["layer3_5_bn1"]["scale"].shape == (128,)
    )
    assert stats["layer3_5_bn1"]["mean"].shape == (128,)
    assert params["layer4_0_bn1"]["scale"].shape == (512,)
    assert not any("_in" in name for name in stats)
    assert not any("layer4" in name for name in params if name.endswith("_in"))
    plain, _ = shapes(bot.Config(centre=0.0))
    assert "classifier_centres" not in plain["batch_stats"]


def four(height=64, width=32):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (4, height, width, 3), np.uint8)
    return Batch(jnp.asarray(images), jnp.array([0, 0, 1, 1]), jnp.ones(4, int))


def test_the_features_are_compared_by_their_cosine():
    batch, model = four(), TINY.make(2)
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    features = jax.jit(model.features)(variables, batch)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    cosines = np.array([[np.dot(a, b) for b in np.float64(features)] for a in np.float64(features)])
    np.testing.assert_allclose(
        model.distance(variables, features, features), 1 - cosines, atol=1e-6
    )
    # The neck is the stored statistics' affine map of what stands before it.
    other = dataclasses.replace(TINY, neck=False, distance="euclidean").make(2)
    before = np.float64(jax.jit(other.features)(variables, batch))
    neck = jax.tree.map(np.float64, variables["batch_stats"]["bottleneck"])
    after = (before - neck["mean"]) / np.sqrt(neck["var"] + 1e-5)
    after /= np.linalg.norm(after, axis=1, keepdims=True)
    np.testing.assert_allclose(features, after, atol=1e-5)


def test_the_centres_move_as_the_released_codes_do():
    """c_j - 0.5 dL/dc_j of the mean squared distance; those of absent persons stay."""
    config = dataclasses.replace(TINY, centre_rate=0.5)
    module = bot.Centres(3, config.centre_rate)
    x, pids = np.random.default_rng(0).normal(size=(4, 5)), np.array([0, 2, 2, 2])
    start = np.random.default_rng(1).normal(size=(3, 5))
    value, state = module.apply(
        {"batch_stats": {"mean": jnp.float32(start)}},
        jnp.float32(x),
        jnp.asarray(pids),
        mutable=["batch_stats"],
    )
    want, gradient = 0.0, np.zeros_like(start)
    for item, pid in zip(x, pids):
        want += ((item - start[pid]) ** 2).sum() / 4
        gradient[pid] += 2 * (start[pid] - item) / 4
    assert float(value) == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(state["batch_stats"]["mean"], start - 0.5 * gradient, atol=1e-6)
    np.testing.assert_array_equal(state["batch_stats"]["mean"][1], np.float32(start[1]))


def test_a_non_local_block_starts_as_nothing():
    batch = four()
    plain, with_blocks = (
        dataclasses.replace(TINY, non_local=places).make(2) for places in ((0,) * 4, (1, 1, 1, 1))
    )
    variables = jax.jit(with_blocks.init)(jax.random.key(0), batch)
    got, want = (jax.jit(m.features)(variables, batch) for m in (with_blocks, plain))
    np.testing.assert_array_equal(got, want)


def test_clips_are_refused():
    batch = four()._replace(images=jnp.zeros((4, 2, 64, 32, 3), jnp.uint8))
    with pytest.raises(
        UserError, match=r"BoT describes images and got clips: expected config\.data"
    ):
        TINY.make(2).init(jax.random.key(0), batch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"non_local": (0, 2, 0, 0)}, r"config\.model\.non_local=.*none above its stage's"),
        ({"non_local": (0, 1)}, r"config\.model\.non_local=.*four numbers"),
        ({"backbone_width": 3}, r"config\.model\.backbone_width=3: expected an even number"),
        ({"centre": -1.0}, r"config\.model\.centre=-1\.0: expected 0 or more"),
        ({"label_smoothing": 1.0}, r"config\.model\.label_smoothing=1\.0"),
    ],
)
def test_values_that_no_network_can_have(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(TINY, **changes).validate()
