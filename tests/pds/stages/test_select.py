"""The files of the stage `select`, from scores in memory and in a file."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.baselines import random
from pmpjax.pds.stages import select
from pmpjax.pds.stages.select import SelectConfig, build_select, load_selections
from pmpjax.runs.seeds import stage_key
from pmpjax.scoring.stored import StoredScores
from pmpjax.scoring.top_r import gumbel_noise
from tests.corpora import Recorder, prepared_corpus
from tests.oracles import gumbel_order, within_budget


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.0},
        {"ratio": 1.5},
        {"ratio": float("nan")},
        {"temperature": -0.1},
        {"largest_share": 0.0},
        {"slope": 1.1},
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SelectConfig(**options)


def even(prepared, key):
    return jnp.asarray(np.arange(len(prepared.documents.ids)) % 2 == 0, float)


def test_files_of_the_stage(tmp_path):
    prepared = prepared_corpus(tmp_path)
    total = int(prepared.documents.n_tokens.sum())
    config = SelectConfig(ratio=0.3)
    build_select(config, prepared, {"pds": even, "random": random}, range(3, 5), tmp_path, bar := Recorder())
    assert bar.done == 4
    selections = load_selections(tmp_path)
    assert sorted(selections) == [("pds", 3), ("pds", 4), ("random", 3), ("random", 4)]
    for (method, _), documents in selections.items():
        assert len(set(documents)) == len(documents)
        assert 0.2 * total < prepared.documents.n_tokens[documents].sum() <= 0.3 * total
        assert method == "random" or (documents % 2 == 0).all()
    assert set(selections["random", 3]) != set(selections["random", 4])
    noise = gumbel_noise(stage_key(3, "select", "pds", "gumbel"), 0, len(prepared.documents.ids))
    order = gumbel_order(np.asarray(even(prepared, None)), config.temperature * noise)
    expected = within_budget(order, prepared.documents.n_tokens, 0.3 * total)
    np.testing.assert_array_equal(selections["pds", 3], expected)

    lines = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    assert sorted(lines[0]) == ["id", "origin", "score", "text", "times"]
    assert [line["id"] for line in lines] == prepared.documents.ids[expected].tolist()  # equal scores: as chosen
    index = int(lines[0]["id"].removeprefix("document-"))
    assert lines[0]["text"] == prepared.documents.texts([index])[0]
    facts = json.loads((tmp_path / "select.json").read_text())
    assert facts["selected_fraction"] == pytest.approx(prepared.documents.n_tokens[selections["pds", 3]].sum() / total)
    assert facts["all_equal"] is False


def test_only_methods_that_repeat_by_rank_take_documents_twice(tmp_path):
    prepared = prepared_corpus(tmp_path)
    scores = np.random.default_rng(0).normal(size=len(prepared.documents.ids))
    config = SelectConfig(ratio=0.5, temperature=0.0, repeat_by_rank=("pds",))
    methods = {"pds": lambda prepared, key: scores, "other": lambda prepared, key: scores}
    build_select(config, prepared, methods, range(2), tmp_path, Recorder())
    chosen, facts = load_selections(tmp_path), json.loads((tmp_path / "select.json").read_text())
    tokens, total = prepared.documents.n_tokens, prepared.documents.n_tokens.sum()
    for seed in range(2):
        repeated, equal = chosen["pds", seed], chosen["other", seed]
        assert set(repeated) < set(equal) and len(set(equal)) == len(equal)
        times = np.bincount(repeated, minlength=len(scores))[equal]  # in the order of choice
        assert times.max() == 2 and times[: len(times) // 4].mean() > 1.5 > 0.5 > times[-len(times) // 4 :].mean()
        assert 0.9 * tokens[equal].sum() < tokens[repeated].sum() <= config.ratio * total
        assert facts["selections"]["pds"][seed]["documents"] == len(set(repeated))
        assert facts["selections"]["pds"][seed]["tokens"] == tokens[repeated].sum()
    assert facts["selected_fraction"] == pytest.approx(tokens[chosen["pds", 0]].sum() / total)
    lines = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    documents, times = np.unique(chosen["pds", 0], return_counts=True)
    assert len(lines) == facts["selected_documents"]
    assert {line["id"]: line["times"] for line in lines} == dict(
        zip(prepared.documents.ids[documents].tolist(), times.tolist(), strict=True)
    )


def test_scores_in_a_file_are_read_once_and_chosen_from_as_those_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(select, "PART", 7)  # parts of the corpus change nothing
    prepared = prepared_corpus(tmp_path)
    scores = np.random.default_rng(0).normal(size=len(prepared.documents.ids))
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"id": list(prepared.documents.ids), "score": scores}), path, row_group_size=7)
    opened, whole = [], pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda at, **options: opened.append(at) or whole(at, **options))
    for name, method in (("file", StoredScores(path)), ("memory", lambda prepared, key: scores)):
        build_select(SelectConfig(), prepared, {"one": method}, range(3), tmp_path / name, Recorder())
        monkeypatch.setattr(select, "PART", 10**6)
    assert opened.count(path) == 1
    for name in ("selected.jsonl", "selections.parquet", "select.json"):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()


def test_a_share_caps_what_one_group_of_origins_may_have(tmp_path):
    prepared = prepared_corpus(tmp_path)
    tokens = prepared.documents.n_tokens
    config = SelectConfig(ratio=0.4, largest_share=0.5)
    build_select(config, prepared, {"pds": even}, range(1), tmp_path, Recorder())
    chosen = load_selections(tmp_path)["pds", 0]
    budget = 0.4 * tokens.sum()
    held = tokens[chosen[chosen % 2 == 0]].sum()
    assert 0.4 * budget < held <= 0.5 * budget < tokens[chosen].sum() <= budget
    build_select(
        dataclasses.replace(config, largest_share=1.0), prepared, {"pds": even}, range(1), tmp_path, Recorder()
    )
    assert (load_selections(tmp_path)["pds", 0] % 2 == 0).all()


def test_equal_scores_are_reported_and_chosen_at_random(tmp_path):
    prepared = prepared_corpus(tmp_path)
    methods = {"flat": lambda prepared, key: jnp.ones(len(prepared.documents.ids)), "random": random}
    build_select(SelectConfig(), prepared, methods, range(2), tmp_path, Recorder())
    facts = json.loads((tmp_path / "select.json").read_text())
    assert facts["all_equal"] is True
    assert [one["all_equal"] for one in facts["selections"]["flat"]] == [True, True]
    assert [one["all_equal"] for one in facts["selections"]["random"]] == [False, False]
    chosen = load_selections(tmp_path)
    assert not np.array_equal(chosen["flat", 0], chosen["flat", 1])


def test_scores_that_are_not_finite_are_refused_and_leave_nothing(tmp_path):
    prepared = prepared_corpus(tmp_path)
    methods = {"pds": lambda prepared, key: even(prepared, key).at[5].set(jnp.nan)}
    with pytest.raises(ValueError, match="1 scores are not finite, the first of document 5"):
        build_select(SelectConfig(), prepared, methods, range(1), tmp_path, Recorder())
    assert {path.name for path in tmp_path.iterdir()} == {"documents.parquet"}
