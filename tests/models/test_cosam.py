"""COSAM against its equations in float64, and against the sizes of the released networks."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import losses
from jaxreid.errors import UserError
from jaxreid.models import cosam
from jaxreid.types import Batch
from tests.ops.test_correlation import cost_volume_loop
from tests.ops.test_recurrence import loop as recurrence_loop
from tests.ops.test_recurrence import sigmoid

TINY = cosam.Config(
    backbone="resnet50",
    reduced=8,
    attention_features=8,
    hidden_features=8,
    backbone_layers=(1, 1, 1, 1),
    backbone_width=4,
)
# A clip of the paper, and a small one.
PAPER, SMALL = (4, 256, 128), (3, 64, 32)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(config, num_ids=625, clip=PAPER):
    """Variables and features of a clip, as shapes."""
    model = config.make(num_ids)
    batch = Batch(
        jax.ShapeDtypeStruct((1, *clip, 3), jnp.uint8), *[jax.ShapeDtypeStruct((1,), jnp.int32)] * 2
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    return variables["params"], jax.eval_shape(model.features, variables, batch)


def clips(n=4, frames=3, height=64, width=32):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (n, frames, height, width, 3), np.uint8)
    return Batch(jnp.asarray(images), jnp.arange(n) // 2, jnp.ones(n, int))


def built(config, batch, **options):
    model = config.make(2, **options)
    return model, jax.jit(model.init)(jax.random.key(0), batch)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (cosam.Config(backbone="resnet50"), 27_202_739),
        (cosam.Config(backbone="se_resnet50"), 29_733_731),
        # Gao and Nevatia's log: 24.78866 M.
        (cosam.Config(backbone="resnet50", blocks=()), 24_788_657),
    ],
)
def test_the_released_networks_have_their_parameters(config, parameters):
    params, features = shapes(config)
    assert size(params) == parameters
    assert features.shape == (1, 2048)
    assert features.dtype == jnp.float32


def test_each_module_has_its_parameters():
    params, _ = shapes(cosam.Config(blocks=(1, 2, 3, 4, 5)))
    assert {name: size(params[name]) for name in params if name.startswith("cosam")} == {
        "cosam1": 406_081,
        "cosam2": 443_137,
        "cosam3": 493_313,
        "cosam4": 813_313,
        "cosam5": 1_600_769,
    }


def test_each_head_has_its_parameters():
    heads = {
        head: shapes(cosam.Config(backbone="resnet50", head=head)) for head in ("tp", "ta", "rnn")
    }
    assert "head" not in heads["tp"][0]
    # 8 x 4 x 2048 x 256 and its bias; 3 x 256 and its bias.
    assert size(heads["ta"][0]["head"]) == 16_777_216 + 256 + 768 + 1
    assert size(heads["rnn"][0]["head"]) == 4 * 512 * (2048 + 512 + 2)
    assert [features.shape for _, features in heads.values()] == [(1, 2048), (1, 2048), (1, 512)]
    # TA keeps the last stride at 2: COSAM 5 sees 8 x 4 places, of three other frames.
    widths = [p["cosam5"]["summary_hidden"]["kernel"].shape[0] for p, _ in heads.values()]
    assert widths == [384, 96, 384]


def test_the_papers_variant_has_one_convolution_for_the_mask():
    params, _ = shapes(cosam.Config(variant="paper"))
    assert params["cosam4"]["summary"]["kernel"].shape == (384, 1)
    assert "summary_hidden" not in params["cosam4"]
    assert size(params["cosam4"]) == 813_313 - (384 * 64 + 64) - 128 - 65 + 385


def linear(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def batch_norm(x, params, stats, train):
    """Per channel, over all the rest; ReLU after."""
    mean, var = stats["mean"], stats["var"]
    if train:
        mean, var = x.mean(axis=(0, 1, 2, 3)), x.var(axis=(0, 1, 2, 3))
    return np.maximum((x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"], 0)


def module_loop(maps, params, stats, variant, train):
    """Section 4, and the released code where it differs; clip by clip, frame by frame."""
    reduced = linear(maps, params["reduce"])
    reduced = batch_norm(reduced, params["reduce_bn"], stats["reduce_bn"], train)
    volume = np.stack([cost_volume_loop(clip) for clip in reduced])
    if variant == "released":
        volume = linear(volume, params["summary_hidden"])
        volume = batch_norm(volume, params["summary_bn"], stats["summary_bn"], train)
    mask = sigmoid(linear(volume, params["summary"])[..., 0])
    out = np.zeros_like(maps)
    for item in range(len(maps)):
        attended = [f * m[..., None] for f, m in zip(maps[item], mask[item])]
        gates = [
            sigmoid(
                linear(np.tanh(linear(f.mean((0, 1)), params["channel_hidden"])), params["channel"])
            )
            for f in attended
        ]
        g = np.mean(gates, axis=0)
        out[item] = [f + f * g if variant == "released" else f * g for f in attended]
    return out, mask


def perturbed(variables, seed):
    """Away from the start, so that biases and statistics count."""
    rng = np.random.default_rng(seed)

    def moved(low):
        return lambda leaf: leaf + jnp.float32(rng.uniform(low, 0.3, leaf.shape))

    return {
        "params": jax.tree.map(moved(-0.3), variables["params"]),
        "batch_stats": jax.tree.map(moved(0.1), variables["batch_stats"]),
    }


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_the_module_is_its_equations(variant, train):
    maps = np.random.default_rng(3).normal(size=(2, 3, 4, 2, 12))
    module = cosam.Cosam(8, variant)
    variables = module.init(jax.random.key(0), jnp.float32(maps), train=False)
    variables = perturbed(variables, 4)
    (out, mask), _ = module.apply(
        variables, jnp.float32(maps), train=train, mutable=["batch_stats"]
    )
    params, stats = float64(variables["params"]), float64(variables["batch_stats"])
    want, want_mask = module_loop(maps, params, stats, variant, train)
    np.testing.assert_allclose(mask, want_mask, atol=2e-5)
    np.testing.assert_allclose(out, want, atol=5e-5)
    assert ((mask > 0) & (mask < 1)).all()


def test_one_gate_for_all_frames_of_a_clip():
    maps = jnp.float32(np.random.default_rng(5).normal(size=(2, 3, 4, 2, 12)))
    module = cosam.Cosam(8)
    variables = perturbed(module.init(jax.random.key(0), maps, train=False), 6)
    out, mask = module.apply(variables, maps, train=False)
    gates = out / (maps * mask[..., None]) - 1
    assert ((gates > 0) & (gates < 1)).all()
    want = jnp.broadcast_to(gates[:, :1, :1, :1], gates.shape)
    np.testing.assert_allclose(gates, want, atol=1e-4)
    assert jnp.abs(gates[0, 0, 0, 0] - gates[1, 0, 0, 0]).max() > 1e-4  # and one for each clip


def head_loop(config, maps, params):
    frames = maps.mean(axis=(2, 3))
    if config.head == "rnn":
        names = ("kernel", "recurrent", "bias", "recurrent_bias")
        weights = [params["lstm"][name] for name in names]
        zeros = np.zeros((len(maps), config.hidden_features))
        return recurrence_loop("lstm", frames, weights, [zeros, zeros])[0].mean(axis=1)
    b, n, h, w, d = maps.shape
    kernel = params["spatial"]["kernel"].reshape(h, w, d, -1)
    temporal = params["temporal"]["kernel"].reshape(3, -1)
    out = np.zeros((b, d))
    for item in range(b):
        a = [
            np.einsum("hwd,hwdf->f", frame, kernel) + params["spatial"]["bias"]
            for frame in maps[item]
        ]
        a = [np.maximum(x, 0) for x in a]
        scores = np.zeros(n)
        for t in range(n):
            taps = [a[t + k - 1] @ temporal[k] for k in range(3) if 0 <= t + k - 1 < n]
            scores[t] = max(0, sum(taps) + params["temporal"]["bias"][0])
        weights = np.exp(scores) / np.exp(scores).sum()
        out[item] = sum(weight * frame for weight, frame in zip(weights, frames[item]))
    return out


@pytest.mark.parametrize("head", ["ta", "rnn"])
def test_the_heads_are_their_equations(head):
    config = dataclasses.replace(TINY, head=head)
    maps = np.random.default_rng(7).normal(size=(2, 4, 3, 2, 12))
    module = cosam.Head(config, jnp.float32)
    variables = module.init(jax.random.key(1), jnp.float32(maps))
    variables = jax.tree.map(lambda leaf: 2 * leaf, variables)
    want = head_loop(config, maps, float64(variables["params"]))
    np.testing.assert_allclose(module.apply(variables, jnp.float32(maps)), want, atol=1e-5)


def test_temporal_pooling_is_the_mean_over_places_and_frames():
    maps = jnp.float32(np.random.default_rng(8).normal(size=(2, 4, 3, 2, 12)))
    np.testing.assert_allclose(
        cosam.Head(TINY, jnp.float32).apply({}, maps), maps.mean(axis=(1, 2, 3)), atol=1e-6
    )


def test_without_modules_the_backbone_is_left():
    batch = clips()
    model, variables = built(dataclasses.replace(TINY, blocks=()), batch)
    assert set(variables["params"]) == {"backbone", "classifier"}
    backbone = cosam.ResNet((1, 1, 1, 1), 4, last_stride=1)
    frames = batch.images.reshape(-1, 64, 32, 3)
    of_backbone = {name: variables[name]["backbone"] for name in variables}
    maps, _ = jax.jit(partial(backbone.apply, train=False))(of_backbone, frames)
    want = maps.mean(axis=(1, 2)).reshape(4, 3, -1).mean(axis=1)
    np.testing.assert_allclose(jax.jit(model.features)(variables, batch), want, atol=1e-5)
    assert model.explain is None


@pytest.mark.slow
def test_a_module_stands_after_its_block():
    """A mask of almost one and a gate of almost zero change nothing."""
    batch = clips()
    plain, variables = built(dataclasses.replace(TINY, blocks=()), batch)
    model, with_modules = built(dataclasses.replace(TINY, blocks=(1, 2, 3, 4, 5)), batch)
    assert {"cosam1", "cosam2", "cosam3", "cosam4", "cosam5"} < set(with_modules["params"])
    with_modules["params"] |= variables["params"]
    for name in [name for name in with_modules["params"] if name.startswith("cosam")]:
        module = with_modules["params"][name]
        for layer, bias in (("summary", 20.0), ("channel", -20.0)):
            module[layer] = jax.tree.map(jnp.zeros_like, module[layer])
            module[layer]["bias"] += bias
    got = jax.jit(model.features)(with_modules, batch)
    want = jax.jit(plain.features)(variables, batch)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_papers_sum():
    """In inference mode of the backbone and without modules, from the features alone."""
    batch = clips()
    config = dataclasses.replace(TINY, blocks=(), margin=0.7, label_smoothing=0.2)
    model, variables = built(config, batch, frozen=True)
    value, (_, metrics) = jax.jit(model.loss)(variables, batch, jax.random.key(1), jnp.int32(0))
    x = np.asarray(jax.jit(model.features)(variables, batch), np.float64)
    distmat = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=-1))
    want = losses.batch_hard_triplet(jnp.float32(distmat), batch.pids, 0.7)
    np.testing.assert_allclose(metrics["triplet"], want, rtol=1e-3)
    logits = linear(x, float64(variables["params"]["classifier"]))
    want = losses.cross_entropy(jnp.float32(logits), batch.pids, 0.2)
    np.testing.assert_allclose(metrics["cross_entropy"], want, rtol=1e-4)
    np.testing.assert_allclose(value, metrics["triplet"] + metrics["cross_entropy"], rtol=1e-6)


def test_modules_learn_through_a_frozen_backbone():
    batch = clips()
    model, variables = built(TINY, batch, frozen=True)

    def loss(params):
        variables_ = {**variables, "params": params}
        return model.loss(variables_, batch, jax.random.key(1), jnp.int32(0))

    grads, (state, _) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads["backbone"]))
    assert jnp.abs(grads["cosam4"]["reduce"]["kernel"]).max() > 0
    before, after = variables["batch_stats"], state["batch_stats"]
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool((a == b).all()), before["backbone"], after["backbone"])
    )
    assert (before["cosam4"]["reduce_bn"]["mean"] != after["cosam4"]["reduce_bn"]["mean"]).any()


def test_masks_lie_on_the_frames():
    batch = clips()
    model, variables = built(TINY, batch)
    explain = jax.jit(model.explain)
    maps = explain(variables, batch)
    assert {name: m.weights.shape for name, m in maps.items()} == {
        "cosam4": (4, 3, 4, 2),
        "cosam5": (4, 3, 4, 2),
    }
    assert {(m.over, m.shown) for m in maps.values()} == {("frames", "range")}
    assert all(((m.weights > 0) & (m.weights < 1)).all() for m in maps.values())
    # A frame that is like the others is not masked as one that is not.
    alike = batch._replace(images=jnp.broadcast_to(batch.images[:, :1], batch.images.shape))
    weights = explain(variables, alike)["cosam4"].weights
    np.testing.assert_allclose(weights[:, 0], weights[:, 1], atol=1e-5)
    assert jnp.abs(weights[:, 0] - maps["cosam4"].weights[:, 0]).max() > 1e-4


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_clips_of_another_length_or_size_are_named(variant):
    model, variables = built(dataclasses.replace(TINY, variant=variant), clips())
    for batch, got in (
        (clips(frames=4), "24 .4 frames, maps of 4 x 2."),
        (clips(height=96), "24 .3 frames, maps of 6 x 2."),
    ):
        with pytest.raises(UserError, match=f"cosam4 compares .* 16 others and got {got}"):
            jax.eval_shape(model.features, variables, batch)


def test_single_frames_and_images_are_named():
    model = TINY.make(2)
    with pytest.raises(UserError, match=r"cosam4 .* got 1: expected config\.data\.clip_length=2"):
        jax.eval_shape(model.init, jax.random.key(0), clips(frames=1))
    images = clips()
    images = images._replace(images=images.images[:, 0])
    with pytest.raises(UserError, match="compares the frames of clips and got images"):
        model.init(jax.random.key(0), images)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocks", (0,)),
        ("blocks", (4, 6)),
        ("blocks", (4, 4)),
        ("last_stride", 3),
        ("reduced", 4),
        ("margin", -0.1),
        ("label_smoothing", 1.0),
        ("backbone_layers", (3, 4, 6)),
        ("backbone_width", 0),
    ],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(UserError, match=rf"^config\.model\.{field}="):
        dataclasses.replace(TINY, **{field: value}).validate()


def test_possible_values_are_not():
    cosam.Config().validate()
    dataclasses.replace(TINY, blocks=()).validate()
    assert cosam.Config(backbone="resnet50").arch == "resnet50"
