"""Protocols: which gallery items are ranked, and how a score says what it was made under."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxreid.config import Config
from jaxreid.data.index import ReidData, not_queries
from jaxreid.metrics import Ranking

DRAWS = 100  # galleries of one image of each person, where that is the protocol
_SAID = {
    "metric": "metric",
    "fisher": "Fisher vectors",
    "query_expansion": "query expansion",
    "rerank": "re-ranked",
    "precision": "products of distances",
}


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


def scores_of(
    config: Config,
    data: ReidData,
    protocols: Mapping[str, Int[np.ndarray, " _"]],
    rankings: Mapping[str, Ranking],
    on_list: Sequence[bool] = (),
) -> dict[str, Any]:
    """The figures under the config's own protocol, and every choice that they depend on.

    Args:
        config: the protocol.
        data: what was scored.
        protocols: those of `admitted`.
        rankings: under each of them.
        on_list: for each query with a match, whether one was on its shortlist, if there was one.
    """
    (own, columns), *others = protocols.items()
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
    for name, _ in others:  # The figures of the two protocols do not compare, so both are given.
        words["other_protocol"] = {"mars_protocol": name, **_figures(rankings[name])}
    if on_list:
        words["match_on_shortlist"] = float(np.mean(on_list))
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
