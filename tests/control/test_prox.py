"""Proximal operators against brute force, general solvers and the properties of projections."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import pmpjax as pmp
from pmpjax.control.prox import check_feasible

LOWER, UPPER = np.array([-1.0, 0.0, 0.5, 0.5]), np.array([1.0, 0.0, 2.0, 4.0])
PROJECTIONS = {"identity": pmp.prox.identity, "simplex": pmp.prox.simplex, "box": pmp.prox.box(LOWER, UPPER)}
COMPACT = {"simplex": pmp.prox.simplex, "entropic": pmp.prox.entropic, "box": pmp.prox.box(LOWER, UPPER)}
VERTICES = {
    "simplex": np.eye(4),
    "entropic": np.eye(4),
    "box": np.array(list(itertools.product(*zip(LOWER, UPPER, strict=True)))),
}


def sorted_projection(v):
    """The projection by sorting, in float64 (Held, Wolfe and Crowder, 1974)."""
    v = np.asarray(v, np.float64)
    largest_first = -np.sort(-v, axis=-1)
    thresholds = (np.cumsum(largest_first, axis=-1) - 1.0) / np.arange(1, v.shape[-1] + 1)
    support = np.sum(largest_first > thresholds, axis=-1, keepdims=True)
    return np.maximum(v - np.take_along_axis(thresholds, support - 1, axis=-1), 0.0)


def on_simplex(function, gradient, size):
    """argmin of a convex function on the simplex by a general solver."""
    found = minimize(
        function,
        np.full(size, 1.0 / size),
        jac=gradient,
        method="SLSQP",
        bounds=[(1e-12, 1.0)] * size,
        constraints={"type": "eq", "fun": lambda u: np.sum(u) - 1.0, "jac": lambda u: np.ones_like(u)},
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


def random_points(rows=200, columns=4, seed=0):
    random = np.random.default_rng(seed)
    scale = 10.0 ** random.uniform(-3, 3, (rows, 1))
    return random.normal(size=(rows, columns)) * scale + random.normal(size=(rows, 1)) * scale


@pytest.mark.parametrize("name", [*PROJECTIONS, "entropic"])
def test_every_answer_is_feasible(float64, name):
    prox = {**PROJECTIONS, **COMPACT}[name]
    for step in (0.1, 10.0):
        assert float(prox.violation(prox(jnp.asarray(random_points()), step))) < 1e-12


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projections_are_idempotent_and_non_expansive(float64, name):
    prox = PROJECTIONS[name]
    a, b = jnp.asarray(random_points(seed=1)), jnp.asarray(random_points(seed=2))
    once_a, once_b = prox(a), prox(b)
    np.testing.assert_allclose(prox(once_a), once_a, atol=1e-14)
    apart, before = np.linalg.norm(once_a - once_b, axis=-1), np.linalg.norm(a - b, axis=-1)
    assert np.all(apart <= before * (1 + 1e-12))


def test_simplex_equals_a_general_solver(float64):
    random = np.random.default_rng(3)
    for v in (random.normal(size=5), 3 * random.normal(size=5), np.array([0.2, 0.2, 0.2, 0.2, 0.2])):
        expected = on_simplex(lambda u, v=v: 0.5 * np.sum((u - v) ** 2), lambda u, v=v: u - v, 5)
        np.testing.assert_allclose(pmp.prox.simplex(jnp.asarray(v)), expected, atol=1e-6)


def test_entropic_equals_a_general_solver(float64):
    """argmin <u, log u - v> over the simplex."""
    random = np.random.default_rng(4)
    for v in (random.normal(size=5), 3 * random.normal(size=5)):
        expected = on_simplex(lambda u, v=v: u @ (np.log(u) - v), lambda u, v=v: np.log(u) + 1.0 - v, 5)
        np.testing.assert_allclose(pmp.prox.entropic(jnp.asarray(v)), expected, atol=1e-5)


def test_an_entropic_step_is_the_mirror_step(float64):
    """argmin_z s <g, z> + KL(z | u) by a general solver, from `coordinates(u) - s g`."""
    random = np.random.default_rng(5)
    u, g, s = random.dirichlet(np.ones(5)), random.normal(size=5), 0.7
    expected = on_simplex(lambda z: s * g @ z + z @ np.log(z / u), lambda z: s * g + np.log(z / u) + 1.0, 5)
    prox = pmp.prox.entropic
    found = prox(prox.coordinates(jnp.asarray(u)) - s * g, s)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found, u * np.exp(-s * g) / np.sum(u * np.exp(-s * g)), rtol=1e-13)


def test_box_is_coordinatewise(float64):
    v = random_points()
    expected = [[min(max(x, low), high) for x, low, high in zip(row, LOWER, UPPER, strict=True)] for row in v]
    np.testing.assert_array_equal(PROJECTIONS["box"](jnp.asarray(v)), np.asarray(expected))
    with pytest.raises(ValueError, match=r"box.*2\.0.*1\.0"):
        pmp.prox.box(2.0, 1.0)


@pytest.mark.parametrize("name", COMPACT)
def test_oracle_is_the_best_vertex(float64, name):
    gradient = np.concatenate([random_points(50), np.zeros((1, 4)), np.array([[1.0, -1.0, -1.0, 1.0]])])
    found = np.asarray(COMPACT[name].oracle(jnp.asarray(gradient)))
    assert float(COMPACT[name].violation(jnp.asarray(found))) == 0.0
    best = np.min(gradient @ VERTICES[name].T, axis=-1)
    np.testing.assert_allclose(np.sum(gradient * found, axis=-1), best, rtol=1e-12, atol=1e-12)


def test_sets_without_a_bound_have_no_oracle():
    assert pmp.prox.identity.oracle is None


@pytest.mark.parametrize(
    "row",
    [
        [7.0],
        [-1e6],
        [0.0, 0.0, 0.0],
        [2.0, 2.0, -5.0, 2.0],
        [1e6, 1e6, 0.0],
        [1e6, 1e6 - 0.5, -1e6],
        [-1e6, -1e6 - 0.25, -2e6],
        [1e-30, -1e-30, 0.0],
        [1.0, 0.0, 0.0],
    ],
)
def test_simplex_on_ties_single_elements_and_huge_values(row):
    found = pmp.prox.simplex(jnp.asarray(row, jnp.float32))
    np.testing.assert_allclose(found, sorted_projection(np.float32(row)), atol=1e-6)
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("kind", ["near uniform", "wide", "ties", "huge", "all equal", "one winner"])
def test_simplex_in_single_precision_equals_a_sort(kind):
    random = np.random.default_rng(6)
    v = random.normal(size=(50, 4096)).astype(np.float32)
    v = {
        "near uniform": 1 / 4096 + 1e-4 * v,
        "wide": v,
        "ties": np.round(v, 1),
        "huge": 1e6 * v,
        "all equal": np.full_like(v, -3.7),
        "one winner": v + 50.0 * (np.arange(4096) == 17),
    }[kind].astype(np.float32)
    found = np.asarray(jax.jit(pmp.prox.simplex.apply)(v, 1.0))
    assert np.max(np.abs(found - sorted_projection(v))) < 1e-6
    assert np.min(found) >= 0.0
    np.testing.assert_allclose(np.sum(found, axis=-1, dtype=np.float64), 1.0, atol=1e-5)


def test_rows_of_any_leading_shape_are_independent():
    v = np.random.default_rng(7).normal(size=(3, 4, 6)).astype(np.float32)
    together = pmp.prox.simplex(jnp.asarray(v))
    for i, j in np.ndindex(3, 4):
        np.testing.assert_allclose(together[i, j], pmp.prox.simplex(jnp.asarray(v[i, j])), atol=1e-7)


def test_derivative_of_the_projection_equals_finite_differences(float64):
    random = np.random.default_rng(8)
    v, along = jnp.asarray(random.normal(size=(20, 7))), jnp.asarray(random.normal(size=(20, 7)))
    project = pmp.prox.project_simplex
    _, found = jax.jvp(project, (v,), (along,))
    step = 1e-6
    np.testing.assert_allclose(found, (project(v + step * along) - project(v - step * along)) / (2 * step), atol=1e-8)
    # The derivative of a projection is symmetric.
    _, pull = jax.vjp(project, v)
    np.testing.assert_allclose(pull(along)[0], found, atol=1e-12)


def test_violation_measures_how_far_outside():
    simplex = pmp.prox.simplex
    assert float(simplex.violation(jnp.array([[0.5, 0.5], [1.0, 0.0]]))) == 0.0
    assert float(simplex.violation(jnp.array([0.75, 0.5, -0.25]))) == pytest.approx(0.25)
    assert float(simplex.violation(jnp.array([0.75, 0.75]))) == pytest.approx(0.5)
    assert float(pmp.prox.box(0.0, 1.0).violation(jnp.array([-0.5, 0.2, 1.25]))) == pytest.approx(0.5)
    for prox in (*PROJECTIONS.values(), pmp.prox.entropic):
        assert not np.isfinite(float(prox.violation(jnp.array([0.5, jnp.nan, 0.5, 0.0]))))


def test_check_feasible_names_leaf_and_set():
    good = {"a": pmp.uniform(2, 3), "b": pmp.uniform(2, 4)}
    check_feasible(pmp.prox.simplex, good)
    with pytest.raises(ValueError, match=r"controls\['b'\] .*0\.25 .*'simplex'.*pmpjax\.uniform"):
        check_feasible(pmp.prox.simplex, {**good, "b": jnp.array([[0.25, 1.0, -0.25]])})
    with pytest.raises(ValueError, match=r"controls\['a'\] .*\(1, 2\)"):
        check_feasible(pmp.prox.identity, {**good, "a": good["a"].at[1, 2].set(jnp.nan)})
    with pytest.raises(ValueError, match=r"controls .*1 .*'box\(0.0, 1.0\)'.*-1"):
        check_feasible(pmp.prox.box(0.0, 1.0), jnp.array([-1.0, 0.5]))


def test_traced_controls_pass_the_check():
    jax.jit(lambda u: check_feasible(pmp.prox.simplex, u))(jnp.array([-1.0, 3.0]))
