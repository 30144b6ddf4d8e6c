"""Byte-level byte-pair encoding (Hugging Face `tokenizers`), trained on the source."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pmpjax.data.documents import SourceError

END_OF_DOCUMENT = "<|end|>"
_BYTES = 256
_CHUNK = 1_024


def train_tokenizer(texts: Iterable[str], vocabulary: int, end: str = END_OF_DOCUMENT) -> Tokenizer:
    """Learns merges of bytes until the vocabulary is full; the same texts give the same tokenizer.

    Any text can be encoded and comes back unchanged (its alphabet is the 256 bytes, there is no unknown token). Id 0 is
    the end-of-document token `end`, which no text can produce: "<|end|>" in a text is encoded as its characters.

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
        special_tokens=[end],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_tokenizer(path: Path | str, end: str = END_OF_DOCUMENT) -> Tokenizer:
    """Reads any tokenizer.json; it must have the end-of-document token `end`. Raises `SourceError` otherwise.

    Truncation and padding that the file asks for are switched off: a document is encoded whole.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise SourceError(f"{path} is not a tokenizer.json ({error}); name one, or prepare the data again") from error
    end_of_document(tokenizer, end)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def end_of_document(tokenizer: Tokenizer, end: str = END_OF_DOCUMENT) -> int:
    """The id of the end-of-document token; `SourceError` where the tokenizer has none."""
    found = tokenizer.token_to_id(end)
    if found is None:
        special = sorted(token.content for token in tokenizer.get_added_tokens_decoder().values())
        raise SourceError(
            f"the tokenizer has no token {end!r} to end a document; its special tokens are "
            f"{', '.join(map(repr, special[:8])) or 'none'}: name one of them, add it, or train one"
        )
    return found


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """1 + the largest id: what an embedding must have room for, even where a tokenizer leaves ids out."""
    return 1 + max(tokenizer.get_vocab().values())


def encode(tokenizer: Tokenizer, texts: Sequence[str], end: str = END_OF_DOCUMENT) -> list[np.ndarray]:
    """The ids of each text and the end-of-document token: uint16, or uint32 where the vocabulary is larger."""
    last = end_of_document(tokenizer, end)
    kind = token_type(vocabulary_size(tokenizer))
    sequences: list[np.ndarray] = []
    # The library's encodings take a hundred bytes per token: a chunk of texts is encoded at a time.
    for begin in range(0, len(texts), _CHUNK):
        encodings = tokenizer.encode_batch_fast(list(texts[begin : begin + _CHUNK]), add_special_tokens=False)
        sequences += [np.asarray([*encoding.ids, last], kind) for encoding in encodings]
    return sequences


def token_type(vocabulary: int) -> np.dtype:
    """The smallest unsigned little-endian type that holds all ids.

    >>> token_type(4096), token_type(100_000)
    (dtype('uint16'), dtype('uint32'))
    """
    return np.dtype("<u2") if vocabulary <= 2**16 else np.dtype("<u4")
