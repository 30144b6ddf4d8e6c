"""The stage `solve`: the score of every instance of the proxy set, by Algorithm 1 (`pmpjax.pds.sweep.outer`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import pmpjax as pmp
from pmpjax.data import Prepared
from pmpjax.pds.sweep.diagnostics import agreement, conditions, consistency, spread_over_time
from pmpjax.pds.sweep.outer import Outcome, algorithm_1, setting
from pmpjax.pds.sweep.problem import Proxy, SolveConfig, learning_rate
from pmpjax.pds.sweep.scores import Solved, instance_scores
from pmpjax.runs import atomic, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_key
from pmpjax.statistics import rank_correlation
from pmpjax.train.mesh import check_mesh
from pmpjax.train.model import forward_flops


def build_solve(config: SolveConfig, proxy: Proxy, prepared: Prepared, seed: int, folder: Path, bar: Bar) -> None:
    """Fills `folder` with scores.parquet and solve.json.

    scores.parquet: row, document, id, tokens, score, last_score (-dJ/dgamma along the last trajectory: the score, or a
    part of it where scores are added), weight (in the loss of that trajectory's best run); one line an instance.
    solve.json: what the first of two trajectories found whose weights the batches follow (`preview`, null where there
    is one; its `spearman` is that of both runs' scores, where they are added), J of each sweep of the last one
    (`area_under_curve`), Pontryagin's conditions at its first and best weights (`conditions`), how the exact derivative
    of the run's own batches agrees with the scores (`batch_estimator`: `agreement`), how these change along the run
    (`over_time`: `spread_over_time`), the costate's health, |d_t| at each step (`costate_norms`; d as in
    `score_instances`), sizes, FLOPs.

    Raises:
        SweepError: when the costate is not finite or grew too much.
        ValueError: when no row of the source is long enough, or the mesh does not divide a batch.
    """
    if proxy.mesh is not None:
        check_mesh(proxy.mesh, proxy.decoder.config, config.batch)

    def report(solved: Solved) -> None:
        bar.update(config.steps, J=float(solved.value), growth=solved.health.growth)

    everything = setting(config, proxy, prepared, seed)
    *before, last = algorithm_1(everything, config.trajectories, report)
    _write_scores(folder / "scores.parquet", prepared, everything.rows, last.best)
    checked = consistency(config, proxy, last.run.batches, last.best, stage_key(seed, "solve", "consistency"))
    best, health = last.best, last.best.health
    length = prepared.source.tokens.shape[1] - 1
    write_json(
        folder / "solve.json",
        {
            "preview": _preview(before[-1], best) if before else None,
            "area_under_curve": last.values,
            "conditions": {"first": conditions(last.first), "last": [checked, *conditions(best)]},
            "batch_estimator": agreement(
                np.asarray(best.scores, np.float64),
                np.asarray(best.batch_scores),
                np.asarray(last.run.batches.steps.index),
            ),
            "over_time": spread_over_time(np.asarray(best.terms)),
            "status": pmp.Status(int(health.status)).name,
            "health": health.describe(),
            "growth": health.growth,
            "costate_norms": np.asarray(health.parameter_norms),
            "effective_instances": _effective(best.weights),
            "inner_optimizer": config.inner_optimizer,
            "learning_rate": learning_rate(config.inner_optimizer, config.learning_rate, proxy.start.optimizer),
            "steps": config.steps,
            "instances": len(everything.rows),
            "short_rows_left_out": int((prepared.source.lengths < config.minimum_tokens).sum()),
            "flops": solve_flops(
                config,
                len(everything.rows),
                len(prepared.dev.tokens),
                lambda count: forward_flops(proxy.decoder.config, count * length),
            ),
        },
    )


def _write_scores(path: Path, prepared: Prepared, rows: np.ndarray, solved: Solved) -> None:
    document = prepared.source_document[rows]
    table = pa.table(
        {
            "row": rows,
            "document": document,
            "id": list(prepared.documents.ids[document]),
            "tokens": prepared.source.lengths[rows],
            "score": instance_scores(solved),
            "last_score": np.asarray(solved.scores, np.float64),
            "weight": np.asarray(solved.weights, np.float64),
        }
    )
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def _preview(found: Outcome, last: Solved) -> dict[str, Any]:
    """What the sweep before the last trajectory found, by whose weights its batches are drawn."""
    preview = {
        "instances": len(found.run.members),
        "area_under_curve": found.values[-1],
        "in_use": float(np.mean(np.asarray(found.weights) > 0)),
        "effective_instances": _effective(found.weights),
    }
    if last.extra_scores is not None:
        preview["spearman"] = rank_correlation(np.asarray(last.extra_scores[-1]), np.asarray(last.scores, np.float64))
    return preview


def _effective(weights: Any) -> float:
    """1 / sum_n gamma_n^2: as many equal weights vary as little."""
    return float(1 / np.sum(np.square(np.asarray(weights, np.float64))))


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
    first, *others = config.trajectories
    if not others:
        return 0
    return sweep_flops(config, min(first.instances or instances, instances), 1, dev_rows, forward)


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
    run = config.steps * 3 * (5 * forward(config.batch) + forward(dev_rows))
    return run + evaluations * (1 + 2 * directions) * forward(instances)
