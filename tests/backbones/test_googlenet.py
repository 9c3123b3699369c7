import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import GoogLeNet, googlenet
from jaxreid.backbones.googlenet import grid_means
from jaxreid.errors import UserError
from tests.backbones.tracing import count, drawn, trace


def test_the_original_has_the_published_number_of_parameters():
    variables, out, maps = trace(googlenet(), 224, 224)
    assert count(variables["params"]) == 5_973_552
    assert "batch_stats" not in variables
    assert out.shape == (1, 7, 7, 1024)
    assert {name: m.shape[1:] for name, m in maps.items()} == {
        "conv1": (112, 112, 64),
        "pool1": (56, 56, 64),
        "norm1": (56, 56, 64),
        "conv2": (56, 56, 192),
        "norm2": (56, 56, 192),
        "pool2": (28, 28, 192),
        "inception3a": (28, 28, 256),
        "inception3b": (28, 28, 480),
        "pool3": (14, 14, 480),
        "inception4a": (14, 14, 512),
        "inception4b": (14, 14, 512),
        "inception4c": (14, 14, 512),
        "inception4d": (14, 14, 528),
        "inception4e": (14, 14, 832),
        "pool4": (7, 7, 832),
        "inception5a": (7, 7, 832),
        "inception5b": (7, 7, 1024),
    }
    assert variables["params"]["inception3a_5x5"]["kernel"].shape == (5, 5, 16, 32)
    assert set(variables["params"]["inception5b_pool_proj"]) == {"kernel", "bias"}


def test_the_original_with_its_classifiers():
    variables, out, _ = trace(googlenet(1000), 224, 224)
    assert count(variables["params"]) == 6_998_552
    assert out.shape == (1, 1000)
    variables, _, maps = trace(googlenet(1000, aux=True), 224, 224)
    assert count(variables["params"]) == 13_378_280
    assert maps["aux1"].shape == maps["aux2"].shape == (1, 1000)
    assert variables["params"]["aux1_fc"]["kernel"].shape == (4 * 4 * 128, 1024)
    assert {name for name in variables["params"] if name.startswith("aux")} == {
        f"aux{i}_{layer}" for i in (1, 2) for layer in ("conv", "fc", "classifier")
    }


def test_the_form_with_batch_norm():
    variables, out, maps = trace(googlenet(1000, bn=True), 224, 224)
    assert count(variables["params"]) == 6_624_904
    assert maps["inception5b"].shape == (1, 7, 7, 1024)
    assert variables["params"]["inception3a_5x5"]["kernel"].shape == (3, 3, 16, 32)
    assert set(variables["params"]["conv2_reduce"]) == {"kernel"}
    assert set(variables["params"]["conv2_reduce_bn"]) == {"scale", "bias"}
    assert out.shape == (1, 1000)
    variables, _, _ = trace(googlenet(bn=True), 224, 224)
    assert count(variables["params"]) == 5_599_904
    variables, _, _ = trace(googlenet(1000, aux=True, bn=True), 224, 224)
    assert count(variables["params"]) == 13_004_888


@pytest.mark.parametrize(("bn", "last"), [(False, (4, 2)), (True, (4, 3))])
def test_another_size(bn, last):
    _, out, maps = trace(googlenet(bn=bn), 128, 81)
    assert maps["conv1"].shape[1:3] == (64, 41)
    assert maps["pool1"].shape[1:3] == (32, 20)
    assert maps["pool2"].shape[1:3] == (16, 10)
    assert maps["pool3"].shape[1:3] == (8, 5)
    # Of five columns, windows of 3 leave two, and windows of 2 three.
    assert maps["pool4"].shape[1:3] == out.shape[1:3] == last


@pytest.mark.parametrize(("bn", "height", "width"), [(False, 31, 31), (True, 15, 17)])
def test_the_smallest_images(bn, height, width):
    _, out, _ = trace(googlenet(bn=bn), height, width)
    assert out.shape == (1, 1, 1, 1024)
    with pytest.raises(UserError, match=r"^googlenet: images of \d+ x \d+ are too small; expected"):
        trace(googlenet(bn=bn), height - 1, width)


def test_images_of_another_size_than_the_auxiliary_classifiers():
    network = GoogLeNet(5, aux=True, width=8)
    variables, _, maps = trace(network, 79, 96)
    assert variables["params"]["aux1_fc"]["kernel"].shape == (16, 128)
    assert maps["aux2"].shape == (1, 5)
    image = jax.ShapeDtypeStruct((1, 150, 96, 3), jnp.uint8)
    with pytest.raises(UserError, match=r"^aux1_fc takes 16 inputs and got 32: .* another size"):
        jax.eval_shape(lambda v, x: network.apply(v, x, train=False), variables, image)
    with pytest.raises(UserError, match=r"images of 78 x 96 are too small; expected 79 x 79"):
        trace(network, 78, 96)
    # Without classifiers there is nothing that the auxiliary ones could share.
    assert "aux1" not in trace(GoogLeNet(0, aux=True, width=8), 31, 31)[2]


def test_half_precision_keeps_parameters_and_statistics_in_full():
    for bn in (False, True):
        network = GoogLeNet(3, bn=bn, width=8, dtype=jnp.bfloat16)
        variables, out, maps = trace(network, 64, 64)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        assert {m.dtype for m in maps.values()} == {jnp.dtype("bfloat16")}
        assert out.dtype == jnp.float32


def test_training_drops_before_every_classifier_and_updates_statistics():
    network = GoogLeNet(3, aux=True, bn=True, width=8)
    variables = drawn(network, 32, 32)
    images = jax.random.randint(jax.random.key(0), (4, 32, 32, 3), 0, 256).astype(jnp.uint8)

    @jax.jit
    def step(key):
        return network.apply(
            variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
        )

    (out, maps), state = step(jax.random.key(0))
    (other, others), _ = step(jax.random.key(1))
    np.testing.assert_array_equal(maps["inception5b"], others["inception5b"])
    for a, b in [(out, other), (maps["aux1"], others["aux1"]), (maps["aux2"], others["aux2"])]:
        assert (a != b).any()
    before, after = (tree["batch_stats"]["conv1_bn"]["mean"] for tree in (variables, state))
    assert (before != after).all()


def test_grid_means_equal_a_loop():
    x = np.random.default_rng(0).normal(0, 1, (1, 14, 7, 3))
    # PyTorch's bins: from floor(i n / 4) to ceil((i + 1) n / 4).
    rows, columns = [(0, 4), (3, 7), (7, 11), (10, 14)], [(0, 2), (1, 4), (3, 6), (5, 7)]
    want = [[[x[0, a:b, c:d].mean(axis=(0, 1)) for c, d in columns] for a, b in rows]]
    np.testing.assert_allclose(grid_means(jnp.asarray(x, jnp.float32), 4), want, atol=1e-6)
    # Smaller maps than the grid repeat.
    np.testing.assert_allclose(grid_means(jnp.asarray([[[[5.0]]]]), 4), np.full((1, 4, 4, 1), 5.0))
