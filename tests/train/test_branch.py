"""The decay branch: the same run with a rate that decays over its last steps, and no trace of it in the run itself."""

import dataclasses

import numpy as np
import pytest

from pmpjax.data import batch_schedule, scheduled_batches
from pmpjax.models import Decoder, example_losses, initialise
from pmpjax.pds.stages.pretrain import PretrainConfig, build_pretrain, target_losses, training_rows
from pmpjax.runs.pipeline import Context
from pmpjax.runs.seeds import stage_key, stage_seed
from pmpjax.train import Evaluation, OptimizerConfig, decaying_adamw, train, train_step
from pmpjax.train.model import ModelConfig
from tests.corpora import Recorder, prepared_corpus

MODEL = ModelConfig(width=16, layers=1, heads=2, key_value_heads=1, hidden=32)
RATE = OptimizerConfig(learning_rate=1e-2, warmup_steps=3)
CONFIG = PretrainConfig(
    steps=20, batch=4, optimizer=RATE, decay=0.3, evaluate_every=4, dev_rows=8, test_rows=8, final_rows=20
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_corpus(tmp_path_factory.mktemp("corpus"))


def trained(prepared, config, folder):
    folder.mkdir()
    documents, bar = np.arange(0, 40), Recorder()
    build_pretrain(config, MODEL, {("pds", 0): documents}, Context(folder, prepared, 0, bar))
    return dict(np.load(folder / "pds-0.npz")), dict(np.load(folder / "pds-0-params.npz")), bar


def test_the_branch_is_the_straight_run_whose_rate_decays(prepared, tmp_path):
    assert CONFIG.decay_steps == 8  # six, and two more so that it leaves the run where it is measured
    curves, params, bar = trained(prepared, CONFIG, tmp_path / "run")
    decoder = Decoder(MODEL.decoder(prepared.vocabulary))
    rows = training_rows(prepared, np.arange(0, 40), 0)
    order = stage_seed(0, "pretrain", "order")
    straight = train(
        train_step(example_losses(decoder), decaying_adamw(RATE, 12, 20)),
        initialise(decoder, stage_key(0, "pretrain", "init"), rows.tokens[:1]),
        scheduled_batches(rows, batch_schedule(len(rows.tokens), 20, 4, seed=order)),
        20,
        evaluation=Evaluation(target_losses(decoder, Context(tmp_path, prepared, 0, bar), 20, 20), 4),
    )
    for split in ("dev", "test"):
        np.testing.assert_allclose(curves[f"decayed_{split}"], straight.evaluated[split][-1], rtol=1e-6)
        assert curves[f"decayed_{split}"] != curves[split][-1]
    np.testing.assert_allclose(params["trunk/embedding"], straight.params["trunk"]["embedding"], rtol=1e-5, atol=1e-7)
    assert bar.done == CONFIG.all_steps == 28
    assert not list((tmp_path / "run").glob("*checkpoints"))


@pytest.mark.slow
def test_the_run_itself_is_bit_for_bit_what_it_is_without_a_branch(prepared, tmp_path):
    curves, _, _ = trained(prepared, CONFIG, tmp_path / "with")
    alone, _, _ = trained(prepared, dataclasses.replace(CONFIG, decay=0.0), tmp_path / "without")
    assert set(curves) - set(alone) == {"decayed_dev", "decayed_test"}
    for name, values in alone.items():
        np.testing.assert_array_equal(values, curves[name])


def test_no_branch_where_the_rate_decays_or_has_not_risen_yet():
    cosine = dataclasses.replace(RATE, schedule="cosine")
    assert dataclasses.replace(CONFIG, optimizer=cosine).decay_steps == 0
    assert dataclasses.replace(CONFIG, optimizer=dataclasses.replace(RATE, warmup_steps=13)).decay_steps == 0
    assert dataclasses.replace(CONFIG, evaluate_every=0).decay_steps == 0
    assert PretrainConfig().decay_steps == 60
    with pytest.raises(ValueError, match=r"decay is 1\.0"):
        dataclasses.replace(CONFIG, decay=1.0)
    for begin, end, rate in ((2, 20, RATE), (20, 20, RATE), (12, 20, cosine)):
        with pytest.raises(ValueError, match="constant rate, after its warm-up"):
            decaying_adamw(rate, begin, end)
