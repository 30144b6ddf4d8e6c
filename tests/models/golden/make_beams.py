"""Makes beams.safetensors: what beam search, diverse beam search and no-repeat of transformers find.

    python tests/models/golden/make_beams.py

The model is tests/models/golden/llama, the cases are those of beams.json. transformers 5.24 (the extra `parity`) makes
those without groups, transformers==4.36.2 with numpy==1.26.4, which has groups in its own code, in an environment of
its own those with groups: run both. Tensors CASE.tokens [beams, steps], 0 behind a text's end, CASE.lengths and
CASE.scores [beams] for each case.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

FOLDER = Path(__file__).parent


def llama(folder: Path) -> transformers.LlamaForCausalLM:
    """The model in float32; 4.36 does not know how 5.24 writes rotary bases."""
    settings = json.loads((folder / "config.json").read_text())
    rope = settings.pop("rope_parameters", None) or {"rope_theta": settings.get("rope_theta", 10_000.0)}
    if transformers.__version__.startswith("4."):
        settings["rope_theta"] = rope["rope_theta"]
    else:
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
    tensors = {name: part for file in folder.glob("model*.safetensors") for name, part in load_file(file).items()}
    rest = model.load_state_dict(tensors, strict=False)
    assert not rest.unexpected_keys and rest.missing_keys == ["lm_head.weight"], rest  # which is tied
    return model


def main() -> None:
    """Writes the tensors of the cases that this version of transformers has, and keeps the others."""
    out, model = FOLDER / "beams.safetensors", llama(FOLDER / "llama")
    grouped = transformers.__version__.startswith("4.")
    cases = json.loads((FOLDER / "beams.json").read_text())
    found = {
        name: part for name, part in (load_file(out) if out.exists() else {}).items() if name.split(".")[0] in cases
    }
    for name, case in cases.items():
        options = dict(case)
        if ("num_beam_groups" in options) != grouped:
            continue
        prompt, ends = torch.tensor([options.pop("prompt")]), options.pop("ends")
        written = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            num_return_sequences=options["num_beams"],
            pad_token_id=0,
            eos_token_id=ends or None,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
        tokens = written.sequences[:, prompt.shape[1] :]
        tokens = torch.nn.functional.pad(tokens, (0, options["max_new_tokens"] - tokens.shape[1]))
        is_end = torch.isin(tokens, torch.tensor(ends)) if ends else torch.zeros_like(tokens, dtype=torch.bool)
        position = torch.arange(tokens.shape[1])
        lengths = torch.where(is_end, position + 1, tokens.shape[1]).min(1).values
        gaps = -written.sequences_scores.diff()
        same = (tokens[1:] == tokens[:-1]).all(1)
        assert ((gaps > 1e-5) | same).all(), f"{name}: two texts are nearly as good; take another prompt"
        found[f"{name}.tokens"] = torch.where(position < lengths[:, None], tokens, 0).to(torch.int32)
        found[f"{name}.lengths"], found[f"{name}.scores"] = lengths.to(torch.int32), written.sequences_scores
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)


if __name__ == "__main__":
    main()
