"""Acceleration ratio and spread, against their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax.law.metrics import acceleration_ratio, spread


def test_acceleration_ratio_of_a_time_scaled_curve_is_the_scale():
    steps = np.arange(1001)
    baseline = 1 / (1 + steps / 10)
    assert acceleration_ratio(1 / (1 + 4 * steps / 10), baseline) == pytest.approx(4.0)
    assert acceleration_ratio(baseline, baseline) == 1.0
    assert acceleration_ratio(baseline + 1, baseline) is None
    assert acceleration_ratio(np.zeros(1001), baseline) == 1000.0, "reached at once counts as one step"


def test_equal_contributions_have_no_spread():
    contributions = jnp.array([2.0, 2.0, -5.0])
    assert spread(pmp.spread_of(contributions[None], jnp.array([[0.3, 0.7, 0.0]]))) == 0.0
