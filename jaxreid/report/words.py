"""A run's figures in words: the names of scores, the protocol, percentages."""

import math
import re
import sys
from collections.abc import Mapping
from typing import Any, SupportsFloat

from jaxreid.config import Config

SCORES = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "mAP": "mAP",
    "mINP": "mINP",
}
COUNTS = ("num_queries", "num_gallery", "num_valid")
PROTOCOL_WORDS = {
    "ap": "AP definition",
    "flip": "flip augmentation",
    "rerank": "re-ranking",
    "query_expansion": "query expansion",
    "metric": "learned metric",
    "fisher": "Fisher vectors",
    "single_shot": "single gallery shot",
    "shortlist": "gallery items ranked exactly for each query",
    "match_on_shortlist": "queries with a match among these",
    "mars_protocol": "MARS protocol",
    "clips": "clips of a tracklet",
}


def method_name(model: type) -> str:
    """A method's name in its paper, which the docstring of its module begins with."""
    about, *_ = re.split(r"[:\n]", sys.modules[model.__module__].__doc__ or model.__module__)
    return about


def run_title(config: Config, scores: Mapping[str, Any]) -> str:
    """What a run's report is called, as in "DuATM on market1501"."""
    return f"{method_name(type(config.model))} on {scores['data']}"


def protocol(scores: Mapping[str, Any]) -> list[str]:
    """What changes the numbers, in words."""
    lines = []
    if {"num_queries", "num_gallery"} <= set(scores):
        queries, gallery = scores["num_queries"], scores["num_gallery"]
        lines.append(f"{queries:,} queries against {gallery:,} gallery items")
    if {"num_queries", "num_valid"} <= set(scores):
        without = scores["num_queries"] - scores["num_valid"]
        lines.append(f"{without:,} queries without a match in the gallery, not counted")
    for key, words in scores.items():
        if isinstance(words, Mapping):
            name = words["mars_protocol"]
            figures = ", ".join(f"{SCORES[k]} {percent(words[k])}" for k in SCORES if k in words)
            lines.append(f"under MARS protocol {name}: {figures}")
        elif key not in SCORES and key not in COUNTS:
            words = {True: "on", False: "off"}[words] if isinstance(words, bool) else words
            words = f"{percent(words)} %" if isinstance(words, float) else words
            lines.append(f"{PROTOCOL_WORDS.get(key, key.replace('_', ' '))}: {words}")
    return lines


def percent(fraction: SupportsFloat | None) -> str:
    """A fraction as a percentage with one decimal; a dash where it is not known."""
    value = math.nan if fraction is None else float(fraction)
    if math.isnan(value):
        return "–"
    if not 0 <= value <= 1:
        raise ValueError(f"a score is {value}; expected a fraction between 0 and 1")
    return f"{100 * value:.1f}"
