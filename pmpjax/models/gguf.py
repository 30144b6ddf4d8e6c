"""GGUF files of llama.cpp, read through the package `gguf` (extra `models`): settings, tensors and tokenizer."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from pmpjax.models.tensor_files import Stored
from pmpjax.runs import RunError

_MODEL = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_HUGGING_FACE = {own: theirs for theirs, own in {**_MODEL, **_LAYER}.items()}
_SPECIAL = 3  # llama.cpp's number of a control token
_SPLITS = {"smollm": True, "gpt-2": False}
"""Pre-tokenizers by their name in the file, and whether each digit is a piece of its own."""


class GGUFModel(NamedTuple):
    """A language model's file in Hugging Face's words.

    Fields:
        settings: as the config.json of a Llama.
        tensors: by the names that a Llama's safetensors have.
        fields: the file's own, by key: the tokenizer and its chat template are among them.
    """

    settings: dict[str, Any]
    tensors: dict[str, Stored]
    fields: dict[str, Any]


def read_gguf(path: Path) -> GGUFModel:
    """The model of a GGUF file whose architecture is "llama"; numbers are read when a tensor is asked for.

    llama.cpp turns neighbouring features of a query or key, Hugging Face (and this library) features that lie half a
    head apart: the rows of the two products are put back into that order.

    Raises:
        RunError: the package `gguf` is missing.
        ValueError: no GGUF file or a damaged one; another architecture, scaled rotary angles, experts. It names the
            key, what was found and what is read.
        FileNotFoundError: the file is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; name a .gguf file")
    found = path.stat()
    return _read(path, found.st_mtime_ns, found.st_size)


# The settings, the tokenizer and the chat template are asked for one after the other, and opening takes two seconds.
@functools.lru_cache(maxsize=1)
def _read(path: Path, changed: int, size: int) -> GGUFModel:
    reader = _opened(path)
    fields = {name: field for name, field in reader.fields.items()}
    found = _Fields(path, fields)
    if found.value("general.architecture") != "llama":
        raise ValueError(
            f"{path}: general.architecture is {found.value('general.architecture')!r}; this reader knows 'llama' (of "
            "which Mistral is one too): take another file, or the model's Hugging Face folder"
        )
    found.demand("llama.rope.scaling.type", None, "none")
    found.demand("llama.expert_count", None, 0)
    heads = found.value("llama.attention.head_count")
    shared = found.value("llama.attention.head_count_kv", heads)
    width = found.value("llama.embedding_length")
    tensors = {}
    for tensor in reader.tensors:
        name = _hugging_face(tensor.name)
        turned = {"q_proj.weight": heads, "k_proj.weight": shared}.get(".".join(name.split(".")[-2:]), 0)
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        tensors[name] = Stored(shape, tensor.tensor_type.name, _reading(path, tensor, shape, turned))
    embedding = "model.embed_tokens.weight"
    if embedding not in tensors:
        raise ValueError(f"{path} has no token_embd.weight; it is not a whole language model: copy the file again")
    settings = {
        "model_type": "llama",
        "vocab_size": tensors[embedding].shape[0],
        "hidden_size": width,
        "num_hidden_layers": found.value("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": found.value("llama.attention.key_length", width // heads),
        "intermediate_size": found.value("llama.feed_forward_length"),
        "rms_norm_eps": found.value("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": found.value("llama.rope.freq_base", 10_000.0),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }
    found.demand("llama.rope.dimension_count", None, settings["head_dim"])
    return GGUFModel(settings, tensors, fields)


def gguf_tokenizer(path: Path, model: GGUFModel) -> Tokenizer:
    """The byte-level tokenizer of a GGUF file; its control tokens are special.

    Raises ValueError for another kind of tokenizer, with its key.
    """
    found = _Fields(path, model.fields)
    found.demand("tokenizer.ggml.model", "gpt2")
    found.demand("tokenizer.ggml.pre", *_SPLITS)
    found.demand("tokenizer.ggml.add_bos_token", None, False)
    tokens = found.value("tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ", 1)) for pair in found.value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    pieces: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if _SPLITS[found.value("tokenizer.ggml.pre")]:
        pieces.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    kinds = found.value("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


class _Fields(NamedTuple):
    path: Path
    fields: dict[str, Any]

    def value(self, key: str, default: Any = None) -> Any:
        field = self.fields.get(key)
        if field is None and default is None:
            raise ValueError(f"{self.path} has no {key}; it is not a whole language model: copy the file again")
        return default if field is None else field.contents()

    def demand(self, key: str, *known: Any) -> None:
        """The value must be one of these; None stands for a key that is absent."""
        found = self.fields[key].contents() if key in self.fields else None
        if found not in known:
            raise ValueError(
                f"{self.path}: {key} is {found!r}; this reader knows {' or '.join(map(repr, known))}: take another file"
            )


def _opened(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise RunError(
            f"reading {path} needs the package gguf: pip install gguf, or pmpjax with its extra `models`"
        ) from error
    with _damage(path):
        return gguf.GGUFReader(path)


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """What the package raises at a damaged or foreign file, as ValueError with the path."""
    try:
        yield
    except (ValueError, IndexError, KeyError, OverflowError, NotImplementedError) as error:
        raise ValueError(
            f"{path} is no GGUF file that can be read ({error}; {path.stat().st_size:,} bytes); copy it again, or take "
            "one of another quantisation, such as Q8_0"
        ) from error


def _hugging_face(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; an unknown name stays."""
    if name in _HUGGING_FACE:
        return _HUGGING_FACE[name]
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _HUGGING_FACE:
        return f"model.layers.{parts[1]}.{_HUGGING_FACE[parts[2]]}.{parts[3]}"
    return name


def _reading(path: Path, tensor: Any, shape: tuple[int, ...], heads: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        import gguf

        with _damage(path):
            array = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        if not heads:
            return array
        pairs = array.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
        return pairs.swapaxes(1, 2).reshape(shape)

    return read
