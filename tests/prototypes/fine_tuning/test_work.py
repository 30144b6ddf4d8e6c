"""`pmpjax prototypes fit` from a table to a classifier, its stages, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from pmpjax.evaluation.tasks import examples_of, load_task
from pmpjax.prototypes.fine_tuning.storage import load_classifier
from pmpjax.prototypes.fine_tuning.texts import embed_texts, load_text_encoder
from pmpjax.prototypes.fine_tuning.work import FitConfig, read_config, run_fit, trained_encoder
from pmpjax.runs import RunError
from pmpjax.runs.files import read_arrays
from tests.prototypes.fine_tuning.bars import Bars


def test_a_table_becomes_a_classifier_with_figures_of_texts_that_it_has_not_seen(fitted):
    metrics = fitted.metrics
    assert metrics["fitted"] + metrics["test"] == 48 and metrics["test"] >= 8
    assert set(metrics["baselines"]) == {"logistic regression", "1-NN"}
    assert set(metrics["prototypes"]) == {"<b>first</b>", "<b>second</b>"} and metrics["temperature"] > 0
    stored = load_classifier(fitted.run / "fit")
    assert stored.model.n_prototypes_.tolist() == list(metrics["prototypes"].values())
    assert len(stored.texts) == metrics["fitted"]
    vectors = embed_texts(load_text_encoder(fitted.folder / "bert"), stored.texts)
    np.testing.assert_allclose(vectors, stored.model.examples_, atol=1e-5)
    task = load_task(fitted.config.data, text="sentence", label="kind")
    test = examples_of(task, "test")
    found = stored.model.predict(embed_texts(load_text_encoder(fitted.folder / "bert"), test.texts))
    assert metrics["accuracy"] == np.mean(found == np.asarray(task.classes)[test.labels]) > 0.5
    assert fitted.bars["states"] == [48, 48] and fitted.bars["fit, %"] == pytest.approx([100, 100])
    assert read_config(fitted.run) == fitted.config


def test_a_finished_run_is_not_done_again_and_another_config_is_refused(fitted):
    bars = Bars()
    assert run_fit(fitted.config, fitted.run, bars) == fitted.metrics and not bars
    with pytest.raises(RunError, match="seed"):
        run_fit(dataclasses.replace(fitted.config, seed=1), fitted.run, bars)


def test_a_trained_encoder_is_kept_and_calibrated_on_texts_that_it_has_not_seen(fitted):
    config, run, bars = dataclasses.replace(fitted.config, epochs=1, learning_rate=1e-2), fitted.folder / "more", Bars()
    metrics = run_fit(config, run, bars)
    assert bars["encoder"][0] == bars["encoder"][1] > 0
    assert metrics["fitted"] < fitted.metrics["fitted"] and metrics["temperature"] is not None
    frozen, stored = load_text_encoder(fitted.folder / "bert"), load_classifier(run / "fit")
    vectors = embed_texts(trained_encoder(frozen, run), stored.texts)
    np.testing.assert_allclose(vectors, stored.model.examples_, atol=1e-5)
    assert np.abs(embed_texts(frozen, stored.texts) - vectors).max() > 1e-3
    before, after = (read_arrays(folder / "states" / "states.npz")["vectors"] for folder in (fitted.run, run))
    assert before.shape == after.shape and np.abs(before - after).max() > 1e-3


def test_what_cannot_be_fitted_is_refused(fitted, tmp_path):
    with pytest.raises(ValueError, match="numbers and no encoder to train"):
        run_fit(FitConfig("digits", epochs=1), tmp_path / "run", Bars())
    with pytest.raises(RunError, match="no finished run"):
        read_config(tmp_path)
    for wrong in ({"epochs": -1}, {"batch": 0}, {"learning_rate": 0.0}, {"per_class": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="must not be negative"):
            FitConfig("digits", **wrong)
