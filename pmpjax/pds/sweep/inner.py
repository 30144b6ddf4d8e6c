"""The plant of the costate sweep: a trained model, and the rule by which it would be trained on."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from pmpjax.train import OptimizerConfig, adamw
from pmpjax.train.warm_start import WarmStart
from pmpjax.training import TrainState

Rule = Literal["adamw", "sgd"]
SGD_RATE = 0.1
ADAMW_SHARE = 0.25


def learning_rate(rule: Rule, given: float | None, optimizer: OptimizerConfig) -> float:
    """eta: the one that is given, else a quarter of `optimizer`'s for AdamW and 0.1 for SGD.

    >>> learning_rate("sgd", None, OptimizerConfig()), learning_rate("adamw", None, OptimizerConfig(learning_rate=0.5))
    (0.1, 0.125)
    """
    if given is not None:
        return given
    return SGD_RATE if rule == "sgd" else ADAMW_SHARE * optimizer.learning_rate


def plant(rule: Rule, rate: float | None, optimizer: OptimizerConfig) -> optax.GradientTransformation:
    """The optax rule f of theta_{t+1}, s_{t+1} = f(theta_t, s_t, g_t): AdamW as in `optimizer`, or SGD, at
    `learning_rate(rule, rate, optimizer)`."""
    eta = learning_rate(rule, rate, optimizer)
    return optax.sgd(eta) if rule == "sgd" else adamw(dataclasses.replace(optimizer, learning_rate=eta))


def initial_state(rule: Rule, model: WarmStart) -> TrainState:
    """x_0 = (theta_0, s_0): AdamW keeps the moments of its training, SGD has none.

    Without them Adam has slope 1/eps where a coordinate has had no gradient yet, and the first steps are the largest.
    """
    params = jax.tree.map(jnp.asarray, model.params)
    if rule == "sgd":
        return TrainState(params, optax.sgd(SGD_RATE).init(params))
    return TrainState(params, jax.tree.map(jnp.asarray, model.opt_state))
