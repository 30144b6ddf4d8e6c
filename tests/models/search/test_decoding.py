"""A decoder's texts: their log-probabilities are those of reading them, beams of one are the greedy text."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, generate, initialise, stack_layers
from pmpjax.models.layers import apply
from pmpjax.models.search import Beams, Sampling, beam_search, no_repeat, sample
from pmpjax.models.search.sampling import log_probabilities

CONFIG = DecoderConfig(vocabulary=13, width=16, layers=2, heads=4, key_value_heads=2, hidden=20)
PROMPTS = Rows(jnp.array([[1, 2, 3, 4], [5, 6, 0, 0]]), jnp.array([4, 2]))


@functools.cache
def built():
    decoder = Decoder(CONFIG)
    params = initialise(decoder, jax.random.key(0), PROMPTS.tokens)
    return decoder, jax.tree.map(lambda leaf: leaf * 3, params)


def read_again(tokens, length):
    """Logits before each of the tokens that follow a prompt."""
    decoder, params = built()
    whole = jnp.concatenate([PROMPTS.tokens[:, :length], tokens], axis=1)
    return apply(decoder, params, whole)[:, length - 1 : -1]


def test_log_probabilities_are_those_of_reading_the_text_at_once():
    sampling = Sampling(0.8, 7, 0.9)
    drawn = sample(*built(), PROMPTS, 6, sampling, key=jax.random.key(3))
    again = log_probabilities(read_again(drawn.tokens, 4)[:1], sampling)
    expected = jnp.take_along_axis(again, drawn.tokens[:1, :, None], axis=2)[..., 0]
    np.testing.assert_allclose(drawn.log_probabilities[:1], expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="needs `key`"):
        sample(*built(), PROMPTS, 6, sampling)
    with pytest.raises(ValueError, match="temperature must be 0 or positive"):
        generate(*built(), PROMPTS, 6, temperature=-1.0)
    with pytest.raises(ValueError, match="steps must be positive"):
        sample(*built(), PROMPTS, 0, sampling, key=jax.random.key(3))


def test_one_beam_is_the_greedy_text_and_layers_may_be_scanned():
    greedy = generate(*built(), PROMPTS, 6)
    found = beam_search(*built(), PROMPTS, 6, Beams(1))
    np.testing.assert_array_equal(found.tokens[:, 0], greedy)
    decoder, params = built()
    scanned = Decoder(dataclasses.replace(decoder.config, scan_layers=True))
    mask = no_repeat(2, 13)
    ours, theirs = (
        beam_search(module, values, PROMPTS, 6, Beams(4), ends=(7,), mask=mask)
        for module, values in (built(), (scanned, stack_layers(params)))
    )
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    log_p = jax.nn.log_softmax(read_again(ours.tokens[:, 0], 4)[0])
    n = int(ours.lengths[0, 0])
    expected = sum(log_p[place, token] for place, token in enumerate(np.asarray(ours.tokens[0, 0, :n])))
    np.testing.assert_allclose(ours.log_probabilities[0, 0], expected, rtol=1e-4)


def test_learned_positions_must_suffice():
    learned = Decoder(dataclasses.replace(CONFIG, positions="learned", max_length=8))
    with pytest.raises(ValueError, match="4 tokens and 6 more are over the model's max_length, 8"):
        beam_search(learned, {}, PROMPTS, 6)
