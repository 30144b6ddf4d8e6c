"""Everything that decides a PDS run."""

import dataclasses
from typing import Any

from pmpjax.baselines.registry import BASELINES, BaselineName, check_baselines
from pmpjax.pds.stages.evaluate import METHOD, EvaluateConfig
from pmpjax.pds.stages.prepare import PrepareConfig
from pmpjax.pds.stages.pretrain import PretrainConfig
from pmpjax.pds.stages.proxy import ProxyConfig
from pmpjax.pds.stages.report import ReportConfig
from pmpjax.pds.stages.select import SelectConfig
from pmpjax.pds.sweep.problem import SolveConfig
from pmpjax.runs.configs import fields_of
from pmpjax.scoring.engine import ScoreConfig
from pmpjax.scoring.regressor import FitConfig
from pmpjax.train.mesh import MeshConfig
from pmpjax.train.model import ModelConfig


@dataclasses.dataclass(frozen=True)
class PDSConfig:
    """A run with all its stages; the defaults are the run without arguments, minutes on two cores.

    Attributes:
        source: what is selected from: installed-docs, files, folders, tfds:NAME[@SPLIT], hf:NAME[@SPLIT], tinystories,
            story-grammar.
        target: the desired domain, one of these; split into dev (steers the selection) and test (measures it).
            installed-docs:PACKAGE[,PACKAGE...] is taken out of the source.
        seed: of preparation, proxy, sweep and scorer, and the first of the seeds below.
        seeds: models trained on each selection; each seed has its own init, order of data, Gumbel noise, random subset.
        baselines: methods compared with PDS and random, at equal budgets.
        receding_horizon: steps after which one more model solves, scores and selects again from where it is; 0 trains
            none.
        mesh: how devices share the work; decides no result but its rounding.
        prepare: text to tokens.
        model: the decoder that is pretrained, and the proxy and the scorer where theirs are not given.
        proxy: the warm proxy model.
        solve: the costate sweep.
        fit: the scorer.
        score: the scorer on the corpus.
        select: Gumbel top-r. The paper keeps 0.4 of its source; here 0.3 came out as well on the dev split (4.220 nats
            per token against 4.259, two seeds), and sooner.
        pretrain: the runs compared.
        evaluate: the speed-up.
        report: the page.
    """

    source: tuple[str, ...] = ("installed-docs",)
    target: str = "installed-docs:scipy"
    seed: int = 0
    seeds: int = 1
    baselines: tuple[BaselineName, ...] = ()
    receding_horizon: int = 0
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    prepare: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    proxy: ProxyConfig = dataclasses.field(default_factory=ProxyConfig)
    solve: SolveConfig = dataclasses.field(default_factory=SolveConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    score: ScoreConfig = dataclasses.field(default_factory=ScoreConfig)
    select: SelectConfig = dataclasses.field(default_factory=lambda: SelectConfig(ratio=0.3, repeat_by_rank=(METHOD,)))
    pretrain: PretrainConfig = dataclasses.field(default_factory=PretrainConfig)
    evaluate: EvaluateConfig = dataclasses.field(default_factory=EvaluateConfig)
    report: ReportConfig = dataclasses.field(default_factory=ReportConfig)

    def __post_init__(self):
        if self.seeds < 1 or self.seed < 0:
            raise ValueError(f"seeds is {self.seeds}, seed {self.seed}: at least one seed, none of them negative")
        check_baselines(self.baselines)
        unknown = [name for name in self.select.repeat_by_rank if name not in (METHOD, *BASELINES)]
        if unknown:
            raise ValueError(
                f"select.repeat_by_rank names {', '.join(unknown)}; expected any of {METHOD}, {', '.join(BASELINES)}"
            )
        horizon, every = self.receding_horizon, self.pretrain.evaluate_every
        if horizon < 0 or (horizon and horizon % every):
            raise ValueError(
                f"receding_horizon is {horizon}, expected a positive multiple of pretrain.evaluate_every ({every}), so "
                "that all loss curves have the same steps; or 0"
            )

    @property
    def proxy_model(self) -> ModelConfig:
        """The decoder that the costate goes through."""
        return self.proxy.model or self.model

    @property
    def scorer_model(self) -> ModelConfig:
        """The decoder below the scorer's head."""
        return self.fit.model or self.proxy_model

    @property
    def every_seed(self) -> range:
        """The seeds of the models that are trained."""
        return range(self.seed, self.seed + self.seeds)


def deciding(config: PDSConfig) -> dict[str, Any]:
    """The fields that decide a run's result: all but how devices share the work."""
    return {name: value for name, value in fields_of(config).items() if name != "mesh"}
