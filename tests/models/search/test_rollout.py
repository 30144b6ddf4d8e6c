"""Texts drawn from a table of probabilities: where they end, what they may hold, and their log-probabilities."""

import jax
import jax.numpy as jnp
import numpy as np

from pmpjax.models.search import Ending, Sampling, Start, automaton, roll

LOGITS = jax.random.normal(jax.random.key(0), (4, 4))  # of the next token, by the last one


def advance(tokens, cache):
    return LOGITS[tokens], cache + 1


def start(n=400):
    tokens = jnp.arange(n)[:, None] % 4
    return Start(LOGITS[tokens[:, 0]], jnp.zeros(n, int), tokens, jnp.ones(n, int))


def rolled(sampling, first=None, **options):
    first = start() if first is None else first
    return jax.jit(lambda first, sampling: roll(advance, first, 6, jax.random.key(2), sampling, **options))(
        first, sampling
    )


def test_texts_end_and_their_log_probabilities_are_those_of_the_chain():
    drawn = rolled(Sampling(temperature=1.3), ends=(3,))
    p = np.exp(np.asarray(LOGITS) / 1.3)
    p /= p.sum(1, keepdims=True)
    tokens, lengths = np.asarray(drawn.tokens), np.asarray(drawn.lengths)
    for row in range(400):
        text = tokens[row, : lengths[row]].tolist()
        ended = text[-1] == 3
        assert 3 not in text[:-1] and (ended or len(text) == 6) and not tokens[row, len(text) :].any()
        assert drawn.status[row] == (Ending.ENDED if ended else Ending.OUT_OF_STEPS)
        chain = [p[before, token] for before, token in zip([row % 4, *text], text, strict=False)]
        np.testing.assert_allclose(drawn.log_probabilities[row, : len(text)], np.log(chain), rtol=2e-4, atol=1e-6)
        assert not drawn.log_probabilities[row, len(text) :].any()
    assert set(lengths.tolist()) >= {1, 2, 6}
    # A text is the same whatever ends others: without ends it goes on from there.
    whole = np.asarray(rolled(Sampling(temperature=1.3)).tokens)
    inside = np.arange(6)[None] < lengths[:, None]
    np.testing.assert_array_equal(tokens[inside], whole[inside])


def test_a_mask_holds_a_text_to_it_and_where_nothing_is_allowed_it_stops_with_that_name():
    # 0, then 1 or 2; after a 2 nothing.
    allowed = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    mask = automaton(allowed, np.array([[1] * 4, [0, 2, 3, 0], [1] * 4, [0] * 4]))
    drawn = rolled(Sampling(), mask=mask)
    tokens, lengths = np.asarray(drawn.tokens), np.asarray(drawn.lengths)
    stopped = np.asarray(drawn.status) == Ending.NOTHING_ALLOWED
    assert 0 < stopped.sum() < 400 and (np.asarray(drawn.status)[~stopped] == Ending.OUT_OF_STEPS).all()
    assert (tokens[stopped, lengths[stopped] - 1] == 2).all() and (lengths[~stopped] == 6).all()
    assert (tokens[~stopped][:, [0, 2, 4]] == 0).all() and np.isin(tokens[~stopped][:, [1, 3]], [1]).all()
    np.testing.assert_allclose(drawn.log_probabilities[:, 0], 0.0, atol=1e-6)  # the only token that is allowed
    assert np.isfinite(drawn.log_probabilities).all()


def test_logits_that_are_not_finite_stop_their_own_text_alone():
    first = start(8)
    broken = first._replace(logits=first.logits.at[2, 1].set(jnp.nan).at[5, 0].set(jnp.inf))
    drawn, whole = rolled(Sampling(top_p=0.9), broken), rolled(Sampling(top_p=0.9), first)
    bad = np.isin(np.arange(8), [2, 5])
    np.testing.assert_array_equal(np.asarray(drawn.status) == Ending.NOT_FINITE, bad)
    np.testing.assert_array_equal(np.asarray(drawn.lengths) == 0, bad)
    np.testing.assert_array_equal(drawn.tokens[~bad], whole.tokens[~bad])
    assert np.isfinite(drawn.log_probabilities).all()
