"""The selection in one pass against brute force over the whole corpus."""

import jax
import numpy as np
import pytest

from pmpjax.scoring import top_r
from pmpjax.scoring.top_r import Documents, gumbel_noise, gumbel_selection, measure
from tests.oracles import gumbel_order, within_budget

KEY = jax.random.key(4)


def parts_of(scores, tokens, groups=None, size=7):
    """The corpus in parts of `size` documents."""
    groups = np.zeros(len(scores), np.int64) if groups is None else groups
    columns = Documents(np.asarray(scores, np.float64), np.asarray(tokens), groups)
    for first in range(0, len(scores), size):
        yield Documents(*(column[first : first + size] for column in columns))


def selected(scores, tokens, groups=None, *, size=7, key=KEY, **options):
    """Positions in the order of choice; the other columns are held against the corpus's own."""
    scale = measure(np.asarray(scores, np.float64))
    found = gumbel_selection(parts_of(scores, tokens, groups, size), scale, key, **options)
    np.testing.assert_array_equal(found.score, np.asarray(scores)[found.position])
    np.testing.assert_array_equal(found.tokens, np.asarray(tokens)[found.position])
    assert (np.diff(found.value) <= 0).all()
    return found.position


def expected(scores, tokens, temperature, budget, share=1.0, groups=None):
    noise = temperature * gumbel_noise(KEY, 0, len(scores)) if temperature else 0.0
    return within_budget(gumbel_order(scores, noise), tokens, budget, share, groups)


def test_the_selection_does_not_change_with_the_scale_of_the_scores():
    scores, tokens = np.random.default_rng(0).normal(3.0, 5.0, 200), np.ones(200, np.int64)
    found = [selected(each, tokens, temperature=0.7, budget=90.0) for each in (scores, 128 * scores - 7)]
    np.testing.assert_array_equal(*found)
    assert len(found[0]) == 90


def test_without_noise_the_highest_scores_are_kept_and_equal_ones_in_their_order():
    scores = np.random.default_rng(1).integers(0, 5, 50).astype(float)
    found = selected(scores, np.ones(50, np.int64), temperature=0.0, budget=30.0)
    np.testing.assert_array_equal(found, np.argsort(-scores, kind="stable")[:30])


def test_the_first_draw_has_the_odds_of_a_softmax():
    scores = np.array([0.0, 1.0, 2.0, 4.0])
    standard = (scores - scores.mean()) / scores.std()
    options = {"temperature": 0.8, "budget": 1.0}
    first = [selected(scores, np.ones(4, np.int64), key=jax.random.key(seed), **options)[0] for seed in range(800)]
    odds = np.exp(standard / 0.8) / np.exp(standard / 0.8).sum()
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 800, odds, atol=0.06)


def test_the_noise_is_gumbel_and_depends_on_key_and_position_alone():
    noise = gumbel_noise(KEY, 0, 40_000)
    # The inverse distribution function at even steps, against the sorted sample: Kolmogorov and Smirnov's distance.
    distance = np.abs(np.exp(-np.exp(-np.sort(noise))) - (np.arange(40_000) + 0.5) / 40_000).max()
    assert distance < 1.95 / np.sqrt(40_000)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(noise, gumbel_noise(jax.random.key(5), 0, 40_000))[0, 1]) < 0.02
    for first in (0, 1, 2, 3, 4, 39_990):
        np.testing.assert_array_equal(gumbel_noise(KEY, first, 10), noise[first : first + 10])


def random_case(generator):
    count = int(generator.integers(1, 90))
    scores = {
        0: lambda: generator.normal(1e6, 1e-3, count),
        1: lambda: generator.integers(-1, 2, count).astype(float),
        2: lambda: np.full(count, 0.1),
        3: lambda: generator.standard_cauchy(count) * 10.0 ** generator.integers(-9, 9),
    }[int(generator.integers(4))]()
    tokens = generator.integers(int(generator.integers(2)), int(generator.integers(2, 2000)), count)
    temperature = float(generator.choice([0.0, 0.1, 3.0]))
    ratio = float(generator.choice([1e-9, 0.01, 0.1, 0.4, 0.9, 1.0]))
    return scores, tokens, temperature, ratio * float(tokens.sum())


@pytest.mark.parametrize("seed", range(60))
def test_one_pass_chooses_what_is_chosen_in_memory(seed):
    generator = np.random.default_rng(seed)
    scores, tokens, temperature, budget = random_case(generator)
    for size in (1, 13, 1000) if seed % 10 == 0 else (int(generator.integers(1, 40)),):
        found = selected(scores, tokens, size=size, temperature=temperature, budget=budget)
        np.testing.assert_array_equal(found, expected(scores, tokens, temperature, budget))


@pytest.mark.parametrize("seed", range(30))
def test_a_full_groups_documents_are_passed_over(seed):
    generator = np.random.default_rng([1, seed])
    scores, tokens, temperature, budget = random_case(generator)
    groups, share = generator.integers(0, 3 + seed, len(scores)), float(generator.choice([0.05, 0.3, 0.6, 1.0]))
    options = {"temperature": temperature, "budget": budget, "share": share}
    found = selected(scores, tokens, groups, size=int(generator.integers(1, 40)), **options)
    np.testing.assert_array_equal(found, expected(scores, tokens, **options, groups=groups))


def test_a_document_that_leaves_its_group_makes_room_for_another_group():
    # Group 0 may have 10 tokens: its new first document pushes the 9 tokens of the other one out, so that the 6 tokens
    # of group 1, which did not fit into the 12 before, do so now.
    scores, tokens, groups = [2.0, 1.0, 3.0], [9, 6, 5], np.array([0, 1, 0])
    options = {"temperature": 0.0, "budget": 12.0, "share": 10 / 12}
    assert selected(scores[:2], tokens[:2], groups[:2], size=1, **options).tolist() == [0]
    assert selected(scores, tokens, groups, size=1, **options).tolist() == [2, 1]


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_memory_is_that_of_the_selection_and_a_part(share, monkeypatch):
    generator = np.random.default_rng(3)
    scores, tokens = generator.normal(size=20_000), generator.integers(1, 900, 20_000)
    groups, budget, seen = generator.integers(0, 2, 20_000), 0.01 * float(tokens.sum()), []
    ordered = top_r._sorted
    monkeypatch.setattr(top_r, "_sorted", lambda found: seen.append(len(found.value)) or ordered(found))
    chosen = selected(scores, tokens, groups, size=500, temperature=0.1, budget=budget, share=share)
    assert len(seen) == 40 and max(seen) <= 500 + 1.5 * len(chosen)


def test_the_mean_and_deviation_do_not_lose_small_differences_beside_a_large_mean():
    scores = 1e9 + np.tile([-1e-3, 1e-3], 5000)
    scale = measure(scores)
    assert scale.deviation == pytest.approx(np.subtract(scores, 1e9).std(), rel=1e-6)
    assert measure(np.random.default_rng(0).permutation(scores)) == scale, "sums are exact in any order"


def test_equal_scores_leave_the_choice_to_the_noise():
    assert measure(np.full(40, 0.1)) == (0.1, 0.0)
    found = selected(np.full(40, 0.1), np.ones(40, np.int64), temperature=0.5, budget=40.0)
    np.testing.assert_array_equal(found, np.argsort(-gumbel_noise(KEY, 0, 40)))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([0.0, np.nan, np.inf], "2 scores are not finite, the first of document 1"),
        ([], "no document"),
        ([-1e308, 1e308], "rescale"),
        ([1e308, 1e308, 1.7e308], "rescale"),
    ],
)
def test_scores_that_cannot_be_ordered_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        measure(np.array(scores))
