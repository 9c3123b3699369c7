"""TransReID and CLIP-ReID's image encoder against their equations, and the published sizes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import losses, ops
from jaxreid.backbones import ViT, vit_b16
from jaxreid.errors import UserError
from jaxreid.models import vit
from jaxreid.types import Batch
from tests.backbones.tracing import count, trace
from tests.networks import MODELS, NUM_IDS, make_batch

TINY, CLIP = MODELS["vit"], MODELS["vit-clip"]


def shapes(config, size=(256, 128), num_ids=751):
    batch = Batch(
        jax.ShapeDtypeStruct((1, *size, 3), jnp.uint8),
        *[jax.ShapeDtypeStruct((1,), jnp.int32)] * 2,
    )
    model = config.make(num_ids)
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    return variables, jax.eval_shape(model.features, variables, batch)


# A block: two norms, qkv, a projection, and two layers; each with its bias.
BLOCK = 2 * 2 * 768 + (768 + 1) * 3 * 768 + (768 + 1) * 768 + (768 + 1) * 3072 + (3072 + 1) * 768


@pytest.mark.parametrize(
    ("changes", "size", "trunk", "beside", "features"),
    [
        ({}, (256, 128), 85_746_432, 768, 768),
        ({"stride": 12}, (256, 128), 85_809_408, 768, 768),
        ({"stride": 12}, (384, 128), 85_809_408 + 100 * 768, 768, 768),
        (
            {"stride": 12, "sie": 3.0, "cameras": 6, "jpm": True},
            (256, 128),
            85_809_408 + BLOCK + 2 * 768,
            5 * 768 + 6 * 768,
            5 * 768,
        ),
        ({"form": "clip"}, (256, 128), 86_140_416, 768 + 512, 768 + 512),
        (
            {"form": "clip", "stride": 12, "sie": 1.0, "cameras": 6},
            (256, 128),
            86_140_416 + 82 * 768,
            768 + 512 + 6 * 768,
            768 + 512,
        ),
    ],
)
def test_the_networks_have_their_parameters(changes, size, trunk, beside, features):
    variables, found = shapes(vit.Config(**changes), size)
    params = variables["params"]
    assert count(params["backbone"]) == trunk
    others = {name for name in params if name != "backbone" and "classifier" not in name}
    assert sum(count(params[name]) for name in others) == beside
    classifiers = sum(count(params[name]) for name in params if "classifier" in name)
    assert classifiers == 751 * features
    assert found.shape == (1, features)


def test_the_backbone_by_itself():
    variables, vector, maps = trace(vit_b16(stride=12), 256, 128)
    assert count(variables["params"]) == 85_809_408
    assert variables["params"]["position"].shape == (21, 10, 768)
    assert vector.shape == (1, 768)
    assert maps["block11"].shape == (1, 211, 768)
    _, _, maps = trace(vit_b16("clip"), 256, 128)
    assert maps["projected"].shape == (1, 512)
    _, _, maps = trace(ViT(stride=12, jigsaw=(5, 2)), 256, 128)
    assert maps["parts"].shape == (1, 4, 768)


def test_attention_equals_a_loop():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 2, 5, 6))
    want = np.zeros_like(v)
    for b in range(2):
        for head in range(3):
            of = slice(2 * head, 2 * head + 2)
            for i in range(5):
                weights = [math.exp(q[b, i, of] @ k[b, j, of] / math.sqrt(2)) for j in range(5)]
                for j in range(5):
                    want[b, i, of] += weights[j] / sum(weights) * v[b, j, of]
    got = ops.multi_head_attention(*(jnp.float32(x) for x in (q, k, v)), heads=3)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_the_soft_margin_equals_a_loop():
    rng = np.random.default_rng(0)
    x, pids = rng.normal(size=(6, 3)), [0, 0, 1, 1, 1, 2]
    terms = []
    for a in range(6):
        far = [np.linalg.norm(x[a] - x[p]) for p in range(6) if pids[p] == pids[a] and p != a]
        near = [np.linalg.norm(x[a] - x[n]) for n in range(6) if pids[n] != pids[a]]
        if far:
            terms.append(math.log(1 + math.exp(max(far) - min(near))))
    distmat = ops.pairwise_euclidean(jnp.float32(x), jnp.float32(x))
    got = losses.batch_hard_triplet(distmat, jnp.asarray(pids), None)
    assert float(got) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.fixture(scope="module", params=["vit", "vit-clip"])
def built(request):
    config, batch = MODELS[request.param], make_batch(request.param)
    model = config.make(NUM_IDS)
    return config, batch, jax.jit(model.init)(jax.random.key(0), batch)


def test_the_loss_of_parts(built):
    """From the vectors and logits of the network, by the papers' equations."""
    config, batch, variables = built
    config = dataclasses.replace(config, drop_path=0.0)
    out, _ = vit.Network(config, NUM_IDS, jnp.float32).apply(
        variables,
        batch.images,
        batch.camids,
        train=True,
        train_backbone=True,
        mutable=["batch_stats"],
    )

    def terms(vectors):
        for x in vectors:
            distmat = ops.pairwise_euclidean(x, x)
            yield float(losses.batch_hard_triplet(distmat, batch.pids, None))

    entropies = [float(losses.cross_entropy(logits, batch.pids)) for logits in out.logits]
    if config.form == "clip":
        assert [x.shape[1] for x in out.vectors] == [16, 12]
        want = sum(terms([*out.vectors, out.before_last])) + sum(entropies)
    else:
        triplets = list(terms(out.vectors))
        assert len(triplets) == len(entropies) == 5
        want = (triplets[0] + sum(triplets[1:]) / 4 + entropies[0] + sum(entropies[1:]) / 4) / 2
    loss = jax.jit(config.make(NUM_IDS).loss)
    value, _ = loss(variables, batch, jax.random.key(0), jnp.int32(0))
    assert float(value) == pytest.approx(want, rel=1e-5)


def test_cameras(built):
    """Another camera gives another vector; one that nobody knows has the mean embedding."""
    config, batch, variables = built
    run = jax.jit(config.make(NUM_IDS).features)

    def of(camid, variables=variables):
        return run(variables, batch._replace(camids=jnp.full(len(batch.pids), camid)))

    assert np.abs(of(1) - of(2)).max() > 1e-4
    unknown = [of(camid) for camid in (-1, 0, 4, 99)]
    for other in unknown[1:]:
        np.testing.assert_array_equal(other, unknown[0])
    table = variables["params"]["cameras"]["embedding"]
    mean = jnp.broadcast_to(table.mean(axis=0), table.shape)
    params = {**variables["params"], "cameras": {"embedding": mean}}
    np.testing.assert_allclose(of(2, {**variables, "params": params}), unknown[0], atol=1e-6)
    # Off, there is none, and the vector is that of embeddings of zero.
    plain = dataclasses.replace(config, sie=0.0)
    params = {name: tree for name, tree in variables["params"].items() if name != "cameras"}
    found, _ = shapes(plain, batch.images.shape[1:3], NUM_IDS)
    assert jax.tree.structure(found["params"]) == jax.tree.structure(params)
    got = jax.jit(plain.make(NUM_IDS).features)({**variables, "params": params}, batch)
    params = {**params, "cameras": {"embedding": jnp.zeros_like(table)}}
    np.testing.assert_allclose(of(1, {**variables, "params": params}), got, atol=1e-6)


def test_the_whole_images_vector_is_the_same_without_parts():
    batch = make_batch("vit")
    variables = jax.jit(TINY.make(NUM_IDS).init)(jax.random.key(0), batch)
    plain = dataclasses.replace(TINY, jpm=False)
    params = variables["params"]
    backbone = {name: x for name, x in params["backbone"].items() if not name.startswith("local")}
    params = {name: tree for name, tree in params.items() if name[-2:-1] != "_"}
    alone = {**variables, "params": {**params, "backbone": backbone}}
    outs = [
        vit.Network(config, NUM_IDS, jnp.float32).apply(
            given, batch.images, batch.camids, train=False, train_backbone=False
        )
        for config, given in ((TINY, variables), (plain, alone))
    ]
    np.testing.assert_allclose(outs[0].vectors[0], outs[1].vectors[0], atol=1e-6)
    # The part of an image is a quarter as long.
    features = jax.jit(TINY.make(NUM_IDS).features)(variables, batch)
    whole = jnp.concatenate([outs[0].vectors[0], *(x / 4 for x in outs[0].vectors[1:])], axis=1)
    np.testing.assert_allclose(features, ops.normalise(whole), atol=1e-6)


def test_images_go_past_blocks_in_training():
    batch = make_batch("vit")
    config = dataclasses.replace(TINY, drop_path=0.9)
    model = config.make(NUM_IDS)
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    loss = jax.jit(model.loss)
    values = {float(loss(variables, batch, jax.random.key(n), jnp.int32(0))[0]) for n in range(4)}
    assert len(values) == 4
    frozen = jax.jit(config.make(NUM_IDS, frozen=True).loss)
    values = {float(frozen(variables, batch, jax.random.key(n), jnp.int32(0))[0]) for n in (0, 1)}
    assert len(values) == 1


def test_what_no_network_can_have():
    for changes, message in (
        ({"stride": 17}, r"config\.model\.stride=17: expected 1 to 16, the size of a patch"),
        ({"sie": -1.0}, r"config\.model\.sie=-1\.0: expected 0 or more"),
        ({"cameras": 0}, r"config\.model\.cameras=0: expected 1 or more"),
        ({"jpm": True, "form": "clip"}, r"config\.model\.jpm=True: expected False with"),
        ({"jpm_groups": 3}, r"config\.model\.jpm_groups=3: expected 1, 2 or 4"),
        ({"backbone_heads": 5}, r"backbone_width=768: expected a multiple of model\.backbone_h"),
        ({"drop_path": 1.0}, r"config\.model\.drop_path=1\.0: expected 0 or more and less than 1"),
    ):
        with pytest.raises(UserError, match=message):
            vit.Config(**changes).validate()
    clip, one = jnp.zeros((1, 2, 64, 32, 3), jnp.uint8), jnp.ones(1, int)
    with pytest.raises(UserError, match="vit describes images and got clips"):
        TINY.make(2).init(jax.random.key(0), Batch(clip, one, one))


def test_images_of_another_size_are_one_line():
    batch = make_batch("vit")
    model = TINY.make(NUM_IDS)
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    larger = batch._replace(images=jnp.zeros((8, 128, 64, 3), jnp.uint8))
    with pytest.raises(UserError, match=r"backbone takes 5 x 2 patches and got 10 x 5: the netw"):
        jax.eval_shape(model.features, variables, larger)
    small = batch._replace(images=jnp.zeros((8, 15, 64, 3), jnp.uint8))
    with pytest.raises(UserError, match=r"^vit: images of 15 x 64 are too small; expected 16"):
        jax.eval_shape(model.features, variables, small)
