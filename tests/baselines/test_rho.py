"""RHO-Loss against the two losses it subtracts."""

import importlib

import jax
import numpy as np
import pytest

from pmpjax.baselines.rho import rho_loss
from pmpjax.train import DivergedError, OptimizerConfig

GENTLE = OptimizerConfig(learning_rate=5e-3, warmup_steps=2)


def test_without_a_step_in_effect_nothing_is_reducible_and_with_some_the_targets_language_is(setting):
    still = rho_loss(
        setting.decoder, setting.params, steps=1, optimizer=OptimizerConfig(learning_rate=1e-12, warmup_steps=0)
    )
    np.testing.assert_allclose(still(setting.prepared, jax.random.key(0)), 0, atol=1e-6)
    tuned = rho_loss(setting.decoder, setting.params, steps=15, batch=8, optimizer=GENTLE)
    prepared = setting.prepared._replace(test=None)
    scores = tuned(prepared, jax.random.key(0))
    assert setting.preferred(scores) > 0.9
    np.testing.assert_array_equal(scores, tuned(prepared, jax.random.key(0)))
    assert (np.asarray(scores) != np.asarray(tuned(prepared, jax.random.key(1)))).any()


def test_a_score_is_the_documents_loss_before_less_the_one_after(setting, monkeypatch):
    after = jax.tree.map(lambda leaf: 0.9 * leaf, setting.params)

    class Done:
        params = after

    module = importlib.import_module("pmpjax.baselines.rho")
    monkeypatch.setattr(module, "train", lambda *arguments: Done)
    scores = rho_loss(setting.decoder, setting.params, chunk=7)(setting.prepared, jax.random.key(0))
    for document in (0, 1, 17, 39):
        before, left = (setting.loss(params, setting.document_rows(document)) for params in (setting.params, after))
        np.testing.assert_allclose(scores[document], before - left, rtol=1e-4, atol=1e-5)


def test_bad_input_is_named(setting):
    with pytest.raises(ValueError, match="rho_loss: steps is 0"):
        rho_loss(setting.decoder, setting.params, steps=0)
    dev = setting.prepared.dev
    empty = setting.prepared._replace(dev=dev._replace(lengths=np.ones_like(dev.lengths)))
    with pytest.raises(ValueError, match=r"the target's dev split has .* none of two tokens"):
        rho_loss(setting.decoder, setting.params)(empty, jax.random.key(0))
    broken = jax.tree.map(lambda leaf: leaf * np.nan, setting.params)
    with pytest.raises(DivergedError, match="the loss is nan at step 0"):
        rho_loss(setting.decoder, broken, steps=1)(setting.prepared, jax.random.key(0))
