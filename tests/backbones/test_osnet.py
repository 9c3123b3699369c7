import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import OSNet, osnet
from jaxreid.backbones.osnet import depthwise
from jaxreid.errors import UserError
from tests.backbones.tracing import count, drawn, run, trace

SMALL = (8, 16, 24, 32)


@pytest.mark.parametrize(
    ("width", "norm", "parameters", "statistics"),
    [
        (1.0, "batch", 2_169_508, 2 * 11_520),
        (0.75, "batch", 1_285_754, 2 * 8_768),
        (0.5, "batch", 630_034, 2 * 6_016),
        (0.25, "batch", 201_864, 2 * 3_264),
        (1.0, "ibn", 2_169_508 + 4 * 256, 2 * (11_520 - 64)),
        (1.0, "ain", 2_169_508, 2 * (11_520 - 64 - 2 * 256 - 384 - 512)),
    ],
)
def test_the_networks_have_their_numbers_of_parameters(width, norm, parameters, statistics):
    """The paper prints 2.2, 1.3, 0.6 and 0.2 million."""
    variables, out, maps = trace(osnet(width, norm, num_classes=1000), 256, 128)
    assert count(variables["params"]) == parameters + 512 * 1000 + 1000
    assert count(variables["params"].pop("classifier")) == 512 * 1000 + 1000
    assert count(variables["params"]) == parameters
    assert count(variables["batch_stats"]) == statistics
    assert out.shape == (1, 1000)
    one, two, three, four = (round(width * channels) for channels in (64, 256, 384, 512))
    # Table 1.
    assert {name: m.shape[1:] for name, m in maps.items()} == {
        "stem": (64, 32, one),
        "conv2": (32, 16, two),
        "conv3": (16, 8, three),
        "conv4": (16, 8, four),
        "conv5": (16, 8, four),
        "features": (512,),
    }


def test_instances_are_normalised_where_the_papers_have_it():
    def instances(norm):
        network, image = OSNet(SMALL, norm=norm), jnp.zeros((1, 32, 32, 3))
        start = functools.partial(network.init, train=False)
        variables = jax.eval_shape(start, jax.random.key(0), image)
        params, batch = variables["params"], variables["batch_stats"]
        return {name for name in params if "scale" in params[name] and name not in batch}

    assert instances("batch") == set()
    assert instances("ibn") == {"conv1_norm", "conv2_0_in", "conv2_1_in"}
    inside = {"conv2_0_in", "conv2_1_in", "conv3_1_in", "conv4_0_in"}
    assert instances("ain") == {"conv1_norm"} | inside


@pytest.fixture(scope="module")
def small():
    network = OSNet(SMALL, blocks=1, features=16, num_classes=3)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 32, 3), dtype=np.uint8)
    return network, drawn(network, 64, 32), images


def test_the_depthwise_convolution_is_the_nine_products():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 1, 5)).astype(np.float32)
    weights = rng.normal(size=x.shape).astype(np.float32)  # Of a loss that is linear.
    want, of_x, of_kernel = (np.zeros(each.shape) for each in (x, x, kernel))
    for item, row, column, channel in np.ndindex(x.shape):
        for i, j in np.ndindex(3, 3):
            at = (item, row + i - 1, column + j - 1, channel)
            if 0 <= at[1] < 4 and 0 <= at[2] < 3:
                weight, here = float(kernel[i, j, 0, channel]), (item, row, column, channel)
                want[here] += float(x[at]) * weight
                of_x[at] += float(weights[here]) * weight
                of_kernel[i, j, 0, channel] += float(weights[here]) * float(x[at])
    got, gradient = jax.vjp(depthwise, jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(got, want, atol=1e-5)
    for ours, theirs in zip(gradient(jnp.asarray(weights)), (of_x, of_kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_gate_weighs_every_stream_by_its_own_mean(small):
    """With gates that are shut, nothing of a block is left but the way around."""
    network, variables, images = small
    shut = {"kernel": jnp.zeros((1, 1, 1, 4)), "bias": jnp.full(4, -100.0)}
    params = {**variables["params"], "conv2_0_gate_fc2": shut}
    before, _ = run(network, variables, images)
    after, _ = run(network, {**variables, "params": params}, images)
    assert (before != after).any()
    # The streams' own weights do not matter then.
    name = "conv2_0_stream4_3_conv2"
    other = {**params, name: jax.tree.map(lambda x: 2 * x, params[name])}
    again, _ = run(network, {**variables, "params": other}, images)
    np.testing.assert_array_equal(again, after)


def test_half_precision_keeps_parameters_and_logits_in_full(small):
    network, variables, images = small
    half = network.clone(dtype=jnp.bfloat16)
    traced, out, maps = trace(half, 64, 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(traced)} == {jnp.dtype("float32")}
    assert out.dtype == maps.pop("features").dtype == jnp.float32
    assert {m.dtype for m in maps.values()} == {jnp.dtype("bfloat16")}
    full, _ = run(network, variables, images)
    got, _ = run(half, variables, images)
    np.testing.assert_allclose(got, full, atol=0.05 * float(jnp.abs(full).max()))


def test_small_images_are_one_clear_line():
    with pytest.raises(UserError, match=r"^osnet: images of 15 x 64 are too small; expected 16"):
        trace(osnet(), 15, 64)
