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
from jaxreid.data.index import ReidData, num_unmatched
from jaxreid.data.sources import Source
from jaxreid.data.tables import require_test_set
from jaxreid.errors import UserError
from jaxreid.extract import SplitExtractor, make_extractor
from jaxreid.matching import Block, Labels
from jaxreid.metrics import Ranking, summarise, top_k
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.protocol import DRAWS, admitted, scores_of
from jaxreid.types import Features, ReidModel, Variables

TOP = 10
HARDEST, SPREAD = 36, 24  # Queries to leaf through: failures first, and some of all.


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


class Task(NamedTuple):
    """What is ranked, made once for all scorings.

    Attributes:
        data: the data set.
        labels: of its queries and its gallery.
        protocols: which gallery items each protocol ranks, see `admitted`; the config's own first.
    """

    data: ReidData
    labels: Labels
    protocols: Mapping[str, Int[np.ndarray, " _"]]

    @classmethod
    def of(cls, config: Config, data: ReidData) -> "Task":
        """The task that a data set is under a config."""
        query, gallery = data.query.tracks(), data.gallery.tracks()
        labels = Labels(query.pids, gallery.pids, query.camids, gallery.camids)
        return cls(data, labels, admitted(config, data))

    @property
    def own(self) -> Int[np.ndarray, " _"]:
        """The gallery items that the config's own protocol ranks."""
        return next(iter(self.protocols.values()))


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
        UserError: no query has a true match, or there is none; or the model lacks what the config
            asks for.
    """
    require_test_set(source.data)
    task, trained_on = Task.of(config, source.data), trained_on or source
    _check_matches(task)
    _check_shortlist(config, model)
    _check_learning(config, trained_on, model)
    _check_second_look(config, task.data, model)
    _check_products(config)
    extractor = make_extractor(config, model, mesh)
    compare = make_comparison(config, model, task, extractor, mesh)

    def evaluate(variables: Variables, lengths: Sequence[int] = ()) -> Evaluation:
        describe = describe_items(config, extractor, variables, trained_on)
        pictured, spread = (
            np.unique(np.linspace(0, len(task.labels.q_pids) - 1, count, dtype=int))
            for count in (config.eval.pictures, SPREAD)
        )
        feats = [describe(source, split) for split in ("query", "gallery")]
        blocks = compare(variables, *feats)
        ranked = rank(config, task, blocks, np.union1d(pictured, spread), HARDEST)
        del feats, blocks  # Of MARS they are gigabytes.
        evaluation = Evaluation(
            scores_of(config, task.data, task.protocols, ranked.rankings, ranked.on_list),
            next(iter(ranked.rankings.values())),
            _join([ranked.looks[i] for i in pictured.tolist()]),
            _hardest_first(_join([ranked.looks[i] for i in {*ranked.hard, *spread.tolist()}])),
            ranked.by_camera,
        )
        if not lengths:
            return evaluation
        queries = [describe(source, "query", length) for length in lengths]
        columns = []
        for length in lengths:
            gallery = describe(source, "gallery", length)
            each = [rank(config, task, compare(variables, some, gallery)) for some in queries]
            columns.append([next(iter(one.rankings.values())).cmc[0] for one in each])
        return evaluation._replace(by_length=np.array(columns).T)

    return evaluate


def describe_items(
    config: Config, extractor: SplitExtractor, variables: Variables, trained_on: Source
) -> Callable[..., Features]:
    """`(source, split, length=None) -> features`; where a metric is learned, vectors under it.

    Args:
        config: which metric is learned, if any.
        extractor: of the model.
        variables: of the model.
        trained_on: the source whose training set a metric is fitted to.

    Raises:
        UserError: it cannot be fitted to that training set.
    """
    if not learns(config):
        return partial(extractor.features, variables)
    return _learn(config, extractor, variables, trained_on)


def make_comparison(
    config: Config, model: ReidModel, task: Task, extractor: SplitExtractor, mesh: Mesh
) -> Callable[[Variables, Features, Features], Iterator[Block]]:
    """`(variables, feats_q, feats_g) -> blocks of distances`, by the distance that is asked for.

    It is the model's, or the Euclidean one under a learned metric; of a shortlist only, after a
    query expansion, or re-ranked.
    """
    e, precision = config.eval, config.eval.precision

    def of_model(variables: Variables, queries: Features, gallery: Features) -> Any:
        with _products(precision):
            return model.distance(variables, queries, gallery)

    def euclidean(_: Variables, queries: Features, gallery: Features) -> Any:
        with _products(precision):
            return pairwise_euclidean(queries, gallery)

    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    of_listed = jax.jit(
        of_model, in_shardings=(everywhere, everywhere, divided), out_shardings=everywhere
    )

    def exact(variables: Variables, one: Features, share: Features) -> Any:
        return of_listed(variables, sharding.put(one, everywhere), sharding.put(share, divided))

    def compare(variables: Variables, feats_q: Features, feats_g: Features) -> Iterator[Block]:
        def in_blocks(function: Any, feats_q: Features, feats_g: Features) -> Iterator[Block]:
            distance = jax.tree_util.Partial(function, variables)
            sizes = e.query_block, e.gallery_block
            return matching.distance_blocks(distance, feats_q, feats_g, mesh, *sizes)

        distance = euclidean if learns(config) else of_model
        if e.query_expansion is not None:
            feats_q = metrics.average_query_expansion(
                feats_q, feats_g, e.query_expansion, normalise=False
            )
        if e.rerank:
            function = jax.tree_util.Partial(distance, variables)
            return _reranked(config, task, function, feats_q, feats_g, mesh)
        if not e.shortlist:
            return in_blocks(distance, feats_q, feats_g)
        vectors = [extractor.vectors(variables, feats) for feats in (feats_q, feats_g)]
        return matching.shortlisted(
            in_blocks(euclidean, *vectors),
            partial(exact, variables),
            *(feats_q, feats_g, task.labels, e.shortlist, mesh),
        )

    return compare


def _reranked(
    config: Config,
    task: Task,
    distance: Any,
    feats_q: Features,
    feats_g: Features,
    mesh: Mesh,
) -> Iterator[Block]:
    """Of the one protocol there is then; what it leaves out is nobody's neighbour."""
    e, size = config.eval, len(task.labels.g_pids)
    [columns] = task.protocols.values()
    found = matching.reranked(
        distance,
        feats_q,
        jax.tree.map(lambda x: x[columns], feats_g),
        *(mesh, e.query_block, e.gallery_block),
        k1=e.rerank_k1,
        k2=e.rerank_k2,
        lambda_value=e.rerank_lambda,
    )
    for block in found:
        part = np.asarray(block.parts)
        whole = np.full((1, part.shape[1], size), np.inf, part.dtype)
        whole[..., columns] = part
        yield block._replace(parts=whole)


class Ranked(NamedTuple):
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


def rank(
    config: Config,
    task: Task,
    blocks: Iterator[Block],
    pictured: Sequence[int] | Int[np.ndarray, " n"] = (),
    hardest: int = 0,
) -> Ranked:
    """Ranks blocks of distances, each under every protocol.

    Args:
        config: the protocol.
        task: whose queries and gallery they are of.
        blocks: of all queries, in order; none is kept.
        pictured: queries to look at as they pass.
        hardest: how many of the hardest are looked at besides.

    Raises:
        UserError: a distance is NaN, or re-ranking was given what is no distance.
    """
    labels, own = task.labels, task.own
    ranks: dict[str, list[Int[np.ndarray, " m"]]] = {name: [] for name in task.protocols}
    looks: dict[int, Shown] = {}
    hard: list[tuple[bool, float, int]] = []
    on_list: list[bool] = []
    drawn: list[Int[np.ndarray, " draws"]] = []
    for block, of_block in _rank_blocks(blocks, task):
        first, names = block.queries.start, labels.of(block.queries)
        for name, some in zip(task.protocols, of_block):
            ranks[name] += some
        if task.data.single_shot:  # Drawn on the host: the galleries of this protocol are small.
            rows = block.rows(np.arange(len(names.q_pids)), len(labels.g_pids))
            drawn += metrics.single_shot_ranks(rows, *names, draws=DRAWS)
        if block.listed is not None:
            listed = np.where(np.isin(block.listed, own), block.listed, -1)
            right = (labels.g_pids[listed] == names.q_pids[:, None]) & (listed >= 0)
            on_list += [bool(r.any()) for r, of in zip(right, of_block[0]) if len(of)]
        if hardest:
            each = summarise(of_block[0], ap=config.eval.ap).ap.tolist()
            counted = [i for i, some in enumerate(of_block[0]) if len(some)]
            hard += [(bool(of_block[0][i][0] == 1), each[i], first + i) for i in counted]
            hard = sorted(hard)[:hardest]
        wanted = {*map(int, pictured), *(i for *_, i in hard)}
        for at in sorted(wanted & set(range(first, block.queries.stop))):
            looks[at] = _look(config, block, at, of_block[0][at - first], labels, own)
    rankings, by_camera = _summarise(config, task, ranks, drawn)
    return Ranked(rankings, by_camera, looks, [i for *_, i in hard], on_list)


def _rank_blocks(
    blocks: Iterator[Block], task: Task
) -> Iterator[tuple[Block, list[list[Int[np.ndarray, " _"]]]]]:
    """Every protocol ranks the same distances; see `matching.rank_blocks`."""
    everything = np.arange(len(task.labels.g_pids))
    kept = np.stack([np.isin(everything, columns) for columns in task.protocols.values()])
    try:
        yield from matching.rank_blocks(blocks, task.labels, kept)
    except metrics.NanDistances as error:
        raise UserError(f"scoring failed: {error}") from None
    except metrics.NotDistances as error:
        raise UserError(f"config.eval.rerank=True: {error}; expected 0 or more") from None


def _summarise(
    config: Config,
    task: Task,
    ranks: Mapping[str, list[Int[np.ndarray, " _"]]],
    drawn: list[Int[np.ndarray, " _"]],
) -> tuple[dict[str, Ranking], dict[int, Ranking]]:
    """Rankings under each protocol, and under the first those of each camera's queries.

    Args:
        config: the length of the CMC, and the definition of AP.
        task: whose queries they are.
        ranks: of every query's matches, under each protocol.
        drawn: of every query that has a match, in each draw, where that is the protocol.
    """

    def summary(ranks: list[Int[np.ndarray, " _"]], drawn: list[Int[np.ndarray, " _"]]) -> Ranking:
        found = summarise(ranks, max_rank=config.eval.max_rank, ap=config.eval.ap)
        if not task.data.single_shot:
            return found
        return found._replace(cmc=metrics.cmc_of_draws(drawn, config.eval.max_rank))

    own, camids = next(iter(ranks.values())), task.labels.q_camids
    matched = np.array([len(some) > 0 for some in own])
    by_camera = {}
    for camid in np.unique(camids).tolist():
        of_camera = camids == camid
        with_draws = np.flatnonzero(of_camera[matched]) if drawn else ()
        by_camera[camid] = summary(
            [own[i] for i in np.flatnonzero(of_camera)], [drawn[i] for i in with_draws]
        )
    return {name: summary(some, drawn) for name, some in ranks.items()}, by_camera


def _look(
    config: Config,
    block: Block,
    at: int,
    ranks: Int[np.ndarray, " m"],
    labels: Labels,
    columns: Int[np.ndarray, " _"],
) -> Shown:
    """What query `at` of a block found among the gallery's `columns`."""
    row = block.rows(np.array([at - block.queries.start]), len(labels.g_pids))[:, columns]
    one = labels.of(slice(at, at + 1))
    g_pids, g_camids = labels.g_pids[columns], labels.g_camids[columns]
    top = top_k(row, one.q_pids, g_pids, one.q_camids, g_camids, k=TOP)
    matches = np.flatnonzero((g_pids == one.q_pids) & (g_camids != one.q_camids))
    best = matches[[row[0, matches].argmin()]] if len(matches) else np.full(1, -1)
    return Shown(
        queries=np.array([at]),
        gallery=np.where(top < 0, top, columns[top]),
        distances=row[0, top],
        first=ranks[:1] if len(matches) else np.zeros(1, int),
        match=np.where(best < 0, best, columns[best]),
        how_far=np.where(best < 0, np.nan, row[0, best]),
        ap=summarise([ranks], ap=config.eval.ap).ap,
    )


def learns(config: Config) -> bool:
    """Whether distances are Euclidean after something that is fitted on the training set."""
    return config.eval.metric != "model" or config.eval.fisher is not None


def _products(precision: str) -> AbstractContextManager[Any]:
    """What is traced within it computes its products by a dot algorithm."""
    return nullcontext() if precision == "exact" else jax.default_matmul_precision(precision)


def _check_matches(task: Task) -> None:
    """Raises `UserError` if no query has a true match, and nothing can be scored."""
    query, gallery = task.data.query.tracks(), task.data.gallery.tracks()
    if num_unmatched(query, gallery.take(task.own)) == query.size:
        raise UserError(
            f"{task.data.name}: none of the {query.size} queries has a true match (the same person"
            " from another camera) in the gallery, so nothing can be scored"
        )


def _check_shortlist(config: Config, model: ReidModel) -> None:
    """Raises `UserError` for a shortlist of a model that needs none."""
    if config.eval.shortlist and model.vector is None:
        raise UserError(
            f"config.eval.shortlist={config.eval.shortlist}: this model compares vectors already;"
            " expected None"
        )


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
