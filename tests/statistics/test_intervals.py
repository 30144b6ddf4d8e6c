"""Intervals against Student's formula, and how often they cover the truth."""

import numpy as np
import pytest
from scipy import stats

from pmpjax.statistics import bootstrap, estimate, paired_difference


def test_intervals_cover_the_mean_95_times_in_100():
    draws = np.random.default_rng(1).normal(loc=2.0, size=(2000, 4))
    covered = [abs(found.mean - 2.0) <= found.half_width for found in map(estimate, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    assert estimate([4.0]) == (4.0, None)
    assert estimate([4.0]).interval is None


def test_the_paired_interval_is_students_by_hand():
    found = paired_difference([1.0, 1.2, 0.9], [1.5, 1.4, 1.6])
    values = np.array([-0.5, -0.2, -0.7])
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found["values"], values)
    np.testing.assert_allclose(found["interval"], [values.mean() - half, values.mean() + half])
    assert paired_difference([1.0], [2.0]) == {"values": [-1.0], "mean": -1.0, "interval": None}


def test_the_bootstrap_is_that_of_a_loop_and_covers_the_mean():
    values = np.random.default_rng(2).normal(size=30)
    low, high = bootstrap(lambda drawn: values[drawn].mean(axis=1), 30, resamples=500, seed=4)
    generator = np.random.default_rng(4)
    means = [values[generator.integers(0, 30, 30)].mean() for _ in range(500)]
    np.testing.assert_allclose((low, high), np.percentile(means, [2.5, 97.5]), rtol=1e-12)
    normal = estimate(values).interval
    np.testing.assert_allclose((low, high), normal, atol=0.15)  # for thirty units nearly Student's


def test_a_bootstrap_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 units"):
        bootstrap(lambda drawn: drawn.sum(axis=1), 0)
