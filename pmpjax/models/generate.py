"""Writing on from a prompt, token by token, with a cache of keys and values."""

import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from pmpjax.models.attention import Attached
from pmpjax.models.cache import empty_cache
from pmpjax.models.decoder import Decoder
from pmpjax.models.layers import apply
from pmpjax.models.losses import Parameters, TokenRows


@runtime_checkable
class TokenGrammar(Protocol):
    """Which tokens may follow, by what was written before: a pytree of arrays, such as
    `pmpjax.multimodal.grammar.BoxGrammar`.
    """

    def start(self, rows: int) -> Any:
        """The state of each row behind its prompt."""
        ...

    def allowed(self, state: Any) -> Bool[Array, "n v"]:
        """Tokens that may come next, at least one a row."""
        ...

    def after(self, state: Any, token: Int[Array, " n"]) -> Any:
        """The state behind one token more."""
        ...


def generate(
    decoder: Decoder,
    params: Parameters,
    prompts: TokenRows,
    steps: int,
    *,
    key: Array | None = None,
    temperature: float | Array = 0.0,
    top_k: int = 0,
    top_p: float | Array = 1.0,
    attached: Attached | None = None,
    grammar: TokenGrammar | None = None,
) -> Int[Array, "n steps"]:
    """tokens ~ softmax(logits / temperature) over the most probable ones, one after another.

    Args:
        prompts: rows of any lengths, at least one token each; what lies behind a row's length is not read. Their
            tokens may be embeddings, [N, L, width].
        steps: tokens to write, for each row.
        key: random key; may be None at temperature 0.
        temperature: 0 takes the most probable token each time.
        top_k: only the k most probable tokens count (0: all).
        top_p: only the most probable tokens that together have this probability count, at least one.
        attached: what every row sees before its prompt, as `pmpjax.contexts.attach` makes it of demonstrations.
        grammar: tokens that it forbids have probability 0.

    Returns:
        [N, steps] int32. A row that has ended goes on: cut it at the end-of-document token.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.data import Rows
    >>> from pmpjax.models import Decoder, DecoderConfig, initialise
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> prompts = Rows(jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1]))
    >>> generate(decoder, initialise(decoder, jax.random.key(0), prompts.tokens), prompts, 5).shape
    (2, 5)
    """
    length, config = prompts.tokens.shape[1], decoder.config
    before = 0 if attached is None or isinstance(attached.first, Tracer) else int(attached.first.max())
    if config.positions == "learned" and before + length + steps > config.max_length:
        behind = f" behind {before} attached positions" if before else ""
        raise ValueError(
            f"a prompt of {length} tokens and {steps} more{behind} are over the model's max_length, "
            f"{config.max_length}; shorten either"
        )
    sampling = (key, temperature, top_k, top_p)
    return _generate(decoder, params, prompts, steps, *sampling, attached, grammar)


@functools.partial(jax.jit, static_argnames=("decoder", "steps", "top_k"))
def _generate(
    decoder: Decoder,
    params: Parameters,
    prompts: TokenRows,
    steps: int,
    key: Array | None,
    temperature: float | Array,
    top_k: int,
    top_p: float | Array,
    attached: Attached | None,
    grammar: TokenGrammar | None,
) -> Int[Array, "n steps"]:
    n, length = prompts.tokens.shape[:2]
    lengths = jnp.asarray(prompts.lengths, jnp.int32)
    logits, cache = apply(
        decoder, params, prompts.tokens, cache=empty_cache(decoder.config, n, length + steps, attached)
    )
    # The next token is written behind each row's own text; padding that the cache holds there is written over.
    cache = cache._replace(lengths=lengths)
    last = jnp.take_along_axis(logits, (lengths - 1)[:, None, None], axis=1)[:, 0]
    keys = jax.random.split(jax.random.key(0) if key is None else key, steps)

    def step(carry: tuple[Any, Array, Any], key: Array) -> tuple[tuple[Any, Array, Any], Array]:
        cache, logits, state = carry
        if grammar is not None:
            logits = jnp.where(grammar.allowed(state), logits, -jnp.inf)
        token = _sample(key, logits, temperature, top_k, top_p)
        state = None if grammar is None else grammar.after(state, token)
        logits, cache = apply(decoder, params, token[:, None], cache=cache)
        return (cache, logits[:, 0], state), token

    _, tokens = jax.lax.scan(step, (cache, last, None if grammar is None else grammar.start(n)), keys)
    return tokens.T


def _sample(key: Array, logits: Array, temperature: float | Array, top_k: int, top_p: float | Array) -> Array:
    best = jnp.argmax(logits, axis=-1)
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)
    if top_k:
        least = jax.lax.top_k(scaled, min(top_k, scaled.shape[-1]))[0][:, -1:]
        scaled = jnp.where(scaled < least, -jnp.inf, scaled)
    ordered = jnp.sort(scaled, axis=-1)[:, ::-1]
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    least = jnp.min(jnp.where(before < top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    drawn = jax.random.categorical(key, jnp.where(scaled < least, -jnp.inf, scaled), axis=-1)
    return jnp.where(temperature > 0, drawn, best).astype(jnp.int32)
