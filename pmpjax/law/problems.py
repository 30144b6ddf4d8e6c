"""The reference problem of the Learning Law: a linear teacher, a linear student, labels with noise.

Fixed by the design and not tuned: inputs x ~ N(0, I_D); teacher w ~ N(0, I_D); y = [x.w > 0]; a fraction of the
training labels flipped; desired dev and test sets clean; theta_0 = 0.01 N(0, I_D); no bias; the loss is binary
cross-entropy from logits; training is full-batch gradient descent.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

import pmpjax as pmp
from pmpjax.control.prox import Prox


@dataclass(frozen=True)
class PerceptronProblem:
    """Sizes and noise; the defaults are the paper's (arXiv 2402.17759), with 10% label noise.

    Attributes:
        dimension: D, the length of an input.
        train: examples that the policy weighs.
        dev: desired examples whose loss the policy minimises.
        test: desired examples on which acceleration is measured; a third split, for early stopping, has as many.
        steps: T, full-batch gradient steps.
        learning_rate: of the gradient steps.
        noise: the fraction of training labels that are flipped, exactly.
    """

    dimension: int = 128
    train: int = 4096
    dev: int = 512
    test: int = 512
    steps: int = 2000
    learning_rate: float = 0.1
    noise: float = 0.1

    def __post_init__(self) -> None:
        for name in ("dimension", "train", "dev", "test", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"problem.{name} is {getattr(self, name)}, expected at least 1")
        if not 0 <= self.noise <= 0.5:
            raise ValueError(f"problem.noise is {self.noise}, expected a fraction of flipped labels within 0 and 0.5")
        if not self.learning_rate > 0:
            raise ValueError(f"problem.learning_rate is {self.learning_rate}, expected a positive number")


class Examples(NamedTuple):
    """Inputs x and labels y in {0, 1}."""

    x: Float[Array, "N D"]
    y: Float[Array, " N"]


class Perceptron(NamedTuple):
    """One draw of the problem. params: theta_0 [D]. noisy: which training labels were flipped."""

    params: Float[Array, " D"]
    train: Examples
    noisy: Bool[Array, " N"]
    dev: Examples
    test: Examples
    holdout: Examples
    teacher: Float[Array, " D"]


def draw(config: PerceptronProblem, seed: int) -> Perceptron:
    """Draws data, teacher and theta_0 with NumPy, so that a seed means the same data on every device.

    Each part has a stream of its own: another size of one leaves the others as they are.
    ValueError for a negative seed.

    >>> problem = draw(PerceptronProblem(train=20, noise=0.1), seed=0)
    >>> problem.train.x.shape, int(problem.noisy.sum())
    ((20, 128), 2)
    """
    if seed < 0:
        raise ValueError(f"the seed is {seed}, expected 0 or more")
    streams = [np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(8)]

    def normal(stream: int, *shape: int) -> np.ndarray:
        return streams[stream].standard_normal(shape, dtype=np.float32)

    teacher = normal(0, config.dimension)

    def clean(stream: int, count: int) -> Examples:
        x = normal(stream, count, config.dimension)
        return Examples(jnp.asarray(x), jnp.asarray(x @ teacher > 0, jnp.float32))

    train = clean(4, config.train)
    noisy = jnp.asarray(streams[3].permutation(config.train) < round(config.noise * config.train))
    return Perceptron(
        params=jnp.asarray(np.float32(0.01) * normal(2, config.dimension)),
        train=train._replace(y=jnp.where(noisy, 1 - train.y, train.y)),
        noisy=noisy,
        dev=clean(5, config.dev),
        test=clean(6, config.test),
        holdout=clean(7, config.test),
        teacher=jnp.asarray(teacher),
    )


def losses(params: Float[Array, " D"], examples: Examples) -> Float[Array, " N"]:
    """l_n = log(1 + exp((1 - 2 y_n) x_n.theta)): binary cross-entropy from logits, exact in both tails.

    >>> losses(jnp.zeros(3), Examples(jnp.ones((2, 3)), jnp.array([0.0, 1.0]))).round(4).tolist()
    [0.6930999755859375, 0.6930999755859375]
    """
    return jax.nn.softplus((1 - 2 * examples.y) * (examples.x @ params))


def mean_loss(params: Float[Array, " D"], examples: Examples) -> Float[Array, ""]:
    """The mean of `losses`; on the desired dev set this is J(theta)."""
    return losses(params, examples).mean()


def control_problem(config: PerceptronProblem, drawn: Perceptron, prox: Prox = pmp.prox.simplex) -> pmp.Problem:
    """min over policies [T, N] (each row in the simplex) of sum_{t=0..T} J(theta_t) on the desired dev set.

    Full batch: the input (`drawn.train`) is constant in time.
    """
    dynamics = pmp.training_dynamics(losses, optax.sgd(config.learning_rate))
    cost = pmp.area_under(lambda params: mean_loss(params, drawn.dev))
    return pmp.Problem(dynamics, cost, prox=prox, input_axis=None)
