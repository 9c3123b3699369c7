import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import VGG16, vgg16
from jaxreid.errors import UserError
from tests.backbones.tracing import assert_half_precision, count, drawn, run, trace


def test_vgg16_has_the_published_number_of_parameters():
    variables, out, maps = trace(vgg16(), 224, 224)
    assert count(variables["params"]) == 14_714_688
    assert out.shape == (1, 7, 7, 512)
    assert {name: m.shape[1:] for name, m in maps.items()} == {
        "block1": (112, 112, 64),
        "block2": (56, 56, 128),
        "block3": (28, 28, 256),
        "block4": (14, 14, 512),
        "block5": (7, 7, 512),
    }
    assert list(variables["params"]) == [
        *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
        *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
    ]


def test_vgg16_with_its_classifier():
    variables, out, maps = trace(vgg16(1000, fc=4096), 224, 224)
    assert count(variables["params"]) == 138_357_544
    assert variables["params"]["fc6"]["kernel"].shape == (7 * 7 * 512, 4096)
    assert out.shape == (1, 1000)
    assert maps["fc6"].shape == maps["fc7"].shape == (1, 4096)


def test_every_pooling_rounds_down():
    _, out, maps = trace(vgg16(), 127, 65)
    assert [m.shape[1:3] for m in maps.values()] == [(63, 32), (31, 16), (15, 8), (7, 4), (3, 2)]
    assert out.shape == (1, 3, 2, 512)


@pytest.fixture(scope="module")
def small():
    network = VGG16((2, 3, 4, 5, 6), fc=7, num_classes=4, dtype=jnp.bfloat16)
    images = jax.random.randint(jax.random.key(0), (2, 32, 64, 3), 0, 256).astype(jnp.uint8)
    return network, drawn(network, 32, 64), images


def test_half_precision_keeps_parameters_and_logits_in_full(small):
    assert_half_precision(*small)


def test_dropout_needs_random_numbers_in_training_alone(small):
    network, variables, images = small
    outs = [
        run(network, variables, images, train=True, rngs={"dropout": jax.random.key(k)})[0]
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert (outs[0] != outs[2]).any()


def test_images_of_another_size_are_one_clear_line(small):
    network, variables, images = small
    with pytest.raises(UserError, match=r"^vgg16: images of 31 x 64 are too small; expected 32"):
        trace(network, 31, 64)
    with pytest.raises(UserError, match=r"^fc6 takes 12 inputs and got 6: .* another size"):
        run(network, variables, images[:, :, :32])
