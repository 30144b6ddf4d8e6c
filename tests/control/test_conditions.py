"""The conditions that a gradient decides by itself, by hand and by brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax.control.conditions import conditions_at, frank_wolfe_gap, relative_spread, stationarity_residual


def test_spread_by_hand(float64):
    contributions = jnp.array([[1.0, 3.0, 5.0, 9.0], [2.0, 2.0, 2.0, -7.0]])
    weights = jnp.array([[0.5, 0.25, 0.25, 0.0], [0.5, 0.3, 0.2, 0.0]])
    found = pmp.spread_of(contributions, weights)
    # First row: mean 2.5, variance 0.5 * 1.5^2 + 0.25 * 0.5^2 + 0.25 * 2.5^2 = 2.75, best 9 - 2.5.
    np.testing.assert_allclose(found.used, [2.75**0.5, 0.0], atol=1e-15)
    np.testing.assert_allclose(found.excess, [6.5, 0.0], atol=1e-15)
    np.testing.assert_allclose(found.scale, [29.0**0.5, (61.0 / 4) ** 0.5], rtol=1e-15)
    unnormalised = pmp.spread_of(contributions, 3 * weights)
    np.testing.assert_allclose(unnormalised.used, found.used, atol=1e-15)


def test_gap_is_the_best_of_all_vertices(float64):
    random = np.random.default_rng(0)
    u, g = random.dirichlet(np.ones(4), size=3), random.normal(size=(3, 4))
    by_vertices = sum(max(g[t] @ (u[t] - v) for v in np.eye(4)) for t in range(3))
    for prox in (pmp.prox.simplex, pmp.prox.entropic):
        assert float(frank_wolfe_gap(prox, jnp.asarray(u), jnp.asarray(g))) == pytest.approx(by_vertices, rel=1e-13)
    box = pmp.prox.box(-1.0, 2.0)
    corners = sum(max(g[t, n] * (u[t, n] - v) for v in (-1.0, 2.0)) for t in range(3) for n in range(4))
    assert float(frank_wolfe_gap(box, jnp.asarray(u), jnp.asarray(g))) == pytest.approx(corners, rel=1e-13)
    assert np.isnan(frank_wolfe_gap(pmp.prox.identity, jnp.asarray(u), jnp.asarray(g)))


@pytest.mark.parametrize("prox", [pmp.prox.simplex, pmp.prox.entropic, pmp.prox.identity], ids=lambda prox: prox.name)
def test_residual_has_no_units_and_vanishes_where_it_should(float64, prox):
    u = jnp.array([[0.7, 0.2, 0.1]])
    g = jnp.array([[1.0, -2.0, 0.5]])
    found = stationarity_residual(prox, u, g, 3.0)
    assert found > 0.1
    np.testing.assert_allclose(stationarity_residual(prox, u, 100 * g, 300.0), found, rtol=1e-12)  # other units of J
    # An equal gradient cannot be followed on the simplex; a small one leads nowhere without constraints.
    still = jnp.full((1, 3), 5.0) if prox is not pmp.prox.identity else 1e-9 * g
    assert stationarity_residual(prox, u, still, 3.0) < 1e-8


def test_the_relative_spread_of_a_pytree_is_that_of_all_its_rows(float64):
    random = np.random.default_rng(1)
    q, u = random.normal(size=(5, 4)), random.dirichlet(np.ones(4), size=5)
    found = pmp.spread_of(jnp.asarray(q), jnp.asarray(u))
    expected = np.sum(found.used + found.excess) / np.sum(found.scale)
    parts = [{"a": jnp.asarray(x[:2]), "b": jnp.asarray(x[2:])} for x in (q, u)]
    assert float(relative_spread(*parts)) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(
    ("prox", "names"),
    [
        (pmp.prox.identity, ["stationarity"]),
        (pmp.prox.box(0.0, 1.0), ["stationarity", "gap"]),
        (pmp.prox.simplex, ["stationarity", "gap", "kkt"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_which_conditions_apply_depends_on_the_set(prox, names):
    """An unequal gradient meets none of them; tolerances are the caller's."""
    u, g = jnp.array([[0.25, 0.75]]), jnp.array([[1.0, -1.0]])
    checks = conditions_at(prox, u, g, 1.0)
    assert [check.name for check in checks] == names and not any(check.holds for check in checks)
    generous = {"stationarity": 10.0, "gap": 10.0, "kkt": 10.0}
    assert all(check.holds for check in conditions_at(prox, u, g, 1.0, **generous))
