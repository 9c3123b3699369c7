"""Attention-driven re-identification against its equations in float64, and against its tables."""

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import ops
from jaxreid.errors import UserError
from jaxreid.models.attention_driven import (
    BRANCHES,
    Backbone,
    Block,
    Config,
    Join,
    Network,
    lay_back,
    mirrored,
)
from jaxreid.types import Batch
from tests.ops.test_boxes import standing
from tests.ops.test_recurrence import sigmoid

TINY = Config(size=(64, 32), backbone_units=1, backbone_width=4)
NUM_IDS = 5


def full_size():
    """Crops of the paper's size, as shapes."""
    heights = {name: 384 if name == "global" else 96 for name in BRANCHES}
    return {name: jax.ShapeDtypeStruct((1, h, 192, 3), jnp.float32) for name, h in heights.items()}


def traced(config, num_ids=751):
    """Parameters and features of one image, as shapes."""
    model = config.make(num_ids)
    one = jax.ShapeDtypeStruct((1,), jnp.int32)
    batch = Batch(
        jax.ShapeDtypeStruct((1, 384, 192, 3), jnp.uint8),
        one,
        one,
        joints=jax.ShapeDtypeStruct((1, 18, 3), jnp.float32),
    )
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    return variables["params"], jax.eval_shape(model.features, variables, batch)


def weights(params):
    """As the paper's Table 12 counts: without biases, BatchNorm and classifiers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [(jax.tree_util.keystr(path), leaf.size) for path, leaf in leaves]
    return sum(size for name, size in names if "kernel" in name and "classifier" not in name)


# --------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"intra": False}, 7_225_184),
        ({"intra": False, "shortcut": "none"}, 6_879_072),
        ({}, 7_225_184 + 3_743_360),
        ({"shortcut": "none"}, 6_879_072 + 3_743_360),
        ({"mask_entry": "pool", "shortcut": "none"}, 6_879_072 + 3_571_328),
        # A 3x3 convolution to all c channels for one to one channel and one of 1x1 to c: 8 c²
        # weights more, and 9 c less, in the three blocks of five branches.
        (
            {"decomposed": False},
            7_225_184 + 3_743_360 + 8 * 2 * (128**2 + 256**2 + 512**2) - 9 * 3 * (128 + 256 + 512),
        ),
    ],
)
def test_the_network_has_the_weights_of_table_12(changes, expected):
    params, _ = traced(Config(inter="concat", **changes))
    assert weights(params) == expected


@pytest.mark.slow
def test_the_ways_to_join_have_their_parameters():
    sizes = {
        inter: sum(leaf.size for leaf in jax.tree.leaves(traced(Config(inter=inter))[0]["join"]))
        for inter in ("attention", "fc")
    }
    assert sizes == {"attention": 516, "fc": 768 * 768 + 768}
    assert "join" not in traced(Config(inter="concat"))[0]


@pytest.mark.parametrize(
    ("branches", "inter", "width", "classifiers"),
    [
        ("all", "attention", 768, {*BRANCHES, "fused"}),
        ("all", "concat", 768, {*BRANCHES}),
        ("all", "fc", 768, {*BRANCHES, "fused"}),
        ("parts", "attention", 512, {*BRANCHES[1:], "fused"}),
        ("global", "attention", 256, {"global"}),
        ("upper_legs", "fc", 128, {"upper_legs"}),
    ],
)
def test_the_rows_of_tables_7_and_9(branches, inter, width, classifiers):
    params, features = traced(Config(branches=branches, inter=inter, intra=False))
    assert features.shape == (1, width)
    assert features.dtype == jnp.float32
    found = {name: params[name] for name in params if name.endswith("_classifier")}
    assert set(found) == {f"{name}_classifier" for name in classifiers}
    assert all(set(layer) == {"kernel"} for layer in found.values())  # no bias
    present = {name for name in BRANCHES if f"{name}_block1" in params["backbone"]}
    assert present == classifiers - {"fused"}


def test_every_stage_has_the_shape_of_table_1():
    backbone = Backbone(Config())
    variables = jax.eval_shape(
        lambda crops: backbone.init(jax.random.key(0), crops, train=False), full_size()
    )
    (maps, masks), state = jax.eval_shape(
        lambda v, crops: backbone.apply(v, crops, train=False, capture_intermediates=True),
        variables,
        full_size(),
    )
    outputs = state["intermediates"]
    conv1 = [out.shape[1:] for out in outputs["conv1"]["__call__"]]
    assert conv1 == [(192, 96, 32), *[(48, 96, 32)] * 4]
    whole = [(96, 48, 64), (48, 24, 128), (24, 12, 256), (24, 12, 512)]
    part = [(48, 48, 32), (24, 24, 64), (12, 12, 128), (12, 12, 256)]
    for name in BRANCHES:
        expected = whole if name == "global" else part
        blocks = [outputs[f"{name}_block{number}"]["__call__"][0] for number in range(1, 5)]
        assert [v.shape[1:] for v, _ in blocks] == expected
        assert [m.shape[1:] for m in masks[name]] == expected[1:]
        assert maps[name].shape[1:] == expected[-1]
        # One lowest resolution for all masks.
        lowest = (12, 6) if name == "global" else (6, 6)
        for number, pooled in ((2, 2), (3, 1), (4, 1)):
            mask = outputs[f"{name}_block{number}"]["mask"]
            assert mask[f"unit{pooled}"]["__call__"][0].shape[1:3] == lowest
            assert f"unit{pooled + 1}" not in mask


def test_masks_that_pool_the_input_have_the_other_geometry():
    backbone = Backbone(Config(mask_entry="pool"))
    variables = jax.eval_shape(
        lambda crops: backbone.init(jax.random.key(0), crops, train=False), full_size()
    )
    (_, masks), state = jax.eval_shape(
        lambda v, crops: backbone.apply(v, crops, train=False, capture_intermediates=True),
        variables,
        full_size(),
    )
    outputs = state["intermediates"]
    for block, unit, shape in (
        (2, "unit1", (48, 24, 128)),
        (2, "unit2", (24, 12, 128)),
        (3, "unit1", (24, 12, 256)),
        (4, "unit1", (12, 6, 512)),
    ):
        found = outputs[f"global_block{block}"]["mask"][unit]["__call__"][0]
        assert found.shape[1:] == shape
    assert [m.shape[1:] for m in masks["global"]] == [(48, 24, 128), (24, 12, 256), (24, 12, 512)]


def multiply_adds(jaxpr):
    """Of all convolutions and products of matrices; padding counts as values."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [x.jaxpr for x in equation.params.values() if hasattr(x, "jaxpr")]
        total += sum(multiply_adds(getattr(x, "jaxpr", x)) for x in inner)
        shapes = [value.aval.shape for value in equation.invars]
        outputs = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "conv_general_dilated":
            total += outputs * math.prod(shapes[1][:3])
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += outputs * math.prod(shapes[0][axis] for axis in contracted)
    return total


@pytest.mark.parametrize(
    ("changes", "billions"),
    [
        ({"intra": False}, 2.054),
        ({"intra": False, "shortcut": "none"}, 1.960),
        ({}, 2.054 + 0.321),
        ({"mask_entry": "pool", "shortcut": "none"}, 1.960 + 0.455),
    ],
)
def test_the_network_has_its_multiply_adds(changes, billions):
    network = Network(Config(inter="concat", **changes), 1)
    modes = {"train": False, "train_backbone": False}
    variables = jax.eval_shape(
        lambda crops: network.init(jax.random.key(0), crops, **modes), full_size()
    )
    traced = jax.make_jaxpr(lambda v, crops: network.apply(v, crops, **modes))
    found = multiply_adds(traced(variables, full_size()).jaxpr)
    assert found / 1e9 == pytest.approx(billions, abs=1e-3)


# --------------------------------------------------------------- equations


def float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def drawn(tree, seed=0):
    """Values away from their start; scales and variances positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "scale" in name or "var" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = max(1, math.prod(leaf.shape[:-1]))
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, tree)


def windows(x, size, stride, fill):
    """The windows of an [h, w, c] map, padded so that 1 / stride of the places is left."""
    rows, columns = (-(-n // stride) for n in x.shape[:2])
    pads = [
        max(0, (count - 1) * stride + size - n) for count, n in zip((rows, columns), x.shape[:2])
    ]
    around = [(p // 2, p - p // 2) for p in pads]
    x = np.pad(x, (*around, (0, 0)), constant_values=fill)
    return rows, columns, lambda i, j: x[i * stride : i * stride + size, j * stride :][:, :size]


def conv_loop(x, layer, stride=1):
    kernel = layer["kernel"]
    rows, columns, window = windows(x, len(kernel), stride, 0.0)
    out = np.zeros((rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            out[i, j] = np.einsum("ijc,ijcd->d", window(i, j), kernel) + layer.get("bias", 0.0)
    return out


def max_loop(x):
    rows, columns, window = windows(x, 3, 2, -np.inf)
    return np.array([[window(i, j).max(axis=(0, 1)) for j in range(columns)] for i in range(rows)])


def norm_loop(x, layer, statistics):
    return (
        layer["scale"] * (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-3)
        + layer["bias"]
    )


def unit_loop(x, params, stats, stride=1):
    y = x
    for number in (1, 2, 3):
        y = conv_loop(y, params[f"conv{number}"], stride if number == 2 else 1)
        y = norm_loop(y, params[f"bn{number}"], stats[f"bn{number}"])
        y = np.maximum(y, 0) if number < 3 else y
    if "downsample_conv" in params:
        x = conv_loop(x, params["downsample_conv"], stride)
        x = norm_loop(x, params["downsample_bn"], stats["downsample_bn"])
    elif x.shape != y.shape:
        around, x = x, np.zeros(y.shape)
        x[..., : around.shape[-1]] = around[::stride, ::stride]
    return np.maximum(x + y, 0)


def double_loop(x, method):
    out = np.zeros((2 * x.shape[0], 2 * x.shape[1], x.shape[2]))
    last = np.array(x.shape[:2]) - 1
    for place in np.ndindex(*out.shape[:2]):
        if method == "nearest":
            out[place] = x[place[0] // 2, place[1] // 2]
            continue
        at = np.clip((np.array(place) + 0.5) / 2 - 0.5, 0, last)  # pixels' centres
        low = np.floor(at).astype(int)
        for corner in np.ndindex(2, 2):
            share = np.prod(np.where(corner, at - low, 1 - (at - low)))
            out[place] += share * x[tuple(np.minimum(low + corner, last))]
    return out


def mask_loop(config, x, size, params, stats):
    """Eq. (4): encoder, decoder, Eq. (6)."""
    encoded = [x]
    for unit in ("unit1", "unit2"):
        if unit in params:
            encoded.append(unit_loop(max_loop(encoded[-1]), params[unit], stats[unit]))
    a = encoded.pop()
    while a.shape[:2] != size:
        a, beside = double_loop(a, config.upsample), encoded.pop()
        a = a + beside if a.shape == beside.shape else a
    if config.decomposed:
        spatial = conv_loop(a, params["spatial"])[..., 0]
        channel = a.mean(axis=(0, 1)) @ params["channel"]["kernel"][0, 0]
        channel = channel + params["channel"]["bias"]
        a = np.zeros((*size, len(channel)))
        for i, j in np.ndindex(*size):
            a[i, j] = spatial[i, j] * channel
    else:
        a = conv_loop(a, params["whole"])
    return sigmoid(conv_loop(a, params["fuse"]))


def block_loop(config, v, stride, params, stats):
    """Eqs. (3) and (7) of one image."""
    first = unit_loop(v, params["unit1"], stats["unit1"], stride)
    a = unit_loop(first, params["unit2"], stats["unit2"])
    entry = first if config.mask_entry == "residual" else v
    m = mask_loop(config, entry, a.shape[:2], params["mask"], stats["mask"])
    return (1 + m) * a, m


VARIANTS = [
    ({}, 2, 2),
    ({"upsample": "bilinear"}, 2, 2),
    ({"decomposed": False, "shortcut": "none"}, 2, 1),
    ({"mask_entry": "pool", "upsample": "bilinear"}, 2, 2),  # as in block 2
    ({"mask_entry": "pool", "shortcut": "none"}, 2, 1),  # as in block 3
    ({"mask_entry": "pool"}, 1, 1),  # as in block 4
]


def block(changes, stride, pooled, size=(8, 8)):
    """A block whose weights are away from their start, and its input."""
    config = dataclasses.replace(TINY, backbone_units=2, **changes)
    module = Block(config, 4, stride, pooled)
    v = jnp.asarray(np.random.default_rng(1).normal(size=(2, *size, 2)), jnp.float32)
    init = partial(module.init, train=False)
    variables = drawn(jax.eval_shape(init, jax.random.key(0), v))
    variables["params"]["mask"]["fuse"]["kernel"] /= 10  # away from 0 and 1
    return module, variables, v


@pytest.mark.parametrize(("changes", "stride", "pooled"), VARIANTS)
def test_a_block_follows_equations_3_to_7(changes, stride, pooled):
    module, variables, v = block(changes, stride, pooled)
    out, mask = jax.jit(partial(module.apply, train=False))(variables, v)
    params, stats = float64(variables["params"]), float64(variables["batch_stats"])
    for k in range(len(v)):
        wanted, m = block_loop(module.config, np.asarray(v[k], np.float64), stride, params, stats)
        np.testing.assert_allclose(mask[k], m, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out[k], wanted, rtol=1e-4, atol=1e-5)
    assert ((mask > 0) & (mask < 1)).all()
    assert float(mask.std()) > 0.01


@pytest.mark.parametrize(("changes", "stride", "pooled"), VARIANTS[:1] + VARIANTS[-1:])
def test_a_mask_of_zero_weights_gives_one_and_a_half(changes, stride, pooled):
    module, variables, v = block(changes, stride, pooled)
    params = variables["params"]
    fuse = jax.tree.map(np.zeros_like, params["mask"]["fuse"])
    params = {**params, "mask": {**params["mask"], "fuse": fuse}}
    out, mask = module.apply({**variables, "params": params}, v, train=False)
    plain, no_mask = module.clone(pooled=0).apply(variables, v, train=False)
    assert (mask == 0.5).all()
    assert no_mask is None
    np.testing.assert_array_equal(out, 1.5 * plain)


def vectors(seed=0):
    rng = np.random.default_rng(seed)
    widths = {name: 8 if name == "global" else 4 for name in BRANCHES}
    return {name: jnp.asarray(rng.uniform(0, 1, (3, d)), jnp.float32) for name, d in widths.items()}


def joined(inter, given):
    join = Join(dataclasses.replace(TINY, inter=inter))
    params = drawn(jax.eval_shape(join.init, jax.random.key(0), given))
    return join.apply(params, given), float64(params.get("params", {}))


def test_parts_are_weighed_by_equations_8_and_9():
    given = vectors()
    (whole, local), params = joined("attention", given)
    np.testing.assert_array_equal(whole, given["global"])
    for k in range(3):
        wanted = []
        for name in BRANCHES[1:]:
            e = np.asarray(given[name][k], np.float64)
            mu = sigmoid(e @ params[name]["kernel"][:, 0] + params[name]["bias"][0])
            wanted += [(1 + mu) * value for value in e]
        np.testing.assert_allclose(local[k], wanted, rtol=1e-5)


def test_the_other_ways_to_join():
    given = vectors()
    parts = np.concatenate([given[name] for name in BRANCHES[1:]], axis=1)
    (whole, local), _ = joined("concat", given)
    np.testing.assert_array_equal(whole, given["global"])
    np.testing.assert_array_equal(local, parts)
    (both,), params = joined("fc", given)
    wanted = np.concatenate([given["global"], parts], axis=1) @ params["fc"]["kernel"]
    np.testing.assert_allclose(both, np.maximum(wanted + params["fc"]["bias"], 0), rtol=1e-5)
    for inter in ("attention", "concat", "fc"):  # one branch has nothing to be joined with
        (alone,), params = joined(inter, {"head": given["head"]})
        np.testing.assert_array_equal(alone, given["head"])
        assert not params


@pytest.mark.slow
def test_the_shared_convolution_learns_from_all_branches():
    backbone = Backbone(TINY)
    rng = np.random.default_rng(0)
    heights = {name: 64 if name == "global" else 16 for name in BRANCHES}
    crops = {n: jnp.asarray(rng.normal(size=(2, h, 32, 3)), "f4") for n, h in heights.items()}
    init = partial(backbone.init, train=False)
    variables = drawn(jax.eval_shape(init, jax.random.key(0), crops))

    @jax.jit
    def gradient(chosen):
        def total(kernel):
            params = {**variables["params"], "conv1": {"kernel": kernel}}
            maps, _ = backbone.apply({**variables, "params": params}, crops, train=False)
            return sum(chosen[k] * jnp.sum(jnp.sin(maps[name])) for k, name in enumerate(BRANCHES))

        return jax.grad(total)(variables["params"]["conv1"]["kernel"])

    each = [gradient(row) for row in np.eye(5, dtype=np.float32)]
    assert all(jnp.abs(one).max() > 0 for one in each)
    np.testing.assert_allclose(gradient(np.ones(5, np.float32)), sum(each), rtol=1e-3, atol=1e-4)


# --------------------------------------------------------------- the method


def images(size=(64, 32), count=4):
    pixels = np.random.default_rng(0).integers(0, 255, (count, *size, 3), np.uint8)
    return jnp.asarray(pixels)


def people():
    """Joints of bodies that stand aside of the middle; none of the last one is known."""
    joints = np.tile(standing(), (4, 1, 1))
    joints[..., :2] *= 38
    joints += np.array([22, 51, 1], np.float32)
    joints[-1] = 0
    return jnp.asarray(joints)


def batch(**given):
    return Batch(images(), jnp.arange(4), jnp.ones(4, int), **given)


def seen_crops(monkeypatch, config, given):
    """What the network is given of a batch."""
    seen = []
    call = Network.__call__

    def look(self, crops, **modes):
        seen.append(crops)
        return call(self, crops, **modes)

    monkeypatch.setattr(Network, "__call__", nn.compact(look))
    jax.eval_shape(config.make(NUM_IDS).init, jax.random.key(0), given)
    return seen[0]


def test_parts_are_a_quarter_as_high_as_the_whole(monkeypatch):
    given = Batch(images((90, 40)), jnp.arange(4), jnp.ones(4, int))
    crops = seen_crops(monkeypatch, Config(parts="strips"), given)
    shapes = {name: crop.shape for name, crop in crops.items()}
    assert shapes == {name: (1, 384 if name == "global" else 96, 192, 3) for name in BRANCHES}


SMALL = Config(
    size=(64, 32), backbone_units=1, backbone_width=4, intra=False, dropout=0.0, parts="joints"
)


@pytest.fixture(scope="module")
def built():
    model = SMALL.make(NUM_IDS)
    return model, drawn(jax.eval_shape(model.init, jax.random.key(0), batch(joints=people())))


@pytest.fixture(scope="module")
def features(built):
    return jax.jit(built[0].features)


def by_hand(variables, boxes):
    """The network's output of crops that are cut here."""
    pixels = images().astype(jnp.float32)
    mean = pixels.mean(axis=(1, 2))
    crops = {
        name: ops.crop_and_resize(pixels, boxes[:, k : k + 1], (16 if k else 64, 32))[:, 0]
        - mean[:, None, None, :]
        for k, name in enumerate(BRANCHES)
    }
    run = jax.jit(partial(Network(SMALL, NUM_IDS).apply, train=False, train_backbone=False))
    return run(variables, crops)


@pytest.mark.slow
def test_features_are_of_the_boxes_that_the_joints_give(built, features):
    strips = jnp.broadcast_to(ops.strip_boxes(64, 32)[None], (4, 5, 4))
    boxes = jnp.concatenate([ops.body_part_boxes(people()[:3]), strips[3:]])
    _, variables = built
    found = features(variables, batch(joints=people()))
    halves = [half / np.linalg.norm(half, axis=1)[:, None] for half in by_hand(variables, boxes)[0]]
    np.testing.assert_allclose(found, np.concatenate(halves, axis=1), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[:, :32], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[:, 32:], axis=1), 1, rtol=1e-5)
    unknown = features(variables, batch(joints=jnp.zeros((4, 18, 3))))
    np.testing.assert_allclose(found[3], unknown[3], atol=1e-6)
    assert np.abs(found[:3] - unknown[:3]).max() > 1e-3


def test_strips_need_no_joints_and_ignore_them(built, features):
    model = dataclasses.replace(SMALL, parts="strips").make(NUM_IDS)
    run, (_, variables) = jax.jit(model.features), built
    unknown = features(variables, batch(joints=jnp.zeros((4, 18, 3))))
    np.testing.assert_allclose(run(variables, batch()), unknown, atol=1e-6)
    np.testing.assert_allclose(run(variables, batch(joints=people())), unknown, atol=1e-6)


def test_a_change_of_brightness_alone_changes_nothing(built, features):
    """Every image's own mean is subtracted, and lies around it."""
    _, variables = built
    dark = batch(joints=people())._replace(images=images() // 2)
    bright = dark._replace(images=dark.images + np.array([[[[100, 20, 60]]]], np.uint8))
    np.testing.assert_allclose(features(variables, dark), features(variables, bright), atol=1e-4)


def test_mirroring_mirrors_the_boxes():
    given = batch(joints=people())
    found = mirrored(given)
    np.testing.assert_array_equal(found.images, np.asarray(given.images)[:, :, ::-1])
    boxes, flipped = (ops.body_part_boxes(b.joints[:3]) for b in (given, found))
    np.testing.assert_allclose(flipped[..., 0], 32 - boxes[..., 2], atol=1e-4)
    np.testing.assert_allclose(flipped[..., 2], 32 - boxes[..., 0], atol=1e-4)
    np.testing.assert_array_equal(flipped[..., [1, 3]], boxes[..., [1, 3]])
    np.testing.assert_array_equal(found.joints[..., 2], given.joints[..., 2])
    assert mirrored(batch()).joints is None


def entropy_loop(logits, pids):
    logits = np.asarray(logits, np.float64)
    return np.mean([np.log(np.exp(row).sum()) - row[pid] for row, pid in zip(logits, pids)])


@pytest.mark.parametrize("weight", [0.5, 0.1])
def test_the_loss_is_equation_11(built, weight):
    # With a frozen backbone, training sees what the test sees.
    config = dataclasses.replace(SMALL, branch_weight=weight)
    model, (_, variables) = config.make(NUM_IDS, frozen=True), built
    given = batch(joints=people())
    total, (_, metrics) = jax.jit(model.loss)(variables, given, jax.random.key(0), jnp.int32(0))
    strips = jnp.broadcast_to(ops.strip_boxes(64, 32)[None], (4, 5, 4))
    boxes = jnp.concatenate([ops.body_part_boxes(people()[:3]), strips[3:]])
    halves, logits, _ = by_hand(variables, boxes)
    kernel = variables["params"]["fused_classifier"]["kernel"]
    np.testing.assert_allclose(
        logits["fused"], jnp.concatenate(halves, axis=1) @ kernel, rtol=1e-3, atol=1e-4
    )
    branches = sum(entropy_loop(logits[name], given.pids) for name in BRANCHES)
    fused = entropy_loop(logits["fused"], given.pids)
    np.testing.assert_allclose(total, weight * branches + fused, rtol=1e-4)
    np.testing.assert_allclose(metrics["branches"], branches, rtol=1e-4)
    np.testing.assert_allclose(metrics["fused"], fused, rtol=1e-4)
    hits = np.asarray(logits["fused"]).argmax(axis=1) == np.asarray(given.pids)
    assert metrics["accuracy"] == hits.mean()


def test_without_inter_attention_the_loss_is_of_the_branches(built):
    config = dataclasses.replace(SMALL, inter="concat", branch_weight=0.1)
    model, (_, variables) = config.make(NUM_IDS, frozen=True), built
    arguments = variables, batch(joints=people()), jax.random.key(0), jnp.int32(0)
    total, (_, metrics) = jax.jit(model.loss)(*arguments)
    _, (_, with_fused) = jax.jit(SMALL.make(NUM_IDS, frozen=True).loss)(*arguments)
    np.testing.assert_allclose(total, with_fused["branches"], rtol=1e-5)
    assert set(metrics) == {"branches", "accuracy"}


def test_a_masks_place_is_its_box():
    mask = jnp.arange(1.0, 5.0).reshape(1, 2, 2)
    # Pixels 2 to 6 of 8 rows and 0 to 4 of 4 columns, on a grid of 8 x 4.
    laid = lay_back(mask, jnp.array([[0.0, 2.0, 4.0, 6.0]]), (8, 4), (8, 4))
    rows = [[0] * 4] * 2 + [[1, 1, 2, 2]] * 2 + [[3, 3, 4, 4]] * 2 + [[0] * 4] * 2
    np.testing.assert_array_equal(laid[0], rows)
    # Partly outside of the image, on a coarser grid: the right column of the mask is seen.
    laid = lay_back(mask, jnp.array([[-4.0, 0.0, 4.0, 8.0]]), (8, 8), (4, 4))
    np.testing.assert_array_equal(laid[0], [[2, 2, 0, 0]] * 2 + [[4, 4, 0, 0]] * 2)


def test_masks_are_laid_over_the_image():
    model = TINY.make(NUM_IDS)
    given = batch(joints=people())
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), given))
    maps = jax.jit(model.explain)(variables, given)
    assert list(maps) == ["block2", "block3", "block4"]
    for found in maps.values():
        assert found.over == "self"
        assert found.weights.shape == (4, 2, 8, 4)
        assert found.names == ("whole body", "parts")
        assert ((found.weights >= 0) & (found.weights < 1)).all()
        assert (found.weights[-1] > 0).all()  # strips cover the image
    # Bodies stand aside: left of the box there is nothing.
    boxes = np.asarray(ops.body_part_boxes(given.joints[:1])[0])
    left = (np.arange(4) + 0.5) * 8 < boxes[0, 0]
    assert left.any()
    assert (np.asarray(maps["block2"].weights)[0][..., left] == 0).all()
    assert SMALL.make(NUM_IDS).explain is None
    alone = dataclasses.replace(TINY, branches="head").make(NUM_IDS)
    variables = jax.eval_shape(alone.init, jax.random.key(0), given)
    found = jax.eval_shape(alone.explain, variables, given)["block3"]
    assert (found.weights.shape, found.names) == ((4, 1, 8, 4), ("parts",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (384, 100)}, r"size=\(384, 100\): expected a height of a multiple of 64"),
        ({"size": (96, 64)}, r"config.model.size=\(96, 64\)"),
        ({"backbone_width": 7}, "backbone_width=7: expected an even number"),
        ({"backbone_units": 0}, "backbone_units=0: expected 1 or more"),
        ({"branch_weight": -1.0}, "branch_weight=-1.0: expected 0 or more"),
        ({"overlap": -0.1}, "overlap=-0.1: expected 0 or more"),
        ({"dropout": 1.0}, "dropout=1.0: expected 0 or more and less than 1"),
    ],
)
def test_values_that_no_network_can_have(changes, message):
    with pytest.raises(UserError, match=message):
        Config(**changes).validate()
    Config().validate()
    assert Config().arch == "attention_driven"


def test_what_cannot_be_cut_into_parts_is_named():
    init = TINY.make(NUM_IDS).init
    with pytest.raises(UserError, match=r"images come without joints; .* config.model.parts"):
        init(jax.random.key(0), batch())
    clips = batch(joints=people())._replace(images=images()[:, None])
    with pytest.raises(UserError, match="compares images and got clips"):
        init(jax.random.key(0), clips)
