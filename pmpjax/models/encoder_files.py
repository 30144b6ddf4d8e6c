"""Sentence encoders from Hugging Face folders: config.json, the tensors of BERT, sentence-transformers' settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pmpjax.models.encoder import Encoder, EncoderConfig, SentenceEncoder
from pmpjax.models.huggingface import Tensor, dense_tensors, norm_tensors
from pmpjax.models.losses import Parameters
from pmpjax.models.packages import pretrained_path
from pmpjax.models.pretrained_tokenizers import pretrained_tokenizer
from pmpjax.models.tensor_files import FLOATS, check_tensors, opened_tensors, parameters_of, read_json, some, stored

_PREFIX = "bert."
# What BERT's other uses keep in the same file: nothing of it enters a mean over the last states.
_UNUSED = ("pooler.", "cls.", "embeddings.position_ids")


def load_encoder(source: Path | str = "minilm") -> SentenceEncoder:
    """The sentence encoder of an installed model, or of a Hugging Face folder of BERT. Weights become float32.

    Args:
        source: "minilm", whose package is found and never imported; a folder with config.json, tokenizer.json and
            safetensors. Where sentence_bert_config.json sets `max_seq_length`, longer texts are cut there, as
            sentence-transformers does, else at the last position.

    Raises:
        ValueError: another architecture, pooling or option; tensors missing, of another shape or type, or too many; a
            damaged file; a tokenizer with ids that the model has not.
        FileNotFoundError: a file that is not there; a package that is not installed, with what installs it.
    """
    folder = pretrained_path(source)
    if folder.is_file():
        raise ValueError(f"{folder} is a file, expected a Hugging Face folder of BERT; load_pretrained reads decoders")
    config = _config(read_json(folder / "config.json"), str(folder / "config.json"))
    longest = min(config.max_length, _pooled_length(folder) or config.max_length)
    tokenizer = pretrained_tokenizer(folder)
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if highest >= config.vocabulary:
        raise ValueError(
            f"{folder / 'tokenizer.json'} has ids up to {highest}, the model {config.vocabulary} embeddings; take the "
            "files of one model together"
        )
    tokenizer.enable_truncation(longest)
    return SentenceEncoder(Encoder(config), _parameters(folder, config), tokenizer, longest)


def _config(settings: Mapping[str, Any], where: str) -> EncoderConfig:
    """The sizes in config.json; an option that this encoder has not is refused by key."""
    known = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
    known |= {"add_cross_attention": False, "quantization_config": None}
    for key, expected in known.items():
        found = settings.get(key, None if key == "model_type" else expected)
        if found != expected:
            raise ValueError(f"{where}: {key} is {found!r}, this encoder has {expected!r} only; take another model")
    names = {"vocabulary": "vocab_size", "width": "hidden_size", "layers": "num_hidden_layers"}
    names |= {"heads": "num_attention_heads", "hidden": "intermediate_size"}
    names |= {"max_length": "max_position_embeddings", "types": "type_vocab_size"}
    sizes = {field: settings.get(key) for field, key in names.items()}
    for field, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{where}: {names[field]} is {size!r}, expected a whole number from 1 on; write it there")
    epsilon = settings.get("layer_norm_eps", 1e-12)
    if isinstance(epsilon, bool) or not isinstance(epsilon, float | int) or not 0 < epsilon < 1:
        raise ValueError(f"{where}: layer_norm_eps is {epsilon!r}, expected a number between 0 and 1; correct it")
    try:
        return EncoderConfig(**sizes, norm_epsilon=float(epsilon))  # pyright: ignore[reportArgumentType]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _pooled_length(folder: Path) -> int | None:
    """The `max_seq_length` of sentence-transformers' settings; ValueError where they compute another vector."""
    path = folder / "modules.json"
    if path.is_file():
        for module in _read_list(path):
            kind = str(module.get("type")).rsplit(".", 1)[-1]
            if kind not in ("Transformer", "Pooling", "Normalize"):
                raise ValueError(f"{path}: a module is a {kind}, this encoder has none; take another model")
            if kind == "Pooling":
                _demand_mean(folder / str(module.get("path")) / "config.json")
    path = folder / "sentence_bert_config.json"
    longest = read_json(path).get("max_seq_length") if path.is_file() else None
    if longest is not None and (isinstance(longest, bool) or not isinstance(longest, int) or longest < 3):
        raise ValueError(f"{path}: max_seq_length is {longest!r}, expected a whole number from 3 on; correct it")
    return longest


def _read_list(path: Path) -> list[dict[str, Any]]:
    """modules.json is the one list among these files."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy the file again") from error
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise ValueError(f"{path} must hold a list of objects; copy the file again")
    return found


def _demand_mean(path: Path) -> None:
    on = sorted(key for key, value in read_json(path).items() if key.startswith("pooling_mode_") and value is True)
    if on != ["pooling_mode_mean_tokens"]:
        raise ValueError(
            f"{path}: pooling is {some(on)}, this encoder has pooling_mode_mean_tokens; take another model"
        )


def _tensors(config: EncoderConfig) -> list[Tensor]:
    """Every tensor that a file must have for this encoder."""
    width, hidden = config.width, config.hidden
    names = {
        "word_embeddings": ("embedding", config.vocabulary),
        "position_embeddings": ("positions", config.max_length),
    }
    names |= {"token_type_embeddings": ("types", config.types)}
    found = [Tensor(f"embeddings.{name}.weight", (n, width), ((leaf,),)) for name, (leaf, n) in names.items()]
    found += norm_tensors("embeddings.LayerNorm", ("norm",), width)
    products = {f"attention.self.{name}": (name, width, width) for name in ("query", "key", "value")}
    products |= {"attention.output.dense": ("output", width, width)}
    products |= {"intermediate.dense": ("up", hidden, width), "output.dense": ("down", width, hidden)}
    for index in range(config.layers):
        own, prefix = f"layers_{index}", f"encoder.layer.{index}."
        for name, (leaf, out, into) in products.items():
            found += dense_tensors(f"{prefix}{name}", (own, leaf), out, into)
        found += norm_tensors(f"{prefix}attention.output.LayerNorm", (own, "attention_norm"), width)
        found += norm_tensors(f"{prefix}output.LayerNorm", (own, "feed_forward_norm"), width)
    return found


def _parameters(folder: Path, config: EncoderConfig) -> Parameters:
    wanted = {tensor.name: tensor for tensor in _tensors(config)}
    with opened_tensors(folder) as files:
        held = {name.removeprefix(_PREFIX): stored(file, name) for name, file in files.items()}
        check_tensors(folder, held, wanted, FLOATS, _UNUSED)
        return parameters_of(wanted, held)
