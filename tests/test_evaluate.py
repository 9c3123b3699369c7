import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid import evaluate, matching, metrics, sharding
from jaxreid.data.index import not_queries
from jaxreid.data.sources import Labelled, from_arrays, open_source
from jaxreid.errors import UserError
from jaxreid.evaluate import make_evaluator
from jaxreid.extract import make_extractor
from jaxreid.metrics import evaluate_rank
from jaxreid.ops import pairwise_euclidean
from jaxreid.protocol import describe
from jaxreid.types import ReidModel

SIZE = (64, 32)


def mean_colour_model(spoil=False):
    """The simplest method: an image, or a clip, is its mean colour."""

    def features(variables, batch):
        pixels = batch.images.astype(jnp.float32)
        colour = pixels.mean(axis=range(1, pixels.ndim - 1)) * variables["params"]
        return {"colour": jnp.where(spoil & (batch.pids[:, None] == 3), jnp.nan, colour)}

    return ReidModel(
        init=lambda key, batch: {"params": jnp.ones(())},
        features=features,
        distance=lambda v, q, g: pairwise_euclidean(q["colour"], g["colour"]),
        loss=lambda *_: None,
    )


@pytest.fixture(scope="module")
def source():
    rng = np.random.default_rng(0)

    def draw(n, low):
        return Labelled(
            rng.integers(0, 255, (n, 1, 1, 3), np.uint8).repeat(SIZE[0], 1).repeat(SIZE[1], 2),
            rng.integers(low, 7, n),
            rng.integers(1, 4, n),
        )

    return from_arrays(draw(8, 1), draw(13, 1), draw(29, 0))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(("query_block", "gallery_block"), [(4, 8), (100, 100), (1, 29)])
def test_blocks_and_devices_do_not_change_the_scores(
    tiny, source, devices, query_block, gallery_block
):
    config = tiny()
    config.eval.query_block, config.eval.gallery_block = query_block, gallery_block
    config.eval.batch_size = 5
    mesh = sharding.make_mesh(jax.devices()[:devices])
    evaluation = make_evaluator(config, mean_colour_model(), source, mesh)({"params": jnp.ones(())})

    query, gallery = source.data.query, source.data.gallery
    colours = [
        next(source.images(split, [np.arange(index.size)], SIZE))[:, 0, 0].astype(np.float64)
        for split, index in (("query", query), ("gallery", gallery))
    ]
    distmat = np.linalg.norm(colours[0][:, None] - colours[1][None], axis=-1)
    want = evaluate_rank(distmat, query.pids, gallery.pids, query.camids, gallery.camids)
    np.testing.assert_allclose(evaluation.ranking.cmc, want.cmc)
    assert evaluation.scores["mAP"] == pytest.approx(want.mean_ap)
    assert evaluation.scores["mINP"] == pytest.approx(want.mean_inp)
    assert evaluation.scores["rank1"] == pytest.approx(want.cmc[0])
    assert evaluation.scores["num_valid"] == want.num_valid

    # Pictures: the nearest of what the protocol admits.
    assert evaluation.shown.gallery.shape == (3, 10)
    for row, found in zip(evaluation.shown.queries, evaluation.shown.gallery):
        same = (gallery.pids == query.pids[row]) & (gallery.camids == query.camids[row])
        order = [g for g in np.argsort(distmat[row], kind="stable") if not same[g]]
        assert found.tolist() == order[:10]


@pytest.mark.parametrize("query_block", [1, 4, 100])
def test_the_hardest_queries_are_kept_to_leaf_through(tiny, source, query_block, monkeypatch):
    monkeypatch.setattr(evaluate, "HARDEST", 4)
    monkeypatch.setattr(evaluate, "SPREAD", 2)
    config = tiny()
    config.eval.query_block, config.eval.pictures = query_block, 1
    evaluation = make_evaluator(config, mean_colour_model(), source, sharding.make_mesh())(
        {"params": jnp.ones(())}
    )
    query, gallery = source.data.query, source.data.gallery
    colours = [
        next(source.images(split, [np.arange(index.size)], SIZE))[:, 0, 0].astype(np.float64)
        for split, index in (("query", query), ("gallery", gallery))
    ]
    distmat = np.linalg.norm(colours[0][:, None] - colours[1][None], axis=-1)
    labels = query.pids, gallery.pids, query.camids, gallery.camids
    ap = evaluate_rank(distmat, *labels).ap
    first, match = np.zeros(13, int), np.full(13, -1)
    for q in range(13):
        same = gallery.pids == query.pids[q]
        other = gallery.camids != query.camids[q]
        items = [g for g in np.argsort(distmat[q], kind="stable") if other[g] or not same[g]]
        right = [g for g in items if same[g]]
        if right:
            first[q], match[q] = items.index(right[0]) + 1, right[0]
    counted = [q for q in range(13) if first[q]]
    hardest = sorted(counted, key=lambda q: (first[q] == 1, ap[q], q))
    leaves = evaluation.leaves
    # Those and the two ends of all queries, failures by average precision, then hits.
    kept = {*hardest[:4], 0, 12}
    assert set(leaves.queries.tolist()) == kept
    assert leaves.queries.tolist()[: len(kept)] == [
        *(q for q in hardest if q in kept),
        *(q for q in sorted(kept) if not first[q]),
    ]
    np.testing.assert_array_equal(leaves.first, first[leaves.queries])
    np.testing.assert_array_equal(leaves.match, match[leaves.queries])
    np.testing.assert_allclose(leaves.ap, ap[leaves.queries])
    found = leaves.first > 0
    far = distmat[leaves.queries, leaves.match]
    np.testing.assert_allclose(leaves.how_far[found], far[found], rtol=1e-4)
    assert np.isnan(leaves.how_far[~found]).all()
    assert evaluation.shown.queries.tolist() == [0]

    # The queries of each camera alone.
    assert list(evaluation.by_camera) == np.unique(query.camids).tolist()
    for camid, ranking in evaluation.by_camera.items():
        own = query.camids == camid
        of_camera = evaluate_rank(
            distmat[own], query.pids[own], gallery.pids, query.camids[own], gallery.camids
        )
        assert ranking.num_valid == of_camera.num_valid
        assert ranking.mean_ap == pytest.approx(of_camera.mean_ap)
        np.testing.assert_allclose(ranking.cmc, of_camera.cmc)


def test_the_protocol_stands_beside_the_figures(tiny, source):
    config = tiny()
    config.eval.ap = "trapezoid"
    evaluate = make_evaluator(config, mean_colour_model(), source, sharding.make_mesh())
    scores = evaluate({"params": jnp.ones(())}).scores
    line = describe(scores)
    assert "13 queries, 29 gallery images" in line
    assert "AP trapezoid" in line
    assert "flip off" in line
    without = scores["num_queries"] - scores["num_valid"]
    assert f"{without} queries without a match, not scored" in line


def test_distances_that_are_not_numbers(tiny, source):
    evaluate = make_evaluator(tiny(), mean_colour_model(True), source, sharding.make_mesh())
    with pytest.raises(UserError, match="NaN"):
        evaluate({"params": jnp.ones(())})


def test_no_query_with_a_match(tiny):
    images = np.zeros((2, *SIZE, 3), np.uint8)
    one_camera = Labelled(images, np.array([1, 2]), np.array([1, 1]))
    with pytest.raises(UserError, match="none of the 2 queries has a true match"):
        make_evaluator(
            tiny(),
            mean_colour_model(),
            from_arrays(one_camera, one_camera, one_camera),
            sharding.make_mesh(),
        )


def clips_of_colours(rng, n, length):
    colours = rng.integers(0, 255, (n, length, 1, 1, 3), np.uint8)
    pixels = colours.repeat(SIZE[0], 2).repeat(SIZE[1], 3)
    return Labelled(pixels, rng.integers(1, 5, n), rng.integers(1, 4, n)), colours[:, :, 0, 0]


def test_features_of_a_tracklet_are_the_mean_over_its_clips(tiny):
    """Five frames in clips of two: [0 1] [2 3] [4 4], so the last frame counts twice."""
    rng = np.random.default_rng(1)
    (train, _), (query, q_colours), (gallery, g_colours) = (
        clips_of_colours(rng, n, 5) for n in (4, 7, 11)
    )
    source = from_arrays(train, query, gallery)
    config = tiny()
    config.data.clip_length, config.eval.batch_size = 2, 4  # clips of a tracklet in two batches
    evaluation = make_evaluator(config, mean_colour_model(), source, sharding.make_mesh())(
        {"params": jnp.ones(())}
    )
    weights = np.array([1, 1, 1, 1, 2]) / 6
    q, g = (np.einsum("t,ntc->nc", weights, c.astype(float)) for c in (q_colours, g_colours))
    distmat = np.sqrt(np.square(q[:, None] - g).sum(axis=2))
    want = evaluate_rank(distmat, query.pids, gallery.pids, query.camids, gallery.camids)
    assert evaluation.scores["mAP"] == pytest.approx(want.mean_ap)
    assert evaluation.scores["rank1"] == pytest.approx(want.cmc[0])
    assert (evaluation.scores["num_queries"], evaluation.scores["num_gallery"]) == (7, 11)
    assert evaluation.scores["clips"] == "all, 2 frames"
    nearest = evaluation.shown.gallery[0, 0]
    row = evaluation.shown.queries[0]
    assert evaluation.shown.distances[0, 0] == pytest.approx(distmat[row, nearest], rel=1e-4)


@pytest.mark.parametrize("protocol", ["official", "query_removed"])
def test_both_protocols_of_mars(tiny_video, protocol):
    config = tiny_video()
    config.eval.mars_protocol = protocol
    source = open_source(config.data)
    scores = make_evaluator(config, mean_colour_model(), source, sharding.make_mesh())(
        {"params": jnp.ones(())}
    ).scores
    query, gallery = source.data.query.tracks(), source.data.gallery.tracks()
    assert set(query.ids) < set(gallery.ids)
    left = gallery.size if protocol == "official" else gallery.size - query.size
    assert (scores["num_queries"], scores["num_gallery"]) == (query.size, left)
    assert scores["mars_protocol"] == protocol
    other = scores["other_protocol"]
    assert {protocol, other["mars_protocol"]} == {"official", "query_removed"}
    assert f"MARS protocol {protocol} ({other['mars_protocol']}: rank1 " in describe(scores)
    assert "2 frames" in describe(scores)


@pytest.mark.parametrize("single_shot", [False, True])
def test_counting_on_the_devices_does_not_change_the_scores(tiny_video, monkeypatch, single_shot):
    source = open_source(tiny_video().data)
    source = source._replace(data=source.data._replace(single_shot=single_shot))
    evaluate = make_evaluator(tiny_video(), mean_colour_model(), source, sharding.make_mesh())
    on_host = evaluate({"params": jnp.ones(())})
    monkeypatch.setattr(matching, "_on_cpu", lambda _: False)
    on_devices = evaluate({"params": jnp.ones(())})
    assert on_devices.scores == on_host.scores
    assert on_devices.scores["other_protocol"]["mINP"] > 0
    for a, b in zip(on_devices.shown, on_host.shown, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_shortlist_of_distances_that_are_not_numbers(tiny, source):
    config = tiny()
    config.eval.shortlist = 5
    model = mean_colour_model(True)._replace(vector=lambda _, feats: feats["colour"])
    evaluate = make_evaluator(config, model, source, sharding.make_mesh())
    with pytest.raises(UserError, match=r"scoring failed: query row \d+ .* has NaN distances"):
        evaluate({"params": jnp.ones(())})


def test_queries_that_lose_their_match_are_not_scored(tiny):
    """Two persons; the second one's other tracklet is a query itself."""
    rng = np.random.default_rng(1)
    train, _ = clips_of_colours(rng, 4, 2)
    pixels = rng.integers(0, 255, (5, 2, *SIZE, 3), np.uint8)
    gallery = Labelled(pixels, np.array([1, 1, 2, 2, 3]), np.array([1, 2, 1, 2, 1]))
    query = Labelled(pixels[[0, 2, 3]], np.array([1, 2, 2]), np.array([1, 1, 2]))
    source = from_arrays(train, query, gallery)
    numbers = np.array([0, 0, 2, 2, 3, 3], np.int32)  # of the gallery's tracklets
    data = source.data._replace(
        query=source.data.query._replace(tracklets=numbers), shared_tracklets=True
    )
    config = tiny()
    config.data.clip_length = 2
    valid, others = {}, {}
    for protocol in ("official", "query_removed"):
        config.eval.mars_protocol = protocol
        evaluate = make_evaluator(
            config, mean_colour_model(), source._replace(data=data), sharding.make_mesh()
        )
        scores = evaluate({"params": jnp.ones(())}).scores
        valid[protocol] = scores["num_valid"]
        other = scores["other_protocol"]
        others[other["mars_protocol"]] = other
        assert scores["mAP"] == others.get(protocol, scores)["mAP"]
    assert valid == {"official": 3, "query_removed": 1}
    assert {name: other["num_valid"] for name, other in others.items()} == valid


def test_a_shortlist_is_ranked_exactly_and_the_rest_behind_it(tiny, source):
    config = tiny()
    config.eval.shortlist = 5
    variables, mesh = {"params": jnp.ones(())}, sharding.make_mesh()
    # The vector knows red alone.
    model = mean_colour_model()._replace(vector=lambda _, feats: feats["colour"][:, :1])
    evaluation = make_evaluator(config, model, source, mesh)(variables)

    query, gallery = source.data.query, source.data.gallery
    colours = [
        next(source.images(split, [np.arange(index.size)], SIZE))[:, 0, 0].astype(np.float64)
        for split, index in (("query", query), ("gallery", gallery))
    ]
    exact = np.linalg.norm(colours[0][:, None] - colours[1][None], axis=-1)
    cheap = np.abs(colours[0][:, None, 0] - colours[1][None, :, 0])
    listed = []
    for row, (pid, camid) in enumerate(zip(query.pids, query.camids)):
        out = (gallery.pids == pid) & (gallery.camids == camid)
        order = [g for g in np.argsort(cheap[row], kind="stable") if not out[g]]
        far = np.setdiff1d(np.arange(gallery.size), order[:5])
        exact[row, far] = 1e4 + cheap[row, far]
        match = (gallery.pids == pid) & ~out
        if match.any():
            listed.append(match[order[:5]].any())
    want = evaluate_rank(exact, query.pids, gallery.pids, query.camids, gallery.camids)
    assert evaluation.scores["mAP"] == pytest.approx(want.mean_ap)
    np.testing.assert_allclose(evaluation.ranking.cmc, want.cmc)
    assert 0 < np.mean(listed) < 1
    assert evaluation.scores["match_on_shortlist"] == pytest.approx(np.mean(listed))
    assert "only the 5 nearest by one vector are ranked exactly" in describe(evaluation.scores)
    assert f"{np.mean(listed):.2%} of the queries" in describe(evaluation.scores)

    # A list of everything changes nothing.
    config.eval.shortlist = gallery.size
    whole = make_evaluator(config, model, source, mesh)(variables).scores
    config.eval.shortlist = None
    assert whole["mAP"] == make_evaluator(config, model, source, mesh)(variables).scores["mAP"]


def test_a_shortlist_needs_more_than_a_vector(tiny, source):
    config = tiny()
    config.eval.shortlist = 5
    with pytest.raises(UserError, match=r"eval.shortlist=5: this model compares vectors already"):
        make_evaluator(config, mean_colour_model(), source, sharding.make_mesh())


def test_clips_that_read_in_a_circle_say_so(tiny):
    """Of five frames in a clip of eight, the last three are masked."""
    rng = np.random.default_rng(1)
    (train, _), (query, _), (gallery, _) = (clips_of_colours(rng, n, 5) for n in (4, 7, 11))
    source = from_arrays(train, query, gallery)
    config = tiny()
    config.data.clip_length, config.eval.clips, config.eval.batch_size = 8, "first", 8

    def features(_, batch):
        assert batch.mask.shape == (8, 8)
        weights = batch.mask / batch.mask.sum(axis=1, keepdims=True)
        colours = batch.images[:, :, 0, 0].astype(jnp.float32)
        return {"colour": jnp.einsum("bt,btc->bc", weights, colours)}

    mesh = sharding.make_mesh()
    masked = mean_colour_model()._replace(features=features)
    variables = {"params": jnp.ones(())}
    got = make_evaluator(config, masked, source, mesh)(variables)
    config.data.clip_length = 5
    want = make_evaluator(config, mean_colour_model(), source, mesh)(variables)
    np.testing.assert_allclose(got.shown.distances, want.shown.distances, rtol=1e-4)


def test_rank1_by_the_length_of_clips(tiny):
    """A longer clip of noisy colours says more; each cell is scored as a run of its own."""
    rng = np.random.default_rng(3)
    pids = np.repeat(np.arange(12), 2)
    colours = np.clip(
        rng.integers(80, 170, (12, 1, 3))[pids] + rng.normal(0, 50, (24, 9, 3)), 0, 255
    )
    pixels = colours[:, :, None, None].repeat(SIZE[0], 2).repeat(SIZE[1], 3).astype(np.uint8)
    query, gallery = (Labelled(pixels[i::2], pids[i::2], np.full(12, i + 1)) for i in (0, 1))
    source = from_arrays(gallery, query, gallery)
    config = tiny()
    config.data.clip_length, config.eval.clips = 3, "first"
    mesh, variables = sharding.make_mesh(), {"params": jnp.ones(())}
    evaluate = make_evaluator(config, mean_colour_model(), source, mesh)
    assert evaluate(variables).by_length is None
    evaluation = evaluate(variables, (1, 3, 9))
    assert evaluation.by_length.shape == (3, 3)
    assert evaluation.by_length[1, 1] == evaluation.scores["rank1"]
    assert evaluation.by_length[2, 2] > evaluation.by_length[0, 0]
    config.data.clip_length = 9
    whole = make_evaluator(config, mean_colour_model(), source, mesh)(variables).scores
    assert evaluation.by_length[2, 2] == whole["rank1"]


def noisy_persons(rng, persons, cameras=2):
    """Clips of four frames of one colour each: a person's is in the red, which the light drowns."""
    pids = np.repeat(np.arange(persons), cameras)
    red = rng.permutation(np.linspace(60, 190, persons))[pids]
    light = rng.normal(0, 40, len(pids))
    colour = np.stack([red + light, 120 + light, np.full(len(pids), 90)], axis=1)
    colours = colour[:, None] + rng.normal(0, 3, (len(pids), 4, 3))
    pixels = np.clip(colours, 0, 255).astype(np.uint8)[:, :, None, None]
    clips = pixels.repeat(SIZE[0], 2).repeat(SIZE[1], 3)
    return Labelled(clips, pids, np.tile(np.arange(cameras) + 1, persons))


@pytest.fixture(scope="module")
def persons():
    rng = np.random.default_rng(5)
    train, test = noisy_persons(rng, 40), noisy_persons(rng, 30)
    halves = [Labelled(*(part[i::2] for part in test)) for i in (0, 1)]
    return from_arrays(train, *halves)


def colour_vector(source, split):
    index = source.data.splits[split]
    pixels = next(source.images(split, [np.arange(index.size)], SIZE))[:, 0, 0].astype(np.float64)
    return pixels.reshape(-1, 4, 3)


def learned(config, source, trained_on=None):
    model = mean_colour_model()._replace(vector=lambda _, feats: feats["colour"])
    model = model._replace(
        frames=lambda _, batch: batch.images[:, :, 0, 0].astype(jnp.float32),
    )
    mesh, variables = sharding.make_mesh(), {"params": jnp.ones(())}
    return make_evaluator(config, model, source, mesh, trained_on)(variables)


@pytest.mark.parametrize("metric", ["kissme", "lfda"])
def test_a_metric_is_fitted_on_the_training_set(tiny, persons, metric):
    config = tiny()
    config.data.clip_length = 4
    plain = learned(config, persons).scores["rank1"]
    config.eval.metric, config.eval.pca = metric, 3
    evaluation = learned(config, persons)
    train, query, gallery = (
        colour_vector(persons, split).mean(axis=1) for split in ("train", "query", "gallery")
    )
    pids = persons.data.train.tracks().pids
    shorter = metrics.pca(train, 3)
    further = (shorter(train), pids, *((np.tile([1, 2], 40),) if metric == "kissme" else ()))
    projection = getattr(metrics, metric)(*further)
    q, g = (projection(shorter(x)) for x in (query, gallery))
    distmat = np.linalg.norm(q[:, None] - g[None], axis=-1)
    labels = (np.arange(30), np.arange(30), np.full(30, 1), np.full(30, 2))
    want = evaluate_rank(distmat, *labels)
    assert evaluation.scores["mAP"] == pytest.approx(want.mean_ap, abs=0.02)
    assert evaluation.scores["rank1"] > plain + 0.2
    assert f"{metric} after 3 principal components" in describe(evaluation.scores)
    # Fitted elsewhere: on persons whose light is in the blue, it helps nobody here.
    other = from_arrays(
        *[
            Labelled(persons_.images[..., ::-1], *persons_[1:])
            for persons_ in (noisy_persons(np.random.default_rng(6), 40),) * 3
        ]
    )
    assert learned(config, persons, other).scores["rank1"] < evaluation.scores["rank1"]


def test_fisher_vectors_of_the_frames(tiny, persons):
    config = tiny()
    config.data.clip_length, config.eval.fisher = 4, 2
    evaluation = learned(config, persons)
    train, query, gallery = (
        colour_vector(persons, split).astype(np.float32) for split in ("train", "query", "gallery")
    )
    mixture = metrics.fit_mixture(train.reshape(-1, 3), 2, config.train.seed)
    q, g = (np.stack([metrics.fisher_vector(x, mixture) for x in xs]) for xs in (query, gallery))
    distmat = np.linalg.norm(q[:, None] - g[None], axis=-1)
    labels = (np.arange(30), np.arange(30), np.full(30, 1), np.full(30, 2))
    want = evaluate_rank(distmat, *labels)
    assert evaluation.scores["mAP"] == pytest.approx(want.mean_ap, abs=0.01)
    assert "Fisher vectors vectors of" not in describe(evaluation.scores)
    assert "Fisher vectors of 2 components" in describe(evaluation.scores)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "kissme", "pca": 80}, "eval.pca=80: the training set has 80 items"),
        ({"metric": "lfda", "pca": 50}, "eval.pca=50: the training set has 3 principal components"),
        ({"fisher": 2}, "eval.fisher=2: this model has no descriptors of frames"),
    ],
)
def test_metrics_that_cannot_be_fitted(tiny, persons, changes, message):
    config = tiny()
    config.data.clip_length = 4
    for key, value in changes.items():
        setattr(config.eval, key, value)
    model = mean_colour_model()._replace(vector=lambda _, feats: feats["colour"])
    with pytest.raises(UserError, match=message):
        make_evaluator(config, model, persons, sharding.make_mesh())({"params": jnp.ones(())})


def test_the_products_of_distances_are_a_choice(tiny, source):
    found = []

    def distance(_, queries, gallery):
        found.append(jax.config.jax_default_matmul_precision)
        return pairwise_euclidean(queries["colour"], gallery["colour"])

    model, variables = mean_colour_model()._replace(distance=distance), {"params": jnp.ones(())}
    for precision, want in (("exact", None), ("BF16_BF16_F32_X3", "BF16_BF16_F32_X3")):
        config = tiny()
        config.eval.precision = precision
        scores = make_evaluator(config, model, source, sharding.make_mesh())(variables).scores
        assert found[-1] == want
        said = f"products of distances {precision};" in describe(scores)
        assert said == (precision != "exact")
    config.eval.precision = "TF32_TF32_F32"  # which no CPU has
    with pytest.raises(UserError, match=r"config\.eval\.precision=TF32_TF32_F32: .* CPU"):
        make_evaluator(config, model, source, sharding.make_mesh())


def test_fisher_vectors_need_scikit_learn(tiny, persons, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    config = tiny()
    config.eval.fisher = 2
    with pytest.raises(UserError, match=r"scikit-learn; install the extra 'metric'"):
        learned(config, persons)


def test_a_single_gallery_shot_is_drawn(tiny, source):
    """CMC is over drawn galleries; blocks of queries do not change it."""
    single = source._replace(data=source.data._replace(single_shot=True))
    config, variables = tiny(), {"params": jnp.ones(())}
    config.eval.query_block = 4
    evaluation = make_evaluator(config, mean_colour_model(), single, sharding.make_mesh())(
        variables
    )
    query, gallery = source.data.query, source.data.gallery
    q, g = (
        next(source.images(split, [np.arange(index.size)], SIZE))[:, 0, 0].astype(np.float64)
        for split, index in (("query", query), ("gallery", gallery))
    )
    distmat = np.linalg.norm(q[:, None] - g[None], axis=-1)
    labels = query.pids, gallery.pids, query.camids, gallery.camids
    np.testing.assert_allclose(evaluation.ranking.cmc, metrics.single_shot_cmc(distmat, *labels))
    assert evaluation.scores["rank1"] > evaluate_rank(distmat, *labels).cmc[0]
    assert "100 draws of one gallery image of each person" in describe(evaluation.scores)
    for camid, ranking in evaluation.by_camera.items():
        own = query.camids == camid
        labels = query.pids[own], gallery.pids, query.camids[own], gallery.camids
        np.testing.assert_allclose(ranking.cmc, metrics.single_shot_cmc(distmat[own], *labels))


def vector_model(offset=0.0):
    """The mean colour as a plain vector."""
    model = mean_colour_model()
    return model._replace(
        features=lambda *args: model.features(*args)["colour"],
        distance=lambda v, q, g: pairwise_euclidean(q, g) - offset,
    )


def colours(source, split, rows=None):
    rows = np.arange(source.data.splits[split].size) if rows is None else rows
    return next(source.images(split, [rows], SIZE))[:, 0, 0].astype(np.float32)


@pytest.mark.parametrize("devices", [1, 8])
def test_reranked_distances_are_scored(tiny, source, devices):
    config = tiny()
    config.eval.query_block, config.eval.gallery_block = 5, 8
    config.eval.rerank, config.eval.rerank_k1, config.eval.rerank_k2 = True, 6, 3
    mesh = sharding.make_mesh(jax.devices()[:devices])
    evaluation = make_evaluator(config, vector_model(), source, mesh)({"params": jnp.ones(())})
    q, g = (colours(source, split) for split in ("query", "gallery"))
    q_g, q_q, g_g = (
        np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in ((q, g), (q, q), (g, g))
    )
    query, gallery = source.data.query, source.data.gallery
    want = evaluate_rank(
        metrics.k_reciprocal_rerank(q_g, q_q, g_g, 6, 3),
        *(query.pids, gallery.pids, query.camids, gallery.camids),
    )
    plain = evaluate_rank(q_g, query.pids, gallery.pids, query.camids, gallery.camids)
    assert evaluation.scores["mAP"] == pytest.approx(want.mean_ap)
    assert want.mean_ap != pytest.approx(plain.mean_ap)
    assert "re-ranked k1 6, k2 3, lambda 0.3" in describe(evaluation.scores)


def test_re_ranking_knows_the_gallery_of_one_protocol_only(tiny_video):
    """Where queries are taken out of the gallery, they are not their own neighbours in it."""
    config = tiny_video()
    config.eval.rerank, config.eval.mars_protocol = True, "query_removed"
    source, mesh = open_source(config.data), sharding.make_mesh()

    def features(variables, batch):
        return batch.images.astype(jnp.float32).mean(axis=(1, 2, 3)) * variables["params"]

    model, variables = vector_model()._replace(features=features), {"params": jnp.ones(())}
    scores = make_evaluator(config, model, source, mesh)(variables).scores
    extractor = make_extractor(config, model, mesh)
    q, g = (extractor.features(variables, source, split) for split in ("query", "gallery"))
    query, gallery = source.data.query.tracks(), source.data.gallery.tracks()
    kept = np.flatnonzero(not_queries(source.data))
    assert len(kept) < gallery.size
    g = g[kept]
    matrices = (np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in ((q, g), (q, q), (g, g)))
    labels = query.pids, gallery.pids[kept], query.camids, gallery.camids[kept]
    want = evaluate_rank(metrics.k_reciprocal_rerank(*matrices), *labels)
    assert scores["mAP"] == pytest.approx(want.mean_ap)
    assert "other_protocol" not in scores
    assert "MARS protocol query_removed;" in describe(scores)


def test_expanded_queries_are_scored(tiny, source):
    config = tiny()
    config.eval.query_expansion = 4
    evaluate = make_evaluator(config, vector_model(), source, sharding.make_mesh())
    scores = evaluate({"params": jnp.ones(())}).scores
    q, g = (colours(source, split) for split in ("query", "gallery"))
    near = np.argsort(np.linalg.norm(q[:, None] - g[None], axis=-1), axis=1)[:, :4]
    q = (q + g[near].sum(axis=1)) / 5
    query, gallery = source.data.query, source.data.gallery
    distmat = np.linalg.norm(q[:, None] - g[None], axis=-1)
    want = evaluate_rank(distmat, query.pids, gallery.pids, query.camids, gallery.camids)
    assert scores["mAP"] == pytest.approx(want.mean_ap)
    assert "query expansion by 4 neighbours" in describe(scores)


@pytest.mark.parametrize(
    ("changes", "pairs", "single_shot", "message"),
    [
        ({"rerank": True}, False, True, "eval.rerank=True: arrays is scored over galleries of one"),
        ({"query_expansion": 3}, False, True, "eval.query_expansion=3: arrays is scored over"),
        ({"query_expansion": 3}, True, False, "eval.query_expansion=3: this model compares pairs"),
        ({"rerank": True}, False, False, "rerank=True: a distance of query 0 is negative .* 0 or"),
    ],
)
def test_second_looks_that_cannot_be(tiny, source, changes, pairs, single_shot, message):
    config = tiny()
    for name, value in changes.items():
        setattr(config.eval, name, value)
    model = vector_model(offset=1000.0)
    if pairs:
        model = model._replace(vector=lambda variables, feats: feats)
    source = source._replace(data=source.data._replace(single_shot=single_shot))
    with pytest.raises(UserError, match=message):
        make_evaluator(config, model, source, sharding.make_mesh())({"params": jnp.ones(())})
