"""What the run of a sweep is trained on: evenly all instances, or in proportion to weights that a first sweep gives."""

import dataclasses
import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.models import Decoder, initialise
from pmpjax.pds.stages.solve import build_solve
from pmpjax.pds.sweep.batches import draw_instances, draw_steps, drawn_in_proportion, plan, pool_weights
from pmpjax.pds.sweep.problem import SweepError, score_instances
from pmpjax.pds.sweep.scores import instance_scores
from pmpjax.statistics import standardised
from tests.corpora import VOCABULARY, Recorder, prepared_corpus, warm_start
from tests.pds.stages.test_solve import CONFIG as SOURCE
from tests.pds.stages.test_solve import MODEL

CONFIG = dataclasses.replace(SOURCE, instances=80, steps=8, along="selection")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    prepared = prepared_corpus(tmp_path_factory.mktemp("corpus"))
    decoder = Decoder(MODEL.decoder(VOCABULARY))
    return prepared, decoder, warm_start(initialise(decoder, jax.random.key(0), prepared.source.tokens[:1]))


def drawn(corpus, config):
    prepared, decoder, proxy = corpus
    rows = draw_instances(config, prepared, 0)
    found = plan(config, decoder, prepared, proxy, prepared.source.take(rows), 0)
    np.testing.assert_array_equal(found.steps.train.tokens, prepared.source.tokens[rows[found.steps.index]])
    return found, prepared.source_document[rows[found.steps.index]] % 2 == 0


def test_batches_along_the_selection_are_of_the_targets_language(corpus):
    even, of_target = drawn(corpus, dataclasses.replace(CONFIG, along="source"))
    assert even.preview is None and 0.2 < of_target.mean() < 0.8
    found, of_target = drawn(corpus, CONFIG)
    assert of_target.mean() > 0.9
    assert found.steps.index.shape == (CONFIG.steps, CONFIG.batch) == even.steps.index.shape
    assert found.preview["instances"] == 80 and 0.05 < found.preview["in_use"] < 0.5
    np.testing.assert_array_equal(found.steps.dev.tokens, even.steps.dev.tokens)


def test_a_short_step_leaves_the_batches_as_even_as_they_were_and_a_pool_bounds_them(corpus):
    found, _ = drawn(corpus, dataclasses.replace(CONFIG, pool_rate=1e-6))
    assert found.preview["effective_instances"] == pytest.approx(80, rel=1e-3)
    assert np.bincount(found.steps.index.ravel()).max() == 1, "24 places, 80 instances of equal weight"
    found, _ = drawn(corpus, dataclasses.replace(CONFIG, pool=30))
    assert found.preview["instances"] == 30 and len(np.unique(found.steps.index)) <= 30


@pytest.mark.slow
def test_the_sweep_along_the_selection_starts_from_a_run_with_less_desired_loss(corpus, tmp_path):
    prepared, _, proxy = corpus
    config = dataclasses.replace(CONFIG, dev_batch=None, steps=6)
    build_solve(config, MODEL, prepared, proxy, 0, tmp_path, Recorder())
    facts = json.loads((tmp_path / "solve.json").read_text())
    assert facts["area_under_curve"][0] < facts["preview"]["area_under_curve"]
    table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    worth, good = np.array(table["score"]), np.array(table["document"]) % 2 == 0
    # The run has had the best of the target's language already, and more of it is worth less: less clear than in
    # test_solve.py, along text as it comes.
    assert 0.6 < under_the_curve(worth, good)
    assert worth[good].mean() > 0 > worth[~good].mean()


def under_the_curve(worth, good):
    """The area under the ROC curve."""
    return np.mean(worth[good][:, None] > worth[~good][None, :])


@pytest.mark.slow
def test_worths_along_both_runs_tell_what_that_along_the_selection_overhears(corpus, tmp_path):
    prepared, _, proxy = corpus
    found = {}
    for accumulate in (True, False):
        config = dataclasses.replace(CONFIG, every=None, accumulate=accumulate)
        build_solve(config, MODEL, prepared, proxy, 0, tmp_path, Recorder())
        table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
        found[accumulate] = np.array(table["score"]), np.array(table["worth"])
        preview = json.loads((tmp_path / "solve.json").read_text())["preview"]
        assert ("spearman" in preview) == accumulate
    (score, worth), (alone, same) = found[True], found[False]
    np.testing.assert_array_equal(alone, same)
    np.testing.assert_allclose(worth, alone, rtol=1e-4, atol=1e-6 * np.abs(alone).max())
    good = np.array(table["document"]) % 2 == 0
    assert under_the_curve(score, good) > 0.95 > 0.9 > under_the_curve(worth, good)


@pytest.mark.slow
def test_the_worth_beside_is_the_one_that_the_first_sweep_would_find(corpus, float64):
    prepared, decoder, proxy = jax.tree.map(as_float64, corpus)
    config = dataclasses.replace(CONFIG, every=None)
    rows = draw_instances(config, prepared, 0)
    instances = prepared.source.take(rows)
    steps, dev, _, beside = plan(config, decoder, prepared, proxy, instances, 0)
    solved = score_instances(config, decoder, proxy, steps, instances, dev=dev, beside=beside)
    even, dev = draw_steps(config, prepared, instances, 0)  # the pool is the whole proxy set
    first = score_instances(config, decoder, proxy, even, instances, dev=dev)
    np.testing.assert_allclose(config.steps * solved.beside, first.scores, rtol=1e-10)
    alone = score_instances(config, decoder, proxy, steps, instances, dev=dev)
    np.testing.assert_allclose(solved.scores, alone.scores, rtol=1e-10)
    assert np.abs(first.scores).max() > 1e-6 < np.abs(first.scores - solved.scores).max()
    np.testing.assert_array_equal(instance_scores(alone), alone.scores)
    expected = standardised(np.asarray(first.scores)) + standardised(np.asarray(alone.scores))
    np.testing.assert_allclose(instance_scores(solved), expected, rtol=1e-8)


def as_float64(leaf):
    return leaf.astype(np.float64) if getattr(leaf, "dtype", None) == np.float32 else leaf


@pytest.mark.parametrize("other", [{"every": 4}, {"along": "source"}])
def test_worths_are_added_only_where_both_runs_are_at_one_point(other):
    with pytest.raises(ValueError, match="expected selection and none"):
        dataclasses.replace(CONFIG, **{"every": None, "accumulate": True, **other})
    assert not dataclasses.replace(CONFIG, **{"every": None, **other}).adds
    assert dataclasses.replace(CONFIG, every=None).adds


def test_a_first_sweep_that_explodes_is_refused(corpus):
    with pytest.raises(SweepError, match=r"Lower --solve.learning-rate"):
        drawn(corpus, dataclasses.replace(CONFIG, learning_rate=1e20))


def test_weights_of_the_pool_lie_on_the_simplex_whatever_the_scores():
    scores = np.random.default_rng(0).normal(size=200)
    weights = np.asarray(pool_weights(scores, 5.0))
    assert weights.sum() == pytest.approx(1, abs=1e-5) and weights.min() == 0
    order = np.argsort(scores)
    assert (np.diff(weights[order]) >= 0).all() and 0.1 < np.mean(weights > 0) < 0.4
    np.testing.assert_allclose(pool_weights(np.full(4, 7.0), 5.0), 0.25)
    np.testing.assert_array_equal(*(pool_weights(np.append(scores, far), 5.0) for far in (1e3, 1e9)))
    np.testing.assert_allclose(pool_weights(3 * scores + 1, 5.0), weights, atol=1e-6)


def test_each_is_drawn_as_often_as_its_weight_says_but_for_rounding():
    generator = np.random.default_rng(0)
    weights = generator.dirichlet(np.full(50, 0.3))
    times = [np.bincount(drawn_in_proportion(weights, 64, generator), minlength=50) for _ in range(200)]
    assert all(each.sum() == 64 and np.abs(each - 64 * weights).max() < 1 + 1e-9 for each in times)
    np.testing.assert_allclose(np.mean(times, axis=0), 64 * weights, atol=0.15)
