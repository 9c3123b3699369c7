import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import DenseNet, densenet121


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_densenet121_has_the_published_number_of_parameters():
    network, image = densenet121(), jax.ShapeDtypeStruct((1, 256, 128, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), image)
    assert size(variables["params"]) == 6_953_856
    # With the ImageNet classifier: a thousand rows of 1,024 weights and a bias.
    assert size(variables["params"]) + 1000 * 1024 + 1000 == 7_978_856
    assert size(variables["batch_stats"]) == 2 * 41_824

    out, maps = jax.eval_shape(lambda v, x: network.apply(v, x, train=False), variables, image)
    assert out.shape == (1, 8, 4, 1024)
    assert {name: m.shape[1:] for name, m in maps.items()} == {
        "stem": (64, 32, 64),
        "block1": (64, 32, 256),
        "block2": (32, 16, 512),
        "block3": (16, 8, 1024),
        "block4": (8, 4, 1024),
    }


@pytest.fixture(scope="module")
def small():
    network = DenseNet((1, 2), growth=4, stem=8)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    return network, network.init(jax.random.key(1), images, train=False), images


def test_every_layer_sees_all_maps_before_it(small):
    network, variables, images = small
    out, maps = network.apply(variables, images, train=False)
    np.testing.assert_array_equal(maps["block1"][..., :8], maps["stem"])
    assert out.shape == maps["block2"].shape == (2, 4, 4, 6 + 2 * 4)
    assert (out >= 0).all()


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
    images = jnp.ones((1, 16, 16, 3))
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
