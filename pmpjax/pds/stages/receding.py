"""Receding horizon: the worth of the data is asked again every K steps, as model-predictive control does."""

import dataclasses
import functools
import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from pmpjax.data import Prepared, batch_schedule
from pmpjax.models import Decoder, Rows
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.stages.evaluate import METHOD, RECEDING
from pmpjax.pds.stages.pretrain import final_losses, pretrain_flops, trainer, training_rows
from pmpjax.pds.stages.select import build_select, load_selections
from pmpjax.pds.stages.solve import build_solve
from pmpjax.pds.sweep.problem import Proxy
from pmpjax.runs import read_arrays, write_json
from pmpjax.runs.progress import Bar
from pmpjax.runs.seeds import stage_seed
from pmpjax.scoring.engine import StoredScores, build_score
from pmpjax.scoring.regressor import build_fit
from pmpjax.statistics import paired_difference, smooth
from pmpjax.train import Trained, load_params
from pmpjax.train.branch import (
    CONSTANT,
    checkpoints_of,
    keep_state,
    new_steps,
    optimizers_of,
    train_with_branch,
)
from pmpjax.train.warm_start import warm_start

_STAGES = ("solve", "fit", "score")


class _Within:
    """The bar of a stage inside another one: shows the fields, and moves nothing on."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def update(self, advance: float | int = 1, **fields: float | int | str) -> None:
        self._bar.update(0, **fields)


def build_receding(
    config: PDSConfig,
    prepared: Prepared,
    first: dict[int, np.ndarray],
    folder: Path,
    bar: Bar,
    mesh: Mesh | None = None,
) -> None:
    """Trains as `pretrain` does, but every K = `config.mpc` steps solves, fits, scores and selects anew from theta_t.

    `first`: seed -> the documents of the first K steps, PDS's own selection. From then on theta_t takes the proxy's
    place; the optimizer's state goes on through all selections, and the init is that of the other runs. Each selection
    is made for all steps that are left, though K of them follow it: at step t of T it has (T - t) / T of the first
    one's budget, so that as many passes over it as over the first would be made to the end.

    Files:
        pds-receding-SEED.npz: as of `pretrain`; pds-receding-SEED-params.npz.
        receding.json: `every` K, `selections` anew for each seed, `selection_flops` and `selection_seconds` of them
            (the mean over seeds), `step_flops` of a training step, and the FLOPs of all.
    A killed run goes on from the newest checkpoint, or in the part of a selection, that was under way.
    """
    decoder_config = config.model.decoder(prepared.vocabulary)
    settings, ends = config.pretrain, list(range(config.mpc, config.pretrain.steps, config.mpc))
    optimizers = optimizers_of(settings.optimizer, settings.steps, settings.decay_steps)
    decoder = Decoder(decoder_config)
    train_on, measure = trainer(settings, decoder, prepared, mesh), final_losses(settings, decoder, prepared, mesh)
    costs = []
    for seed in config.every_seed:
        name, work = f"{RECEDING}-{seed}", folder / f"work-{seed}"
        if (folder / f"{name}.npz").exists():
            bar.update(settings.all_steps)
        else:
            documents, report = [first[seed]], new_steps(bar, name)
            states, leaves = checkpoints_of(folder, name), settings.steps - settings.decay_steps
            for end in ends:
                again = work / f"step-{end:08d}"
                if not (again / "select").exists():
                    train_to = functools.partial(train_on, *_rows_and_schedule(config, prepared, documents, seed), seed)
                    if end > leaves:
                        keep_state(train_to, optimizers, leaves, states, report)
                    trained = train_to(end, optimizers.constant, states / CONSTANT, report)
                    _select_again(config, prepared, trained, seed, end, again, bar, mesh)
                documents.append(next(iter(load_selections(again / "select").values())))
            write_json(folder / f"{name}-cost.json", _cost(work, ends))
            train_to = functools.partial(train_on, *_rows_and_schedule(config, prepared, documents, seed), seed)
            train_with_branch(
                train_to, measure, optimizers, settings.steps, settings.decay_steps, folder, name, bar, report
            )
        shutil.rmtree(work, ignore_errors=True)
        costs.append(json.loads((folder / f"{name}-cost.json").read_text(encoding="utf-8")))
    spent = {f"selection_{what}": float(np.mean([cost[what] for cost in costs])) for what in ("flops", "seconds")}
    training = pretrain_flops(settings, decoder_config, prepared.source_rows.shape[1])
    write_json(
        folder / "receding.json",
        {
            "every": config.mpc,
            "selections": len(ends),
            **spent,
            "step_flops": training / settings.steps,
            "flops": config.seeds * (training * settings.all_steps / settings.steps + spent["selection_flops"]),
        },
    )


def _rows_and_schedule(
    config: PDSConfig, prepared: Prepared, documents: list[np.ndarray], seed: int
) -> tuple[Rows, np.ndarray]:
    """The rows of all selections one after another, and batches of them: K steps from those of each selection."""
    settings, order = config.pretrain, stage_seed(seed, "pretrain", "order")
    rows = [training_rows(prepared, chosen, seed) for chosen in documents]
    before = np.cumsum([0, *(len(part.tokens) for part in rows)])
    schedule = [
        begin
        + batch_schedule(
            len(part.tokens), min(config.mpc, settings.steps - first), settings.batch, seed=order, start=first
        )
        for begin, first, part in zip(before, range(0, settings.steps, config.mpc), rows, strict=False)
    ]
    together = Rows(*(np.concatenate(column) for column in zip(*(part[:2] for part in rows), strict=True)))
    return together, np.concatenate(schedule)


def _select_again(
    config: PDSConfig,
    prepared: Prepared,
    trained: Trained,
    seed: int,
    step: int,
    folder: Path,
    bar: Bar,
    mesh: Mesh | None,
) -> None:
    """solve, fit, score and select around the model, each where it is not there yet; `select` comes last."""
    settings, params = config.pretrain, trained.params
    quiet, drawn, model = _Within(bar), stage_seed(seed, "receding", str(step)), config.model
    start = warm_start(params, trained.opt_state, settings.optimizer, step, settings.steps)
    proxy = Proxy(Decoder(model.decoder(prepared.vocabulary)), start, mesh)

    def fit(at: Path) -> None:
        build_fit(config.fit, model, prepared, folder / "solve" / "scores.parquet", params, drawn, at, quiet, mesh)

    def score(at: Path) -> None:
        scorer, fitted = config.fit.model or model, folder / "fit"
        params, targets = load_params(fitted / "params"), fitted / "targets.parquet"
        build_score(config.score, scorer, prepared, params, at, quiet, mesh, targets)

    def select(at: Path) -> None:
        methods = {RECEDING: StoredScores(folder / "score" / "scores.parquet")}
        falling = (RECEDING,) if METHOD in config.select.falling else ()
        ratio = config.select.ratio * (1 - step / settings.steps)
        left = dataclasses.replace(config.select, ratio=ratio, falling=falling)
        build_select(left, prepared, methods, range(seed, seed + 1), at, quiet)

    stages = {
        "solve": lambda at: build_solve(config.solve, proxy, prepared, drawn, at, quiet),
        "fit": fit,
        "score": score,
        "select": select,
    }
    for name, build in stages.items():
        if (folder / name).exists():
            continue
        partial = folder / f"{name}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        build(partial)
        write_json(partial / "seconds.json", time.perf_counter() - begin)
        partial.rename(folder / name)


def _cost(work: Path, ends: list[int]) -> dict[str, float]:
    """FLOPs and seconds of all selections anew of one seed."""

    def read(path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    folders = [work / f"step-{end:08d}" for end in ends]
    return {
        "flops": float(sum(read(at / name / f"{name}.json")["flops"] for at in folders for name in _STAGES)),
        "seconds": float(sum(read(at / name / "seconds.json") for at in folders for name in (*_STAGES, "select"))),
    }


def load_receding(folder: Path, seeds: Iterable[int]) -> dict[tuple[str, int], dict[str, Any]]:
    """(`RECEDING`, seed) -> steps, dev, test, train, as `build_receding` wrote them."""
    return {(RECEDING, seed): read_arrays(folder / f"{RECEDING}-{seed}") for seed in seeds}


def at_equal_cost(
    config: PDSConfig,
    curves: Mapping[tuple[str, int], Mapping[str, Any]],
    method: str,
    selection_flops: float,
    step_flops: float,
) -> dict[str, Any]:
    """Does it pay? The test loss after as many steps fewer as the selections anew cost, minus that of `method`.

    Returns:
        extra_steps: training steps that the FLOPs of the selections would buy. steps: those left of the budget, null
        where the selections alone cost more. receding: [per seed] its test loss there, interpolated. ordinary: [per
        seed] that of `method` at the end. difference: `paired_difference` of the two, null where no steps are left.
    """
    steps, smoothing = config.pretrain.steps, config.evaluate.smoothing
    extra = selection_flops / step_flops
    left = steps - extra
    result: dict[str, Any] = {"extra_steps": extra, "steps": left if left > 0 else None, "difference": None}
    ordinary = [float(smooth(curves[method, seed]["test"], smoothing)[-1]) for seed in config.every_seed]
    result["ordinary"] = ordinary
    if left > 0:
        found = [curves[RECEDING, seed] for seed in config.every_seed]
        receding = [float(np.interp(left, one["steps"], smooth(one["test"], smoothing))) for one in found]
        result |= {"receding": receding, "difference": paired_difference(receding, ordinary)}
    return result
