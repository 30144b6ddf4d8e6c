"""Statistics: loss curves and speed-up, intervals, agreement of two orders, scores on one scale."""

from pmpjax.statistics.curves import Speedup, smooth, speedup, steps_to_reach
from pmpjax.statistics.intervals import Estimate, bootstrap, estimate, paired_difference
from pmpjax.statistics.ranks import rank_correlation
from pmpjax.statistics.scaling import clipped, standardised

__all__ = [
    "Estimate",
    "Speedup",
    "bootstrap",
    "clipped",
    "estimate",
    "paired_difference",
    "rank_correlation",
    "smooth",
    "speedup",
    "standardised",
    "steps_to_reach",
]
