"""The decoder beside transformers itself, both ways; needs the extra `parity`, skipped without it."""

import importlib.util
import json
import warnings

import numpy as np
import pytest

if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
    pytest.skip("needs the extra parity: torch and transformers", allow_module_level=True)

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file

from pmpjax.data import Rows, load_tokenizer, train_tokenizer
from pmpjax.data.tokenizer import encode
from pmpjax.models import (
    Decoder,
    DecoderConfig,
    ImageRows,
    Kosmos,
    KosmosConfig,
    VisionConfig,
    generate,
    load_pretrained,
    magneto,
    mean_token_loss,
    recorded,
    save_pretrained,
)
from tests.models import test_kosmos

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import transformers

    from tests.models.golden.make import computed, noisy
    from tests.models.golden.make_kosmos import computed_kosmos, noisy_kosmos, rows_of

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:::{name}") for name in ("torch", "transformers", "huggingface_hub", "importlib")
]

SIZES = {"vocab_size": 71, "bos_token_id": None, "eos_token_id": None}
LLAMA = {
    **SIZES,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
}
GPT2 = {**SIZES, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 48}
THEIRS = {
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=3, tie_word_embeddings=True),
    "mistral without a window": lambda: transformers.MistralConfig(**LLAMA, sliding_window=None),
    "llama": lambda: transformers.LlamaConfig(**LLAMA, head_dim=10, rope_parameters={"rope_theta": 5e5}),
    "gpt2": lambda: transformers.GPT2Config(**GPT2, activation_function="gelu"),
}
BLOCK = {"vocabulary": 300, "width": 36, "layers": 3, "heads": 6, "key_value_heads": 2, "hidden": 52}
GPT2_BLOCK = {**BLOCK, "key_value_heads": 6, "norm": "layer", "biases": True, "positions": "learned", "max_length": 64}
OURS = {
    "mistral": DecoderConfig(**BLOCK, window=4, tied_embeddings=False, head_size=8),
    "llama": DecoderConfig(**BLOCK, rope_base=500.0, norm_epsilon=1e-5),
    "llama of odd heads": DecoderConfig(**{**BLOCK, "width": 34}, head_size=6),
    "gpt2": DecoderConfig(**GPT2_BLOCK, feed_forward="gelu_tanh", scan_layers=True),
    "gpt2 of exact gelu, free": DecoderConfig(**GPT2_BLOCK, feed_forward="gelu", tied_embeddings=False),
}


def close(found, expected, tolerance):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def compare(decoder, params, expected, folder):
    """Logits, blocks, gradients and greedy continuations are those that `computed` found in transformers."""
    expected = {name: tensor.numpy() for name, tensor in expected.items()}
    tokens = jnp.asarray(expected["tokens"])
    found = jax.jit(lambda params: recorded(decoder, params, tokens))(params)
    close(found.logits, expected["logits"], 1e-5)
    for index, block in enumerate(found.blocks):
        close(block, expected[f"block.{index}"], 1e-5)

    loss = mean_token_loss(decoder)
    rows = Rows(tokens, jnp.full(len(tokens), tokens.shape[1]))
    gradient = jax.jit(jax.grad(lambda params: loss(params, rows)[0]))(params)
    save_pretrained(folder, decoder.config, gradient)
    found = load_file(folder / "model.safetensors")
    assert {f"gradient.{name}" for name in found} == {name for name in expected if name.startswith("gradient.")}
    for name, part in found.items():
        close(part / (tokens.size - len(tokens)), expected[f"gradient.{name}"], 1e-4)

    prompts = Rows(tokens[:, :9], jnp.array([9, 2, 5]))
    written = np.asarray(generate(decoder, params, prompts, 20)).tolist()
    assert written == [expected[f"generated.{index}"].tolist() for index in range(3)]


def tokens_of(vocabulary):
    return torch.from_numpy(np.random.default_rng(3).integers(vocabulary, size=(3, 21)))


@pytest.mark.parametrize("kind", THEIRS)
def test_a_model_of_transformers_is_the_same_here(kind, tmp_path):
    model = noisy(THEIRS[kind](), seed=5)
    model.save_pretrained(tmp_path / "theirs")
    config, params = load_pretrained(tmp_path / "theirs")
    expected = computed(model, tokens_of(71), (9, 2, 5), 20)
    compare(Decoder(config), params, expected, tmp_path / "gradient")


@pytest.mark.parametrize("kind", OURS)
def test_a_model_of_ours_is_the_same_in_transformers(kind, tmp_path):
    config = OURS[kind]
    decoder = Decoder(config)
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    draw = np.random.default_rng(7)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.normal(size=leaf.shape), jnp.float32), shapes)
    save_pretrained(tmp_path / "ours", config, params)
    model, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(told.values()), told
    assert model.config.model_type == kind.split()[0] or "odd" in kind
    assert model.dtype == torch.float32 and model.config.eos_token_id is None
    expected = computed(model.eval(), tokens_of(config.vocabulary), (9, 2, 5), 20)
    compare(decoder, params, expected, tmp_path / "gradient")


def test_half_precision_files_of_transformers_are_read(tmp_path):
    noisy(THEIRS["llama"](), seed=5).to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    config, params = load_pretrained(tmp_path / "theirs", scan_layers=True)
    tokens = tokens_of(71)
    # Read anew: the cast above has rounded the model's rotary frequencies as well.
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    with torch.no_grad():
        expected = model(tokens).logits
    close(jax.jit(Decoder(config).apply)({"params": params}, jnp.asarray(tokens.numpy())), expected.numpy(), 1e-5)


def test_the_tokenizer_and_the_end_of_a_document_go_along(tmp_path):
    text = "the hat, and the cat <|end|> é"
    train_tokenizer([text, "the cat and the hat"] * 3, 290).save(str(tmp_path / "tokenizer.json"))
    config = OURS["llama"]
    shapes = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    folder = tmp_path / "model"
    save_pretrained(folder, config, params, end_of_document=0, tokenizer=tmp_path / "tokenizer.json", max_length=77)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    [ours] = encode(load_tokenizer(tmp_path / "tokenizer.json"), [text])
    assert [*tokenizer(text)["input_ids"], tokenizer.eos_token_id] == ours.tolist()
    assert tokenizer.decode(ours[:-1].tolist()) == text
    assert (tokenizer.eos_token, tokenizer.bos_token_id, tokenizer.model_max_length) == ("<|end|>", 0, 77)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert (model.generation_config.eos_token_id, model.config.max_position_embeddings) == (0, 77)
    # Nothing of the file is left unread or renamed by transformers: it would write the same sizes.
    model.save_pretrained(tmp_path / "again")
    said = [json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "again")]
    assert {name: said[1].get(name) for name in said[0] if name != "rope_theta"} == {
        name: value for name, value in said[0].items() if name != "rope_theta"
    }
    assert load_pretrained(tmp_path / "again")[0] == config


# transformers' own test sizes for Kosmos-2; the second with other options, and heads of another size.
KOSMOS_TEXT = {"vocab_size": 99, "embed_dim": 32, "layers": 2, "attention_heads": 4, "ffn_dim": 37}
KOSMOS_TEXT |= {"dropout": 0.0, "attention_dropout": 0.0}
KOSMOS_VISION = {"image_size": 32, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2}
KOSMOS_VISION |= {"num_attention_heads": 4, "intermediate_size": 37}
KOSMOS = [
    {"text_config": KOSMOS_TEXT, "vision_config": KOSMOS_VISION, "latent_query_num": 3},
    {
        "text_config": {**KOSMOS_TEXT, "activation_function": "gelu_new", "scale_embedding": False, "pad_token_id": 3},
        "vision_config": {**KOSMOS_VISION, "hidden_act": "gelu", "patch_size": 8, "num_attention_heads": 2},
        "latent_query_num": 5,
    },
]
COUNTS, LENGTHS = (1, 3, 0, 2), (12, 31, 8, 24)


def kosmos_rows(expected):
    return ImageRows(*(jnp.asarray(expected[name]) for name in ("tokens", "lengths", "images", "places", "predicted")))


@pytest.mark.parametrize("settings", KOSMOS, ids=["default", "options"])
def test_kosmos_of_transformers_is_the_same_here(settings, tmp_path):
    model = noisy_kosmos(5, settings)
    model.save_pretrained(tmp_path / "theirs")
    config, params = load_pretrained(tmp_path / "theirs")
    expected = computed_kosmos(model, rows_of(model, 3, COUNTS, LENGTHS))
    expected = {name: tensor.numpy() for name, tensor in expected.items()}
    test_kosmos.compare(Kosmos(config), params, expected, kosmos_rows(expected), tmp_path / "gradient")


def test_kosmos_of_ours_is_the_same_in_transformers(tmp_path):
    vision = VisionConfig(size=12, patch=4, width=18, layers=1, heads=3, hidden=20)
    config = KosmosConfig(magneto(71, 20, 5, layers=2, hidden=33, scan_layers=True), vision, latents=4)
    kosmos = Kosmos(config)
    places = jnp.zeros((1, 5), bool)
    shapes = jax.eval_shape(kosmos.init, jax.random.key(0), places.astype(int), jnp.zeros((1, 1, 12, 12, 3)), places)
    draw = np.random.default_rng(7)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.3 * draw.normal(size=leaf.shape), jnp.float32), shapes["params"])
    save_pretrained(tmp_path / "ours", config, params)
    model, told = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "ours", output_loading_info=True, attn_implementation="sdpa"
    )
    assert not any(told.values()), told
    assert isinstance(model, transformers.Kosmos2ForConditionalGeneration) and model.dtype == torch.float32
    model = model.eval()
    expected = computed_kosmos(model, rows_of(model, 3, COUNTS, (14, 33, 8, 24)))
    expected = {name: tensor.numpy() for name, tensor in expected.items()}
    test_kosmos.compare(kosmos, params, expected, kosmos_rows(expected), tmp_path / "gradient")
