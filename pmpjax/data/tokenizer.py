"""Byte-level byte-pair encoding (Hugging Face `tokenizers`), trained on the source."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pmpjax.data.documents import SourceError

END_OF_DOCUMENT = "<|end|>"
_BYTES = 256


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learns merges of bytes until the vocabulary is full; the same texts give the same tokenizer.

    Any text can be encoded and comes back unchanged (its alphabet is the 256 bytes, there is no unknown token). Id 0 is
    the end-of-document token, which no text can produce: "<|end|>" in a text is encoded as its characters.

    Args:
        vocabulary: number of ids, special token and bytes included, at least 257; fewer where the texts are few.

    >>> tokenizer = train_tokenizer(["the cat and the hat"] * 3, 260)
    >>> tokenizer.decode(tokenizer.encode("the é").ids)
    'the é'
    """
    if vocabulary < _BYTES + 1:
        raise ValueError(
            f"vocabulary is {vocabulary}; it must hold 256 bytes and the end-of-document token: 257 or more"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path | str) -> Tokenizer:
    """Reads tokenizer.json; it must have the end-of-document token. Raises `SourceError` otherwise."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise SourceError(f"{path} is not a tokenizer.json ({error}); prepare the data again") from error
    end_of_document(tokenizer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def end_of_document(tokenizer: Tokenizer) -> int:
    """The id of the end-of-document token; `SourceError` where the tokenizer has none."""
    end = tokenizer.token_to_id(END_OF_DOCUMENT)
    if end is None:
        raise SourceError(f"the tokenizer has no token {END_OF_DOCUMENT!r}; add it as a special token, or train one")
    return end


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The ids of each text and the end-of-document token: uint16, or uint32 where the vocabulary is larger."""
    end = end_of_document(tokenizer)
    kind = token_type(tokenizer.get_vocab_size())
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray([*encoding.ids, end], kind) for encoding in encodings]


def token_type(vocabulary: int) -> np.dtype:
    """The smallest unsigned little-endian type that holds all ids.

    >>> token_type(4096), token_type(100_000)
    (dtype('uint16'), dtype('uint32'))
    """
    return np.dtype("<u2") if vocabulary <= 2**16 else np.dtype("<u4")
