"""Log-probabilities of answer options given a prompt: what classification by a language model is made of."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from pmpjax.models import Attached, Cache, Decoder, empty_cache
from pmpjax.models.layers import apply
from pmpjax.scoring.engine import ScoreConfig, length_batches

Ids = Sequence[int]


class Item(NamedTuple):
    """One question.

    Fields:
        prompt: ids of the text before the answer, at least one.
        options: ids of each possible answer, at least one each.
    """

    prompt: Ids
    options: Sequence[Ids]


@dataclasses.dataclass(frozen=True)
class OptionScoring:
    """How options are scored.

    Attributes:
        batch: prompts in memory at once; the keys and values of all their options are too.
        buckets: lengths that batches are cut to, one compilation each.
    """

    batch: int = 16
    buckets: int = 4


def option_log_probabilities(
    decoder: Decoder,
    params: Any,
    items: Sequence[Item],
    config: OptionScoring = OptionScoring(),
    *,
    prefix: Ids = (),
    attached: Attached | None = None,
    scored: Callable[[int], None] = lambda items: None,
) -> Float[np.ndarray, "n c"]:
    """s[n, c] = (1 / T) sum_{t <= T} log p(o_t | prefix, prompt_n, o_1, ..., o_{t-1}), o the T ids of option c.

    The mean over the option's tokens, as the papers of in-context learning take it (arXiv 2212.10559, 2212.06713):
    options of different lengths compare. The prefix is encoded once, each prompt once, whatever the number of options.

    Args:
        items: prompts of any lengths; where an item has fewer options than another, the rest of its row is -inf.
        prefix: ids before every prompt: an instruction, demonstrations.
        attached: what every row sees before the prefix, as `pmpjax.contexts.attach` makes it of demonstrations.
        scored: told of the number of items that are done, after each batch.

    Returns:
        [N, C] float32, in nats per token.

    Raises ValueError: no item; an empty prompt or option, or an id outside the vocabulary, with the item's number; rows
    longer than learned positions; a log-probability that is not a number.

    >>> import jax, jax.numpy as jnp
    >>> from pmpjax.models import Decoder, DecoderConfig, initialise
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    >>> items = [Item([1, 2, 3], [[4], [5, 6]]), Item([7], [[4], [5, 6]])]
    >>> option_log_probabilities(decoder, params, items, prefix=[8, 9]).shape
    (2, 2)
    """
    _check(decoder, items, prefix, 0 if attached is None else int(attached.first.max()))
    count = max(len(item.options) for item in items)
    width = max(len(option) for item in items for option in item.options)
    lengths = np.asarray([len(item.prompt) for item in items])
    start = _encoded(decoder, params, prefix, attached)
    found = np.full((len(items), count), -np.inf, np.float32)
    done = 0
    for batch in length_batches(lengths, int(lengths.max()), ScoreConfig(config.batch, buckets=config.buckets)):
        chosen = [items[row] for row in batch.rows]
        arrays = _padded(chosen, config.batch, batch.length, (count, width))
        scores = np.asarray(_scores(decoder, params, start, arrays))
        for row, item, values in zip(batch.rows, chosen, scores, strict=False):
            found[row, : len(item.options)] = values[: len(item.options)]
        done += len(chosen)
        scored(done)
    wrong = np.flatnonzero(np.isnan(found).any(axis=1))
    if len(wrong):
        raise ValueError(
            f"the log-probabilities of {len(wrong)} items, the first of them item {wrong[0]}, are not numbers: look "
            "for parameters that are not finite"
        )
    return found


def option_ids(tokenizer: Tokenizer, options: Sequence[str]) -> list[list[int]]:
    """The ids of each answer as text behind a prompt: give it the space that stands before it.

    Raises ValueError for an answer without tokens, and for two of the same ids, which no score could tell apart.
    """
    found = [tokenizer.encode(option, add_special_tokens=False).ids for option in options]
    for text, ids in zip(options, found, strict=True):
        if not ids:
            raise ValueError(f"the option {text!r} has no tokens; give a word of the model's vocabulary")
        if found.count(ids) > 1:
            raise ValueError(f"the option {text!r} stands twice among {list(options)}; give each class its own word")
    return found


class _Arrays(NamedTuple):
    """Padded ids: prompts [B, L], their lengths [B], options [B, C, O], their lengths [B, C]."""

    prompts: Int[np.ndarray, "b l"]
    prompt_lengths: Int[np.ndarray, " b"]
    options: Int[np.ndarray, "b c o"]
    option_lengths: Int[np.ndarray, "b c"]


def _padded(items: Sequence[Item], rows: int, length: int, sizes: tuple[int, int]) -> _Arrays:
    """Rows and options behind the given ones are of one token 0 each."""
    arrays = _Arrays(
        np.zeros((rows, length), np.int32),
        np.ones(rows, np.int32),
        np.zeros((rows, *sizes), np.int32),
        np.ones((rows, sizes[0]), np.int32),
    )
    for row, item in enumerate(items):
        arrays.prompts[row, : len(item.prompt)] = item.prompt
        arrays.prompt_lengths[row] = len(item.prompt)
        for column, option in enumerate(item.options):
            arrays.options[row, column, : len(option)] = option
            arrays.option_lengths[row, column] = len(option)
    return arrays


def _encoded(decoder: Decoder, params: Any, prefix: Ids, attached: Attached | None) -> Cache | None:
    """Keys and values of the prefix, one row, and what is attached before it."""
    if not len(prefix) and attached is None:
        return None
    empty = empty_cache(decoder.config, 1, len(prefix), attached)
    if not len(prefix):
        return empty
    return _hidden(decoder, params, jnp.asarray([prefix], jnp.int32), empty)[1]


@functools.partial(jax.jit, static_argnames="decoder")
def _hidden(decoder: Decoder, params: Any, tokens: Array, cache: Cache | None) -> Any:
    return apply(decoder, params, tokens, cache=cache, method="hidden")


@functools.partial(jax.jit, static_argnames="decoder")
def _scores(decoder: Decoder, params: Any, start: Cache | None, arrays: _Arrays) -> Float[Array, "b c"]:
    rows, length = arrays.prompts.shape
    _, count, width = arrays.options.shape
    before = 0 if start is None else _room(decoder, start)
    if start is None and width == 1:
        cache, h = None, _hidden(decoder, params, arrays.prompts, None)
    else:
        cache = _begun(decoder, start, rows, before + length + width - 1)
        h, cache = _hidden(decoder, params, arrays.prompts, cache)
    last = jnp.take_along_axis(h, (arrays.prompt_lengths - 1)[:, None, None], axis=1)[:, 0]
    first = _log_probabilities(decoder, params, last)
    scores = jnp.take_along_axis(first, arrays.options[:, :, 0], axis=1)
    if width == 1:
        return scores
    assert cache is not None
    # What the prompts' padding wrote is written over, or lies behind every query.
    cache = cache._replace(lengths=before + arrays.prompt_lengths)
    repeated = _by_row(decoder, lambda part, axis: jnp.repeat(part, count, axis=axis), cache)
    answers = arrays.options.reshape(rows * count, width)
    h, _ = _hidden(decoder, params, answers[:, :-1], repeated)
    rest = jnp.take_along_axis(_log_probabilities(decoder, params, h), answers[:, 1:, None], axis=2)[:, :, 0]
    real = jnp.arange(1, width)[None, :] < arrays.option_lengths.reshape(-1, 1)
    scores = scores + jnp.sum(jnp.where(real, rest, 0.0), axis=1).reshape(rows, count)
    return scores / arrays.option_lengths


def _log_probabilities(decoder: Decoder, params: Any, h: Float[Array, "*n d"]) -> Float[Array, "*n v"]:
    return jax.nn.log_softmax(apply(decoder, params, h, method="logits"), axis=-1)


def _by_row(decoder: Decoder, change: Callable[[Array, int], Array], cache: Cache) -> Cache:
    """`change(part, axis of rows)` of every part of a cache."""
    axis = int(decoder.config.scan_layers)
    keys, values = (jax.tree.map(lambda part: change(part, axis), parts) for parts in (cache.keys, cache.values))
    return cache._replace(keys=keys, values=values, lengths=change(cache.lengths, 0))


def _room(decoder: Decoder, cache: Cache) -> int:
    return jax.tree.leaves(cache.keys)[0].shape[1 + int(decoder.config.scan_layers)]


def _begun(decoder: Decoder, start: Cache | None, rows: int, room: int) -> Cache:
    """A cache of `rows` rows that all begin with `start`'s only one."""
    empty = empty_cache(decoder.config, rows, room)
    if start is None:
        return empty
    axis = 1 + int(decoder.config.scan_layers)

    def written(part: Array, first: Array) -> Array:
        same = jnp.broadcast_to(first, (*part.shape[: axis - 1], rows, *first.shape[axis:]))
        return jax.lax.dynamic_update_slice_in_dim(part, same, 0, axis)

    keys, values = (jax.tree.map(written, *parts) for parts in ((empty.keys, start.keys), (empty.values, start.values)))
    return Cache(keys, values, jnp.broadcast_to(start.lengths, rows), start.attached)


def _check(decoder: Decoder, items: Sequence[Item], prefix: Ids, before: int) -> None:
    if not items:
        raise ValueError("no items to score; give at least one prompt with its options")
    config = decoder.config
    known = range(config.vocabulary)
    for number, item in enumerate(items):
        if not len(item.prompt) or not item.options or not all(len(option) for option in item.options):
            raise ValueError(f"item {number} has an empty prompt, no options or an empty option; give each a token")
        wrong = [one for ids in (prefix, item.prompt, *item.options) for one in ids if one not in known]
        if wrong:
            raise ValueError(
                f"item {number} has the id {wrong[0]}; the model's are 0 to {config.vocabulary - 1}: use its tokenizer"
            )
        longest = before + len(prefix) + len(item.prompt) + max(map(len, item.options)) - 1
        if config.positions == "learned" and longest > config.max_length:
            raise ValueError(
                f"item {number} has {longest} tokens with what stands before it; the model's max_length is "
                f"{config.max_length}: shorten the prompt, or give fewer demonstrations"
            )
