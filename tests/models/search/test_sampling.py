"""The support of a sampler and the log-probabilities on it, against exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.models.search import Sampling, draw, log_probabilities, support
from pmpjax.models.search.sampling import check_sampling

P = np.array([0.05, 0.4, 0.15, 0.25, 0.1, 0.05])
LOGITS = jnp.log(jnp.asarray(P, jnp.float32)) + 3.0
SETTINGS = [
    (Sampling(), [0, 1, 2, 3, 4, 5]),
    (Sampling(top_k=2), [1, 3]),
    (Sampling(top_k=5), [0, 1, 2, 3, 4, 5]),  # as probable as the fifth
    (Sampling(top_p=0.6), [1, 3]),
    (Sampling(top_p=0.7), [1, 2, 3]),
    (Sampling(temperature=0.5, top_p=0.6), [1]),
    (Sampling(temperature=2.0, top_k=4, top_p=0.8), [1, 2, 3]),
    (Sampling(top_p=1e-6), [1]),
    (Sampling(temperature=0.0), [1]),
]


@pytest.mark.parametrize(("sampling", "inside"), SETTINGS)
def test_the_probabilities_of_the_support_add_up_to_one_and_are_those_of_the_draws(sampling, inside):
    if sampling == Sampling(temperature=0.5, top_p=0.6):
        assert (P**2 / (P**2).sum()).max() > 0.6
    weights = np.where(np.isin(np.arange(6), inside), P ** (1 / (sampling.temperature or 1.0)), 0.0)
    expected = weights / weights.sum()
    np.testing.assert_array_equal(support(LOGITS, sampling), expected > 0)
    np.testing.assert_allclose(jnp.exp(log_probabilities(LOGITS, sampling)), expected, atol=1e-6)
    count = 4_000
    token, log_p = draw(jax.random.key(3), jnp.tile(LOGITS[None], (count, 1)), sampling)
    np.testing.assert_allclose(jnp.exp(log_p), expected[np.asarray(token)], rtol=1e-5)
    share = np.bincount(np.asarray(token), minlength=6) / count
    assert (np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / count)).all()


def test_a_mask_is_part_of_the_support_and_nothing_allowed_is_no_nan():
    allowed = jnp.array([True, False, True, True, False, True])
    kept = log_probabilities(LOGITS, Sampling(top_k=2), allowed)
    np.testing.assert_allclose(jnp.exp(kept), [0, 0, 0.375, 0.625, 0, 0], atol=1e-6)
    none = jnp.zeros(6, bool)
    for sampling in (Sampling(), Sampling(temperature=0.0), Sampling(top_p=0.5), Sampling(top_k=2)):
        assert (np.asarray(log_probabilities(LOGITS, sampling, none)) == -np.inf).all()
        assert draw(jax.random.key(0), LOGITS, sampling, none) == (0, -np.inf)
    gradient = jax.grad(lambda x: jnp.sum(jnp.where(none, log_probabilities(x, None, none), 0.0)))(LOGITS)
    assert not gradient.any()


def test_the_policy_gradient_on_the_support_is_unbiased_and_that_of_the_full_softmax_is_not(float64):
    reward, sampling = jnp.array([3.0, 1.0, -2.0, 0.5, 7.0, 1.0]), Sampling(top_p=0.75)
    logits = jnp.log(jnp.asarray(P))
    kept = support(logits, sampling)

    def value(x):
        p = jnp.exp(log_probabilities(x, Sampling(), kept))
        return jnp.sum(jnp.where(kept, p * reward, 0.0))

    exact = jax.grad(value)(logits)
    token, _ = draw(jax.random.key(1), jnp.tile(logits[None], (20_000, 1)), sampling)

    def estimates(**options):
        per_token = jax.jacobian(lambda x: jnp.where(kept, log_probabilities(x, **options), 0.0))(logits)
        terms = per_token[token] * reward[token][:, None]
        return terms.mean(0), terms.std(0) / np.sqrt(len(terms))

    for options in ({"sampling": sampling}, {"allowed": kept}):  # the second is what later steps of a trainer use
        mean, error = estimates(**options)
        assert (jnp.abs(mean - exact) <= 3 * error + 1e-12).all()
    mean, error = estimates()
    assert (jnp.abs(mean - exact) > 5 * error).any()


def test_settings_that_mean_nothing_are_refused():
    for wrong, message in (
        (Sampling(temperature=-0.5), "temperature must be 0 or positive, found -0.5"),
        (Sampling(temperature=float("nan")), "temperature must be 0 or positive, found nan"),
        (Sampling(top_k=-1), "top_k must be 0 or positive, found -1"),
        (Sampling(top_p=0.0), r"top_p must be in \(0, 1\], found 0"),
    ):
        with pytest.raises(ValueError, match=message):
            check_sampling(wrong)
    jax.jit(lambda t: check_sampling(Sampling(t, jnp.asarray(3))))(jnp.asarray(-1.0))  # not known here
