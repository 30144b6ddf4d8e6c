"""Sampling and beam search with a decoder."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from pmpjax.models.attention import Attached
from pmpjax.models.cache import empty_cache
from pmpjax.models.config import DecoderConfig
from pmpjax.models.decoder import Decoder
from pmpjax.models.layers import apply
from pmpjax.models.losses import Parameters, TokenRows
from pmpjax.models.search.beams import Beams, Found, search
from pmpjax.models.search.masks import TokenMask
from pmpjax.models.search.rollout import Advance, Sampled, Start, roll
from pmpjax.models.search.sampling import Sampling, check_sampling


def sample(
    decoder: Decoder,
    params: Parameters,
    prompts: TokenRows,
    steps: int,
    sampling: Sampling | None = None,
    *,
    key: Array | None = None,
    ends: Sequence[int] = (),
    mask: TokenMask | None = None,
    attached: Attached | None = None,
) -> Sampled:
    """token_i ~ p(. | prompt, token_0..token_{i-1}), with log p of each token on the support that it was drawn from.

    Args:
        prompts: rows of any lengths, at least one token each; what lies behind a row's length is not read. Their
            tokens may be embeddings, [N, L, width].
        steps: tokens to write at most, for each row.
        sampling: temperature, top_k and top_p; 1, all and all by default.
        key: random key; may be None at temperature 0.
        ends: ids that end a text.
        mask: what may be written.
        attached: what every row sees before its prompt, as `pmpjax.contexts.attach` makes it of demonstrations.

    Raises:
        ValueError: a setting means nothing; a key is missing; prompt and text are longer than the model's positions.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.data import Rows
    >>> from pmpjax.models import Decoder, DecoderConfig, initialise
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> prompts = Rows(jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1]))
    >>> params = initialise(decoder, jax.random.key(0), prompts.tokens)
    >>> drawn = sample(decoder, params, prompts, 5, Sampling(top_p=0.9), key=jax.random.key(1), ends=(0,))
    >>> drawn.tokens.shape, drawn.log_probabilities.shape
    ((2, 5), (2, 5))
    """
    sampling = Sampling() if sampling is None else sampling
    check_sampling(sampling)
    if key is None:
        if isinstance(sampling.temperature, Tracer) or bool(jnp.any(jnp.asarray(sampling.temperature) > 0)):
            raise ValueError("drawing at a temperature above 0 needs `key`, a random key; give one, or temperature 0")
        key = jax.random.key(0)
    _check_lengths(decoder.config, prompts, steps, attached)
    return _sample(decoder, params, prompts, steps, sampling, key, tuple(ends), mask, attached)


@functools.partial(jax.jit, static_argnames=("decoder", "steps", "ends", "mask"))
def _sample(
    decoder: Decoder,
    params: Parameters,
    prompts: TokenRows,
    steps: int,
    sampling: Sampling,
    key: Array,
    ends: tuple[int, ...],
    mask: TokenMask | None,
    attached: Attached | None,
) -> Sampled:
    start = _read(decoder, params, prompts, steps, attached)
    return roll(_advance(decoder, params), start, steps, key, sampling, ends=ends, mask=mask)


def beam_search(
    decoder: Decoder,
    params: Parameters,
    prompts: TokenRows,
    steps: int,
    beams: Beams | None = None,
    *,
    ends: Sequence[int] = (),
    mask: TokenMask | None = None,
    attached: Attached | None = None,
) -> Found:
    """The texts of highest (sum_i log p(token_i | ...)) / length^alpha that beams find, as `search` describes it.

    Args:
        beams: size, groups, diversity, length_penalty and early_stopping; 4 beams in one group by default.
        prompts, steps, ends, mask, attached: as `sample` takes them.

    Raises:
        ValueError: more beams than texts; prompt and text are longer than the model's positions.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.data import Rows
    >>> from pmpjax.models import Decoder, DecoderConfig, initialise
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> prompts = Rows(jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1]))
    >>> params = initialise(decoder, jax.random.key(0), prompts.tokens)
    >>> beam_search(decoder, params, prompts, 5, Beams(4, groups=2, diversity=0.5), ends=(0,)).tokens.shape
    (2, 4, 5)
    """
    _check_lengths(decoder.config, prompts, steps, attached)
    beams = Beams() if beams is None else beams
    return _beam_search(decoder, params, prompts, steps, beams, tuple(ends), mask, attached)


@functools.partial(jax.jit, static_argnames=("decoder", "steps", "ends", "mask"))
def _beam_search(
    decoder: Decoder,
    params: Parameters,
    prompts: TokenRows,
    steps: int,
    beams: Beams,
    ends: tuple[int, ...],
    mask: TokenMask | None,
    attached: Attached | None,
) -> Found:
    start = _read(decoder, params, prompts, steps, attached)
    return search(_advance(decoder, params), start, steps, beams, ends=ends, mask=mask)


def _advance(decoder: Decoder, params: Parameters) -> Advance:
    def advance(tokens: Array, cache: object) -> tuple[Array, object]:
        logits, cache = apply(decoder, params, tokens[:, None], cache=cache)
        return logits[:, 0], cache

    return advance


def _read(decoder: Decoder, params: Parameters, prompts: TokenRows, steps: int, attached: Attached | None) -> Start:
    n, length = prompts.tokens.shape[:2]
    lengths = jnp.asarray(prompts.lengths, jnp.int32)
    cache = empty_cache(decoder.config, n, length + steps, attached)
    logits, cache = apply(decoder, params, prompts.tokens, cache=cache)
    # The next token is written behind each row's own text; padding that the cache holds there is written over.
    cache = cache._replace(lengths=lengths)
    last = jnp.take_along_axis(logits, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return Start(last, cache, prompts.tokens, lengths)


def _check_lengths(config: DecoderConfig, prompts: TokenRows, steps: int, attached: Attached | None) -> None:
    if steps < 1:
        raise ValueError(f"steps must be positive, found {steps}; give the number of tokens to write")
    length = prompts.tokens.shape[1]
    before = 0 if attached is None or isinstance(attached.first, Tracer) else int(attached.first.max())
    if config.positions == "learned" and before + length + steps > config.max_length:
        behind = f" behind {before} attached positions" if before else ""
        raise ValueError(
            f"a prompt of {length} tokens and {steps} more{behind} are over the model's max_length, "
            f"{config.max_length}; shorten either"
        )
