"""The named runs: the paper's numbers, and what choosing the data costs beside training on it."""

import dataclasses

import numpy as np
import pytest
import tyro

from pmpjax.models import DecoderConfig
from pmpjax.pds.compare import PDS_STAGES
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.overhead import OVERHEAD_HEADER, corpus_tokens, overhead, overhead_row, stage_flops
from pmpjax.pds.presets import PLACEMENTS, PRESETS, Placement
from pmpjax.train import rate_schedule

PAPER = {"paper-160m": 6e-4, "paper-470m": 3e-4, "paper-1b": 2.5e-4, "paper-1.7b": 2e-4}


def test_tiny_is_the_run_without_arguments_and_every_preset_has_a_place():
    assert PRESETS["tiny"] == PDSConfig()
    assert PRESETS.keys() == PLACEMENTS.keys() == {"tiny", "small", "colab-tpu", *PAPER}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_made_by_its_options_and_trains(name):
    config = PRESETS[name]
    assert tyro.cli(PDSConfig, default=config, args=[]) == config
    longer = tyro.cli(PDSConfig, default=config, args=["--solve.steps", "7"])
    assert longer == dataclasses.replace(config, solve=dataclasses.replace(config.solve, steps=7))
    # Models, schedules and lengths that do not go together would raise here.
    scorer = config.scorer_model.decoder(config.prepare.vocabulary)
    assert isinstance(config.model.decoder(config.prepare.vocabulary), DecoderConfig)
    assert scorer.positions != "learned" or config.prepare.length <= scorer.max_length
    for settings, steps in (
        (config.proxy.optimizer, config.proxy.steps),
        (config.fit.optimizer, config.fit.steps(config.solve.instances)),
        (config.pretrain.optimizer, config.pretrain.steps),
    ):
        assert np.isfinite(rate_schedule(settings, steps)(steps - 1))
    assert config.pretrain.steps % config.pretrain.evaluate_every == 0


@pytest.mark.parametrize(("name", "rate"), PAPER.items())
def test_the_papers_presets_have_the_papers_numbers(name, rate):
    config = PRESETS[name]
    model, proxy = config.model.decoder(32_000), config.proxy_model.decoder(32_000)
    width = {"paper-160m": 768, "paper-470m": 1024, "paper-1b": 1536, "paper-1.7b": 2048}[name]
    assert model.width == width and model.hidden == 4 * width
    assert (proxy.width, proxy.layers, proxy.compute) == (768, 12, "parameters")
    assert config.proxy.steps == 10_000
    solve = config.solve
    assert (solve.instances, solve.steps, solve.batch, solve.learning_rate) == (163_840, 100, 256, 0.008)
    assert (solve.every, solve.dev_batch, solve.outer_steps) == (10, None, 1)
    assert (solve.inner_optimizer, solve.trajectory) == ("sgd", "source")
    assert (config.fit.clip, config.score.worth) == (None, "predicted")
    assert (config.fit.epochs, config.fit.optimizer.learning_rate, config.fit.optimizer.weight_decay) == (5, 1e-4, 0.01)
    assert round(config.fit.held_out * solve.instances) == 16_384
    assert (config.select.ratio, config.select.temperature, config.select.falling) == (0.4, 0.1, ())
    pretrain, optimizer = config.pretrain, config.pretrain.optimizer
    # 50 B tokens of 125 B
    tokens = pretrain.steps * pretrain.batch * config.prepare.length
    assert tokens == 100_000 * 512 * 1024 and corpus_tokens(config) == pytest.approx(125e9, rel=0.05)
    assert (optimizer.first_moment, optimizer.second_moment, optimizer.weight_decay) == (0.9, 0.98, 0.1)
    schedule = rate_schedule(optimizer, pretrain.steps)
    np.testing.assert_allclose(schedule(np.array([1000, 2000, 100_000])), [rate / 2, rate, rate / 10], rtol=1e-6)


def test_choosing_the_data_costs_what_the_paper_says_it_does():
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
    row = dict(zip(OVERHEAD_HEADER, overhead_row("paper-1b", PRESETS["paper-1b"]), strict=True))
    assert (row["preset"], row["seen"], row["score"]) == ("paper-1b", "52.4 B tokens", f"{one['score'].share:.1%}")


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


def test_impossible_places_are_refused():
    with pytest.raises(ValueError, match="no hardware 'tpu'"):
        Placement("tpu")
    with pytest.raises(ValueError, match=r"utilisation 1\.5 must lie in"):
        Placement(utilisation=1.5)
