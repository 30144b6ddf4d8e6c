"""How far two estimates of a score agree, and what is said of a costate that explodes."""

import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax.pds.sweep.diagnostics import SweepError, agreement, check_health, spread_over_time
from pmpjax.pds.sweep.problem import SolveConfig
from pmpjax.train import OptimizerConfig


def test_the_estimates_agree_over_the_draw_of_the_batches():
    # Scores that hardly change along the run, seen through batches: equal but for the noise.
    generator = np.random.default_rng(0)
    score = generator.normal(size=40)
    steps, batch = 30, 4
    index = generator.integers(0, 40, (steps, batch))
    index[index == 7] = 8
    each = score[index] * (1 + 0.1 * generator.normal(size=index.shape))
    estimate = np.zeros(40)
    np.add.at(estimate, index, each * 40 / batch)
    facts = agreement(steps * score, estimate, index)
    assert facts["met"] == len(np.unique(index)) < 40
    assert facts["slope"] == pytest.approx(1, abs=0.05)
    assert facts["spearman"] > 0.97 and 0.01 < facts["residual"] < 0.2
    opposite = agreement(-steps * score, estimate, index)
    assert opposite["slope"] == pytest.approx(-facts["slope"]) and opposite["spearman"] == -facts["spearman"]
    assert agreement(np.ones(40), estimate, index)["slope"] is None


def test_equal_terms_have_no_spread_and_unrelated_ones_all():
    score = np.random.default_rng(0).normal(size=(2, 2000))
    same = spread_over_time(np.stack([score[0], 3 * score[0] + 1]))
    assert same["spearman"] == pytest.approx(1) and same["deviation"] == pytest.approx(0, abs=1e-12)
    other = spread_over_time(score)
    assert abs(other["spearman"]) < 0.1 and other["deviation"] == pytest.approx(1, abs=0.05)
    assert spread_over_time(score[:1])["spearman"] is None


def health(norms, status=pmp.Status.OK):
    norms = jnp.asarray(norms)
    return pmp.Health(jnp.int32(status), jnp.int32(-1), norms, jnp.ones(len(norms)), norms, None)


def test_a_costate_that_grew_too_much_is_refused_and_the_hint_is_a_lower_rate():
    config, optimizer = SolveConfig(largest_growth=10.0), OptimizerConfig(learning_rate=0.5)
    check_health(config, optimizer, health([9.0, 3.0, 1.0]))
    with pytest.raises(SweepError, match=r"Lower --solve.learning-rate \(now 0.125\)"):
        check_health(config, optimizer, health([11.0, 3.0, 1.0]))
    with pytest.raises(SweepError) as refused:
        check_health(config, optimizer, health([2.0, 1.0], pmp.Status.LOSS_NOT_FINITE))
    assert "training loss" in str(refused.value) and "learning-rate" not in str(refused.value)
