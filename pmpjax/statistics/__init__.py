"""Statistics: loss curves and speed-up, intervals over seeds, agreement of two orders."""

from pmpjax.statistics.curves import Speedup, smooth, speedup, steps_to_reach
from pmpjax.statistics.intervals import Estimate, estimate, paired_difference
from pmpjax.statistics.ranks import rank_correlation
from pmpjax.statistics.scaling import clipped, standardised

__all__ = [
    "Estimate",
    "Speedup",
    "clipped",
    "estimate",
    "paired_difference",
    "rank_correlation",
    "smooth",
    "speedup",
    "standardised",
    "steps_to_reach",
]
