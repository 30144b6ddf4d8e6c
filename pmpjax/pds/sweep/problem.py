"""The controlled system: a proxy that goes on training, with one weight for each instance of the proxy set."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

import pmpjax as pmp
from pmpjax.data import Rows
from pmpjax.models import Decoder, example_losses
from pmpjax.pds.sweep.config import InnerOptimizer, SolveConfig
from pmpjax.train import OptimizerConfig, adamw
from pmpjax.train.heldout import mean_loss, row_terms
from pmpjax.train.mesh import sharded_losses
from pmpjax.train.warm_start import WarmStart
from pmpjax.training import TrainState

SGD_RATE = 0.1
ADAMW_SHARE = 0.25


class Proxy(NamedTuple):
    """The model that is trained on.

    decoder: its architecture. start: theta_0, the optimizer's state there, and the rule that trained it. mesh: devices
    that share the sweep, cut as `pmpjax.train.mesh.partition` says; None is one.
    """

    decoder: Decoder
    start: WarmStart
    mesh: Mesh | None = None


class Step(NamedTuple):
    """The input w_t of a step: rows of the proxy set [B, L], which of the instances they are [B], and rows of the
    target's dev split [B_dev, L], None where the desired loss is over the whole split."""

    train: Rows
    index: Int[Array | np.ndarray, " batch"]
    dev: Rows | None


def proxy_problem(
    config: SolveConfig,
    decoder: Decoder,
    optimizer: OptimizerConfig,
    dev: Rows | None = None,
    mesh: Mesh | None = None,
) -> pmp.Problem:
    """min_gamma sum_{t=0..T} J(theta_t) with x_{t+1} = f(x_t, (N/B) sum_b gamma_{i_tb} grad l_{i_tb}(theta_t)).

    gamma is one weight an instance for the whole run, [N] on the simplex; i_tb is the instance at place b of batch t;
    x_t = (theta_t, s_t) and f are those of `config.inner_optimizer`: theta_t - eta g for SGD.

    Args:
        optimizer: that trained the proxy; what AdamW as the inner optimizer takes its settings from.
        dev: the rows of J where the steps bring none, taken in chunks of `config.chunk`.
        mesh: rows are cut along its data and fsdp axes.

    Source: PDS (arXiv 2410.07064), the problem of section 2.1, whose inner optimizer is SGD.
    """
    losses = sharded_losses(decoder, mesh)
    dynamics = pmp.training_dynamics(
        lambda params, step: losses(params, step.train),
        inner_optimizer(config.inner_optimizer, config.learning_rate, optimizer),
        index=lambda step: step.index,
        remat=decoder.config.remat != "none",
    )
    whole = None if dev is None else mean_loss(row_terms(example_losses(decoder)), dev, config.chunk, mesh)

    def desired(params: Any, step: Step) -> Array:
        if step.dev is not None:
            return jnp.mean(losses(params, step.dev))
        if whole is None:
            raise ValueError("the steps bring no dev rows: give the whole dev split as `dev`")
        return whole(params)

    return pmp.Problem(dynamics, pmp.area_under(desired), prox=pmp.prox.simplex, control_axis=None)


def learning_rate(name: InnerOptimizer, given: float | None, optimizer: OptimizerConfig) -> float:
    """eta: the one that is given, else a quarter of `optimizer`'s for AdamW and 0.1 for SGD.

    >>> learning_rate("sgd", None, OptimizerConfig()), learning_rate("adamw", None, OptimizerConfig(learning_rate=0.5))
    (0.1, 0.125)
    """
    if given is not None:
        return given
    return SGD_RATE if name == "sgd" else ADAMW_SHARE * optimizer.learning_rate


def inner_optimizer(
    name: InnerOptimizer, rate: float | None, optimizer: OptimizerConfig
) -> optax.GradientTransformation:
    """The optax rule f of theta_{t+1}, s_{t+1} = f(theta_t, s_t, g_t): AdamW as in `optimizer`, or SGD, at
    `learning_rate(name, rate, optimizer)`."""
    eta = learning_rate(name, rate, optimizer)
    return optax.sgd(eta) if name == "sgd" else adamw(dataclasses.replace(optimizer, learning_rate=eta))


def initial_state(name: InnerOptimizer, start: WarmStart) -> TrainState:
    """x_0 = (theta_0, s_0): AdamW keeps the moments of its training, SGD has none.

    Without them Adam has slope 1/eps where a coordinate has had no gradient yet, and the first steps are the largest.
    """
    params = jax.tree.map(jnp.asarray, start.params)
    if name == "sgd":
        return TrainState(params, optax.sgd(SGD_RATE).init(params))
    return TrainState(params, jax.tree.map(jnp.asarray, start.opt_state))
