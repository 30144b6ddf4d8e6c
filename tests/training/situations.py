"""Where optimizers have or lack a derivative: rules by kind, and runs that lead them there, with finite differences."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import pmpjax as pmp

STEPS, BATCH, ROWS, WIDTH = 6, 4, 6, 3

RULES: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "optimistic": lambda: optax.optimistic_gradient_descent(0.1),
    "adam": lambda: optax.adam(1e-2),
    "adam, eps_root": lambda: optax.adam(1e-2, eps_root=1e-8),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "amsgrad": lambda: optax.amsgrad(1e-2),
    "adamax": lambda: optax.adamax(1e-2),
    "nadam": lambda: optax.nadam(1e-2),
    "radam": lambda: optax.radam(1e-2),
    "adabelief": lambda: optax.adabelief(1e-2),
    "adan": lambda: optax.adan(1e-2),
    "ademamix": lambda: optax.contrib.ademamix(1e-2),
    "yogi": lambda: optax.yogi(1e-2),
    "adagrad": lambda: optax.adagrad(0.1),
    "adagrad from zero": lambda: optax.adagrad(0.1, initial_accumulator_value=0.0),
    "rmsprop": lambda: optax.rmsprop(1e-2),
    "rmsprop, centred": lambda: optax.rmsprop(1e-2, centered=True, momentum=0.9),
    "adadelta": lambda: optax.adadelta(1.0),
    "sm3": lambda: optax.sm3(0.1),
    "adafactor": lambda: optax.adafactor(1e-2),
    "lamb": lambda: optax.lamb(1e-2),
    "lars": lambda: optax.lars(0.1),
    "fromage": lambda: optax.fromage(1e-2),
    "novograd": lambda: optax.novograd(1e-2),
    "muon": lambda: optax.contrib.muon(1e-2),
    "prodigy": lambda: optax.contrib.prodigy(1.0, estim_lr0=1e-2),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(1e-2),
    "flatten": lambda: optax.flatten(optax.adamw(1e-2)),
    "clip that does not act": lambda: optax.chain(optax.clip_by_global_norm(1e3), optax.sgd(0.1)),
    "clip that acts": lambda: optax.chain(optax.clip_by_global_norm(0.05), optax.adam(1e-2, eps_root=1e-8)),
    "clip by block": lambda: optax.chain(optax.clip_by_block_rms(1.0), optax.sgd(0.1)),
    "adaptive clip": lambda: optax.chain(optax.adaptive_grad_clip(0.5), optax.sgd(0.1)),
    "normalized": lambda: optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1)),
    "apply if finite": lambda: optax.apply_if_finite(optax.adam(1e-2), 2),
}
"""Rules that have a derivative nearly everywhere. `optax.MultiSteps` adds in float32, too coarse for differences: it is
held against autodiff (tests/control/test_costate.py)."""

SIGNS: dict[str, Callable[[], Any]] = {
    "lion": lambda: optax.lion(1e-2),
    "sign": lambda: optax.sign_sgd(1e-2),
    "rprop": lambda: optax.rprop(1e-2),
}
"""Rules of the gradient's sign: their derivative is zero."""

SITUATIONS = ("ordinary", "unseen token", "step without weight", "first step without weight", "zero factor")


class Run(NamedTuple):
    """A problem and its arguments: an embedding, a low-rank factor pair and an output; six steps of four examples."""

    problem: pmp.Problem
    x0: pmp.TrainState
    weights: Array
    inputs: PyTree


def losses(params: PyTree, batch: PyTree) -> Array:
    rows = params["table"][batch[0]]
    hidden = rows[:, 0] * rows[:, 1] + rows[:, 0]
    hidden = jnp.tanh(hidden + hidden @ params["A"].T @ params["B"].T)
    return jnp.square(hidden @ params["out"] - batch[1])


def problem_of(optimizer: Any) -> pmp.Problem:
    """One problem for all situations of a rule, so that what is compiled for one serves the others."""

    def desired(params: PyTree, batch: PyTree) -> Array:
        return losses(params, (np.array([[0, 1], [2, ROWS - 1], [3, 4]]), batch[2])).mean()

    return pmp.Problem(pmp.training_dynamics(losses, optimizer), pmp.area_under(desired))


def run_of(problem: pmp.Problem, situation: str, dtype: Any = jnp.float64) -> Run:
    """A run that meets the situation. In all of them some rows of the table are seen late."""
    random = np.random.default_rng(3)
    params = {
        "table": random.normal(size=(ROWS, WIDTH)),
        "A": random.normal(size=(2, WIDTH)),
        "B": random.normal(size=(WIDTH, 2)),
        "out": random.normal(size=WIDTH),
    }
    if situation == "zero factor":
        params["B"] = np.zeros((WIDTH, 2))
    seen = ROWS - 1 if situation == "unseen token" else ROWS
    ids = np.stack([np.stack([random.permutation(seen)[:BATCH] for _ in range(2)], axis=1) for _ in range(STEPS)])
    targets, weights = random.normal(size=(STEPS, BATCH)), random.dirichlet(np.ones(BATCH), size=STEPS)
    if situation == "step without weight":
        weights[2], weights[3, 1] = 0.0, 0.0
    if situation == "first step without weight":
        weights[0] = 0.0
    desired = np.tile(random.normal(size=3), (STEPS, 1))
    x0 = problem.dynamics.init(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params))
    inputs = (jnp.asarray(ids), jnp.asarray(targets, dtype), jnp.asarray(desired, dtype))
    return Run(problem, x0, jnp.asarray(weights, dtype), inputs)


class Differences(NamedTuple):
    """Central differences of J: value [T, N], and whether two step sizes agree on it."""

    value: np.ndarray
    agree: np.ndarray
    scale: float
    moves: np.ndarray


@functools.cache
def objective_of(problem: pmp.Problem) -> Callable[..., Array]:
    """J of many weights at once, [K, T, N] -> [K], compiled once a problem."""
    one = functools.partial(pmp.objective, problem)
    return jax.jit(jax.vmap(one, in_axes=(None, 0, None)))


def differences_of(run: Run, sizes: tuple[float, ...] = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)) -> Differences:
    """dJ/du of each weight. scale: the largest on which sizes agree. moves: where no size gives zero."""
    count = STEPS * BATCH
    axes = np.eye(count).reshape(count, STEPS, BATCH)
    moved = np.concatenate([np.asarray(run.weights)[None] + sign * size * axes for size in sizes for sign in (1, -1)])
    value = objective_of(run.problem)(run.x0, jnp.asarray(moved), run.inputs)
    values = np.asarray(value).reshape(len(sizes), 2, STEPS, BATCH)
    slopes = np.stack([(ahead - behind) / (2 * size) for (ahead, behind), size in zip(values, sizes, strict=True)])
    gaps = np.abs(np.diff(slopes, axis=0))
    best = np.argmin(gaps, axis=0)[None]
    found, gap = np.take_along_axis(slopes[1:], best, 0)[0], np.take_along_axis(gaps, best, 0)[0]
    close = gap <= 1e-5 * np.abs(found)
    scale = float(np.max(np.abs(found), where=close, initial=0.0))
    return Differences(found, close | (gap <= 1e-8 * scale), scale, np.all(slopes != 0, axis=0))
