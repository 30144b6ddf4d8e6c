"""One group behind a prefix equals transformers on the whole prompt, GPT-2 and Llama; needs the extra `parity`."""

import importlib.util
import warnings

import numpy as np
import pytest

if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
    pytest.skip("needs the extra parity: torch and transformers", allow_module_level=True)

from pmpjax.contexts import attach, build_context
from pmpjax.data import Rows
from pmpjax.models import Decoder, generate, load_pretrained
from tests.contexts.structured_prompting.test_context import groups, read

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    import transformers

    from tests.models.golden.make import noisy

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:::{name}") for name in ("torch", "transformers", "huggingface_hub", "importlib")
]
SIZES = {"vocab_size": 71, "bos_token_id": None, "eos_token_id": None}
THEIRS = {
    "gpt2": lambda: transformers.GPT2Config(**SIZES, n_embd=32, n_layer=3, n_head=4, n_positions=48),
    "llama": lambda: transformers.LlamaConfig(
        **SIZES,
        hidden_size=40,
        intermediate_size=56,
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=1,
    ),
}


@pytest.mark.parametrize("kind", THEIRS)
def test_one_group_is_what_transformers_reads(kind, tmp_path):
    model = noisy(THEIRS[kind](), seed=5)
    model.save_pretrained(tmp_path / "theirs")
    config, params = load_pretrained(tmp_path / "theirs")
    decoder = Decoder(config)
    draw = np.random.default_rng(3)
    prefix, group, query = (draw.integers(71, size=size).astype(np.int32) for size in (3, 14, 6))
    whole = torch.from_numpy(np.concatenate([prefix, group, query]).astype(np.int64))[None]
    with torch.no_grad():
        expected = model(whole).logits.numpy()[:, -6:]
        text = model.generate(whole, max_new_tokens=8, do_sample=False, pad_token_id=0)[0, -8:].tolist()
    # Equal groups are one group, whatever their number.
    for count in (1, 3):
        attached = attach(decoder, build_context(decoder, params, groups(*[group.tolist()] * count, prefix=prefix)))
        found = np.asarray(read(decoder, params, attached, query[None]))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        written = generate(decoder, params, Rows(query[None], np.array([6])), 8, attached=attached)
        assert np.asarray(written)[0].tolist() == text
