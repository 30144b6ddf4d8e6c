"""Identities of linear attention in float64: dual form, in-context split, and demonstrations as training data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.contexts.linear import (
    LinearTask,
    Pairs,
    attention_contributions,
    error_signals,
    implied_change,
    in_context_loss,
    linear_attention,
    training_contributions,
)

TIGHT = {"rtol": 0, "atol": 1e-12}


def squared(prediction, target):
    return 0.5 * jnp.sum((prediction - target) ** 2)


def class_loss(prediction, target):
    return jax.nn.logsumexp(prediction) - prediction[target]


def draw(loss, n=7, d=5, m=3, queries=4):
    generator = np.random.default_rng(2)

    def pairs(count):
        targets = generator.integers(0, m, count) if loss is class_loss else generator.normal(size=(count, m))
        return Pairs(jnp.asarray(generator.normal(size=(count, d))), jnp.asarray(targets))

    matrix = jnp.asarray(generator.normal(size=(m, d)))
    return LinearTask(loss, matrix, 0.05, pairs(n), pairs(queries)), jnp.asarray(generator.uniform(0.2, 2.0, n))


@pytest.mark.parametrize("loss", [squared, class_loss])
def test_a_step_of_gradient_descent_is_linear_attention_to_the_errors(float64, loss):
    task, weights = draw(loss)
    x, y = task.demonstrations
    gradients = jax.vmap(jax.grad(lambda matrix, x, y: loss(matrix @ x, y)), (None, 0, 0))(task.matrix, x, y)
    trained = task.matrix - task.rate * jnp.einsum("n,nmd->md", weights, gradients)
    signals = error_signals(task)
    np.testing.assert_allclose(task.matrix + implied_change(x, signals, weights), trained, **TIGHT)
    queries = task.queries.inputs
    attended = queries @ task.matrix.T + linear_attention(queries, x, signals, weights)
    np.testing.assert_allclose(attended, queries @ trained.T, **TIGHT)


def test_linear_attention_over_a_context_is_zero_shot_plus_the_change_that_the_context_implies(float64):
    generator = np.random.default_rng(0)
    demonstrations, own, query = (jnp.asarray(generator.normal(size=(n, 6))) for n in (8, 3, 2))
    w_k, w_v = (jnp.asarray(generator.normal(size=(4, 6))) for _ in range(2))
    asked = jnp.asarray(query @ w_k.T)
    everything = jnp.concatenate([demonstrations, own])
    whole = linear_attention(asked, everything @ w_k.T, everything @ w_v.T)
    change = implied_change(demonstrations @ w_k.T, demonstrations @ w_v.T)
    zero_shot = implied_change(own @ w_k.T, own @ w_v.T)
    np.testing.assert_allclose(asked @ (zero_shot + change).T, whole, **TIGHT)
    assert (
        np.linalg.matrix_rank(np.asarray(implied_change(demonstrations[:2] @ w_k.T, demonstrations[:2] @ w_v.T))) == 2
    )


@pytest.mark.parametrize("loss", [squared, class_loss])
def test_the_gradient_of_a_demonstrations_weight_is_its_one_step_pds_score(float64, loss):
    task, weights = draw(loss)
    attention, training = jax.jit(lambda w: (attention_contributions(task, w), training_contributions(task, w)))(
        weights
    )
    np.testing.assert_allclose(attention, training, **TIGHT)
    # By the definition: eta <grad L(W1), grad l_i(W0)>, gradients formed one by one.
    x, y = task.demonstrations
    of_one = jax.grad(lambda matrix, x, y: loss(matrix @ x, y))
    each = jax.vmap(of_one, (None, 0, 0))(task.matrix, x, y)
    trained = task.matrix - task.rate * jnp.einsum("n,nmd->md", weights, each)
    desired = jnp.mean(jax.vmap(of_one, (None, 0, 0))(trained, *task.queries), axis=0)
    np.testing.assert_allclose(training, task.rate * jnp.einsum("md,nmd->n", desired, each), **TIGHT)
    step, value = 1e-5, jax.jit(lambda w: in_context_loss(task, w))
    for i in range(2):
        moved = jnp.zeros(7).at[i].set(step)
        slope = (value(weights + moved) - value(weights - moved)) / (2 * step)
        np.testing.assert_allclose(-slope, attention[i], rtol=1e-6)
