"""Pooled states of texts, by any encoder or decoder: what prototypes are fitted to."""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pmpjax.models import Decoder, Encoder, load_decoder, load_encoder, pretrained_tokenizer, sentence_ids
from pmpjax.models.encoder import sentence_vectors
from pmpjax.models.layers import apply
from pmpjax.models.packages import pretrained_path
from pmpjax.models.tensor_files import read_json
from pmpjax.runs.progress import Bar
from pmpjax.train.generation import exported

Pooling = Literal["mean", "last"]
Embed = Callable[[Any, Int[Array, "n l"], Int[Array, " n"]], Float[Array, "n d"]]

_SHORTEST = 16


class TextEncoder(NamedTuple):
    """An encoder of texts, frozen or to be trained.

    Fields:
        embed: (params, tokens, lengths) -> unit vectors, differentiable in params.
        params: of the model.
        ids: token ids of texts.
    """

    embed: Embed
    params: Any
    ids: Callable[[Sequence[str]], list[list[int]]]


def load_text_encoder(source: Path | str = "minilm", *, pooling: Pooling = "mean", longest: int = 256) -> TextEncoder:
    """A BERT encoder ("minilm", or a folder), or any decoder ("smollm2", .gguf, a folder, a run of `pmpjax train`).

    Args:
        pooling: of a decoder's states: their mean, or the last token's. A BERT encoder has the mean.
        longest: tokens of a text that count, for a decoder; an encoder has its own limit.

    Raises as `load_encoder`, `load_pretrained` and `exported`; ValueError for "last" with an encoder.
    """
    path = pretrained_path(source)
    if (
        path.is_dir()
        and (path / "config.json").is_file()
        and read_json(path / "config.json").get("model_type") == "bert"
    ):
        if pooling != "mean":
            raise ValueError(f"pooling is {pooling!r}, the encoder {source} has the mean of its states; leave it out")
        found = load_encoder(source)
        return TextEncoder(
            functools.partial(sentence_vectors, found.model), found.params, functools.partial(sentence_ids, found)
        )
    path = exported(path)
    config, params = load_decoder(path)
    tokenizer = pretrained_tokenizer(path)
    longest = min(longest, config.max_length or longest)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        rows = [one.ids[:longest] for one in tokenizer.encode_batch(list(texts))]
        empty = [number for number, row in enumerate(rows) if not row]
        if empty:
            raise ValueError(
                f"{len(empty)} of {len(rows)} texts, the first of them {empty[0]}, have no token; drop them"
            )
        return rows

    return TextEncoder(functools.partial(pooled_states, Decoder(config), pooling), params, ids)


def pooled_states(
    decoder: Decoder, pooling: Pooling, params: Any, tokens: Int[Array, "n l"], lengths: Int[Array, " n"]
) -> Float[Array, "n d"]:
    """v = m / |m|, m the mean of a decoder's last states, or that of the last token.

    The states are causal: what stands behind a row's length changes none of them.
    """
    states = apply(decoder, params, tokens, method="hidden").astype(jnp.float32)
    if pooling == "last":
        found = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
    else:
        inside = (jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]).astype(states.dtype)
        found = jnp.sum(states * inside[:, :, None], axis=1) / lengths[:, None].astype(states.dtype)
    return found / jnp.linalg.norm(found, axis=1, keepdims=True)


def checked_texts(texts: Sequence[str]) -> Sequence[str]:
    """The texts, if every one is a string with something in it; else ValueError with its number."""
    for number, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"text {number} is {text!r}, expected a text with at least one letter; drop the row")
    return texts


def batches_of(
    rows: Sequence[Sequence[int]], batch: int
) -> Iterator[tuple[Int[np.ndarray, " part"], Int[np.ndarray, "n l"], Int[np.ndarray, " n"]]]:
    """(numbers of the texts, tokens, lengths): texts of like length together, padded to a power of two.

    Every batch has `batch` rows; rows that only fill it have one token, and no number.
    """
    lengths = np.asarray([len(row) for row in rows])
    order = np.argsort(-lengths, kind="stable")
    for first in range(0, len(order), batch):
        part = order[first : first + batch]
        yield part, *padded([rows[number] for number in part], batch)


def padded(rows: Sequence[Sequence[int]], count: int) -> tuple[Int[np.ndarray, "n l"], Int[np.ndarray, " n"]]:
    """`count` rows of tokens and their lengths, as long as the least power of two from 16 on that holds them all."""
    longest = max(_SHORTEST, 1 << (max(map(len, rows)) - 1).bit_length())
    tokens, lengths = np.zeros((count, longest), np.int32), np.ones(count, np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
        lengths[number] = len(row)
    return tokens, lengths


_embedded = functools.partial(jax.jit, static_argnums=0)(lambda embed, *inputs: embed(*inputs))


def embed_texts(
    encoder: TextEncoder, texts: Sequence[str], *, batch: int = 32, bar: Bar | None = None
) -> Float[np.ndarray, "n d"]:
    """The unit vectors of texts, [N, D] in float32, in their order.

    Raises ValueError: a text that is empty; vectors that are not finite.
    """
    rows = encoder.ids(checked_texts(texts))
    found: np.ndarray | None = None
    for part, tokens, lengths in batches_of(rows, batch):
        tokens = within_positions(encoder, tokens)
        vectors = np.asarray(_embedded(encoder.embed, encoder.params, jnp.asarray(tokens), jnp.asarray(lengths)))
        found = np.zeros((len(rows), vectors.shape[1]), np.float32) if found is None else found
        found[part] = vectors[: len(part)]
        if bar is not None:
            bar.update(len(part))
    if found is None:
        raise ValueError("no text to embed; give one at least")
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(wrong):
        raise ValueError(f"the vectors of {len(wrong)} texts, the first of them {wrong[0]}, are not finite")
    return found


def within_positions(encoder: TextEncoder, tokens: np.ndarray) -> np.ndarray:
    """Padding may reach beyond the positions of a model; texts never do."""
    model = getattr(encoder.embed, "args", (None,))[0]
    longest = model.config.max_length if isinstance(model, Decoder | Encoder) else 0
    return tokens[:, :longest] if longest else tokens
