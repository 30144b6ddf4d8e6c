"""Makes golden/kosmos2: a tiny random Kosmos-2 by transformers, and what it computes.

With the extra `parity` installed: python -m tests.models.golden.make_kosmos. Every parameter is noise. The folder holds
the model as transformers saves it, and expected.safetensors: tokens, lengths, places and predicted of three rows of
unequal length with 2, 1 and no image; their images [N, K, y, x, c] (rows with fewer are filled up with zeros);
vision.states and vision.normalised of each image, connector; block.I and logits of the rows, zeros behind a row's
length; loss over predicted text, gradient.NAME of it; for each row its greedy continuation generated.I.
"""

import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from tests.models.golden.make import fill

FOLDER = Path(__file__).parent / "kosmos2"
STEPS = 16
COUNTS = (2, 1, 0)
LENGTHS = (19, 13, 9)

TINY = {
    "text_config": {
        "vocab_size": 61,
        "embed_dim": 24,
        "layers": 2,
        "attention_heads": 4,
        "ffn_dim": 37,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-3,
    },
    "vision_config": {
        "image_size": 12,
        "patch_size": 4,
        "hidden_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 29,
        "layer_norm_eps": 1e-4,
    },
    "latent_query_num": 3,
}


def noisy_kosmos(seed: int, settings: dict = TINY) -> transformers.PreTrainedModel:
    """The model in float32, each parameter N(0, s^2) with an s of its own between 0.1 and 0.5; norms around 1."""
    config = transformers.Kosmos2Config(**settings)
    model = transformers.Kosmos2ForConditionalGeneration(config).to(torch.float32).eval()
    return fill(model, seed)


def rows_of(model: transformers.PreTrainedModel, seed: int, counts=COUNTS, lengths=LENGTHS) -> dict:
    """Rows: a token, an image's places, a token, ..., text; the last rows are padded with the padding id."""
    config, latents = model.config, model.config.latent_query_num
    vision, generator = config.vision_config, torch.Generator().manual_seed(seed)
    length, padding = max(lengths), config.text_config.pad_token_id
    tokens = torch.randint(4, config.text_config.vocab_size, (len(counts), length), generator=generator)
    places = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (count, own) in enumerate(zip(counts, lengths, strict=True)):
        tokens[row, own:] = padding
        for image in range(count):
            first = 1 + image * (latents + 2)
            places[row, first : first + latents] = True
    shape = (len(counts), max(counts), vision.image_size, vision.image_size, vision.num_channels)
    images = torch.randn(shape, generator=generator)
    for row, count in enumerate(counts):
        images[row, count:] = 0
    predicted = torch.rand(tokens.shape, generator=generator) < 0.7
    predicted &= ~places & (torch.arange(length)[None, :] < torch.tensor(lengths)[:, None])
    found = {"tokens": tokens, "places": places, "images": images, "predicted": predicted}
    return {**found, "lengths": torch.tensor(lengths), "counts": torch.tensor(counts)}


def computed_kosmos(model: transformers.PreTrainedModel, rows: dict, steps: int = STEPS) -> dict:
    """The tensors of expected.safetensors."""
    found = {name: tensor for name, tensor in rows.items()}
    layers = model.text_model.model.layers

    def keep(index):
        def hook(module, inputs, output):
            found[f"block.{index}"] = output[0] if isinstance(output, tuple) else output

        return hook

    flat = torch.cat([rows["images"][row, :count] for row, count in enumerate(rows["counts"].tolist())])
    flat = flat.permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        features = model.get_image_features(flat)
        found["vision.states"] = features.last_hidden_state
        normed = model.vision_model.model.post_layernorm(features.last_hidden_state)
        found["vision.normalised"] = torch.nn.functional.normalize(normed, dim=-1)
        found["connector"] = features.pooler_output
    mask = torch.arange(rows["tokens"].shape[1])[None, :] < rows["lengths"][:, None]
    hooks = [layer.register_forward_hook(keep(index)) for index, layer in enumerate(layers)]
    labels = torch.where(rows["predicted"], rows["tokens"], -100)
    model.zero_grad()
    out = model(
        pixel_values=flat,
        input_ids=rows["tokens"],
        image_embeds_position_mask=rows["places"],
        attention_mask=mask.long(),
        labels=labels,
        use_cache=False,
    )
    for hook in hooks:
        hook.remove()
    for name in ("block.0", "block.1"):
        found[name] = found[name] * mask[:, :, None]
    found |= {"logits": out.logits * mask[:, :, None], "loss": out.loss}
    out.loss.backward()
    found |= {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}
    begin = 0
    for row, (count, length) in enumerate(zip(rows["counts"].tolist(), rows["lengths"].tolist(), strict=True)):
        found[f"generated.{row}"] = continued(
            model, rows["tokens"][row : row + 1, :length], flat[begin : begin + count], rows["places"], row, steps
        )
        begin += count
    return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}


def continued(model, prompt, images, places, row, steps) -> torch.Tensor:
    """The greedy continuation of one row with transformers' cache; a row without image goes through the text model."""
    options = {"use_cache": True, "max_new_tokens": steps, "do_sample": False, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True, "attention_mask": torch.ones_like(prompt)}
    if len(images):
        length = prompt.shape[1]
        whole = model.generate(
            pixel_values=images,
            input_ids=prompt,
            image_embeds_position_mask=places[row : row + 1, :length],
            image_embeds=None,
            **options,
        )
    else:
        whole = model.text_model.generate(prompt, **options)
    best = torch.stack(whole.logits)[:, 0].topk(2).values
    # A tie would be broken by rounding.
    assert (best[:, 0] - best[:, 1]).min() > 1e-4, "two tokens are nearly as probable: take another seed"
    return whole.sequences[0, -steps:]


def main() -> None:
    """Writes the folder anew."""
    model = noisy_kosmos(seed=7)
    found = computed_kosmos(model, rows_of(model, seed=2))
    assert len(found["generated.2"].unique()) > 3, "a dull model"
    shutil.rmtree(FOLDER, ignore_errors=True)
    model.save_pretrained(FOLDER)
    (FOLDER / "generation_config.json").unlink(missing_ok=True)
    save_file(found, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
