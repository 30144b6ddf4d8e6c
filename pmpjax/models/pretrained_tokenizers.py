"""The tokenizer of a pretrained model, and its chat template."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer, processors

from pmpjax.models.gguf import gguf_tokenizer, read_gguf
from pmpjax.models.packages import pretrained_path
from pmpjax.models.tensor_files import read_json


def pretrained_tokenizer(source: Path | str) -> Tokenizer:
    """The tokenizer of what `load_pretrained` reads, which begins a text as the model expects it.

    Of a Hugging Face folder: what tokenizer.json puts before a text stays. Where tokenizer_config.json sets
    `add_bos_token`, its `bos_token` (or that of special_tokens_map.json) comes first, and nothing else is added, as
    transformers does for Llama. A text is encoded whole: truncation and padding that the file asks for are off.

    Raises:
        ValueError: a file is no JSON object or no tokenizer; a bos_token is asked for and not named, or has no id; a
            GGUF file has another kind of tokenizer.
        FileNotFoundError: a file, or a model package, is not there.
    """
    path = pretrained_path(source)
    return gguf_tokenizer(path, read_gguf(path)) if path.suffix == ".gguf" else _folder_tokenizer(path)


def chat_ids(source: Path | str, tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The ids of a conversation by the model's own chat template, up to where its answer begins.

    Args:
        source: of the model, as for `load_pretrained`.
        tokenizer: the model's.
        messages: each with "role" ("system", "user" or "assistant") and "content".

    Raises ValueError: the model has no chat template; a content holds the name of a special token, which would end its
    message.
    """
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    for number, message in enumerate(messages):
        wrong = [name for name in special if name in message["content"]]
        if wrong:
            raise ValueError(
                f"message {number} holds {wrong[0]!r}, a special token of the model that would end or begin a message; "
                "take it out"
            )
    names = {"bos_token": "", "eos_token": ""}
    try:
        template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(_template(source))
        text = template.render(messages=messages, add_generation_prompt=True, **names)
    except TemplateError as error:
        raise ValueError(f"the chat template of {source} does not work on these messages: {error}") from error
    return tokenizer.encode(text, add_special_tokens=False).ids


def _template(source: Path | str) -> str:
    path = pretrained_path(source)
    key = "tokenizer.chat_template"
    if path.suffix == ".gguf":
        field = read_gguf(path).fields.get(key)
        found = None if field is None else field.contents()
    else:
        key, file = "chat_template", path / "tokenizer_config.json"
        found = read_json(file).get(key) if file.is_file() else None
        own = path / "chat_template.jinja"
        found = own.read_text(encoding="utf-8") if own.is_file() else found
    if not isinstance(found, str):
        raise ValueError(f"{path} has no {key}: the model was not tuned for conversations; give it a plain prompt")
    return found


def _folder_tokenizer(folder: Path) -> Tokenizer:
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
