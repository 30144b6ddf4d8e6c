"""The stage `solve`: one costate sweep, and along it the worth of every instance of the proxy set."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Array, Float, Int

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.control.conditions import frank_wolfe_gap, spread_of
from pmpjax.data import Prepared, batch_schedule
from pmpjax.evaluation import rank_correlation
from pmpjax.models import Decoder, Rows, example_losses
from pmpjax.pds.common import stage_generator, stage_seed
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.train.model import ModelConfig, forward_flops


class SweepError(ValueError):
    """A sweep whose numbers mean nothing."""


@dataclasses.dataclass(frozen=True)
class SolveConfig:
    """The inner training run of the proxy, and what is evaluated along its costate.

    Attributes:
        instances: rows of the source in the proxy set.
        minimum_tokens: shorter rows (the ends of documents) are no instances; their gradients are mostly noise.
        steps: T.
        batch: rows of the proxy set in a step.
        learning_rate: of SGD, the plant. Too large a step is unstable for the costate while the loss looks fine.
        dev_batch: rows of the target's dev split in a step's desired loss; a fresh draw each step.
        every: the proxy set is evaluated at each step divisible by it.
        chunk: rows evaluated at once.
        largest_growth: a costate that grows more than this on its way back is refused, as one that is not finite.
    """

    instances: int = 2048
    minimum_tokens: int = 32
    steps: int = 32
    batch: int = 16
    learning_rate: float = 0.02
    dev_batch: int = 16
    every: int = 16
    chunk: int = 32
    largest_growth: float = 1e4


class Step(NamedTuple):
    """The input w_t of a step: rows of the proxy set [B, L] and of the target's dev split [B_dev, L]."""

    train: Rows
    dev: Rows


class Solved(NamedTuple):
    """scores: [M] worth of each instance. sweep: the whole sweep; `seen["worth"]` are the scores."""

    scores: Float[Array, " instances"]
    sweep: pmp.Sweep


def proxy_problem(decoder: Decoder, learning_rate: float) -> pmp.Problem:
    """min_gamma sum_{t=0..T} J(theta_t) , theta_{t+1} = theta_t - eta grad sum_n gamma_n l_n(theta_t).

    Source: PDS (arXiv 2410.07064), the problem of section 2.1 with the paper's plant, SGD.
    """
    losses = example_losses(decoder)
    dynamics = pmp.training_dynamics(lambda params, step: losses(params, step.train), optax.sgd(learning_rate))
    return pmp.Problem(
        dynamics, pmp.area_under(lambda params, step: jnp.mean(losses(params, step.dev))), prox=pmp.prox.simplex
    )


def score_instances(config: SolveConfig, decoder: Decoder, params: Any, steps: Step, instances: Rows) -> Solved:
    """s_z = k sum_{t in 0, k, 2k, ...} eta <lambda_{t+1}, grad l_z(theta_t)>, [M]: high is good.

    With k = 1 minus the derivative of the area under the desired loss in the weight of an instance z that is added to
    every step with weight zero; a larger `every` k estimates that sum from each k-th term. The weights gamma of the
    sweep are uniform. Divided by eta it is the PDS score.

    Args:
        steps: leaves [T, ...].
        instances: the proxy set, M rows; they need not be those of the steps.

    Source: PDS (arXiv 2410.07064), Pontryagin conditions and the score q_n.
    """

    @jax.jit
    def sweep(params: Any, controls: Array, steps: Step, instances: Rows) -> pmp.Sweep:
        problem = proxy_problem(decoder, config.learning_rate)
        worth = obs.contributions_of(example_losses(decoder), instances, chunk=config.chunk)
        return pmp.costate(
            problem,
            problem.dynamics.init(params),
            controls,
            steps,
            adjoint=pmp.Checkpointed(),
            observe={"worth": obs.total(obs.every(config.every, worth)), "gradient": obs.control_gradient},
        )

    steps, instances = jax.tree.map(jnp.asarray, (steps, instances))
    horizon, batch = steps.train.lengths.shape
    found = sweep(params, pmp.uniform(horizon, batch), steps, instances)
    return Solved(config.every * found.seen["worth"], found)


def batch_scores(
    gradient: Float[Array, "steps batch"], index: Int[np.ndarray | Array, "steps batch"], instances: int
) -> Float[Array, " instances"]:
    """-dJ/dgamma_n = -(N / B) sum_{(t, b): index_tb = n} dJ/du_tb, [N]: the worth by an instance's own batches alone.

    gamma is one weight an instance for the whole run, L_t = (N / B) sum_b gamma_{index_tb} l_{index_tb}: u_tb is
    (N / B) gamma_{index_tb}. The sweep gives dJ/du for nothing. An instance that met no batch gets 0. Over the draw of
    the batches this estimates the same sum over all steps as `score_instances` does, with more variance.

    Args:
        gradient: dJ/du, `seen["gradient"]` of the sweep.
        index: the instance at each place of each batch.
        instances: N.

    >>> batch_scores(jnp.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0, 2], [2, 2]]), 4).tolist()
    [-2.0, 0.0, -18.0, 0.0]
    """
    return jnp.zeros(instances, gradient.dtype).at[index].add(-gradient * (instances / index.shape[1]))


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
        the batch estimates on the scores; 1 when they estimate the same, None where undefined. residual: standard
        deviation around that line relative to the line's own: noise by signal.
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


def check_health(config: SolveConfig, sweep: pmp.Sweep) -> None:
    """Refuses a sweep whose costate is not finite or exploded."""
    health = sweep.health
    growth = health.growth
    if int(health.status) == pmp.Status.OK and growth <= config.largest_growth:
        return
    raise SweepError(
        f"the scores would be noise: {health.describe()}. Lower --solve.learning-rate (now {config.learning_rate:g}); "
        f"a costate may grow {config.largest_growth:g}-fold at most"
    )


def build_solve(
    config: SolveConfig, model: ModelConfig, prepared: Prepared, params: Any, seed: int, folder: Path, bar: Bar
) -> None:
    """Fills `folder` with scores.parquet (one row an instance: row, document, id, tokens, score) and solve.json.

    solve.json: the health of the sweep and Pontryagin's conditions (`sweep_facts`), how the estimate from each
    instance's own batches agrees with the scores (`batch_estimator`: `agreement`), sizes and FLOPs.

    Raises:
        SweepError: when the costate is not finite or grew too much.
        ValueError: when no row of the source is long enough.
    """
    decoder_config = model.decoder(prepared.vocabulary)
    rows = draw_instances(config, prepared, seed)
    instances = Rows(prepared.source_rows[rows], prepared.source_lengths[rows])
    index = batch_schedule(len(rows), config.steps, config.batch, seed=stage_seed(seed, "solve", "order"))
    dev = batch_schedule(
        len(prepared.dev_rows), config.steps, config.dev_batch, seed=stage_seed(seed, "solve", "dev order")
    )
    steps = Step(
        Rows(instances.tokens[index], instances.lengths[index]), Rows(prepared.dev_rows[dev], prepared.dev_lengths[dev])
    )
    solved = score_instances(config, Decoder(decoder_config), params, steps, instances)
    check_health(config, solved.sweep)
    bar.update(config.steps, J=float(solved.sweep.value), growth=solved.sweep.health.growth)

    scores = np.asarray(solved.scores, np.float64)
    by_batch = np.asarray(batch_scores(solved.sweep.seen["gradient"], index, len(rows)), np.float64)
    document = prepared.source_document[rows]
    table = pa.table(
        {
            "row": rows,
            "document": document,
            "id": list(prepared.documents.ids[document]),
            "tokens": prepared.source_lengths[rows],
            "score": scores,
        }
    )
    with atomic(folder / "scores.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    length = prepared.source_rows.shape[1] - 1
    write_json(
        folder / "solve.json",
        {
            **sweep_facts(config, solved.sweep),
            "batch_estimator": agreement(scores, by_batch, index),
            "instances": len(rows),
            "short_rows_left_out": int((prepared.source_lengths < config.minimum_tokens).sum()),
            "flops": solve_flops(config, len(rows), lambda count: forward_flops(decoder_config, count * length)),
        },
    )


def draw_instances(config: SolveConfig, prepared: Prepared, seed: int) -> np.ndarray:
    """Rows of the source for the proxy set: uniform, without replacement, among those long enough; ascending."""
    long = np.flatnonzero(prepared.source_lengths >= config.minimum_tokens)
    if not len(long):
        raise ValueError(
            f"no row of the source has {config.minimum_tokens} tokens, the longest has "
            f"{int(prepared.source_lengths.max())}; lower --solve.minimum-tokens"
        )
    drawn = stage_generator(seed, "solve", "instances").permutation(long)[: config.instances]
    return np.sort(drawn)


def sweep_facts(config: SolveConfig, sweep: pmp.Sweep) -> dict[str, Any]:
    """What Pontryagin's conditions say about the uniform weights: how far they are from optimal, and the health."""
    gradient = sweep.seen["gradient"]
    uniform = pmp.uniform(*gradient.shape)
    spread = spread_of(-gradient, uniform)
    return {
        "area_under_curve": float(sweep.value),
        "status": pmp.Status(int(sweep.health.status)).name,
        "health": sweep.health.describe(),
        "growth": sweep.health.growth,
        "costate_norms": np.asarray(sweep.health.norms),
        "frank_wolfe_gap": float(frank_wolfe_gap(pmp.prox.simplex, uniform, gradient)),
        "kkt_spread": float(jnp.sqrt(jnp.mean(spread.used**2)) / jnp.sqrt(jnp.mean(spread.scale**2))),
        "learning_rate": config.learning_rate,
        "steps": config.steps,
    }


def solve_flops(config: SolveConfig, instances: int, forward: Callable[[int], int | float]) -> int | float:
    """FLOPs of the sweep: a step's rows cost 5 gradients (`Checkpointed`: 1 forward, 1 again, 3 for the jvp of the
    gradient), its dev rows 1; an instance costs 2 forward passes each time. `forward(rows)`: of a forward pass."""
    sweep = config.steps * 3 * (5 * forward(config.batch) + forward(config.dev_batch))
    return sweep + -(-config.steps // config.every) * 2 * forward(instances)
