"""What is made of a sweep's worths: the scores of the instances, and how far two estimates of them agree."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from pmpjax.pds.sweep.problem import Solved
from pmpjax.statistics import rank_correlation, standardised


def instance_scores(solved: Solved) -> Float[np.ndarray, " instances"]:
    """What the instances are scored with: their worths, along both runs where the sweep has seen another's direction
    (`added_worths`)."""
    worth = np.asarray(solved.scores, np.float64)
    return worth if solved.beside is None else added_worths(np.asarray(solved.beside, np.float64), worth)


def added_worths(
    first: Float[np.ndarray, " instances"], second: Float[np.ndarray, " instances"]
) -> Float[np.ndarray, " instances"]:
    """z_1 + z_2: worths along text as it comes and along the selection, each `standardised`.

    gamma_2 = proj(gamma_1 + r z_2) with gamma_1 = proj(1/N + r z_1) ranks by this sum what neither projection cuts off;
    it is the lazy form of the outer loop (dual averaging). z_2 alone undervalues what its run is full of: at the
    optimum all used instances are worth the same, however often they are used.

    Source: PDS (arXiv 2410.07064), Algorithm 1; Xiao, Dual averaging methods (2010), section 2.

    >>> added_worths(np.array([3.0, 2.0, 1.0]), np.array([10.0, 20.0, 30.0])).tolist()
    [0.0, 0.0, 0.0]
    """
    return standardised(first) + standardised(second)


def agreement(
    scores: Float[np.ndarray, " instances"],
    batch: Float[np.ndarray, " instances"],
    index: Int[np.ndarray, "steps batch"],
) -> dict[str, Any]:
    """How the two estimators of an instance's worth agree, over the instances that a batch met.

    Each batch score is divided by how often its instance came, relative to how often it would on average, so that what
    is compared with the score over all steps is (T / times) sum over the steps at which it came.

    Returns:
        met: instances compared. spearman: rank correlation, None where undefined. slope: of the least squares line of
        the batch estimates on the scores; 1 when they estimate the same, less where few steps are evaluated (step
        0, where the costate is largest, is always among them), None where undefined. residual: standard deviation
        around that line relative to the line's own: noise by signal.
    """
    times = np.bincount(index.ravel(), minlength=len(scores))
    met = times > 0
    whole = np.asarray(scores, np.float64)[met]
    estimate = np.asarray(batch, np.float64)[met] * (index.size / len(scores)) / times[met]
    spearman = rank_correlation(estimate, whole)
    slope = residual = None
    if spearman is not None:
        slope, intercept = np.polyfit(whole, estimate, 1)
        residual = float(np.std(estimate - slope * whole - intercept) / abs(slope * np.std(whole)))
    return {
        "met": int(met.sum()),
        "spearman": spearman,
        "slope": None if slope is None else float(slope),
        "residual": residual,
    }


def spread_over_time(terms: Float[np.ndarray, "evaluated instances"]) -> dict[str, Any]:
    """How much the worth changes along the run: is a sum over every k-th step enough?

    Returns:
        evaluated: steps K. spearman: mean rank correlation of one evaluated step's worth with the sum of the others,
        None below two steps or where undefined. deviation: of an instance's worth over the steps, after each step's own
        mean and scale over instances are taken out, root mean square over instances; 0 when every step says the same,
        1 when they are unrelated.
    """
    terms = np.asarray(terms, np.float64)
    found: dict[str, Any] = {"evaluated": len(terms), "spearman": None, "deviation": None}
    if len(terms) < 2 or not terms.std(axis=1).all():
        return found
    each = [rank_correlation(term, terms.sum(axis=0) - term) for term in terms]
    standard = (terms - terms.mean(axis=1, keepdims=True)) / terms.std(axis=1, keepdims=True)
    found["deviation"] = float(np.sqrt(np.mean(standard.var(axis=0, ddof=1))))
    if all(one is not None for one in each):
        found["spearman"] = float(np.mean([one for one in each if one is not None]))
    return found
