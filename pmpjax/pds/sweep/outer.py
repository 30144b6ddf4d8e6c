"""Algorithm 1 of PDS (arXiv 2410.07064): the weights gamma of the instances, from costate sweeps.

    the paper                                                       here
    gamma <- [1/|D|, ..., 1/|D|]                                    pmp.uniform
    repeat T_o times:                                               pmp.descend, over `sweep` in `algorithm_1`
      for t = 0 .. T-1:  theta_{t+1} <- theta_t - eta grad L        one sweep, `score_instances`:
      lambda_T <- grad J(theta_T)                                     theta_t forward,
      for t = T-1 .. 1:  lambda_t <- lambda_{t+1} + grad J - eta H lambda_{t+1}
                                                                      the costate back,
      for n = 1 .. |D|:  gamma_n <- gamma_n + alpha sum_t <lambda_{t+1}, grad l(x_n, theta_t)>
                                                                      the score of every instance on the way
      gamma <- Proj[gamma]                                          pmp.ProximalGradient, pmp.prox.simplex
    return gamma                                                    `Outcome.weights`, and the scores

One thing is added: a tuple of trajectories (`SolveConfig.trajectories`) instead of one. gamma stands for a run in two
ways: as weights in its loss, as above, or as the frequencies by which its batches are drawn. Where the outer steps on
one trajectory end, the next one draws its batches as the weights say and begins again at equal weights in the loss.

    the paper               Trajectory("source")
    more outer steps        Trajectory("source", outer_steps=4)
    the default             Trajectory("source", instances=4096, outer_rate=5), Trajectory("weights")

Pontryagin's conditions are about the optimal run, whose batches are drawn as the optimal weights say. Along text as it
comes the scores are those of a run that nobody wants: where its step does harm, whatever makes it shorter scores high,
random tokens too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import pmpjax as pmp
from pmpjax.data import Prepared, Rows
from pmpjax.pds.sweep.batches import Batches, draw_batches, draw_by_weight, draw_instances, draw_members
from pmpjax.pds.sweep.diagnostics import check_health
from pmpjax.pds.sweep.problem import Proxy, SolveConfig, Trajectory
from pmpjax.pds.sweep.scores import Solved, score_instances
from pmpjax.runs.seeds import stage_generator
from pmpjax.statistics import standardised


class Setting(NamedTuple):
    """What stays the same from one trajectory to the next. rows: of the source, the proxy set's N instances."""

    config: SolveConfig
    proxy: Proxy
    prepared: Prepared
    rows: Int[np.ndarray, " instances"]
    seed: int

    @property
    def instances(self) -> Rows:
        """The proxy set, N rows."""
        return self.prepared.source.take(self.rows)


class Run(NamedTuple):
    """The inner run of a trajectory. members: [P] its instances, by their place in the proxy set. batches: of them.
    directions: d_0 of the trajectories before it, where scores along all of them are added."""

    members: Int[np.ndarray, " members"]
    batches: Batches
    directions: tuple[Any, ...]


class Outcome(NamedTuple):
    """Where a trajectory ended. first, best: its sweeps at uniform and at the best weights. values: J of every sweep.
    weights: [P] gamma after one more proximal step from the best."""

    run: Run
    first: Solved
    best: Solved
    values: list[float]
    weights: Float[Array, " members"]


def setting(config: SolveConfig, proxy: Proxy, prepared: Prepared, seed: int) -> Setting:
    """A setting with the instances that the seed draws."""
    return Setting(config, proxy, prepared, draw_instances(config, prepared, seed), seed)


def algorithm_1(
    setting: Setting, trajectories: Sequence[Trajectory], report: Callable[[Solved], None] = lambda solved: None
) -> list[Outcome]:
    """gamma <- prox(gamma + (r / N) z), `outer_steps` sweeps a trajectory; a step that raises J is taken back.

    z are the scores along that trajectory, `standardised`: r = 1 moves an instance that scores one standard deviation
    more by the weight of an instance.

    Args:
        trajectories: `SolveConfig.trajectories`, one after another.
        report: is given each sweep, after its health was checked.

    Returns:
        one outcome a trajectory.

    Raises:
        SweepError: a sweep's costate is not finite or grew too much.
    """
    outcomes: list[Outcome] = []
    for trajectory in trajectories:
        run = inner_run(setting, trajectory, outcomes)
        first: list[Solved] = []

        def sweep(weights: Array) -> pmp.Evaluation:
            solved = solve_at(setting, trajectory, run, weights)
            check_health(setting.config, setting.proxy.start.optimizer, solved.health)
            report(solved)
            first[:] = first or [solved]
            z = standardised(np.asarray(solved.scores, np.float64))
            return pmp.Evaluation(solved.value, -jnp.asarray(z, weights.dtype), solved.health, solved)

        count = len(run.members)
        solver = pmp.ProximalGradient(step=trajectory.outer_rate / count, grow=1.0, shrink=0.5, decrease=0.0)
        start, budget = pmp.uniform(count), trajectory.outer_steps
        found = pmp.descend(sweep, pmp.prox.simplex, start, solver, sweeps=budget, tolerance=0.0)
        weights = jax.jit(solver.propose, static_argnums=0)(pmp.prox.simplex, found.state).controls
        values = [record.value for record in found.history]
        outcomes.append(Outcome(run, first[0], found.seen, values, weights))
    return outcomes


def inner_run(setting: Setting, trajectory: Trajectory, before: Sequence[Outcome]) -> Run:
    """The batches of a trajectory: drawn evenly, or as the weights of the last one before it say."""
    config, seed = setting.config, setting.seed
    members = draw_members(trajectory.instances, len(setting.rows), seed)
    instances, index = jax.tree.map(lambda leaf: leaf[members], setting.instances), None
    if trajectory.batches == "weights":
        last = before[-1]
        generator = stage_generator(seed, "solve", "selection")
        drawn = draw_by_weight(np.asarray(last.weights, np.float64), config.steps * config.batch, generator)
        index = np.searchsorted(members, last.run.members[drawn]).reshape(config.steps, config.batch).astype(np.int32)
    directions = tuple(outcome.best.direction for outcome in before) if config.adds else ()
    return Run(members, draw_batches(config, setting.prepared, instances, seed, index), directions)


def solve_at(setting: Setting, trajectory: Trajectory, run: Run, weights: Array, others: Rows | None = None) -> Solved:
    """One sweep along a trajectory at some weights of its instances; `others` are scored as well, behind them."""
    config = dataclasses.replace(setting.config, every=trajectory.every)
    instances = jax.tree.map(lambda leaf: leaf[run.members], setting.instances)
    if others is not None:
        instances = jax.tree.map(lambda *leaves: np.concatenate(leaves), instances, others)
    return score_instances(
        config, setting.proxy, run.batches, instances, weights=weights, extra_directions=run.directions
    )
