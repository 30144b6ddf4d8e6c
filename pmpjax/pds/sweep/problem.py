"""One costate sweep through a proxy's training: the worth of every instance by two estimators, and better weights."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.models import Decoder, DecoderConfig, Rows, example_losses
from pmpjax.pds.sweep.inner import Rule, initial_state, learning_rate, plant
from pmpjax.train import OptimizerConfig
from pmpjax.train.heldout import mean_loss, row_terms
from pmpjax.train.mesh import place, sharded_losses
from pmpjax.train.warm_start import WarmStart


class SweepError(ValueError):
    """A sweep whose numbers mean nothing."""


@dataclasses.dataclass(frozen=True)
class SolveConfig:
    """The inner training run of the proxy, and what is evaluated along its costate.

    Attributes:
        instances: rows of the source in the proxy set, or all that are long enough. An instance's worth is mostly its
            own noise, which the scorer averages out: more of them once are better than fewer several times.
        minimum_tokens: shorter rows (the ends of documents) are no instances; their gradients are mostly noise.
        steps: T.
        batch: rows of the proxy set in a step.
        along: what the run that the costate goes back along is trained on: text as it comes, "source", as in the
            paper, or the "selection", whose batches follow the weights of a first, small sweep (`plan`).
        pool: instances of that first sweep; None is four for each place of its batches.
        pool_rate: of the step to those weights: an instance worth one standard deviation more gets pool_rate / pool
            more, before the projection on the simplex; 5 leaves weight on a good fifth of them.
        rule: the plant: "adamw", by which the proxy was trained and from the moments that it ended with, or the paper's
            "sgd". AdamW's worths choose better; along text as it comes they do not find noise, along the selection they
            do (`experiments/pds_compare.md`).
        accumulate: along the selection, an instance's score is its worth along both runs, added (`added_worths`), as
            the weights after two steps of the outer loop are; else that along the selection alone, which undervalues
            what that run is full of. None adds where the proxy set is evaluated at the first step alone, the only one
            at which both runs are at one point.
        learning_rate: of that rule; None is 0.1 for SGD, for AdamW a quarter of the last of the proxy's training. Too
            large a step is unstable for the costate while the loss looks fine; too small a one moves the proxy so
            little that only the words of a text count: with SGD at 0.02 37% of texts whose tokens are shuffled are
            worth more than as they were, at 0.1 8% (installed-docs, preset tiny).
        dev_batch: rows of the target's dev split in a step's desired loss, a fresh draw each step; None takes them all.
        every: the proxy set is evaluated at each step divisible by it; None is at the first alone.
        chunk: rows evaluated at once.
        outer_steps: sweeps. The first has uniform weights; each later one those after a proximal step on the worth. The
            paper stops at one.
        outer_rate: that step: an instance worth one standard deviation more gets outer_rate / N more weight, before the
            projection on the simplex. Halved whenever the area under the desired loss did not fall.
        largest_growth: a costate that grows more than this on its way back is refused, as one that is not finite.
    """

    instances: int = 24_576
    minimum_tokens: int = 32
    steps: int = 64
    batch: int = 16
    rule: Rule = "adamw"
    along: Literal["source", "selection"] = "selection"
    pool: int | None = None
    pool_rate: float = 5.0
    accumulate: bool | None = None
    learning_rate: float | None = None
    dev_batch: int | None = 32
    every: int | None = None
    chunk: int = 32
    outer_steps: int = 1
    outer_rate: float = 0.5
    largest_growth: float = 1e4

    def __post_init__(self):
        counts = (self.instances, self.pool_size, self.steps, self.batch, self.period, self.chunk, self.outer_steps)
        if min(counts) < 1:
            raise ValueError(
                f"solve: instances {self.instances}, pool {self.pool_size}, steps {self.steps}, batch {self.batch}, "
                f"every {self.period}, chunk {self.chunk} and outer_steps {self.outer_steps} must be at least 1"
            )
        given = (self.outer_rate, self.pool_rate, self.learning_rate, self.dev_batch)
        if any(value is not None and value <= 0 for value in given):
            raise ValueError(
                f"solve: outer_rate {self.outer_rate}, pool_rate {self.pool_rate}, learning_rate {self.learning_rate} "
                f"and dev_batch {self.dev_batch} must be positive"
            )
        if self.accumulate and (self.along == "source" or self.evaluations > 1):
            raise ValueError(
                f"solve: accumulate adds worths along two runs at their first step, the only one where both are at one "
                f"point; along is {self.along} and every {self.every}, expected selection and none"
            )

    @property
    def period(self) -> int:
        """Steps from one evaluation of the proxy set to the next."""
        return self.steps if self.every is None else self.every

    @property
    def evaluations(self) -> int:
        """How often a sweep evaluates the proxy set."""
        return -(-self.steps // self.period)

    @property
    def adds(self) -> bool:
        """Whether the scores are worths along two runs."""
        once = self.evaluations == 1
        return self.along == "selection" and (once if self.accumulate is None else self.accumulate)

    @property
    def pool_size(self) -> int:
        """Instances of the first, small sweep along text as it comes, where there are as many."""
        return 4 * self.steps * self.batch if self.pool is None else self.pool


class Step(NamedTuple):
    """The input w_t of a step: rows of the proxy set [B, L], which of the instances they are [B], and rows of the
    target's dev split [B_dev, L], None where the desired loss is over the whole split."""

    train: Rows
    index: Int[Array | np.ndarray, " batch"]
    dev: Rows | None


class Solved(NamedTuple):
    """What a sweep at some weights gives.

    weights: gamma, [N], on the simplex. scores: [N] worth of each instance, an estimate of -dJ/dgamma from all
    instances. batch_scores: [N] -dJ/dgamma of the run's own batches, exact. terms: [K, N], the scores at each step that
    was evaluated; scores = k sum over K. sweep: value, costate, health. direction: at step 0, like the parameters,
    where worths along two runs are added (`SolveConfig.adds`). beside: [N] worth along another run's direction.
    """

    weights: Float[Array, " instances"]
    scores: Float[Array, " instances"]
    batch_scores: Float[Array, " instances"]
    terms: Float[Array, "evaluated instances"]
    sweep: pmp.Sweep
    direction: PyTree | None = None
    beside: Float[Array, " instances"] | None = None


def proxy_problem(
    config: SolveConfig,
    decoder: Decoder,
    optimizer: OptimizerConfig,
    dev: Rows | None = None,
    mesh: Mesh | None = None,
) -> pmp.Problem:
    """min_gamma sum_{t=0..T} J(theta_t) with x_{t+1} = f(x_t, (N/B) sum_b gamma_{i_tb} grad l_{i_tb}(theta_t)).

    gamma is one weight an instance for the whole run, [N] on the simplex; i_tb is the instance at place b of batch t;
    x_t = (theta_t, s_t) and f are those of `config.rule`: theta_t - eta g for SGD.

    Args:
        optimizer: that trained the proxy; what AdamW as a plant takes its settings from.
        dev: the rows of J where the steps bring none, taken in chunks of `config.chunk`.
        mesh: rows are cut along its data and fsdp axes.

    Source: PDS (arXiv 2410.07064), the problem of section 2.1, whose plant is SGD.
    """
    losses = sharded_losses(decoder, mesh)
    dynamics = pmp.training_dynamics(
        lambda params, step: losses(params, step.train),
        plant(config.rule, config.learning_rate, optimizer),
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


def score_instances(
    config: SolveConfig,
    decoder: Decoder,
    proxy: WarmStart,
    steps: Step,
    instances: Rows,
    *,
    weights: Float[Array, " instances"] | None = None,
    dev: Rows | None = None,
    beside: PyTree | None = None,
    mesh: Mesh | None = None,
) -> Solved:
    """s_z = k sum_{t in 0, k, 2k, ...} <d_t, grad l_z(theta_t)>, [N]: high is good.

    d_t is minus the costate of x_{t+1} pulled back through the update to the gradient: eta lambda_{t+1} for SGD, whose
    scores divided by eta are the paper's. With k = 1 they are minus the derivative of the area under the desired loss
    in the weight of an instance z that is added to every step with weight zero; a larger `every` k estimates that sum
    from each k-th term. Over the draw of the batches its expectation is that of `batch_scores`, minus the derivative in
    the weights of the run's own batches, with less variance.

    Args:
        proxy: theta_0, the optimizer state there and the rule.
        steps: leaves [T, ...].
        instances: the proxy set, N rows.
        weights: gamma; uniform when None.
        dev: where the steps have no dev rows, all of them.
        beside: the direction of another run at theta_0 (`Solved.direction`): also evaluate the worth along it.
        mesh: devices that share the sweep; parameters and costates lie as `pmpjax.train.mesh.partition` says.

    Source: PDS (arXiv 2410.07064), Pontryagin conditions and the score q_n.
    """
    weights = pmp.uniform(len(instances.tokens)) if weights is None else weights
    arguments = jax.tree.map(jnp.asarray, (steps, instances, dev, beside))
    state = place(initial_state(config.rule, proxy), mesh)
    found = sweep_function(config, decoder.config, proxy.optimizer, mesh)(state, weights, *arguments)
    seen, along = found.seen, found.seen["worth"]  # [K, N] or, beside another direction, [1, 2, N]
    terms, other = (along, None) if beside is None else (along[:, 0], along[0, 1])
    direction = jax.tree.map(lambda leaf: leaf[0], seen.get("direction"))
    return Solved(weights, config.period * terms.sum(axis=0), -seen["gradient"], terms, found, direction, other)


@functools.lru_cache(maxsize=2)
def sweep_function(
    config: SolveConfig, model: DecoderConfig, optimizer: OptimizerConfig, mesh: Mesh | None = None
) -> Callable[..., pmp.Sweep]:
    """The jitted sweep, the same one for the same arguments, so that it is compiled once.

    (state x_0, weights [N], steps [T, ...], instances [N, L], dev rows or None, another run's direction or None) ->
    `Sweep` whose `seen` has worth [ceil(T / every), N], or [1, 2, N] where there is another direction, and gradient
    [N], and direction [1, ...] where `config.adds`.
    """
    decoder = Decoder(model)

    def sweep(
        state: pmp.TrainState, weights: Array, steps: Step, instances: Rows, dev: Rows | None, beside: PyTree | None
    ) -> pmp.Sweep:
        problem = proxy_problem(config, decoder, optimizer, dev, mesh)
        others = () if beside is None else (beside,)
        worth = obs.contributions_of(sharded_losses(decoder, mesh), instances, chunk=config.chunk, beside=others)
        observe: dict[str, obs.Observable] = {
            "worth": obs.every(config.period, worth),
            "gradient": obs.control_gradient,
        }
        if config.adds:
            observe["direction"] = obs.every(config.steps, lambda point: point.gradient_cotangent)
        return pmp.costate(
            problem,
            state,
            weights,
            steps,
            adjoint=pmp.Checkpointed(),
            observe=observe,
        )

    return jax.jit(sweep)


def improve(
    config: SolveConfig,
    solve_at: Callable[[Array | None], Solved],
    report: Callable[[Solved], None] = lambda solved: None,
) -> tuple[list[Solved], list[float]]:
    """gamma <- prox(gamma + (rate / N sd(s)) s), `outer_steps` sweeps in all; a step that raises J is taken back.

    `solve_at(weights)` is a sweep, of uniform weights where None; each is handed to `report`, and refused where its
    costate means nothing.

    Returns:
        the sweeps at the first and at the best weights (one and the same where none was better), and J of every sweep.

    Source: PDS (arXiv 2410.07064), Algorithm 1, whose outer loop the paper cuts after one iteration.
    """
    best = first = solve_at(None)
    report(first)
    values, rate = [float(first.sweep.value)], config.outer_rate
    for _ in range(config.outer_steps - 1):
        deviation = jnp.maximum(jnp.std(best.scores), jnp.finfo(best.scores.dtype).tiny)
        step = rate / (len(best.scores) * deviation)
        tried = solve_at(pmp.prox.simplex(best.weights + step * best.scores, step))
        report(tried)
        values.append(float(tried.sweep.value))
        if tried.sweep.value < best.sweep.value:
            best = tried
        else:
            rate /= 2
    return [first, best], values


def check_health(config: SolveConfig, optimizer: OptimizerConfig, sweep: pmp.Sweep) -> None:
    """Refuses a sweep whose numbers mean nothing, or whose costate exploded; `optimizer` trained the proxy."""
    health = sweep.health
    growth = health.growth
    if int(health.status) == pmp.Status.OK and growth <= config.largest_growth:
        return
    hint = ""
    if health.explodes or growth > config.largest_growth:
        rate = learning_rate(config.rule, config.learning_rate, optimizer)
        hint = (
            f". Lower --solve.learning-rate (now {rate:g}); a costate may grow {config.largest_growth:g}-fold at most"
        )
    raise SweepError(f"the scores would be noise: {health.describe()}{hint}")
