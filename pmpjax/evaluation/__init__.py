"""Evaluation: losses of whole sets, loss curves and speed-up."""

from pmpjax.evaluation.curves import Estimate, Speedup, estimate, smooth, speedup, steps_to_reach
from pmpjax.evaluation.losses import set_loss, spread_rows

__all__ = ["Estimate", "Speedup", "estimate", "set_loss", "smooth", "speedup", "spread_rows", "steps_to_reach"]
