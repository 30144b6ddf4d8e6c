"""Gradient similarity against gradients that are written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from pmpjax.baselines.gradients import adam_moments, draw_sketch, gradient_similarity, project
from pmpjax.data import Rows
from pmpjax.models import parameter_count


def row_gradient(setting, row):
    rows = Rows(jnp.asarray(setting.prepared.source.tokens[[row]]), jnp.asarray(setting.prepared.source.lengths[[row]]))
    return ravel_pytree(setting.gradient(setting.params, rows))[0]


@pytest.mark.parametrize("adam", [False, True])
def test_without_loss_in_the_projection_a_score_is_the_mean_cosine_of_the_documents_rows(setting, adam):
    prepared, size = setting.prepared, parameter_count(setting.params)
    method = gradient_similarity(
        setting.decoder,
        setting.params,
        opt_state=setting.opt_state if adam else None,
        dimension=size + 5,
        chunk=7,
    )
    scores = method(prepared._replace(test=None), jax.random.key(3))
    target = ravel_pytree(setting.gradient(setting.params, setting.dev_rows()))[0]
    state = adam_moments(setting.opt_state, setting.params)
    document = int(np.flatnonzero((prepared.documents.n_rows > 1) & (prepared.documents.n_tokens % 12 != 1))[0])
    total = weight = 0.0
    for row in np.flatnonzero(prepared.source_document == document):
        found = row_gradient(setting, row)
        if adam:
            (m, _), (v, _) = ravel_pytree(state.mu), ravel_pytree(state.nu)
            steps = int(state.count) + 1
            m, v = (0.9 * m + 0.1 * found) / (1 - 0.9**steps), (0.98 * v + 0.02 * found**2) / (1 - 0.98**steps)
            found = m / (jnp.sqrt(v) + 1e-8)
        cosine = found @ target / jnp.linalg.norm(found) / jnp.linalg.norm(target)
        labels = prepared.source.lengths[row] - 1
        total, weight = total + labels * cosine, weight + labels
    np.testing.assert_allclose(scores[document], total / weight, rtol=1e-4, atol=1e-5)


def test_the_targets_language_is_preferred_through_a_small_projection_and_adams_moments(setting):
    for state, lowest in ((None, 0.85), (setting.opt_state, 0.75)):
        method = gradient_similarity(setting.decoder, setting.params, opt_state=state, dimension=256)
        first, again, other = (method(setting.prepared, jax.random.key(seed)) for seed in (0, 0, 1))
        assert setting.preferred(first) > lowest
        np.testing.assert_array_equal(first, again)
        assert (np.asarray(first) != np.asarray(other)).any()


def test_the_projection_is_unbiased_with_the_variance_of_a_count_sketch_on_structured_vectors():
    # Energy in one column of a matrix whose width divides k: a projection without the shifts would add it all up.
    k, size = 32, 500
    column = (jnp.arange(size) % 8 == 3).astype(float)
    for x, y in (
        (jax.random.normal(jax.random.key(0), (size,)), jax.random.normal(jax.random.key(1), (size,))),
        (column, column * jnp.cos(jnp.arange(size))),
    ):
        products = jax.jit(jax.vmap(lambda key: jnp.vdot(*(project(draw_sketch(key, size, k), v) for v in (x, y)))))(
            jax.random.split(jax.random.key(2), 2000)
        )
        bound = 2 * float(jnp.vdot(x, x) * jnp.vdot(y, y)) / k
        assert abs(float(products.mean() - x @ y)) < 4 * np.sqrt(bound / 2000)
        assert float(products.var()) < 1.15 * bound
    exact = draw_sketch(jax.random.key(0), size, size + 3)
    np.testing.assert_allclose(jnp.vdot(project(exact, x), project(exact, y)), x @ y, rtol=1e-5)


def test_bad_input_is_named(setting):
    def similarity(**settings):
        return gradient_similarity(setting.decoder, setting.params, **settings)

    for settings, message in (
        ({"dimension": 0}, "dimension is 0"),
        ({"chunk": 0}, "chunk is 0"),
        ({"second_moment": 1.0}, "second_moment is 1.0"),
        ({"opt_state": optax.sgd(0.1).init(setting.params)}, "0 states of Adam's moments"),
        ({"opt_state": optax.adam(0.1).init({"a": jnp.zeros(2)})}, r"opt_state.mu has structure"),
    ):
        with pytest.raises(ValueError, match=message):
            similarity(**settings)
    source = setting.prepared.source
    one = setting.prepared._replace(source=source._replace(lengths=np.ones_like(source.lengths)))
    with pytest.raises(ValueError, match="no document of the source has two tokens"):
        similarity(dimension=8)(one, jax.random.key(0))
