"""The only evaluator: features once, distances in blocks, ranks by exact counts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from jaxreid import sharding
from jaxreid.config import Config
from jaxreid.data.clips import Clips, scored_clips
from jaxreid.data.index import ReidData, Tracklets, not_queries, num_unmatched
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
    query, gallery = data.query.tracks(), data.gallery.tracks()
    protocols = admitted(config, data)
    galleries = {name: gallery.take(columns) for name, columns in protocols.items()}
    if num_unmatched(query, next(iter(galleries.values()))) == query.size:
        raise UserError(
            f"{data.name}: none of the {query.size} queries has a true match (the same person from"
            " another camera) in the gallery, so nothing can be scored"
        )
    everywhere, divided = sharding.replicated(mesh), sharding.split(mesh)
    features = jax.jit(model.features, in_shardings=(everywhere, divided), out_shardings=divided)
    distance = jax.jit(model.distance, in_shardings=(everywhere, everywhere, divided))
    pool = model.pool and jax.jit(
        model.pool, in_shardings=(everywhere, divided), out_shardings=divided
    )
    batch_size = _round_up(config.eval.batch_size, mesh.size)
    gallery_block = _round_up(config.eval.gallery_block, mesh.size)
    query_block = config.eval.query_block

    def extract(variables: Variables, split: str, tracks: Tracklets) -> Features:
        """The features of every item: the mean over its clips, as the model pools it."""
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
        if counts.max() == 1:
            return total
        mean = jax.tree.map(lambda x: x / _column(counts, x).astype(x.dtype), total)
        if pool is None:
            return mean
        blocks = _blocks(mean, tracks.size, batch_size)
        pooled = [
            jax.device_get(pool(variables, sharding.put(_pad(block, batch_size), divided)))
            for block in blocks
        ]
        return jax.tree.map(lambda *x: np.concatenate(x)[: tracks.size], *pooled)

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
        ranks: dict[str, list[Int[np.ndarray, " m"]]] = {name: [] for name in protocols}
        nearest: list[Int[np.ndarray, " k"]] = []
        how_far: list[Float[np.ndarray, " k"]] = []
        for rows, block in distances(variables, feats_q, feats_g):
            pids, camids = query.pids[rows], query.camids[rows]
            # The config's own protocol comes last, and its nearest items are shown.
            for name, columns in reversed(protocols.items()):
                part, there = block[:, columns], galleries[name]
                try:
                    ranks[name] += match_ranks(part, pids, there.pids, camids, there.camids)
                except ValueError as error:
                    at = f"queries {rows.start} to {rows.stop - 1}"
                    raise UserError(f"scoring failed among {at}: {error}") from None
            here = pictured[(pictured >= rows.start) & (pictured < rows.stop)] - rows.start
            top = top_k(part[here], pids[here], there.pids, camids[here], there.camids, k=TOP)
            nearest += list(np.where(top < 0, top, columns[top]))
            how_far += list(np.take_along_axis(part[here], top, axis=1))
        rankings = {
            name: summarise(found, max_rank=config.eval.max_rank, ap=config.eval.ap)
            for name, found in ranks.items()
        }
        some = [i for i, found in enumerate(nearest) if found.max(initial=-1) >= 0]
        shown = Shown(pictured[some], np.stack(nearest)[some], np.stack(how_far)[some])
        scores = _scores(config, data, protocols, rankings)
        return Evaluation(scores, next(iter(rankings.values())), shown)

    return evaluate


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


def clips(config: Config, tracks: Tracklets, split: str) -> Clips:
    """The images or clips of a split that are scored."""
    return scored_clips(tracks, config.scored_clip_length, config.eval.clips, split)


def _scores(
    config: Config, data: ReidData, protocols: Mapping[str, Any], rankings: Mapping[str, Ranking]
) -> dict[str, Any]:
    (own, columns), *_ = protocols.items()
    words: dict[str, Any] = {"ap": config.eval.ap, "flip": config.eval.flip, "rerank": False}
    if length := config.scored_clip_length:
        words["clips"] = f"{config.eval.clips}, {length} frames"
    if data.split is not None:
        words["split"] = data.split
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
    if "mars_protocol" in scores:
        other = scores["other_protocol"]
        video += (
            f" MARS protocol {scores['mars_protocol']} ({other['mars_protocol']}: rank1"
            f" {other['rank1']:.2%}, mAP {other['mAP']:.2%} of {other['num_valid']} queries);"
        )
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
