"""The scaling law is recovered from curves that follow it."""

import numpy as np
import pytest

from pmpjax.law.scaling import fit_scaling_law


@pytest.mark.parametrize(("floor", "scale", "exponent"), [(0.1, 5.0, 0.8), (0.0, 0.3, 0.2), (0.4, 20.0, 1.5)])
def test_scaling_law_is_recovered(floor, scale, exponent):
    noise = np.random.default_rng(0).normal(size=2001) * 1e-3
    steps = np.maximum(np.arange(2001), 1)
    curve = (floor + (scale / steps) ** exponent) * np.exp(noise)
    fitted = fit_scaling_law(curve)
    np.testing.assert_allclose(fitted(steps[10:]), curve[10:], rtol=0.01)
    assert fitted.exponent == pytest.approx(exponent, rel=0.05) and fitted.r2 > 0.999


@pytest.mark.parametrize(("curve", "message"), [(np.ones(5), "too few"), (np.full(50, np.nan), "nan at step 0")])
def test_scaling_law_refuses_what_it_cannot_fit(curve, message):
    with pytest.raises(ValueError, match=message):
        fit_scaling_law(curve)
