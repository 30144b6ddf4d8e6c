"""Makes the golden files: tiny random models of Mistral, Llama and GPT-2 by transformers, and what they compute.

With the extra `parity` installed: python tests/models/golden/make.py. Every parameter is noise, norms and biases too,
so that none could be left out unseen. Each folder holds the model as transformers saves it, and expected.safetensors:
tokens [N, L], logits [N, L, V], block.I [N, L, D], gradient.NAME of the mean loss over all labels, and for each prompt
(the first tokens of a row) the greedy continuation generated.I.
"""

import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
PROMPTS = (7, 4, 1)
STEPS = 24
LENGTH = 12

CONFIGS = {
    # Grouped heads of another size than width / heads, a window that rows and continuations leave.
    "mistral": transformers.MistralConfig(
        vocab_size=53,
        hidden_size=20,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        sliding_window=5,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=47,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=64,
        rms_norm_eps=1e-4,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "gpt2": transformers.GPT2Config(
        vocab_size=43,
        n_embd=18,
        n_inner=40,
        n_layer=2,
        n_head=3,
        n_positions=40,
        layer_norm_epsilon=1e-3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    ),
}


def noisy(config: transformers.PreTrainedConfig, seed: int) -> transformers.PreTrainedModel:
    """The model in float32, each parameter N(0, s^2) with an s of its own between 0.1 and 0.5; norms around 1."""
    return fill(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), seed)


def fill(model: transformers.PreTrainedModel, seed: int) -> transformers.PreTrainedModel:
    """The model with noise in every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 + 0.4 * torch.rand((), generator=generator)
            centre = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))
    return model


def computed(model: transformers.PreTrainedModel, tokens: torch.Tensor, prompts=PROMPTS, steps=STEPS) -> dict:
    """The tensors of expected.safetensors."""
    found = {"tokens": tokens}
    trunk = model.base_model
    layers = trunk.h if hasattr(trunk, "h") else trunk.layers

    def keep(index):
        def hook(module, inputs, output):
            found[f"block.{index}"] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [layer.register_forward_hook(keep(index)) for index, layer in enumerate(layers)]
    logits = model(input_ids=tokens, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    found["logits"] = logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    model.zero_grad()
    loss.backward()
    found |= {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    for index, length in enumerate(prompts):
        prompt = tokens[index : index + 1, :length]
        whole = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=steps,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.stack(whole.logits)[:, 0].topk(2).values
        # A tie would be broken by rounding.
        assert (best[:, 0] - best[:, 1]).min() > 1e-4, "two tokens are nearly as probable: take another seed"
        found[f"generated.{index}"] = whole.sequences[0, length:]
    return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}


def main() -> None:
    """Writes the folders anew."""
    for kind, config in CONFIGS.items():
        model = noisy(config, seed=11)
        tokens = torch.randint(config.vocab_size, (3, LENGTH), generator=torch.Generator().manual_seed(2))
        found = computed(model, tokens)
        assert all(len(found[f"generated.{index}"].unique()) > 3 for index in range(len(PROMPTS))), "a dull model"
        folder = FOLDER / kind
        shutil.rmtree(folder, ignore_errors=True)
        # One kind in several files.
        model.save_pretrained(folder, max_shard_size="20KB" if kind == "llama" else "1GB")
        (folder / "generation_config.json").unlink()
        save_file(found, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
