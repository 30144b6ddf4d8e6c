"""The stage `solve`: the worth of every instance of the proxy set, from one costate sweep or a few."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jax.sharding import Mesh

import pmpjax as pmp
from pmpjax.control.conditions import conditions_at, consistency_check
from pmpjax.data import Prepared, batch_schedule
from pmpjax.models import Decoder, Rows
from pmpjax.pds.common import stage_generator, stage_key, stage_seed
from pmpjax.pds.plant import Warm, initial_state, learning_rate
from pmpjax.pds.sweep import (
    SolveConfig,
    Solved,
    Step,
    agreement,
    check_health,
    improve,
    proxy_problem,
    score_instances,
    spread_over_time,
)
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.train.mesh import check_mesh
from pmpjax.train.model import ModelConfig, forward_flops


def build_solve(
    config: SolveConfig,
    model: ModelConfig,
    prepared: Prepared,
    proxy: Warm,
    seed: int,
    folder: Path,
    bar: Bar,
    mesh: Mesh | None = None,
) -> None:
    """Fills `folder` with scores.parquet and solve.json.

    scores.parquet: row, document, id, tokens, score, weight; one line an instance. solve.json: J of each sweep
    (`area_under_curve`), Pontryagin's conditions at the first and the last weights (`conditions`), how the exact
    derivative of the run's own batches agrees with the scores (`batch_estimator`: `agreement`), how they change along
    the run (`over_time`: `spread_over_time`), the costate's health, |d_t| at each step (`direction_norms`; d as in
    `score_instances`), sizes, FLOPs.

    Raises:
        SweepError: when the costate is not finite or grew too much.
        ValueError: when no row of the source is long enough.
    """
    decoder_config = model.decoder(prepared.vocabulary)
    decoder = Decoder(decoder_config)
    if mesh is not None:
        check_mesh(mesh, decoder_config, config.batch)
    rows = draw_instances(config, prepared, seed)
    instances = Rows(prepared.source_rows[rows], prepared.source_lengths[rows])
    steps, dev = draw_steps(config, prepared, instances, seed)

    def solve_at(weights: jax.Array | None) -> Solved:
        return score_instances(config, decoder, proxy, steps, instances, weights=weights, dev=dev, mesh=mesh)

    def report(solved: Solved) -> None:
        check_health(config, proxy.optimizer, solved.sweep)
        bar.update(config.steps, J=float(solved.sweep.value), growth=solved.sweep.health.growth)

    (first, last), values = improve(config, solve_at, report)
    everything = None if dev is None else jax.tree.map(jnp.asarray, dev)
    problem = proxy_problem(config, decoder, proxy.optimizer, everything, mesh)
    consistency = consistency_check(
        problem,
        initial_state(config.rule, proxy),
        last.weights,
        jax.tree.map(jnp.asarray, steps),
        -last.batch_scores,
        key=stage_key(seed, "solve", "consistency"),
    )

    scores, index = np.asarray(last.scores, np.float64), np.asarray(steps.index)
    document = prepared.source_document[rows]
    table = pa.table(
        {
            "row": rows,
            "document": document,
            "id": list(prepared.documents.ids[document]),
            "tokens": prepared.source_lengths[rows],
            "score": scores,
            "weight": np.asarray(last.weights, np.float64),
        }
    )
    with atomic(folder / "scores.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    length = prepared.source_rows.shape[1] - 1
    health = last.sweep.health
    write_json(
        folder / "solve.json",
        {
            "area_under_curve": values,
            "conditions": {
                "first": _conditions(first),
                "last": [consistency, *_conditions(last)],
            },
            "batch_estimator": agreement(scores, np.asarray(last.batch_scores), index),
            "over_time": spread_over_time(np.asarray(last.terms)),
            "status": pmp.Status(int(health.status)).name,
            "health": health.describe(),
            "growth": health.growth,
            "direction_norms": np.asarray(health.direction_norms),
            "effective_instances": float(1 / jnp.sum(jnp.square(last.weights))),
            "rule": config.rule,
            "learning_rate": learning_rate(config.rule, config.learning_rate, proxy.optimizer),
            "steps": config.steps,
            "instances": len(rows),
            "short_rows_left_out": int((prepared.source_lengths < config.minimum_tokens).sum()),
            "flops": solve_flops(
                config, len(rows), len(prepared.dev_rows), lambda count: forward_flops(decoder_config, count * length)
            ),
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


def draw_steps(config: SolveConfig, prepared: Prepared, instances: Rows, seed: int) -> tuple[Step, Rows | None]:
    """The batches of the sweep, and the whole dev split where they bring no dev rows."""
    index = batch_schedule(len(instances.tokens), config.steps, config.batch, seed=stage_seed(seed, "solve", "order"))
    train = Rows(instances.tokens[index], instances.lengths[index])
    everything = Rows(prepared.dev_rows, prepared.dev_lengths)
    if config.dev_batch is None:
        return Step(train, index, None), everything
    dev = batch_schedule(
        len(prepared.dev_rows), config.steps, config.dev_batch, seed=stage_seed(seed, "solve", "dev order")
    )
    return Step(train, index, Rows(everything.tokens[dev], everything.lengths[dev])), None


def _conditions(solved: Solved) -> list[Any]:
    """Pontryagin's conditions for weights constant in time, by the gradient that all instances estimate."""
    return list(conditions_at(pmp.prox.simplex, solved.weights, -solved.scores, solved.sweep.value))


def solve_flops(
    config: SolveConfig, instances: int, dev_rows: int, forward: Callable[[int], int | float]
) -> int | float:
    """FLOPs of the sweeps: a step's rows cost 5 gradients (`Checkpointed`: 1 forward, 1 again, 3 for the jvp of the
    gradient), its dev rows 1; an instance costs 2 forward passes each time. `forward(rows)`: of a forward pass. And two
    runs of the proxy (2 gradients, 2 dev losses) for the check by finite differences."""
    dev = dev_rows if config.dev_batch is None else config.dev_batch
    sweep = config.steps * 3 * (5 * forward(config.batch) + forward(dev))
    sweep += -(-config.steps // config.every) * 2 * forward(instances)
    return config.outer_steps * sweep + 2 * config.steps * (3 * forward(config.batch) + forward(dev))
