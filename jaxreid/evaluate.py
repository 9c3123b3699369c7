"""The only evaluator: features once, distances in blocks, ranks by exact counts."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jaxreid import metrics, sharding
from jaxreid.config import Config
from jaxreid.data.index import ReidData, not_queries, num_unmatched
from jaxreid.data.sources import Source
from jaxreid.errors import UserError
from jaxreid.extract import Extractor, blocks, make_extractor, pad
from jaxreid.metrics.ranking import Ranking, match_ranks, summarise, top_k
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.types import Features, ReidModel, Variables

TOP = 10
DRAWS = 100  # galleries of one image of each person, where that is the protocol


class Shown(NamedTuple):
    """The nearest gallery items of some queries, for pictures.

    Attributes:
        queries: items (images, or tracklets) of the query index.
        gallery: items of the gallery index, nearest first; -1 where there are no more.
        distances: to them.
    """

    queries: Int[np.ndarray, " n"]
    gallery: Int[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


class Evaluation(NamedTuple):
    """What scoring yields.

    Attributes:
        scores: fractions, counts, and the protocol in words: what `eval/metrics.json` holds.
        ranking: CMC and average precisions.
        shown: for pictures.
        by_length: rank-1 for clips of each of `config.eval.lengths`, of queries (rows) against
            gallery tracklets (columns); None where it was not asked for.
    """

    scores: dict[str, Any]
    ranking: Ranking
    shown: Shown
    by_length: Float[np.ndarray, "n n"] | None = None


Evaluator = Callable[..., Evaluation]
"""`(variables, lengths=()) -> Evaluation`."""


class Row(NamedTuple):
    """Distances of some queries to the whole gallery.

    Attributes:
        queries: which.
        distances: to every gallery item.
        listed: what was shortlisted for each query, -1 where there are no more; None without a
            shortlist.
    """

    queries: slice
    distances: Float[np.ndarray, "n g"]
    listed: Int[np.ndarray, "n k"] | None = None


def make_evaluator(
    config: Config, model: ReidModel, source: Source, mesh: Mesh, trained_on: Source | None = None
) -> Evaluator:
    """A function from variables to scores. Make it once: its parts are compiled once.

    Args:
        config: the protocol and the sizes of blocks.
        model: `features` and `distance` are called, and what it offers besides if the config asks.
        source: the query and gallery images.
        mesh: features are computed, and the gallery is kept, divided over its devices.
        trained_on: the source whose training set a metric is fitted to; `source` by default.

    Raises:
        UserError: no query has a true match, or the model lacks what the config asks for.
    """
    data = source.data
    query, gallery = data.query.tracks(), data.gallery.tracks()
    protocols = admitted(config, data)
    galleries = {name: gallery.take(columns) for name, columns in protocols.items()}
    if num_unmatched(query, next(iter(galleries.values()))) == query.size:
        raise UserError(
            f"{data.name}: none of the {query.size} queries has a true match (the same person from"
            " another camera) in the gallery, so nothing can be scored"
        )
    if config.eval.shortlist and model.vector is None:
        raise UserError(
            f"config.eval.shortlist={config.eval.shortlist}: this model compares vectors already;"
            " expected None"
        )
    _check_learning(config, trained_on or source, model)
    extractor = make_extractor(config, model, mesh)
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    gallery_block = sharding.round_up(config.eval.gallery_block, mesh.size)
    query_block = config.eval.query_block
    learned = config.eval.metric != "model" or config.eval.fisher is not None

    def on_devices(distance: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(distance, in_shardings=(everywhere, everywhere, divided))

    euclidean = on_devices(lambda _, queries, gallery: pairwise_euclidean(queries, gallery))
    distance = euclidean if learned else on_devices(model.distance)

    def in_blocks(
        distance: Any, variables: Variables, feats_q: Features, feats_g: Features
    ) -> Iterator[Row]:
        """Rows of the distance matrix, some queries at a time."""
        parts = [
            sharding.put(pad(block, gallery_block), divided)
            for block in blocks(feats_g, gallery.size, gallery_block)
        ]
        starts = range(0, query.size, query_block)
        for start, block in zip(starts, blocks(feats_q, query.size, query_block)):
            queries = sharding.put(pad(block, query_block), everywhere)
            row = [distance(variables, queries, part) for part in parts]
            rows = slice(start, min(start + query_block, query.size))
            whole = np.concatenate(jax.device_get(row), axis=1)
            yield Row(rows, whole[: rows.stop - start, : gallery.size])

    def shortlisted(
        variables: Variables, feats_q: Features, feats_g: Features, shortlist: int
    ) -> Iterator[Row]:
        """The same, but only what is near by one vector is ranked by the model's distance.

        All that is not on the list lies behind it, in the order of the vectors' distances.
        """
        vectors = [extractor.vectors(variables, feats) for feats in (feats_q, feats_g)]
        length = sharding.round_up(shortlist, mesh.size)
        for rows, cheap, _ in in_blocks(euclidean, variables, *vectors):
            pids, camids = query.pids[rows], query.camids[rows]
            listed = top_k(cheap, pids, gallery.pids, camids, gallery.camids, k=shortlist)
            whole = np.empty_like(cheap)
            for i, items in enumerate(listed):
                items = items[items >= 0]
                at = rows.start + i
                one = jax.tree.map(lambda x, at=at: x[at : at + 1], feats_q)
                some = pad(jax.tree.map(lambda x, items=items: x[items], feats_g), length)
                exact = jax.device_get(distance(variables, one, some))[0, : len(items)]
                whole[i] = cheap[i] + exact.max(initial=0) + 1
                whole[i, items] = exact
            yield Row(rows, whole, listed)

    def rank(rows: Iterator[Row], pictured: Int[np.ndarray, " n"]) -> tuple[Any, Shown, list[bool]]:
        """Rankings under each protocol, what is shown, and which matches were on the list."""
        ranks: dict[str, list[Int[np.ndarray, " m"]]] = {name: [] for name in protocols}
        nearest: list[Int[np.ndarray, " k"]] = []
        how_far: list[Float[np.ndarray, " k"]] = []
        found: list[bool] = []
        drawn: list[Int[np.ndarray, " draws"]] = []
        for which, block, listed in rows:
            pids, camids = query.pids[which], query.camids[which]
            # The config's own protocol comes last, and its nearest items are shown.
            for name, columns in reversed(protocols.items()):
                part, there = block[:, columns], galleries[name]
                try:
                    here = match_ranks(part, pids, there.pids, camids, there.camids)
                except ValueError as error:
                    at = f"queries {which.start} to {which.stop - 1}"
                    raise UserError(f"scoring failed among {at}: {error}") from None
                ranks[name] += here
            if data.single_shot:
                labels = pids, gallery.pids, camids, gallery.camids
                drawn += metrics.single_shot_ranks(block, *labels, draws=DRAWS)
            if listed is not None:
                listed = np.where(np.isin(listed, columns), listed, -1)
                right = (gallery.pids[listed] == pids[:, None]) & (listed >= 0)
                found += [bool(r.any()) for r, of in zip(right, here) if len(of)]
            some = pictured[(pictured >= which.start) & (pictured < which.stop)] - which.start
            top = top_k(part[some], pids[some], there.pids, camids[some], there.camids, k=TOP)
            nearest += list(np.where(top < 0, top, columns[top]))
            how_far += list(np.take_along_axis(part[some], top, axis=1))
        rankings = {
            name: summarise(those, max_rank=config.eval.max_rank, ap=config.eval.ap)
            for name, those in ranks.items()
        }
        if data.single_shot:
            cmc = metrics.cmc_of_draws(drawn, config.eval.max_rank)
            rankings = {name: ranking._replace(cmc=cmc) for name, ranking in rankings.items()}
        top, far = np.reshape(nearest, (-1, TOP)), np.reshape(how_far, (-1, TOP))
        filled = top[:, 0] >= 0
        return rankings, Shown(pictured[filled], top[filled], far[filled]), found

    def compare(variables: Variables, feats_q: Features, feats_g: Features) -> Iterator[Row]:
        if config.eval.shortlist:
            return shortlisted(variables, feats_q, feats_g, config.eval.shortlist)
        return in_blocks(distance, variables, feats_q, feats_g)

    def evaluate(variables: Variables, lengths: Sequence[int] = ()) -> Evaluation:
        describe = (
            _learn(config, extractor, variables, trained_on or source)
            if learned
            else partial(extractor.features, variables)
        )
        pictured = np.unique(np.linspace(0, query.size - 1, config.eval.pictures, dtype=int))
        feats = [describe(source, split) for split in ("query", "gallery")]
        rankings, shown, found = rank(compare(variables, *feats), pictured)
        del feats  # Of MARS they are gigabytes.
        scores = _scores(config, data, protocols, rankings)
        if found:
            scores["match_on_shortlist"] = float(np.mean(found))
        own = next(iter(rankings.values()))
        if not lengths:
            return Evaluation(scores, own, shown)
        queries = [describe(source, "query", length) for length in lengths]
        nothing, columns = np.zeros(0, int), []
        for length in lengths:
            items = describe(source, "gallery", length)
            ranked = [rank(compare(variables, some, items), nothing)[0] for some in queries]
            columns.append([next(iter(each.values())).cmc[0] for each in ranked])
        return Evaluation(scores, own, shown, np.array(columns).T)

    return evaluate


def _check_learning(config: Config, trained_on: Source, model: ReidModel) -> None:
    """Raises `UserError` if the metric that the config asks for cannot be fitted."""
    size, dimensions, fisher = (
        trained_on.data.train.tracks().size,
        config.eval.pca,
        config.eval.fisher,
    )
    if config.eval.metric != "model" and size <= dimensions:
        raise UserError(
            f"config.eval.pca={dimensions}: the training set has {size} items; expected fewer"
            " dimensions than that"
        )
    if fisher is not None and model.frames is None:
        raise UserError(
            f"config.eval.fisher={fisher}: this model has no descriptors of frames; expected None"
        )
    if fisher is not None and importlib.util.find_spec("sklearn") is None:
        raise UserError(
            f"config.eval.fisher={fisher} needs scikit-learn; install the extra 'metric' (pip"
            " install -e '.[metric]' in the repository)"
        )


def _learn(
    config: Config, extractor: Extractor, variables: Variables, trained_on: Source
) -> Callable[..., Float[np.ndarray, "n d"]]:
    """`(source, split, length=None) -> vectors`, after what is fitted on the training set."""

    def describe(source: Source, split: str, length: int | None = None) -> Float[np.ndarray, "n d"]:
        if mixture is None:
            feats = extractor.features(variables, source, split, length)
            return extractor.vectors(variables, feats)
        frames = extractor.frames(variables, source, split, length)
        return np.stack([metrics.fisher_vector(some, mixture) for some in frames], dtype=np.float32)

    mixture = None
    if config.eval.fisher is not None:
        frames = np.concatenate(extractor.frames(variables, trained_on, "train"))
        mixture = metrics.fit_mixture(frames, config.eval.fisher, config.train.seed)
    if config.eval.metric == "model":
        return describe
    train, tracks = describe(trained_on, "train"), trained_on.data.train.tracks()
    try:
        shorter = metrics.pca(train, config.eval.pca)
        if (axes := shorter.matrix.shape[1]) < config.eval.pca:
            raise ValueError(
                f"the training set has {axes} principal components; expected that many"
            )
        if config.eval.metric == "kissme":
            metric = metrics.kissme(shorter(train), tracks.pids, tracks.camids)
        else:
            metric = metrics.lfda(shorter(train), tracks.pids)
    except ValueError as error:
        raise UserError(
            f"config.eval.metric={config.eval.metric}, config.eval.pca={config.eval.pca}: {error}"
        ) from None
    return lambda *args: metric(shorter(describe(*args))).astype(np.float32)


def admitted(config: Config, data: ReidData) -> dict[str, Int[np.ndarray, " _"]]:
    """Which gallery items each protocol of MARS keeps; the config's own comes first.

    Where queries are not in the gallery, there is nothing to choose.
    """
    own = config.eval.mars_protocol
    everything = np.arange(data.gallery.tracks().size)
    if not data.shared_tracklets:
        return {own: everything}
    both = {"official": everything, "query_removed": np.flatnonzero(not_queries(data))}
    return {own: both.pop(own), **both}


def _scores(
    config: Config, data: ReidData, protocols: Mapping[str, Any], rankings: Mapping[str, Ranking]
) -> dict[str, Any]:
    (own, columns), *_ = protocols.items()
    words: dict[str, Any] = {"ap": config.eval.ap, "flip": config.eval.flip, "rerank": False}
    words |= {key: value for key, value in vars(config.model).items() if key.startswith("test_")}
    if config.eval.metric != "model":
        words["metric"] = f"{config.eval.metric} after {config.eval.pca} principal components"
    if config.eval.fisher is not None:
        words["fisher"] = f"of {config.eval.fisher} components"
    if config.eval.shortlist is not None:
        words["shortlist"] = config.eval.shortlist
    if length := config.scored_clip_length:
        words["clips"] = f"{config.eval.clips}, {length} frames"
    if data.split is not None:
        words["split"] = data.split
    if data.single_shot:
        words["single_shot"] = (
            f"CMC over {DRAWS} draws of one gallery image of each person, mAP over all images"
        )
    if data.notes:
        words["notes"] = "; ".join(data.notes)
    if data.shared_tracklets:
        words["mars_protocol"] = own
        # The figures of the two protocols do not compare, so both are given.
        words["other_protocol"] = {
            "mars_protocol": next(name for name in protocols if name != own),
            **_figures(next(r for name, r in rankings.items() if name != own)),
        }
    return {
        **_figures(rankings[own]),
        "num_queries": data.query.tracks().size,
        "num_gallery": len(columns),
        "data": data.name,
        "protocol": "single query; same person and camera left out; ties count against the query",
        **words,
    }


def _figures(ranking: Ranking) -> dict[str, Any]:
    cmc = ranking.cmc
    at = {f"rank{rank}": float(cmc[min(rank, len(cmc)) - 1]) for rank in (1, 5, 10, 20)}
    return {**at, "mAP": float(ranking.mean_ap), "num_valid": ranking.num_valid}


def describe(scores: dict[str, Any]) -> str:
    """The result line: the figures, and every choice of protocol that changes them."""
    figures = ", ".join(
        f"{name} {scores[name]:.2%}" for name in ("rank1", "rank5", "rank10", "mAP")
    )
    unmatched = scores["num_queries"] - scores["num_valid"]
    video = f" clips {scores['clips']};" if "clips" in scores else ""
    video += f" split {scores['split']};" if "split" in scores else ""
    video += f" {scores['notes']};" if "notes" in scores else ""
    extra = "".join(
        f" {words} {scores[key]};"
        for key, words in (("metric", "metric"), ("fisher", "Fisher vectors"))
        if key in scores
    )
    extra += "".join(f" {key} {scores[key]};" for key in scores if key.startswith("test_"))
    extra += f" {scores['single_shot']};" if "single_shot" in scores else ""
    if "shortlist" in scores:
        extra += (
            f" only the {scores['shortlist']} nearest by one vector are ranked exactly, and a match"
            f" was among them for {scores['match_on_shortlist']:.2%} of the queries;"
        )
    if "mars_protocol" in scores:
        other = scores["other_protocol"]
        video += (
            f" MARS protocol {scores['mars_protocol']} ({other['mars_protocol']}: rank1"
            f" {other['rank1']:.2%}, mAP {other['mAP']:.2%} of {other['num_valid']} queries);"
        )
    return (
        f"{scores['data']}: {figures} [{scores['num_queries']} queries, {scores['num_gallery']}"
        f" gallery {'tracklets' if 'clips' in scores else 'images'}; {unmatched} queries without a"
        f" match, not scored; AP {scores['ap']};{video}{extra}"
        f" flip {'averaged' if scores['flip'] else 'off'}; {scores['protocol']}]"
    )
