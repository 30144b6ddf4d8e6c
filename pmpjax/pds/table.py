"""The stages of a run as a table: what each one reads, what decides it, and how it fills its folder."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pmpjax.baselines import random
from pmpjax.baselines.registry import build_rivals
from pmpjax.models import Decoder
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.stages.evaluate import BASELINE, METHOD, build_evaluate
from pmpjax.pds.stages.prepare import STEPS, prepare
from pmpjax.pds.stages.pretrain import build_pretrain
from pmpjax.pds.stages.proxy import build_proxy
from pmpjax.pds.stages.receding import build_receding
from pmpjax.pds.stages.report import build_report
from pmpjax.pds.stages.select import build_select
from pmpjax.pds.stages.solve import build_solve
from pmpjax.pds.summary import metrics_of
from pmpjax.pds.sweep.problem import Proxy
from pmpjax.pds.work import Work
from pmpjax.runs.progress import progress
from pmpjax.scoring.engine import StoredScores, build_score
from pmpjax.scoring.regressor import build_fit
from pmpjax.train import load_params


class Stage(NamedTuple):
    """inputs: earlier stages, whose fingerprints are stored. decided: the part of the config that
    decides the stage. build: fills the folder. wanted: whether a run has this stage."""

    inputs: tuple[str, ...]
    decided: Callable[[PDSConfig], Any]
    build: Callable[[Work], None]
    wanted: Callable[[PDSConfig], bool] = lambda config: True


def _prepare(work: Work) -> None:
    with progress("prepare", STEPS) as bar:
        prepare(work.config.preparation, work.folder, bar)


def _proxy(work: Work) -> None:
    config = work.config
    with progress("proxy", config.proxy.steps) as bar:
        build_proxy(config.proxy, config.proxy_model, work.data, config.seed, work.folder, bar, work.mesh)


def _solve(work: Work) -> None:
    config = work.config
    with progress("solve", config.solve.steps * config.solve.sweeps) as bar:
        proxy = Proxy(Decoder(config.proxy_model.decoder(work.data.vocabulary)), work.proxy, work.mesh)
        build_solve(config.solve, proxy, work.data, config.seed, work.folder, bar)


def _fit(work: Work) -> None:
    config, data, scores = work.config, work.data, work.folders["solve"] / "scores.parquet"
    proxy = work.proxy.params
    with progress("fit") as bar:
        build_fit(config.fit, config.proxy_model, data, scores, proxy, config.seed, work.folder, bar, work.mesh)


def _score(work: Work) -> None:
    config, fit = work.config, work.folders["fit"]
    params, targets = load_params(fit / "params"), fit / "targets.parquet"
    with progress("score", len(work.data.source_rows)) as bar:
        build_score(config.score, config.scorer_model, work.data, params, work.folder, bar, work.mesh, targets)


def _rivals(work: Work) -> None:
    config = work.config
    with progress("rivals", len(config.rivals)) as bar:
        build_rivals(config.rivals, config.proxy_model, work.data, work.proxy, config.seed, work.folder, bar)


def _select(work: Work) -> None:
    config = work.config
    methods = {METHOD: StoredScores(work.folders["score"] / "scores.parquet"), BASELINE: random}
    methods |= {name: StoredScores(work.folders["rivals"] / f"{name}.parquet") for name in config.rivals}
    with progress("select", config.seeds * len(methods)) as bar:
        build_select(config.select, work.data, methods, config.every_seed, work.folder, bar)


def _pretrain(work: Work) -> None:
    config, selections = work.config, work.selections
    with progress("pretrain", len(selections) * config.pretrain.all_steps) as bar:
        build_pretrain(config.pretrain, config.model, work.data, selections, work.folder, bar, work.mesh)


def _receding(work: Work) -> None:
    config, selections = work.config, work.selections
    first = {seed: selections[METHOD, seed] for seed in config.every_seed}
    with progress("receding", config.seeds * config.pretrain.all_steps) as bar:
        build_receding(config, work.data, first, work.folder, bar, work.mesh)


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


_RECEDING = ("seed", "seeds", "mpc", "model", "solve", "fit", "score", "select", "pretrain")

STAGES: dict[str, Stage] = {
    "prepare": Stage((), lambda c: c.preparation, _prepare),
    "proxy": Stage(
        ("prepare",),
        lambda c: {"seed": c.seed, "model": c.proxy_model, "proxy": c.proxy},
        _proxy,
    ),
    "solve": Stage(
        ("prepare", "proxy"),
        lambda c: {"seed": c.seed, "model": c.proxy_model, "solve": c.solve},
        _solve,
    ),
    "fit": Stage(
        ("prepare", "proxy", "solve"),
        lambda c: {"seed": c.seed, "model": c.proxy_model, "fit": c.fit},
        _fit,
    ),
    "score": Stage(
        ("prepare", "fit"),
        lambda c: {"model": c.scorer_model, "score": c.score},
        _score,
    ),
    "rivals": Stage(
        ("prepare", "proxy"),
        lambda c: {"seed": c.seed, "model": c.proxy_model, "rivals": c.rivals},
        _rivals,
        lambda c: bool(c.rivals),
    ),
    "select": Stage(
        ("prepare", "score", "rivals"),
        lambda c: {"seeds": list(c.every_seed), "select": c.select},
        _select,
    ),
    "pretrain": Stage(
        ("prepare", "select"),
        lambda c: {"model": c.model, "pretrain": c.pretrain},
        _pretrain,
    ),
    "receding": Stage(
        ("prepare", "select"),
        lambda c: {name: getattr(c, name) for name in _RECEDING},
        _receding,
        lambda c: bool(c.mpc),
    ),
    "evaluate": Stage(("pretrain", "receding"), lambda c: c.evaluate, _evaluate),
    "report": Stage(
        ("prepare", "solve", "fit", "score", "rivals", "select", "pretrain", "receding", "evaluate"),
        lambda c: c.report,
        _report,
    ),
}


def stages_of(config: PDSConfig) -> dict[str, Stage]:
    """The stages of a run, in their order."""
    return {name: stage for name, stage in STAGES.items() if stage.wanted(config)}
