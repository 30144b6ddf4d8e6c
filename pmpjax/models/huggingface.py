"""The decoder in Hugging Face's words: config.json of Mistral, Llama and GPT-2, and the names of their tensors."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pmpjax.models.config import DecoderConfig
from pmpjax.models.settings import Settings

PREFIX = {"mistral": "model.", "llama": "model.", "gpt2": "transformer."}
"""What the names of a language model's tensors begin with, by model_type; files of the bare trunk are without it."""

EMBEDDING = {"mistral": "embed_tokens.weight", "llama": "embed_tokens.weight", "gpt2": "wte.weight"}
"""The embedding's name behind the prefix."""

OUTPUT = "lm_head.weight"
"""The free output matrix; a file of tied embeddings may hold a copy of the embedding by this name."""

GELUS: dict[str, Literal["gelu_tanh", "gelu"]] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
}
"""The feed-forward part by transformers' names of its activation."""

_MAX_LENGTH = 2_048


class Tensor(NamedTuple):
    """One tensor of a file and the parameters that it holds.

    Fields:
        name: in the file.
        shape: in the file.
        leaves: paths in the parameters of unrolled layers; several are joined along their last axis.
        transposed: whether the file has the parameter's transpose: [out, in] for a kernel [in, out].
    """

    name: str
    shape: tuple[int, ...]
    leaves: tuple[tuple[str, ...], ...]
    transposed: bool = False


def dense_tensors(name: str, leaf: tuple[str, ...], out: int, into: int) -> list[Tensor]:
    """Weight and bias of a product."""
    weight = Tensor(f"{name}.weight", (out, into), ((*leaf, "kernel"),), True)
    return [weight, Tensor(f"{name}.bias", (out,), ((*leaf, "bias"),))]


def norm_tensors(name: str, leaf: tuple[str, ...], width: int) -> list[Tensor]:
    """Scale and bias of a layer norm."""
    parts = {"weight": "scale", "bias": "bias"}
    return [Tensor(f"{name}.{part}", (width,), ((*leaf, own),)) for part, own in parts.items()]


def architecture(config: DecoderConfig) -> str:
    """The model_type whose files hold this decoder; ValueError names each field that none does.

    >>> architecture(DecoderConfig(vocabulary=11)), architecture(DecoderConfig(vocabulary=11, window=8))
    ('llama', 'mistral')
    """
    gpt2 = config.norm == "layer" or config.positions == "learned"
    held: dict[str, tuple] = {"sub_norm": (False,), "momentum": (0.0,), "embedding_scale": (1.0,)}
    if gpt2:
        held |= {"norm": ("layer",), "feed_forward": tuple(sorted({*GELUS.values()})), "biases": (True,)}
        held |= {"positions": ("learned",), "window": (None,), "key_value_heads": (config.heads,)}
        if config.size * config.heads != config.width:
            held["head_size"] = (None,)
    else:
        held |= {"norm": ("rms",), "feed_forward": ("swiglu",), "biases": (False,), "positions": ("rotary",)}
    wrong = [
        f"{field} is {getattr(config, field)!r}, the format holds {' or '.join(map(repr, values))}"
        for field, values in held.items()
        if getattr(config, field) not in values
    ]
    if wrong:
        name = "GPT-2" if gpt2 else "Mistral or Llama"
        raise ValueError(
            f"no Hugging Face file of {name} holds this decoder: {'; '.join(wrong)}. Keep it as a checkpoint of "
            "pmpjax, or train one that the format holds"
        )
    # transformers refuses a Llama whose width is no multiple of its heads; a Mistral may be without a window.
    return "gpt2" if gpt2 else "mistral" if config.window is not None or config.width % config.heads else "llama"


def tensors(config: DecoderConfig, kind: str) -> list[Tensor]:
    """Every tensor that a file of the model_type `kind` must have for this decoder."""
    blocks = _gpt2_block(config) if kind == "gpt2" else _llama_block(config)
    rows = (config.vocabulary, config.width)
    prefix = PREFIX[kind]
    found = [Tensor(prefix + EMBEDDING[kind], rows, (("trunk", "embedding"),))]
    for index in range(config.layers):
        layer = f"{prefix}{'h' if kind == 'gpt2' else 'layers'}.{index}."
        found += [
            Tensor(layer + name, shape, tuple(("trunk", f"layers_{index}", *leaf) for leaf in leaves), transposed)
            for name, shape, leaves, transposed in blocks
        ]
    if kind == "gpt2":
        found.append(Tensor("transformer.wpe.weight", (config.max_length, config.width), (("trunk", "positions"),)))
        found += norm_tensors("transformer.ln_f", ("trunk", "norm"), config.width)
    else:
        found.append(Tensor("model.norm.weight", (config.width,), (("trunk", "norm", "scale"),)))
    if not config.tied_embeddings:
        found.append(Tensor(OUTPUT, rows, (("output",),)))
    return found


def _llama_block(config: DecoderConfig) -> list[Tensor]:
    width, own, shared = config.width, config.heads * config.size, config.key_value_heads * config.size
    products = {
        "self_attn.q_proj": ("query", own, width),
        "self_attn.k_proj": ("key", shared, width),
        "self_attn.v_proj": ("value", shared, width),
        "self_attn.o_proj": ("output", width, own),
        "mlp.gate_proj": ("gate", config.hidden, width),
        "mlp.up_proj": ("up", config.hidden, width),
        "mlp.down_proj": ("down", width, config.hidden),
    }
    norms = {"input_layernorm": "attention_norm", "post_attention_layernorm": "feed_forward_norm"}
    return [
        *(
            Tensor(f"{name}.weight", (out, into), ((own, "kernel"),), True)
            for name, (own, out, into) in products.items()
        ),
        *(Tensor(f"{name}.weight", (width,), ((leaf, "scale"),)) for name, leaf in norms.items()),
    ]


def _gpt2_block(config: DecoderConfig) -> list[Tensor]:
    width, hidden = config.width, config.hidden
    # GPT-2's products keep [in, out], and query, key and value are one of them.
    products = {
        "attn.c_attn": (("query", "key", "value"), width, 3 * width),
        "attn.c_proj": (("output",), width, width),
        "mlp.c_fc": (("up",), width, hidden),
        "mlp.c_proj": (("down",), hidden, width),
    }
    found = []
    for name, (own, into, out) in products.items():
        found.append(Tensor(f"{name}.weight", (into, out), tuple((leaf, "kernel") for leaf in own)))
        found.append(Tensor(f"{name}.bias", (out,), tuple((leaf, "bias") for leaf in own)))
    for name, own in (("ln_1", "attention_norm"), ("ln_2", "feed_forward_norm")):
        found += norm_tensors(name, (own,), width)
    return found


def to_settings(
    config: DecoderConfig, kind: str, end_of_document: int | None, max_length: int | None
) -> dict[str, Any]:
    """The content of config.json; `max_length` None: that of the config, or 2,048 where it has none."""
    shared = {
        "model_type": kind,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "pad_token_id": None,
        "dtype": "float32",
    }
    if kind == "gpt2":
        activation = "gelu_new" if config.feed_forward == "gelu_tanh" else "gelu"
        sizes = {"n_embd": config.width, "n_layer": config.layers, "n_head": config.heads, "n_inner": config.hidden}
        # Nothing was dropped in training: transformers' defaults of 0.1 would begin with fine-tuning.
        drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return {
            "architectures": ["GPT2LMHeadModel"],
            **shared,
            **sizes,
            **drop,
            "n_positions": config.max_length,
            "activation_function": activation,
            "layer_norm_epsilon": config.norm_epsilon,
        }
    rest: dict[str, Any] = {"attention_bias": False, "mlp_bias": False}
    if kind == "mistral":
        rest = {"sliding_window": config.window}
    return {
        "architectures": ["MistralForCausalLM" if kind == "mistral" else "LlamaForCausalLM"],
        **shared,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.size,
        "intermediate_size": config.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "max_position_embeddings": max_length or config.max_length or _MAX_LENGTH,
        # transformers 5 reads the second, earlier ones and other readers the first.
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_theta": config.rope_base, "rope_type": "default"},
        **rest,
    }


def from_settings(settings: Mapping[str, Any], where: str) -> tuple[str, DecoderConfig]:
    """(model_type, config) of a config.json's content; what is absent has transformers' default.

    Raises ValueError, which names the file `where`, the key, its value and what this decoder has: for a model_type
    or an option that the decoder has not, a size that is missing or none.
    """
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in PREFIX:
        raise ValueError(f"{where}: model_type is {kind!r}; known ones: {', '.join(PREFIX)}")
    reader = Settings(settings, where)
    reader.demand("quantization_config", None, None)
    reader.demand("add_cross_attention", False, False)
    try:
        return kind, _gpt2_config(reader) if kind == "gpt2" else _llama_config(reader, kind)
    except ValueError as error:
        raise error if str(error).startswith(where) else ValueError(f"{where}: {error}") from error


def _gpt2_config(reader: Settings) -> DecoderConfig:
    reader.demand("scale_attn_weights", True, True)
    reader.demand("scale_attn_by_inverse_layer_idx", False, False)
    width, heads = reader.size("n_embd"), reader.size("n_head")
    return DecoderConfig(
        vocabulary=reader.size("vocab_size"),
        width=width,
        layers=reader.size("n_layer"),
        heads=heads,
        key_value_heads=heads,
        hidden=reader.size("n_inner", 4 * width),
        norm="layer",
        feed_forward=GELUS[reader.demand("activation_function", "gelu_new", *GELUS)],
        biases=True,
        positions="learned",
        max_length=reader.size("n_positions"),
        norm_epsilon=reader.number("layer_norm_epsilon", 1e-5),
        tied_embeddings=reader.demand("tie_word_embeddings", True, True, False),
    )


def _llama_config(reader: Settings, kind: str) -> DecoderConfig:
    reader.demand("hidden_act", "silu", "silu", "swish")
    reader.demand("attention_bias", False, False)
    reader.demand("mlp_bias", False, False)
    width, heads = reader.size("hidden_size"), reader.size("num_attention_heads")
    window = None
    if kind == "mistral" and reader.settings.get("sliding_window", 4_096) is not None:
        window = reader.size("sliding_window", 4_096)
    layers, layer_type = reader.size("num_hidden_layers"), "sliding_attention" if window else "full_attention"
    reader.demand("layer_types", None, None, [layer_type] * layers)
    head_size = reader.size("head_dim", width // heads)
    return DecoderConfig(
        vocabulary=reader.size("vocab_size"),
        width=width,
        layers=layers,
        heads=heads,
        key_value_heads=reader.size("num_key_value_heads", 8 if kind == "mistral" else heads),
        hidden=reader.size("intermediate_size"),
        head_size=None if head_size * heads == width else head_size,
        rope_base=_rope_base(reader),
        window=window,
        norm_epsilon=reader.number("rms_norm_eps", 1e-6),
        tied_embeddings=reader.demand("tie_word_embeddings", False, True, False),
    )


def _rope_base(reader: Settings) -> float:
    """The base of the angles; transformers 5 keeps it in `rope_parameters`, earlier ones beside `rope_scaling`."""
    for key in ("rope_parameters", "rope_scaling"):
        rope = reader.settings.get(key) or {}
        if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
            reader.refuse(key, "one object for all layers, or null")
        inner = Settings(rope, f"{reader.where}: {key}")
        inner.demand("rope_type", "default", "default")
        inner.demand("type", "default", "default")
        inner.demand("partial_rotary_factor", 1.0, 1.0, None)
        if "rope_theta" in rope:
            return inner.number("rope_theta", 10_000.0)
    reader.demand("partial_rotary_factor", 1.0, 1.0, None)
    return reader.number("rope_theta", 10_000.0)
