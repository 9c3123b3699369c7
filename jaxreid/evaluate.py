"""The only evaluator: features once, distances in blocks, ranks by exact counts."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jaxreid import sharding
from jaxreid.config import Config
from jaxreid.data.clips import Clips, scored_clips
from jaxreid.data.index import ReidData, Tracklets, num_unmatched, remove_queries
from jaxreid.data.sources import Source
from jaxreid.errors import UserError
from jaxreid.metrics.ranking import Ranking, match_ranks, summarise, top_k
from jaxreid.types import Batch, Features, ReidModel, Variables

TOP = 10


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
    data = source.data
    query, gallery = scored_items(config, data)
    if num_unmatched(query, gallery) == query.size:
        raise UserError(
            f"{data.name}: none of the {query.size} queries has a true match (the same person from"
            " another camera) in the gallery, so nothing can be scored"
        )
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    features = jax.jit(model.features, in_shardings=(everywhere, divided), out_shardings=divided)
    distance = jax.jit(model.distance, in_shardings=(everywhere, everywhere, divided))
    batch_size = _round_up(config.eval.batch_size, mesh.size)
    gallery_block = _round_up(config.eval.gallery_block, mesh.size)
    query_block = config.eval.query_block

    def extract(variables: Variables, split: str, tracks: Tracklets) -> Features:
        """The features of every item: the mean over its clips."""
        rows, items = clips(config, tracks, split)
        chosen = [slice(i, i + batch_size) for i in range(0, len(rows), batch_size)]
        images = source.images(split, [rows[some] for some in chosen], config.data.image_size)
        total: Features = None
        for some, pixels in zip(chosen, images, strict=True):
            of = items[some]  # In rising order, so the clips of an item are neighbours.
            batch = _pad(Batch(pixels, tracks.pids[of], tracks.camids[of]), batch_size)
            found = jax.device_get(features(variables, sharding.put(batch, divided)))
            if total is None:
                total = jax.tree.map(
                    lambda x: np.zeros((tracks.size, *x.shape[1:]), x.dtype), found
                )
            starts = np.flatnonzero(np.diff(of, prepend=-1))
            for sums, x in zip(jax.tree.leaves(total), jax.tree.leaves(found)):
                sums[of[starts]] += np.add.reduceat(x[: len(of)], starts, axis=0)
        counts = np.bincount(items)
        return jax.tree.map(lambda x: x / _column(counts, x).astype(x.dtype), total)

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
        feats_q = extract(variables, "query", query)
        feats_g = extract(variables, "gallery", gallery)
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
        return Evaluation(_scores(config, data, query, gallery, ranking), ranking, shown)

    return evaluate


def scored_items(config: Config, data: ReidData) -> tuple[Tracklets, Tracklets]:
    """Queries and gallery as the protocol has them: see `config.Eval.mars_protocol`."""
    removed = config.eval.mars_protocol == "query_removed"
    return data.query.tracks(), remove_queries(data) if removed else data.gallery.tracks()


def clips(config: Config, tracks: Tracklets, split: str) -> Clips:
    """The images or clips of a split that are scored."""
    length = config.eval.clip_length or config.data.clip_length
    return scored_clips(tracks, length, config.eval.clips, split)


def _scores(
    config: Config, data: ReidData, query: Tracklets, gallery: Tracklets, ranking: Ranking
) -> dict[str, Any]:
    def at(rank: int) -> float:
        return float(ranking.cmc[min(rank, len(ranking.cmc)) - 1])

    words: dict[str, Any] = {"ap": config.eval.ap, "flip": config.eval.flip, "rerank": False}
    if length := config.eval.clip_length or config.data.clip_length:
        words["clips"] = f"{config.eval.clips}, {length} frames"
    if data.shared_tracklets:
        words["mars_protocol"] = config.eval.mars_protocol
    return {
        **{f"rank{rank}": at(rank) for rank in (1, 5, 10, 20)},
        "mAP": float(ranking.mean_ap),
        "num_queries": query.size,
        "num_gallery": gallery.size,
        "num_valid": ranking.num_valid,
        "data": data.name,
        "protocol": "single query; same person and camera left out; ties count against the query",
        **words,
    }


def describe(scores: dict[str, Any]) -> str:
    """The result line: the figures, and every choice of protocol that changes them."""
    figures = ", ".join(
        f"{name} {scores[name]:.2%}" for name in ("rank1", "rank5", "rank10", "mAP")
    )
    unmatched = scores["num_queries"] - scores["num_valid"]
    video = f" clips {scores['clips']};" if "clips" in scores else ""
    if "mars_protocol" in scores:
        video += f" MARS protocol {scores['mars_protocol']};"
    return (
        f"{scores['data']}: {figures} [{scores['num_queries']} queries, {scores['num_gallery']}"
        f" gallery {'tracklets' if 'clips' in scores else 'images'}; {unmatched} queries without a"
        f" match, not scored; AP {scores['ap']};{video}"
        f" flip {'averaged' if scores['flip'] else 'off'}; {scores['protocol']}]"
    )


def _blocks(tree: Any, size: int, length: int) -> Iterator[Any]:
    for start in range(0, size, length):
        yield jax.tree.map(lambda x, s=start: x[s : s + length], tree)


def _column(counts: Int[np.ndarray, " n"], like: Any) -> Any:
    return counts.reshape(-1, *[1] * (like.ndim - 1))


def _pad(tree: Any, length: int) -> Any:
    """Repeats the last item until there are `length`, so that every block has one shape."""
    return jax.tree.map(
        lambda x: np.concatenate([x, np.repeat(x[-1:], length - len(x), axis=0)]), tree
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
