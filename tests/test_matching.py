from itertools import chain

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxreid import matching, sharding
from jaxreid.matching import Block, Labels, distance_blocks, rank_blocks, rank_features
from jaxreid.metrics import NanDistances, evaluate_rank
from jaxreid.metrics.ranking import index_gallery, ranks_in_parts
from jaxreid.ops import pairwise_euclidean


def city_block(queries, gallery):
    """Of small integers it is exact, whatever the shape of the blocks."""
    return jnp.sum(jnp.abs(queries[:, None] - gallery[None]), axis=-1)


def by_hand(distmat, labels, admitted):
    """The ranks of each protocol's matches, one item after another."""
    out = []
    for mask in admitted.tolist():
        out.append([])
        for row, pid, camid in zip(
            distmat.tolist(), labels.q_pids.tolist(), labels.q_camids.tolist()
        ):
            matches, others = [], []
            items = zip(row, labels.g_pids.tolist(), labels.g_camids.tolist(), mask)
            for distance, g_pid, g_camid, there in items:
                if not there or g_pid == -1 or (g_pid == pid and g_camid == camid):
                    continue
                (matches if g_pid == pid else others).append(distance)
            out[-1].append(
                [j + sum(x <= m for x in others) for j, m in enumerate(sorted(matches), start=1)]
            )
    return out


def draw_case(rng, q, g, people):
    """Junk, distractors that a query may ask for, same-camera items, and many ties."""
    labels = Labels(
        rng.integers(-1, people, q),
        rng.integers(-1, people, g),
        rng.integers(1, 4, q),
        rng.integers(1, 4, g),
    )
    feats_q, feats_g = (rng.integers(0, 4, (n, 2)).astype(np.float32) for n in (q, g))
    distmat = np.abs(feats_q[:, None] - feats_g[None]).sum(axis=-1)
    admitted = np.stack([np.ones(g, bool), rng.random(g) < 0.7])  # as of MARS
    return labels, feats_q, feats_g, distmat, admitted


def as_lists(ranks):
    return [[of_query.tolist() for of_query in protocol] for protocol in ranks]


def joined(blocks):
    """The ranks of all blocks, for each protocol."""
    per_block = (as_lists(ranks) for _, ranks in blocks)
    return [list(chain.from_iterable(parts)) for parts in zip(*per_block)]


@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.integers(1, 12),
    g=st.integers(1, 60),
    people=st.integers(1, 9),
    part=st.integers(1, 60),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(deadline=None, max_examples=100)
def test_rows_on_the_host_however_they_are_cut(seed, q, g, people, part, dtype):
    rng = np.random.default_rng(seed)
    labels, _, _, distmat, admitted = draw_case(rng, q, g, people)
    want = by_hand(distmat, labels, admitted)
    gallery = index_gallery(labels.g_pids, labels.g_camids, admitted)
    padded = np.zeros((q + 1, sharding.round_up(g, part)), dtype)  # nearer than anything
    padded[:q, :g] = distmat
    parts = padded.reshape(q + 1, -1, part).swapaxes(0, 1)
    assert as_lists(ranks_in_parts(parts, labels.q_pids, labels.q_camids, gallery)) == want
    host = [Block(slice(i, i + 1), distmat[None, i : i + 1].astype(dtype)) for i in range(q)]
    assert joined(rank_blocks(iter(host), labels, admitted)) == want


# Sizes and blocks: few, for each is compiled.
SHAPES = [(5, 23, 2, 8), (5, 23, 9, 23), (7, 40, 3, 16)]


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    people=st.integers(2, 9),
    devices=st.sampled_from([1, 8]),
    on_host=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_the_same_integers_everywhere(seed, shape, people, devices, on_host):
    q, g, query_block, gallery_block = shape
    labels, feats_q, feats_g, distmat, admitted = draw_case(
        np.random.default_rng(seed), q, g, people
    )
    mesh = sharding.make_mesh(jax.devices()[:devices])
    found = distance_blocks(city_block, feats_q, feats_g, mesh, query_block, gallery_block)
    got = joined(rank_blocks(found, labels, admitted, on_host=on_host))
    assert got == by_hand(distmat, labels, admitted)


@pytest.mark.parametrize("on_host", [True, False])
def test_features_score_as_the_matrix_of_their_distances(on_host):
    rng = np.random.default_rng(0)
    labels = draw_case(rng, 11, 300, 20)[0]
    feats_q, feats_g = (rng.normal(size=(n, 8)).astype(np.float32) for n in (11, 300))
    mesh = sharding.make_mesh(jax.devices()[:1])
    options = {"mesh": mesh, "query_block": 4, "gallery_block": 64}
    got = rank_features(
        pairwise_euclidean, feats_q, feats_g, *labels, **options, on_host=on_host, ap="trapezoid"
    )
    blocks = distance_blocks(pairwise_euclidean, feats_q, feats_g, *options.values())
    rows = [
        block.rows(np.arange(block.queries.stop - block.queries.start), 300) for block in blocks
    ]
    assert [len(r) for r in rows] == [4, 4, 3]
    distmat = np.concatenate(rows)
    far = np.linalg.norm(feats_q[:, None] - feats_g[None], axis=-1)
    np.testing.assert_allclose(distmat, far, rtol=1e-5)
    want = evaluate_rank(distmat, *labels, ap="trapezoid")
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("on_host", [True, False])
def test_nan_names_the_query(on_host):
    labels, feats_q, feats_g, *_ = draw_case(np.random.default_rng(0), 5, 23, 4)
    feats_q[3] = np.nan
    with pytest.raises(NanDistances, match=rf"query row 3 \(pid {labels.q_pids[3]}, camid"):
        rank_features(
            city_block, feats_q, feats_g, *labels, query_block=2, gallery_block=8, on_host=on_host
        )


def test_nan_in_the_padding_is_not_the_gallery():
    """The last item is repeated to fill its part: it is the gallery's own, and no other is."""

    def of_place(queries, gallery):
        spoiled = jnp.where(gallery == 22.0, jnp.nan, gallery)  # of the last item and its copies
        return jnp.broadcast_to(spoiled[None, :, 0], (len(queries), len(gallery)))

    gallery = np.arange(23, dtype=np.float32)[:, None]
    labels = Labels(np.array([1]), np.ones(23, int), np.array([1]), np.full(23, 2))
    mesh = sharding.make_mesh()
    for size, fails in ((22, False), (23, True)):
        short = labels._replace(g_pids=labels.g_pids[:size], g_camids=labels.g_camids[:size])
        for on_host in (True, False):
            found = distance_blocks(of_place, gallery[:1], gallery, mesh, 1, 8)
            if fails:
                with pytest.raises(NanDistances):
                    list(rank_blocks(found, short, on_host=on_host))
            else:
                [(_, [[ranks]])] = rank_blocks(found, short, on_host=on_host)
                assert ranks.tolist() == [*range(1, 23)]


def test_distances_that_depend_on_arrays_are_compiled_once():
    traced = []

    def scaled(scale, queries, gallery):
        traced.append(1)
        return scale * city_block(queries, gallery)

    labels, feats_q, feats_g, distmat, _ = draw_case(np.random.default_rng(1), 5, 23, 4)
    for scale in (1.0, 2.0, 3.0):
        distance = jax.tree_util.Partial(scaled, jnp.float32(scale))
        got = rank_features(distance, feats_q, feats_g, *labels, query_block=2, gallery_block=8)
        np.testing.assert_array_equal(got.ap, evaluate_rank(distmat, *labels).ap)
    assert len(traced) == 1


def test_devices_exchange_counts_not_distances():
    mesh = sharding.make_mesh()
    gallery = np.ones((100, 16), np.float32)
    [block] = distance_blocks(pairwise_euclidean, gallery[:5], gallery, mesh, 5, 32)
    assert block.parts.shape == (4, 5, 32)
    assert {shard.data.shape for shard in block.parts.addressable_shards} == {(4, 5, 4)}
    np.testing.assert_array_equal(block.rows(np.array([1, 3]), 100), np.zeros((2, 100)))
    kept = matching._lay_out(np.ones((2, 100), bool), block.parts)
    assert {shard.data.shape for shard in kept.addressable_shards} == {(2, 4, 4)}
    items = np.zeros((5, 8), np.int32)
    count = matching._count.lower(block.parts, kept, items, np.int32(100), mesh)
    program = count.compile().as_text()
    assert "all-reduce" in program
    assert not any(name in program for name in ("all-gather", "all-to-all", "collective-permute"))


@pytest.fixture
def unchecked():
    """As a user runs it: without the shape checks of the test session."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", range(4))
def test_shapes_that_disagree(wrong):
    labels, feats_q, feats_g, *_ = draw_case(np.random.default_rng(0), 5, 23, 4)
    labels = [of_label[i == wrong :] for i, of_label in enumerate(labels)]
    with pytest.raises(ValueError, match=r"shapes disagree: .* the features are of 5 and 23 items"):
        rank_features(city_block, feats_q, feats_g, *labels)
