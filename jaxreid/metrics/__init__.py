"""Scores for a ranked gallery. Pure numpy: arrays in, figures out."""

from jaxreid.metrics.ranking import Ranking, evaluate_rank, match_ranks, summarise, top_k

__all__ = ["Ranking", "evaluate_rank", "match_ranks", "summarise", "top_k"]
