"""Prompts: which tokens a demonstration has, and what is done with demonstrations that do not fit."""

import jax
import numpy as np
import pytest

from pmpjax.contexts.prompt import Format, balanced_groups, build_prompt, stack_prompts

FORM = Format(lambda text: list(text.encode()), window=24, prefix=(1, 2))
TEXTS = ["ab:x\n", "cde:y\n", "f:x\n"]


def text_of(prompt, index):
    return bytes(prompt.tokens[prompt.owner == index].tolist()).decode()


def test_each_demonstration_has_its_own_tokens_and_the_answer_is_behind_the_query():
    prompt = build_prompt(FORM, TEXTS, "g:", "yx", chosen=[2, 0])
    assert bytes(prompt.tokens[2:].tolist()) == b"f:x\nab:x\ng:yx"
    assert [text_of(prompt, i) for i in range(3)] == ["ab:x\n", "", "f:x\n"]
    assert prompt.owner[:2].tolist() == [-1, -1] and (prompt.owner[-4:] == -1).all()
    assert bytes(prompt.tokens[prompt.answers].tolist()) == b"yx" and prompt.pool == 3


def test_what_the_window_cannot_hold_is_named_and_counted():
    with pytest.warns(UserWarning, match=r"1 of 3 demonstrations .* 19 tokens .*: 1 \(40 tokens\); they are left out"):
        prompt = build_prompt(FORM, ["ab:x\n", "z" * 40, "f:x\n"], "g:", "y")
    assert prompt.too_long == (1,) and text_of(prompt, 1) == "" and text_of(prompt, 2) == "f:x\n"
    with pytest.raises(ValueError, match=r"2 of 2 demonstrations .*none is left"):
        build_prompt(FORM, ["z" * 40, "z" * 30], "g:", "y")
    with pytest.raises(ValueError, match=r"4 demonstrations have 24 tokens, .* holds 19 .*the first 3 fit"):
        build_prompt(FORM, ["cde:y\n", "hij:y\n", "klm:y\n", "nop:y\n"], "g:", "y")


def test_duplicates_of_the_query_are_warned_about():
    with pytest.warns(UserWarning, match="2 demonstrations begin with the query's own text: 0, 2"):
        prompt = build_prompt(FORM, ["G:  x\n", "f:x\n", "g: y\n"], "g:")
    assert prompt.duplicates == (0, 2) and len(prompt.answers) == 0 and text_of(prompt, 2) == "g: y\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], "g:"), "list of demonstrations is empty"),
        ((TEXTS, "g:", "", []), "list of demonstrations is empty"),
        ((TEXTS, ""), "no token"),
        ((TEXTS, "g" * 30), "have 32 tokens, and the window holds 24"),
        ((["a", "", ""], "g:"), "2 demonstrations have no token: 1, 2"),
        ((TEXTS, "g:", "", [0, 3]), "chosen is 0, 3"),
        ((TEXTS, "g:", "", [1, 1]), "different indices"),
    ],
)
def test_bad_lists_and_queries_are_errors(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_prompt(FORM, *arguments)


def test_rows_are_padded_behind_and_must_share_their_list():
    short, long = build_prompt(FORM, TEXTS, "g:", "y", [0]), build_prompt(FORM, TEXTS, "g:", "xy")
    rows = stack_prompts([short, long], padding=7)
    size = len(short.tokens)
    assert (rows.tokens[0, size:] == 7).all() and (rows.owner[0, size:] == -1).all()
    assert rows.answers.tolist() == [[size - 1, -1], long.answers.tolist()] and rows.pool == 3
    with pytest.raises(ValueError, match="lists of 2, 3 demonstrations"):
        stack_prompts([build_prompt(FORM, TEXTS[:2], "g:"), long])
    with pytest.raises(ValueError, match="no demonstrations"):
        stack_prompts([])


@pytest.mark.parametrize(("pool", "size"), [(12, 4), (10, 4), (3, 3)])
def test_groups_hold_every_demonstration_and_none_twice(pool, size):
    groups = balanced_groups(jax.random.key(1), pool, size, rounds=5)
    assert all(len(set(group)) == size for group in groups.tolist())
    counts = np.bincount(groups.ravel(), minlength=pool)
    assert counts.min() >= 5 and (pool % size or counts.max() == 5)
    with pytest.raises(ValueError, match="groups of"):
        balanced_groups(jax.random.key(1), pool, pool + 1)
