"""Can the scores be trusted? The costate's health, Pontryagin's conditions, and how far two estimates agree."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import pmpjax as pmp
from pmpjax.control.conditions import Check, conditions_at
from pmpjax.control.verify import consistency_check
from pmpjax.pds.sweep.batches import Batches
from pmpjax.pds.sweep.problem import Proxy, SolveConfig, initial_state, learning_rate, proxy_problem
from pmpjax.pds.sweep.scores import Solved
from pmpjax.statistics import rank_correlation
from pmpjax.train import OptimizerConfig


class SweepError(ValueError):
    """A sweep whose numbers mean nothing."""


def check_health(config: SolveConfig, optimizer: OptimizerConfig, health: pmp.Health) -> None:
    """Refuses a sweep whose numbers mean nothing, or whose costate exploded; `optimizer` trained the proxy."""
    growth = health.growth
    if int(health.status) == pmp.Status.OK and growth <= config.largest_growth:
        return
    hint = ""
    if health.explodes or growth > config.largest_growth:
        rate = learning_rate(config.inner_optimizer, config.learning_rate, optimizer)
        hint = (
            f". Lower --solve.learning-rate (now {rate:g}); a costate may grow {config.largest_growth:g}-fold at most"
        )
    raise SweepError(f"the scores would be noise: {health.describe()}{hint}")


def conditions(solved: Solved) -> list[Check]:
    """Pontryagin's conditions for weights constant in time, by the gradient that all instances estimate."""
    return list(conditions_at(pmp.prox.simplex, solved.weights, -solved.scores, solved.value))


def consistency(config: SolveConfig, proxy: Proxy, batches: Batches, solved: Solved, key: Array) -> Check:
    """The gradient of the run's own batches against a finite difference of J: two more runs of the proxy."""
    steps, dev = jax.tree.map(jnp.asarray, batches)
    problem = proxy_problem(config, proxy.decoder, proxy.start.optimizer, dev, proxy.mesh)
    state = initial_state(config.inner_optimizer, proxy.start)
    return consistency_check(problem, state, solved.weights, steps, -solved.batch_scores, key=key)


def agreement(
    scores: Float[np.ndarray, " instances"],
    batch: Float[np.ndarray, " instances"],
    index: Int[np.ndarray, "steps batch"],
) -> dict[str, Any]:
    """How the two estimates of an instance's score agree, over the instances that a batch met.

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
    """How much a score changes along the run: is a sum over every k-th step enough?

    Returns:
        evaluated: steps K. spearman: mean rank correlation of one evaluated step's scores with the sum of the others,
        None below two steps or where undefined. deviation: of an instance's scores over the steps, after each step's
        own mean and scale over instances are taken out, root mean square over instances; 0 when every step has the same
        ones, 1 when they are unrelated.
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
