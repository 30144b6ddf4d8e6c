"""Linear attention as a step of gradient descent, and weights on demonstrations as its control."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import pmpjax as pmp
from pmpjax import observables

_PRECISION = jax.lax.Precision.HIGHEST

Loss = Callable[[Array, Array], Array]
"""(prediction [m], target) -> scalar."""


class Pairs(NamedTuple):
    """Inputs [N, d], and targets with a leading axis N."""

    inputs: Array
    targets: Array


class LinearTask(NamedTuple):
    """A linear layer y = W x that sees weighted demonstrations once, and is then asked.

    Fields:
        loss: of one prediction, for demonstrations and queries alike.
        matrix: W0, [m, d].
        rate: eta, the step size of the one step of gradient descent.
        demonstrations: N pairs, the control's instances.
        queries: pairs; J is their mean loss.
    """

    loss: Loss
    matrix: Float[Array, "m d"]
    rate: float
    demonstrations: Pairs
    queries: Pairs


def linear_attention(
    queries: Float[Array, "q d"],
    keys: Float[Array, "n d"],
    values: Float[Array, "n m"],
    weights: Float[Array, " n"] | None = None,
) -> Float[Array, "q m"]:
    """o_q = sum_i w_i v_i <k_i, q>, without a softmax and without a normaliser; w is 1 where it is None.

    >>> linear_attention(jnp.array([[2.0]]), jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [10.0]])).tolist()
    [[62.0]]
    """
    products = jnp.matmul(queries, keys.T, precision=_PRECISION)
    weighted = products if weights is None else products * weights[None, :]
    return jnp.matmul(weighted, values, precision=_PRECISION)


def implied_change(
    keys: Float[Array, "n d"], values: Float[Array, "n m"], weights: Float[Array, " n"] | None = None
) -> Float[Array, "m d"]:
    """Delta W = sum_i w_i v_i k_i^T, the change of weights that a context implies: Delta W q = linear_attention(q).

    With k_i = W_K x_i and v_i = W_V x_i of the demonstrations alone it is Delta W_ICL of the split of linear attention
    over demonstrations X' and the query's own tokens X:

        W_V [X'; X] (W_K [X'; X])^T q = (W_ZSL + Delta W_ICL) q,   W_ZSL = W_V X (W_K X)^T.

    Source: Why can GPT learn in-context? (arXiv 2212.10559), equations 7 to 9.

    >>> implied_change(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [10.0]])).tolist()
    [[31.0]]
    """
    weighted = values if weights is None else values * weights[:, None]
    return jnp.matmul(weighted.T, keys, precision=_PRECISION)


def error_signals(task: LinearTask) -> Float[Array, "n m"]:
    """e_i = -eta dl_i/dy at y_i = W0 x_i: the values under which linear attention is a step of gradient descent.

    Dual form: W1 = W0 + sum_i w_i e_i x_i^T, hence W1 q = W0 q + linear_attention(q, X, E, w).

    Source: arXiv 2212.10559, equations 3 to 5.
    """
    predictions = _apply(task.matrix, task.demonstrations.inputs)
    return -task.rate * jax.vmap(jax.grad(task.loss))(predictions, task.demonstrations.targets)


def in_context_loss(task: LinearTask, weights: Float[Array, " n"]) -> Float[Array, ""]:
    """J(w) = mean_q l(W0 q + linear_attention(q, X, E, w)): the layer is never trained, it attends.

    >>> square = lambda y, target: 0.5 * jnp.sum((y - target) ** 2)
    >>> one = lambda x, y: Pairs(jnp.array([[x]]), jnp.array([[y]]))
    >>> task = LinearTask(square, jnp.zeros((1, 1)), 0.5, one(1.0, 2.0), one(1.0, 2.0))
    >>> float(in_context_loss(task, jnp.ones(1))), float(in_context_loss(task, jnp.zeros(1)))
    (0.5, 2.0)
    """
    queries, demonstrations = task.queries, task.demonstrations
    attended = linear_attention(queries.inputs, demonstrations.inputs, error_signals(task), weights)
    predictions = _apply(task.matrix, queries.inputs) + attended
    return jnp.mean(jax.vmap(task.loss)(predictions, queries.targets))


def attention_contributions(task: LinearTask, weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """-dJ/dw_i through attention: `jax.grad` of `in_context_loss`. High is good."""
    return -jax.grad(in_context_loss, argnums=1)(task, weights)


def training_contributions(task: LinearTask, weights: Float[Array, " n"]) -> Float[Array, " n"]:
    """-dJ/dw_i = eta <grad J(W1), grad l_i(W0)> through training: `pmpjax.costate` of one step of SGD. High is good.

    The step is W1 = W0 - eta sum_i w_i grad l_i(W0), the costate grad J(W1), and the result the PDS score of
    demonstration i over one step, times eta. It is the same number as `attention_contributions`: choosing
    demonstrations for a context is choosing training data.

    Source: PDS (arXiv 2410.07064), the score of an instance; arXiv 2212.10559 for the dual form.
    """

    def losses(matrix: Array, pairs: Pairs) -> Array:
        return jax.vmap(task.loss)(_apply(matrix, pairs.inputs), pairs.targets)

    dynamics = pmp.training_dynamics(losses, optax.sgd(task.rate))
    problem = pmp.Problem(
        dynamics, pmp.terminal_loss(lambda matrix: jnp.mean(losses(matrix, task.queries))), input_axis=None
    )
    sweep = pmp.costate(
        problem,
        dynamics.init(task.matrix),
        weights[None],
        task.demonstrations,
        observe=observables.contributions,
    )
    return sweep.seen[0]


def _apply(matrix: Float[Array, "m d"], inputs: Float[Array, "n d"]) -> Float[Array, "n m"]:
    return jnp.matmul(inputs, matrix.T, precision=_PRECISION)
