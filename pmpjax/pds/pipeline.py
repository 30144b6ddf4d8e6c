"""`pmpjax pds run`: from raw text to the part of it that trains the best model for a desired domain, and a verdict."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from pmpjax.baselines import random
from pmpjax.data import Budget, load_prepared
from pmpjax.pds.compare import comparison, selection_costs
from pmpjax.pds.evaluate import BASELINE, EvaluateConfig, build_evaluate, load_evaluation
from pmpjax.pds.fit import FitConfig, build_fit
from pmpjax.pds.prepare import STEPS, PrepareConfig, prepare
from pmpjax.pds.pretrain import PretrainConfig, build_pretrain, load_curves
from pmpjax.pds.proxy import ProxyConfig, build_proxy, load_proxy
from pmpjax.pds.report import ReportConfig, build_report, origins
from pmpjax.pds.rivals import Rival, build_rivals, check_rivals
from pmpjax.pds.score import ScoreConfig, build_score, stored_scorer
from pmpjax.pds.select import SelectConfig, build_select, load_selections
from pmpjax.pds.solve import SolveConfig, build_solve
from pmpjax.runs import open_run, write_json
from pmpjax.runs.progress import progress
from pmpjax.train import load_params
from pmpjax.train.model import ModelConfig

METHOD = "pds"


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The fields of `PrepareConfig` beside source, target and seed.

    Attributes:
        vocabulary: ids of the tokenizer, which is trained on the source.
        length: tokens of a row.
        budget: how much of installed-docs is taken, in bytes by kind.
        dev_bytes: at most this much text of the target for the costate.
        test_bytes: at most this much text of the target for the verdict.
        near: Jaccard similarity of 5-word shingles from which a text counts as a copy.
    """

    vocabulary: int = PrepareConfig.vocabulary
    length: int = PrepareConfig.length
    budget: Budget = dataclasses.field(default_factory=Budget)
    dev_bytes: int = PrepareConfig.dev_bytes
    test_bytes: int = PrepareConfig.test_bytes
    near: float = PrepareConfig.near


@dataclasses.dataclass(frozen=True)
class PDSConfig:
    """Everything that decides a run; the defaults are the run without arguments, minutes on two cores.

    Attributes:
        source: what is selected from: installed-docs, files, folders, tfds:NAME.
        target: the desired domain; split into dev (steers the selection) and test (measures it).
        seed: of preparation, proxy, sweep and scorer, and the first of the seeds below.
        seeds: models trained on each selection; each seed has its own init, order of data, Gumbel noise, random subset.
        rivals: methods compared with PDS and random, at equal budgets.
        prepare: text to tokens.
        model: the decoder of every stage.
        proxy: the warm proxy model.
        solve: the costate sweep.
        fit: the scorer.
        score: the scorer on the corpus.
        select: Gumbel top-r.
        pretrain: the runs compared.
        evaluate: the speed-up.
        report: the page.
    """

    source: tuple[str, ...] = PrepareConfig.source
    target: str = PrepareConfig.target
    seed: int = 0
    seeds: int = 1
    rivals: tuple[Rival, ...] = ()
    prepare: TextConfig = dataclasses.field(default_factory=TextConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    proxy: ProxyConfig = dataclasses.field(default_factory=ProxyConfig)
    solve: SolveConfig = dataclasses.field(default_factory=SolveConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    score: ScoreConfig = dataclasses.field(default_factory=ScoreConfig)
    select: SelectConfig = dataclasses.field(default_factory=SelectConfig)
    pretrain: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)

    def __post_init__(self):
        if self.seeds < 1 or self.seed < 0:
            raise ValueError(f"seeds is {self.seeds}, seed {self.seed}: at least one seed, none of them negative")
        check_rivals(self.rivals)

    def preparation(self) -> PrepareConfig:
        """The config of the stage `prepare`."""
        return PrepareConfig(source=self.source, target=self.target, seed=self.seed, **_shallow(self.prepare))


def run(config: PDSConfig, out: Path) -> dict[str, Any]:
    """All stages in the run directory `out`; a killed run goes on where it stopped. Returns what metrics.json holds.

    metrics.json: `verdict`, `speedup` [per seed, null where never reached], `final_target_loss` {method: [per seed]},
    `scorer_spearman`, `selected_fraction`, `duplicates_removed`, `leaks_removed`, `rejected_rows`, `stage_seconds`,
    `stage_flops`, and under `stages` the facts of each. With rivals there is one more stage, `final_target_loss` has
    all methods, and `comparison` (`pmpjax.pds.compare.comparison`) is also left in compare.json; the rows that all
    methods of a seed train on are as many as the shortest selection has.

    Raises:
        SourceError, RunError, SweepError, ValueError: something that the caller can mend; the message says how.
    """
    seed, model = config.seed, config.model
    seeds = range(seed, seed + config.seeds)
    # A run without rivals stays one with the runs that began before there were any.
    decided = {name: value for name, value in _shallow(config).items() if name != "rivals" or value}
    with open_run(out, "pds run", decided) as at:

        def fill_prepare(folder: Path) -> None:
            with progress("prepare", STEPS) as bar:
                prepare(config.preparation(), folder, bar)

        prepared_at = at.stage("prepare", fill_prepare, config=config.preparation())
        data = load_prepared(prepared_at)

        def fill_proxy(folder: Path) -> None:
            with progress("proxy", config.proxy.steps) as bar:
                build_proxy(config.proxy, model, data, seed, folder, bar)

        proxy_at = at.stage(
            "proxy",
            fill_proxy,
            config={"seed": seed, "model": model, "proxy": config.proxy},
            inputs={"prepare": prepared_at},
        )

        def fill_solve(folder: Path) -> None:
            with progress("solve", config.solve.steps) as bar:
                build_solve(config.solve, model, data, load_proxy(proxy_at), seed, folder, bar)

        solve_at = at.stage(
            "solve",
            fill_solve,
            config={"seed": seed, "model": model, "solve": config.solve},
            inputs={"prepare": prepared_at, "proxy": proxy_at},
        )

        def fill_fit(folder: Path) -> None:
            with progress("fit") as bar:
                build_fit(config.fit, model, data, solve_at / "scores.parquet", load_proxy(proxy_at), seed, folder, bar)

        fit_at = at.stage(
            "fit",
            fill_fit,
            config={"seed": seed, "model": model, "fit": config.fit},
            inputs={"prepare": prepared_at, "proxy": proxy_at, "solve": solve_at},
        )

        def fill_score(folder: Path) -> None:
            with progress("score", len(data.source_rows)) as bar:
                build_score(config.score, model, data, load_params(fit_at / "params"), folder, bar)

        score_at = at.stage(
            "score",
            fill_score,
            config={"model": model, "score": config.score},
            inputs={"prepare": prepared_at, "fit": fit_at},
        )

        def fill_rivals(folder: Path) -> None:
            with progress("rivals", len(config.rivals)) as bar:
                build_rivals(config.rivals, model, data, load_proxy(proxy_at), seed, folder, bar)

        rivals_at: dict[str, Path] = {}
        if config.rivals:
            rivals_at["rivals"] = at.stage(
                "rivals",
                fill_rivals,
                config={"seed": seed, "model": model, "rivals": config.rivals},
                inputs={"prepare": prepared_at, "proxy": proxy_at},
            )

        def fill_select(folder: Path) -> None:
            methods = {METHOD: stored_scorer(score_at / "scores.parquet"), BASELINE: random}
            methods |= {name: stored_scorer(rivals_at["rivals"] / f"{name}.parquet") for name in config.rivals}
            with progress("select", len(seeds) * len(methods)) as bar:
                build_select(config.select, data, methods, seeds, folder, bar)

        select_at = at.stage(
            "select",
            fill_select,
            config={"seeds": list(seeds), "select": config.select},
            inputs={"prepare": prepared_at, "score": score_at, **rivals_at},
        )
        selections = load_selections(select_at)

        def fill_pretrain(folder: Path) -> None:
            with progress("pretrain", len(selections) * config.pretrain.steps) as bar:
                build_pretrain(config.pretrain, model, data, selections, folder, bar)

        pretrain_at = at.stage(
            "pretrain",
            fill_pretrain,
            config={"model": model, "pretrain": config.pretrain},
            inputs={"prepare": prepared_at, "select": select_at},
        )
        curves = load_curves(pretrain_at, selections)

        evaluate_at = at.stage(
            "evaluate",
            lambda folder: build_evaluate(config.evaluate, curves, METHOD, folder),
            config=config.evaluate,
            inputs={"pretrain": pretrain_at},
        )
        evaluation = load_evaluation(evaluate_at)
        stages = {"prepare": data.counts}
        stages |= {
            name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for name, folder in {
                "proxy": proxy_at,
                "solve": solve_at,
                "fit": fit_at,
                "score": score_at,
                **rivals_at,
                "select": select_at,
                "pretrain": pretrain_at,
            }.items()
        }
        metrics = {
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
            "seeds": list(seeds),
        }
        compared = None
        if config.rivals:
            compared = comparison(METHOD, evaluation, selection_costs(METHOD, stages, at.seconds))
            write_json(at.directory / "compare.json", compared)
            metrics["comparison"] = compared

        def fill_report(folder: Path) -> None:
            figure, scores = evaluate_at / "curves.png", score_at / "scores.parquet"
            chosen = selections[METHOD, seed]
            facts = _facts(metrics, stages, at.seconds)
            build_report(config.report, data, scores, chosen, evaluation, figure, facts, folder, compared)

        at.stage(
            "report",
            fill_report,
            config=config.report,
            inputs={"prepare": prepared_at, "score": score_at, "select": select_at, "evaluate": evaluate_at},
        )
        metrics |= {
            "origins": {name: {"source": a, "selection": b} for name, a, b in origins(data, selections[METHOD, seed])},
            "stage_seconds": dict(at.seconds),
            "stages": stages,
        }
        write_json(at.directory / "metrics.json", metrics)
    return metrics


def _shallow(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _facts(metrics: dict[str, Any], stages: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """The report's table of numbers."""
    names = ("scorer_spearman", "selected_fraction", "duplicates_removed", "leaks_removed", "rejected_rows")
    facts = {name.replace("_", " "): metrics[name] for name in names}
    facts["costate sweep"] = stages["solve"]["health"]
    facts["proxy: loss, first and last steps"] = (
        f"{stages['proxy']['first_loss']:.2f} -> {stages['proxy']['final_loss']:.2f}"
    )
    for name, own in stages.get("rivals", {"methods": {}})["methods"].items():
        if own["warnings"]:
            facts[f"{name}: warning"] = "; ".join(own["warnings"])
    for name, spent in seconds.items():
        flops = metrics["stage_flops"].get(name, 0.0)
        facts[f"{name}: seconds, FLOPs"] = f"{spent:.1f} s, {flops:.2e}" if flops else f"{spent:.1f} s"
    return facts
