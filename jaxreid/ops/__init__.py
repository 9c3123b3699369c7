"""Pure functions on arrays: the papers' equations, one by one."""

from jaxreid.ops.attention import (
    FeatureSequence,
    attend,
    attention_weights,
    dual_attention,
    dual_attention_distance,
    dual_attention_distmat,
)
from jaxreid.ops.distance import pairwise_euclidean

__all__ = [
    "FeatureSequence",
    "attend",
    "attention_weights",
    "dual_attention",
    "dual_attention_distance",
    "dual_attention_distmat",
    "pairwise_euclidean",
]
