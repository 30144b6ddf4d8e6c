"""The files of the selection, from scores in memory and in a file."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.baselines import random
from pmpjax.pds.stages.select import (
    SelectConfig,
    build_select,
    falling_times,
    falling_weights,
    load_selections,
    whole_times,
    write_selected,
)
from pmpjax.runs.seeds import stage_key
from pmpjax.scoring.engine import StoredScores
from pmpjax.scoring.top_r import gumbel_order, within_budget
from tests.corpora import Recorder, prepared_corpus


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
    order = gumbel_order(np.asarray(even(prepared, None)), config.temperature, stage_key(3, "select", "pds", "gumbel"))
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


def test_falling_weights_have_mean_one_by_tokens_and_whole_times_keep_them():
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 500, 300)
    weights = falling_weights(tokens)
    assert (np.diff(weights) < 0).all() and 0 < weights[-1] < 0.1 and 1.9 < weights[0] < 2
    assert weights @ tokens == pytest.approx(tokens.sum())
    times = [whole_times(weights, offset) for offset in generator.random(2000)]
    assert all(np.abs(each - weights).max() < 1 and np.abs(np.cumsum(each - weights)).max() < 1 for each in times)
    np.testing.assert_allclose(np.mean(times, axis=0), weights, atol=0.06)
    np.testing.assert_allclose(falling_weights(tokens, 0.25) - 1, (weights - 1) / 4, atol=1e-12)
    np.testing.assert_array_equal(falling_times(tokens, float(tokens.sum()), 0.3, slope=0.0), 1)
    assert falling_weights(np.array([7])).tolist() == [1.0] and whole_times(np.ones(1), 0.9).tolist() == [1]


@pytest.mark.parametrize("sizes", [(1, 500), (1, 2), (400, 401)])
def test_falling_times_keep_the_budget_and_always_bring_a_document(sizes):
    generator = np.random.default_rng(1)
    for count in (1, 2, 3, 40):
        tokens = generator.integers(*sizes, count)
        for offset in generator.random(50):
            times = falling_times(tokens, float(tokens.sum()), offset)
            assert times[0] >= 1 and times.min() >= 0 and times.max() <= 2 and times @ tokens <= tokens.sum()
    assert falling_times(np.array([10, 1]), 11.0, 0.95).tolist() == [1, 0], "twice the first would be more than both"


def test_only_methods_that_fall_take_documents_twice(tmp_path):
    prepared = prepared_corpus(tmp_path)
    scores = np.random.default_rng(0).normal(size=len(prepared.documents.ids))
    config = SelectConfig(ratio=0.5, temperature=0.0, falling=("pds",))
    methods = {"pds": lambda prepared, key: scores, "other": lambda prepared, key: scores}
    build_select(config, prepared, methods, range(2), tmp_path, Recorder())
    chosen, facts = load_selections(tmp_path), json.loads((tmp_path / "select.json").read_text())
    tokens, total = prepared.documents.n_tokens, prepared.documents.n_tokens.sum()
    for seed in range(2):
        falling, equal = chosen["pds", seed], chosen["other", seed]
        assert set(falling) < set(equal) and len(set(equal)) == len(equal)
        times = np.bincount(falling, minlength=len(scores))[equal]  # in the order of choice
        assert times.max() == 2 and times[: len(times) // 4].mean() > 1.5 > 0.5 > times[-len(times) // 4 :].mean()
        assert 0.9 * tokens[equal].sum() < tokens[falling].sum() <= config.ratio * total
        assert facts["selections"]["pds"][seed]["documents"] == len(set(falling))
        assert facts["selections"]["pds"][seed]["tokens"] == tokens[falling].sum()
    assert facts["selected_fraction"] == pytest.approx(tokens[chosen["pds", 0]].sum() / total)
    lines = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    documents, times = np.unique(chosen["pds", 0], return_counts=True)
    assert len(lines) == facts["selected_documents"]
    assert {line["id"]: line["times"] for line in lines} == dict(
        zip(prepared.documents.ids[documents].tolist(), times.tolist(), strict=True)
    )


def test_scores_in_a_file_are_chosen_from_as_those_in_memory(tmp_path):
    prepared = prepared_corpus(tmp_path)
    scores = np.random.default_rng(0).normal(size=len(prepared.documents.ids))
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"id": list(prepared.documents.ids), "score": scores}), path, row_group_size=7)
    for name, method in (("file", StoredScores(path)), ("memory", lambda prepared, key: scores)):
        build_select(SelectConfig(), prepared, {"one": method}, range(1), tmp_path / name, Recorder())
    for name in ("selected.jsonl", "selections.parquet", "select.json"):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "memory" / name).read_bytes()


def test_a_file_of_other_documents_is_refused(tmp_path):
    prepared = prepared_corpus(tmp_path)
    ids = list(prepared.documents.ids)
    for number, wrong in enumerate((ids[::-1], ids[:-1], [*ids, "one more"])):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"id": wrong, "score": np.arange(len(wrong), dtype=float)}), path)
        with pytest.raises(ValueError, match=f"{number}.parquet scores other documents"):
            build_select(SelectConfig(), prepared, {"one": StoredScores(path)}, range(1), tmp_path, Recorder())
    assert not (tmp_path / "selections.parquet").exists()


def test_texts_come_in_the_order_asked_for_whatever_their_length(tmp_path):
    prepared = prepared_corpus(tmp_path)
    count = 3000
    texts = [f"{index}\n\u2028é" * (index % 7) for index in range(count)]
    names = np.array([str(index) for index in range(count)], object)
    table = prepared.documents._replace(path=tmp_path / "many.parquet", ids=names, origins=names)
    pq.write_table(pa.table({"text": texts}), table.path, row_group_size=700)
    documents = np.random.default_rng(0).permutation(count)[:900]
    write_selected(tmp_path / "out.jsonl", table, documents, -documents.astype(float), documents % 3)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    expected = [
        {"id": str(d), "origin": str(d), "score": -float(d), "times": int(d % 3), "text": texts[d]} for d in documents
    ]
    assert [json.loads(line) for line in lines] == expected
    assert {path.name for path in tmp_path.iterdir()} == {"documents.parquet", "many.parquet", "out.jsonl"}


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


def test_equal_scores_are_said_and_chosen_at_random(tmp_path):
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
