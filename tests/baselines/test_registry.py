"""The methods compared with PDS: scored once, goes on after a kill, judged by paired differences."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from pmpjax.baselines import registry
from pmpjax.baselines.registry import RIVALS, Method, build_rivals, check_rivals, rival_method
from pmpjax.models import Decoder, initialise
from pmpjax.pds.compare import comparison, comparison_table, selection_costs
from pmpjax.pds.pipeline import PDSConfig
from pmpjax.pds.stages.evaluate import EvaluateConfig, build_evaluate, load_evaluation
from pmpjax.pds.stages.select import SelectConfig
from pmpjax.statistics import paired_difference
from pmpjax.train.model import ModelConfig
from tests.pds.synthetic import Recorder, prepared_corpus, warm_start

TINY = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=16)
STEPS = np.arange(0, 401, 20)


def straight(falls):
    """{(method, seed): curves} that fall by `falls[method][seed]` in all."""
    return {
        (name, seed): {"steps": STEPS, **{split: 6 - STEPS * fall / 400 for split in ("test", "dev")}}
        for name, per_seed in falls.items()
        for seed, fall in enumerate(per_seed)
    }


def test_the_paired_interval_is_students_by_hand():
    found = paired_difference([1.0, 1.2, 0.9], [1.5, 1.4, 1.6])
    values = np.array([-0.5, -0.2, -0.7])
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(found["values"], values)
    np.testing.assert_allclose(found["interval"], [values.mean() - half, values.mean() + half])
    assert paired_difference([1.0], [2.0]) == {"values": [-1.0], "mean": -1.0, "interval": None}


def test_rivals_are_judged_beside_the_same_words_and_speed_ups(tmp_path):
    pair = {"pds": [2.0, 2.2, 2.1], "random": [1.0, 1.0, 1.0]}
    for folder, falls in ((tmp_path / "two", pair), (tmp_path / "all", {"dsir": [1.6, 2.4, 0.5], **pair})):
        folder.mkdir()
        build_evaluate(EvaluateConfig(), straight(falls), "pds", folder)
    two, everything = load_evaluation(tmp_path / "two"), load_evaluation(tmp_path / "all")
    for name in ("speedup", "steps_needed", "verdict"):
        assert everything[name] == two[name]
    assert "arms" not in two and "difference" not in two
    assert everything["arms"]["dsir"]["speedup"]["test"] == [pytest.approx(1.6), pytest.approx(2.4), None]
    assert everything["difference"]["test"]["dsir"]["values"] == pytest.approx([-0.4, 0.2, -1.6])
    low, high = everything["difference"]["test"]["random"]["interval"]
    assert low < -1.1 < high < 0

    stages = {name: {"flops": 10.0} for name in ("proxy", "solve", "fit", "score")}
    stages["rivals"] = {"methods": {"dsir": {"seconds": 3.0, "flops": 0.0}}}
    costs = selection_costs("pds", stages, dict.fromkeys(stages, 2.0))
    assert costs["pds"] == {"seconds": 8.0, "flops": 40.0} and costs["dsir"] == {"seconds": 3.0, "flops": 0.0}
    table = comparison("pds", everything, costs)
    assert list(table) == ["pds", "dsir", "random"]  # by the mean final loss
    assert table["pds"]["difference"] is None and table["pds"]["mean"] == pytest.approx(6 - 2.1)
    assert {len(row) for row in comparison_table(table)} == {6}


def test_a_receding_horizon_is_compared_with_every_method(tmp_path):
    falls = {"pds": [2.0, 2.2], "random": [1.0, 1.0], "pds-receding": [2.5, 2.3]}
    build_evaluate(EvaluateConfig(), straight(falls), "pds", tmp_path)
    found = comparison("pds", load_evaluation(tmp_path), {name: {"seconds": 1.0, "flops": 1.0} for name in falls})
    assert found["random"]["receding_difference"]["values"] == pytest.approx([-1.5, -1.3])
    assert found["pds"]["receding_difference"]["mean"] == pytest.approx(-0.3)
    assert found["pds-receding"]["receding_difference"] is None
    header, *rows = comparison_table(found)
    column = header.index("PDS, receding, minus it")
    assert [row[0] for row in rows] == ["PDS, receding horizon", "PDS", "random"]
    assert [row[column].split()[0] if row[column] else "" for row in rows] == ["", "-0.3000", "-1.4000"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    prepared = prepared_corpus(tmp_path_factory.mktemp("rivals"))
    decoder = Decoder(TINY.decoder(prepared.vocabulary))
    return prepared, warm_start(initialise(decoder, registry.stage_key(0, "test"), prepared.source_rows[:1]))


def test_every_method_is_scored_once_and_a_killed_stage_goes_on(setting, tmp_path, monkeypatch):
    prepared, proxy = setting
    called = []

    def fake(name, *_):
        def score(of, key):
            called.append(name)
            if name == "influence" and called.count(name) == 1:
                raise KeyboardInterrupt
            return registry.dsir()(of, key)

        return Method(score, 7.0)

    monkeypatch.setattr(registry, "rival_method", fake)
    with pytest.raises(KeyboardInterrupt):
        build_rivals(RIVALS, TINY, prepared, proxy, 0, tmp_path, Recorder())
    kept = (tmp_path / "dsir.parquet").read_bytes()
    assert not (tmp_path / "influence.parquet").exists()
    bar = Recorder()
    build_rivals(RIVALS, TINY, prepared, proxy, 0, tmp_path, bar)
    assert called == ["dsir", "rho-loss", "influence", "influence", "gradient-similarity"] and bar.done == 4
    assert (tmp_path / "dsir.parquet").read_bytes() == kept
    facts = json.loads((tmp_path / "rivals.json").read_text())
    assert list(facts["methods"]) == list(RIVALS) and facts["flops"] == 28
    assert pq.read_table(tmp_path / "dsir.parquet")["id"].to_pylist() == list(prepared.documents.ids)


def test_the_flops_are_those_of_a_pass_over_the_source(setting):
    prepared, proxy = setting
    flops = {name: rival_method(name, TINY, prepared, proxy).flops for name in RIVALS}
    assert flops["dsir"] == 0
    rows, dev = len(prepared.source_rows), len(prepared.dev_rows)
    forward = flops["gradient-similarity"] / 3 / (rows + dev)
    assert flops["rho-loss"] == pytest.approx(forward * (3 * 1600 + 2 * rows))
    assert flops["influence"] == pytest.approx(forward * (3 * dev + 9 * 20 * min(256, rows) + 3 * rows))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dsir", "dsri"), "did you mean dsir?"),
        (("gradients",), "did you mean gradient-similarity?"),
        (("xyz",), "expected one of (dsir, rho-loss"),
    ],
)
def test_unknown_rivals_are_refused_with_the_near_ones(names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_rivals(names)


def test_a_rival_named_twice_is_refused():
    with pytest.raises(ValueError, match="one twice"):
        PDSConfig(rivals=("dsir", "influence", "dsir"))
    with pytest.raises(ValueError, match=r"select.falling names random; expected any of pds, dsir"):
        PDSConfig(select=SelectConfig(falling=("pds", "random")))
