"""Token masks against what they forbid, looked for in the whole text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.models.search import TokenMask, automaton, both, no_repeat
from pmpjax.models.search.masks import after_rows, allowed_rows, begin_rows


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_no_repeat_forbids_what_would_be_there_twice(size):
    vocabulary, steps = 3, 8
    mask, generator = no_repeat(size, vocabulary), np.random.default_rng(size)
    assert mask is no_repeat(size, vocabulary)
    prompts, lengths = generator.integers(vocabulary, size=(5, 6)), np.array([6, 4, 3, 2, 1])
    states = begin_rows(mask, jnp.asarray(prompts), jnp.asarray(lengths), steps)
    texts = [row[:length].tolist() for row, length in zip(prompts, lengths, strict=True)]
    allowed_of, after = jax.jit(lambda s: allowed_rows(mask, s, (5, 3))), jax.jit(lambda s, t: after_rows(mask, s, t))
    for _ in range(steps):
        for text, found in zip(texts, np.asarray(allowed_of(states)), strict=True):
            seen = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
            head = text[len(text) - size + 1 :] if size > 1 else []
            twice = [len(text) >= size - 1 and (*head, token) in seen for token in range(vocabulary)]
            assert found.tolist() == [not there for there in twice]
        tokens = generator.integers(vocabulary, size=5)
        states = after(states, jnp.asarray(tokens))
        for text, token in zip(texts, tokens.tolist(), strict=True):
            text.append(token)


def test_an_automaton_goes_from_state_to_state_and_both_allows_what_each_does():
    # Brackets: 0 opens, 1 closes, 2 is text, at most two deep.
    allowed = np.array([[True, False, True], [True, True, True], [False, True, True]])
    brackets = automaton(allowed, np.array([[1, 0, 0], [2, 0, 1], [2, 1, 2]]))
    mask = both(brackets, no_repeat(1, 3))
    assert mask is both(brackets, no_repeat(1, 3))
    states = begin_rows(mask, jnp.array([[2]]), jnp.array([1]), 3)
    for token, expected in ((0, [1, 0, 0]), (1, [0, 1, 0]), (None, [0, 0, 0])):
        assert allowed_rows(mask, states, (1, 3)).astype(int).tolist() == [expected]  # pyright: ignore[reportOptionalMemberAccess]
        if token is not None:
            states = after_rows(mask, states, jnp.array([token]))
    allowed[:] = True  # the mask has copied it
    assert not brackets.allowed(jnp.array(2))[0]


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"must give bool \[7\], one for each token of the model; found bool \[3\]"):
        allowed_rows(no_repeat(2, 3), begin_rows(no_repeat(2, 3), jnp.zeros((2, 4), int), jnp.ones(2, int), 1), (2, 7))
    weights = TokenMask(lambda *_: (), lambda _: jnp.ones(7), lambda *_: ())
    with pytest.raises(ValueError, match=r"found float32 \[7\]"):
        allowed_rows(weights, (), (2, 7))
    with pytest.raises(ValueError, match="must be positive, found 0"):
        no_repeat(0, 3)
    with pytest.raises(ValueError, match=r"no_repeat compares ids, and the prompt is float32 of shape \[4, 8\]"):
        begin_rows(no_repeat(2, 3), jnp.zeros((2, 4, 8)), jnp.ones(2, int), 1)
    with pytest.raises(ValueError, match=r"both be \[states, tokens\] and begin one of the states"):
        automaton(np.ones((2, 3), bool), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="must lead to states 0 to 1, found 0 to 2"):
        automaton(np.ones((2, 2), bool), np.array([[0, 1], [2, 0]]))
    with pytest.raises(ValueError, match="at least one mask, found none"):
        both()
