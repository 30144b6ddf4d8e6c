"""Predictions by length and by shard, against each row alone."""

import jax
import numpy as np
import pytest

from pmpjax.models import ScorerModel, initialise
from pmpjax.scoring.engine import ScoreConfig, computed_tokens, length_batches, predict, score_shard
from pmpjax.scoring.shards import document_table, prepared_shards
from pmpjax.train.model import ModelConfig
from tests.corpora import LENGTH, VOCABULARY, prepared_corpus

MODEL = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=12)
DECODER = MODEL.decoder(VOCABULARY)
CONFIG = ScoreConfig(batch=8, shard=40, buckets=3, known_rows="predicted")


def scorer_params(prepared):
    params = initialise(
        ScorerModel(DECODER), jax.random.key(0), prepared.source.tokens[:1], prepared.source.lengths[:1]
    )
    return {**params, "weight": jax.random.normal(jax.random.key(1), params["weight"].shape)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    prepared = prepared_corpus(tmp_path_factory.mktemp("corpus"))
    return prepared, scorer_params(prepared)


def row_by_row(prepared, params):
    """Each row alone and uncut: no batch, no bucket."""
    apply = jax.jit(lambda tokens, lengths: ScorerModel(DECODER).apply({"params": params}, tokens, lengths))
    rows = zip(prepared.source.tokens, prepared.source.lengths, strict=True)
    return np.array([apply(tokens[None], np.array([length]))[0] for tokens, length in rows])


def test_batches_hold_each_row_once_and_are_no_longer_than_they_must_be():
    lengths = np.random.default_rng(0).integers(1, 101, 333).astype(np.int32)
    for config in (ScoreConfig(batch=10, buckets=7), ScoreConfig(batch=400, buckets=1), ScoreConfig(batch=1)):
        batches = length_batches(lengths, 100, config)
        assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(333))
        assert all(len(batch.rows) == config.batch for batch in batches[:-1])
        assert len({batch.length for batch in batches}) <= config.buckets
        for batch in batches:
            assert lengths[batch.rows].max() <= batch.length < lengths[batch.rows].max() + 100 / config.buckets + 1
        assert computed_tokens(lengths, 100, config) == sum(config.batch * batch.length for batch in batches)


def test_predictions_do_not_depend_on_batch_or_bucket(corpus):
    prepared, params = corpus
    expected = row_by_row(prepared, params)
    assert expected.std() > 0.1
    for config in (ScoreConfig(batch=8, buckets=1), CONFIG):
        found = predict(DECODER, params, prepared.source.tokens, prepared.source.lengths, config)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_a_row_is_padded_with_does_not_count(corpus):
    prepared, params = corpus
    noise = np.random.default_rng(0).integers(0, VOCABULARY, prepared.source.tokens.shape).astype(np.int32)
    text = np.arange(LENGTH)[None, :] < prepared.source.lengths[:, None]
    changed = np.where(text, prepared.source.tokens, noise)
    assert (changed != prepared.source.tokens).any()
    found = (
        predict(DECODER, params, rows, prepared.source.lengths, CONFIG) for rows in (prepared.source.tokens, changed)
    )
    np.testing.assert_array_equal(*found)


def test_a_shard_is_scored_like_its_rows(corpus):
    prepared, params = corpus
    (one,) = prepared_shards(prepared, 10**9)
    expected = document_table(one, row_by_row(prepared, params))
    found = score_shard(DECODER, params, one, CONFIG)
    np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5, atol=1e-6)
    assert found.drop_columns("score").equals(expected.drop_columns("score"))


@pytest.mark.parametrize("name", ["batch", "shard", "buckets"])
def test_impossible_settings_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} 0"):
        ScoreConfig(**{name: 0})
