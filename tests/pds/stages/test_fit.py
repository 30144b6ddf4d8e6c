"""The stage `fit`: what the regressor learns, and on what it is measured."""

import json

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.models import Decoder, initialise
from pmpjax.pds.stages.fit import build_fit
from pmpjax.runs.seeds import stage_generator
from pmpjax.scoring.engine import predict
from pmpjax.scoring.regressor import FitConfig, held_out
from pmpjax.train import OptimizerConfig, load_params
from pmpjax.train.model import ModelConfig
from tests.corpora import VOCABULARY, Recorder, prepared_corpus

MODEL = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=12)
DECODER = MODEL.decoder(VOCABULARY)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=5)


def two_languages(folder):
    """The corpus, its instances' rows and documents, and scores by which its two languages differ; a proxy."""
    prepared = prepared_corpus(folder)
    rows = np.flatnonzero(prepared.source.lengths >= 6)
    document = prepared.source_document[rows]
    scores = np.where(document % 2 == 0, 5.0, 3.0) + 0.01 * np.sin(np.arange(len(rows)))
    proxy = initialise(Decoder(DECODER), jax.random.key(0), prepared.source.tokens[:1])
    return prepared, rows, document, scores, proxy


def store(path, rows, document, scores):
    pq.write_table(pa.table({"row": rows, "document": document, "score": scores}), path)
    return path


def test_the_regressor_learns_scores_that_the_text_decides(tmp_path):
    prepared, rows, document, scores, params = two_languages(tmp_path)
    path = store(tmp_path / "scores.parquet", rows, document, scores)
    config = FitConfig(epochs=12, batch=8, optimizer=OPTIMIZER)
    build_fit(config, MODEL, prepared, path, params, 0, tmp_path, Recorder())
    facts = json.loads((tmp_path / "fit.json").read_text())
    # Two groups, inside which the ranks are noise: 3/4 when the groups are told apart, 0 by chance.
    assert facts["spearman"]["held_out"] > 0.5
    assert facts["rows"]["held_out"] + facts["rows"]["train"] == len(rows)
    assert facts["final_mse"] < 0.2  # 1 for the constant prediction
    predicted = predict(DECODER, load_params(tmp_path / "params"), prepared.dev.tokens, prepared.dev.lengths)
    assert (predicted[prepared.dev.lengths >= 6] > 0.5).all()  # the language of the target, in standard deviations


def test_a_proxy_set_of_one_document_is_refused_with_a_hint(tmp_path):
    prepared = prepared_corpus(tmp_path)
    path = store(tmp_path / "scores.parquet", [0, 1], [0, 0], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"--fit\.held-out"):
        build_fit(FitConfig(), MODEL, prepared, path, {}, 0, tmp_path, Recorder())


def test_instances_far_away_spoil_a_regressor_that_does_not_clip(tmp_path):
    prepared, rows, document, scores, params = two_languages(tmp_path)
    scores[np.flatnonzero(~held_out(document, FitConfig.held_out, stage_generator(0, "fit", "held out")))[:2]] = -1e4
    path = store(tmp_path / "scores.parquet", rows, document, scores)
    found = {}
    for clip in (None, 3.0):
        config = FitConfig(epochs=12, batch=8, clip=clip, optimizer=OPTIMIZER)
        folder = tmp_path / f"clip-{clip}"
        build_fit(config, MODEL, prepared, path, params, 0, folder, Recorder())
        found[clip] = json.loads((folder / "fit.json").read_text())
    assert found[3.0]["spearman"]["held_out"] > found[None]["spearman"]["held_out"] + 0.2
    assert found[None]["clipped"] == 0 and 0 < found[3.0]["clipped"] < 0.1
