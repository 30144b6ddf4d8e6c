"""`pmpjax pds`: from raw text to the part of it that trains the best model for a desired domain, and a verdict."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pmpjax.baselines import random
from pmpjax.baselines.stage import build_baselines
from pmpjax.data.origins import origin_shares
from pmpjax.evaluation.comparison import at_equal_cost
from pmpjax.models import Decoder
from pmpjax.pds.compare import comparison, selection_costs
from pmpjax.pds.config import PDSConfig, deciding
from pmpjax.pds.stages.evaluate import BASELINE, METHOD, RECEDING, build_evaluate, load_evaluation
from pmpjax.pds.stages.fit import build_fit
from pmpjax.pds.stages.prepare import STEPS, prepare
from pmpjax.pds.stages.pretrain import build_pretrain
from pmpjax.pds.stages.proxy import build_proxy
from pmpjax.pds.stages.receding import build_receding
from pmpjax.pds.stages.report import build_report
from pmpjax.pds.stages.score import build_score
from pmpjax.pds.stages.select import build_select
from pmpjax.pds.stages.solve import build_solve
from pmpjax.pds.sweep.problem import Proxy
from pmpjax.pds.work import Work
from pmpjax.runs import write_json
from pmpjax.runs.configs import fields_of
from pmpjax.runs.pipeline import Pipeline, Running, Stage
from pmpjax.scoring.stored import StoredScores
from pmpjax.train import load_params


def _prepare(work: Work) -> None:
    with work.progress(work.name, STEPS) as bar:
        config = work.config
        prepare(config.prepare, config.source, config.target, config.seed, work.folder, bar)


def _proxy(work: Work) -> None:
    config = work.config
    with work.context(config.proxy.steps) as at:
        build_proxy(config.proxy, config.proxy_model, at)


def _solve(work: Work) -> None:
    config = work.config
    with work.context(config.solve.steps * config.solve.sweeps) as at:
        proxy = Proxy(Decoder(config.proxy_model.decoder(at.data.vocabulary)), work.proxy, at.mesh)
        build_solve(config.solve, proxy, at.data, at.seed, at.folder, at.bar)


def _fit(work: Work) -> None:
    config, scores, trunk = work.config, work.folders["solve"] / "scores.parquet", work.proxy.params
    with work.context() as at:
        build_fit(config.fit, config.proxy_model, at.data, scores, trunk, at.seed, at.folder, at.bar, at.mesh)


def _score(work: Work) -> None:
    config, fit = work.config, work.folders["fit"]
    params, targets = load_params(fit / "params"), fit / "targets.parquet"
    with work.context(len(work.data.source.tokens)) as at:
        build_score(config.score, config.scorer_model, at.data, params, at.folder, at.bar, at.mesh, targets)


def _baselines(work: Work) -> None:
    config = work.config
    with work.context(len(config.baselines)) as at:
        build_baselines(config.baselines, config.proxy_model, at.data, work.proxy, at.seed, at.folder, at.bar)


def _select(work: Work) -> None:
    config = work.config
    methods = {METHOD: StoredScores(work.folders["score"] / "scores.parquet"), BASELINE: random}
    methods |= {name: StoredScores(work.folders["baselines"] / f"{name}.parquet") for name in config.baselines}
    with work.context(config.seeds * len(methods)) as at:
        build_select(config.select, at.data, methods, config.every_seed, at.folder, at.bar)


def _pretrain(work: Work) -> None:
    config, selections = work.config, work.selections
    with work.context(len(selections) * config.pretrain.all_steps) as at:
        build_pretrain(config.pretrain, config.model, selections, at)


def _receding(work: Work) -> None:
    config, selections = work.config, work.selections
    first = {seed: selections[METHOD, seed] for seed in config.every_seed}
    with work.context(config.seeds * config.pretrain.all_steps) as at:
        build_receding(config, first, {name: STAGES[name] for name in ("solve", "fit", "score")}, at)


def _evaluate(work: Work) -> None:
    build_evaluate(work.config.evaluate, work.curves, METHOD, work.folder)


def _report(work: Work) -> None:
    build_report(
        work.config.report,
        metrics_of(work, METHOD),
        work.data.documents,
        work.folders["score"] / "scores.parquet",
        work.selections[METHOD, work.config.seed],
        work.folders["evaluate"] / "curves.png",
        work.folder,
    )


_RECEDING = ("seed", "seeds", "receding_horizon", "model", "solve", "fit", "score", "select", "pretrain")
_READ = ("prepare", "solve", "fit", "score", "baselines", "select", "pretrain", "receding", "evaluate")

# What each stage reads, what decides it, and how it fills its folder.
STAGES: dict[str, Stage] = {
    "prepare": Stage(
        (), lambda c: {"source": c.source, "target": c.target, "seed": c.seed, **fields_of(c.prepare)}, _prepare
    ),
    "proxy": Stage(("prepare",), lambda c: {"seed": c.seed, "model": c.proxy_model, "proxy": c.proxy}, _proxy),
    "solve": Stage(("prepare", "proxy"), lambda c: {"seed": c.seed, "model": c.proxy_model, "solve": c.solve}, _solve),
    "fit": Stage(("prepare", "proxy", "solve"), lambda c: {"seed": c.seed, "model": c.proxy_model, "fit": c.fit}, _fit),
    "score": Stage(("prepare", "fit"), lambda c: {"model": c.scorer_model, "score": c.score}, _score),
    "baselines": Stage(
        ("prepare", "proxy"),
        lambda c: {"seed": c.seed, "model": c.proxy_model, "baselines": c.baselines},
        _baselines,
        lambda c: bool(c.baselines),
    ),
    "select": Stage(
        ("prepare", "score", "baselines"), lambda c: {"seeds": list(c.every_seed), "select": c.select}, _select
    ),
    "pretrain": Stage(("prepare", "select"), lambda c: {"model": c.model, "pretrain": c.pretrain}, _pretrain),
    "receding": Stage(
        ("prepare", "select"),
        lambda c: {name: getattr(c, name) for name in _RECEDING},
        _receding,
        lambda c: bool(c.receding_horizon),
    ),
    "evaluate": Stage(("pretrain", "receding"), lambda c: c.evaluate, _evaluate),
    "report": Stage(_READ, lambda c: c.report, _report),
}

PIPELINE = Pipeline("pds", STAGES, Work, deciding)


def run(config: PDSConfig, out: Path, stages_from: Path | None = None) -> dict[str, Any]:
    """All stages in the run directory `out`; a killed run goes on where it stopped. Returns what metrics.json holds.

    A stage that the run in `stages_from` has made from equal settings and from equal earlier stages is taken from there
    when its turn comes: more seeds, another ratio, other methods or a receding horizon need no second sweep.

    metrics.json: `pmpjax.pds.pipeline.metrics_of`. With other methods than random what `comparison` holds is also left
    in compare.json; the rows that all methods of a seed train on are as many as the shortest selection has.

    Raises:
        SourceError, RunError, SweepError, ValueError: something that the caller can put right; the message says how.
    """
    with _open(config, out, stages_from) as running:
        running.build_all()
        return _finish(running)


def run_stage(config: PDSConfig, out: Path, name: str, stages_from: Path | None = None) -> Path:
    """One stage in the run directory `out`, from the artifacts of those before it; returns its folder.

    A stage that is whole is left as it is. `stages_from` is another run to take stages from, as for `run`: this stage,
    those before it, and those after it whose inputs are all here. The last stage, `report`, also leaves metrics.json.

    Raises:
        RunError: a stage that this one goes back to is missing. ValueError: this run does not have such a stage.
    """
    stages = PIPELINE.stages(config)
    if name not in stages:
        raise ValueError(
            f"the run has no stage {name!r}, its stages are {', '.join(stages)}; --baselines METHOD adds the stage "
            "baselines, --receding-horizon STEPS receding"
        )
    with _open(config, out, stages_from) as running:
        folder = running.build_one(name)
        if name == list(stages)[-1]:
            _finish(running)
    return folder


def _open(config: PDSConfig, out: Path, stages_from: Path | None) -> AbstractContextManager[Running]:
    hint = (
        f"give the old values to go on with it, or choose another --out, with --stages-from {out} for the "
        "stages that stay as they are, or delete this one to begin again"
    )
    return PIPELINE.open(config, out, stages_from=stages_from, hint=hint)


def _finish(running: Running) -> dict[str, Any]:
    folder = running.run.directory
    metrics = metrics_of(running.view(folder), METHOD)
    if "comparison" in metrics:
        write_json(folder / "compare.json", metrics["comparison"])
    write_json(folder / "metrics.json", metrics)
    return metrics


def metrics_of(work: Work, method: str) -> dict[str, Any]:
    """What metrics.json holds, of a run whose stages up to `evaluate` are whole.

    `verdict`, `speedup` and `steps_needed` [per seed, null where never reached], `final_target_loss` {method: [per
    seed]}, `scorer_spearman`, `selected_fraction`, `duplicates_removed`, `leaks_removed`, `rejected_rows`, `seeds`,
    `origins` {name: {source, selection}: shares of the tokens}, `stage_seconds`, `stage_flops`, and under `stages` the
    facts of each. With other methods than random also `comparison` (`pmpjax.pds.compare.comparison`), and with a
    receding horizon `receding` (`pmpjax.evaluation.comparison.at_equal_cost`).
    """
    config, data, stages = work.config, work.data, work.facts
    evaluation = load_evaluation(work.folders["evaluate"])
    metrics: dict[str, Any] = {
        "verdict": evaluation["verdict"],
        "speedup": evaluation["speedup"]["test"],
        "steps_needed": evaluation["steps_needed"]["test"],
        "final_target_loss": evaluation["final_loss"]["test"],
        "scorer_spearman": stages["fit"]["spearman"]["held_out"],
        "selected_fraction": stages["select"]["selected_fraction"],
        "duplicates_removed": data.counts["duplicates_removed"],
        "leaks_removed": data.counts["leaks_removed"],
        "rejected_rows": data.counts["rejected_rows"],
        "stage_flops": {name: facts.get("flops", 0.0) for name, facts in stages.items()},
        "seeds": list(config.every_seed),
        "origins": origin_shares(data.documents, work.selections[method, config.seed]),
        "stage_seconds": dict(work.seconds),
        "stages": stages,
    }
    if "arms" in evaluation:
        metrics["comparison"] = comparison(method, evaluation, selection_costs(method, stages, work.seconds))
    if "receding" in stages:
        spent = stages["receding"]
        extra = spent["selection_flops"] / spent["step_flops"]
        metrics["receding"] = at_equal_cost(work.curves, RECEDING, method, extra, config.evaluate.smoothing)
    return metrics
