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
from pmpjax.control.conditions import conditions_at
from pmpjax.control.verify import consistency_check
from pmpjax.data import Prepared
from pmpjax.models import Decoder
from pmpjax.pds.sweep.batches import draw_instances, plan
from pmpjax.pds.sweep.inner import initial_state, learning_rate
from pmpjax.pds.sweep.problem import (
    SolveConfig,
    Solved,
    check_health,
    improve,
    proxy_problem,
    score_instances,
)
from pmpjax.pds.sweep.scores import agreement, instance_scores, spread_over_time
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_key
from pmpjax.statistics import rank_correlation
from pmpjax.train.mesh import check_mesh
from pmpjax.train.model import ModelConfig, forward_flops
from pmpjax.train.warm_start import WarmStart


def build_solve(
    config: SolveConfig,
    model: ModelConfig,
    prepared: Prepared,
    proxy: WarmStart,
    seed: int,
    folder: Path,
    bar: Bar,
    mesh: Mesh | None = None,
) -> None:
    """Fills `folder` with scores.parquet and solve.json.

    scores.parquet: row, document, id, tokens, score, worth (-dJ/dgamma along the last run: the score, or a part of it
    where worths are added), weight (beside that by which batches are drawn); one line an instance.
    solve.json: what the small sweep found whose weights the batches follow (`preview`, null where they are drawn
    evenly; its `spearman` is that of the two runs' worths, where they are added), J of each sweep
    (`area_under_curve`), Pontryagin's conditions at the first and the last weights (`conditions`), how the exact
    derivative of the run's own batches agrees with the worths (`batch_estimator`: `agreement`), how these change
    along the run (`over_time`: `spread_over_time`), the costate's health, |d_t| at each step (`costate_norms`; d as
    in `score_instances`), sizes, FLOPs.

    Raises:
        SweepError: when the costate is not finite or grew too much.
        ValueError: when no row of the source is long enough.
    """
    decoder_config = model.decoder(prepared.vocabulary)
    decoder = Decoder(decoder_config)
    if mesh is not None:
        check_mesh(mesh, decoder_config, config.batch)
    rows = draw_instances(config, prepared, seed)
    instances = prepared.source.take(rows)
    steps, dev, preview, beside = plan(config, decoder, prepared, proxy, instances, seed, mesh)

    def solve_at(weights: jax.Array | None) -> Solved:
        return score_instances(
            config, decoder, proxy, steps, instances, weights=weights, dev=dev, beside=beside, mesh=mesh
        )

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

    worth = np.asarray(last.scores, np.float64)
    if preview is not None and last.beside is not None:
        preview["spearman"] = rank_correlation(np.asarray(last.beside), worth)
    document = prepared.source_document[rows]
    table = pa.table(
        {
            "row": rows,
            "document": document,
            "id": list(prepared.documents.ids[document]),
            "tokens": prepared.source.lengths[rows],
            "score": instance_scores(last),
            "worth": worth,
            "weight": np.asarray(last.weights, np.float64),
        }
    )
    with atomic(folder / "scores.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    length = prepared.source.tokens.shape[1] - 1
    health = last.sweep.health
    write_json(
        folder / "solve.json",
        {
            "preview": preview,
            "area_under_curve": values,
            "conditions": {
                "first": _conditions(first),
                "last": [consistency, *_conditions(last)],
            },
            "batch_estimator": agreement(worth, np.asarray(last.batch_scores), np.asarray(steps.index)),
            "over_time": spread_over_time(np.asarray(last.terms)),
            "status": pmp.Status(int(health.status)).name,
            "health": health.describe(),
            "growth": health.growth,
            "costate_norms": np.asarray(health.parameter_norms),
            "effective_instances": float(1 / jnp.sum(jnp.square(last.weights))),
            "rule": config.rule,
            "learning_rate": learning_rate(config.rule, config.learning_rate, proxy.optimizer),
            "steps": config.steps,
            "instances": len(rows),
            "short_rows_left_out": int((prepared.source.lengths < config.minimum_tokens).sum()),
            "flops": solve_flops(
                config, len(rows), len(prepared.dev.tokens), lambda count: forward_flops(decoder_config, count * length)
            ),
        },
    )


def _conditions(solved: Solved) -> list[Any]:
    """Pontryagin's conditions for weights constant in time, by the gradient that all instances estimate."""
    return list(conditions_at(pmp.prox.simplex, solved.weights, -solved.scores, solved.sweep.value))


def solve_flops(
    config: SolveConfig, instances: int, dev_rows: int, forward: Callable[[int], int | float]
) -> int | float:
    """FLOPs of the stage: `outer_steps` sweeps, along the selection the small one before them, and two runs of the
    proxy (2 gradients, 2 dev losses) for the check by finite differences. `forward(rows)`: of a forward pass."""
    dev = dev_rows if config.dev_batch is None else config.dev_batch
    sweeps = config.outer_steps * sweep_flops(config, instances, config.evaluations, dev, forward, 1 + config.adds)
    sweeps += first_sweep_flops(config, instances, dev, forward)
    return sweeps + 2 * config.steps * (3 * forward(config.batch) + forward(dev))


def first_sweep_flops(
    config: SolveConfig, instances: int, dev_rows: int, forward: Callable[[int], int | float]
) -> int | float:
    """FLOPs of the small sweep by whose weights the batches of the others are drawn; 0 where there is none."""
    if config.along == "source":
        return 0
    return sweep_flops(config, min(config.pool_size, instances), 1, dev_rows, forward)


def sweep_flops(
    config: SolveConfig,
    instances: int,
    evaluations: int,
    dev_rows: int,
    forward: Callable[[int], int | float],
    directions: int = 1,
) -> int | float:
    """FLOPs of a sweep: a step's rows cost 5 gradients (`Checkpointed`: 1 forward, 1 again, 3 for the jvp of the
    gradient), its dev rows 1; an instance costs a forward pass, and two more a direction, each time it is evaluated."""
    along = config.steps * 3 * (5 * forward(config.batch) + forward(dev_rows))
    return along + evaluations * (1 + 2 * directions) * forward(instances)
