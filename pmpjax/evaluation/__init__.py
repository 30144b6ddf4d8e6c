"""Evaluation: loss curves and speed-up, rank correlation, and the n-gram model to beat."""

from pmpjax.evaluation.curves import Estimate, Speedup, estimate, smooth, speedup, steps_to_reach
from pmpjax.evaluation.ngrams import KneserNey, bits_per_byte
from pmpjax.evaluation.ranks import rank_correlation
from pmpjax.evaluation.reference import Comparison, against_ngrams, draw_training

__all__ = [
    "Comparison",
    "Estimate",
    "KneserNey",
    "Speedup",
    "against_ngrams",
    "bits_per_byte",
    "draw_training",
    "estimate",
    "rank_correlation",
    "smooth",
    "speedup",
    "steps_to_reach",
]
