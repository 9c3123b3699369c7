"""Pure functions on arrays: the papers' equations, one by one."""

from jaxreid.ops.attention import (
    FeatureSequence,
    attend,
    attention_weights,
    dual_attention,
    dual_attention_distance,
    dual_attention_distmat,
    location_attention,
    multi_head_attention,
    non_local,
    temporal_attention,
)
from jaxreid.ops.boxes import body_part_boxes, crop_and_resize, strip_boxes
from jaxreid.ops.conv_gru import (
    ConvGRULoop,
    ConvGRUWeights,
    LoopConvolution,
    conv_gru_scan,
    conv_gru_step,
)
from jaxreid.ops.correlation import normalized_cross_correlation
from jaxreid.ops.distance import normalise, pairwise_cosine, pairwise_euclidean
from jaxreid.ops.patches import jigsaw
from jaxreid.ops.pooling import generalised_mean
from jaxreid.ops.recurrence import (
    FrameAttentionWeights,
    LSTMState,
    RecurrentWeights,
    attentive_lstm_scan,
    bidirectional_scan,
    gru_scan,
    lstm_scan,
    rnn_scan,
)
from jaxreid.ops.spatial import (
    SixDirections,
    six_direction_inputs,
    six_direction_lstm,
    six_direction_sweeps,
)

__all__ = [
    "ConvGRULoop",
    "ConvGRUWeights",
    "FeatureSequence",
    "FrameAttentionWeights",
    "LSTMState",
    "LoopConvolution",
    "RecurrentWeights",
    "SixDirections",
    "attend",
    "attention_weights",
    "attentive_lstm_scan",
    "bidirectional_scan",
    "body_part_boxes",
    "conv_gru_scan",
    "conv_gru_step",
    "crop_and_resize",
    "dual_attention",
    "dual_attention_distance",
    "dual_attention_distmat",
    "generalised_mean",
    "gru_scan",
    "jigsaw",
    "location_attention",
    "lstm_scan",
    "multi_head_attention",
    "non_local",
    "normalise",
    "normalized_cross_correlation",
    "pairwise_cosine",
    "pairwise_euclidean",
    "rnn_scan",
    "six_direction_inputs",
    "six_direction_lstm",
    "six_direction_sweeps",
    "strip_boxes",
    "temporal_attention",
]
