"""Text from a trained model: `pmpjax generate`, and the sample at the end of a training run."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from pmpjax.data import Rows
from pmpjax.models import Decoder, load_decoder
from pmpjax.models.packages import pretrained_path
from pmpjax.models.pretrained_tokenizers import chat_ids, pretrained_tokenizer
from pmpjax.models.search import Beams, Ending, Sampling, beam_search, no_repeat, sample
from pmpjax.runs import RunError

_FILES = ("config.json", "tokenizer.json")  # and the parameters, in one file or several


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """What to write, and how tokens are drawn.

    Attributes:
        checkpoint: run directory of `pmpjax train`, a Hugging Face folder that has a tokenizer.json, a .gguf file, or
            the name of an installed model: smollm2.
        prompt: the text to go on from. What the folder's tokenizer puts before a text, such as a beginning-of-text
            token, comes before it; a special token's name inside it is text.
        chat: the prompt is a user's message, and the model answers by its own chat template.
        tokens: to write at most; the end of a document ends the text.
        temperature: 0 takes the most probable token each time; 1 draws as the model says.
        top_k: only the k most probable tokens count; 0 takes all.
        top_p: only the most probable tokens that together have this probability count.
        seed: of the draws.
        beams: above 1, the best text that a search with so many beams finds, in place of one that is drawn;
            temperature, top_k, top_p and seed are then not used.
        no_repeat: no so many tokens in a row come twice, the prompt's among them; 0: they may.
        length_penalty: of beams: a text's log-probability is divided by length to this power; above 0 favours long
            texts, below 0 short ones.
    """

    checkpoint: Path
    prompt: str
    chat: bool = False
    tokens: int = 64
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0
    beams: int = 1
    no_repeat: int = 0
    length_penalty: float = 1.0

    def __post_init__(self):
        if self.beams < 1 or self.no_repeat < 0 or not math.isfinite(self.length_penalty):
            raise ValueError(
                "beams must be positive, no_repeat not negative and length_penalty finite: found beams "
                f"{self.beams}, no_repeat {self.no_repeat}, length_penalty {self.length_penalty}"
            )
        if self.tokens < 1 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.seed < 0:
            raise ValueError(
                "tokens must be positive, temperature, top_k and seed not negative, and top_p in (0, 1]: found tokens "
                f"{self.tokens}, temperature {self.temperature}, top_k {self.top_k}, seed {self.seed}, "
                f"top_p {self.top_p}"
            )


def run_generate(config: GenerateConfig) -> str:
    """The prompt and what the model writes after it; of a chat, the answer alone.

    Raises:
        RunError: the folder holds no exported model; says which file is missing.
        FileNotFoundError, ValueError: its files are not those of one model; names the tensor or the file.
        ValueError: the prompt has no token, or prompt and text are longer than the model's positions.
    """
    source = exported(config.checkpoint)
    decoder_config, params = load_decoder(source)
    tokenizer = pretrained_tokenizer(source)
    decoder = Decoder(decoder_config)
    if not config.chat:
        return write_on(decoder, params, tokenizer, config)
    ids = chat_ids(source, tokenizer, [{"role": "user", "content": config.prompt}])
    return tokenizer.decode(_written(decoder, params, tokenizer, ids, config)).strip()


def exported(folder: Path) -> Path:
    """The model's file or folder: an installed one, this one, or `export` in a finished run directory."""
    folder = pretrained_path(folder)
    if folder.suffix == ".gguf":
        return folder
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
    """The prompt and up to `config.tokens` further tokens, cut at the end of the document.

    The model also reads what the tokenizer puts before a text; what it puts behind one would end it, and is left out.
    """
    tokenizer.encode_special_tokens = True  # a special token's text in the prompt is text
    encoding = tokenizer.encode(config.prompt)
    of_text = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence is not None]
    if not of_text:
        raise ValueError("the prompt has no token; give at least one character")
    begin, ids = of_text[0], encoding.ids[: of_text[-1] + 1]
    # Decoded together: some tokenizers drop the space before the first token of what they decode.
    return tokenizer.decode([*ids[begin:], *_written(decoder, params, tokenizer, ids, config)])


def _written(decoder: Decoder, params: Any, tokenizer: Tokenizer, ids: list[int], config: GenerateConfig) -> list[int]:
    """What comes after these ids, up to the first special token."""
    if max(ids) >= decoder.config.vocabulary:
        raise ValueError(
            f"the tokenizer gives the prompt the id {max(ids)}, the model's go up to {decoder.config.vocabulary - 1}; "
            "give the tokenizer.json that it was trained with"
        )
    prompts = Rows(np.asarray([ids], np.int32), np.asarray([len(ids)], np.int32))
    special = {token for token, content in tokenizer.get_added_tokens_decoder().items() if content.special}
    ends = tuple(sorted(token for token in special if token < decoder.config.vocabulary))
    mask = no_repeat(config.no_repeat, decoder.config.vocabulary) if config.no_repeat else None
    if config.beams > 1:
        beams = Beams(config.beams, length_penalty=config.length_penalty)
        found = beam_search(decoder, params, prompts, config.tokens, beams, ends=ends, mask=mask)
        written = jax.tree.map(lambda part: part[0, 0], found)  # the best one
    else:
        sampling = Sampling(config.temperature, config.top_k, config.top_p)
        key = jax.random.key(config.seed)
        drawn = sample(decoder, params, prompts, config.tokens, sampling, key=key, ends=ends, mask=mask)
        written = jax.tree.map(lambda part: part[0], drawn)
    if int(written.status) == Ending.NOT_FINITE:
        raise ValueError(
            f"the model's logits are not finite after {int(written.lengths)} tokens; its parameters may hold NaN"
        )
    tokens = np.asarray(written.tokens)[: int(written.lengths)].tolist()
    return tokens[:-1] if int(written.status) == Ending.ENDED else tokens
