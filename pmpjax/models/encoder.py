"""A sentence encoder of the BERT family: text in, unit vectors out, from a Hugging Face folder."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from pmpjax.models.attention import HIDDEN, attend_all
from pmpjax.models.layers import Dense, Norm, apply
from pmpjax.models.losses import Parameters
from pmpjax.models.tensor_files import some

_SHORTEST = 16


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder; the defaults are those of MiniLM-L6.

    Attributes:
        vocabulary: token ids.
        width: of a state; a multiple of `heads`.
        hidden: of the feed-forward part.
        max_length: learned positions.
        types: token types, of which a single sentence has the first.
    """

    vocabulary: int = 30_522
    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1_536
    max_length: int = 512
    types: int = 2
    norm_epsilon: float = 1e-12

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, expected a multiple of the {self.heads} heads")


class EncoderBlock(nn.Module):
    """h <- norm(h + attention(h)), h <- norm(h + W_2 gelu(W_1 h + b_1) + b_2): the norm behind each sum."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "n l d"], log_weight: Float[Array, "n l"]) -> Float[Array, "n l d"]:
        config, (rows, length, width) = self.config, x.shape
        query, key, value = (
            Dense(width, True, name=name)(x).reshape(rows, length, config.heads, -1)
            for name in ("query", "key", "value")
        )
        mixed = attend_all(query, key, value, log_weight)
        mixed = Dense(width, True, name="output")(mixed.reshape(rows, length, width))
        x = Norm("layer", config.norm_epsilon, name="attention_norm")(x + mixed)
        inner = jax.nn.gelu(Dense(config.hidden, True, name="up")(x), approximate=False)
        inner = Dense(width, True, name="down")(inner)
        return Norm("layer", config.norm_epsilon, name="feed_forward_norm")(x + inner)


class Encoder(nn.Module):
    """Last states of the bidirectional transformer of BERT (arXiv 1810.04805), without its pooler and heads.

    h = norm(E[token] + P[position] + S[0]), then the blocks. Keys at or behind a row's length have weight 0.

    >>> encoder = Encoder(EncoderConfig(vocabulary=11, width=8, layers=1, heads=2, hidden=16, max_length=6))
    >>> tokens, lengths = jnp.ones((2, 4), jnp.int32), jnp.array([4, 2])
    >>> params = encoder.init(jax.random.key(0), tokens, lengths)["params"]
    >>> apply(encoder, params, tokens, lengths).shape
    (2, 4, 8)
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, tokens: Int[Array, "n l"], lengths: Int[Array, " n"]) -> Float[Array, "n l d"]:
        config, length = self.config, tokens.shape[1]
        if length > config.max_length:
            raise ValueError(f"rows have {length} tokens, the encoder has {config.max_length} positions; cut them")
        normal = nn.initializers.normal(0.02)
        embedding = self.param("embedding", normal, (config.vocabulary, config.width))
        positions = self.param("positions", normal, (config.max_length, config.width))
        types = self.param("types", normal, (config.types, config.width))
        x = embedding[tokens] + positions[None, :length] + types[None, :1]
        x = Norm("layer", config.norm_epsilon, name="norm")(x)
        log_weight = jnp.where(_inside(tokens, lengths), 0.0, HIDDEN).astype(x.dtype)
        for index in range(config.layers):
            x = EncoderBlock(config, name=f"layers_{index}")(x, log_weight)
        return x


def sentence_vectors(
    model: Encoder, params: Parameters, tokens: Int[Array, "n l"], lengths: Int[Array, " n"]
) -> Float[Array, "n d"]:
    """v = m / |m|, m = sum_{i < length} h_i / length: the mean of the last states (Sentence-BERT, arXiv 1908.10084).

    Differentiable in the parameters; what stands behind a row's length does not count. Lengths are from 1 on.
    """
    states = apply(model, params, tokens, lengths)
    inside = _inside(tokens, lengths)[..., None].astype(states.dtype)
    mean = jnp.sum(states * inside, axis=1) / lengths[:, None].astype(states.dtype)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


class SentenceEncoder(NamedTuple):
    """What `load_encoder` finds.

    Fields:
        model: the Linen module; its `config` has the sizes.
        params: float32.
        tokenizer: cuts a text to `max_length`, its last special token kept.
        max_length: tokens, special ones counted.
    """

    model: Encoder
    params: Parameters
    tokenizer: Tokenizer
    max_length: int


def encode_sentences(encoder: SentenceEncoder, texts: Sequence[str], *, batch: int = 32) -> Float[np.ndarray, "n d"]:
    """The unit vectors of texts, [N, D] in float32, in their order; <v_a, v_b> is the cosine of two of them.

    Texts of like length share a batch, padded to 16, 24, 32, 48, 64, ... tokens: one program is compiled for each,
    and one more for a last batch that is not full. The batch does not change a vector beyond rounding.

    Warns (UserWarning), with the number of texts and which: those cut at the encoder's maximum; those without a token
    of their own, whose vectors say nothing.

    Raises TypeError for a text that is no string, ValueError for one with half a surrogate pair, each with its number;
    ValueError for a batch below 1, and for vectors that are not numbers.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}, expected a number from 1 on")
    rows = sentence_ids(encoder, texts)
    lengths = np.asarray([len(row) for row in rows], np.int32)
    order = np.argsort(-lengths, kind="stable")
    found = np.zeros((len(rows), encoder.model.config.width), np.float32)
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        count = min(batch, _power(len(part)))
        length = min(encoder.max_length, _static_length(len(rows[part[0]])))
        tokens = np.zeros((count, length), np.int32)
        held = np.ones(count, np.int32)  # a row that only fills the batch has one token
        held[: len(part)] = lengths[part]
        for row, index in zip(tokens, part, strict=False):
            row[: lengths[index]] = rows[index]
        vectors = _vectors(encoder.model, encoder.params, jnp.asarray(tokens), jnp.asarray(held))
        found[part] = np.asarray(vectors)[: len(part)]
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"the vectors of {_counted(wrong, len(rows))} are not numbers: look for parameters that are not finite"
        )
    return found


def sentence_ids(encoder: SentenceEncoder, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text with its special tokens, cut to `max_length`; warns and raises as `encode_sentences`."""
    if isinstance(texts, str):
        raise TypeError("texts is one string, expected a list of them; put it into brackets")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {number} is {text!r}, expected a string; drop the row or fill it")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"text {number} is no text in Unicode ({error}); replace the character") from error
    encoded = encoder.tokenizer.encode_batch(list(texts))
    cut = [number for number, one in enumerate(encoded) if one.overflowing]
    empty = [number for number, one in enumerate(encoded) if all(one.special_tokens_mask)]
    if cut:
        warnings.warn(
            f"{_counted(cut, len(encoded))} are longer than {encoder.max_length} tokens; what is behind does not count",
            UserWarning,
            stacklevel=3,
        )
    if empty:
        warnings.warn(
            f"{_counted(empty, len(encoded))} have no token of their own; their vectors say nothing: drop them",
            UserWarning,
            stacklevel=3,
        )
    return [one.ids for one in encoded]


_vectors = functools.partial(jax.jit, static_argnums=0)(sentence_vectors)


def _inside(tokens: Array, lengths: Array) -> Array:
    return jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]


def _static_length(length: int) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that holds a text.

    >>> [_static_length(length) for length in (3, 16, 17, 24, 25, 33, 130)]
    [16, 16, 24, 24, 32, 48, 192]
    """
    # Powers of two alone took 2.15 s for 256 texts of 3 to 120 words on 2 CPU cores, these 1.65.
    power = max(_SHORTEST, _power(length))
    return 3 * power // 4 if _SHORTEST < power and length <= 3 * power // 4 else power


def _power(number: int) -> int:
    """The least power of two from `number` on."""
    return 1 << (number - 1).bit_length()


def _counted(numbers: Any, whole: int) -> str:
    return f"{len(numbers)} of {whole} texts ({some([f'{number:d}' for number in numbers])})"
