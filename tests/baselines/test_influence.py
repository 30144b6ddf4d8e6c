"""IF-Score against a Hessian that is written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pmpjax.baselines.influence import conjugate_gradient, influence
from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, initialise
from tests.corpora import LENGTH, VOCABULARY, prepared_corpus


def test_a_score_is_the_gradients_product_through_the_dense_inverse_hessian(setting, float64, tmp_path):
    prepared, decoder = prepared_corpus(tmp_path, documents=8), Decoder(DecoderConfig(VOCABULARY, 4, 1, 2, 1, 4))
    setting = setting._replace(prepared=prepared, decoder=decoder)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))
    params = jax.tree.map(lambda leaf: 2 * leaf.astype(jnp.float64), params)
    flat, unravel = ravel_pytree(params)
    rows = Rows(jnp.asarray(prepared.source.tokens), jnp.asarray(prepared.source.lengths))
    columns = jax.jit(jax.vmap(lambda v: jax.jvp(lambda p: setting.gradient(p, rows), (params,), (unravel(v),))[1]))
    hessian = jax.vmap(lambda column: ravel_pytree(column)[0])(columns(jnp.eye(len(flat))))
    lowest = float(jnp.linalg.eigvalsh(hessian)[0])
    damping = 0.5 - lowest
    assert lowest < 0  # a proxy is not at a minimum
    gradient = ravel_pytree(setting.gradient(params, setting.dev_rows()))[0]
    direction = np.linalg.solve(hessian + damping * np.eye(len(flat)), gradient)

    method = influence(decoder, params, damping=damping, iterations=150, tolerance=1e-9, hessian_rows=10_000, chunk=30)
    scores = np.asarray(method(prepared._replace(test=None), jax.random.key(0)))
    several = np.flatnonzero(prepared.documents.n_rows > 1)[:2]
    assert len(several) == 2
    for document in (*several, 0, 1):
        own = ravel_pytree(setting.gradient(params, setting.document_rows(document)))[0]
        np.testing.assert_allclose(scores[document], direction @ own, rtol=1e-6, atol=1e-8)


def test_a_sample_of_rows_is_drawn_by_the_key_and_the_targets_language_preferred(setting):
    method = influence(setting.decoder, setting.params, damping=1.0, iterations=5, hessian_rows=16)
    first, again, other = (method(setting.prepared, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()
    assert setting.preferred(first) > 0.9


def test_conjugate_gradients_solve_a_pytree_in_as_many_steps_as_distinct_eigenvalues():
    scale = {"a": jnp.array([1.0, 3.0, 3.0]), "b": jnp.array([[7.0]])}
    b = {"a": jnp.array([1.0, -2.0, 5.0]), "b": jnp.array([[2.0]])}
    found = conjugate_gradient(lambda x: jax.tree.map(jnp.multiply, scale, x), b, iterations=50, tolerance=1e-5)
    assert int(found.iterations) == 3 and found.convex and found.residual < 1e-5
    jax.tree.map(lambda x, s, y: np.testing.assert_allclose(x, y / s, rtol=1e-5), found.solution, scale, b)
    cut = conjugate_gradient(lambda x: jax.tree.map(jnp.multiply, scale, x), b, iterations=1, tolerance=1e-5)
    assert int(cut.iterations) == 1 and cut.residual > 1e-3
    nothing = conjugate_gradient(lambda x: x, jnp.zeros(3), iterations=5, tolerance=1e-5)
    assert int(nothing.iterations) == 0 and not nothing.solution.any() and nothing.residual == 0


def test_negative_curvature_ends_the_search_with_a_finite_answer_and_a_warning(setting):
    for diagonal, iterations in (([1.0, 1.0, -5.0], 0), ([4.0, 3.0, -0.1], 1)):
        found = conjugate_gradient(lambda x: jnp.array(diagonal) * x, jnp.ones(3), iterations=9, tolerance=1e-6)
        assert not found.convex and int(found.iterations) >= iterations
        # A descent direction, and b itself when the first direction was refused.
        assert np.isfinite(found.solution).all() and found.solution.sum() > 0
        if not int(found.iterations):
            np.testing.assert_array_equal(found.solution, 1)
    method = influence(setting.decoder, setting.params, damping=1e-9, iterations=100, tolerance=1e-6)
    with pytest.warns(UserWarning, match=r"influence: the Hessian plus damping 1e-09 .* raise damping"):
        scores = method(setting.prepared, jax.random.key(0))
    assert np.isfinite(scores).all()


def test_bad_input_is_named(setting):
    for name, value in {"damping": 0.0, "iterations": 0, "tolerance": -1.0, "hessian_rows": 0, "chunk": 0}.items():
        with pytest.raises(ValueError, match=f"influence: {name} is {value}"):
            influence(setting.decoder, setting.params, **{name: value})
