import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import CaffeNet, caffenet
from jaxreid.errors import UserError
from tests.backbones.tracing import assert_half_precision, count, drawn, run, trace


def test_caffenet_has_the_published_number_of_parameters():
    variables, out, maps = trace(caffenet(1000, fc=4096), 227, 227)
    assert count(variables["params"]) == 60_965_224
    assert out.shape == (1, 1000)
    assert {name: m.shape[1:] for name, m in maps.items()} == {
        "conv1": (55, 55, 96),
        "norm1": (27, 27, 96),
        "conv2": (27, 27, 256),
        "norm2": (13, 13, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
        "fc6": (4096,),
        "fc7": (4096,),
    }
    # Two groups each: a kernel sees half of the channels.
    assert variables["params"]["conv2"]["kernel"].shape == (5, 5, 48, 256)
    assert variables["params"]["conv4"]["kernel"].shape == (3, 3, 192, 384)
    assert variables["params"]["conv5"]["kernel"].shape == (3, 3, 192, 256)


def test_caffenet_with_1024_wide_features():
    variables, out, maps = trace(caffenet(fc=1024), 227, 227)
    assert count(variables["params"]) == 12_821_888
    assert out.shape == maps["fc7"].shape == (1, 1024)


def test_caffenet_of_another_size_and_without_fc():
    variables, out, maps = trace(caffenet(), 128, 64)
    assert count(variables["params"]) == 12_821_888 - (9216 + 1) * 1024 - (1024 + 1) * 1024
    assert {name: m.shape[1:3] for name, m in maps.items()} == {
        "conv1": (30, 14),
        "norm1": (15, 7),
        "conv2": (15, 7),
        "norm2": (7, 3),
        "conv3": (7, 3),
        "conv4": (7, 3),
        "conv5": (7, 3),
        "pool5": (3, 1),
    }
    assert out.shape == (1, 3, 1, 256)


@pytest.fixture(scope="module")
def small():
    network = CaffeNet((4, 6, 6, 4, 8), fc=7, num_classes=3, dtype=jnp.bfloat16)
    images = jax.random.randint(jax.random.key(0), (2, 39, 64, 3), 0, 256).astype(jnp.uint8)
    return network, drawn(network, 39, 64), images


def test_half_precision_keeps_parameters_and_logits_in_full(small):
    assert_half_precision(*small)


def test_fc7_is_taken_behind_its_dropout(small):
    network, variables, images = small
    features = network.clone(num_classes=0, fc=40)
    variables = drawn(features, 39, 64)
    out, maps = run(features, variables, images, train=True, rngs={"dropout": jax.random.key(2)})
    np.testing.assert_array_equal(out, maps["fc7"])
    whole, _ = run(features, variables, images)
    assert (out == 0).sum() > (whole == 0).sum()


def test_images_of_another_size_are_one_clear_line(small):
    network, variables, images = small
    with pytest.raises(UserError, match=r"^caffenet: images of 38 x 64 are too small; expected 39"):
        trace(network, 38, 64)
    with pytest.raises(UserError, match=r"^fc6 takes 8 inputs and got 24: .* another size"):
        run(network, variables, jnp.concatenate([images, images], axis=2))
