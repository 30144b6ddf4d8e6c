"""The stage solve: what it finds on two languages, and what it refuses (its loop: sweep/test_outer.py)."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.data import Rows
from pmpjax.models import Decoder, example_losses, initialise
from pmpjax.pds.stages.solve import build_solve, sweep_flops
from pmpjax.pds.sweep.diagnostics import SweepError
from pmpjax.pds.sweep.problem import Proxy, SolveConfig
from pmpjax.train.model import ModelConfig
from tests.corpora import VOCABULARY, Recorder, prepared_corpus, warm_start

CONFIG = SolveConfig(
    instances=40,
    minimum_tokens=6,
    steps=6,
    batch=3,
    inner_optimizer="sgd",
    trajectory="source",
    learning_rate=0.3,
    dev_batch=4,
    every=1,
    chunk=4,
)
MODEL = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=12)


def solve_in(folder, config):
    prepared = prepared_corpus(folder)
    decoder = Decoder(MODEL.decoder(VOCABULARY))
    params = initialise(decoder, jax.random.key(0), prepared.source.tokens[:1])
    build_solve(config, Proxy(decoder, warm_start(params)), prepared, 0, folder, Recorder())
    return prepared


def test_instances_of_the_targets_language_score_higher(tmp_path):
    prepared = solve_in(tmp_path, dataclasses.replace(CONFIG, every=2))
    table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    score, good = np.array(table["score"]), np.array(table["document"]) % 2 == 0
    assert np.mean(score[good][:, None] > score[~good][None, :]) > 0.9  # the area under the ROC curve
    assert table["score"] == table["last_score"], "along one trajectory alone"
    rows = np.array(table["row"])
    assert (prepared.source.lengths[rows] >= CONFIG.minimum_tokens).all()
    assert len(set(rows)) == len(rows) == 40
    assert table["id"] == list(prepared.documents.ids[prepared.source_document[rows]])
    facts = json.loads((tmp_path / "solve.json").read_text())
    assert facts["status"] == "OK" and len(facts["costate_norms"]) == 6 and len(facts["area_under_curve"]) == 1
    first, last = ({check["name"]: check for check in facts["conditions"][when]} for when in ("first", "last"))
    assert first["gap"] == last["gap"] and not last["kkt"]["holds"], "uniform weights are not optimal"
    assert last["consistency"]["holds"] and facts["effective_instances"] == pytest.approx(40, rel=1e-4)
    assert facts["over_time"]["evaluated"] == 3
    estimator = facts["batch_estimator"]
    assert estimator["met"] == 18 and -1 <= estimator["spearman"] <= 1 and estimator["residual"] > 0
    assert facts["short_rows_left_out"] == int((prepared.source.lengths < 6).sum())


def test_outer_steps_come_nearer_to_the_conditions_with_the_whole_dev_split(tmp_path):
    config = dataclasses.replace(CONFIG, every=3, dev_batch=None, outer_steps=3)
    solve_in(tmp_path, config)
    facts = json.loads((tmp_path / "solve.json").read_text())
    values = facts["area_under_curve"]
    assert len(values) == 3 and min(values) < values[0]
    gaps = [next(c["value"] for c in facts["conditions"][when] if c["name"] == "gap") for when in ("first", "last")]
    assert gaps[1] < gaps[0]
    table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    weight, good = np.array(table["weight"]), np.array(table["document"]) % 2 == 0
    assert weight.sum() == pytest.approx(1, abs=1e-5) and weight[good].mean() > 1.5 * weight[~good].mean()


@pytest.mark.parametrize("rate", [1e20, 40.0])
def test_an_inner_run_that_explodes_is_refused_and_the_message_says_lower_the_rate(tmp_path, rate):
    config = dataclasses.replace(CONFIG, learning_rate=rate, steps=12, largest_growth=1e3)
    with pytest.raises(SweepError, match=rf"Lower --solve.learning-rate \(now {re.escape(f'{rate:g}')}\)"):
        solve_in(tmp_path, config)
    assert not (tmp_path / "scores.parquet").exists()


@pytest.mark.parametrize("directions", [1, 2])
def test_an_instance_costs_what_the_compiled_jvp_does(directions):
    decoder = Decoder(ModelConfig(width=64, layers=2, heads=2, key_value_heads=2, hidden=128).decoder(512))
    rows = Rows(jnp.ones((8, 17), jnp.int32), jnp.full(8, 17))
    params = initialise(decoder, jax.random.key(0), rows.tokens[:1])
    losses = example_losses(decoder)
    along = jax.tree.map(lambda leaf: jnp.stack([leaf] * directions), params)

    def scores(params, along):
        return jax.vmap(lambda one: jax.jvp(lambda p: losses(p, rows), (params,), (one,))[1])(along)

    def counted(function, *arguments):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]

    passes = counted(scores, params, along) / counted(lambda p: losses(p, rows), params)
    config = dataclasses.replace(CONFIG, every=None)
    expected = [sweep_flops(config, count, 1, 4, lambda rows: rows, directions) for count in (0, 1)]
    assert passes == pytest.approx(expected[1] - expected[0], rel=0.05)
