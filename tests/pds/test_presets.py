"""The named runs: the paper's numbers, and what choosing the data costs, compared with training on it."""

import dataclasses

import numpy as np
import pytest
import tyro

from pmpjax.models import DecoderConfig
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.overhead import corpus_tokens
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
    assert (config.fit.clip, config.score.known_rows) == (None, "predicted")
    assert (config.fit.epochs, config.fit.optimizer.learning_rate, config.fit.optimizer.weight_decay) == (5, 1e-4, 0.01)
    assert round(config.fit.held_out * solve.instances) == 16_384
    assert (config.select.ratio, config.select.temperature, config.select.repeat_by_rank) == (0.4, 0.1, ())
    pretrain, optimizer = config.pretrain, config.pretrain.optimizer
    # 50 B tokens of 125 B
    tokens = pretrain.steps * pretrain.batch * config.prepare.length
    assert tokens == 100_000 * 512 * 1024 and corpus_tokens(config) == pytest.approx(125e9, rel=0.05)
    assert (optimizer.first_moment, optimizer.second_moment, optimizer.weight_decay) == (0.9, 0.98, 0.1)
    schedule = rate_schedule(optimizer, pretrain.steps)
    np.testing.assert_allclose(schedule(np.array([1000, 2000, 100_000])), [rate / 2, rate, rate / 10], rtol=1e-6)


def test_impossible_places_are_refused():
    with pytest.raises(ValueError, match="no hardware 'tpu'"):
        Placement("tpu")
    with pytest.raises(ValueError, match=r"utilisation 1\.5 must lie in"):
        Placement(utilisation=1.5)
