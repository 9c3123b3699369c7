"""The only evaluator: features once, distances in blocks, ranks by exact counts."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from jaxreid import matching, metrics, sharding
from jaxreid.config import Config
from jaxreid.data.index import ReidData, not_queries, num_unmatched
from jaxreid.data.sources import Source
from jaxreid.errors import UserError
from jaxreid.extract import SplitExtractor, make_extractor
from jaxreid.matching import Block
from jaxreid.metrics import Ranking, summarise, top_k
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.types import Features, ReidModel, Variables

TOP = 10
HARDEST, SPREAD = 36, 24  # Queries to leaf through: failures first, and some of all.
_SAID = {
    "metric": "metric",
    "fisher": "Fisher vectors",
    "query_expansion": "query expansion",
    "rerank": "re-ranked",
    "precision": "products of distances",
}
DRAWS = 100  # galleries of one image of each person, where that is the protocol


class Shown(NamedTuple):
    """The nearest gallery items of some queries, for pictures.

    Attributes:
        queries: items (images, or tracklets) of the query index.
        gallery: items of the gallery index, nearest first; -1 where there are no more.
        distances: to them.
        first: rank of each query's nearest true match; 0 where it has none.
        match: which gallery item that is; -1 where there is none.
        how_far: the distance to it; NaN where there is none.
        ap: average precision; NaN where there is no true match.
    """

    queries: Int[np.ndarray, " n"]
    gallery: Int[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]
    first: Int[np.ndarray, " n"]
    match: Int[np.ndarray, " n"]
    how_far: Float[np.ndarray, " n"]
    ap: Float[np.ndarray, " n"]

    def take(self, some: Int[np.ndarray, " _"] | Bool[np.ndarray, " n"]) -> "Shown":
        """Some of the queries, in that order."""
        return Shown(*(column[some] for column in self))


class Evaluation(NamedTuple):
    """What scoring yields.

    Attributes:
        scores: fractions, counts, and the protocol in words: what `eval/metrics.json` holds.
        ranking: CMC and average precisions.
        shown: `config.eval.pictures` queries, evenly spaced, for pictures.
        leaves: those to leaf through, hardest failures first: the `HARDEST` of all queries, by
            average precision, and `SPREAD` others, evenly spaced.
        by_camera: how well the queries of each camera were matched.
        by_length: rank-1 for clips of each of `config.eval.lengths`, of queries (rows) against
            gallery tracklets (columns); None where it was not asked for.
    """

    scores: dict[str, Any]
    ranking: Ranking
    shown: Shown
    leaves: Shown
    by_camera: dict[int, Ranking]
    by_length: Float[np.ndarray, "n n"] | None = None


Evaluator = Callable[..., Evaluation]
"""`(variables, lengths=()) -> Evaluation`."""


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
    _check_second_look(config, data, model)
    _check_products(config)
    extractor = make_extractor(config, model, mesh)
    learned = config.eval.metric != "model" or config.eval.fisher is not None
    labels = matching.Labels(query.pids, gallery.pids, query.camids, gallery.camids)
    # Every protocol ranks the same distances.
    kept = np.stack([np.isin(np.arange(gallery.size), columns) for columns in protocols.values()])

    def of_model(variables: Variables, queries: Features, gallery: Features) -> Any:
        with _products(config.eval.precision):
            return model.distance(variables, queries, gallery)

    def euclidean(_: Variables, queries: Features, gallery: Features) -> Any:
        with _products(config.eval.precision):
            return pairwise_euclidean(queries, gallery)

    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    with_list = jax.jit(
        of_model, in_shardings=(everywhere, everywhere, divided), out_shardings=everywhere
    )

    def one_with_list(variables: Variables, one: Features, share: Features) -> Any:
        return with_list(variables, sharding.put(one, everywhere), sharding.put(share, divided))

    def compare(variables: Variables, feats_q: Features, feats_g: Features) -> Iterator[Block]:
        def in_blocks(distance: Any, feats_q: Features, feats_g: Features) -> Iterator[Block]:
            sizes = config.eval.query_block, config.eval.gallery_block
            distance = jax.tree_util.Partial(distance, variables)
            return matching.distance_blocks(distance, feats_q, feats_g, mesh, *sizes)

        distance = euclidean if learned else of_model
        if config.eval.query_expansion is not None:
            feats_q = metrics.average_query_expansion(
                feats_q, feats_g, config.eval.query_expansion, normalise=False
            )
        if config.eval.rerank:
            return reranked(jax.tree_util.Partial(distance, variables), feats_q, feats_g)
        if not config.eval.shortlist:
            return in_blocks(distance, feats_q, feats_g)
        vectors = [extractor.vectors(variables, feats) for feats in (feats_q, feats_g)]
        cheap = in_blocks(euclidean, *vectors)
        exact = partial(one_with_list, variables)
        return matching.shortlisted(
            cheap, exact, feats_q, feats_g, labels, config.eval.shortlist, mesh
        )

    def reranked(distance: Any, feats_q: Features, feats_g: Features) -> Iterator[Block]:
        """Of the one protocol there is then; what it leaves out is nobody's neighbour."""
        [columns] = protocols.values()
        e = config.eval
        found = matching.reranked(
            distance,
            feats_q,
            jax.tree.map(lambda x: x[columns], feats_g),
            mesh,
            e.query_block,
            e.gallery_block,
            k1=e.rerank_k1,
            k2=e.rerank_k2,
            lambda_value=e.rerank_lambda,
        )
        for block in found:
            part = np.asarray(block.parts)
            whole = np.full((1, part.shape[1], gallery.size), np.inf, part.dtype)
            whole[..., columns] = part
            yield block._replace(parts=whole)

    def ranked(variables: Variables, feats_q: Features, feats_g: Features) -> Iterator[Any]:
        try:
            found = compare(variables, feats_q, feats_g)
            yield from matching.rank_blocks(found, labels, kept)
        except metrics.NanDistances as error:
            raise UserError(f"scoring failed: {error}") from None
        except metrics.NotDistances as error:
            raise UserError(f"config.eval.rerank=True: {error}; expected 0 or more") from None

    def look(block: Block, ranks: list[Int[np.ndarray, " _"]], i: int) -> Shown:
        """What query i of a block found, under the config's own protocol."""
        columns = next(iter(protocols.values()))
        at = block.queries.start + i
        row = block.rows(np.array([i]), gallery.size)[:, columns]
        one, there = labels.of(slice(at, at + 1)), gallery.take(columns)
        top = top_k(row, one.q_pids, there.pids, one.q_camids, there.camids, k=TOP)
        matches = np.flatnonzero((there.pids == one.q_pids) & (there.camids != one.q_camids))
        best = matches[[row[0, matches].argmin()]] if len(matches) else np.full(1, -1)
        return Shown(
            queries=np.array([at]),
            gallery=np.where(top < 0, top, columns[top]),
            distances=row[0, top],
            first=ranks[i][:1] if len(matches) else np.zeros(1, int),
            match=np.where(best < 0, best, columns[best]),
            how_far=np.where(best < 0, np.nan, row[0, best]),
            ap=summarise([ranks[i]], ap=config.eval.ap).ap,
        )

    def rank(found: Iterator[Any], pictured: Int[np.ndarray, " n"], hardest: int = 0) -> _Ranked:
        """Ranks; and looks at the queries that are pictured, and at the hardest, as they pass."""
        ranks: dict[str, list[Int[np.ndarray, " m"]]] = {name: [] for name in protocols}
        looks: dict[int, Shown] = {}
        hard: list[tuple[bool, float, int]] = []
        on_list: list[bool] = []
        drawn: list[Int[np.ndarray, " draws"]] = []
        own, columns = next(iter(protocols.items()))
        for block, of_block in found:
            first, names = block.queries.start, labels.of(block.queries)
            for name, some in zip(protocols, of_block):
                ranks[name] += some
            if data.single_shot:  # Drawn on the host: the galleries of this protocol are small.
                rows = block.rows(np.arange(len(names.q_pids)), gallery.size)
                drawn += metrics.single_shot_ranks(rows, *names, draws=DRAWS)
            if block.listed is not None:
                listed = np.where(np.isin(block.listed, columns), block.listed, -1)
                right = (gallery.pids[listed] == names.q_pids[:, None]) & (listed >= 0)
                on_list += [bool(r.any()) for r, of in zip(right, of_block[0]) if len(of)]
            if hardest:
                each = summarise(of_block[0], ap=config.eval.ap).ap.tolist()
                counted = [i for i, some in enumerate(of_block[0]) if len(some)]
                hard += [(bool(of_block[0][i][0] == 1), each[i], first + i) for i in counted]
                hard = sorted(hard)[:hardest]
            wanted = {*pictured.tolist(), *(i for *_, i in hard)}
            for at in sorted(wanted & set(range(first, block.queries.stop))):
                looks[at] = look(block, of_block[0], at - first)
        rankings = {
            name: summarise(those, max_rank=config.eval.max_rank, ap=config.eval.ap)
            for name, those in ranks.items()
        }
        by_camera = {}
        matched = np.array([len(some) > 0 for some in ranks[own]])
        for camid in np.unique(query.camids).tolist():
            of_camera = query.camids == camid
            some = [ranks[own][i] for i in np.flatnonzero(of_camera)]
            by_camera[camid] = summarise(some, max_rank=config.eval.max_rank, ap=config.eval.ap)
            if data.single_shot:
                draws = [drawn[i] for i in np.flatnonzero(of_camera[matched])]
                cmc = metrics.cmc_of_draws(draws, config.eval.max_rank)
                by_camera[camid] = by_camera[camid]._replace(cmc=cmc)
        if data.single_shot:
            cmc = metrics.cmc_of_draws(drawn, config.eval.max_rank)
            rankings = {name: ranking._replace(cmc=cmc) for name, ranking in rankings.items()}
        return _Ranked(rankings, by_camera, looks, [i for *_, i in hard], on_list)

    def evaluate(variables: Variables, lengths: Sequence[int] = ()) -> Evaluation:
        describe = (
            _learn(config, extractor, variables, trained_on or source)
            if learned
            else partial(extractor.features, variables)
        )
        pictured, spread = (
            np.unique(np.linspace(0, query.size - 1, count, dtype=int))
            for count in (config.eval.pictures, SPREAD)
        )
        feats = [describe(source, split) for split in ("query", "gallery")]
        wanted = np.union1d(pictured, spread)
        found = rank(ranked(variables, *feats), wanted, HARDEST)
        del feats  # Of MARS they are gigabytes.
        scores = _scores(config, data, protocols, found.rankings)
        if found.on_list:
            scores["match_on_shortlist"] = float(np.mean(found.on_list))
        evaluation = Evaluation(
            scores,
            next(iter(found.rankings.values())),
            _join([found.looks[i] for i in pictured.tolist()]),
            _hardest_first(_join([found.looks[i] for i in {*found.hard, *spread.tolist()}])),
            found.by_camera,
        )
        if not lengths:
            return evaluation
        queries = [describe(source, "query", length) for length in lengths]
        nothing, columns = np.zeros(0, int), []
        for length in lengths:
            items = describe(source, "gallery", length)
            each = [rank(ranked(variables, some, items), nothing).rankings for some in queries]
            columns.append([next(iter(rankings.values())).cmc[0] for rankings in each])
        return evaluation._replace(by_length=np.array(columns).T)

    return evaluate


class _Ranked(NamedTuple):
    """What was found on the way through the blocks of distances.

    Attributes:
        rankings: under each protocol.
        by_camera: under the first, of the queries of each camera.
        looks: what some queries found, one in each.
        hard: the hardest of all queries, which are among these.
        on_list: for each query with a match, whether one was on its shortlist.
    """

    rankings: dict[str, Ranking]
    by_camera: dict[int, Ranking]
    looks: dict[int, Shown]
    hard: list[int]
    on_list: list[bool]


def _products(precision: str) -> AbstractContextManager[Any]:
    """What is traced within it computes its products by a dot algorithm."""
    return nullcontext() if precision == "exact" else jax.default_matmul_precision(precision)


def _check_products(config: Config) -> None:
    """Raises `UserError` if the devices have not got the algorithm that the config asks for."""
    x = jax.ShapeDtypeStruct((16, 16), np.float32)
    try:
        with _products(config.eval.precision):
            jax.jit(jnp.matmul).lower(x, x).compile()
    except (ValueError, jax.errors.JaxRuntimeError) as error:
        raise UserError(f"config.eval.precision={config.eval.precision}: {error}") from None


def _join(looks: Sequence[Shown]) -> Shown:
    """Those with something to show, as one."""
    nothing = looks[0].take(np.zeros(0, int))
    return Shown(*map(np.concatenate, zip(nothing, *(x for x in looks if x.gallery[0, 0] >= 0))))


def _hardest_first(shown: Shown) -> Shown:
    """Failures by average precision, then hits, then queries without a match."""
    return shown.take(np.lexsort((shown.queries, shown.ap, shown.first == 1, shown.first == 0)))


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
            " install 'jaxreid[metric]')"
        )


def _check_second_look(config: Config, data: ReidData, model: ReidModel) -> None:
    """Raises `UserError` if distances cannot be looked at again as the config asks for."""
    neighbours = config.eval.query_expansion
    asked = {"rerank": config.eval.rerank or None, "query_expansion": neighbours}
    for key, value in asked.items():
        if value is not None and data.single_shot:
            raise UserError(
                f"config.eval.{key}={value}: {data.name} is scored over galleries of one image of"
                f" each person, drawn {DRAWS} times; expected it off"
            )
    if neighbours is not None and model.vector is not None and config.eval.metric == "model":
        raise UserError(
            f"config.eval.query_expansion={neighbours}: this model compares pairs, and not vectors"
            " that have a mean; expected None"
        )


def _learn(
    config: Config, extractor: SplitExtractor, variables: Variables, trained_on: Source
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
        match config.eval.metric:
            case "kissme":
                metric = metrics.kissme(shorter(train), tracks.pids, tracks.camids)
            case "lfda":
                metric = metrics.lfda(shorter(train), tracks.pids)
            case other:
                raise ValueError(f"there is no metric {other!r} to fit")
    except ValueError as error:
        raise UserError(
            f"config.eval.metric={config.eval.metric}, config.eval.pca={config.eval.pca}: {error}"
        ) from None
    # Every host has learned it; its last bits are to be the same for all.
    return lambda *args: multihost_utils.broadcast_one_to_all(
        metric(shorter(describe(*args))).astype(np.float32)
    )


def admitted(config: Config, data: ReidData) -> dict[str, Int[np.ndarray, " _"]]:
    """Which gallery items each protocol of MARS keeps; the config's own comes first.

    Where queries are not in the gallery, there is nothing to choose.
    """
    own = config.eval.mars_protocol
    everything = np.arange(data.gallery.tracks().size)
    if not data.shared_tracklets:
        return {own: everything}
    both = {"official": everything, "query_removed": np.flatnonzero(not_queries(data))}
    # Re-ranked distances depend on all that is in the gallery: they are of one protocol only.
    return {own: both[own]} if config.eval.rerank else {own: both.pop(own), **both}


def _scores(
    config: Config, data: ReidData, protocols: Mapping[str, Any], rankings: Mapping[str, Ranking]
) -> dict[str, Any]:
    (own, columns), *_ = protocols.items()
    e = config.eval
    words: dict[str, Any] = {"ap": e.ap, "flip": e.flip, "rerank": e.rerank}
    if e.rerank:
        words["rerank"] = f"k1 {e.rerank_k1}, k2 {e.rerank_k2}, lambda {e.rerank_lambda}"
    if e.query_expansion is not None:
        words["query_expansion"] = f"by {e.query_expansion} neighbours"
    if e.precision != "exact":
        words["precision"] = e.precision
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
    if len(rankings) > 1:
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
    means = {"mAP": float(ranking.mean_ap), "mINP": float(ranking.mean_inp)}
    return {**at, **means, "num_valid": ranking.num_valid}


def describe(scores: dict[str, Any]) -> str:
    """The result line: the figures, and every choice of protocol that changes them."""
    figures = ", ".join(
        f"{name} {scores[name]:.2%}" for name in ("rank1", "rank5", "rank10", "mAP")
    )
    unmatched = scores["num_queries"] - scores["num_valid"]
    video = f" clips {scores['clips']};" if "clips" in scores else ""
    video += f" split {scores['split']};" if "split" in scores else ""
    video += f" {scores['notes']};" if "notes" in scores else ""
    extra = "".join(f" {words} {scores[key]};" for key, words in _SAID.items() if scores.get(key))
    extra += "".join(f" {key} {scores[key]};" for key in scores if key.startswith("test_"))
    extra += f" {scores['single_shot']};" if "single_shot" in scores else ""
    if "shortlist" in scores:
        extra += (
            f" only the {scores['shortlist']} nearest by one vector are ranked exactly, and a match"
            f" was among them for {scores['match_on_shortlist']:.2%} of the queries;"
        )
    if "mars_protocol" in scores:
        video += f" MARS protocol {scores['mars_protocol']}"
        if other := scores.get("other_protocol"):
            video += (
                f" ({other['mars_protocol']}: rank1 {other['rank1']:.2%}, mAP {other['mAP']:.2%} of"
                f" {other['num_valid']} queries)"
            )
        video += ";"
    return (
        f"{scores['data']}: {figures} [{scores['num_queries']} queries, {scores['num_gallery']}"
        f" gallery {'tracklets' if 'clips' in scores else 'images'}; {unmatched} queries without a"
        f" match, not scored; AP {scores['ap']};{video}{extra}"
        f" flip {'averaged' if scores['flip'] else 'off'}; {scores['protocol']}]"
    )
