"""Evaluation: loss curves and speed-up."""

from pmpjax.evaluation.curves import Estimate, Speedup, estimate, smooth, speedup, steps_to_reach

__all__ = ["Estimate", "KneserNey", "Speedup", "bits_per_byte", "estimate", "smooth", "speedup", "steps_to_reach"]
