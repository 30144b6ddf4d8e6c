"""Every kind of rule at every kind of point: the sweep against finite differences, never NaN, never zero in silence.

A sweep is compiled once for a rule and an adjoint, and serves all situations.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.runs.precision import double_precision
from pmpjax.training.singular import singular_points, update_vjp
from tests.oracles import ADJOINTS, relative_error
from tests.training.situations import RULES, SIGNS, SITUATIONS, differences_of, problem_of, run_of

KINDS = ("adam", "adam, eps_root", "adagrad from zero", "lamb", "clip that does not act", "schedule-free")
"""One rule a kind of point: a root at zero, a root moved off it, a hidden slope, norms of blocks, a norm, a choice."""

ORDINARY = (
    *itertools.product(("adam", "adam, eps_root", "adagrad from zero"), SITUATIONS[1:]),
    *itertools.product(("lamb", "muon"), ("step without weight", "zero factor")),
    *itertools.product(("clip that does not act", "novograd", "prodigy"), ("step without weight",)),
    *itertools.product(("schedule-free", "flatten"), ("unseen token",)),
)


problem_under = functools.cache(lambda rule: problem_of((RULES | SIGNS)[rule]()))


@functools.cache
def sweep_of(problem, adjoint=pmp.StoreAll()):
    return jax.jit(functools.partial(pmp.costate, problem, adjoint=adjoint, observe=obs.control_gradient))


def swept(run, adjoint=pmp.StoreAll()):
    return sweep_of(run.problem, adjoint)(run.x0, run.weights, run.inputs)


def check_against_differences(rule, situation):
    run = run_of(problem_under(rule), situation)
    expected, sweep = differences_of(run), swept(run)
    found = np.asarray(sweep.seen)
    assert int(sweep.health.status) == pmp.Status.OK, sweep.health.describe()
    assert np.all(np.isfinite(found)) and all(np.all(np.isfinite(x)) for x in jax.tree.leaves(sweep.costate))
    assert expected.agree.sum() >= 18, "the oracle sees too little"
    error = np.abs(found - expected.value) / np.maximum(np.abs(expected.value), 1e-3 * expected.scale)
    assert np.max(error, where=expected.agree, initial=0.0) < 2e-4
    if np.any((found == 0) & expected.moves):  # a derivative was left out, and that was said
        assert sum(int(n) for n in jax.tree.leaves(sweep.health.singular)) > 0
        assert "left out" in sweep.health.describe()


@pytest.mark.parametrize(("rule", "situation"), ORDINARY)
def test_the_sweep_is_the_derivative(float64, rule, situation):
    check_against_differences(rule, situation)


@pytest.mark.slow
@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_the_sweep_is_the_derivative_over_the_whole_grid(float64, rule, situation):
    if (rule, situation) == ("prodigy", "first step without weight"):
        pytest.skip("its step size is 0 / 0 where the first gradient is zero: x_1 is NaN, in training too")
    check_against_differences(rule, situation)


# `Linearized` alone stores what the guarded reverse rule of a step consists of; the others call it anew.
@pytest.mark.slow
@pytest.mark.parametrize("situation", ["unseen token", "step without weight", "zero factor"])
@pytest.mark.parametrize(
    ("rule", "adjoint"),
    [*((rule, "linearized") for rule in KINDS), ("adam", "checkpointed, 5"), ("adam", "binomial, 3")],
)
def test_every_adjoint_meets_these_points_alike(float64, rule, adjoint, situation):
    run = run_of(problem_under(rule), situation)
    expected, found = swept(run), swept(run, ADJOINTS[adjoint])
    assert relative_error(found.seen, expected.seen) < 1e-10
    assert relative_error(jax.tree.leaves(found.costate), jax.tree.leaves(expected.costate)) < 1e-10
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found.health.singular, expected.health.singular))
    assert relative_error(jax.tree.leaves(found.final), jax.tree.leaves(expected.final)) < 1e-13


@pytest.mark.parametrize(
    "rule", ["adam", *(pytest.param(rule, marks=pytest.mark.slow) for rule in ("lamb", "adafactor", "muon"))]
)
def test_single_precision_meets_them_too(rule):
    """Squares underflow and slopes overflow sooner there."""
    for situation in ("unseen token", "zero factor"):
        found = swept(run_of(problem_under(rule), situation, jnp.float32))
        assert int(found.health.status) == pmp.Status.OK, found.health.describe()
        with double_precision():
            expected = swept(run_of(problem_under(rule), situation))
        assert relative_error(found.seen, expected.seen) < 1e-2


@pytest.mark.parametrize("rule", SIGNS)
def test_rules_of_signs_have_a_status_of_their_own(float64, rule):
    run = run_of(problem_under(rule), "ordinary")
    sweep = swept(run)
    assert int(sweep.health.status) == pmp.Status.CONTROL_GRADIENT_ZERO and not np.any(sweep.seen)
    assert "zero everywhere" in sweep.health.describe()
    solution = pmp.solve(run.problem, run.x0, run.weights, run.inputs, sweeps=3, adjoint=pmp.StoreAll())
    assert solution.status is pmp.SolveStatus.NO_DERIVATIVE and "zero everywhere" in solution.message


def test_a_clip_that_does_not_act_changes_nothing_for_solve(float64):
    """0/1 weights: steps without weight and a clip far away. The same iterations as without the clip."""
    found = []
    for optimizer in (optax.sgd(0.1), optax.chain(optax.clip_by_global_norm(1e3), optax.sgd(0.1))):
        run = run_of(problem_of(optimizer), "step without weight")
        problem = run.problem._replace(prox=pmp.prox.box(0.0, 1.0))
        found.append(pmp.solve(problem, run.x0, run.weights, run.inputs, sweeps=12, adjoint=pmp.StoreAll()).value)
    assert found[0] == pytest.approx(found[1], rel=1e-12) and found[0] < 0.9 * float(swept(run).value)


def test_a_rule_without_derivatives_stays_not_finite(float64):
    """The root of a number that is zero whatever the gradient: no neighbouring point has a derivative either."""

    def update(gradients, state, params=None):
        return jax.tree.map(lambda g: -0.1 * g - jnp.sqrt(0.0 * g), gradients), state

    run = run_of(problem_of(optax.GradientTransformation(lambda params: optax.EmptyState(), update)), "ordinary")
    health = swept(run).health
    assert int(health.status) == pmp.Status.STEP_DERIVATIVE_NOT_FINITE and int(health.step) == 5
    assert "lower" not in health.describe()


def test_coordinates_answer_for_their_own_roots_only(float64):
    """Adam at [0, 1, 2], divided by the norm of all: the others keep their derivative through that norm."""

    def update(constant, g, state, params):
        direction = g / (jnp.sqrt(g**2) + 1e-8)
        normed = direction / jnp.sqrt(jnp.sum(direction**2))
        return jnp.where(constant, jax.lax.stop_gradient(normed), normed)

    at, covector, none = (jnp.array([0.0, 1.0, 2.0]), (), ()), jnp.array([1.0, 2.0, -1.0]), jnp.zeros(3, bool)
    plain = jax.vjp(lambda *a: update(none, *a), *at)[1](covector)
    found = update_vjp(update, at, covector, plain, singular_points(update, none, *at))
    assert found.singular.tolist() == [True, False, False]
    rest = jax.vjp(lambda g: update(none, jnp.concatenate([jnp.array([1e-300]), g]), (), ()), at[0][1:])
    assert float(found.cotangents[0][0]) == 0.0
    np.testing.assert_allclose(found.cotangents[0][1:], rest[1](covector)[0], rtol=1e-9)


def test_what_is_left_out_leaves_nothing_in_the_costate_of_the_moments(float64):
    """Cold rows of Adam over several steps: 1 / eps must not come back through the first moment of a later step."""
    run = run_of(problem_under("adam"), "unseen token")
    observe = {
        "cotangent": lambda point: point.gradient_cotangent,
        "moments": lambda point: point.costate_next.opt_state,
    }
    sweep = pmp.costate(run.problem, run.x0, run.weights, run.inputs, adjoint=pmp.StoreAll(), observe=observe)
    assert np.all(sweep.seen["cotangent"]["table"][:, -1] == 0.0)
    assert np.max(np.abs(sweep.seen["moments"][0].mu["table"][:, -1])) < 1e3
