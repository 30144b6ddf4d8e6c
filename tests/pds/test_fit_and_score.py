"""The scorer: what it is measured on, what it learns, and its word on whole documents."""

import json

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.models import Decoder, ScorerModel, initialise
from pmpjax.pds.fit import FitConfig, build_fit, held_out
from pmpjax.pds.score import ScoreConfig, build_score, document_scores, predict, stored_scorer
from pmpjax.train import OptimizerConfig, load_params
from pmpjax.train.model import ModelConfig
from tests.pds.synthetic import VOCABULARY, Recorder, prepared_corpus

MODEL = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=12)
DECODER = MODEL.decoder(VOCABULARY)


def test_held_out_instances_share_no_document_with_the_others():
    document = np.repeat(np.arange(40), 3)
    kept = held_out(document, 0.25, seed=0)
    assert not set(document[kept]) & set(document[~kept])
    assert len(set(document[kept])) == 10
    assert (kept != held_out(document, 0.25, seed=1)).any()
    assert held_out(np.array([4, 4, 7]), 0.01, seed=0).any()


def test_the_scorer_learns_scores_that_the_text_tells(tmp_path):
    prepared = prepared_corpus(tmp_path)
    rows = np.flatnonzero(prepared.source_lengths >= 6)
    document = prepared.source_document[rows]
    scores = np.where(document % 2 == 0, 5.0, 3.0) + 0.01 * np.sin(np.arange(len(rows)))
    pq.write_table(pa.table({"row": rows, "document": document, "score": scores}), tmp_path / "scores.parquet")
    params = initialise(Decoder(DECODER), jax.random.key(0), prepared.source_rows[:1])
    config = FitConfig(epochs=12, batch=8, optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=5))
    build_fit(config, MODEL, prepared, tmp_path / "scores.parquet", params, 0, tmp_path, Recorder())
    facts = json.loads((tmp_path / "fit.json").read_text())
    # Two groups, inside which the ranks are noise: 3/4 when the groups are told apart, 0 by chance.
    assert facts["spearman"]["held_out"] > 0.5
    assert facts["rows"]["held_out"] + facts["rows"]["train"] == len(rows)
    assert facts["final_mse"] < 0.2  # 1 for the constant prediction
    predicted = predict(DECODER, load_params(tmp_path / "params"), prepared.dev_rows, prepared.dev_lengths)
    assert (predicted[prepared.dev_lengths >= 6] > 0.5).all()  # the language of the target, in standard deviations


def test_a_proxy_set_of_one_document_is_refused_with_the_mend(tmp_path):
    prepared = prepared_corpus(tmp_path)
    pq.write_table(pa.table({"row": [0, 1], "document": [0, 0], "score": [1.0, 2.0]}), tmp_path / "scores.parquet")
    with pytest.raises(ValueError, match=r"--fit\.held-out"):
        build_fit(FitConfig(), MODEL, prepared, tmp_path / "scores.parquet", {}, 0, tmp_path, Recorder())


def test_predictions_do_not_depend_on_the_batch(tmp_path):
    prepared = prepared_corpus(tmp_path)
    params = scorer_params(prepared)
    whole, parts = (
        predict(DECODER, params, prepared.source_rows, prepared.source_lengths, batch) for batch in (512, 7)
    )
    assert len(whole) == len(prepared.source_rows) and whole.std() > 0
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def scorer_params(prepared):
    params = initialise(ScorerModel(DECODER), jax.random.key(0), prepared.source_rows[:1], prepared.source_lengths[:1])
    return {**params, "weight": jax.random.normal(jax.random.key(1), params["weight"].shape)}


def test_a_documents_score_is_the_mean_over_its_tokens(tmp_path):
    prepared = prepared_corpus(tmp_path)
    scores = np.random.default_rng(0).normal(size=len(prepared.source_rows))
    found = document_scores(prepared, scores)
    for index in range(len(prepared.documents.ids)):
        first, count = prepared.documents.first_row[index], prepared.documents.n_rows[index]
        rows = range(first, first + count)
        tokens = np.concatenate([np.full(prepared.source_lengths[row], scores[row]) for row in rows])
        assert found[index] == pytest.approx(tokens.mean())


def test_scoring_goes_on_after_the_last_whole_shard_and_gives_the_same(tmp_path):
    prepared = prepared_corpus(tmp_path)
    params, config = scorer_params(prepared), ScoreConfig(batch=8, shard=16)
    whole, again = tmp_path / "whole", tmp_path / "again"
    for folder in (whole, again):
        folder.mkdir()
    build_score(config, MODEL, prepared, params, whole, Recorder())
    shard = "rows-000000016.npz"
    (again / shard).write_bytes((whole / shard).read_bytes())
    before = (again / shard).stat().st_mtime_ns
    build_score(config, MODEL, prepared, params, again, bar := Recorder())
    assert (again / shard).stat().st_mtime_ns == before
    assert bar.done == len(prepared.source_rows)
    assert pq.read_table(again / "scores.parquet").equals(pq.read_table(whole / "scores.parquet"))

    scorer = stored_scorer(whole / "scores.parquet")
    expected = document_scores(prepared, predict(DECODER, params, prepared.source_rows, prepared.source_lengths))
    np.testing.assert_allclose(scorer(prepared, jax.random.key(0)), expected, rtol=1e-4, atol=1e-5)
    other = prepared._replace(documents=prepared.documents._replace(ids=prepared.documents.ids[::-1].copy()))
    with pytest.raises(ValueError, match="delete its folder"):
        scorer(other, jax.random.key(0))
