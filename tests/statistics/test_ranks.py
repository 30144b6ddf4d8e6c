"""Rank correlation against monotone maps, and where it is not defined."""

import numpy as np
import pytest

from pmpjax.statistics import rank_correlation


def test_correlation_is_that_of_ranks_and_none_where_undefined():
    values = np.array([3.0, 1.0, 2.0, 9.0])
    assert rank_correlation(values, values**3) == pytest.approx(1)
    assert rank_correlation(values, -np.exp(values)) == pytest.approx(-1)
    assert rank_correlation(values, np.ones(4)) is None
    assert rank_correlation(values[:2], values[:2]) is None
