"""Weights on demonstrations in softmax attention as a control, and the demonstrations that help most."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import pmpjax as pmp
from pmpjax import observables
from pmpjax.contexts.prompt import Prompts
from pmpjax.models import Decoder, Parameters, cross_entropy, stack_layers
from pmpjax.models.decoder import Block, Seen
from pmpjax.models.layers import Norm, apply


class Contributions(NamedTuple):
    """What each demonstration does for the answers; high is good.

    Fields:
        total: [K] -dJ/du, summed over layers. NaN for a demonstration that is in no prompt.
        by_layer: [layers, K], the same for a weight that acts in one layer alone.
        prompts: [K] how many prompts each demonstration is in.
        loss: -log p(answer) in nats, the mean over prompts.
    """

    total: np.ndarray
    by_layer: np.ndarray
    prompts: np.ndarray
    loss: float


def token_log_weights(owner: Int[Array, "n l"], log_weights: Float[Array, " k"]) -> Float[Array, "n l"]:
    """u of the demonstration that a token belongs to, 0 for all others: the decoder's `key_log_weight`.

    >>> token_log_weights(jnp.array([[-1, 0, 0, 1, -1]]), jnp.array([2.0, 3.0])).tolist()
    [[0.0, 2.0, 2.0, 3.0, 0.0]]
    """
    return jnp.where(owner >= 0, log_weights[jnp.maximum(owner, 0)], 0.0)


def forward_problem(
    decoder: Decoder, params: Parameters, prompts: Prompts, among: Array | None = None
) -> tuple[pmp.Problem, Array, Any]:
    """The in-context forward pass as a controlled system: (problem, x_0, inputs) for `pmpjax.costate`.

    x_t is the residual stream [N, L, width] before block t, w_t the block's parameters, and u_t [K] the logarithms of
    the weights that the block's attention gives to the demonstrations:

        x_{t+1} = block(x_t; softmax(q k^T / sqrt(d) + u_t[owner]) v, w_t),   J = sum_n -log p(answer_n | x_T).

    Controls are [layers, K]. `among` are ids: then p is the softmax over these alone.
    """
    config, trunk = decoder.config, params["trunk"]
    tokens, owner, answers = (jnp.asarray(part) for part in prompts[:3])
    positions = jnp.arange(tokens.shape[1])[None, :]

    def step(h: Array, control: Array, layer: Parameters) -> Array:
        return apply(Block(config), layer, h, Seen(positions, None, token_log_weights(owner, control)), None)[0]

    def desired(h: Array) -> Array:
        h = apply(Norm(config.norm, config.norm_epsilon), trunk["norm"], h)
        return jnp.sum(hidden_answer_losses(decoder, params, h, tokens, answers, among))

    start = apply(decoder, params, tokens, positions, method=lambda module, *at: module.trunk.embed(*at))
    layers = (params if config.scan_layers else stack_layers(params))["trunk"]["layers"]
    return pmp.Problem(pmp.Dynamics(lambda h: h, step), pmp.Cost(terminal=desired)), start, layers


def answer_losses(
    decoder: Decoder,
    params: Parameters,
    prompts: Prompts,
    log_weights: Float[Array, " k"] | None = None,
    among: Array | None = None,
) -> Float[Array, " n"]:
    """-log p(answer | prompt) of each prompt in nats, [N], with weights on the demonstrations; 0 without an answer."""
    tokens, owner, answers = (jnp.asarray(part) for part in prompts[:3])
    weight = None if log_weights is None else token_log_weights(owner, log_weights)
    h = apply(decoder, params, tokens, weight, method=lambda module, *at: module.trunk(*at))
    return hidden_answer_losses(decoder, params, h, tokens, answers, among)


def contributions(
    decoder: Decoder,
    params: Parameters,
    prompts: Prompts,
    log_weights: Float[Array, " k"] | None = None,
    *,
    among: Array | None = None,
    batch: int = 8,
) -> Contributions:
    """-dJ/du of every demonstration by one costate sweep over the layers, J the mean loss of the prompts it is in.

    u is the logarithm of a demonstration's weight; at weight 1 (`log_weights` None) it is -dJ/dw as well. The same
    number for linear attention is a PDS score (`pmpjax.contexts.linear`). With prompts over different groups of one
    list (`pmpjax.contexts.prompt.balanced_groups`), each demonstration is averaged over the prompts that hold it.

    Args:
        prompts: with an answer in each.
        among: [C] ids, the labels of a classification: the loss is then over these alone, and an answer is one of them.
        batch: prompts in a sweep; memory is that of sqrt(layers) residual streams and one block.

    Raises:
        ValueError: a prompt without an answer, an answer that is not in `among`, log weights of another length, or
            derivatives that are not finite.
    """
    rows, pool = prompts.tokens.shape[0], prompts.pool
    _check(prompts, log_weights, among)
    dtype = params["trunk"]["embedding"].dtype
    control = jnp.zeros(pool, dtype) if log_weights is None else jnp.asarray(log_weights, dtype)
    held = np.zeros(pool, np.int64)
    for owners in prompts.owner:
        held[np.unique(owners[owners >= 0])] += 1
    value, gradient = 0.0, np.zeros((decoder.config.layers, pool))
    for begin in range(0, rows, batch):
        part = [np.asarray(leaf[begin : begin + batch]) for leaf in prompts[:3]]
        # The last batch is filled with rows that have no answer, so that one program serves all.
        missing = min(batch, rows) - len(part[0])
        filled = [
            np.pad(leaf, ((0, missing), (0, 0)), constant_values=none)
            for leaf, none in zip(part, (0, -1, -1), strict=True)
        ]
        sweep = _sweep(decoder, params, *filled, control, among)
        status = pmp.Status(int(sweep.health.status))
        if status not in (pmp.Status.OK, pmp.Status.CONTROL_GRADIENT_ZERO):
            raise ValueError(
                f"prompts {begin} to {begin + len(part[0]) - 1}: {status.name.lower()} at layer "
                f"{int(sweep.health.step)} of {decoder.config.layers}; look at the parameters, or compute in float32"
            )
        value, gradient = value + float(sweep.value), gradient + np.asarray(sweep.seen, np.float64)
    by_layer = np.where(held > 0, gradient / np.maximum(held, 1), np.nan)
    return Contributions(by_layer.sum(axis=0), by_layer, held, value / rows)


def best(scores: Float[np.ndarray, " k"], k: int) -> Int[np.ndarray, " best"]:
    """Indices of the k highest scores, best first, equal ones in their order.

    >>> best(np.array([0.1, 0.5, -1.0, 0.5]), 3).tolist()
    [1, 3, 0]
    """
    if not 1 <= k <= len(scores):
        raise ValueError(f"the best {k} of {len(scores)} demonstrations; expected 1 to {len(scores)}")
    unknown = np.flatnonzero(~np.isfinite(scores))
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} demonstrations have no finite score, the first is {unknown[0]}: it is in no prompt, or "
            "its score was not computed; cover all by `balanced_groups`"
        )
    return np.argsort(-scores, kind="stable")[:k]


@functools.partial(jax.jit, static_argnames="decoder")
def _sweep(
    decoder: Decoder, params: Parameters, tokens: Array, owner: Array, answers: Array, control: Array, among: Any
) -> pmp.Sweep:
    problem, start, layers = forward_problem(decoder, params, Prompts(tokens, owner, answers, len(control)), among)
    controls = jnp.broadcast_to(control[None], (decoder.config.layers, len(control)))
    return pmp.costate(problem, start, controls, layers, observe=observables.contributions)


def hidden_answer_losses(
    decoder: Decoder, params: Parameters, h: Array, tokens: Array, answers: Array, among: Array | None
) -> Float[Array, " n"]:
    """The same from h [N, L, width], hidden states behind the last norm. Logits exist at the answers' places alone."""
    there = answers >= 0
    before = jnp.take_along_axis(h, jnp.maximum(answers - 1, 0)[:, :, None], axis=1)
    labels = jnp.take_along_axis(tokens, jnp.maximum(answers, 0), axis=1).reshape(-1)
    output = params["trunk"]["embedding"] if decoder.config.tied_embeddings else params["output"]
    if among is not None:
        output, labels = output[among], jnp.argmax(labels[:, None] == among[None, :], axis=1)
    losses = cross_entropy(before.reshape(-1, h.shape[-1]), output, labels, decoder.config.loss_chunk)
    return jnp.sum(jnp.where(there, losses.reshape(there.shape), 0), axis=1)


def _check(prompts: Prompts, log_weights: Array | None, among: Array | None) -> None:
    if log_weights is not None and log_weights.shape != (prompts.pool,):
        raise ValueError(
            f"log_weights have shape {log_weights.shape}, expected ({prompts.pool},): one for each demonstration "
            "of the list"
        )
    there = prompts.answers >= 0
    bare = np.flatnonzero(~there.any(axis=1))
    if len(bare):
        raise ValueError(
            f"{len(bare)} prompts have no answer, the first is {bare[0]}; build them with the answer of a labelled item"
        )
    if among is not None:
        given = np.take_along_axis(prompts.tokens, np.maximum(prompts.answers, 0), axis=1)
        other = np.flatnonzero((there & ~np.isin(given, np.asarray(among))).any(axis=1) | (there.sum(axis=1) > 1))
        if len(other):
            raise ValueError(
                f"{len(other)} prompts have an answer that is not one token of `among`, the first is {other[0]} with "
                f"{given[other[0]][there[other[0]]].tolist()}; name every label's id, or leave `among` out"
            )
