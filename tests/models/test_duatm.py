import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import losses, ops
from jaxreid.errors import UserError
from jaxreid.models import duatm
from jaxreid.types import Batch

TINY = duatm.Config(dim=8, backbone_layers=(1, 1, 1, 1), backbone_growth=4, backbone_stem=8)


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def random_batch(n=4, height=64, width=32):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (n, height, width, 3), np.uint8)
    return Batch(jnp.asarray(images), jnp.arange(n) // 2, jnp.ones(n, int))


@pytest.fixture(scope="module")
def tiny():
    model, batch = TINY.make(2), random_batch()
    return model, jax.jit(model.init)(jax.random.key(0), batch), batch


def test_the_papers_network_has_the_papers_parameters():
    model = duatm.Config().make(751)
    batch = Batch(*(jax.ShapeDtypeStruct(s, jnp.uint8) for s in ((1, 256, 128, 3), (1,), (1,))))
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    params = variables["params"]
    assert size(params["backbone"]) == 6_953_856
    assert size(params["embedding"]) == 262_400
    assert size(params["transform"]) == 65_792
    assert size(params["transform_norm"]) == 512
    assert size(params["classifier"]) == 193_007
    assert size(params) == 7_475_567
    features = jax.eval_shape(model.features, variables, batch)
    assert features.x.shape == features.filters.shape == features.refined.shape == (1, 32, 256)


def test_features_are_unit_vectors_and_their_refinement(tiny):
    model, variables, batch = tiny
    feats = model.features(variables, batch)
    np.testing.assert_allclose(jnp.linalg.norm(feats.x, axis=-1), 1, atol=1e-5)
    assert (feats.filters >= 0).all()
    np.testing.assert_allclose(feats.refined, ops.attend(feats.filters, feats.x), atol=1e-6)


def test_the_loss_is_the_papers_sum(tiny):
    _, variables, batch = tiny
    config = duatm.Config(**{**vars(TINY), "lambda1": 0.3, "lambda2": 0.9})
    value, (_, metrics) = config.make(2).loss(variables, batch, jax.random.key(1), jnp.int32(0))
    want = metrics["triplet"] + 0.3 * metrics["decorrelation"] + 0.9 * metrics["cross_entropy"]
    np.testing.assert_allclose(value, want, rtol=1e-6)


def test_triplets_are_mined_on_the_distance_that_is_trained(tiny):
    """In inference mode the loss's own terms can be computed from the features."""
    _, variables, batch = tiny
    frozen = TINY.make(2, frozen=True)
    _, (_, metrics) = frozen.loss(variables, batch, jax.random.key(1), jnp.int32(0))
    x = frozen.features(variables, batch).x
    np.testing.assert_allclose(metrics["decorrelation"], losses.decorrelation(x), rtol=1e-5)

    # The transform's BatchNorm uses the batch: Eq. (1) by hand, over all B x S vectors.
    t = variables["params"]["transform"]
    y = np.asarray(x.reshape(-1, 8) @ t["kernel"] + t["bias"][None], np.float64)
    q = np.maximum((y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5), 0).reshape(x.shape)
    feats = ops.FeatureSequence(x, jnp.float32(q), ops.attend(jnp.float32(q), x))
    distmat = ops.dual_attention_distmat(feats, feats)
    want = losses.batch_hard_triplet(distmat, batch.pids, 0.2)
    np.testing.assert_allclose(metrics["triplet"], want, atol=2e-4)


def test_intra_and_inter_leave_out_one_attention():
    rng = np.random.default_rng(0)
    x, q, y, r = (jnp.float32(rng.normal(size=(5, 8))) for _ in range(4))
    a, b = (ops.FeatureSequence(s, f, ops.attend(f, s)) for s, f in ((x, q), (y, r)))
    intra = np.mean(np.linalg.norm(a.refined - b.refined, axis=1))
    inter = (
        np.linalg.norm(x - ops.attend(q, y), axis=1).mean() / 2
        + np.linalg.norm(y - ops.attend(r, x), axis=1).mean() / 2
    )
    np.testing.assert_allclose(duatm.intra_distance(a, b), intra, rtol=1e-5)
    np.testing.assert_allclose(duatm.inter_distance(a, b), inter, rtol=1e-5)


def test_average_pooling_matches_mean_vectors(tiny):
    _, variables, batch = tiny
    average = duatm.Config(**{**vars(TINY), "matching": "average"}).make(2)
    x = TINY.make(2).features(variables, batch).x
    feats = average.features(variables, batch)
    np.testing.assert_allclose(feats, x.mean(axis=1), atol=1e-6)
    want = np.linalg.norm(feats[:, None] - feats[None], axis=-1)
    np.testing.assert_allclose(average.distance(variables, feats, feats), want, atol=1e-3)
    assert average.explain is None


def test_explain_shows_where_each_position_looked(tiny):
    model, variables, batch = tiny
    maps = model.explain(variables, batch)
    assert {name: m.over for name, m in maps.items()} == {
        "reference": "self",
        "intra": "self",
        "inter": "partner",
    }
    feats = model.features(variables, batch)
    for item, partner in ((0, 1), (1, 0), (2, 3), (3, 2)):
        for name, memory in (("intra", item), ("inter", partner)):
            weights = maps[name].weights[item]
            assert weights.shape == (2, 2, 1)
            want = ops.attention_weights(feats.filters[item], feats.x[memory])
            np.testing.assert_allclose(weights.reshape(2, 2), want, atol=1e-6)
    np.testing.assert_array_equal(maps["reference"].weights[0].reshape(2, 2), np.eye(2))


def test_the_flipped_features_are_those_of_both_images(tiny):
    model, variables, batch = tiny
    grid = (2, 1)
    own = model.features(variables, batch).x.reshape(4, *grid, 8)
    mirrored = batch._replace(images=batch.images[:, :, ::-1])
    other = model.features(variables, mirrored).x.reshape(4, *grid, 8)[:, :, ::-1]
    mean = own + other
    want = mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
    got = TINY.make(2, flip=True).features(variables, batch).x
    np.testing.assert_allclose(got, want.reshape(4, 2, 8), atol=1e-5)


def clips(sequence):
    """A tiny network of frames, its variables, and two clips."""
    config = duatm.Config(**{**vars(TINY), "sequence": sequence})
    images = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 32, 3), np.uint8)
    batch = Batch(jnp.asarray(images), jnp.arange(2), jnp.ones(2, int))
    return config, jax.jit(config.make(2).init)(jax.random.key(0), batch), batch


@pytest.fixture(scope="module")
def gru():
    return clips("gru")


def test_explain_shows_what_frames_saw_in_both_clips(gru):
    config, variables, batch = gru
    model = config.make(2)
    maps = model.explain(variables, batch)
    assert list(maps) == [f"{whose} frame {k}" for k in (1, 2, 3) for whose in ("own", "other's")]
    assert {m.over for m in maps.values()} == {"frames"}
    feats = model.features(variables, batch)
    for k in range(3):
        for whose, other in (("own", 0), ("other's", 1)):
            for item in range(2):  # What frame k of a clip saw in the frames of this one.
                filters = feats.filters[(item + other) % 2]
                want = ops.attention_weights(filters, feats.x[item])[k]
                got = maps[f"{whose} frame {k + 1}"].weights[item, :, 0, 0]
                np.testing.assert_allclose(got, want, atol=1e-6)


def frame_vectors(config, variables, images):
    """The mean of the backbone's map, of every frame, in float64."""
    network = duatm.Network(config, 2, jnp.float32)
    frames = images.reshape(-1, *images.shape[2:])
    maps, _ = jax.jit(
        lambda v, x: network.apply(v, x, method=lambda m, x: m.backbone(x, train=False))
    )(variables, frames)
    return np.asarray(maps, np.float64).mean(axis=(1, 2)).reshape(*images.shape[:2], -1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(cell, kernel, recurrent, bias, recurrent_bias, x, state):
    """One frame, as PyTorch's documentation writes the cell; only the LSTM has a cell c."""
    h, c = state
    own = [x @ w + b for w, b in zip(kernel, bias)]
    past = [h @ w + b for w, b in zip(recurrent, recurrent_bias)]
    if cell == "rnn":
        return np.tanh(own[0] + past[0]), c
    if cell == "gru":
        r, z = (sigmoid(own[k] + past[k]) for k in (0, 1))
        n = np.tanh(own[2] + r * past[2])
        return (1 - z) * n + z * h, c
    i, f, o = (sigmoid(own[k] + past[k]) for k in (0, 1, 3))
    c = f * c + i * np.tanh(own[2] + past[2])
    return o * np.tanh(c), c


def sequence(config, variables, images):
    """Section 3.1 for a clip, one frame after another."""
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[config.sequence]
    half = config.dim // 2
    x = frame_vectors(config, variables, images)
    out = np.zeros((*x.shape[:2], config.dim))
    length = x.shape[1]
    orders = {"": range(length), "_reverse": reversed(range(length))}
    for direction, (suffix, order) in enumerate(orders.items()):
        weights = [
            np.split(np.asarray(variables["params"]["recurrent"][name + suffix], float), gates, -1)
            for name in ("kernel", "recurrent", "bias", "recurrent_bias")
        ]
        state = np.zeros((len(x), half)), np.zeros((len(x), half))
        for t in order:
            state = step(config.sequence, *weights, x[:, t], state)
            out[:, t, direction * half : (direction + 1) * half] = state[0]
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_a_clip_is_a_sequence_of_its_frames(cell):
    config, variables, batch = clips(cell)
    x = jax.jit(config.make(2).features)(variables, batch).x
    assert x.shape == (2, 3, 8)  # S = T
    np.testing.assert_allclose(x, sequence(config, variables, batch.images), atol=2e-6)


def test_flipped_clips_average_the_vectors_of_their_frames(gru):
    config, variables, batch = gru
    both = sequence(config, variables, batch.images)
    both = both + sequence(config, variables, batch.images[..., ::-1, :])
    want = both / np.linalg.norm(both, axis=-1, keepdims=True)
    got = jax.jit(config.make(2, flip=True).features)(variables, batch)
    np.testing.assert_allclose(got.x, want, atol=2e-6)


def test_the_recurrent_layer_learns_on_a_frozen_backbone(gru):
    config, variables, batch = gru
    model = config.make(2, frozen=True)
    batch = batch._replace(images=jnp.concatenate([batch.images, batch.images[:, ::-1]]))
    batch = batch._replace(pids=jnp.arange(4) % 2, camids=jnp.ones(4, int))

    @jax.jit
    def gradient(params):
        return jax.grad(
            lambda p: model.loss(
                {**variables, "params": p}, batch, jax.random.key(1), jnp.int32(0)
            ),
            has_aux=True,
        )(params)

    grads, (state, _) = gradient(variables["params"])
    assert all((g == 0).all() for g in jax.tree.leaves(grads["backbone"]))
    assert all((g != 0).any() for g in jax.tree.leaves(grads["recurrent"]))
    before = variables["batch_stats"]["backbone"]
    jax.tree.map(np.testing.assert_array_equal, state["batch_stats"]["backbone"], before)


def test_the_papers_network_for_clips():
    model = duatm.Config(sequence="gru").make(625)
    batch = Batch(*(jax.ShapeDtypeStruct(s, jnp.uint8) for s in ((1, 5, 128, 64, 3), (1,), (1,))))
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    params = variables["params"]
    assert params["recurrent"]["kernel"].shape == (1024, 3 * 128)
    assert size(params["recurrent"]) == 886_272
    assert size(params["backbone"]) == 6_953_856
    assert jax.eval_shape(model.features, variables, batch).x.shape == (1, 5, 256)


def test_two_directions_need_an_even_width():
    duatm.Config(dim=9).validate()
    with pytest.raises(UserError, match=r"config.model.dim=9: .*even for two directions"):
        duatm.Config(dim=9, sequence="gru").validate()


def test_images_and_clips_are_not_mixed_up(gru, tiny):
    with pytest.raises(UserError, match=r"sequence='gru': expected clips .*\(4, 64, 32, 3\)"):
        gru[0].make(2).features(gru[1], tiny[2])
    with pytest.raises(UserError, match=r"sequence='positions': expected images"):
        tiny[0].features(tiny[1], gru[2])
