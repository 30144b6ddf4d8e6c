"""Weights on groups as a control: learned on a few labelled items, or scored by one costate."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import pmpjax as pmp
from pmpjax.contexts.demonstrations import hidden_answer_losses, token_log_weights
from pmpjax.contexts.structured_prompting.context import Context, ContextAttention, attach
from pmpjax.models import Decoder, Parameters, stack_layers
from pmpjax.models.decoder import Block, Seen
from pmpjax.models.layers import Norm, apply
from pmpjax.scoring.options import Item


def group_problem(
    decoder: Decoder,
    params: Parameters,
    context: Context,
    items: Sequence[Item],
    labels: Sequence[int],
    attention: ContextAttention = ContextAttention(),
) -> tuple[pmp.Problem, Array, Any]:
    """The forward pass of labelled items behind a context as a controlled system: (problem, x_0, inputs).

    x_t is the residual stream before block t, w_t the block's parameters with the context's keys and values in it, and
    u [M] the logarithms of the groups' weights, the same in all blocks:

        x_{t+1} = block(x_t; u, w_t),   J = (1 / N) sum_n [log sum_c e^(s_nc) - s_n,label_n],

    s_nc the mean log-probability of the tokens of option c, as `option_log_probabilities` gives it. `pmpjax.solve`
    learns u, and one `pmpjax.costate` gives -dJ/du of every group. All options of all items are in memory at once.

    Raises ValueError: no items, or a label that is no option of its item.
    """
    _check(items, labels)
    config, trunk = decoder.config, params["trunk"]
    attached = attach(decoder, context, None, attention)
    pairs, rest = attached.split()
    tokens, answers, there = _rows(items)
    owner = jnp.repeat(jnp.arange(context.groups), context.keys.shape[2])[None, :]
    positions = jnp.broadcast_to(attached.first[:, None] + jnp.arange(tokens.shape[1])[None, :], tokens.shape)
    lengths = jnp.zeros(len(tokens), jnp.int32)
    counts = jnp.asarray((answers >= 0).sum(axis=1))

    def step(h: Array, control: Array, given: Any) -> Array:
        layer, shared = given
        part = rest.parts[-1]
        part = part._replace(log_weight=part.log_weight + token_log_weights(owner, control))
        seen = Seen(positions, None, None, lengths, rest._replace(parts=(*rest.parts[:-1], part)))
        room = jnp.zeros((*h.shape[:2], config.key_value_heads, config.size), h.dtype)
        return apply(Block(config), layer, h, seen, (room, room, shared))[0]

    def desired(h: Array) -> Array:
        h = apply(Norm(config.norm, config.norm_epsilon), trunk["norm"], h)
        losses = hidden_answer_losses(decoder, params, h, jnp.asarray(tokens), jnp.asarray(answers), None)
        scores = jnp.where(there, -(losses / jnp.maximum(counts, 1)).reshape(there.shape), -jnp.inf)
        right = jnp.take_along_axis(scores, jnp.asarray(labels)[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(scores, axis=1) - right)

    start = apply(decoder, params, jnp.asarray(tokens), positions, method=lambda module, *at: module.trunk.embed(*at))
    layers = (params if config.scan_layers else stack_layers(params))["trunk"]["layers"]
    dynamics = pmp.Dynamics(lambda h: h, step)
    return pmp.Problem(dynamics, pmp.Cost(terminal=desired), control_axis=None), start, (layers, pairs)


def fit_group_weights(
    decoder: Decoder,
    params: Parameters,
    context: Context,
    items: Sequence[Item],
    labels: Sequence[int],
    attention: ContextAttention = ContextAttention(),
    *,
    sweeps: int = 20,
    callback: Callable[[pmp.Progress], bool | None] | None = None,
) -> pmp.Solution:
    """min_u J(u) of `group_problem` from u = 0 by gradient steps with backtracking; `controls` are for `attach`.

    Costs `sweeps` forward and backward passes over the items. J never rises on these items; judge u on others.
    """
    problem, start, inputs = group_problem(decoder, params, context, items, labels, attention)
    return pmp.solve(problem, start, jnp.zeros(context.groups, start.dtype), inputs, sweeps=sweeps, callback=callback)


def _rows(items: Sequence[Item]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [N C, L] of prompt and option, places of the option's tokens [N C, A] (-1 is padding), and which there
    are, [N, C]."""
    count = max(len(item.options) for item in items)
    there = np.asarray([[option < len(item.options) for option in range(count)] for item in items])
    rows = [
        (list(item.prompt), list(item.options[option]) if option < len(item.options) else [])
        for item in items
        for option in range(count)
    ]
    tokens = np.zeros((len(rows), max(len(prompt) + len(option) for prompt, option in rows)), np.int32)
    answers = np.full((len(rows), max(len(option) for _, option in rows)), -1, np.int32)
    for row, (prompt, option) in enumerate(rows):
        tokens[row, : len(prompt) + len(option)] = [*prompt, *option]
        answers[row, : len(option)] = np.arange(len(prompt), len(prompt) + len(option))
    return tokens, answers, there


def _check(items: Sequence[Item], labels: Sequence[int]) -> None:
    if not items or len(items) != len(labels):
        raise ValueError(f"{len(items)} items and {len(labels)} labels; give as many, and at least one")
    wrong = [n for n, (item, label) in enumerate(zip(items, labels, strict=True)) if not 0 <= label < len(item.options)]
    if wrong:
        raise ValueError(
            f"item {wrong[0]} has the label {labels[wrong[0]]}, expected the number of one of its "
            f"{len(items[wrong[0]].options)} options, from 0"
        )
