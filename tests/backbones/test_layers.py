import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.backbones import layers
from jaxreid.errors import UserError


def slow_max_pool(x, size, stride, padding, ceil):
    """One window at a time, over the values inside of the map."""

    def starts(length):
        start, found = -padding, []
        while start + size <= length + padding:
            found.append(start)
            start += stride
        more = found[-1] + size < length + padding and start < length
        return found + [start] * (ceil and more)

    h, w = x.shape[1:3]
    return np.array(
        [
            [
                [
                    image[max(i, 0) : i + size, max(j, 0) : j + size].max(axis=(0, 1))
                    for j in starts(w)
                ]
                for i in starts(h)
            ]
            for image in x
        ]
    )


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(3, 2, 0), (3, 2, 1), (2, 2, 0), (2, 2, 1), (3, 1, 1), (2, 3, 1)],
)
@pytest.mark.parametrize("ceil", [False, True])
def test_max_pool_equals_a_loop_over_windows(size, stride, padding, ceil):
    for h, w in [(4, 5), (6, 7), (8, 9), (3, 10)]:
        # Negative values: a padding of zeros would be the largest.
        x = np.random.default_rng(h).normal(-5, 1, (2, h, w, 3)).astype(np.float32)
        got = layers.max_pool(jnp.asarray(x), size, stride, padding, ceil=ceil)
        np.testing.assert_array_equal(got, slow_max_pool(x, size, stride, padding, ceil))


def test_max_pool_of_caffe_keeps_the_window_over_the_border():
    x = jnp.arange(4.0).reshape(1, 1, 4, 1).repeat(3, axis=1)
    assert layers.max_pool(x, 3, 2).ravel().tolist() == [2]
    assert layers.max_pool(x, 3, 2, ceil=True).ravel().tolist() == [2, 3]
    # With padding 1 the third window would start in the padding: it is not kept.
    assert layers.max_pool(x, 2, 2, 1, ceil=True)[0, 0].ravel().tolist() == [0, 2, 3]
    assert layers.max_pool(x[:, :, :3], 2, 2, 1, ceil=True)[0, 0].ravel().tolist() == [0, 2]


def slow_lrn(x, size, alpha, beta):
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        near = range(max(0, c - size // 2), min(x.shape[-1], c + size // 2 + 1))
        total = sum(x[..., k] ** 2 for k in near)
        y[..., c] = x[..., c] / (1 + alpha / size * total) ** beta
    return y


@pytest.mark.parametrize(("size", "alpha", "beta"), [(5, 1e-4, 0.75), (3, 2.0, 0.5)])
def test_local_response_norm_equals_a_loop_over_channels(size, alpha, beta):
    x = np.random.default_rng(0).normal(0, 50, (2, 3, 4, 9))
    got = layers.local_response_norm(jnp.asarray(x, jnp.float32), size, alpha, beta)
    np.testing.assert_allclose(got, slow_lrn(x, size, alpha, beta), rtol=2e-5)


def test_local_response_norm_has_the_gradient_of_its_differences():
    x = np.random.default_rng(1).normal(0, 1, (1, 1, 1, 7))
    weights = np.random.default_rng(2).normal(0, 1, x.shape)

    def total(x):
        return jnp.sum(weights * layers.local_response_norm(x, 5, 2.0, 0.75))

    got = jax.grad(total)(jnp.asarray(x, jnp.float32))
    for c in range(7):
        step = np.zeros_like(x)
        step[..., c] = 1e-6
        up, down = (slow_lrn(x + s, 5, 2.0, 0.75) for s in (step, -step))
        np.testing.assert_allclose(got[0, 0, 0, c], np.sum(weights * (up - down)) / 2e-6, rtol=1e-3)


def test_local_response_norm_sums_half_precision_in_full():
    x = jnp.full((1, 1, 1, 5), 100, jnp.bfloat16)
    y = layers.local_response_norm(x, 5, 1.0, 0.5)
    assert y.dtype == jnp.bfloat16
    # The middle channel: 100 / sqrt(1 + 10000), which bfloat16 rounds to 1.
    assert float(y[0, 0, 0, 2]) == 1


@pytest.mark.parametrize("size", [1, 3])
def test_a_group_sees_its_own_channels(size):
    layer = layers.conv(4, size, groups=2)
    x = jax.random.normal(jax.random.key(0), (1, 5, 4, 6))
    variables = layer.init(jax.random.key(1), x)
    assert variables["params"]["kernel"].shape == (size, size, 3, 4)
    change = layer.apply(variables, x.at[..., 3:].add(1)) - layer.apply(variables, x)
    assert (change[..., :2] == 0).all()
    assert (change[..., 2:] != 0).all()


class Head(nn.Module):
    fc: int
    num_classes: int

    @nn.compact
    def __call__(self, x, train=False):
        return layers.fc_head(x, self.fc, self.num_classes, train=train, dtype=jnp.float32)


@pytest.fixture
def pool5():
    return jax.random.normal(jax.random.key(0), (2, 2, 3, 4))


def test_fc_head_flattens_positions_in_reading_order(pool5):
    network = Head(fc=5, num_classes=3)
    variables = network.init(jax.random.key(1), pool5)
    out, maps = network.apply(variables, pool5)
    p = jax.tree.map(np.float64, variables["params"])
    x = np.array([[v for row in image for place in row for v in place] for image in pool5.tolist()])
    for name in ("fc6", "fc7"):
        x = np.maximum(x @ p[name]["kernel"] + p[name]["bias"], 0)
        np.testing.assert_allclose(maps[name], x, atol=1e-6)
    np.testing.assert_allclose(
        out, x @ p["classifier"]["kernel"] + p["classifier"]["bias"], atol=1e-6
    )


def test_parts_of_fc_head_may_be_left_out(pool5):
    out, maps = Head(0, 0).apply({}, pool5)
    assert out is pool5
    assert maps == {}
    (logits, _), variables = Head(0, 3).init_with_output(jax.random.key(1), pool5)
    kernel, bias = (variables["params"]["classifier"][k] for k in ("kernel", "bias"))
    mean = pool5.mean(axis=(1, 2))
    np.testing.assert_allclose(logits[1], mean[1] @ kernel + bias, atol=1e-6)
    (out, maps), _ = Head(5, 0).init_with_output(jax.random.key(1), pool5)
    assert out is maps["fc7"]


def test_fc_head_drops_a_half_in_training_alone():
    x = jnp.ones((4, 1, 1, 8))
    network = Head(fc=400, num_classes=0)
    variables = network.init(jax.random.key(1), x)
    _, whole = network.apply(variables, x)
    _, maps = network.apply(variables, x, train=True, rngs={"dropout": jax.random.key(2)})
    kept = maps["fc6"] != 0
    # Of 1,600 values that are not zero by their ReLU, half within four deviations.
    rate = kept.sum() / (whole["fc6"] != 0).sum()
    assert 0.4 < rate < 0.6
    # What is kept is doubled, so that the sum stays the same on average.
    np.testing.assert_allclose(maps["fc6"][kept], 2 * whole["fc6"][kept], rtol=1e-6)


def test_fc6_of_another_size_is_one_clear_line(pool5):
    network = Head(fc=5, num_classes=0)
    variables = network.init(jax.random.key(1), pool5)
    with pytest.raises(UserError, match=r"^fc6 takes 24 inputs and got 16: the network was made"):
        network.apply(variables, pool5[:, :, :2])
