"""Beams against transformers token for token, against all texts of a small vocabulary, and on bad input."""

import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from pmpjax.data import Rows
from pmpjax.models import Decoder, load_pretrained
from pmpjax.models.search import Beams, Ending, Start, TokenMask, automaton, beam_search, both, no_repeat, search

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "beams.json").read_text())


@functools.cache
def llama():
    config, params = load_pretrained(GOLDEN / "llama")
    return Decoder(config), params


@functools.cache
def golden():
    return load_file(GOLDEN / "beams.safetensors")


@functools.cache
def forbidding(*tokens):
    mask = np.isin(np.arange(47), tokens, invert=True)
    return TokenMask(lambda *_: (), lambda _: jnp.asarray(mask), lambda *_: ())


@pytest.mark.parametrize("name", CASES)
def test_beams_are_those_of_transformers_token_for_token(name):
    case, decoder = CASES[name], llama()[0]
    beams = Beams(
        case["num_beams"],
        case.get("num_beam_groups", 1),
        case.get("diversity_penalty", 0.0),
        case.get("length_penalty", 1.0),
        case.get("early_stopping", False),
    )
    masks = []
    if size := case.get("no_repeat_ngram_size"):
        masks.append(no_repeat(size, decoder.config.vocabulary))
    if forbidden := case.get("suppress_tokens"):
        # The padding of a finished group would count as its choice in transformers: it is never a text's own token.
        masks.append(forbidding(*forbidden))
    prompt = case["prompt"]
    prompts = Rows(np.array([prompt + [9] * (8 - len(prompt)), [4] * 8]), np.array([len(prompt), 8]))
    mask = both(*masks) if masks else None
    found = beam_search(*llama(), prompts, case["max_new_tokens"], beams, ends=tuple(case["ends"]), mask=mask)
    tokens, last = np.array(found.tokens[0]), np.asarray(found.lengths[0]) - 1
    ended = np.isin(tokens[np.arange(beams.size), last], case["ends"])
    np.testing.assert_array_equal(found.status[0], np.where(ended, Ending.ENDED, Ending.OUT_OF_STEPS))
    if beams.groups > 1:  # whatever a text has ended with, 4.36 writes the first of the ends
        tokens[ended, last[ended]] = case["ends"][0]
    np.testing.assert_array_equal(tokens, golden()[f"{name}.tokens"])
    np.testing.assert_array_equal(found.lengths[0], golden()[f"{name}.lengths"])
    np.testing.assert_allclose(found.scores[0], golden()[f"{name}.scores"], rtol=2e-5)
    if beams.groups == 1:
        sums = np.asarray(found.scores[0]) * np.asarray(found.lengths[0], float) ** beams.length_penalty
        np.testing.assert_allclose(found.log_probabilities[0], sums, rtol=1e-5)


def table(vocabulary, seed):
    """A model whose next logits hang on the last two tokens; its cache is these. Reads prompts of one token."""
    logits = jax.random.normal(jax.random.key(seed), (vocabulary, vocabulary, vocabulary)) * 1.5

    def advance(tokens, cache):
        return logits[cache["last"], tokens], {"last": tokens}

    prompts = jnp.array([[1], [0]])
    return logits, advance, Start(logits[0, prompts[:, 0]], {"last": prompts[:, 0]}, prompts, jnp.ones(2, int))


def all_texts(logits, prompt, steps, ends, allowed):
    """{text: sum log p} of every text that ends, or has `steps` tokens."""
    log_p = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    vocabulary, found = logits.shape[0], {}
    for length in range(1, steps + 1):
        for text in itertools.product(range(vocabulary), repeat=length):
            inside = any(token in ends for token in text[:-1])
            if inside or (length < steps and text[-1] not in ends) or not allowed((prompt, *text)):
                continue
            before = ((0, prompt), *zip((prompt, *text), text, strict=False))
            found[text] = sum(log_p[*pair, token] for pair, token in zip(before, text, strict=False))
    return found


@pytest.mark.parametrize(("penalty", "size", "masked"), [(1.0, 121, False), (0.7, 121, True)])
def test_with_as_many_beams_as_texts_the_best_one_is_found(penalty, size, masked):
    logits, advance, start = table(4, seed=5)
    mask = no_repeat(2, 4) if masked else None

    def allowed(text):
        pairs = list(itertools.pairwise(text))
        return not masked or len(set(pairs)) == len(pairs)

    run = jax.jit(lambda start: search(advance, start, 4, Beams(size, length_penalty=penalty), ends=(2,), mask=mask))
    found = run(start)
    for row, prompt in enumerate((1, 0)):
        texts = all_texts(logits, prompt, 4, (2,), allowed)
        scores = {text: value / len(text) ** penalty for text, value in texts.items()}
        order = sorted(scores, key=lambda text: -scores[text])[:size]
        lengths = np.asarray(found.lengths[row])
        written = [tuple(tokens[:n].tolist()) for tokens, n in zip(np.asarray(found.tokens[row]), lengths, strict=True)]
        # Texts whose scores differ by rounding alone may change places.
        assert written[0] == order[0] and sorted(text for text in written if text) == sorted(order)
        np.testing.assert_allclose(found.scores[row][: len(order)], [scores[text] for text in order], rtol=1e-5)
        empty = np.asarray(found.status[row]) == Ending.NOTHING_ALLOWED
        assert empty.tolist() == [place >= len(order) for place in range(size)]
        assert (np.asarray(found.scores[row])[empty] == -np.inf).all()


def test_a_group_without_penalty_repeats_the_first_one_and_with_it_takes_other_tokens():
    _, advance, start = table(5, seed=1)
    run = jax.jit(lambda start, beams: search(advance, start, 5, beams))
    alone, twice = run(start, Beams(2)), run(start, Beams(4, groups=2))
    np.testing.assert_array_equal(twice.tokens, jnp.repeat(alone.tokens, 2, axis=1))
    each = run(start, Beams(5, groups=5, diversity=50.0))
    assert (np.sort(each.tokens, axis=1) == np.arange(5)[None, :, None]).all()  # every step, each group its own token
    assert (np.asarray(each.log_probabilities) >= np.asarray(each.scores) * 5 - 1e-4).all()


def test_a_mask_of_nothing_and_logits_that_are_not_finite_have_a_name():
    logits, advance, start = table(4, seed=2)
    # After a 3 nothing may come; at first only a 3.
    mask = automaton(np.eye(4, dtype=bool)[[3, 0]] & np.array([[True], [False]]), np.ones((2, 4), int))
    found = jax.jit(lambda start: search(advance, start, 3, Beams(2), mask=mask))(start)
    assert (np.asarray(found.status) == Ending.NOTHING_ALLOWED).all() and not found.lengths.any()
    assert (np.asarray(found.scores) == -np.inf).all() and not np.isnan(found.log_probabilities).any()

    def breaking(tokens, cache):
        return jnp.where((tokens == 0)[:, None], jnp.nan, logits[cache["last"], tokens]), {"last": tokens}

    broken = start._replace(logits=jnp.array([[9.0, 0, 0, 0], [jnp.nan, 0, 0, 0]]))
    found = jax.jit(lambda start: search(breaking, start, 3, Beams(2)))(broken)
    assert (np.asarray(found.status) == Ending.NOT_FINITE).all() and not np.isnan(found.scores).any()


def test_beams_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="groups must divide the beams: found 6 beams in 4 groups; take 8 beams"):
        Beams(6, groups=4)
    with pytest.raises(ValueError, match="length_penalty must be finite"):
        Beams(length_penalty=float("nan"))
    with pytest.raises(ValueError, match="diversity finite and not negative"):
        Beams(diversity=-1.0)
    _, advance, start = table(3, seed=0)
    with pytest.raises(ValueError, match="8 beams in a group are more than the 7 texts of up to 2 tokens from 3, 1 of"):
        search(advance, start, 2, Beams(8), ends=(1,))
