"""Kosmos-2 in Hugging Face's words: config.json, and the names of its tensors."""

import math
from collections.abc import Mapping
from typing import Any

from pmpjax.models.config import DecoderConfig
from pmpjax.models.huggingface import GELUS, Tensor, dense_tensors, norm_tensors
from pmpjax.models.kosmos import KosmosConfig, magneto
from pmpjax.models.settings import Settings
from pmpjax.models.vision import VisionConfig

KOSMOS = "kosmos-2"
"""The model_type of its config.json."""

KOSMOS_EMBEDDING = "text_model.model.embed_tokens.weight"
"""The name of the matrix that is also the output's."""

KOSMOS_OUTPUT = "text_model.lm_head.weight"
"""A file may hold a copy of the embedding by this name."""

UNUSED = ("text_model.model.embed_positions.weights", "vision_model.model.embeddings.position_ids")
"""Constants that earlier versions of transformers stored as well."""

_ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
_MAX_LENGTH = 2_048


def kosmos_tensors(config: KosmosConfig) -> list[Tensor]:
    """Every tensor that a file must have for this model, with unrolled layers."""
    return [*_decoder_tensors(config.decoder), *_vision_tensors(config.vision), *_connector_tensors(config)]


def _decoder_tensors(config: DecoderConfig) -> list[Tensor]:
    width, hidden = config.width, config.hidden
    found = [Tensor(KOSMOS_EMBEDDING, (config.vocabulary, width), (("decoder", "trunk", "embedding"),))]
    for index in range(config.layers):
        name, leaf = f"text_model.model.layers.{index}.", ("decoder", "trunk", f"layers_{index}")
        found += _attention(f"{name}self_attn.", leaf, width, width)
        found += dense_tensors(f"{name}ffn.fc1", (*leaf, "up"), hidden, width)
        found += dense_tensors(f"{name}ffn.fc2", (*leaf, "down"), width, hidden)
        found += norm_tensors(f"{name}self_attn_layer_norm", (*leaf, "attention_norm"), width)
        found += norm_tensors(f"{name}self_attn.inner_attn_ln", (*leaf, "attention_sub_norm"), width)
        found += norm_tensors(f"{name}final_layer_norm", (*leaf, "feed_forward_norm"), width)
        found += norm_tensors(f"{name}ffn.ffn_layernorm", (*leaf, "feed_forward_sub_norm"), hidden)
    return found + norm_tensors("text_model.model.layer_norm", ("decoder", "trunk", "norm"), width)


def _vision_tensors(config: VisionConfig) -> list[Tensor]:
    width, hidden, prefix = config.width, config.hidden, "vision_model.model."
    patch = (width, config.channels, config.patch, config.patch)
    found = [
        Tensor(f"{prefix}embeddings.class_embedding", (width,), (("vision", "class_token"),)),
        Tensor(f"{prefix}embeddings.patch_embedding.weight", patch, (("vision", "patch"),), True),
        Tensor(f"{prefix}embeddings.position_embedding.weight", (config.tokens, width), (("vision", "positions"),)),
        *norm_tensors(f"{prefix}pre_layrnorm", ("vision", "norm_before"), width),
        *norm_tensors(f"{prefix}post_layernorm", ("vision", "norm_after"), width),
    ]
    for index in range(config.layers):
        name, leaf = f"{prefix}encoder.layers.{index}.", ("vision", f"layers_{index}")
        found += _attention(f"{name}self_attn.", leaf, width, width)
        found += dense_tensors(f"{name}mlp.fc1", (*leaf, "up"), hidden, width)
        found += dense_tensors(f"{name}mlp.fc2", (*leaf, "down"), width, hidden)
        found += norm_tensors(f"{name}layer_norm1", (*leaf, "attention_norm"), width)
        found += norm_tensors(f"{name}layer_norm2", (*leaf, "feed_forward_norm"), width)
    return found


def _connector_tensors(config: KosmosConfig) -> list[Tensor]:
    width, prefix = config.decoder.width, "image_to_text_projection."
    return [
        Tensor(f"{prefix}latent_query", (config.latents, width), (("connector", "latents"),)),
        *dense_tensors(f"{prefix}dense", ("connector", "features"), width, config.vision.width),
        *_attention(f"{prefix}x_attn.", ("connector",), width, width),
    ]


def _attention(prefix: str, leaf: tuple[str, ...], out: int, into: int) -> list[Tensor]:
    return [one for name, own in _ATTENTION.items() for one in dense_tensors(prefix + name, (*leaf, own), out, into)]


def kosmos_config(settings: Mapping[str, Any], where: str) -> KosmosConfig:
    """The sizes in a config.json; what is absent has transformers' default.

    Raises ValueError, with the file `where`, the key and its value, for a size that is none and for an option that this
    model has not.
    """
    whole = Settings(settings, where)
    whole.demand("model_type", None, KOSMOS)
    whole.demand("quantization_config", None, None)
    whole.demand("tie_word_embeddings", True, True)
    parts = []
    for key in ("text_config", "vision_config"):
        part = settings.get(key) or {}
        if not isinstance(part, Mapping):
            whole.refuse(key, "an object there; correct it")
        parts.append(Settings(part, f"{where}: {key}"))
    latents = whole.size("latent_query_num", 64)
    try:
        return KosmosConfig(_decoder_config(parts[0]), _vision_config(parts[1]), latents)
    except ValueError as error:
        raise error if str(error).startswith(where) else ValueError(f"{where}: {error}") from error


def _decoder_config(reader: Settings) -> DecoderConfig:
    reader.demand("add_cross_attention", False, False)
    reader.demand("tie_word_embeddings", True, True)
    changes: dict[str, Any] = {"layers": reader.size("layers", 24), "hidden": reader.size("ffn_dim", 8_192)}
    changes["feed_forward"] = GELUS[reader.demand("activation_function", "gelu", *GELUS)]
    changes["norm_epsilon"] = reader.number("layer_norm_eps", 1e-5)
    padding = reader.settings.get("pad_token_id", 1)
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        reader.refuse("pad_token_id", "an id there, behind which positions are counted; correct it")
    changes["first_position"] = padding + 1
    if not reader.demand("scale_embedding", True, True, False):
        changes["embedding_scale"] = 1.0
    vocabulary, width = reader.size("vocab_size", 65_037), reader.size("embed_dim", 2_048)
    return magneto(vocabulary, width, reader.size("attention_heads", 32), **changes)


def _vision_config(reader: Settings) -> VisionConfig:
    sides = []
    for key, default in (("image_size", 224), ("patch_size", 14)):
        side = reader.settings.get(key)
        if isinstance(side, list | tuple) and len(side) == 2 and side[0] == side[1]:
            reader = reader._replace(settings={**reader.settings, key: side[0]})
        sides.append(reader.size(key, default))
    return VisionConfig(
        size=sides[0],
        patch=sides[1],
        channels=reader.size("num_channels", 3),
        width=reader.size("hidden_size", 1_024),
        layers=reader.size("num_hidden_layers", 24),
        heads=reader.size("num_attention_heads", 16),
        hidden=reader.size("intermediate_size", 4_096),
        activation=reader.demand("hidden_act", "quick_gelu", "quick_gelu", "gelu"),
        norm_epsilon=reader.number("layer_norm_eps", 1e-5),
    )


def kosmos_settings(config: KosmosConfig, end_of_document: int | None, max_length: int | None) -> dict[str, Any]:
    """The content of config.json; ValueError names each field of the decoder that the format does not hold."""
    decoder, vision = config.decoder, config.vision
    free = {"layers": decoder.layers, "hidden": decoder.hidden, "norm_epsilon": decoder.norm_epsilon}
    expected = magneto(decoder.vocabulary, decoder.width, decoder.heads, **free)
    held: dict[str, tuple] = {"feed_forward": tuple(sorted({*GELUS.values()}))}
    held["embedding_scale"] = (expected.embedding_scale, 1.0)
    for field in ("norm", "sub_norm", "biases", "positions", "key_value_heads", "head_size", "window", "momentum"):
        held[field] = (getattr(expected, field),)
    held["tied_embeddings"] = (True,)
    wrong = [
        f"{field} is {getattr(decoder, field)!r}, the format holds {' or '.join(map(repr, values))}"
        for field, values in held.items()
        if getattr(decoder, field) not in values
    ]
    if decoder.first_position < 1:
        wrong.append(f"first_position is {decoder.first_position}, the format holds 1 and more")
    if wrong:
        raise ValueError(
            f"no Hugging Face file of Kosmos-2 holds this decoder: {'; '.join(wrong)}. Make it by `magneto`, or keep "
            "it as a checkpoint of pmpjax"
        )
    # Nothing was dropped in training: transformers' defaults of 0.1 would begin with fine-tuning.
    drop = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0)
    text = {
        "model_type": "kosmos_2_text_model",
        "vocab_size": decoder.vocabulary,
        "embed_dim": decoder.width,
        "layers": decoder.layers,
        "attention_heads": decoder.heads,
        "ffn_dim": decoder.hidden,
        "activation_function": "gelu_new" if decoder.feed_forward == "gelu_tanh" else "gelu",
        "layer_norm_eps": decoder.norm_epsilon,
        "scale_embedding": decoder.embedding_scale == math.sqrt(decoder.width),
        "max_position_embeddings": max_length or _MAX_LENGTH,
        "pad_token_id": decoder.first_position - 1,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        **drop,
    }
    seen = {
        "model_type": "kosmos_2_vision_model",
        "image_size": vision.size,
        "patch_size": vision.patch,
        "num_channels": vision.channels,
        "hidden_size": vision.width,
        "num_hidden_layers": vision.layers,
        "num_attention_heads": vision.heads,
        "intermediate_size": vision.hidden,
        "hidden_act": vision.activation,
        "layer_norm_eps": vision.norm_epsilon,
    }
    return {
        "architectures": ["Kosmos2ForConditionalGeneration"],
        "model_type": KOSMOS,
        "text_config": text,
        "vision_config": seen,
        "latent_query_num": config.latents,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
