"""Scores for a ranked gallery, and metrics learned on features. Pure NumPy: arrays in and out."""

from jaxreid.metrics.fisher import Mixture, fisher_vector, fit_mixture
from jaxreid.metrics.learning import Projection, kissme, lfda, pca
from jaxreid.metrics.ranking import (
    NanDistances,
    Ranking,
    evaluate_rank,
    match_ranks,
    summarise,
    top_k,
)
from jaxreid.metrics.reranking import (
    NotDistances,
    average_query_expansion,
    k_reciprocal_rerank,
    rerank_blocks,
)
from jaxreid.metrics.single_shot import cmc_of_draws, single_shot_cmc, single_shot_ranks

__all__ = [
    "Mixture",
    "NanDistances",
    "NotDistances",
    "Projection",
    "Ranking",
    "average_query_expansion",
    "cmc_of_draws",
    "evaluate_rank",
    "fisher_vector",
    "fit_mixture",
    "k_reciprocal_rerank",
    "kissme",
    "lfda",
    "match_ranks",
    "pca",
    "rerank_blocks",
    "single_shot_cmc",
    "single_shot_ranks",
    "summarise",
    "top_k",
]
