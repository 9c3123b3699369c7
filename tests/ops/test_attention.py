"""The equations of DuATM against loops written from the paper, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import ops, sharding
from jaxreid.ops import FeatureSequence


def softmax(t):
    e = np.exp(t - t.max())
    return e / e.sum()


def attend_loop(filters, memory):
    """Eqs. (2)-(3), one reference vector at a time."""
    out = np.zeros((len(filters), memory.shape[1]))
    for i, q in enumerate(filters):
        e = np.array([np.dot(q, x) for x in memory])
        for weight, x in zip(softmax(e), memory):
            out[i] += weight * x
    return out


def distance_loop(a, b):
    """Eqs. (4)-(5). An item is (x, q)."""
    (x_a, q_a), (x_b, q_b) = a, b
    d_a = [np.linalg.norm(r - s) for r, s in zip(attend_loop(q_a, x_a), attend_loop(q_a, x_b))]
    d_b = [np.linalg.norm(r - s) for r, s in zip(attend_loop(q_b, x_b), attend_loop(q_b, x_a))]
    return sum(d_a) / (2 * len(d_a)) + sum(d_b) / (2 * len(d_b))


def items(seed, n, s=6, d=16, scale=3.0):
    """Unit vectors and non-negative filters, in float64."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, s, d))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return x, np.maximum(rng.normal(size=(n, s, d)) * scale, 0)


def sequences(x, q):
    x, q = jnp.asarray(x, jnp.float32), jnp.asarray(q, jnp.float32)
    return FeatureSequence(x, q, ops.attend(q, x))


def at(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def test_dual_attention_is_eqs_2_and_3():
    (x, q), (y, _) = items(0, 1), items(1, 1, s=9)
    refined, aligned = ops.dual_attention(*map(jnp.float32, (q[0], x[0], y[0])))
    np.testing.assert_allclose(refined, attend_loop(q[0], x[0]), atol=1e-6)
    np.testing.assert_allclose(aligned, attend_loop(q[0], y[0]), atol=1e-6)


def test_attention_weights_are_convex():
    x, q = items(2, 3)
    weights = ops.attention_weights(jnp.float32(q), jnp.float32(x))
    assert weights.shape == (3, 6, 6)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize(("s_a", "s_b"), [(6, 6), (32, 32), (16, 5)])
def test_distance_is_eqs_4_and_5(s_a, s_b):
    (x, q), (y, r) = items(3, 1, s=s_a), items(4, 1, s=s_b)
    got = ops.dual_attention_distance(at(sequences(x, q), 0), at(sequences(y, r), 0))
    assert got == pytest.approx(distance_loop((x[0], q[0]), (y[0], r[0])), abs=1e-6)


@pytest.mark.parametrize("s", [8, 32])
def test_the_block_form_equals_the_definition(s):
    (x, q), (y, r) = items(5, 5, s=s, d=64), items(6, 7, s=s, d=64)
    want = [[distance_loop((x[i], q[i]), (y[j], r[j])) for j in range(7)] for i in range(5)]
    got = jax.jit(ops.dual_attention_distmat)(sequences(x, q), sequences(y, r))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_block_form_takes_lengths_that_differ():
    (x, q), (y, r) = items(7, 3, s=4), items(8, 2, s=9)
    want = [[distance_loop((x[i], q[i]), (y[j], r[j])) for j in range(2)] for i in range(3)]
    np.testing.assert_allclose(
        ops.dual_attention_distmat(sequences(x, q), sequences(y, r)), want, atol=1e-5
    )


def test_the_distance_does_not_depend_on_the_block():
    queries, feats = sequences(*items(9, 3)), sequences(*items(15, 12))
    whole = ops.dual_attention_distmat(queries, feats)
    for size in (1, 5, 12):
        for start in range(0, 12, size):
            block = jax.tree.map(lambda leaf, i=start, n=size: leaf[i : i + n], feats)
            part = ops.dual_attention_distmat(queries, block)
            np.testing.assert_allclose(part, whole[:, start : start + size], atol=1e-6)


@pytest.mark.parametrize("g", [0, 1, 131, 264])
def test_galleries_of_any_size_are_taken_in_steps(g):
    # Of 8 devices' shares of 264, 33 each, or of the one share of 131, the last step is not full.
    (x, q), (y, r) = items(16, 2, s=3, d=4), items(17, g, s=2, d=4)
    want = [[distance_loop((x[i], q[i]), (y[j], r[j])) for j in range(g)] for i in range(2)]
    got = ops.dual_attention_distmat(sequences(x, q), sequences(y, r))
    assert got.shape == (2, g)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("g", [128, 264])
def test_devices_match_their_own_part_of_the_gallery(g):
    mesh = sharding.make_mesh(jax.devices()[:8])
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    queries, feats = sequences(*items(18, 3)), sequences(*items(19, g))
    run = jax.jit(ops.dual_attention_distmat, in_shardings=(everywhere, divided))
    compiled = run.lower(queries, feats).compile()
    moves = ("all-gather", "all-reduce", "all-to-all", "collective", "reduce-scatter")
    assert not any(move in compiled.as_text() for move in moves)
    assert compiled.output_shardings.spec == jax.sharding.PartitionSpec(None, *divided.spec)
    np.testing.assert_allclose(
        run(sharding.put(queries, everywhere), sharding.put(feats, divided)),
        ops.dual_attention_distmat(queries, feats),
        atol=1e-6,
    )


def test_memory_does_not_grow_with_the_gallery():
    def temporaries(g):
        shapes = [jax.ShapeDtypeStruct((n, 32, 64), jnp.float32) for n in (8, g)]
        feats = [FeatureSequence(x, x, x) for x in shapes]
        compiled = jax.jit(ops.dual_attention_distmat).lower(*feats).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # The weights of all pairs would be 34 and 134 MB.
    assert temporaries(1024) < 16e6
    assert temporaries(4096) < 16e6


def test_filters_of_any_length_do_not_overflow():
    (x, q), (y, r) = items(20, 2, scale=1e4), items(21, 3, scale=1e4)
    want = [[distance_loop((x[i], q[i]), (y[j], r[j])) for j in range(3)] for i in range(2)]
    got = ops.dual_attention_distmat(sequences(x, q), sequences(y, r))
    # Weights of all or nothing: a product's rounding, 1e-3 of a logit, is what is left.
    np.testing.assert_allclose(got, want, atol=1e-3)


def test_the_distance_is_symmetric_and_bounded():
    # Opposite vectors and sharp filters come as near to the bound as one can.
    x, q = items(10, 6, scale=30.0)
    x[1] = -x[0]
    feats = sequences(x, q)
    distmat = ops.dual_attention_distmat(feats, feats)
    off_diagonal = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(distmat[off_diagonal], distmat.T[off_diagonal], atol=1e-6)
    assert (distmat >= 0).all()
    assert (distmat <= 2).all()


def test_an_item_is_at_distance_zero_of_itself():
    feats = sequences(*items(11, 3))
    for i in range(3):
        assert ops.dual_attention_distance(at(feats, i), at(feats, i)) == 0


def test_the_distance_does_not_depend_on_the_order_of_positions():
    (x, q), (y, r) = items(12, 1), items(13, 1)
    order = np.random.default_rng(0).permutation(6)
    want = ops.dual_attention_distance(at(sequences(x, q), 0), at(sequences(y, r), 0))
    for a, b in (
        ((x[:, order], q[:, order]), (y, r)),
        ((x, q), (y[:, order], r[:, order])),
    ):
        got = ops.dual_attention_distance(at(sequences(*a), 0), at(sequences(*b), 0))
        assert got == pytest.approx(float(want), abs=1e-6)


def test_the_gradient_is_finite_for_duplicates():
    x, q = map(jnp.float32, items(14, 3))
    x, q = x.at[1].set(x[0]), q.at[1].set(q[0])

    def total(x, q):
        feats = FeatureSequence(x, q, ops.attend(q, x))
        match = jax.vmap(jax.vmap(ops.dual_attention_distance, (None, 0)), (0, None))
        return match(feats, feats).sum()

    for gradient in jax.grad(total, (0, 1))(x, q):
        assert jnp.isfinite(gradient).all()
        assert jnp.abs(gradient).max() > 0


def test_temporal_attention_is_a_softmax_over_frames():
    rng = np.random.default_rng(0)
    frames, scores = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4))
    want = np.zeros((3, 5))
    for i in range(3):
        for weight, frame in zip(softmax(scores[i]), frames[i]):
            want[i] += weight * frame
    got = ops.temporal_attention(jnp.float32(frames), jnp.float32(scores))
    np.testing.assert_allclose(got, want, atol=1e-6)
    mean = ops.temporal_attention(jnp.float32(frames), jnp.zeros((3, 4)))
    np.testing.assert_allclose(mean, frames.mean(axis=1), atol=1e-6)
    assert ops.temporal_attention(jnp.bfloat16(frames), jnp.bfloat16(scores)).dtype == jnp.float32


def test_location_attention_is_eq_3_of_where_and_when_to_look():
    rng = np.random.default_rng(0)
    states, kernel = rng.normal(size=(2, 3, 2, 4)), rng.normal(size=(24, 6))
    got = ops.location_attention(jnp.float32(states), jnp.float32(kernel))
    for h, m in zip(states, got):
        scores = np.array(
            [sum(kernel[k, i] * h.reshape(-1)[k] for k in range(24)) for i in range(6)]
        )
        np.testing.assert_allclose(m, np.exp(scores) / np.exp(scores).sum(), atol=1e-6)
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-6)
    even = ops.location_attention(jnp.float32(states), jnp.zeros((24, 6)))
    np.testing.assert_allclose(even, 1 / 6, atol=1e-7)
    # A shift of all scores, however large, is no preference.
    large = jnp.broadcast_to(jnp.float32(1e3 * kernel[:, :1]), (24, 6))
    np.testing.assert_allclose(ops.location_attention(jnp.float32(states), large), 1 / 6, atol=1e-6)


def test_non_local_against_a_loop():
    """Every place with every place, and the products divided by their number."""
    rng = np.random.default_rng(0)
    queries, keys, values = (rng.normal(size=(2, 5, width)) for width in (3, 3, 4))
    want = np.zeros((2, 5, 4))
    for item in range(2):
        for i in range(5):
            for j in range(5):
                weight = sum(queries[item, i, k] * keys[item, j, k] for k in range(3)) / 5
                want[item, i] += weight * values[item, j]
    got = ops.non_local(*map(jnp.float32, (queries, keys, values)))
    np.testing.assert_allclose(got, want, atol=1e-5)
