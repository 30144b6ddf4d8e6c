"""Speed-up on curves whose answer is known in closed form."""

import numpy as np
import pytest

from pmpjax.statistics import smooth, speedup, steps_to_reach

STEPS = np.arange(0, 1001, 10)


@pytest.mark.parametrize("factor", [1.3, 2.0, 4.0])
def test_a_run_that_learns_k_times_as_fast_has_speedup_k(factor):
    baseline, selected = (1 + 3 * np.exp(-STEPS * k / 400) for k in (1.0, factor))
    found = speedup(STEPS, selected, baseline, window=1)
    assert found.ratio == pytest.approx(factor, rel=1e-3)
    assert found.steps == pytest.approx(1000 / factor, rel=1e-3)
    assert found.total == 1000


def test_equal_curves_have_speedup_one_and_a_worse_one_never_arrives():
    curve = 5 - STEPS / 500
    assert speedup(STEPS, curve, curve).ratio == pytest.approx(1)
    assert speedup(STEPS, curve + 0.01, curve) == (None, 1000, None)


def test_noise_is_smoothed_before_the_crossing_is_looked_for():
    curve = 5 - STEPS / 500
    dip = curve.copy()
    dip[3] = 3.5  # a single low measurement at step 30; the curve is there at step 750
    assert steps_to_reach(STEPS, dip, 3.5, window=1) == 30
    assert steps_to_reach(STEPS, dip, 3.5, window=5) == pytest.approx(750)


def test_smoothing_keeps_lines_and_averages_the_inside():
    line = 3.0 - 0.1 * STEPS
    np.testing.assert_allclose(smooth(line, 7), line, rtol=1e-12)
    values = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(smooth(values, 5)[2:-2], np.convolve(values, np.full(5, 0.2), "valid"), rtol=1e-9)
    with pytest.raises(ValueError, match="odd"):
        smooth(values, 4)


def test_a_curve_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="lower the step"):
        steps_to_reach(np.array([0, 1]), np.array([1.0, np.nan]), 0.5)


def test_without_interpolation_the_steps_are_those_of_a_plain_search():
    generator = np.random.default_rng(0)
    for _ in range(50):
        baseline, selected = np.sort(generator.normal(size=(2, 40)))[:, ::-1] + generator.normal(size=(2, 40)) / 10
        reached = [step for step in range(40) if selected[step] <= baseline[-1]]
        found = speedup(np.arange(40), selected, baseline, window=1, interpolate=False)
        assert found.steps == (reached[0] if reached else None)
        assert found.ratio == (39 / max(reached[0], 1) if reached else None)
    diverging = np.array([3.0, np.nan, np.inf, 1.0])
    assert steps_to_reach(np.arange(4), diverging, 2.0, window=1, interpolate=False) == 3


def test_a_level_that_is_reached_at_once_counts_as_a_step():
    assert speedup(STEPS, np.zeros(101), 5 - STEPS / 500).ratio == 1000
