"""Receding horizon: every K steps the data are scored again around the model as it is, as in predictive control."""

import dataclasses
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from pmpjax.data import Prepared, Rows, batch_schedule
from pmpjax.models import Decoder
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.stages.evaluate import METHOD, RECEDING
from pmpjax.pds.stages.pretrain import final_losses, pretrain_flops, trainer, training_rows
from pmpjax.pds.stages.select import build_select, load_selections
from pmpjax.pds.work import Work
from pmpjax.runs import read_json, write_json
from pmpjax.runs.pipeline import Context, Pipeline, Stage
from pmpjax.runs.progress import within
from pmpjax.runs.seeds import stage_seed
from pmpjax.scoring.stored import StoredScores
from pmpjax.train.branch import CONSTANT, checkpoints_of, decay_branch, keep_state, new_steps, train_with_branch
from pmpjax.train.warm_start import WarmStart, warm_start


def build_receding(
    config: PDSConfig, first: Mapping[int, np.ndarray], stages: Mapping[str, Stage], at: Context[Prepared]
) -> None:
    """Trains as `pretrain` does, but every K = `config.receding_horizon` steps selects again around theta_t.

    `first`: seed -> the documents of the first K steps, PDS's own selection. `stages`: solve, fit and score, in which
    theta_t takes the proxy's place from then on; the optimizer's state goes on through all selections, and the init is
    that of the other runs. Each selection is made for all steps that are left, though K of them follow it: at step t of
    T it has (T - t) / T of the first one's budget, so that as many passes over it as over the first would be made to
    the end.

    Files:
        pds-receding-SEED.npz, pds-receding-SEED-params.npz: as of `pretrain`.
        receding.json: `every` K, `selections` after the first for each seed, `selection_flops` and `selection_seconds`
            of them (the mean over seeds), `step_flops` of a training step, and the FLOPs of all.
    A killed run goes on from the newest checkpoint, or in the stage of a selection, that was under way.
    """
    decoder_config, settings = config.model.decoder(at.data.vocabulary), config.pretrain
    ends = range(config.receding_horizon, settings.steps, config.receding_horizon)
    branch = decay_branch(settings.optimizer, settings.steps, settings.decay_steps)
    decoder = Decoder(decoder_config)
    begin, measure = trainer(settings, decoder, at), final_losses(settings, decoder, at)
    costs = []
    for seed in config.every_seed:
        name, work = f"{RECEDING}-{seed}", at.folder / f"work-{seed}"
        if (at.folder / f"{name}.npz").exists():
            at.bar.update(settings.all_steps)
        else:
            documents, report = [first[seed]], new_steps(at.bar, name)
            states, folders = checkpoints_of(at.folder, name), [work / f"step-{end:08d}" for end in ends]
            for end, folder in zip(ends, folders, strict=True):
                if not (folder / "select").exists():
                    train_to = begin(*_rows_and_schedule(config, at.data, documents, seed), seed)
                    if end > branch.begin:
                        keep_state(branch, train_to, states, report)
                    trained = train_to(end, branch.constant, states / CONSTANT, report)
                    model = warm_start(trained.params, trained.opt_state, settings.optimizer, end, settings.steps)
                    select_again(config, model, seed, end, stages, dataclasses.replace(at, folder=folder))
                documents.append(load_selections(folder / "select")[RECEDING, seed])
            write_json(at.folder / f"{name}-cost.json", _cost(folders, (*stages, "select")))
            train_to = begin(*_rows_and_schedule(config, at.data, documents, seed), seed)
            train_with_branch(branch, train_to, measure, at, name, report)
        shutil.rmtree(work, ignore_errors=True)
        costs.append(read_json(at.folder / f"{name}-cost.json"))
    spent = {f"selection_{what}": float(np.mean([cost[what] for cost in costs])) for what in ("flops", "seconds")}
    training = pretrain_flops(settings, decoder_config, at.data.source.tokens.shape[1])
    write_json(
        at.folder / "receding.json",
        {
            "every": config.receding_horizon,
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
    settings, every, order = config.pretrain, config.receding_horizon, stage_seed(seed, "pretrain", "order")
    rows = [training_rows(prepared, chosen, seed) for chosen in documents]
    before = np.cumsum([0, *(len(part.tokens) for part in rows)])
    schedule = [
        begin
        + batch_schedule(len(part.tokens), min(every, settings.steps - first), settings.batch, seed=order, start=first)
        for begin, first, part in zip(before, range(0, settings.steps, every), rows, strict=False)
    ]
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
    return together, np.concatenate(schedule)


def select_again(
    config: PDSConfig,
    model: WarmStart,
    seed: int,
    step: int,
    stages: Mapping[str, Stage],
    at: Context[Prepared],
) -> None:
    """`stages` and a selection around the model of a seed's run at `step`, as a pipeline in the folder of `at`."""
    left = dataclasses.replace(
        config.select,
        ratio=config.select.ratio * (1 - step / config.pretrain.steps),
        repeat_by_rank=(RECEDING,) if METHOD in config.select.repeat_by_rank else (),
    )

    def select(work: Work) -> None:
        methods = {RECEDING: StoredScores(work.folders["score"] / "scores.parquet")}
        with work.context() as inner:
            build_select(left, inner.data, methods, range(seed, seed + 1), inner.folder, inner.bar)

    again = Stage(("score",), lambda _: {"seed": seed, "select": left}, select)
    view = functools.partial(Work, source=at.data, start=model, progress=within(at.bar))
    # The model that is trained is its own proxy, and each selection has random streams of its own.
    inner = dataclasses.replace(
        config,
        seed=stage_seed(seed, "receding", str(step)),
        proxy=dataclasses.replace(config.proxy, model=None),
    )
    Pipeline("pds", {**stages, "select": again}, view).inside(inner, at.folder).build_all()


def _cost(folders: list[Path], stages: tuple[str, ...]) -> dict[str, float]:
    """FLOPs and seconds of all selections of one seed after the first."""
    places = [folder / name for folder in folders for name in stages]
    return {
        "flops": float(sum(read_json(at / f"{at.name}.json").get("flops", 0) for at in places)),
        "seconds": float(sum(read_json(at / "manifest.json")["seconds"] for at in places)),
    }
