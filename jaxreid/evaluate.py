"""The only evaluator: features once, distances in blocks, ranks by exact counts."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jaxreid import sharding
from jaxreid.config import Config
from jaxreid.data.index import num_unmatched
from jaxreid.data.sources import Source
from jaxreid.errors import UserError
from jaxreid.metrics.ranking import Ranking, match_ranks, summarise, top_k
from jaxreid.types import Batch, Features, ReidModel, Variables

TOP = 10


class Shown(NamedTuple):
    """The nearest gallery items of some queries, for pictures.

    Attributes:
        queries: rows of the query index.
        gallery: rows of the gallery index, nearest first; -1 where there are no more.
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
    """

    scores: dict[str, Any]
    ranking: Ranking
    shown: Shown


Evaluator = Callable[[Variables], Evaluation]


def make_evaluator(config: Config, model: ReidModel, source: Source, mesh: Mesh) -> Evaluator:
    """A function from variables to scores. Make it once: its parts are compiled once.

    Args:
        config: the protocol and the sizes of blocks.
        model: `features` and `distance` are called.
        source: the query and gallery images.
        mesh: features are computed, and the gallery is kept, divided over its devices.

    Raises:
        UserError: no query has a true match.
    """
    query, gallery = source.data.query, source.data.gallery
    if num_unmatched(query, gallery) == query.size:
        raise UserError(
            f"{source.data.name}: none of the {query.size} queries has an image of its person from"
            " another camera in the gallery, so nothing can be scored"
        )
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    features = jax.jit(model.features, in_shardings=(everywhere, divided), out_shardings=divided)
    distance = jax.jit(model.distance, in_shardings=(everywhere, everywhere, divided))
    batch_size = _round_up(config.eval.batch_size, mesh.size)
    gallery_block = _round_up(config.eval.gallery_block, mesh.size)
    query_block = config.eval.query_block

    def extract(variables: Variables, split: str) -> Features:
        index = source.data.splits[split]
        plan = [np.arange(index.size)[i : i + batch_size] for i in range(0, index.size, batch_size)]
        parts = []
        images = source.images(split, plan, config.data.image_size)
        for rows, pixels in zip(plan, images, strict=True):
            batch = _pad(Batch(pixels, index.pids[rows], index.camids[rows]), batch_size)
            found = jax.device_get(features(variables, sharding.put(batch, divided)))
            parts.append(_head(found, len(rows)))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    def distances(
        variables: Variables, feats_q: Features, feats_g: Features
    ) -> Iterator[tuple[slice, Float[np.ndarray, "n g"]]]:
        """Rows of the distance matrix, some queries at a time."""
        blocks = [
            sharding.put(_pad(block, gallery_block), divided)
            for block in _blocks(feats_g, gallery.size, gallery_block)
        ]
        starts = range(0, query.size, query_block)
        for start, block in zip(starts, _blocks(feats_q, query.size, query_block)):
            queries = sharding.put(_pad(block, query_block), everywhere)
            row = [distance(variables, queries, block) for block in blocks]
            rows = slice(start, min(start + query_block, query.size))
            whole = np.concatenate(jax.device_get(row), axis=1)
            yield rows, whole[: rows.stop - start, : gallery.size]

    def evaluate(variables: Variables) -> Evaluation:
        feats_q, feats_g = extract(variables, "query"), extract(variables, "gallery")
        pictured = np.unique(np.linspace(0, query.size - 1, config.eval.pictures, dtype=int))
        ranks: list[Int[np.ndarray, " m"]] = []
        nearest: list[Int[np.ndarray, " k"]] = []
        how_far: list[Float[np.ndarray, " k"]] = []
        for rows, block in distances(variables, feats_q, feats_g):
            pids, camids = query.pids[rows], query.camids[rows]
            try:
                ranks += match_ranks(block, pids, gallery.pids, camids, gallery.camids)
            except ValueError as error:
                at = f"queries {rows.start} to {rows.stop - 1}"
                raise UserError(f"scoring failed among {at}: {error}") from None
            here = pictured[(pictured >= rows.start) & (pictured < rows.stop)] - rows.start
            top = top_k(block[here], pids[here], gallery.pids, camids[here], gallery.camids, k=TOP)
            nearest += list(top)
            how_far += list(np.take_along_axis(block[here], top, axis=1))
        ranking = summarise(ranks, max_rank=config.eval.max_rank, ap=config.eval.ap)
        some = [i for i, found in enumerate(nearest) if found.max(initial=-1) >= 0]
        shown = Shown(pictured[some], np.stack(nearest)[some], np.stack(how_far)[some])
        return Evaluation(_scores(config, source, ranking), ranking, shown)

    return evaluate


def _scores(config: Config, source: Source, ranking: Ranking) -> dict[str, Any]:
    def at(rank: int) -> float:
        return float(ranking.cmc[min(rank, len(ranking.cmc)) - 1])

    query, gallery = source.data.query, source.data.gallery
    return {
        **{f"rank{rank}": at(rank) for rank in (1, 5, 10, 20)},
        "mAP": float(ranking.mean_ap),
        "num_queries": query.size,
        "num_gallery": gallery.size,
        "num_valid": ranking.num_valid,
        "data": source.data.name,
        "protocol": "single query; same person and camera left out; ties count against the query",
        "ap": config.eval.ap,
        "flip": config.eval.flip,
        "rerank": False,
    }


def describe(scores: dict[str, Any]) -> str:
    """The result line: the figures, and every choice of protocol that changes them."""
    figures = ", ".join(
        f"{name} {scores[name]:.2%}" for name in ("rank1", "rank5", "rank10", "mAP")
    )
    unmatched = scores["num_queries"] - scores["num_valid"]
    return (
        f"{scores['data']}: {figures} [{scores['num_queries']} queries, {scores['num_gallery']}"
        f" gallery images; {unmatched} queries without a match, not scored; AP {scores['ap']};"
        f" flip {'averaged' if scores['flip'] else 'off'}; {scores['protocol']}]"
    )


def _blocks(tree: Any, size: int, length: int) -> Iterator[Any]:
    for start in range(0, size, length):
        yield jax.tree.map(lambda x, s=start: x[s : s + length], tree)


def _head(tree: Any, length: int) -> Any:
    return jax.tree.map(lambda x: x[:length], tree)


def _pad(tree: Any, length: int) -> Any:
    """Repeats the last item until there are `length`, so that every block has one shape."""
    return jax.tree.map(
        lambda x: np.concatenate([x, np.repeat(x[-1:], length - len(x), axis=0)]), tree
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
