"""Texts drawn token by token from any model that has a cache."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pmpjax.models.search.endings import Ending, is_end, not_finite
from pmpjax.models.search.masks import TokenMask, after_rows, allowed_rows, begin_rows
from pmpjax.models.search.sampling import Sampling, draw

Advance = Callable[[Array, Any], tuple[Array, Any]]
"""(tokens [R], cache) -> (logits [R, V] of the next tokens, cache)."""


class Start(NamedTuple):
    """Prompts that a model has read.

    Fields:
        logits: [N, V] of the first new token.
        cache: what the model keeps of the prompts: `pmpjax.models.Cache`, or a pytree of leaves [N, ...].
        tokens, lengths: the prompts, [N, L] and [N], which masks begin from.
    """

    logits: Array
    cache: Any
    tokens: Array
    lengths: Array


class Sampled(NamedTuple):
    """Texts that were drawn.

    Fields:
        tokens: [N, steps] int32; 0 behind a text's length.
        lengths: [N] tokens that were drawn, the one that ends the text among them.
        log_probabilities: [N, steps] log p(token) on the support that it was drawn from; 0 behind a text's length.
        status: [N], an `Ending` each.
    """

    tokens: Int[Array, "n steps"]
    lengths: Int[Array, " n"]
    log_probabilities: Float[Array, "n steps"]
    status: Int[Array, " n"]


class _State(NamedTuple):
    step: Array
    logits: Array
    cache: Any
    mask: Any
    running: Array
    written: Sampled


def roll(
    advance: Advance,
    start: Start,
    steps: int,
    key: Array,
    sampling: Sampling,
    *,
    ends: Sequence[int] = (),
    mask: TokenMask | None = None,
) -> Sampled:
    """token_i ~ p(. | prompt, token_0..token_{i-1}) for i < steps, until a token of `ends`; p as in `Sampling`.

    To be called under `jax.jit`. The loop ends when all texts have. Step i uses the i-th part of the key, so that a
    text does not depend on when others end.

    Args:
        advance: the model, which has read the prompts.
        steps: tokens to write at most.
        ends: ids that end a text.
        mask: what may be written; probabilities are normalised over it.
    """
    n, vocabulary = start.logits.shape
    keys = jax.random.split(key, steps)
    nothing = Sampled(
        jnp.zeros((n, steps), jnp.int32),
        jnp.zeros(n, jnp.int32),
        jnp.zeros((n, steps), start.logits.dtype),
        jnp.full(n, Ending.OUT_OF_STEPS, jnp.int32),
    )

    def write(now: _State) -> _State:
        allowed = allowed_rows(mask, now.mask, (n, vocabulary))
        token, log_p = draw(keys[now.step], now.logits, sampling, allowed)
        broken, stuck = not_finite(now.logits), log_p == -jnp.inf
        good = now.running & ~broken & ~stuck
        token, ended = jnp.where(good, token, 0), good & is_end(token, ends)
        status = now.written.status
        for here, ending in ((stuck, Ending.NOTHING_ALLOWED), (broken, Ending.NOT_FINITE)):
            status = jnp.where(now.running & here, ending, status)
        written = Sampled(
            now.written.tokens.at[:, now.step].set(token),
            now.written.lengths + good,
            now.written.log_probabilities.at[:, now.step].set(jnp.where(good, log_p, 0.0)),
            jnp.where(ended, Ending.ENDED, status),
        )
        logits, cache = advance(token, now.cache)
        return _State(now.step + 1, logits, cache, after_rows(mask, now.mask, token), good & ~ended, written)

    masks = begin_rows(mask, start.tokens, start.lengths, steps)
    first = _State(jnp.zeros((), jnp.int32), start.logits, start.cache, masks, jnp.ones(n, bool), nothing)
    return jax.lax.while_loop(lambda now: (now.step < steps) & jnp.any(now.running), write, first).written
