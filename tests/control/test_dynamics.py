"""What is bound to a problem is checked while tracing: the message names the leaf or argument and a hint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from tests.control.small import small

STEPS, BATCH = 5, 4


def plant(**more):
    return small(STEPS, BATCH, dtype=np.float32, **more)


def traced(problem, x0, controls, inputs, **more):
    """Traces a sweep, which never runs: what is refused here is refused before anything is computed."""
    return jax.eval_shape(lambda u: pmp.costate(problem, x0, u, inputs, **more).seen, controls)


def scalar_plant(step, cost=None):
    return pmp.Problem(pmp.Dynamics(jnp.asarray, step), cost or pmp.Cost(terminal=lambda x: x))


# Axes


def test_wrong_leading_axis_of_inputs_names_leaf_and_option():
    p = plant()
    x, y = p.batches
    for call in (traced, pmp.objective, pmp.rollout):
        with pytest.raises(ValueError, match=r"inputs\[1\] .*4.*T = 5.*controls.*input_axis=None"):
            call(p.problem, p.x0, p.weights, (x, y[:-1]))


def test_wrong_leading_axis_of_controls_names_leaf_and_option():
    problem = scalar_plant(lambda x, u, w: x + u["a"] + u["b"])
    with pytest.raises(ValueError, match=r"controls\['b'\] .*2.*T = 3 .*control_axis=None"):
        traced(problem, 0.0, {"a": jnp.ones(3), "b": jnp.ones(2)}, None)
    with pytest.raises(ValueError, match=r"controls\['b'\] is a scalar.*control_axis=None"):
        traced(problem, 0.0, {"a": jnp.ones(3), "b": jnp.ones(())}, None)


def test_axes_other_than_the_first_and_horizons_are_explained():
    problem = scalar_plant(lambda x, u, w: x + u)
    with pytest.raises(ValueError, match=r"time axis of the controls is 1; expected 0 or None"):
        traced(problem._replace(control_axis=1), 0.0, jnp.ones((2, 3)), None)
    with pytest.raises(ValueError, match=r"time axis.*Problem\(horizon=T\)"):
        traced(problem._replace(control_axis=None), 0.0, jnp.ones(()), None)
    with pytest.raises(ValueError, match=r"controls .*3.*T = 4 .*Problem\.horizon"):
        traced(problem._replace(horizon=4), 0.0, jnp.ones(3), None)
    with pytest.raises(ValueError, match=r"horizon is 0 \(controls\)"):
        traced(problem, 0.0, jnp.ones(0), None)


# Weights


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda u: u.at[1, 2].add(-0.5), r"controls .*0\.5 outside the set 'simplex' .*pmpjax\.uniform"),
        (lambda u: u.at[1].multiply(2.0), r"controls .*1 outside the set 'simplex'"),
        (lambda u: u.at[3, 1].set(jnp.nan), r"controls is not finite.*\(3, 1\)"),
        (lambda u: u.at[0, 0].set(jnp.inf), r"controls is not finite.*\(0, 0\)"),
    ],
    ids=["negative", "sum", "nan", "infinite"],
)
def test_weights_outside_their_set(spoil, message):
    p = plant(prox=pmp.prox.simplex)
    controls = spoil(pmp.uniform(STEPS, BATCH))
    for call in (pmp.costate, pmp.solve, pmp.verify):
        with pytest.raises(ValueError, match=message):
            call(p.problem, p.x0, controls, p.batches)


def test_nan_weights_are_refused_also_without_constraints():
    p = plant()
    with pytest.raises(ValueError, match=r"controls is not finite.*\(2, 3\)"):
        pmp.solve(p.problem, p.x0, p.weights.at[2, 3].set(jnp.nan), p.batches)


def test_integer_weights():
    p = plant()
    with pytest.raises(ValueError, match=r"controls has dtype int32"):
        traced(p.problem, p.x0, jnp.ones((STEPS, BATCH), jnp.int32), p.batches)


# Costs and states


def test_costs_that_are_not_scalars():
    p = plant()
    running = p.problem._replace(cost=pmp.Cost(running=lambda x, u, w: p.losses(x.params, p.instances)))
    terminal = p.problem._replace(cost=pmp.terminal_loss(lambda params: p.losses(params, p.instances)))
    for problem, name in ((running, "Cost.running"), (terminal, "Cost.terminal")):
        with pytest.raises(ValueError, match=rf"{name} returned shape \(9,\)"):
            traced(problem, p.x0, p.weights, p.batches)


def test_a_step_that_changes_the_state():
    problem = scalar_plant(lambda x, u, w: {"a": x["a"][None] + u}, pmp.Cost(terminal=lambda x: x["a"]))
    with pytest.raises(ValueError, match=r"\['a'\] has shape \(1,\).*expected \(\)"):
        traced(problem, {"a": jnp.zeros(())}, jnp.ones(3), None)
