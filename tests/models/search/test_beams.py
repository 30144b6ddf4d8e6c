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
    if tokens := case.get("suppress_tokens"):
        # The padding of a finished group would count as its choice in transformers: it is never a text's own token.
        masks.append(forbidding(*tokens))
    prompt = case["prompt"]
    prompts = Rows(jnp.array([prompt + [9] * (8 - len(prompt)), [4] * 8]), jnp.array([len(prompt), 8]))
    mask = both(*masks) if masks else None
    found = beam_search(*llama(), prompts, case["max_new_tokens"], beams, ends=tuple(case["ends"]), mask=mask)
    tokens, last = np.array(found.tokens[0]), np.asarray(found.lengths[0]) - 1
    ended = np.isin(tokens[np.arange(beams.size), last], case["ends"])
    if beams.groups > 1:  # whatever a text has ended with, 4.36 writes the first of the ends
        tokens[ended, last[ended]] = case["ends"][0]
    np.testing.assert_array_equal(tokens, golden()[f"{name}.tokens"])
    np.testing.assert_array_equal(found.lengths[0], golden()[f"{name}.lengths"])
    np.testing.assert_allclose(found.scores[0], golden()[f"{name}.scores"], rtol=2e-5)
    np.testing.assert_array_equal(found.status[0], np.where(ended, Ending.ENDED, Ending.OUT_OF_STEPS))
