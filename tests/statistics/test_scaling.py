"""Clipping and standardisation: what one value can do, and what they leave alone."""

import numpy as np

from pmpjax.statistics import clipped, standardised


def test_clipping_bounds_what_one_instance_can_do_and_keeps_the_order_of_the_others():
    scores = np.random.default_rng(0).normal(size=401)
    far = [np.append(scores, outlier) for outlier in (-1e3, -1e9)]
    np.testing.assert_array_equal(*(clipped(each, each, 3.0) for each in far))
    near = np.abs(scores - np.median(scores)) < 2.5
    np.testing.assert_array_equal(clipped(far[0], far[0], 3.0)[:-1][near], scores[near])
    assert np.abs(clipped(far[0], far[0], 3.0)).max() < 4
    equal = np.array([1.0] * 9 + [9.0])
    np.testing.assert_array_equal(clipped(equal, equal, 3.0), equal)


def test_standardised_scores_have_mean_zero_and_deviation_one_whatever_their_scale():
    scores = np.random.default_rng(0).standard_t(3, 400)
    found = standardised(scores)
    np.testing.assert_allclose([found.mean(), found.std()], [0, 1], atol=1e-12)
    np.testing.assert_allclose(standardised(1e6 * scores - 7), found, atol=1e-7)
    assert not standardised(np.full(4, 0.1)).any()
