"""Losses, parameters and optimizers that cannot be used are refused while tracing, with the leaf and a hint."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from tests.control.small import small


def plant():
    return small(5, 4, dtype=np.float32)


def traced(p, weights=None, **changes):
    problem = p.problem._replace(**changes)
    return jax.eval_shape(lambda u: pmp.costate(problem, p.x0, u, p.batches), p.weights if weights is None else weights)


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
    with pytest.raises(ValueError, match=r"\(gradient, state, params\).*optax\.sgd"):
        pmp.training_dynamics(p.losses, optimizer).init(p.x0.params)


def test_optimizers_that_do_not_fit_the_parameters():
    p = plant()
    rule = optax.masked(optax.sgd(0.1), {"another": True})
    with pytest.raises(ValueError, match=r"(?s)optimizer\.init.*params\['unit'\]"):
        pmp.training_dynamics(p.losses, rule).init(p.x0.params)


def test_what_is_no_optimizer():
    with pytest.raises(Exception, match="optimizer"):
        pmp.training_dynamics(plant().losses, 0.1)


def test_integer_parameters():
    p = plant()
    with pytest.raises(ValueError, match=r"params\['steps'\] has dtype int32"):
        p.problem.dynamics.init({**p.x0.params, "steps": jnp.int32(3)})


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_of_reduced_precision_warn(dtype):
    p = plant()
    with pytest.warns(UserWarning, match=rf"params\['unit'\] has dtype {dtype.__name__}.*verify"):
        p.problem.dynamics.init({"unit": p.x0.params["unit"].astype(dtype)})


@pytest.mark.parametrize("returned", ["scalar", "matrix", "pair"])
def test_losses_that_are_not_one_an_example(returned):
    p = plant()

    def losses(params, batch):
        each = p.losses(params, batch)
        return {"scalar": each.mean(), "matrix": each[:, None], "pair": (each, each)}[returned]

    with pytest.raises(ValueError, match=r"losses returned .*expected .*\[N\]"):
        traced(p, dynamics=pmp.training_dynamics(losses, optax.sgd(0.1)))


def test_weights_of_the_wrong_length():
    with pytest.raises(ValueError, match=r"the control has \(3,\) .*losses of shape \(4,\)"):
        traced(plant(), pmp.uniform(5, 3))


def test_indexed_weights_of_the_wrong_length():
    p = plant()
    dynamics = pmp.training_dynamics(p.losses, optax.sgd(0.1), index=lambda input: jnp.arange(3))
    with pytest.raises(ValueError, match=r"the index names \(3,\) .*losses of shape \(4,\)"):
        traced(p, pmp.uniform(9), dynamics=dynamics, control_axis=None)
