"""Text from a trained model: `pmpjax generate`, and the sample at the end of a training run."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer, processors

from pmpjax.data import Rows
from pmpjax.models import Decoder, generate, load_pretrained
from pmpjax.models.tensor_files import read_json
from pmpjax.runs import RunError

_FILES = ("config.json", "tokenizer.json")  # and the parameters, in one file or several


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """What to write, and how tokens are drawn.

    Attributes:
        checkpoint: run directory of `pmpjax train`, or a Hugging Face folder that has a tokenizer.json.
        prompt: the text to go on from. What the folder's tokenizer puts before a text, such as a beginning-of-text
            token, comes before it; a special token's name inside it is text.
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
        FileNotFoundError, ValueError: its files are not those of one model; names the tensor or the file.
        ValueError: the prompt has no token, or prompt and text are longer than the model's positions.
    """
    folder = exported(config.checkpoint)
    decoder_config, params = load_pretrained(folder)
    return write_on(Decoder(decoder_config), params, folder_tokenizer(folder), config)


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


def folder_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, which begins a text as the folder's model expects it.

    What tokenizer.json puts before a text stays. Where tokenizer_config.json sets `add_bos_token`, its `bos_token` (or
    that of special_tokens_map.json) comes first, and nothing else is added, as transformers does for Llama. A prompt is
    encoded whole: truncation and padding that the file asks for are switched off.

    Raises:
        ValueError: a file is no JSON object or no tokenizer; a bos_token is asked for and not named, or has no id.
    """
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ValueError(f"{path} is not a tokenizer.json ({error}); copy the file again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if not settings.get("add_bos_token"):
        return tokenizer
    names = folder / "special_tokens_map.json"
    token = settings.get("bos_token") or (read_json(names) if names.is_file() else {}).get("bos_token")
    content = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(content) if isinstance(content, str) else None
    if found is None:
        raise ValueError(
            f"{path}: add_bos_token is true and bos_token is {content!r}, expected a token of tokenizer.json; name it "
            "there, or set add_bos_token to false"
        )
    first = {"id": "first", "ids": [found], "tokens": [content]}
    tokenizer.post_processor = processors.TemplateProcessing(single="first $A", special_tokens=[first])  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


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
    if max(ids) >= decoder.config.vocabulary:
        raise ValueError(
            f"the tokenizer gives the prompt the id {max(ids)}, the model's go up to {decoder.config.vocabulary - 1}; "
            "give the tokenizer.json that it was trained with"
        )
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
    return tokenizer.decode([*ids[begin:], *(written[: ends[0]] if ends else written)])
