"""Problems whose answers are known another way: closed forms, autodiff, brute force."""

import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

import pmpjax as pmp


class Classifier(NamedTuple):
    """A two-layer classifier on random data: smooth, small, with a stable plant for every optimizer of `OPTIMIZERS`."""

    params: PyTree
    losses: Callable[[PyTree, PyTree], Array]
    desired: Callable[[PyTree], Array]
    batches: PyTree
    weights: Array
    instances: PyTree


@functools.cache
def classifier(steps: int = 11, batch: int = 6, dtype: jnp.dtype = jnp.float64, instances: int = 9) -> Classifier:
    keys = jax.random.split(jax.random.key(7), 8)

    def normal(key: Array, *shape: int) -> Array:
        return jax.random.normal(key, shape, dtype)

    params = {"hidden": 0.5 * normal(keys[0], 5, 7), "out": 0.5 * normal(keys[1], 7)}

    def losses(params: PyTree, batch: PyTree) -> Array:
        x, y = batch[0], batch[1]
        return optax.sigmoid_binary_cross_entropy(jnp.tanh(x @ params["hidden"]) @ params["out"], y)

    def labelled(key: Array, *shape: int) -> tuple[Array, Array]:
        x = normal(key, *shape, 5)
        return x, (x[..., 0] * x[..., 1] > 0).astype(dtype)

    desired_batch = labelled(keys[2], 8)
    weights = jax.nn.softmax(normal(keys[5], steps, batch), axis=-1)
    return Classifier(
        params,
        losses,
        lambda params: jnp.mean(losses(params, desired_batch)),
        labelled(keys[3], steps, batch),
        weights,
        labelled(keys[4], instances),
    )


OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: optax.adam(1e-2, eps_root=1e-3),
    "adamw": lambda: optax.adamw(1e-2, eps_root=1e-3, weight_decay=0.1),
    "clipped adam": lambda: optax.chain(optax.clip_by_global_norm(0.05), optax.adam(1e-2, eps_root=1e-3)),
    "schedule": lambda: optax.sgd(optax.warmup_cosine_decay_schedule(0.0, 0.2, 3, 11)),
    "multi-step": lambda: optax.MultiSteps(optax.adam(1e-2, eps_root=1e-3), 3).gradient_transformation(),
    "masked": lambda: optax.chain(
        optax.masked(optax.scale_by_adam(eps_root=1e-3), {"hidden": True, "out": False}), optax.scale(-0.02)
    ),
}
"""Every kind of plant the issue names. eps_root keeps Adam's slope moderate at its cold start."""

ADJOINTS: dict[str, pmp.AbstractAdjoint] = {
    "store all": pmp.StoreAll(),
    "linearized": pmp.Linearized(),
    "checkpointed": pmp.Checkpointed(),
    "checkpointed, 5": pmp.Checkpointed(segment=5),
    "binomial, 1": pmp.Binomial(slots=1),
    "binomial, 3": pmp.Binomial(slots=3),
    "binomial, more than steps": pmp.Binomial(slots=40),
}


class Regulator(NamedTuple):
    """Finite-horizon LQR: x' = A x + B u, J = sum (x'Qx + u'Ru)/2 + x_T'Q_T x_T/2."""

    a: Array
    b: Array
    q: Array
    r: Array
    q_final: Array
    start: Array
    steps: int

    def problem(self) -> pmp.Problem:
        def running(x: Array, u: Array, w: None) -> Array:
            return 0.5 * (x @ self.q @ x + u @ self.r @ u)

        return pmp.Problem(
            pmp.Dynamics(jnp.asarray, lambda x, u, w: self.a @ x + self.b @ u),
            pmp.Cost(running, lambda x: 0.5 * x @ self.q_final @ x),
        )

    def riccati(self) -> tuple[np.ndarray, np.ndarray, float]:
        """(optimal controls [T, m], optimal costates [T + 1, n], optimal J) by the Riccati recursion."""
        a, b, q, r = (np.asarray(m) for m in (self.a, self.b, self.q, self.r))
        value = [np.asarray(self.q_final)]
        gains: list[np.ndarray] = []
        for _ in range(self.steps):
            p = value[0]
            gain = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
            gains.insert(0, gain)
            value.insert(0, q + a.T @ p @ (a - b @ gain))
        x, controls, costates = np.asarray(self.start), [], [value[0] @ np.asarray(self.start)]
        for t in range(self.steps):
            controls.append(-gains[t] @ x)
            x = a @ x + b @ controls[-1]
            costates.append(value[t + 1] @ x)
        start = np.asarray(self.start)
        return np.stack(controls), np.stack(costates), float(0.5 * start @ value[0] @ start)


def regulator(steps: int = 13) -> Regulator:
    keys = jax.random.split(jax.random.key(3), 4)

    def positive(key: Array, size: int) -> Array:
        root = jax.random.normal(key, (size, size), jnp.float64)
        return root @ root.T / size + 0.1 * jnp.eye(size)

    a = 0.4 * jax.random.normal(keys[0], (4, 4), jnp.float64)
    b = jax.random.normal(keys[1], (4, 2), jnp.float64)
    return Regulator(a, b, positive(keys[2], 4), positive(keys[3], 2), jnp.eye(4), jnp.arange(1.0, 5.0), steps)


def products(lowered: str) -> list[tuple[str, str]]:
    """(precision, types) of every matrix product in the text of a lowered program."""
    lines = [line for line in lowered.splitlines() if "dot_general" in line]
    precisions = [re.search(r"precision = \[(\w+), \w+\]", line) for line in lines]
    return [
        (found[1] if found else "DEFAULT", line.split(" : ")[-1]) for found, line in zip(precisions, lines, strict=True)
    ]


def relative_error(found: PyTree, expected: PyTree) -> float:
    """|found - expected| / |expected| over all leaves."""
    a, b = (np.concatenate([np.ravel(np.asarray(x)) for x in jax.tree.leaves(t)]) for t in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def gumbel_order(scores: np.ndarray, noise: float | np.ndarray) -> np.ndarray:
    """Documents by z + noise, highest first, z the scores standardised by exact sums; equal ones keep their order."""
    scores = np.asarray(scores, np.float64)
    mean = math.fsum(scores) / len(scores) if np.ptp(scores) else scores[0]
    deviation = math.sqrt(math.fsum((scores - mean) ** 2) / len(scores)) or 1.0
    return np.argsort(-((scores - mean) / deviation + noise), kind="stable")


def within_budget(order: np.ndarray, tokens: np.ndarray, budget: int | float, share: float = 1.0, groups=None):
    """The first of `order` whose tokens fit into the budget, one document after the other; at least one.

    Below a share of 1 a group of `groups` is closed by its first document that would exceed that share of the budget.
    """
    closed, held, chosen, total = set(), {}, [], 0
    for document in order:
        group = None if groups is None or share >= 1 else groups[document]
        if group is not None:
            if group in closed or held.get(group, 0) + tokens[document] > share * budget:
                closed.add(group)
                continue
            held[group] = held.get(group, 0) + tokens[document]
        if total + tokens[document] > budget:
            break
        total += tokens[document]
        chosen.append(document)
    return np.array(chosen or order[:1])
