"""How prototypes are made, refined and dropped, in the style of infinite mixture prototypes; static shapes."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pmpjax.prototypes.fine_tuning.store import HIDDEN, Prototypes, own_responsibilities, squared_distances


def class_means(
    states: Float[Array, "n d"], labels: Int[Array, " n"], weights: Float[Array, " n"], classes: int
) -> Float[Array, "c d"]:
    """m_c = sum_{n of class c} v_n h_n / sum_{n of class c} v_n; each class needs an example of positive weight."""
    own = (labels[:, None] == jnp.arange(classes)[None, :]) * weights[:, None]
    return jnp.matmul(own.T, states, precision=jax.lax.Precision.HIGHEST) / jnp.sum(own, axis=0)[:, None]


def from_points(points: Float[Array, "c d"], variance: Float[Array, ""], capacity: int) -> Prototypes:
    """One prototype for each class at the given points, in `capacity` slots, of equal weight."""
    classes, width = points.shape
    rest = capacity - classes
    return Prototypes(
        jnp.concatenate([points, jnp.zeros((rest, width), points.dtype)]),
        jnp.concatenate([jnp.arange(classes), jnp.zeros(rest, int)]),
        jnp.arange(capacity) < classes,
        jnp.zeros(capacity, points.dtype),
        jnp.log(variance),
    )


def creation_threshold(
    store: Prototypes, spread: Float[Array, ""], concentration: Float[Array, ""] | float
) -> Float[Array, ""]:
    """lambda = -2 sigma log alpha + D sigma log(1 + rho / sigma), a squared distance.

    The threshold of infinite mixture prototypes (arXiv 1902.04552), as its reference code has it. A smaller alpha makes
    fewer prototypes: none is created as alpha goes to 0.

    Args:
        spread: rho, see `spread_of`.
        concentration: alpha.
    """
    variance = jnp.exp(store.log_variance)
    width = store.points.shape[1]
    return -2 * variance * jnp.log(concentration) + width * variance * jnp.log1p(spread / variance)


def spread_of(store: Prototypes) -> Float[Array, ""]:
    """rho = mean over coordinates of the variance of the active prototypes; no gradient passes through it."""
    active = store.active[:, None].astype(store.points.dtype)
    count = jnp.sum(active)
    mean = jnp.sum(active * store.points, axis=0, keepdims=True) / count
    return jax.lax.stop_gradient(jnp.mean(jnp.sum(active * (store.points - mean) ** 2, axis=0) / count))


@functools.partial(jax.jit, static_argnames="share")
def created(
    store: Prototypes,
    states: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    threshold: Float[Array, ""],
    *,
    share: float = 0.5,
) -> Prototypes:
    """One more prototype for each class that is too wide for its own, as long as slots are free.

    A prototype is too wide where the mean of |h - p_k|^2 over its examples, those of its class that are nearest to it,
    is above the threshold; each class splits its widest one. Let h be the farthest of its examples: the new prototype
    is p + share (h - p), the old one moves to p - share (h - p), and `refined` parts the examples between them. With
    share 1 the new one is the example itself and the old one stays, as infinite mixture prototypes have it: in many
    dimensions such a prototype keeps that example alone, since all examples of a class are nearer to their mean than to
    each other.

    Args:
        weights: of examples; one of weight 0 does not count.
    """
    squared = squared_distances(store, states)
    squared = jnp.where((store.classes[None, :] == labels[:, None]) & store.active[None, :], squared, jnp.inf)
    nearest, owner = jnp.min(squared, axis=1), jnp.argmin(squared, axis=1)
    counted = (weights > 0) & jnp.isfinite(nearest)
    held = jax.nn.one_hot(owner, len(store.active), dtype=states.dtype) * (weights * counted)[:, None]
    mass = jnp.sum(held, axis=0)
    width = jnp.sum(held * jnp.where(counted, nearest, 0.0)[:, None], axis=0) / jnp.where(mass > 0, mass, 1.0)
    width = jnp.where(store.active & (mass > 0), width, HIDDEN)

    def split(store: Prototypes, label: Array) -> tuple[Prototypes, None]:
        slot = jnp.argmax(jnp.where(store.classes == label, width, 2 * HIDDEN))
        free = jnp.argmin(store.active)
        wanted = (store.classes[slot] == label) & (width[slot] > threshold) & ~store.active[free]
        far = states[jnp.argmax(jnp.where(counted & (owner == slot), nearest, -1.0))]
        away = share * (far - store.points[slot])
        slots = jnp.arange(len(store.active))
        new, old = (slots == free) & wanted, (slots == slot) & wanted
        moved = store.points[slot] - (away if share < 1 else 0.0)
        points = jnp.where(old[:, None], moved[None, :], store.points)
        half = store.log_weight[slot] - jnp.log(2.0)
        return Prototypes(
            jnp.where(new[:, None], (store.points[slot] + away)[None, :], points),
            jnp.where(new, label, store.classes),
            store.active | new,
            jnp.where(new | old, half, store.log_weight),
            store.log_variance,
        ), None

    return jax.lax.scan(split, store, jnp.arange(len(store.active)))[0]


@functools.partial(jax.jit, static_argnames="passes")
def refined(
    store: Prototypes,
    states: Float[Array, "n d"],
    labels: Int[Array, " n"],
    weights: Float[Array, " n"],
    least: Float[Array, ""] | float,
    *,
    passes: int,
) -> Prototypes:
    """Expectation and maximisation within each class; prototypes of less mass than `least` are dropped.

    p_k <- sum_n r_nk v_n h_n / sum_n r_nk v_n and pi_k <- its share of its class's mass, where r is
    `own_responsibilities`. The heaviest prototype of a class stays, whatever its mass.
    """

    def step(store: Prototypes, _: None) -> tuple[Prototypes, None]:
        shares = own_responsibilities(store, states, labels) * weights[:, None]
        mass = jnp.sum(shares, axis=0)
        kept = store.active & ((mass >= least) | heaviest(store, mass))
        sums = jnp.matmul(shares.T, states, precision=jax.lax.Precision.HIGHEST)
        filled = (mass > 0) & kept
        points = jnp.where(filled[:, None], sums / jnp.where(filled, mass, 1.0)[:, None], store.points)
        mass = jnp.where(filled, mass, 0.0)
        same = store.classes[:, None] == store.classes[None, :]
        whole = jnp.sum(jnp.where(same, mass[None, :], 0.0), axis=1)
        share = jnp.log(jnp.where(filled, mass / jnp.where(whole > 0, whole, 1.0), 1.0))
        return store._replace(points=points, active=kept, log_weight=share), None

    return jax.lax.scan(step, store, None, length=passes)[0]


def heaviest(store: Prototypes, mass: Float[Array, " k"]) -> Bool[Array, " k"]:
    """Whether a slot holds the heaviest prototype of its class; of equal ones the first."""
    same = (store.classes[:, None] == store.classes[None, :]) & store.active[None, :]
    first = jnp.argmax(jnp.where(same, mass[None, :], HIDDEN), axis=1)
    return store.active & (first == jnp.arange(len(mass)))
