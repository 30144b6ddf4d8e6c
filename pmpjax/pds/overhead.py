"""What choosing the data costs, compared with training on it: FLOPs of each stage, on paper."""

from typing import NamedTuple

from pmpjax.pds.compare import PDS_STAGES
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.presets import Placement
from pmpjax.pds.stages.pretrain import pretrain_flops
from pmpjax.pds.stages.proxy import proxy_flops
from pmpjax.pds.stages.solve import solve_flops
from pmpjax.scoring.regressor import fit_flops
from pmpjax.train.model import forward_flops


class Share(NamedTuple):
    """flops: of the stage. share: of those of pretraining one model."""

    flops: float
    share: float


def corpus_tokens(config: PDSConfig, placement: Placement = Placement()) -> float:
    """Tokens scored: those given, or pretraining's over the ratio, so that each selected token is seen once."""
    seen = config.pretrain.steps * config.pretrain.batch * config.prepare.length
    return float(seen / config.select.ratio if placement.corpus_tokens is None else placement.corpus_tokens)


def stage_flops(config: PDSConfig, placement: Placement = Placement()) -> dict[str, float]:
    """FLOPs of each stage that trains or applies a model, by the functions with which the stages count theirs.

    All rows are full and all instances there are; attention's own products and rematerialisation are left out.
    """
    vocabulary, length = config.prepare.vocabulary, config.prepare.length
    proxy, scorer, model = (one.decoder(vocabulary) for one in (config.proxy_model, config.scorer_model, config.model))
    instances = config.solve.instances
    trained = instances - round(config.fit.held_out * instances)
    return {
        "proxy": proxy_flops(config.proxy, proxy, length),
        "solve": float(
            solve_flops(
                config.solve,
                instances,
                placement.dev_rows,
                lambda rows: forward_flops(proxy, rows * (length - 1)),
            )
        ),
        "fit": fit_flops(config.fit, scorer, trained, instances, length),
        "score": forward_flops(scorer, corpus_tokens(config, placement), output=False),
        "pretrain": pretrain_flops(config.pretrain, model, length),
    }


def overhead(config: PDSConfig, placement: Placement = Placement()) -> dict[str, Share]:
    """FLOPs of proxy, solve, fit, score and pretrain, each also as a share of pretrain's; `selection` adds the first
    four.

    >>> from pmpjax.pds.presets import PRESETS
    >>> overhead(PRESETS["paper-1.7b"])["selection"].share < 0.15
    True
    """
    flops = stage_flops(config, placement)
    flops["selection"] = sum(flops[name] for name in PDS_STAGES)
    return {name: Share(count, count / flops["pretrain"]) for name, count in flops.items()}
