"""What choosing the data costs, by the numbers of the paper and by what FLOPs are counted of."""

import dataclasses

import pytest

from pmpjax.pds.compare import PDS_STAGES
from pmpjax.pds.overhead import overhead, stage_flops
from pmpjax.pds.presets import PRESETS, Placement

PAPER = ("paper-160m", "paper-470m", "paper-1b", "paper-1.7b")


def test_choosing_the_data_costs_what_the_paper_reports():
    share = {name: overhead(PRESETS[name]) for name in PAPER}
    assert share["paper-1.7b"]["selection"].share < 0.15
    # Scoring alone: more than half of a 160M run, about 6% of a 1.7B one (by the paper's count, with attention).
    assert share["paper-160m"]["score"].share > 0.5
    assert 0.03 < share["paper-1.7b"]["score"].share < 0.07
    shares = [share[name]["selection"].share for name in PAPER]
    assert shares == sorted(shares, reverse=True)
    one = share["paper-1b"]
    assert one["selection"].flops == pytest.approx(sum(one[stage].flops for stage in PDS_STAGES))
    assert one["pretrain"].share == 1


def test_flops_follow_what_they_are_counted_of():
    config = PRESETS["paper-1b"]
    flops = stage_flops(config)
    model = config.model.decoder(32_000)
    block = 4 * model.width**2 + 3 * model.width * model.hidden
    parameters = model.layers * block + 32_000 * model.width
    assert flops["pretrain"] == pytest.approx(6 * parameters * 100_000 * 512 * 1023)
    assert stage_flops(config, Placement(corpus_tokens=1e9))["score"] < flops["score"] / 100
    twice = dataclasses.replace(config, solve=dataclasses.replace(config.solve, steps=200))
    assert stage_flops(twice)["solve"] == pytest.approx(2 * flops["solve"])
    assert stage_flops(config, Placement(dev_rows=2060))["solve"] > flops["solve"]
