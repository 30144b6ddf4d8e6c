"""Which tokens may come next: a state that tokens move, and what it allows."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Int


class TokenMask(NamedTuple):
    """s_0 = begin(prompt), s_{i+1} = after(s_i, token_i); token_i is one of allowed(s_i). Pure functions of one row.

    Fields:
        begin: (tokens [L], length, steps to come) -> state, any pytree of arrays of fixed shapes.
        allowed: state -> [V] bool.
        after: (state, token) -> state. It is also called with tokens that are not allowed, of rows that have ended.

    A mask is a static argument: make it once and use it again, for each new one is a new compilation. What is allowed
    after an end-of-text token does not matter; the mask decides when such a token itself may come.

    >>> import jax.numpy as jnp
    >>> never_3 = TokenMask(lambda tokens, length, steps: (), lambda state: jnp.arange(5) != 3, lambda state, token: ())
    """

    begin: Callable[[Array, Array, int], Any]
    allowed: Callable[[Any], Array]
    after: Callable[[Any, Array], Any]


def begin_rows(mask: TokenMask | None, tokens: Array, lengths: Int[Array, " n"], steps: int) -> Any:
    """The states of all rows after their prompts; () without a mask."""
    return () if mask is None else jax.vmap(lambda row, length: mask.begin(row, length, steps))(tokens, lengths)


def allowed_rows(mask: TokenMask | None, states: Any, shape: tuple[int, int]) -> Bool[Array, "n v"] | None:
    """What each row's state allows, [N, V]; None without a mask.

    Raises:
        ValueError: the mask is not of the model's vocabulary; names both.
    """
    if mask is None:
        return None
    found = jax.vmap(mask.allowed, axis_size=shape[0])(states)
    if found.shape != shape or found.dtype != bool:
        raise ValueError(
            f"the mask's `allowed` must give bool [{shape[1]}], one for each token of the model; found "
            f"{found.dtype} {list(found.shape[1:])}"
        )
    return found


def after_rows(mask: TokenMask | None, states: Any, tokens: Int[Array, " n"]) -> Any:
    """The states after one more token each."""
    return () if mask is None else jax.vmap(mask.after)(states, tokens)


@functools.cache
def no_repeat(size: int, vocabulary: int) -> TokenMask:
    """No `size` tokens in a row come twice in a text, its prompt included: the token that would do it is forbidden.

    A prompt must be ids: embeddings are refused. The same arguments give the same mask.

    >>> import jax.numpy as jnp
    >>> mask = no_repeat(2, 4)
    >>> mask.allowed(mask.begin(jnp.array([1, 2, 3, 1]), jnp.array(4), 3)).tolist()  # after 1 came 2 already
    [True, True, False, True]
    """
    if size < 1:
        raise ValueError(f"the size of what must not be repeated must be positive, found {size}; leave the mask out")

    def begin(tokens: Array, length: Array, steps: int) -> tuple[Array, Array]:
        if tokens.ndim != 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(
                f"no_repeat compares ids, and the prompt is {tokens.dtype} of shape {list(tokens.shape)}; give prompts "
                "of ids, or no no_repeat"
            )
        return jnp.pad(tokens.astype(jnp.int32), (0, steps)), jnp.asarray(length, jnp.int32)

    def allowed(state: tuple[Array, Array]) -> Array:
        tokens, length = state
        count = len(tokens) - size + 1  # how many windows there are
        if count < 1:
            return jnp.ones(vocabulary, bool)
        match = jnp.arange(count) + size <= length  # the window is text
        for place in range(size - 1):
            match &= tokens[place : place + count] == tokens[length - size + 1 + place]
        return ~jnp.zeros(vocabulary, bool).at[tokens[size - 1 :]].max(match)

    def after(state: tuple[Array, Array], token: Array) -> tuple[Array, Array]:
        tokens, length = state
        return tokens.at[length].set(token), length + 1

    return TokenMask(begin, allowed, after)


def automaton(allowed: ArrayLike, after: ArrayLike, begin: int = 0) -> TokenMask:
    """The mask of a finite automaton: in state s the tokens allowed[s], and token a leads to state after[s, a].

    Args:
        allowed: [states, V] bool.
        after: [states, V] integers; read where `allowed` is true.
        begin: the state after the prompt, whatever it is.

    >>> import jax.numpy as jnp
    >>> alternating = automaton(jnp.array([[True, False], [False, True]]), jnp.array([[1, 1], [0, 0]]))
    >>> alternating.allowed(alternating.after(jnp.array(0), jnp.array(0))).tolist()
    [False, True]
    """
    # Copies, for a later change of the caller's arrays would not be seen by what is compiled.
    table, moves = np.array(allowed, bool), np.array(after, np.int32)
    if table.ndim != 2 or table.shape != moves.shape or not 0 <= begin < len(table):
        raise ValueError(
            f"allowed and after must both be [states, tokens] and begin one of the states; found {table.shape}, "
            f"{moves.shape} and begin {begin}"
        )
    if moves[table].size and not (0 <= moves[table].min() and moves[table].max() < len(table)):
        raise ValueError(
            f"allowed tokens must lead to states 0 to {len(table) - 1}, found {moves[table].min()} to "
            f"{moves[table].max()}"
        )
    return TokenMask(
        lambda tokens, length, steps: jnp.asarray(begin, jnp.int32),
        lambda state: jnp.asarray(table)[state],
        lambda state, token: jnp.asarray(moves)[state, token],
    )


@functools.cache
def both(*masks: TokenMask) -> TokenMask:
    """What all masks allow. The same masks give the same one."""
    if not masks:
        raise ValueError("both() needs at least one mask, found none; leave the mask out")

    def each(name: str, states: Any, *inputs: Any) -> tuple:
        return tuple(getattr(mask, name)(state, *inputs) for mask, state in zip(masks, states, strict=True))

    return TokenMask(
        lambda tokens, length, steps: tuple(mask.begin(tokens, length, steps) for mask in masks),
        lambda states: functools.reduce(jnp.logical_and, each("allowed", states)),
        lambda states, token: each("after", states, token),
    )
