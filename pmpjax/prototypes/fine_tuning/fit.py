"""Prototypes fitted to given states: grown, pruned, then trained together."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pmpjax.prototypes.fine_tuning.growth import (
    class_means,
    created,
    creation_threshold,
    from_points,
    refined,
    spread_of,
)
from pmpjax.prototypes.fine_tuning.store import Prototypes, class_log_probabilities, diversity, margin_of
from pmpjax.prototypes.quasi_newton import minimised


@dataclasses.dataclass(frozen=True)
class Policy:
    """How prototypes are fitted; the four principles of arXiv 2211.13638 can each be switched off.

    Attributes:
        initialisation: the first prototype of a class is the mean of its examples ("mixture"), or one of them at random
            ("example").
        per_class: prototypes that a class has at most; 1 switches creation off.
        refine: prototypes move by expectation and maximisation, and then by gradient steps.
        diversity: weight of the penalty on prototypes that are near each other; 0 switches it off.
        margin: below this share of the median distance to the nearest prototype, two are near each other.
        width: sigma as a share of the states' mean squared distance to their mean.
        anchor: how strongly gradient steps are held to where expectation and maximisation put the prototypes, against
            one example's loss.
        least: a prototype with fewer examples is dropped.
        passes: of expectation and maximisation after each creation.
        steps: of L-BFGS.
    """

    initialisation: Literal["mixture", "example"] = "mixture"
    per_class: int = 8
    refine: bool = True
    diversity: float = 0.1
    margin: float = 0.5
    width: float = 0.05
    anchor: float = 0.3
    least: float = 3.0
    passes: int = 8
    steps: int = 30

    def __post_init__(self) -> None:
        for name, lowest in (("per_class", 1), ("passes", 1), ("steps", 0), ("diversity", 0), ("anchor", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"Policy({name}={getattr(self, name)}), expected at least {lowest}")
        if self.width <= 0 or not 0 <= self.margin:
            raise ValueError(
                f"Policy(width={self.width}, margin={self.margin}), expected a width above 0 and a margin from 0 on"
            )
        if self.initialisation not in ("mixture", "example"):
            raise ValueError(f"Policy(initialisation={self.initialisation!r}), expected 'mixture' or 'example'")


def variance_of(
    states: Float[Array, "n d"], weights: Float[Array, " n"], policy: Policy = Policy()
) -> Float[Array, ""]:
    """sigma = width * mean_n |h_n - mean h|^2, means by weight: it follows the scale of the states."""
    share = (weights / jnp.sum(weights))[:, None]
    mean = jnp.sum(share * states, axis=0, keepdims=True)
    return policy.width * jnp.sum(share * (states - mean) ** 2)


@functools.partial(jax.jit, static_argnames="policy")
def grow(
    store: Prototypes,
    states: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    threshold: Float[Array, ""],
    *,
    policy: Policy,
) -> Prototypes:
    """Rounds of creation, expectation and maximisation, and pruning: `policy.per_class` - 1 of them, and one at least.

    The first round creates before anything is refined: one prototype of a class is its mean after a single pass, and
    where it began would not matter.
    """

    def one(store: Prototypes, _: None) -> tuple[Prototypes, None]:
        if not policy.refine:
            return created(store, states, labels, weights, threshold, share=1.0), None
        store = created(store, states, labels, weights, threshold)
        return refined(store, states, labels, weights, policy.least, passes=policy.passes), None

    return jax.lax.scan(one, store, None, length=max(policy.per_class - 1, 1))[0]


def objective(
    store: Prototypes,
    start: Prototypes,
    log_probabilities: Float[Array, "n c"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    policy: Policy,
) -> Float[Array, ""]:
    """J = (sum_n -v_n log p(y_n | h_n) + a/2 (|p - p'|^2 / sigma^2 + |log pi - log pi'|^2)) / sum_n v_n + b R(p).

    p', pi' are those of `start`, R is `diversity` in units of sigma. The anchor a is the precision of a Gaussian prior
    on the coordinates of p / sigma, the weights of a linear classifier: few examples leave the prototypes where
    they are.
    """
    chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1)[:, 0]
    variance = jnp.exp(start.log_variance)
    moved = jnp.sum(jnp.where(start.active[:, None], store.points - start.points, 0.0) ** 2) / variance**2
    moved += jnp.sum(jnp.where(start.active, store.log_weight - start.log_weight, 0.0) ** 2)
    near = diversity(store, margin_of(start, policy.margin)) / variance if policy.diversity else 0.0
    return (policy.anchor / 2 * moved - jnp.sum(weights * chosen)) / jnp.sum(weights) + policy.diversity * near


@functools.partial(jax.jit, static_argnames=("classes", "policy"))
def polish(
    store: Prototypes,
    states: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    *,
    classes: int,
    policy: Policy,
) -> Prototypes:
    """`policy.steps` steps of L-BFGS on `objective` in points and log-weights."""

    def loss(moved: Any) -> Array:
        own = store._replace(points=moved[0], log_weight=moved[1])
        return objective(own, store, class_log_probabilities(own, states, classes), labels, weights, policy)

    moved = minimised(loss, (store.points, store.log_weight), policy.steps)
    return store._replace(points=moved[0], log_weight=moved[1])


@functools.partial(jax.jit, static_argnames=("classes", "policy"))
def fit_prototypes(
    key: Array,
    states: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    concentration: Float[Array, ""] | float,
    *,
    classes: int,
    policy: Policy = Policy(),
) -> Prototypes:
    """Initialises, grows, prunes and trains the prototypes of all classes.

    Args:
        key: of the examples that "example" initialisation draws; nothing else is random.
        weights: of examples; one of weight 0 is as if it were not there. Each class needs one above 0.
        concentration: alpha of `creation_threshold`; 0 creates none.

    >>> draw = jax.random.normal(jax.random.key(0), (40, 2)) * 0.1
    >>> corners = jnp.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    >>> labels = jnp.repeat(jnp.array([0, 0, 1, 1]), 10)
    >>> store = fit_prototypes(
    ...     jax.random.key(1), draw + corners.repeat(10, axis=0), labels, jnp.ones(40), 0.5, classes=2
    ... )
    >>> jnp.bincount(store.classes[store.active]).tolist()
    [2, 2]
    """
    means = class_means(states, labels, weights, classes)
    variance, capacity = variance_of(states, weights, policy), classes * policy.per_class
    store = from_points(means, variance, capacity)
    # Of the means whatever the initialisation: examples lie further apart, and by them no class would be wide.
    threshold = creation_threshold(store, spread_of(store), concentration)
    if policy.initialisation == "example":
        noise = jax.random.gumbel(key, weights.shape)
        own = (labels[:, None] == jnp.arange(classes)[None, :]) & (weights > 0)[:, None]
        examples = states[jnp.argmax(jnp.where(own, noise[:, None], -jnp.inf), axis=0)]
        store = from_points(examples, variance, capacity)
    store = grow(store, states, labels, weights, threshold, policy=policy)
    steps = policy.steps if policy.refine else 0
    return polish(store, states, labels, weights, classes=classes, policy=policy) if steps else store
