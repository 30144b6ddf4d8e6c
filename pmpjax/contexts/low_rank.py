"""The change of a block's feed-forward weights that a context implies: rank one for each token, and exact."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pmpjax.models import DecoderConfig, Parameters
from pmpjax.models.attention import HIDDEN
from pmpjax.models.decoder import Block, Seen

_READ = ("output", "feed_forward_norm")


class ContextChange(NamedTuple):
    """What a context changes in a block, for each token in factors: Delta W = along up^T for a kernel [width, hidden].

    Fields:
        along: [N, L, width] A / |A|^2, with A what enters the feed-forward without the context.
        up: [N, L, hidden] (Delta A) W of the kernel `up`.
        gate: [N, L, hidden] the same of `gate`; None where the feed-forward has no gate.
        shift: [N, L, width] Delta of attention's output, which the residual stream adds to the block's output.

    All are NaN at tokens of the context itself, which are not there without it.
    """

    along: Array
    up: Array
    gate: Array | None
    shift: Array


def context_change(
    config: DecoderConfig,
    params: Parameters,
    h: Float[Array, "n l d"],
    context: Bool[Array, "n l"],
    positions: Int[Array, "m l"] | None = None,
) -> ContextChange:
    """Delta W(Y) = (W Delta A) A^T / |A|^2, Delta A = A(C, x) - A(C without Y, x), of one softmax block.

    A is the token's attention output behind the residual sum and the norm, as it enters the feed-forward. Then the
    block with W + Delta W, read without Y, plus `shift`, gives what the block with W gives with Y, exactly: for
    W' = W + Delta W, W' A(C without Y) = W A(C). The change is another one for each token x.

    Args:
        params: of one block, such as `params["trunk"]["layers_0"]`.
        h: what the block reads, with the context.
        context: the tokens Y that are taken away: no query sees them. All others keep their positions.
        positions: of the tokens; None counts from 0.

    Source: Learning without training (arXiv 2507.16003), the rank-one update of a contextual block. The skip connection
    of this library's blocks adds the part `shift`.

    >>> import jax
    >>> config = DecoderConfig(vocabulary=5, width=8, layers=1, heads=2, key_value_heads=1, hidden=16)
    >>> h = jax.random.normal(jax.random.key(0), (1, 4, 8))
    >>> params = jax.jit(Block(config).init)(jax.random.key(1), h, Seen(jnp.arange(4)[None]), None)["params"]
    >>> context = jnp.array([[True, True, False, False]])
    >>> change = jax.jit(lambda h: context_change(config, params, h, context))(h)
    >>> change.up.shape, changed(params, change, 0, 3)["up"]["kernel"].shape
    ((1, 4, 16), (8, 16))
    """
    positions = jnp.arange(h.shape[1])[None, :] if positions is None else positions
    (shift_with, with_context), (shift_without, without) = (
        _read(config, params, h, Seen(positions, None, weight))
        for weight in (None, jnp.where(context, HIDDEN, 0.0).astype(h.dtype))
    )
    outside = ~context[:, :, None]

    def known(values: Array) -> Array:
        return jnp.where(outside, values, jnp.nan)

    def of(name: str) -> Array:
        return known(jnp.matmul(with_context - without, params[name]["kernel"], precision="highest"))

    return ContextChange(
        known(without / jnp.sum(without * without, axis=-1, keepdims=True)),
        of("up"),
        of("gate") if config.feed_forward == "swiglu" else None,
        known(shift_with - shift_without),
    )


def changed(params: Parameters, change: ContextChange, row: int, token: int) -> Parameters:
    """The block's parameters with W + Delta W of one token; the block's output then lacks `change.shift` alone."""
    factors = {"up": change.up} if change.gate is None else {"up": change.up, "gate": change.gate}
    new = {
        name: {**params[name], "kernel": params[name]["kernel"] + jnp.outer(change.along[row, token], f[row, token])}
        for name, f in factors.items()
    }
    return {**params, **new}


def _read(config: DecoderConfig, params: Parameters, h: Array, seen: Seen) -> tuple[Array, Array]:
    """(attention's output, what enters the feed-forward)."""
    _, variables = Block(config).apply(
        {"params": params}, h, seen, None, capture_intermediates=lambda module, _: module.name in _READ
    )
    found: Any = variables["intermediates"]
    attention, entering = (found[name]["__call__"][0] for name in _READ)
    return attention, entering
