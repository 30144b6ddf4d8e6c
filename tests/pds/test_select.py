"""Selection against brute force, and its files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.baselines import random
from pmpjax.pds.select import SelectConfig, build_select, gumbel_order, load_selections, within_budget
from tests.pds.synthetic import Recorder, prepared_corpus


def test_the_kept_documents_are_the_top_r_of_score_plus_noise_by_brute_force():
    scores = np.random.default_rng(0).normal(3.0, 5.0, 200)
    key, temperature = jax.random.key(4), 0.7
    standard = (scores - np.mean(scores)) / np.std(scores)
    noisy = standard + temperature * np.asarray(jax.random.gumbel(key, (200,)), np.float64)
    order = gumbel_order(scores, temperature, key)
    for r in (1, 17, 200):
        assert all(noisy[kept] >= max(np.delete(noisy, order[:r]), default=-np.inf) for kept in order[:r])
    assert sorted(order) == list(range(200))
    np.testing.assert_array_equal(gumbel_order(100 * scores - 7, temperature, key), order)


def test_without_noise_the_highest_scores_are_kept():
    scores = np.random.default_rng(1).normal(size=50)
    np.testing.assert_array_equal(gumbel_order(scores, 0.0, jax.random.key(0)), np.argsort(-scores))


def test_the_first_draw_has_the_odds_of_a_softmax():
    scores = np.array([0.0, 1.0, 2.0, 4.0])
    standard = (scores - scores.mean()) / scores.std()
    first = [gumbel_order(scores, 0.8, jax.random.key(seed))[0] for seed in range(1500)]
    expected = np.exp(standard / 0.8) / np.exp(standard / 0.8).sum()
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 1500, expected, atol=0.05)


def test_the_budget_is_in_tokens_and_is_the_longest_prefix():
    generator = np.random.default_rng(2)
    tokens, order = generator.integers(1, 50, 30), generator.permutation(30)
    for budget in (1, 100, 333, 10_000):
        chosen = within_budget(order, tokens, budget)
        assert len(chosen) == 1 or tokens[chosen].sum() <= budget
        assert len(chosen) == 30 or tokens[order[: len(chosen) + 1]].sum() > budget


def test_scores_that_are_not_finite_are_refused_with_the_document():
    with pytest.raises(ValueError, match="the first of document 1"):
        gumbel_order(np.array([0.0, np.nan, np.inf]), 0.1, jax.random.key(0))


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 1.5}, {"temperature": -0.1}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SelectConfig(**options)


def test_files_of_the_stage(tmp_path):
    prepared = prepared_corpus(tmp_path)
    total = int(prepared.documents.n_tokens.sum())

    def even(prepared, key):
        return jnp.asarray(np.arange(len(prepared.documents.ids)) % 2 == 0, float)

    build_select(
        SelectConfig(ratio=0.3), prepared, {"pds": even, "random": random}, range(3, 5), tmp_path, bar := Recorder()
    )
    assert bar.done == 4
    selections = load_selections(tmp_path)
    assert sorted(selections) == [("pds", 3), ("pds", 4), ("random", 3), ("random", 4)]
    for (method, _), documents in selections.items():
        assert len(set(documents)) == len(documents)
        assert 0.2 * total < prepared.documents.n_tokens[documents].sum() <= 0.3 * total
        assert method == "random" or (documents % 2 == 0).all()
    assert set(selections["random", 3]) != set(selections["random", 4])
    lines = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    assert sorted(lines[0]) == ["id", "origin", "score", "text"]
    assert {line["id"] for line in lines} == set(prepared.documents.ids[selections["pds", 3]])
    index = int(lines[0]["id"].removeprefix("document-"))
    assert lines[0]["text"] == prepared.documents.texts([index])[0]
    facts = json.loads((tmp_path / "select.json").read_text())
    assert facts["selected_fraction"] == pytest.approx(prepared.documents.n_tokens[selections["pds", 3]].sum() / total)
