"""Evaluation: the n-gram model to beat."""

from pmpjax.evaluation.ngrams import KneserNey, bits_per_byte
from pmpjax.evaluation.reference import Comparison, against_ngrams, draw_training

__all__ = ["Comparison", "KneserNey", "against_ngrams", "bits_per_byte", "draw_training"]
