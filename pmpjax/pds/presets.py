"""Named runs: minutes and an hour on two cores, one TPU of a notebook, and the paper's four sizes."""

import dataclasses
from typing import Any

from pmpjax.costs.hardware import hardware
from pmpjax.data import Budget
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.stages.evaluate import METHOD
from pmpjax.pds.stages.prepare import PrepareConfig
from pmpjax.pds.stages.pretrain import PretrainConfig
from pmpjax.pds.stages.proxy import ProxyConfig
from pmpjax.pds.stages.select import SelectConfig
from pmpjax.pds.sweep.problem import SolveConfig
from pmpjax.scoring.engine import ScoreConfig
from pmpjax.scoring.regressor import FitConfig
from pmpjax.train import MeshConfig, OptimizerConfig
from pmpjax.train.model import ModelConfig


def _budget(times: int) -> Budget:
    """More of installed-docs: so many times each kind, of which code alone would give fifty times."""
    kinds = ("docstring", "code", "readme", "changelog", "licence", "data")
    return Budget(**{kind: times * getattr(Budget(), kind) for kind in kinds})


# The proxy is a sixth as dear as the model it chooses for: one of the model's own size took most of the hour.
_SMALL = PDSConfig(
    model=ModelConfig("small"),
    prepare=PrepareConfig(vocabulary=4096, length=256, budget=_budget(2)),
    proxy=ProxyConfig(model=ModelConfig("tiny")),
    select=SelectConfig(ratio=0.4, repeat_by_rank=(METHOD,)),
    pretrain=PretrainConfig(steps=800, optimizer=OptimizerConfig(learning_rate=1e-3), evaluate_every=50),
)

# As small is to tiny: a model four times as dear as its proxy, and less than two passes over what is selected.
_NOTEBOOK = PDSConfig(
    model=ModelConfig("small", width=512, layers=8, hidden=1408, scan_layers=True, remat="full", loss_chunk=4096),
    prepare=PrepareConfig(vocabulary=8192, length=256, budget=_budget(5)),
    proxy=ProxyConfig(
        model=ModelConfig("small"), batch=32, optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20)
    ),
    solve=SolveConfig(batch=32, chunk=256),
    fit=FitConfig(batch=64, optimizer=OptimizerConfig(learning_rate=6e-4)),
    score=ScoreConfig(batch=512),
    select=SelectConfig(ratio=0.4, repeat_by_rank=(METHOD,)),
    pretrain=PretrainConfig(steps=800, batch=32, optimizer=OptimizerConfig(learning_rate=6e-4), evaluate_every=50),
)

_LOSS_CHUNK = 65_536  # few, large chunks: after each one the devices add up the gradient of the output's matrix


def _paper(size: str, learning_rate: float, fsdp: int) -> PDSConfig:
    """PDS (arXiv 2410.07064), section 3.1 and its appendix on pre-training; rows of 1,024 tokens.

    Source and target (CommonCrawl and LIMA there) are for the user to give: neither comes with this library.
    """
    # beta_1 of 0.9 and beta_2 of 0.98 are the defaults.
    pretraining = OptimizerConfig(learning_rate=learning_rate, warmup_steps=2000, weight_decay=0.1, schedule="cosine")
    return PDSConfig(
        mesh=MeshConfig(fsdp=fsdp),
        model=ModelConfig(size, compute="bfloat16", loss_chunk=_LOSS_CHUNK),
        prepare=PrepareConfig(vocabulary=32_000, length=1024),
        proxy=ProxyConfig(
            model=ModelConfig("160m", loss_chunk=_LOSS_CHUNK),  # in float32: bfloat16 would make the scores noise
            steps=10_000,
            batch=512,
            # Five sixths of a cosine are still to come where the paper stops: the rate has hardly fallen.
            optimizer=dataclasses.replace(pretraining, learning_rate=6e-4, schedule="constant"),
            save_every=1000,
        ),
        solve=SolveConfig(
            instances=163_840,
            steps=100,
            batch=256,
            inner_optimizer="sgd",
            trajectory="source",
            learning_rate=0.008,
            dev_batch=None,
            every=10,
            chunk=512,
        ),
        fit=FitConfig(
            model=ModelConfig("scorer-125m", compute="bfloat16"),
            epochs=5,
            batch=512,
            clip=None,
            held_out=0.1,
            optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=0, weight_decay=0.01, schedule="cosine"),
            save_every=200,
        ),
        score=ScoreConfig(batch=2048, shard=65_536, known_rows="predicted"),
        select=SelectConfig(ratio=0.4, temperature=0.1),
        pretrain=PretrainConfig(
            steps=100_000,
            batch=512,
            optimizer=pretraining,
            evaluate_every=1000,
            dev_rows=1024,
            test_rows=1024,
            save_every=5000,
        ),
    )


METHODS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "solve": {"inner_optimizer": "adamw", "trajectory": "selection", "dev_batch": SolveConfig.dev_batch},
        "fit": {"clip": FitConfig.clip},
        "score": {"known_rows": "measured"},
        "select": {"repeat_by_rank": (METHOD,)},
    },
    "paper": {
        "solve": {"inner_optimizer": "sgd", "trajectory": "source", "dev_batch": None, "outer_steps": 1},
        "fit": {"clip": None},
        "score": {"known_rows": "predicted"},
        "select": {"repeat_by_rank": ()},
    },
}
"""How scores are made and used, whatever the sizes: what came out best here, and the recipe of arXiv 2410.07064 (one
outer step on text as it comes, through SGD; the regressor's prediction for every document; each once per pass)."""


def with_method(config: PDSConfig, method: str) -> PDSConfig:
    """The config with one of `METHODS`: `--method paper`.

    >>> with_method(PDSConfig(), "default") == PDSConfig(), with_method(PDSConfig(), "paper").solve.inner_optimizer
    (True, 'sgd')
    """
    parts = {name: dataclasses.replace(getattr(config, name), **part) for name, part in METHODS[method].items()}
    return dataclasses.replace(config, **parts)


PRESETS: dict[str, PDSConfig] = {
    "tiny": PDSConfig(),
    "small": _SMALL,
    "colab-tpu": _NOTEBOOK,
    "paper-160m": _paper("160m", 6e-4, 8),
    "paper-470m": _paper("470m", 3e-4, 16),
    "paper-1b": _paper("1b", 2.5e-4, 32),
    "paper-1.7b": _paper("1.7b", 2e-4, 32),
}
"""Runs by name: tiny takes minutes and small an hour on two cores, colab-tpu is for one v5e-1 or v2-8, the others have
the hyperparameters of PDS (arXiv 2410.07064) and need the machines of `PLACEMENTS`."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a run would take place, and what is assumed for its cost.

    Attributes:
        hardware: KIND-COUNT of `pmpjax.costs.hardware`: v2-8, v5e-256, v5p-64, a100-8, h100-1.
        utilisation: share of the peak that useful products reach; 0.4 is what well-tuned runs report.
        corpus_tokens: tokens scored; None is as many as give a selection that is seen once.
        dev_rows: rows of the target's dev split, where the sweep takes all of them; LIMA has 1,030.
        rate: price of an hour of one device, in any currency; None leaves the cost in device-hours.
    """

    hardware: str = "v5e-1"
    utilisation: float = 0.4
    corpus_tokens: float | None = None
    dev_rows: int = 1030
    rate: float | None = None

    def __post_init__(self):
        hardware(self.hardware)
        if not 0 < self.utilisation <= 1 or self.dev_rows < 1 or (self.rate or 0) < 0:
            raise ValueError(
                f"utilisation {self.utilisation} must lie in (0, 1], dev_rows {self.dev_rows} be at least 1 and the "
                f"rate {self.rate} not negative"
            )


PLACEMENTS: dict[str, Placement] = {
    "tiny": Placement("v5e-1"),
    "small": Placement("v5e-1"),
    "colab-tpu": Placement("v5e-1"),
    "paper-160m": Placement("v5e-16"),
    "paper-470m": Placement("v5e-32"),
    "paper-1b": Placement("v5e-64"),
    "paper-1.7b": Placement("v5e-128"),
}
"""A machine on which each preset fits; any other can be named."""
