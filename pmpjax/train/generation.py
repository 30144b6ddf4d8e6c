"""Text from a trained model: `pmpjax generate`, and the sample at the end of a training run."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from pmpjax.models import Decoder, Rows, generate, load_pretrained
from pmpjax.runs import RunError

_FILES = ("config.json", "tokenizer.json")  # and the parameters, in one file or several


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """What to write, and how tokens are drawn.

    Attributes:
        checkpoint: run directory of `pmpjax train`, or a Hugging Face folder that has a tokenizer.json.
        prompt: the text to go on from.
        tokens: to write at most; the end of a document ends the text.
        temperature: 0 takes the most probable token each time; 1 draws as the model says.
        top_k: only the k most probable tokens count; 0 takes all.
        top_p: only the most probable tokens that together have this probability count.
        seed: of the draws.
    """

    checkpoint: Path
    prompt: str
    tokens: int = 64
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if self.tokens < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.seed < 0:
            raise ValueError(
                "tokens must be positive, temperature, top_k and seed not negative, and top_p in (0, 1]: found tokens "
                f"{self.tokens}, temperature {self.temperature}, top_k {self.top_k}, seed {self.seed}, "
                f"top_p {self.top_p}"
            )


def run_generate(config: GenerateConfig) -> str:
    """The prompt and what the model writes after it.

    Raises:
        RunError: the folder holds no exported model; says which file is missing.
        FileNotFoundError, ValueError: its files are not those of one model; names the tensor.
        ValueError: the prompt has no token, or prompt and text are longer than the model's positions.
    """
    folder = exported(config.checkpoint)
    decoder_config, params = load_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return write_on(Decoder(decoder_config), params, tokenizer, config)


def exported(folder: Path) -> Path:
    """The folder of the exported model: this one, or `export` in a finished run directory."""
    folder = Path(folder)
    for candidate in (folder / "export", folder):
        if all((candidate / name).is_file() for name in _FILES):
            return candidate
    if (folder / "train.partial").exists():
        raise RunError(f"the run in {folder} is not finished; the same `pmpjax train` command goes on with it")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    raise RunError(
        f"{folder} holds no model: {', '.join(missing)} not found; give a run directory of `pmpjax train` or an "
        "exported folder"
    )


def write_on(decoder: Decoder, params: Any, tokenizer: Tokenizer, config: GenerateConfig) -> str:
    """The prompt and up to `config.tokens` further tokens, cut at the end of the document."""
    tokenizer.encode_special_tokens = True  # a special token's text in the prompt is text
    ids = tokenizer.encode(config.prompt, add_special_tokens=False).ids
    if not ids:
        raise ValueError("the prompt has no token; give at least one character")
    prompts = Rows(np.asarray([ids], np.int32), np.asarray([len(ids)], np.int32))
    drawn = generate(
        decoder,
        params,
        prompts,
        config.tokens,
        key=jax.random.key(config.seed),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    written = np.asarray(drawn[0]).tolist()
    special = {token for token, content in tokenizer.get_added_tokens_decoder().items() if content.special}
    ends = [place for place, token in enumerate(written) if token in special]
    # Decoded together: some tokenizers drop the space before the first token of what they decode.
    return tokenizer.decode([*ids, *(written[: ends[0]] if ends else written)])
