"""Evaluation: loss curves and speed-up, and the n-gram model to beat."""

from pmpjax.evaluation.curves import Estimate, Speedup, estimate, smooth, speedup, steps_to_reach
from pmpjax.evaluation.ngrams import KneserNey, bits_per_byte
from pmpjax.evaluation.reference import draw_training, ngram_bits_per_byte

__all__ = [
    "Estimate",
    "KneserNey",
    "Speedup",
    "bits_per_byte",
    "draw_training",
    "estimate",
    "ngram_bits_per_byte",
    "smooth",
    "speedup",
    "steps_to_reach",
]
