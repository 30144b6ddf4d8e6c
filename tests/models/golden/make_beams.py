"""Makes beams.safetensors: what beam search, diverse beam search and no-repeat of transformers find.

    python tests/models/golden/make_beams.py MODEL OUT.safetensors

MODEL is a folder that tests/models/search/oracle.py writes with our `save_pretrained`. With transformers 5.24 the
cases without groups are made; with transformers 4.36, the last that has groups in its own code, the ones with groups.
Tensors CASE.tokens [beams, steps], 0 behind a text's end, CASE.lengths and CASE.scores [beams] for each case.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


def llama(folder: Path) -> transformers.LlamaForCausalLM:
    """The model in float32; 4.36 does not know how 5.24 writes rotary bases."""
    settings = json.loads((folder / "config.json").read_text())
    rope = settings.pop("rope_parameters", None) or {"rope_theta": settings.get("rope_theta", 10_000.0)}
    if transformers.__version__.startswith("4."):
        settings["rope_theta"] = rope["rope_theta"]
    else:
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": rope["rope_theta"]}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
    missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert not missing.unexpected_keys and not [n for n in missing.missing_keys if "inv_freq" not in n], missing
    return model


def main(folder: Path, out: Path) -> None:
    """Writes the tensors of the cases that this version of transformers has."""
    model, found = llama(folder), {}
    grouped = transformers.__version__.startswith("4.")
    cases = json.loads((Path(__file__).parent / "beams.json").read_text())
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
        assert (gaps > 1e-5).all(), f"{name}: two texts are nearly as good; take another prompt"
        found[f"{name}.tokens"] = torch.where(position < lengths[:, None], tokens, 0).to(torch.int32)
        found[f"{name}.lengths"], found[f"{name}.scores"] = lengths.to(torch.int32), written.sequences_scores
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
