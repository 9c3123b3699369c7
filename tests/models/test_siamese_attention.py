"""Where-and-When to Look against its corrected equations in float64, and against its sizes."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import losses, ops
from jaxreid.errors import UserError
from jaxreid.models import siamese_attention
from jaxreid.models.siamese_attention import Config, Encoder, Similarity, drop, moved
from jaxreid.types import Batch
from tests.ops.test_attention import softmax
from tests.ops.test_conv_gru import step_loop
from tests.ops.test_recurrence import sigmoid

TINY = Config(backbone="vgg16", backbone_width=4, kernels=(3, 3, 3), channels=(3, 4, 5))
B, T, K, C = 2, 3, 5, 6


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes(config):
    """Parameters and features of the paper's clip, as shapes."""
    model = config.make(625)
    batch = Batch(
        jax.ShapeDtypeStruct((1, 20, 224, 224, 3), jnp.uint8),
        *[jax.ShapeDtypeStruct((1,), jnp.int32)] * 2,
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    return variables["params"], jax.eval_shape(model.features, variables, batch)


def part(params, prefix):
    return size({name: leaf for name, leaf in params.items() if name.startswith(prefix)})


def test_the_papers_network_has_its_parameters():
    params, features = shapes(Config())
    encoder = params["encoder"]
    assert size(params["backbone"]) == 5_973_552
    assert [part(encoder, f"gru{layer}") for layer in (1, 2, 3)] == [
        3_981_312,
        7_372_800,
        9_830_400,
    ]
    assert encoder["where"].shape == (12_544, 49)  # 614,656
    assert part(encoder, "initial") == 1024 * 640 + 640
    assert encoder["when"].shape == (256,)
    assert (params["similarity"]["v"].shape, params["similarity"]["c"].shape) == ((12_544,), ())
    assert (features.shape, features.dtype) == ((1, 1, 12_544), jnp.float32)


@pytest.mark.parametrize(
    ("changes", "parameters", "backbone"),
    [
        ({"kernels": (5, 5, 5)}, 28_262_400, 5_973_552),
        # 3 x 3 x 3 (512 + 128) 128 in its first layer.
        ({"backbone": "vgg16"}, 21_184_512 - 9 * 512 * 3 * 128, 14_714_688),
        # Without its classifier: 138,357,544 - 4,097,000.
        ({"backbone": "vgg16", "recurrence": "fc"}, 2_310_144, 134_260_544),
        ({"recurrence": "fc"}, 3 * (1152 * 128 + 384 * 256 + 512 * 256), 5_973_552),
        ({"backbone": "googlenet_bn", "attention": False}, 21_184_512, 5_599_904),
    ],
)
def test_the_variants_have_their_parameters(changes, parameters, backbone):
    config = Config(**changes)
    params, features = shapes(config)
    assert part(params["encoder"], "gru") == parameters
    assert size(params["backbone"]) == backbone
    attends = config.recurrence == "conv" and config.attention
    assert ("where" in params["encoder"]) == attends
    assert features.shape == (1, 1, 256 if config.recurrence == "fc" else 12_544)


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def max3(x):
    """The largest of each place and its neighbours."""
    out = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(x.shape[1]):
            out[i, j] = x[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max(axis=(0, 1))
    return out


def max2(x):
    half = [n // 2 for n in x.shape[:2]]
    return np.array(
        [
            [x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max(axis=(0, 1)) for j in range(half[1])]
            for i in range(half[0])
        ]
    )


BETWEEN = {"max3": max3, "max2": max2, "none": lambda x: x}


def encoder_loop(config, maps, counted, params, handed_on=1.0):
    """Eqs. (3) to (7) of one clip, frame by frame. `handed_on`: of outputs, to stand for drop."""
    places = maps.shape[1] * maps.shape[2]
    g = places if config.rescale else 1
    between = BETWEEN[config.between_pool]
    mean = np.mean([x.mean(axis=(0, 1)) for x, real in zip(maps, counted) if real], axis=0)
    states, sizes = [], np.zeros(maps.shape[1:])
    for layer in (1, 2, 3):
        linear = params[f"initial{layer}"]
        h = np.tanh(mean @ linear["kernel"] + linear["bias"])  # Eq. (7)
        states.append(np.zeros((*sizes.shape[:2], len(h))) + h)
        sizes = between(sizes)
    names = ops.ConvGRUWeights._fields
    weights = [
        ops.ConvGRUWeights(*(params[f"gru{layer}_{name}"] for name in names)) for layer in (1, 2, 3)
    ]
    where, outputs = [], []
    for x in maps:
        m = np.full(places, 1 / places)
        if config.attention:
            m = softmax(states[-1].reshape(-1) @ params["where"])  # Eq. (3)
        where.append(m.reshape(maps.shape[1:3]))
        below = np.zeros_like(x)
        for i in range(maps.shape[1]):
            for j in range(maps.shape[2]):
                below[i, j] = g * where[-1][i, j] * x[i, j]  # Eq. (4)
        for layer in range(3):
            states[layer] = step_loop(below, states[layer], weights[layer])  # Eq. (5)
            below = between(handed_on * states[layer])
        outputs.append(handed_on * states[-1])
    real = [h for h, counts in zip(outputs, counted) if counts]
    frames = [h.mean(axis=(0, 1)) for h in outputs]
    when = None
    if config.pooling == "attention":
        when = np.zeros(len(maps))
        when[: len(real)] = softmax(np.array([f @ params["when"] for f in frames[: len(real)]]))
        pooled = sum(alpha * h for alpha, h in zip(when, real))  # Eq. (6)
    else:
        pooled = np.mean(real, axis=0) if config.pooling == "average" else np.max(real, axis=0)
    return pooled.reshape(-1), np.array(frames), np.array(where), when


def encoder(config, k=K, seed=0):
    """An encoder whose weights are away from their start, maps, and masks."""
    rng = np.random.default_rng(seed)
    maps = np.maximum(rng.normal(size=(B, T, k, k, C)), 0)
    mask = np.array([[True] * T, [True] * (T - 1) + [False]])
    module = Encoder(config)
    variables = module.init(jax.random.key(seed), jnp.float32(maps), jnp.array(mask), train=False)
    variables = jax.tree.map(
        lambda leaf: leaf + jnp.float32(rng.normal(0, 0.2, leaf.shape)), variables
    )
    return module, variables, maps, mask


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rescale": False, "between_pool": "none", "kernels": (1, 3, 5)},
        {"between_pool": "max2", "pooling": "average"},
        {"attention": False, "pooling": "max"},
        {"attention": False, "rescale": False, "between_pool": "max2"},
    ],
)
def test_the_encoder_is_its_equations(changes):
    config = dataclasses.replace(TINY, **changes)
    module, variables, maps, mask = encoder(config)
    out = jax.jit(partial(module.apply, train=False))(variables, jnp.float32(maps), jnp.array(mask))
    for item in range(B):
        vector, frames, where, when = encoder_loop(
            config, maps[item], mask[item], float64(variables["params"])
        )
        np.testing.assert_allclose(out.vector[item], vector, atol=2e-5)
        np.testing.assert_allclose(out.frames[item], frames, atol=2e-5)
        if config.attention:
            np.testing.assert_allclose(out.where[item], where, atol=2e-5)
        else:
            assert out.where is None
        if config.pooling == "attention":
            np.testing.assert_allclose(out.when[item], when, atol=2e-5)
        else:
            assert out.when is None


def test_weights_of_places_and_of_frames_sum_to_one():
    module, variables, maps, mask = encoder(TINY)
    out = module.apply(variables, jnp.float32(maps), jnp.array(mask), train=False)
    np.testing.assert_allclose(out.where.sum(axis=(2, 3)), 1, atol=1e-6)
    np.testing.assert_allclose(out.when.sum(axis=1), 1, atol=1e-6)
    assert (out.when[~mask] == 0).all()


def test_frames_that_do_not_count_may_hold_anything():
    for pooling in ("attention", "average", "max"):
        config = dataclasses.replace(TINY, pooling=pooling)
        module, variables, maps, mask = encoder(config)
        run = jax.jit(partial(module.apply, train=False))
        other = np.where(mask[..., None, None, None], maps, 100.0)
        a, b = (run(variables, jnp.float32(x), jnp.array(mask)) for x in (maps, other))
        np.testing.assert_array_equal(a.vector, b.vector)
        # And as many of them as there are.
        longer = np.concatenate([maps, other], axis=1)
        mask = np.concatenate([mask, np.zeros_like(mask)], axis=1)
        c = run(variables, jnp.float32(longer), jnp.array(mask))
        np.testing.assert_allclose(a.vector, c.vector, atol=1e-6)


@pytest.mark.parametrize("rescale", [True, False])
def test_without_a_preference_for_places_it_is_the_muted_network(rescale):
    config = dataclasses.replace(TINY, rescale=rescale)
    module, variables, maps, mask = encoder(config)
    variables["params"]["where"] = jnp.zeros_like(variables["params"]["where"])
    muted = Encoder(dataclasses.replace(config, attention=False))
    arguments = variables, jnp.float32(maps), jnp.array(mask)
    a, b = module.apply(*arguments, train=False), muted.apply(*arguments, train=False)
    np.testing.assert_allclose(a.where, 1 / K**2, atol=1e-7)
    np.testing.assert_allclose(a.vector, b.vector, atol=1e-6)
    np.testing.assert_allclose(a.when, b.when, atol=1e-6)


def test_a_map_of_one_place_needs_no_convolution():
    """ConvGRU = FC-GRU there, if the kernels are of 1 x 1."""
    config = dataclasses.replace(TINY, kernels=(1, 1, 1), attention=False)
    module, variables, maps, mask = encoder(config, k=1)
    fc = Encoder(dataclasses.replace(config, recurrence="fc", kernels=(3, 5, 5), attention=True))
    arguments = variables, jnp.float32(maps), jnp.array(mask)
    a, b = module.apply(*arguments, train=False), fc.apply(*arguments, train=False)
    np.testing.assert_array_equal(a.vector, b.vector)
    assert b.where is None


def test_it_starts_as_the_average():
    module = Encoder(TINY)
    _, _, maps, mask = encoder(TINY)
    arguments = jnp.float32(maps), jnp.array(mask)
    variables = module.init(jax.random.key(0), *arguments, train=False)
    average = Encoder(dataclasses.replace(TINY, pooling="average"))
    a = module.apply(variables, *arguments, train=False)
    b = average.apply(variables, *arguments, train=False)
    np.testing.assert_allclose(a.vector, b.vector, atol=1e-6)
    np.testing.assert_allclose(a.when[0], 1 / 3, atol=1e-6)


@pytest.mark.parametrize("initial", ["glorot", "uniform"])
def test_the_kernels_start_within_their_bounds(initial):
    config = dataclasses.replace(TINY, initial=initial, channels=(16, 24, 32))
    maps, mask = jnp.zeros((1, 1, K, K, C)), jnp.ones((1, 1), bool)
    params = Encoder(config).init(jax.random.key(0), maps, mask, train=False)["params"]
    for layer, (c, d) in enumerate(((C, 16), (16, 24), (24, 32)), 1):
        # fan-in and fan-out of one gate's convolution.
        bound = 1.0 if initial == "uniform" else np.sqrt(6 / (9 * (c + d)))
        for name in ops.ConvGRUWeights._fields:
            largest = jnp.abs(params[f"gru{layer}_{name}"]).max()
            assert 0.98 * bound < largest <= bound
    assert jnp.abs(params["where"]).max() <= (K * K * 32) ** -0.5
    assert (params["when"] == 0).all()


def test_dropout_is_for_what_is_handed_on():
    """With nearly everything dropped, layers see nothing, and keep their states all the same."""
    for attention in (True, False):
        config = dataclasses.replace(TINY, dropout=1 - 1e-7, attention=attention)
        module, variables, maps, mask = encoder(config)
        mask = np.ones_like(mask)
        out = module.apply(
            variables,
            jnp.float32(maps),
            jnp.array(mask),
            train=True,
            rngs={"dropout": jax.random.key(0)},
        )
        assert (out.vector == 0).all()
        if attention:
            _, _, where, _ = encoder_loop(
                config, maps[0], mask[0], float64(variables["params"]), handed_on=0.0
            )
            np.testing.assert_allclose(out.where[0], where, atol=2e-5)
            assert np.abs(where[0] - where[2]).max() > 1e-3


def test_dropout_keeps_the_mean_and_differs_between_frames():
    dropped = drop(jnp.ones((100, 100)), jax.random.key(0), 0.7)
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.3], rtol=1e-6)
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    for attention in (True, False):
        config = dataclasses.replace(TINY, attention=attention, channels=(3, 4, 40))
        module, variables, maps, mask = encoder(config)
        keys = jax.random.key(0), jax.random.key(0), jax.random.key(1)
        # GAP of h: of the frames, since dropped places differ.
        frames = [
            module.apply(
                variables, jnp.float32(maps), jnp.array(mask), train=True, rngs={"dropout": key}
            ).frames
            for key in keys
        ]
        np.testing.assert_array_equal(frames[0], frames[1])
        assert jnp.abs(frames[0] - frames[2]).max() > 0.01
        still = jnp.broadcast_to(jnp.float32(maps)[:, :1], maps.shape)
        plain = module.apply(variables, still, jnp.array(mask), train=False).frames
        noisy = module.apply(
            variables, still, jnp.array(mask), train=True, rngs={"dropout": keys[0]}
        ).frames
        ratio = noisy / plain
        assert jnp.abs(ratio[:, 0] - ratio[:, 1]).max() > 0.1


def test_similarity_is_eq_8():
    rng = np.random.default_rng(0)
    a, b, v, c = rng.normal(size=(3, 7)), rng.normal(size=(2, 7)), rng.normal(size=7), 0.3
    module, variables = Similarity(), {"params": {"v": jnp.float32(v), "c": jnp.float32(c)}}
    logits = module.apply(variables, jnp.float32(a), jnp.float32(b))
    want = [[sum(v[k] * x[k] * y[k] for k in range(7)) - c for y in b] for x in a]
    np.testing.assert_allclose(logits, want, atol=1e-5)
    swapped = module.apply(variables, jnp.float32(b), jnp.float32(a))
    np.testing.assert_allclose(logits, swapped.T, atol=1e-6)


# The whole network: VGG-16, whose maps of 96 x 96 are 3 x 3.


def clips(n=4, frames=3, side=96, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 255, (n, frames, side, side, 3), np.uint8)
    return Batch(jnp.asarray(images), jnp.array([0, 0, 1, 2])[:n], jnp.ones(n, int))


@pytest.fixture(scope="module")
def variables():
    """For every config that only differs in what is done with the same parameters."""
    rng = np.random.default_rng(7)
    variables = jax.jit(TINY.make(3).init)(jax.random.key(0), clips())
    for name in ("encoder", "similarity"):
        variables["params"][name] = jax.tree.map(
            lambda leaf: leaf + jnp.float32(rng.normal(0, 0.2, leaf.shape)),
            variables["params"][name],
        )
    return variables


@pytest.mark.parametrize("short", [False, True])
def test_the_loss_is_eq_9_above_its_least(variables, short):
    """Of clips whose last frame only repeats, it is the same whatever that frame shows."""
    batch, counted = clips(), 3
    if short:
        counted = 2
        batch = batch._replace(mask=jnp.broadcast_to(jnp.array([True, True, False]), (4, 3)))
    config = dataclasses.replace(TINY, dropout=0.0, penalty=0.5)
    model = config.make(3, frozen=True)
    run = jax.jit(model.loss)
    value, (_, metrics) = run(variables, batch, jax.random.key(0), jnp.int32(0))
    x = float64(jax.jit(model.features)(variables, batch))[:, 0]
    m = float64(jax.jit(model.explain)(variables, batch)["where"].weights)
    v, c = (float64(variables["params"]["similarity"][name]) for name in "vc")
    verification, penalty, correct = 0.0, 0.0, 0
    for a, b, same in ((0, 1, True), (2, 3, False)):
        s = sigmoid(np.sum(v * x[a] * x[b]) - c)
        verification -= np.log(s if same else 1 - s) / 2
        correct += (s > 0.5) == same
        for clip in (a, b):
            for i in range(3):
                for j in range(3):
                    gathered = sum(m[clip, t, i, j] for t in range(counted))
                    penalty += (1 - gathered) ** 2 / 2 / 2
    penalty -= 9 * (1 - counted / 9) ** 2
    assert metrics["verification"] == pytest.approx(verification, rel=1e-4)
    assert metrics["penalty"] == pytest.approx(penalty, rel=1e-4, abs=1e-5)
    assert metrics["accuracy"] == correct / 2
    assert value == pytest.approx(verification + 0.5 * penalty, rel=1e-4)
    other = batch._replace(images=batch.images.at[:, 2].set(128))
    unmoved, _ = run(variables, other, jax.random.key(0), jnp.int32(0))
    assert (unmoved == value) == short


@pytest.mark.parametrize("pairs", ["drawn", "all"])
def test_positives_that_do_not_count_are_left_out(variables, pairs):
    config = dataclasses.replace(TINY, dropout=0.0, attention=False, pairs=pairs)
    run = jax.jit(config.make(3, frozen=True).loss)
    batch = clips()._replace(pids=jnp.array([0, 0, 0, 1]))

    def terms(camids=None):
        apart = None if camids is None else jnp.array(np.not_equal.outer(camids, camids))
        of = batch._replace(positives=apart)
        return run(variables, of, jax.random.key(0), jnp.int32(0))[1][1]

    plain, crossed, none = terms(), terms([1, 1, 2, 1]), terms([1, 1, 1, 1])
    assert terms([1, 2, 3, 4]) == plain
    assert crossed != plain
    # The negatives are still all there: of a mean of two kinds, the positives' half is missing.
    assert 0 < none["verification"] != plain["verification"]
    assert none["accuracy"] in (0, 1 / 3, 2 / 3, 1)


def test_all_pairs_weigh_their_kinds_alike(variables):
    batch = clips()
    batch = batch._replace(pids=jnp.array([1, 1, 2, 2]))
    config = dataclasses.replace(TINY, dropout=0.0, attention=False, pairs="all")
    model = config.make(3, frozen=True)
    value, _ = jax.jit(model.loss)(variables, batch, jax.random.key(0), jnp.int32(0))
    x = float64(jax.jit(model.features)(variables, batch))[:, 0]
    v, c = (float64(variables["params"]["similarity"][name]) for name in "vc")
    terms = {True: [], False: []}
    for a in range(4):
        for b in range(a + 1, 4):
            s, same = sigmoid(np.sum(v * x[a] * x[b]) - c), bool(batch.pids[a] == batch.pids[b])
            terms[same].append(-np.log(s if same else 1 - s))
    assert (len(terms[True]), len(terms[False])) == (2, 4)
    assert value == pytest.approx((np.mean(terms[True]) + np.mean(terms[False])) / 2, rel=1e-4)


def test_the_muted_network_has_no_penalty(variables):
    model = dataclasses.replace(TINY, attention=False, pooling="max").make(3)
    value, (_, metrics) = jax.jit(model.loss)(variables, clips(), jax.random.key(0), jnp.int32(0))
    assert set(metrics) == {"verification", "accuracy"}
    assert value == metrics["verification"]
    assert model.explain is None


def test_a_pair_has_no_order(variables):
    model = dataclasses.replace(TINY, dropout=0.0).make(3)
    batch = clips()
    turned = jax.tree.map(lambda leaf: leaf[jnp.array([3, 2, 1, 0])], batch)
    run = jax.jit(model.loss)
    a, b = (run(variables, each, jax.random.key(0), jnp.int32(0))[0] for each in (batch, turned))
    assert a == pytest.approx(float(b), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"recurrence": "fc"}, {"recurrence": "fc", "backbone": "googlenet_bn"}]
)
def test_maps_stand_for_the_frames_of_a_frozen_backbone(changes, variables):
    config = dataclasses.replace(TINY, **changes)
    model, batch = config.make(3, frozen=True), clips()
    if changes:
        variables = jax.jit(model.init)(jax.random.key(0), batch)
    maps = jax.jit(model.maps)(variables, batch.images.reshape(-1, 96, 96, 3))
    channels = {"conv": 32, "fc": 64 if config.backbone == "googlenet_bn" else 256}
    grid = 3 if config.recurrence == "conv" else 1
    assert maps.shape == (12, grid, grid, channels[config.recurrence])
    kept = batch._replace(images=maps.reshape(4, 3, *maps.shape[1:]))

    def run(variables, batch):
        def loss(params):
            arguments = batch, jax.random.key(0), jnp.int32(0)
            return model.loss({**variables, "params": params}, *arguments)

        value, gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value[0], gradient, model.features(variables, batch)

    got, want = jax.jit(run)(variables, kept), jax.jit(run)(variables, batch)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
        np.testing.assert_allclose(a, b, atol=1e-5)
    half = kept._replace(images=kept.images.astype(jnp.float16))
    assert jax.jit(run)(variables, half)[0] == pytest.approx(float(want[0]), abs=1e-2)


def test_statistics_of_a_backbone_that_is_trained_are_those_of_the_batch():
    config, batch = dataclasses.replace(TINY, recurrence="fc", backbone="googlenet_bn"), clips(n=2)
    model = config.make(3)
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    before = variables["batch_stats"]["backbone"]["conv1_bn"]["mean"]
    _, (state, _) = jax.jit(model.loss)(variables, batch, jax.random.key(0), jnp.int32(0))
    assert (state["batch_stats"]["backbone"]["conv1_bn"]["mean"] != before).all()


def test_pictures_and_frames(variables):
    model, batch = TINY.make(3), clips()
    mask = jnp.array([[True, True, True]] * 3 + [[True, False, False]])
    batch = batch._replace(mask=mask)
    found = jax.jit(model.explain)(variables, batch)
    assert {name: m.weights.shape for name, m in found.items()} == {
        "response": (4, 3, 3, 3),
        "where": (4, 3, 3, 3),
        "when": (4, 3, 1, 1),
    }
    assert {m.over for m in found.values()} == {"frames"}
    np.testing.assert_allclose(found["when"].weights[3, :, 0, 0], [1, 0, 0], atol=1e-6)
    # The channel of a frame's map that has the highest peak.
    maps = float64(jax.jit(model.maps)(variables, batch.images[2]))
    for response, frame in zip(float64(found["response"].weights)[2], maps):
        want = max((frame[..., c] for c in range(frame.shape[-1])), key=np.max)
        np.testing.assert_allclose(response, want, rtol=1e-4, atol=1e-5)
    # α is a softmax of the frames' descriptors.
    frames = float64(jax.jit(model.frames)(variables, batch))
    assert frames.shape == (4, 3, 5)
    alpha = softmax(frames[0] @ float64(variables["params"]["encoder"]["when"]))
    np.testing.assert_allclose(found["when"].weights[0, :, 0, 0], alpha, atol=1e-5)


def test_distances_by_either_metric(variables):
    batch = clips()
    by = {
        metric: dataclasses.replace(TINY, test_metric=metric).make(3)
        for metric in ("euclidean", "similarity")
    }
    feats = jax.jit(by["euclidean"].features)(variables, batch)
    x = float64(feats)[:, 0]
    want = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=-1))
    got = by["euclidean"].distance(variables, feats[:3], feats)
    np.testing.assert_allclose(got, want[:3], atol=1e-2)  # 3e-4 of the vectors' length at 0
    v, c = (float64(variables["params"]["similarity"][name]) for name in "vc")
    want = 1 - sigmoid(np.einsum("d,qd,gd->qg", v, x, x) - c)
    got = by["similarity"].distance(variables, feats[:3], feats)
    np.testing.assert_allclose(got, want[:3], atol=1e-5)
    np.testing.assert_array_equal(by["euclidean"].vector(variables, feats), feats[:, 0])


def test_moved_clips_repeat_their_border():
    frame = np.arange(80 * 40, dtype=np.int64).reshape(80, 40) % 251
    clip = jnp.asarray(np.stack([frame] * 3, axis=-1)[None, None], jnp.uint8)
    got = moved(clip, jnp.int32(-4), jnp.array(False))[0, 0, :, :, 0]
    # 4 of 80 rows, 2 of 40 columns.
    np.testing.assert_array_equal(got[4:, 2:], frame[:-4, :-2])
    np.testing.assert_array_equal(got[:4, 2:], np.stack([frame[0, :-2]] * 4))
    got = moved(clip, jnp.int32(2), jnp.array(True))[0, 0, :, :, 0]
    np.testing.assert_array_equal(got[:-2, 1:], frame[2:, 1:][:, ::-1])
    np.testing.assert_array_equal(moved(clip, jnp.int32(0), jnp.array(False)), clip)


def test_short_clips_are_compared_under_all_conditions(variables):
    model = dataclasses.replace(TINY, test_conditions=16).make(3)
    plain = jax.jit(TINY.make(3).features)
    mask = jnp.array([[True, True, True], [True, True, False]])
    batch = clips(n=2)._replace(mask=mask)
    run = jax.jit(model.features)
    feats = run(variables, batch)
    assert feats.shape == (2, 16, 45)
    want = plain(variables, batch)
    # The long one is plain throughout, and so is the vector.
    np.testing.assert_allclose(feats[0], jnp.broadcast_to(want[0], (16, 45)), atol=1e-6)
    np.testing.assert_allclose(model.vector(variables, feats), want[:, 0], atol=1e-6)
    # -4 quarters of 5 % of 96 pixels are 5 of them.
    rows = np.clip(np.arange(96) - 5, 0, 95)
    shifted = np.asarray(batch.images)[:, :, rows][:, :, :, rows]
    for place, images in ((1, shifted), (2, shifted[:, :, :, ::-1])):
        other = plain(variables, batch._replace(images=jnp.asarray(images)))
        np.testing.assert_allclose(feats[1, place], other[1, 0], atol=1e-5)
    apart = jnp.abs(feats[1, :, None] - feats[1, None]).max(axis=-1)
    assert (apart[~np.eye(16, dtype=bool)] > 1e-5).all()
    # The distance is the mean of the conditions'.
    each = np.sqrt(((float64(feats)[0] - float64(feats)[1]) ** 2).sum(axis=-1))
    got = model.distance(variables, feats[:1], feats[1:])
    np.testing.assert_allclose(got, [[each.mean()]], rtol=1e-4)
    # Nothing is short: nothing is moved.
    for long in (None, jnp.ones((2, 3), bool)):
        feats = run(variables, batch._replace(mask=long))
        alike = jnp.broadcast_to(feats[:, :1], feats.shape)
        np.testing.assert_array_equal(feats, alike)


def test_it_names_what_it_cannot_take(variables):
    model, batch = TINY.make(3), clips()
    with pytest.raises(UserError, match="compares clips and got images"):
        model.init(jax.random.key(0), batch._replace(images=batch.images[:, 0]))
    three = jax.tree.map(lambda leaf: leaf[:3], batch)
    with pytest.raises(UserError, match="learns from pairs and got 3 clips"):
        jax.eval_shape(model.loss, variables, three, jax.random.key(0), jnp.int32(0))
    with pytest.raises(UserError, match="made for images of another size"):
        jax.eval_shape(model.features, variables, clips(side=128))
    muted = dataclasses.replace(TINY, attention=False).make(3)
    with pytest.raises(UserError, match=r"similarity/v is of shape \(45,\) .* need \(80,\)"):
        jax.eval_shape(muted.loss, variables, clips(side=128), jax.random.key(0), jnp.int32(0))
    with pytest.raises(UserError, match=r"test_conditions=16: expected 1 with config\.eval\.flip"):
        dataclasses.replace(TINY, test_conditions=16).make(3, flip=True)
    halved = dataclasses.replace(TINY, between_pool="max2").make(3)
    with pytest.raises(UserError, match=r"between_pool=max2 .* got 3 x 3"):
        jax.eval_shape(halved.init, jax.random.key(0), batch)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kernels", (3, 5)),
        ("kernels", (3, 4, 5)),
        ("channels", (128, 256)),
        ("channels", (128, 0, 256)),
        ("penalty", -1.0),
        ("dropout", 1.0),
        ("test_conditions", 8),
        ("backbone_width", 2),
    ],
)
def test_impossible_values_are_named(field, value):
    config = dataclasses.replace(TINY)
    setattr(config, field, value)  # as flags do
    with pytest.raises(UserError, match=rf"^config\.model\.{field}="):
        config.validate()


def test_possible_values_are_not():
    Config().validate()
    dataclasses.replace(TINY, test_conditions=16, dropout=0.0).validate()
    assert siamese_attention.Config(backbone="googlenet_bn").arch == "googlenet_bn"


def test_gradients_are_finite_at_the_start():
    """From Glorot's weights and with g = 49, h̄ is of order 0.1, and no gradient is clipped."""
    config = Config(dropout=0.0, channels=(16, 32, 32))
    rng = np.random.default_rng(0)
    maps = jnp.float32(np.maximum(rng.normal(size=(2, 6, 7, 7, 64)), 0))
    mask = jnp.ones((2, 6), bool)
    module = Encoder(config)
    params = jax.jit(partial(module.init, train=False))(jax.random.key(0), maps, mask)

    def total(params):
        out = module.apply(params, maps, mask, train=True)
        m = out.where.reshape(2, 6, -1)
        return jnp.sum(out.vector[0] * out.vector[1]) / 40 + losses.attention_penalty(m), out.vector

    gradient, vector = jax.jit(jax.grad(total, has_aux=True))(params)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 5
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    assert 0.02 < jnp.sqrt(jnp.mean(vector**2)) < 0.6
