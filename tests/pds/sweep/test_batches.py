"""How the batches of a trajectory are drawn from weights (evenly drawn ones: test_outer.py)."""

import dataclasses

import numpy as np
import pytest

from pmpjax.pds.sweep.batches import draw_batches, draw_by_weight, draw_instances, draw_members
from tests.corpora import prepared_corpus
from tests.pds.stages.test_solve import CONFIG


def test_each_is_drawn_as_often_as_its_weight_says_but_for_rounding():
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.full(50, 0.3))
    times = [np.bincount(draw_by_weight(weights, 64, generator), minlength=50) for _ in range(200)]
    assert all(each.sum() == 64 and np.abs(each - 64 * weights).max() < 1 + 1e-9 for each in times)
    np.testing.assert_allclose(np.mean(times, axis=0), 64 * weights, atol=0.15)


def test_more_members_are_the_same_ones_and_others():
    drawn = [set(draw_members(count, 40, seed=3).tolist()) for count in (10, 25, 40, 99, None)]
    assert [len(each) for each in drawn] == [10, 25, 40, 40, 40]
    assert drawn[0] < drawn[1] < drawn[2] == drawn[3] == drawn[4]
    assert drawn[0] != set(draw_members(10, 40, seed=4).tolist())


def test_batches_are_rows_of_the_instances_and_of_the_dev_split(tmp_path):
    prepared = prepared_corpus(tmp_path)
    rows = draw_instances(CONFIG, prepared, 0)
    assert (prepared.source.lengths[rows] >= CONFIG.minimum_tokens).all() and len(np.unique(rows)) == CONFIG.instances
    instances = prepared.source.take(rows)
    steps, dev = draw_batches(CONFIG, prepared, instances, 0)
    assert dev is None and steps.dev.tokens.shape[:2] == (CONFIG.steps, CONFIG.dev_batch)
    np.testing.assert_array_equal(steps.train.tokens, instances.tokens[steps.index])
    assert np.bincount(steps.index.ravel()).max() == 1, "18 places, 40 instances: none comes twice"
    given = np.full((CONFIG.steps, CONFIG.batch), 7)
    whole = draw_batches(dataclasses.replace(CONFIG, dev_batch=None), prepared, instances, 0, given)
    assert whole.steps.dev is None and len(whole.dev.tokens) == len(prepared.dev.tokens)
    assert (whole.steps.train.tokens == instances.tokens[7]).all()


def test_a_source_of_short_rows_is_refused_with_its_longest(tmp_path):
    prepared = prepared_corpus(tmp_path)
    with pytest.raises(ValueError, match=r"longest has 12; lower --solve.minimum-tokens"):
        draw_instances(dataclasses.replace(CONFIG, minimum_tokens=99), prepared, 0)
