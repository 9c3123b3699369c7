from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import DenseNet, densenet121
from jaxreid.backbones.layers import IMAGENET_MEAN, IMAGENET_STD
from jaxreid.errors import UserError
from tests.backbones.tracing import count, trace


def test_densenet121_has_the_published_number_of_parameters():
    variables, out, maps = trace(densenet121(), 256, 128)
    assert count(variables["params"]) == 6_953_856
    assert count(variables["batch_stats"]) == 2 * 41_824
    assert out.shape == (1, 8, 4, 1024)
    assert {name: m.shape[1:] for name, m in maps.items()} == {
        "stem": (64, 32, 64),
        "block1": (64, 32, 256),
        "block2": (32, 16, 512),
        "block3": (16, 8, 1024),
        "block4": (8, 4, 1024),
        "norm5": (8, 4, 1024),
    }


def test_densenet121_with_its_classifier():
    variables, out, maps = trace(densenet121(num_classes=1000), 64, 32)
    assert count(variables["params"]) == 7_978_856
    assert out.shape == (1, 1000)
    assert maps["norm5"].shape == (1, 2, 1, 1024)


@pytest.fixture(scope="module")
def small():
    network = DenseNet((1, 2), growth=4, stem=8)
    images = jax.random.randint(jax.random.key(0), (2, 32, 32, 3), 0, 256).astype(jnp.uint8)
    return network, jax.jit(partial(network.init, train=False))(jax.random.key(1), images), images


def test_every_layer_sees_all_maps_before_it(small):
    network, variables, images = small
    out, maps = network.apply(variables, images, train=False)
    np.testing.assert_array_equal(maps["block1"][..., :8], maps["stem"])
    assert out.shape == maps["block2"].shape == (2, 4, 4, 6 + 2 * 4)
    np.testing.assert_array_equal(out, maps["norm5"])
    assert (out >= 0).all()


def test_images_are_normalised_by_the_preprocessing_of_the_weights(small):
    network, variables, images = small
    np.testing.assert_array_equal(variables["preprocessing"]["mean"], np.float32(IMAGENET_MEAN))
    np.testing.assert_array_equal(variables["preprocessing"]["std"], np.float32(IMAGENET_STD))
    preprocessing = {
        "mean": 2 * variables["preprocessing"]["mean"] + 10,
        "std": 2 * variables["preprocessing"]["std"],
    }
    other = {**variables, "preprocessing": preprocessing}
    want, _ = network.apply(variables, images, train=False)
    got, _ = network.apply(other, 2 * images.astype(jnp.float32) + 10, train=False)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert (want > 0.1).any()


def test_logits_are_linear_in_the_mean_over_positions(small):
    network, variables, images = small
    classifier = {"kernel": jnp.arange(42.0).reshape(14, 3), "bias": jnp.array([1.0, 2.0, 3.0])}
    given = {**variables, "params": {**variables["params"], "classifier": classifier}}
    logits, maps = network.clone(num_classes=3).apply(given, images, train=False)
    mean = np.float64(maps["norm5"]).mean(axis=(1, 2))
    np.testing.assert_allclose(logits, mean @ np.arange(42).reshape(14, 3) + [1, 2, 3], rtol=1e-5)


def test_small_images_are_one_clear_line():
    with pytest.raises(UserError, match=r"^densenet: images of 31 x 64 are too small; expected 32"):
        trace(densenet121(), 31, 64)


def test_statistics_change_in_training_alone(small):
    network, variables, images = small
    _, state = network.apply(variables, images, train=True, mutable=["batch_stats"])
    before, after = variables["batch_stats"]["norm0"], state["batch_stats"]["norm0"]
    # The stem's maps have some mean m; the running mean moves a tenth of the way to it.
    assert (before["mean"] != after["mean"]).all()
    np.testing.assert_allclose(before["mean"], 0)
    _, state = network.apply(variables, images, train=False, mutable=["batch_stats"])
    unchanged = {**variables["batch_stats"], **state.get("batch_stats", {})}
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), unchanged, variables["batch_stats"])
    )


def test_half_precision_keeps_parameters_and_statistics_in_full():
    network = DenseNet((1,), growth=4, stem=8, dtype=jnp.bfloat16)
    images = jnp.ones((1, 16, 16, 3), jnp.uint8)
    variables = network.init(jax.random.key(0), images, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    out, _ = network.apply(variables, images, train=False)
    assert out.dtype == jnp.bfloat16


def test_a_1x1_convolution_equals_xlas():
    from jaxreid.backbones.layers import conv

    layer, x = conv(5, 1), jax.random.normal(jax.random.key(0), (2, 6, 4, 3))
    variables = layer.init(jax.random.key(1), x)
    want = jax.lax.conv_general_dilated(
        x, variables["params"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, x), want, atol=1e-5)
