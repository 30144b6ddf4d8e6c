"""The selection in passes against the one in memory, and both against brute force."""

import weakref

import jax
import numpy as np
import pytest

from pmpjax.scoring.top_r import (
    Documents,
    gumbel_noise,
    gumbel_order,
    gumbel_selection,
    measure,
    within_budget,
)

KEY = jax.random.key(4)


def passes_over(scores, tokens, groups=None, size=7):
    """Parts of `size` documents, made anew at each pass."""
    groups = np.zeros(len(scores), np.int64) if groups is None else groups
    columns = Documents(np.asarray(scores, np.float64), np.asarray(tokens), groups)

    def passes():
        for first in range(0, len(scores), size):
            yield Documents(*(column[first : first + size] for column in columns))

    return passes


def streamed(passes, key=KEY, **options):
    """What the passes choose, in the order of choice."""
    parts = list(gumbel_selection(passes, measure(passes), key, **options))
    positions, values = (np.concatenate([getattr(part, name) for part in parts]) for name in ("position", "value"))
    assert (np.diff(positions) > 0).all()
    return positions[np.argsort(-values, kind="stable")]


def test_the_kept_documents_are_the_top_r_of_score_plus_noise_by_brute_force():
    scores = np.random.default_rng(0).normal(3.0, 5.0, 200)
    standard = (scores - np.mean(scores)) / np.std(scores)
    noisy = standard + 0.7 * gumbel_noise(KEY, 0, 200)
    order = gumbel_order(scores, 0.7, KEY)
    for r in (1, 17, 200):
        assert all(noisy[kept] >= max(np.delete(noisy, order[:r]), default=-np.inf) for kept in order[:r])
    assert sorted(order) == list(range(200))
    np.testing.assert_array_equal(gumbel_order(128 * scores - 7, 0.7, KEY), order)


def test_without_noise_the_highest_scores_are_kept_and_equal_ones_in_their_order():
    scores = np.random.default_rng(1).integers(0, 5, 50).astype(float)
    np.testing.assert_array_equal(gumbel_order(scores, 0.0, KEY), np.argsort(-scores, kind="stable"))


def test_the_first_draw_has_the_odds_of_a_softmax():
    scores = np.array([0.0, 1.0, 2.0, 4.0])
    standard = (scores - scores.mean()) / scores.std()
    first = [gumbel_order(scores, 0.8, jax.random.key(seed))[0] for seed in range(800)]
    expected = np.exp(standard / 0.8) / np.exp(standard / 0.8).sum()
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 800, expected, atol=0.06)


def test_the_noise_is_gumbel_and_depends_on_key_and_position_alone():
    noise = gumbel_noise(KEY, 0, 40_000)
    # The inverse distribution function at even steps, against the sorted sample: Kolmogorov and Smirnov's distance.
    distance = np.abs(np.exp(-np.exp(-np.sort(noise))) - (np.arange(40_000) + 0.5) / 40_000).max()
    assert distance < 1.95 / np.sqrt(40_000)
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(noise, gumbel_noise(jax.random.key(5), 0, 40_000))[0, 1]) < 0.02
    for first in (0, 1, 2, 3, 4, 39_990):
        np.testing.assert_array_equal(gumbel_noise(KEY, first, 10), noise[first : first + 10])


def test_the_budget_is_in_tokens_and_is_the_longest_prefix():
    generator = np.random.default_rng(2)
    tokens, order = generator.integers(1, 50, 30), generator.permutation(30)
    for budget in (1, 100, 333, 10_000):
        chosen = within_budget(order, tokens, budget)
        assert len(chosen) == 1 or tokens[chosen].sum() <= budget
        assert len(chosen) == 30 or tokens[order[: len(chosen) + 1]].sum() > budget


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
def test_passes_choose_what_is_chosen_in_memory(seed):
    generator = np.random.default_rng(seed)
    scores, tokens, temperature, budget = random_case(generator)
    expected = within_budget(gumbel_order(scores, temperature, KEY), tokens, budget)
    for size in (1, 13, 1000) if seed % 10 == 0 else (int(generator.integers(1, 40)),):
        chosen = streamed(passes_over(scores, tokens, size=size), temperature=temperature, budget=budget)
        np.testing.assert_array_equal(chosen, expected)


def in_order_with_caps(order, tokens, groups, budget, share):
    """One document after the other, as a person would do it."""
    closed, held, chosen, total = set(), {}, [], 0
    for document in order:
        group = groups[document]
        if group in closed or held.get(group, 0) + tokens[document] > share * budget:
            closed.add(group)
            continue
        if total + tokens[document] > budget:
            break
        held[group] = held.get(group, 0) + tokens[document]
        total += tokens[document]
        chosen.append(document)
    return chosen or order[:1]


@pytest.mark.parametrize("seed", range(30))
def test_a_full_groups_documents_are_passed_over(seed):
    generator = np.random.default_rng([1, seed])
    scores, tokens, temperature, budget = random_case(generator)
    names = 30 if seed % 10 == 0 else 3  # more groups than a pass settles 16 bits of
    groups, share = generator.integers(0, names, len(scores)), float(generator.choice([0.05, 0.3, 0.6, 1.0]))
    passes = passes_over(scores, tokens, groups, size=int(generator.integers(1, 40)))
    chosen = streamed(passes, temperature=temperature, budget=budget, share=share)
    order = gumbel_order(scores, temperature, KEY)
    if share == 1:
        np.testing.assert_array_equal(chosen, within_budget(order, tokens, budget))
    else:
        np.testing.assert_array_equal(chosen, in_order_with_caps(order, tokens, groups, budget, share))


def test_three_parts_at_most_are_in_memory_and_their_size_changes_nothing():
    generator = np.random.default_rng(3)
    scores, tokens = generator.normal(size=20_000), generator.integers(1, 900, 20_000)
    options = {"temperature": 0.1, "budget": 0.2 * float(tokens.sum())}
    seen, alive = [], []

    def passes():
        for part in passes_over(scores, tokens, size=2000)():
            own = part.score.copy()
            seen.append(weakref.ref(own))
            alive.append(sum(one() is not None for one in seen))
            yield part._replace(score=own)

    whole = streamed(passes_over(scores, tokens, size=20_000), **options)
    np.testing.assert_array_equal(streamed(passes, **options), whole)
    assert max(alive) <= 3


def test_the_mean_and_deviation_do_not_lose_small_differences_beside_a_large_mean():
    scores = 1e9 + np.tile([-1e-3, 1e-3], 5000)
    exact = np.subtract(scores, 1e9)
    corpus = measure(passes_over(scores, np.ones(10_000, np.int64), size=999))
    assert corpus.deviation == pytest.approx(exact.std(), rel=1e-6)
    assert corpus[:3] == (10_000, 10_000, 1)


def test_equal_scores_leave_the_choice_to_the_noise():
    corpus = measure(passes_over(np.full(40, 0.1), np.ones(40, np.int64)))
    assert (corpus.mean, corpus.deviation) == (0.1, 0.0)
    np.testing.assert_array_equal(gumbel_order(np.full(40, 0.1), 0.5, KEY), np.argsort(-gumbel_noise(KEY, 0, 40)))


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
        gumbel_order(np.array(scores), 0.1, KEY)
    with pytest.raises(ValueError, match=message):
        measure(passes_over(scores, np.ones(len(scores), np.int64), size=2))
