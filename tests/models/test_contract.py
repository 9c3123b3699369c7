"""What every method has to hold, whatever it does. The methods are those of `tests.networks`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxreid import sharding
from jaxreid.data.augment import random_crop_and_flip
from jaxreid.types import Batch
from tests.networks import MODELS, NUM_IDS, make_batch


def params(names):
    """The others take up to two minutes each, nearly all of it XLA's."""
    quick = ("duatm", "duatm-gru", "jst-rnn")
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.fixture(scope="module", params=params(MODELS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def batch(name):
    return make_batch(name)


@pytest.fixture(scope="module")
def built(name, batch):
    model = MODELS[name].make(NUM_IDS)
    return MODELS[name], model, jax.jit(model.init)(jax.random.key(0), batch)


def loss_and_gradient(model, variables, batch):
    def loss(params):
        key = jax.random.key(1)
        return model.loss({**variables, "params": params}, batch, key, jnp.int32(0))

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])


@pytest.fixture(scope="module")
def features(built):
    """Compiled once for all tests: most of their time is XLA's."""
    return jax.jit(built[1].features)


@pytest.fixture(scope="module")
def gradient(built, batch):
    """((loss, (state, metrics)), gradient) of the whole batch on one device."""
    _, model, variables = built
    return jax.jit(lambda v, b: loss_and_gradient(model, v, b))(variables, batch)


def statistics(variables):
    """The collections that training changes besides the parameters."""
    return {name: variables[name] for name in variables if name not in ("params", "preprocessing")}


def assert_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def test_every_parameter_has_a_finite_gradient(built, gradient):
    config, _, variables = built
    (value, (state, metrics)), grads = gradient
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(metric) for metric in metrics.values())
    assert jax.tree.structure(state) == jax.tree.structure(statistics(variables))
    idle = {
        jax.tree_util.keystr(path)
        for path, gradient in jax.tree_util.tree_leaves_with_path(grads)
        if not jnp.abs(gradient).max() > 0
    }
    assert all(jnp.isfinite(gradient).all() for gradient in jax.tree.leaves(grads))
    # Average pooling does not attend; a bias in front of BatchNorm has no effect but rounding.
    unused = {"transform"} if getattr(config, "matching", None) == "average" else set()
    # The scale behind a non-local block starts at zero, and is the first to learn.
    blocks = {name for name in variables["params"] if name.startswith("non_local")}
    unused |= {
        f"['{block}']['{name}']" for block in blocks for name in ("g", "theta", "phi", "out")
    }
    assert not {path for path in idle if not any(name in path for name in unused)}


def test_jit_equals_eager(built, batch, features, gradient):
    _, model, variables = built
    feats = model.features(variables, batch)
    assert_close(feats, features(variables, batch), atol=5e-5, rtol=1e-4)
    head, tail = (jax.tree.map(lambda x, s=s: x[s], feats) for s in (slice(0, 3), slice(3, 8)))
    assert_close(
        model.distance(variables, head, tail),
        jax.jit(model.distance)(variables, head, tail),
        atol=5e-5,
        rtol=1e-4,
    )
    arguments = variables, batch, jax.random.key(1), jnp.int32(0)
    assert_close(model.loss(*arguments), gradient[0], atol=5e-5, rtol=1e-4)


def test_distances_do_not_depend_on_the_blocks(built, batch, features):
    _, model, variables = built
    feats = features(variables, batch)
    queries, gallery = (
        jax.tree.map(lambda x, s=s: x[s], feats) for s in (slice(0, 3), slice(3, 8))
    )
    whole = model.distance(variables, queries, gallery)
    assert whole.shape == (3, 5)
    assert whole.dtype == jnp.float32
    assert (whole >= 0).all()
    for i in range(3):
        for j in range(5):
            one, other = (
                jax.tree.map(lambda x, k=k: x[k : k + 1], tree)
                for tree, k in ((queries, i), (gallery, j))
            )
            # Below 1e-2 DuATM's block form cancels (`ops.attention`), by some 1e-5 in float32.
            assert_close(
                model.distance(variables, one, other)[0, 0], whole[i, j], atol=5e-5, rtol=1e-4
            )


def test_features_are_of_one_item_alone(built, batch, features):
    _, _, variables = built
    alone = Batch(*(x if x is None else x[2:3] for x in batch))
    assert_close(
        jax.tree.map(lambda x: x[2:3], features(variables, batch)),
        features(variables, alone),
        atol=1e-5,
    )


def test_one_device_equals_eight(built, batch, gradient):
    _, model, variables = built
    mesh = sharding.make_mesh(jax.devices()[:8])
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    run = jax.jit(
        lambda v, b: loss_and_gradient(model, v, b),
        in_shardings=(everywhere, divided),
        out_shardings=everywhere,
    )
    host = jax.tree.map(np.asarray, (variables, batch))
    eight = run(sharding.put(host[0], everywhere), sharding.put(host[1], divided))
    # Sums in another order: the error goes with the largest gradient of a layer.
    for one, other in zip(*map(jax.tree.leaves, jax.device_get((gradient, eight)))):
        scale = max(1.0, np.abs(one).max())
        np.testing.assert_allclose(one, other, atol=5e-5 * scale, rtol=1e-4)


def test_a_frozen_backbone_stays_bitwise_the_same(built, batch):
    config, _, variables = built
    model = config.make(NUM_IDS, frozen=True)
    (_, (state, _)), grads = jax.jit(lambda v, b: loss_and_gradient(model, v, b))(variables, batch)
    assert all((g == 0).all() for g in jax.tree.leaves(grads["backbone"]))
    for name, collection in state.items():
        before, after = (tree.get("backbone", {}) for tree in (variables[name], collection))
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))


# JST-RNN compares place by place: see its test_mirrored_clips_have_mirrored_maps.
@pytest.mark.parametrize(
    "name", params(name for name in MODELS if not name.startswith("jst-rnn")), indirect=True
)
def test_mirrored_images_have_the_same_averaged_distance(built, batch):
    config, _, variables = built
    model = config.make(NUM_IDS, flip=True)
    joints = batch.joints.at[..., 0].set(batch.images.shape[-2] - batch.joints[..., 0])
    mirrored = batch._replace(images=batch.images[..., ::-1, :], joints=joints)
    features = jax.jit(model.features)
    a, b = features(variables, batch), features(variables, mirrored)
    want = model.distance(variables, a, a)
    assert_close(model.distance(variables, b, b), want, atol=1e-3 * max(1, want.max()))


def test_half_precision_is_near_full_precision(built, batch, features):
    config, _, variables = built
    half = config.make(NUM_IDS, dtype=jnp.bfloat16)
    want = features(variables, batch)
    got = jax.jit(half.features)(variables, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    assert_close(got, want, atol=0.2)


def test_it_overfits_a_few_identities(built, batch, features):
    """Forty steps on four persons: every image's nearest other image is of the same person."""
    _, model, variables = built
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(variables, opt_state, key):
        crops = random_crop_and_flip(key, batch.images, batch.images.shape[-3:-1], True)

        def loss(params):
            return model.loss(
                {**variables, "params": params},
                batch._replace(images=crops),
                key,
                jnp.int32(0),
            )

        (value, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, "params": params, **state}, opt_state, value

    opt_state, losses = optimizer.init(variables["params"]), []
    for key in jax.random.split(jax.random.key(2), 40):
        variables, opt_state, value = step(variables, opt_state, key)
        losses.append(float(value))
    assert losses[-1] < losses[0] / 2
    feats = features(variables, batch)
    distmat = np.array(model.distance(variables, feats, feats))
    np.fill_diagonal(distmat, np.inf)
    assert (batch.pids[distmat.argmin(axis=1)] == batch.pids).all()


def test_chance_is_what_a_network_has_that_tells_nobody_apart(built, batch):
    _, model, variables = built
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    _, (_, metrics) = jax.jit(model.loss)(
        {**variables, "params": params}, batch, jax.random.key(0), jnp.int32(0)
    )
    known = model.chance.keys() & metrics.keys()
    assert known
    for name in known:
        np.testing.assert_allclose(metrics[name], model.chance[name], rtol=1e-4)
