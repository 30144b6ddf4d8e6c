"""The regressor: what it is fitted to, and on what it is measured."""

import jax
import numpy as np
import pytest

from pmpjax.models import Decoder, ScorerModel, initialise
from pmpjax.scoring.engine import predict
from pmpjax.scoring.regressor import FitConfig, Seeds, fit_regressor, held_out, standard_targets
from pmpjax.train import OptimizerConfig
from pmpjax.train.model import ModelConfig

DECODER = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=12).decoder(24)


def test_held_out_instances_share_no_document_with_the_others():
    document = np.repeat(np.arange(40), 3)
    kept = held_out(document, 0.25, np.random.default_rng(0))
    assert not set(document[kept]) & set(document[~kept])
    assert len(set(document[kept])) == 10
    assert (kept != held_out(document, 0.25, np.random.default_rng(1))).any()
    assert held_out(np.array([4, 4, 7]), 0.01, np.random.default_rng(0)).any()


def test_targets_are_standardised_by_the_training_part_alone():
    scores, training = np.random.default_rng(0).normal(5.0, 2.0, 101), np.arange(101) < 80
    found = standard_targets(scores, training, None)
    assert found.values[training].mean() == pytest.approx(0, abs=1e-6)
    assert found.values[training].std() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(found.mean + found.deviation * found.values, scores, rtol=1e-5)
    assert found.clipped == 0
    scores[[3, 90]] = -1e6
    clipped = standard_targets(scores, training, 3.0)
    assert clipped.clipped == 1 / 80 and clipped.values[3] == clipped.values[90] == clipped.values.min() > -4
    equal = standard_targets(np.ones(5), np.arange(5) < 3, 3.0)
    assert equal.deviation == 0 and not equal.values.any()


def test_any_target_of_a_row_is_fitted_and_a_trunk_is_taken_over(tmp_path):
    generator = np.random.default_rng(0)
    tokens, lengths = generator.integers(0, 24, (64, 6)).astype(np.int32), np.full(64, 6, np.int32)
    target = (2.0 * (tokens[:, 0] < 12) - 1).astype(np.float32)  # of the row's first token
    rows = {"tokens": tokens, "lengths": lengths, "target": target}
    trunk = initialise(Decoder(DECODER), jax.random.key(1), tokens[:1])
    other = initialise(ScorerModel(DECODER), jax.random.key(2), tokens[:1], lengths[:1])
    config = FitConfig(epochs=30, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5))
    seeds = Seeds(jax.random.key(2), 0)
    found = fit_regressor(config, DECODER, rows, seeds, trunk, checkpoints=tmp_path, progress=lambda report: None)
    assert np.corrcoef(predict(DECODER, found.params, tokens, lengths), target)[0, 1] > 0.9
    moved = [
        np.linalg.norm(found.params["trunk"]["embedding"] - start["trunk"]["embedding"]) for start in (trunk, other)
    ]
    assert moved[0] < 0.7 * moved[1], "the trunk is the given one, not the one that the key draws"


def test_a_clip_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="clip is 0"):
        FitConfig(clip=0.0)
