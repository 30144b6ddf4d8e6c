"""The stage `baselines`: each method scores once, and a killed stage goes on."""

import json

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.baselines.registry import BASELINES, REGISTRY
from pmpjax.baselines.stage import build_baselines
from pmpjax.runs.seeds import stage_key
from pmpjax.train import OptimizerConfig
from pmpjax.train.model import ModelConfig
from pmpjax.train.warm_start import WarmStart
from tests.corpora import Recorder, prepared_corpus

TINY = ModelConfig(width=8, layers=1, heads=2, key_value_heads=1, hidden=16)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A corpus, and a proxy that no scorer of these tests looks at."""
    return prepared_corpus(tmp_path_factory.mktemp("baselines")), WarmStart({}, None, OptimizerConfig())


def test_every_method_is_scored_once_and_a_killed_stage_goes_on(setting, tmp_path, monkeypatch):
    prepared, proxy = setting
    called = []

    def fake(name):
        def score(of, key):
            called.append(name)
            if name == "influence" and called.count(name) == 1:
                raise KeyboardInterrupt
            return np.arange(len(of.documents.ids), dtype=float)

        return REGISTRY[name]._replace(scorer=lambda of: score, flops=lambda of: 7)

    for name in BASELINES:
        monkeypatch.setitem(REGISTRY, name, fake(name))
    with pytest.raises(KeyboardInterrupt):
        build_baselines(BASELINES, TINY, prepared, proxy, 0, tmp_path, Recorder())
    kept = (tmp_path / "dsir.parquet").read_bytes()
    assert not (tmp_path / "influence.parquet").exists()
    bar = Recorder()
    build_baselines(BASELINES, TINY, prepared, proxy, 0, tmp_path, bar)
    assert called == ["dsir", "rho-loss", "influence", "influence", "gradient-similarity"] and bar.done == 4
    assert (tmp_path / "dsir.parquet").read_bytes() == kept
    facts = json.loads((tmp_path / "baselines.json").read_text())
    assert list(facts["methods"]) == list(BASELINES) and facts["flops"] == 28
    assert pq.read_table(tmp_path / "dsir.parquet")["id"].to_pylist() == list(prepared.documents.ids)


def test_a_methods_key_is_its_own_and_its_scores_are_stored_as_they_are(setting, tmp_path, monkeypatch):
    prepared, proxy = setting

    def score(of, key):
        return jax.random.uniform(key, (len(of.documents.ids),))

    for name in BASELINES[:2]:
        monkeypatch.setitem(REGISTRY, name, REGISTRY[name]._replace(scorer=lambda of: score))
    build_baselines(BASELINES[:2], TINY, prepared, proxy, 3, tmp_path, Recorder())
    for name in BASELINES[:2]:
        expected = jax.random.uniform(stage_key(3, "rivals", name), (len(prepared.documents.ids),))
        found = pq.read_table(tmp_path / f"{name}.parquet")["score"].to_numpy()
        np.testing.assert_array_equal(found, expected.astype(float), "another key would be another run")
