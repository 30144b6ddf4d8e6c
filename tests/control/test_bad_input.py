"""Bad input: the message names the leaf or argument and the mend, while tracing where that is possible."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
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


def test_wrong_leading_axis_of_inputs_names_leaf_and_mend():
    p = plant()
    x, y = p.batches
    message = r"inputs\[1\] has leading axis 4, expected T = 5 as given by controls.*Problem\(input_axis=None\)"
    for call in (traced, pmp.objective, pmp.rollout):
        with pytest.raises(ValueError, match=message):
            call(p.problem, p.x0, p.weights, (x, y[:-1]))


def test_wrong_leading_axis_of_controls_names_leaf_and_mend():
    problem = scalar_plant(lambda x, u, w: x + u["a"] + u["b"])
    with pytest.raises(ValueError, match=r"controls\['b'\] has leading axis 2, expected T = 3 .*control_axis=None"):
        traced(problem, 0.0, {"a": jnp.ones(3), "b": jnp.ones(2)}, None)
    with pytest.raises(
        ValueError, match=r"controls\['b'\] is a scalar, expected a leading time axis.*control_axis=None"
    ):
        traced(problem, 0.0, {"a": jnp.ones(3), "b": jnp.ones(())}, None)


def test_axes_other_than_the_first_and_horizons_are_explained():
    problem = scalar_plant(lambda x, u, w: x + u)
    with pytest.raises(
        ValueError, match=r"the time axis of the controls is 1; expected 0 or None: move time to the fr"
    ):
        traced(problem._replace(control_axis=1), 0.0, jnp.ones((2, 3)), None)
    with pytest.raises(ValueError, match=r"neither controls nor inputs have a time axis; set Problem\(horizon=T\)"):
        traced(problem._replace(control_axis=None), 0.0, jnp.ones(()), None)
    with pytest.raises(ValueError, match=r"controls has leading axis 3, expected T = 4 as given by Problem\.horizon"):
        traced(problem._replace(horizon=4), 0.0, jnp.ones(3), None)
    with pytest.raises(ValueError, match=r"the horizon is 0 \(controls\), expected at least one step"):
        traced(problem, 0.0, jnp.ones(0), None)


# Weights


def test_weights_of_the_wrong_length():
    p = plant()
    message = r"the control has \(3,\) weights for losses of shape \(4,\); expected one weight an example"
    with pytest.raises(ValueError, match=message):
        traced(p.problem, p.x0, pmp.uniform(STEPS, BATCH - 1), p.batches)


def test_indexed_weights_of_the_wrong_length():
    p = plant()
    dynamics = pmp.training_dynamics(p.losses, optax.sgd(0.1), index=lambda input: jnp.arange(3))
    with pytest.raises(ValueError, match=r"the index names \(3,\) weights for losses of shape \(4,\)"):
        traced(p.problem._replace(dynamics=dynamics, control_axis=None), p.x0, pmp.uniform(9), p.batches)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda u: u.at[1, 2].add(-0.5), r"controls lies 0\.5 outside the set 'simplex' .*pmpjax\.uniform\(T, N\)"),
        (lambda u: u.at[1].multiply(2.0), r"controls lies 1 outside the set 'simplex'"),
        (lambda u: u.at[3, 1].set(jnp.nan), r"controls is not finite, first at index \(3, 1\); start from a feasible"),
        (lambda u: u.at[0, 0].set(jnp.inf), r"controls is not finite, first at index \(0, 0\)"),
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
    with pytest.raises(ValueError, match=r"controls is not finite, first at index \(2, 3\)"):
        pmp.solve(p.problem, p.x0, p.weights.at[2, 3].set(jnp.nan), p.batches)


def test_integer_weights():
    p = plant()
    with pytest.raises(
        ValueError, match=r"controls has dtype int32, expected a floating one: controls are differentia"
    ):
        traced(p.problem, p.x0, jnp.ones((STEPS, BATCH), jnp.int32), p.batches)


# Losses and costs


@pytest.mark.parametrize("shape", ["scalar", "matrix"])
def test_losses_that_are_not_one_an_example(shape):
    p = plant()

    def losses(params, batch):
        each = p.losses(params, batch)
        return each.mean() if shape == "scalar" else each[:, None]

    problem = p.problem._replace(dynamics=pmp.training_dynamics(losses, optax.sgd(0.1)))
    message = r"losses returned shape \((4, 1)?\), expected \[N\], one loss an example; do not reduce over examples"
    with pytest.raises(ValueError, match=message):
        traced(problem, p.x0, p.weights, p.batches)


def test_costs_that_are_not_scalars():
    p = plant()
    running = p.problem._replace(cost=pmp.Cost(running=lambda x, u, w: p.losses(x.params, p.instances)))
    terminal = p.problem._replace(cost=pmp.terminal_loss(lambda params: p.losses(params, p.instances)))
    for problem, name in ((running, "Cost.running"), (terminal, "Cost.terminal")):
        with pytest.raises(ValueError, match=rf"{name} returned shape \(9,\), expected a scalar; reduce it"):
            traced(problem, p.x0, p.weights, p.batches)


def test_a_step_that_changes_the_state():
    problem = scalar_plant(lambda x, u, w: {"a": x["a"][None] + u}, pmp.Cost(terminal=lambda x: x["a"]))
    message = r"the state after one step\['a'\] has shape \(1,\) and dtype float32, expected \(\) and float32; the step"
    with pytest.raises(ValueError, match=message):
        traced(problem, {"a": jnp.zeros(())}, jnp.ones(3), None)


# Optimizers and parameters


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.scale_by_backtracking_linesearch(max_backtracking_steps=3),
        optax.chain(optax.sgd(0.1), optax.scale_by_zoom_linesearch(max_linesearch_steps=3)),
        optax.lbfgs(),
        optax.contrib.reduce_on_plateau(),
    ],
    ids=["backtracking", "zoom", "lbfgs", "plateau"],
)
def test_optimizers_that_need_more_than_gradient_state_and_params(optimizer):
    p = plant()
    message = (
        r"the optimizer needs more than \(gradient, state, params\).*use a rule such as optax\.sgd or optax\.adamw"
    )
    with pytest.raises(ValueError, match=message):
        pmp.training_dynamics(p.losses, optimizer).init(p.x0.params)


def test_what_is_no_optimizer():
    with pytest.raises(Exception, match="optimizer"):
        pmp.training_dynamics(plant().losses, 0.1)


def test_integer_parameters():
    p = plant()
    with pytest.raises(
        ValueError, match=r"params\['steps'\] has dtype int32, expected a floating one; keep what is not"
    ):
        p.problem.dynamics.init({**p.x0.params, "steps": jnp.int32(3)})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_of_reduced_precision_warn(dtype):
    p = plant()
    message = rf"params\['unit'\] has dtype {dtype.__name__}: costates accumulate rounding.*verify's consistency check"
    with pytest.warns(UserWarning, match=message):
        p.problem.dynamics.init({"unit": p.x0.params["unit"].astype(dtype)})


# Rules without a derivative: tests/training


# Divergence


def swept(problem, x0, controls, inputs=None):
    run = jax.jit(lambda x, u: pmp.costate(problem, x, u, inputs, adjoint=pmp.StoreAll(), observe=obs.control_gradient))
    return run(x0, controls)


def test_a_diverging_state_is_a_status_with_its_step():
    """x_{t+1} = 1e15 x_t: 1e30 at t = 2, beyond float32 at t = 3."""
    sweep = swept(scalar_plant(lambda x, u, w: 1e15 * x * u), 1.0, jnp.ones(6))
    assert int(sweep.health.status) == pmp.Status.STATE_NOT_FINITE
    assert int(sweep.health.step) == 3
    assert "x_t is not finite from step 3" in sweep.health.describe()
    assert "lower the step size" in sweep.health.describe()


def test_a_diverging_costate_is_a_status_with_its_step():
    """x stays zero and the costate grows by 1e15 a step: 1e30 at t = 4, beyond float32 at t = 3, of T = 6."""
    sweep = swept(scalar_plant(lambda x, u, w: 1e15 * x * u), 0.0, jnp.ones(6))
    assert int(sweep.health.status) == pmp.Status.COSTATE_NOT_FINITE
    assert int(sweep.health.step) == 3
    assert "the costate is not finite from step 3" in sweep.health.describe()
    assert "lower the step size" in sweep.health.describe()
    np.testing.assert_allclose(sweep.health.norms[5:], [1e15, 1.0], rtol=1e-6)


def test_a_plant_unstable_for_its_costate_is_said_so():
    """A step of 30 on curvature 2: theta stays between two examples, the costate grows 59-fold a step."""
    dynamics = pmp.training_dynamics(lambda params, batch: (params - batch) ** 2, optax.sgd(30.0))
    problem = pmp.Problem(dynamics, pmp.terminal_loss(lambda params: params))
    sweep = swept(problem, dynamics.init(0.0), jnp.full((6, 2), 0.5), jnp.tile(jnp.array([1.0, -1.0]), (6, 1)))
    assert int(sweep.health.status) == pmp.Status.OK and sweep.health.growth == pytest.approx(59.0**5, rel=1e-4)
    assert "the plant is unstable for the costate; lower the step size" in sweep.health.describe()


def test_a_stable_plant_is_not_blamed():
    p = plant()
    health = swept(p.problem, p.x0, p.weights, p.batches).health
    assert int(health.status) == pmp.Status.OK and int(health.step) == -1
    assert "lower" not in health.describe()
