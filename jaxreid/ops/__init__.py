"""Pure functions on arrays: the papers' equations, one by one."""

from jaxreid.ops.attention import (
    FeatureSequence,
    attend,
    attention_weights,
    dual_attention,
    dual_attention_distance,
    dual_attention_distmat,
    temporal_attention,
)
from jaxreid.ops.correlation import normalized_cross_correlation
from jaxreid.ops.distance import pairwise_euclidean
from jaxreid.ops.recurrence import (
    LSTMState,
    RecurrentWeights,
    bidirectional_scan,
    gru_scan,
    lstm_scan,
    rnn_scan,
)

__all__ = [
    "FeatureSequence",
    "LSTMState",
    "RecurrentWeights",
    "attend",
    "attention_weights",
    "bidirectional_scan",
    "dual_attention",
    "dual_attention_distance",
    "dual_attention_distmat",
    "gru_scan",
    "lstm_scan",
    "normalized_cross_correlation",
    "pairwise_euclidean",
    "rnn_scan",
    "temporal_attention",
]
