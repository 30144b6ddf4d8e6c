"""Weights by rank and their rounding to whole repetitions."""

import numpy as np
import pytest

from pmpjax.scoring.repetition import rank_weights, repetitions_by_rank, systematic_rounding


def test_rank_weights_have_mean_one_by_tokens_and_whole_counts_keep_them():
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 500, 300)
    weights = rank_weights(tokens)
    assert (np.diff(weights) < 0).all() and 0 < weights[-1] < 0.1 and 1.9 < weights[0] < 2
    assert weights @ tokens == pytest.approx(tokens.sum())
    counts = [systematic_rounding(weights, offset) for offset in generator.random(2000)]
    assert all(np.abs(each - weights).max() < 1 and np.abs(np.cumsum(each - weights)).max() < 1 for each in counts)
    np.testing.assert_allclose(np.mean(counts, axis=0), weights, atol=0.06)
    np.testing.assert_allclose(rank_weights(tokens, 0.25) - 1, (weights - 1) / 4, atol=1e-12)
    np.testing.assert_array_equal(repetitions_by_rank(tokens, float(tokens.sum()), 0.3, slope=0.0), 1)
    assert rank_weights(np.array([7])).tolist() == [1.0] and systematic_rounding(np.ones(1), 0.9).tolist() == [1]


@pytest.mark.parametrize("sizes", [(1, 500), (1, 2), (400, 401)])
def test_repetitions_keep_the_budget_and_always_bring_a_document(sizes):
    generator = np.random.default_rng(1)
    for documents in (1, 2, 3, 40):
        tokens = generator.integers(*sizes, documents)
        for offset in generator.random(50):
            count = repetitions_by_rank(tokens, float(tokens.sum()), offset)
            assert count[0] >= 1 and count.min() >= 0 and count.max() <= 2 and count @ tokens <= tokens.sum()
    assert repetitions_by_rank(np.array([10, 1]), 11.0, 0.95).tolist() == [1, 0], (
        "twice the first would be more than both"
    )
