"""The registry of baselines: names, titles, FLOPs and hints."""

import re

import pytest

from pmpjax.baselines.registry import BASELINES, REGISTRY, Setting, check_baselines, title
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.stages.select import SelectConfig
from pmpjax.train import OptimizerConfig
from pmpjax.train.model import ModelConfig
from pmpjax.train.warm_start import WarmStart
from tests.corpora import prepared_corpus

TINY = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=16)


def test_every_name_has_an_entry_with_a_title_and_a_paper():
    assert tuple(REGISTRY) == BASELINES
    for name, baseline in REGISTRY.items():
        assert title(name) == baseline.title and baseline.paper
        assert re.fullmatch(r"\d{4}\.\d{5}", baseline.arxiv), name
    assert title("pds") == "pds"


def test_the_flops_are_those_of_passes_over_the_source(tmp_path):
    prepared = prepared_corpus(tmp_path)
    setting = Setting(TINY, prepared, WarmStart({}, None, OptimizerConfig()))  # nothing is trained or scored
    flops = {name: baseline.flops(setting) for name, baseline in REGISTRY.items()}
    rows, dev = len(prepared.source.tokens), len(prepared.dev.tokens)
    assert flops["dsir"] == 0 and not REGISTRY["dsir"].uses_proxy
    forward = flops["gradient-similarity"] / 3 / (rows + dev)
    assert forward == pytest.approx(setting.forward(1))
    assert flops["rho-loss"] == pytest.approx(forward * (3 * 1600 + 2 * rows))
    assert flops["influence"] == pytest.approx(forward * (3 * dev + 9 * 20 * min(256, rows) + 3 * rows))
    assert all(callable(baseline.scorer(setting)) for baseline in REGISTRY.values())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dsir", "dsri"), "did you mean dsir?"),
        (("gradients",), "did you mean gradient-similarity?"),
        (("xyz",), "dsir, rho-loss"),
        (("dsir", "influence", "dsir"), "twice"),
    ],
)
def test_names_that_are_no_baselines_are_refused_with_a_hint(names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_baselines(names)


def test_a_config_checks_its_baselines():
    with pytest.raises(ValueError, match="one twice"):
        PDSConfig(baselines=("dsir", "influence", "dsir"))
    with pytest.raises(ValueError, match=r"repeat_by_rank names random"):
        PDSConfig(select=SelectConfig(repeat_by_rank=("pds", "random")))
