"""JST-RNN against its equations in float64, from the maps of CaffeNet on."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreid import ops, sharding
from jaxreid.backbones import CaffeNet
from jaxreid.errors import UserError
from jaxreid.models import jst_rnn
from jaxreid.models.jst_rnn import ClipFeatures
from jaxreid.types import Batch
from tests.ops.test_recurrence import lstm_step
from tests.ops.test_spatial import D, cell_by_cell, one_chain
from tests.test_losses import semi_hard_loop

TINY = jst_rnn.Config(
    attention_features=5,
    hidden_features=6,
    srm_features=3,
    srm_hidden=D,
    metric_features=7,
    fc=8,
    dropout=0.0,
    backbone_widths=(4, 8, 8, 8, 8),
)
# Table 2.
ROWS = {
    "CNN": {"feature": "mean", "metric": "none"},
    "CNN+RNN": {"feature": "rnn", "metric": "none"},
    "CNN+TAM": {"feature": "tam", "metric": "none"},
    "CNN+DIFF": {"feature": "none", "metric": "diff"},
    "CNN+SRM": {"feature": "none", "metric": "srm"},
    "ALL": {"feature": "tam", "metric": "srm"},
}
METRICS = [("srm", "signed"), ("srm", "abs"), ("diff", "signed"), ("diff", "abs")]
# Frames and maps of a clip; CaffeNet makes 2 x 2 of 72 x 72.
T, H, W, C = 3, 2, 2, 8


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def clips(n=4, frames=T, height=72, width=72, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (n, frames, height, width, 3), np.uint8)
    return Batch(jnp.asarray(images), jnp.arange(n) // 2, jnp.ones(n, int))


def shapes(config, length=6, side=227):
    """Variables and features of a clip, as shapes."""
    model = config.make(625)
    batch = Batch(
        jax.ShapeDtypeStruct((1, length, side, side, 3), jnp.uint8),
        *[jax.ShapeDtypeStruct((1,), jnp.int32)] * 2,
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    return variables, jax.eval_shape(model.features, variables, batch)


@cache
def built(**changes):
    """A tiny model, and variables away from their start, so that biases count."""
    config = dataclasses.replace(TINY, **changes)
    model = config.make(2)
    variables = jax.jit(model.init)(jax.random.key(0), clips())
    leaves, tree = jax.tree.flatten(variables["params"])
    rng = np.random.default_rng(1)
    moved = [leaf + jnp.float32(rng.uniform(-0.2, 0.2, leaf.shape)) for leaf in leaves]
    return config, model, {**variables, "params": jax.tree.unflatten(tree, moved)}


def remade(**changes):
    return dataclasses.replace(TINY, **changes).make(2)


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def linear(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def draw(n, seed=0):
    """F and pool5 of some clips."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 6)), rng.normal(size=(n, T, H, W, C))


def encode(config, variables, vectors, pool5):
    """What the model keeps of such clips."""
    pair = jst_rnn.PairNetwork(config, jnp.float32)
    params = {"params": variables["params"]["pair"]}
    return ClipFeatures(
        jnp.float32(vectors), pair.apply(params, jnp.float32(pool5), method="encode")
    )


def probability_loop(config, params, first, second):
    """M of one pair in one order, from its pool5; sweeps cell by cell."""
    delta = first - second
    x = linear(np.abs(delta) if config.difference == "abs" else delta, params["reduce"])
    if config.metric == "srm":
        names = ("kernel", "recurrent", "bias", "recurrent_bias")
        directions = ("forward", "backward", "rightward", "leftward", "downward", "upward")
        weights = [[params["sweeps"][k][name] for name in names] for k in directions]
        sweep = {"lines": cell_by_cell, "raster": one_chain}[config.sweep]
        x = linear(sweep(x[None], weights)[0], params["context"])
    x = np.maximum(linear(x.reshape(-1), params["fc"]), 0)
    different, same = np.exp(linear(x, params["verdict"]))
    return same / (same + different)


def similarity_loop(config, params, first, second):
    """S of Eq. (2), M averaged over both orders; `first` and `second` hold F and pool5."""
    m = np.mean(
        [
            probability_loop(config, params, first[1], second[1]),
            probability_loop(config, params, second[1], first[1]),
        ]
    )
    units = [vector / np.linalg.norm(vector) for vector in (first[0], second[0])]
    return 1 / (1 + np.linalg.norm(units[0] - units[1])) + config.test_lambda * m


def test_the_papers_network_has_its_parameters():
    variables, features = shapes(jst_rnn.Config())
    params = variables["params"]
    pair, tam = params["pair"], params["tam"]
    assert size(params["backbone"]) == 2_334_080
    assert size(params["fc6"]) + size(params["fc7"]) == 10_487_808
    assert size(tam) - size(tam["lstm"]) == 787_456
    assert size(tam["lstm"]) == 3_149_824
    assert size(pair["reduce"]) + size(pair["context"]) == 131_328
    assert size(pair["sweeps"]) == 792_576
    assert size(pair["fc"]) + size(pair["verdict"]) == 14_157_314
    assert size(params) == 31_840_386
    assert pair["fc"]["kernel"].shape == (27_648, 512)
    assert params["fc6"]["kernel"].shape == (6 * 6 * 256, 1024)
    assert features.vector.shape == (1, 512)
    assert features.maps.shape == (1, 6, 6, 6, 128)
    assert {leaf.dtype for leaf in features} == {jnp.dtype("float32")}
    for part in (*[f"{size(pair['sweeps']):,}", f"{size(params):,}"], "10,487,808", "14,157,314"):
        assert part in jst_rnn.__doc__


@pytest.mark.parametrize(
    ("row", "parameters"),
    [
        ("CNN", 12_821_888),
        ("CNN+RNN", 12_821_888 + 3_149_824),
        ("CNN+TAM", 12_821_888 + 3_149_824 + 787_456),
        ("CNN+DIFF", 2_334_080 + 32_896 + 14_157_314),
        ("CNN+SRM", 2_334_080 + 131_328 + 792_576 + 14_157_314),
    ],
)
def test_each_row_of_the_table_has_its_own_parts_only(row, parameters):
    variables, features = shapes(jst_rnn.Config(**ROWS[row]))
    assert size(variables["params"]) == parameters
    assert (features.vector is None) == (ROWS[row]["feature"] == "none")
    assert (features.maps is None) == (ROWS[row]["metric"] == "none")


@pytest.mark.parametrize(
    ("metric", "difference", "sweep"),
    [*((*each, "lines") for each in METRICS), ("srm", "signed", "raster")],
)
def test_the_distance_is_the_papers_similarity(metric, difference, sweep):
    changes = {"metric": metric, "difference": difference, "sweep": sweep}
    config, model, variables = built(**changes, test_lambda=0.7)
    params = float64(variables["params"]["pair"])
    vectors, pool5 = draw(5)
    items = encode(config, variables, vectors, pool5)
    queries, gallery = (jax.tree.map(lambda x, s=s: x[s], items) for s in (slice(2), slice(2, 5)))
    got = jax.jit(model.distance)(variables, queries, gallery)
    want = [
        [
            1
            + 0.7
            - similarity_loop(config, params, (vectors[i], pool5[i]), (vectors[j], pool5[j]))
            for j in range(2, 5)
        ]
        for i in range(2)
    ]
    np.testing.assert_allclose(got, want, atol=2e-5)
    assert np.ptp(want) > 1e-2


def test_a_stream_that_is_left_out_takes_its_term_with_it():
    config, _, variables = built()
    vectors, pool5 = draw(4)
    items = encode(config, variables, vectors, pool5)

    def distance(**changes):
        return remade(**changes).distance(variables, items, items)

    both, feature, metric = distance(), distance(metric="none"), distance(feature="none")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    np.testing.assert_allclose(feature, 1 - 1 / (1 + apart), atol=5e-4)
    np.testing.assert_allclose(both, feature + metric, atol=1e-6)
    np.testing.assert_array_equal(distance(test_lambda=0.0), feature)
    assert metric.min() > 0.1


@pytest.mark.parametrize(("metric", "difference"), METRICS)
def test_a_block_is_every_pair_from_the_raw_maps(metric, difference):
    """Convolved once for each item and subtracted, against subtracted and then convolved."""
    config, model, variables = built(feature="none", metric=metric, difference=difference)
    _, pool5 = draw(7, seed=3)
    items = encode(config, variables, np.zeros((7, 6)), pool5)
    got = jax.jit(model.distance)(variables, items, items)
    params = variables["params"]["pair"]

    def raw(first, second):
        x = jnp.float32(first - second)[None]
        x = linear(jnp.abs(x) if difference == "abs" else x, with_rank(params["reduce"], 5))
        if metric == "srm":
            six = ops.SixDirections(
                *(
                    ops.RecurrentWeights(**params["sweeps"][name])
                    for name in ops.SixDirections._fields
                )
            )
            x = linear(ops.six_direction_lstm(x, six), with_rank(params["context"], 5))
        x = jax.nn.relu(linear(x.reshape(1, -1), with_rank(params["fc"], 2)))
        return jax.nn.softmax(linear(x, with_rank(params["verdict"], 2)), axis=-1)[0, 0]

    raw = jax.jit(raw)
    for i in range(7):
        for j in range(7):
            want = (raw(pool5[i], pool5[j]) + raw(pool5[j], pool5[i])) / 2
            assert got[i, j] == pytest.approx(float(want), abs=1e-4)


def with_rank(layer, rank):
    return {
        "kernel": layer["kernel"],
        "bias": jnp.expand_dims(layer["bias"], tuple(range(rank - 1))),
    }


@pytest.mark.parametrize("difference", ["signed", "abs"])
def test_m_of_two_equal_clips_is_a_constant(difference):
    config, model, variables = built(feature="none", difference=difference)
    vectors, pool5 = draw(4)
    items = encode(config, variables, vectors, pool5)
    of_itself = np.diagonal(model.distance(variables, items, items))
    params = float64(variables["params"]["pair"])
    zeros = np.zeros((T, H, W, C))
    np.testing.assert_allclose(
        of_itself, 1 - probability_loop(config, params, zeros, zeros), atol=1e-5
    )
    assert np.ptp(of_itself) < 1e-7


def test_the_order_negates_and_is_averaged():
    config, model, variables = built()
    vectors, pool5 = draw(4)
    items = encode(config, variables, vectors, pool5)
    pair = jst_rnn.PairNetwork(config, jnp.float32)
    params = {"params": variables["params"]["pair"]}
    delta = items.maps[:2] - items.maps[2:]
    ahead = pair.apply(params, delta, train=False, method="same")
    back = pair.apply(params, -delta, train=False, method="same")
    swapped = pair.apply(params, items.maps[2:] - items.maps[:2], train=False, method="same")
    np.testing.assert_allclose(back, swapped, atol=1e-6)
    assert jnp.abs(ahead - back).max() > 1e-3
    distmat = model.distance(variables, items, items)
    np.testing.assert_allclose(distmat, distmat.T, atol=1e-6)


def test_s_lies_between_a_third_and_two():
    config, model, variables = built()
    vectors, pool5 = draw(4)
    vectors[1], pool5[1] = vectors[0], pool5[0]
    vectors[2] = -vectors[0]  # as far apart as two unit vectors can be
    items = encode(config, variables, vectors * 100, pool5 * 100)
    similarity = 2 - np.asarray(model.distance(variables, items, items))
    assert (similarity > 1 / 3).all()
    assert (similarity <= 2).all()
    of_feature = 1 - remade(metric="none").distance(variables, items, items)
    assert of_feature[0, 1] == pytest.approx(1, abs=1e-3)
    assert of_feature[0, 2] == pytest.approx(1 / 3, abs=1e-5)


def feature_loop(config, params, pool5):
    """F of one clip from its pool5; one frame, one step at a time."""
    names = ("kernel", "recurrent", "bias", "recurrent_bias")
    frames = []
    for frame in pool5:
        fc6 = np.maximum(linear(frame.reshape(-1), params["fc6"]), 0)
        frames.append(np.maximum(linear(fc6, params["fc7"]), 0))
    if config.feature == "mean":
        return np.mean(frames, axis=0), None
    state, outputs, omegas = (np.zeros(6), np.zeros(6)), [], []
    tam = params.get("tam")
    lstm = tam["lstm"] if tam else params["lstm"]
    for frame in frames:
        if tam:
            units = [
                np.tanh(f @ tam["kernel"] + state[0] @ tam["recurrent"] + tam["bias"])
                for f in frames
            ]
            scores = np.exp([tam["score"] @ unit for unit in units])
            omegas.append(scores / scores.sum())
            frame = sum(weight * f for weight, f in zip(omegas[-1], frames))
        state = lstm_step(frame, state, *[lstm[name] for name in names])
        outputs.append(state[0])
    return np.mean(outputs, axis=0), np.mean(omegas, axis=0) if tam else None


@pytest.mark.parametrize("feature", ["mean", "rnn", "tam"])
def test_the_features_are_their_equations(feature):
    config, model, variables = built(feature=feature, metric="none")
    batch = clips()
    got = jax.jit(model.features)(variables, batch)
    of_backbone = {name: variables[name]["backbone"] for name in variables}
    backbone = CaffeNet(TINY.backbone_widths)
    frames = batch.images.reshape(-1, 72, 72, 3)
    pool5, _ = jax.jit(lambda v, x: backbone.apply(v, x, train=False))(of_backbone, frames)
    pool5 = float64(pool5).reshape(4, T, H, W, C)
    wanted = [feature_loop(config, float64(variables["params"]), clip) for clip in pool5]
    np.testing.assert_allclose(got.vector, [vector for vector, _ in wanted], rtol=1e-4, atol=2e-5)
    if feature == "tam":
        weights = jax.jit(model.explain)(variables, batch)["frames"].weights
        assert weights.shape == (4, T, 1, 1)
        np.testing.assert_allclose(weights[..., 0, 0], [omega for _, omega in wanted], atol=2e-5)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    else:
        assert model.explain is None


def test_frames_are_a_set_to_the_temporal_attention():
    _, model, variables = built(metric="none")
    batch = clips()
    features = jax.jit(model.features)
    shuffled = batch._replace(images=batch.images[:, jnp.array([2, 0, 1])])
    np.testing.assert_allclose(
        features(variables, batch).vector, features(variables, shuffled).vector, atol=1e-5
    )


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_the_table_trains(row):
    config = dataclasses.replace(TINY, **ROWS[row], fc=16, metric_features=16, margin=1.0)
    batch = clips(n=8, frames=2)
    model = config.make(4)
    params = jax.jit(model.init)(jax.random.key(0), batch)
    rest = {name: params[name] for name in params if name != "params"}
    params = params["params"]
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, opt_state, key):
        def loss(params):
            return model.loss({**rest, "params": params}, batch, key, jnp.int32(0))

        (value, (state, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        assert state == {}
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, grads, {**metrics, "loss": value}

    opt_state, history = optimizer.init(params), []
    for key in jax.random.split(jax.random.key(1), 12):
        params, opt_state, grads, metrics = step(params, opt_state, key)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        history.append(float(metrics["loss"]))
    assert np.mean(history[-3:]) < np.mean(history[:3])
    feature, metric = ROWS[row].values()
    assert ("triplet" in metrics) == (feature != "none")
    assert ("verification" in metrics) == ("accuracy" in metrics) == (metric != "none")


@pytest.mark.parametrize(
    ("pids", "complete"),
    [([0, 0, 1, 1, 2, 2], [0, 1, 2]), ([0, 0, 0, 1, 1, 1], [0, 2]), ([0, 0, 0, 0, 0, 0], [])],
)
def test_the_loss_is_the_papers(pids, complete):
    """From the features, without dropout, and with differences that have no order."""
    config, model, variables = built(
        difference="abs", margin=0.3, metric_weight=0.5, feature="mean", metric="diff"
    )
    batch = clips(n=6)._replace(pids=jnp.array(pids))
    run = jax.jit(model.loss)
    value, (_, metrics) = run(variables, batch, jax.random.key(1), jnp.int32(0))
    features = jax.jit(model.features)(variables, batch)
    f = float64(features.vector)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    squares = ((f[:, None] - f[None]) ** 2).sum(axis=-1)
    triplets = semi_hard_loop(squares, pids)
    assert [a // 2 for a, _, _ in triplets] == complete
    hinges = [max(0, 0.3 + squares[a, p] - squares[a, n]) for a, p, n in triplets]
    triplet = np.mean(hinges) if hinges else 0
    params, maps = float64(variables["params"]["pair"]), float64(features.maps)
    m = {
        (i, j): probability_loop(config, params, maps[i], maps[j])
        for i in range(6)
        for j in range(6)
    }
    terms = [-np.log(m[a, p]) / 2 - np.log(1 - m[a, n]) / 2 for a, p, n in triplets]
    verification = np.mean(terms) if terms else 0
    right = [(m[a, p] > 0.5) / 2 + (m[a, n] <= 0.5) / 2 for a, p, n in triplets]
    np.testing.assert_allclose(metrics["triplet"], triplet, rtol=1e-4)
    np.testing.assert_allclose(metrics["verification"], verification, rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"], np.mean(right) if right else 0, atol=1e-6)
    np.testing.assert_allclose(value, triplet + 0.5 * verification, rtol=1e-4)


def test_pairs_of_one_camera_are_left_out():
    """Where they may be no positives, the loss is that of the other pairs alone."""
    _, model, variables = built(difference="abs", feature="mean", metric="diff")
    batch = clips(n=6)._replace(pids=jnp.array([0, 0, 1, 1, 2, 2]))
    run = jax.jit(model.loss)

    def terms(camids):
        camids = jnp.array(camids)
        apart = batch._replace(positives=camids[:, None] != camids[None])
        return run(variables, apart, jax.random.key(1), jnp.int32(0))[1][1]

    plain = run(variables, batch, jax.random.key(1), jnp.int32(0))[1][1]
    each = [
        terms(camids) for camids in ([1, 2, 1, 1, 1, 1], [1, 1, 1, 2, 1, 1], [1, 1, 1, 1, 1, 2])
    ]
    for name, value in plain.items():
        assert value == pytest.approx(np.mean([float(one[name]) for one in each]), rel=1e-5)
        assert terms([1, 2, 1, 2, 1, 2])[name] == value
        assert terms([1] * 6)[name] == 0


def test_the_order_of_pairs_is_drawn():
    _, model, variables = built()
    run = jax.jit(model.loss)
    values = [run(variables, clips(), jax.random.key(k), jnp.int32(0))[1][1] for k in range(6)]
    assert len({float(each["triplet"]) for each in values}) == 1
    assert len({float(each["verification"]) for each in values}) > 1


def test_dropout_is_drawn_in_training_only():
    _, model, variables = built(dropout=0.5, feature="mean", metric="none")
    run = jax.jit(model.loss)
    values = {float(run(variables, clips(), jax.random.key(k), jnp.int32(0))[0]) for k in range(4)}
    assert len(values) > 1
    without = remade(feature="mean", metric="none")
    got, want = (jax.jit(each.features)(variables, clips()).vector for each in (model, without))
    np.testing.assert_array_equal(got, want)


def test_random_negatives_are_of_other_persons():
    pids = jnp.array([0, 0, 1, 1, 1, 1, 2, 3])
    drawn = np.stack([jst_rnn.random_negatives(jax.random.key(k), pids) for k in range(200)])
    for place, person in enumerate((0, 1, 1, 2)):
        wanted = {i for i in range(8) if pids[i] != person}
        assert set(drawn[:, place].tolist()) == wanted


def test_the_vector_ranks_as_the_feature_stream():
    config, model, variables = built()
    vectors, pool5 = draw(5)
    items = encode(config, variables, vectors, pool5)
    got = model.vector(variables, items)
    np.testing.assert_allclose(jnp.linalg.norm(got, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        got * np.linalg.norm(vectors, axis=1, keepdims=True), vectors, atol=1e-5
    )


@pytest.mark.parametrize("difference", ["signed", "abs"])
def test_without_the_feature_stream_the_vector_is_what_is_subtracted(difference):
    config, model, variables = built(feature="none", difference=difference)
    vectors, pool5 = draw(3)
    items = encode(config, variables, vectors, pool5)._replace(vector=None)
    got = model.vector(variables, items)
    delta = np.asarray(items.maps)[:, None] - np.asarray(items.maps)[None]
    want = np.sqrt(np.square(delta).sum(axis=(2, 3, 4, 5)))
    np.testing.assert_allclose(
        np.linalg.norm(got[:, None] - got[None], axis=-1), want, rtol=1e-5, atol=1e-5
    )
    assert (want[~np.eye(3, dtype=bool)] > 1).all()


@pytest.mark.parametrize(("metric", "difference"), METRICS)
def test_equal_clips_are_dissimilar_nowhere(metric, difference):
    _, model, variables = built(feature="none", metric=metric, difference=difference)
    batch = clips()
    images = batch.images.at[1].set(batch.images[0])
    maps = jax.jit(model.explain)(variables, batch._replace(images=images))
    assert set(maps) == {"dissimilarity"}
    weights = maps["dissimilarity"].weights
    assert maps["dissimilarity"].over == "frames"
    assert weights.shape == (4, T, H, W)
    assert (weights[:2] == 0).all()
    assert (weights[2:] > 0).all()
    np.testing.assert_array_equal(weights[2], weights[3])


def test_mirrored_clips_have_mirrored_maps():
    config, _, variables = built()
    features = jax.jit(config.make(2, flip=True).features)
    batch = clips()
    mirrored = batch._replace(images=batch.images[:, :, :, ::-1])
    got, want = features(variables, mirrored), features(variables, batch)
    np.testing.assert_allclose(got.vector, want.vector, atol=1e-5)
    np.testing.assert_allclose(got.maps[:, :, :, ::-1], want.maps, atol=1e-5)
    assert jnp.abs(got.maps - want.maps).max() > 1e-3


def test_the_gallery_stays_divided():
    """No device gets the others' items, and a block at the paper's sizes fits."""
    config = jst_rnn.Config()
    model, (variables, _) = config.make(625), shapes(config)
    mesh = sharding.make_mesh(jax.devices()[:8])
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)

    def items(n):
        return ClipFeatures(
            jax.ShapeDtypeStruct((n, 512), jnp.float32),
            jax.ShapeDtypeStruct((n, 6, 6, 6, 128), jnp.float32),
        )

    compiled = (
        jax.jit(model.distance, in_shardings=(everywhere, everywhere, divided))
        .lower(variables, items(4), items(8 * 8))
        .compile()
    )
    assert "all-gather" not in compiled.as_text()
    # Eight items on each device: what a query needs with 64 of them is eight times as much.
    assert compiled.memory_analysis().temp_size_in_bytes < 0.75e9 / 8


@pytest.mark.parametrize("row", ["ALL", "CNN+DIFF"])
def test_clips_of_another_length_or_size_are_named(row):
    _, model, variables = built(**ROWS[row])
    with pytest.raises(
        UserError, match=r"compares 12 places .* got 16 \(4 frames, maps of 2 x 2\)"
    ):
        jax.eval_shape(model.features, variables, clips(frames=4))
    named = "fc6 takes 32 inputs" if row == "ALL" else r"12 places .* got 27 \(3 frames, .* 3 x 3"
    with pytest.raises(UserError, match=named):
        jax.eval_shape(model.features, variables, clips(height=112, width=112))


def test_images_and_odd_batches_are_named():
    _, model, variables = built()
    images = clips()
    images = images._replace(images=images.images[:, 0])
    with pytest.raises(
        UserError, match=r"compares clips and got images: .*config\.data\.clip_length"
    ):
        model.init(jax.random.key(0), images)
    odd = jax.tree.map(lambda x: x[:3], clips())
    with pytest.raises(UserError, match=r"a batch of 3 clips.* expected an even number"):
        model.loss(variables, odd, jax.random.key(0), jnp.int32(0))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("metric", {"feature": "none", "metric": "none"}),
        ("attention_features", {"attention_features": 0}),
        ("srm_hidden", {"srm_hidden": 0}),
        ("margin", {"margin": -0.1}),
        ("metric_weight", {"metric_weight": -1.0}),
        ("test_lambda", {"test_lambda": -1.0}),
        ("test_lambda", {"test_lambda": 0.0, "feature": "none"}),
        ("dropout", {"dropout": 1.0}),
        ("backbone_widths", {"backbone_widths": (8, 8, 8, 8)}),
        ("backbone_widths", {"backbone_widths": (8, 8, 8, 8, 7)}),
    ],
)
def test_impossible_values_are_named(field, changes):
    with pytest.raises(UserError, match=rf"^config\.model\.{field}="):
        dataclasses.replace(TINY, **changes).validate()


@pytest.mark.parametrize("row", ROWS)
def test_possible_values_are_not(row):
    config = jst_rnn.Config(**ROWS[row])
    config.validate()
    assert config.arch == "caffenet"
