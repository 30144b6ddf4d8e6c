"""The controlled system: a proxy that goes on training, with one weight for each instance of the proxy set."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

import pmpjax as pmp
from pmpjax.data import Rows
from pmpjax.models import Decoder, example_losses
from pmpjax.train import OptimizerConfig, adamw
from pmpjax.train.heldout import mean_loss, row_terms
from pmpjax.train.mesh import sharded_losses
from pmpjax.train.warm_start import WarmStart
from pmpjax.training import TrainState

InnerOptimizer = Literal["adamw", "sgd"]


class Trajectory(NamedTuple):
    """One inner run of Algorithm 1 and the outer steps on it. `pmpjax.pds.sweep.outer` goes through a tuple of them.

    batches: drawn evenly, from the "source" as it comes, or in proportion to the "weights" found so far.
    instances: of the proxy set, drawn from and scored; None is all. A trajectory has at least those of the one before.
    outer_steps: sweeps; the first has uniform weights, each later one those after a proximal step.
    outer_rate: r of that step, gamma <- prox(gamma + (r / N) z), z the standardised scores. Halved where J rose.
    every: instances are scored at each step divisible by it; None is at the first alone.
    """

    batches: Literal["source", "weights"] = "source"
    instances: int | None = None
    outer_steps: int = 1
    outer_rate: float = 0.5
    every: int | None = None


@dataclasses.dataclass(frozen=True)
class SolveConfig:
    """The inner training run of the proxy, and what is evaluated along its costate.

    Attributes:
        instances: rows of the source in the proxy set, or all that are long enough. An instance's score is mostly its
            own noise, which the regressor averages out: more of them once are better than fewer several times.
        minimum_tokens: shorter rows (the ends of documents) are no instances; their gradients are mostly noise.
        steps: T.
        batch: rows of the proxy set in a step.
        inner_optimizer: of the proxy's run: "adamw", which trained the proxy, from the moments that it ended with, or
            the paper's "sgd". AdamW's scores choose better; along text as it comes they do not find noise, along the
            selection they do (`experiments/pds_compare.md`).
        trajectory: what the run that the costate goes back along is trained on: text as it comes, "source", as in the
            paper, or the "selection": batches that follow the weights after a first, small sweep along the source.
        first_instances: of that first sweep; None is four for each place of its batches.
        first_rate: r of the outer step after that first sweep (`Trajectory`); 5 leaves weight on a good fifth of the
            instances.
        add_scores: along the selection, an instance's score is the sum of its standardised scores along both runs
            (`instance_scores`); where False, that along the selection alone, which undervalues what that run is full
            of. Only where `every` is None: step 0 is the only one at which both runs are at one point.
        learning_rate: of the inner optimizer; None is 0.1 for SGD, for AdamW a quarter of the last of the proxy's
            training. Too large a step is unstable for the costate while the loss looks fine; too small a one moves the
            proxy so little that only the words of a text count: with SGD at 0.02 37% of texts whose tokens are shuffled
            score higher than as they were, at 0.1 8% (installed-docs, preset tiny).
        dev_batch: rows of the target's dev split in a step's desired loss, a fresh draw each step; None takes them all.
        every: the proxy set is scored at each step divisible by it; None is at the first alone.
        chunk: rows evaluated at once.
        outer_steps: sweeps on the last trajectory (`Trajectory`). The paper stops at one.
        outer_rate: r of their steps.
        largest_growth: a costate that grows more than this on its way back is refused, as one that is not finite.
    """

    instances: int = 24_576
    minimum_tokens: int = 32
    steps: int = 64
    batch: int = 16
    inner_optimizer: InnerOptimizer = "adamw"
    trajectory: Literal["source", "selection"] = "selection"
    first_instances: int | None = None
    first_rate: float = 5.0
    add_scores: bool = True
    learning_rate: float | None = None
    dev_batch: int | None = 32
    every: int | None = None
    chunk: int = 32
    outer_steps: int = 1
    outer_rate: float = 0.5
    largest_growth: float = 1e4

    def __post_init__(self):
        counts = ("instances", "first_instances", "steps", "batch", "every", "chunk", "outer_steps", "dev_batch")
        for name in (*counts, "first_rate", "learning_rate", "outer_rate"):
            value = getattr(self, name)
            if value is not None and (value < 1 if name in counts else value <= 0):
                expected = "at least 1" if name in counts else "a positive number"
                raise ValueError(f"solve: {name} {value}, expected {expected}")

    @property
    def trajectories(self) -> tuple[Trajectory, ...]:
        """What Algorithm 1 goes through: the paper's one trajectory, or the default's two.

        >>> [(one.batches, one.instances) for one in SolveConfig().trajectories]
        [('source', 4096), ('weights', None)]
        >>> SolveConfig(trajectory="source").trajectories == (Trajectory("source"),)
        True
        """
        last = Trajectory("source", None, self.outer_steps, self.outer_rate, self.every)
        if self.trajectory == "source":
            return (last,)
        few = 4 * self.steps * self.batch if self.first_instances is None else self.first_instances
        return Trajectory("source", few, outer_rate=self.first_rate), last._replace(batches="weights")

    @property
    def period(self) -> int:
        """Steps from one evaluation of the proxy set to the next."""
        return self.steps if self.every is None else self.every

    @property
    def evaluations(self) -> int:
        """How often a sweep evaluates the proxy set."""
        return -(-self.steps // self.period)

    @property
    def sweeps(self) -> int:
        """Sweeps of all trajectories."""
        return sum(trajectory.outer_steps for trajectory in self.trajectories)

    @property
    def adds(self) -> bool:
        """Whether scores along several trajectories are added."""
        return self.add_scores and self.trajectory == "selection" and self.evaluations == 1


SGD_RATE = 0.1
ADAMW_SHARE = 0.25


class Proxy(NamedTuple):
    """The model that is trained on.

    decoder: its architecture. start: theta_0, the optimizer's state there, and the rule that trained it. mesh: devices
    that share the sweep, cut as `pmpjax.train.mesh.partition` says; None is one.
    """

    decoder: Decoder
    start: WarmStart
    mesh: Mesh | None = None


class Step(NamedTuple):
    """The input w_t of a step: rows of the proxy set [B, L], which of the instances they are [B], and rows of the
    target's dev split [B_dev, L], None where the desired loss is over the whole split."""

    train: Rows
    index: Int[Array | np.ndarray, " batch"]
    dev: Rows | None


def proxy_problem(
    config: SolveConfig,
    decoder: Decoder,
    optimizer: OptimizerConfig,
    dev: Rows | None = None,
    mesh: Mesh | None = None,
) -> pmp.Problem:
    """min_gamma sum_{t=0..T} J(theta_t) with x_{t+1} = f(x_t, (N/B) sum_b gamma_{i_tb} grad l_{i_tb}(theta_t)).

    gamma is one weight an instance for the whole run, [N] on the simplex; i_tb is the instance at place b of batch t;
    x_t = (theta_t, s_t) and f are those of `config.inner_optimizer`: theta_t - eta g for SGD.

    Args:
        optimizer: that trained the proxy; what AdamW as the inner optimizer takes its settings from.
        dev: the rows of J where the steps bring none, taken in chunks of `config.chunk`.
        mesh: rows are cut along its data and fsdp axes.

    Source: PDS (arXiv 2410.07064), the problem of section 2.1, whose inner optimizer is SGD.
    """
    losses = sharded_losses(decoder, mesh)
    dynamics = pmp.training_dynamics(
        lambda params, step: losses(params, step.train),
        inner_optimizer(config.inner_optimizer, config.learning_rate, optimizer),
        index=lambda step: step.index,
        remat=decoder.config.remat != "none",
    )
    whole = None if dev is None else mean_loss(row_terms(example_losses(decoder)), dev, config.chunk, mesh)

    def desired(params: Any, step: Step) -> Array:
        if step.dev is not None:
            return jnp.mean(losses(params, step.dev))
        if whole is None:
            raise ValueError("the steps bring no dev rows: give the whole dev split as `dev`")
        return whole(params)

    return pmp.Problem(dynamics, pmp.area_under(desired), prox=pmp.prox.simplex, control_axis=None)


def learning_rate(name: InnerOptimizer, given: float | None, optimizer: OptimizerConfig) -> float:
    """eta: the one that is given, else a quarter of `optimizer`'s for AdamW and 0.1 for SGD.

    >>> learning_rate("sgd", None, OptimizerConfig()), learning_rate("adamw", None, OptimizerConfig(learning_rate=0.5))
    (0.1, 0.125)
    """
    if given is not None:
        return given
    return SGD_RATE if name == "sgd" else ADAMW_SHARE * optimizer.learning_rate


def inner_optimizer(
    name: InnerOptimizer, rate: float | None, optimizer: OptimizerConfig
) -> optax.GradientTransformation:
    """The optax rule f of theta_{t+1}, s_{t+1} = f(theta_t, s_t, g_t): AdamW as in `optimizer`, or SGD, at
    `learning_rate(name, rate, optimizer)`."""
    eta = learning_rate(name, rate, optimizer)
    return optax.sgd(eta) if name == "sgd" else adamw(dataclasses.replace(optimizer, learning_rate=eta))


def initial_state(name: InnerOptimizer, start: WarmStart) -> TrainState:
    """x_0 = (theta_0, s_0): AdamW keeps the moments of its training, SGD has none.

    Without them Adam has slope 1/eps where a coordinate has had no gradient yet, and the first steps are the largest.
    """
    params = jax.tree.map(jnp.asarray, start.params)
    if name == "sgd":
        return TrainState(params, optax.sgd(SGD_RATE).init(params))
    return TrainState(params, jax.tree.map(jnp.asarray, start.opt_state))
