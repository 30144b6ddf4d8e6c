"""Decoders as Hugging Face folders (config.json and safetensors), in and out, and as GGUF files, in."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from pmpjax.models.config import DecoderConfig
from pmpjax.models.gguf import read_gguf
from pmpjax.models.huggingface import (
    EMBEDDING,
    OUTPUT,
    PREFIX,
    architecture,
    from_settings,
    tensors,
    to_settings,
)
from pmpjax.models.losses import Parameters
from pmpjax.models.packages import pretrained_path
from pmpjax.models.stacking import stack_layers, unstack_layers
from pmpjax.models.tensor_files import (
    FLOATS,
    WEIGHTS,
    check_tensors,
    opened_tensors,
    parameters_of,
    read_json,
    some,
    stored,
)


def save_pretrained(
    folder: Path | str,
    config: DecoderConfig,
    params: Parameters,
    *,
    end_of_document: int | None = None,
    tokenizer: Path | str | None = None,
    max_length: int | None = None,
) -> None:
    """Writes a decoder as a folder that transformers opens: `AutoModelForCausalLM.from_pretrained(folder)`.

    RMS norms, rotary positions and SwiGLU without biases are a Mistral where the config has a window, else a Llama;
    layer norms, learned positions and GELU with biases are a GPT-2. The folder is whole or not there: it is written
    under a temporary name beside it (.NAME.PID.tmp, of no use where a killed process left it), and renamed.

    Args:
        folder: must not exist, or be empty; its parents are made.
        params: of unrolled or of scanned layers, of any float type; written as float32.
        end_of_document: id of the token that ends a document; begins and ends a text in transformers.
        tokenizer: a tokenizer.json to put beside the model, for `AutoTokenizer.from_pretrained(folder)`.
        max_length: longest row that the model was made for; ignored where positions are learned. By default that
            of the config, or 2,048 where it has none.

    Raises:
        ValueError: no Hugging Face format holds such a decoder; the parameters are not those of the config; the
            tokenizer has ids that the model has not.
        FileExistsError: the folder has something in it already.

    >>> import jax, jax.numpy as jnp, tempfile
    >>> from pmpjax.models import Decoder, initialise
    >>> config = DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16)
    >>> params = initialise(Decoder(config), jax.random.key(0), jnp.zeros((1, 4), int))
    >>> folder = Path(tempfile.mkdtemp()) / "model"
    >>> save_pretrained(folder, config, params, end_of_document=0)
    >>> sorted(path.name for path in folder.iterdir())
    ['config.json', 'generation_config.json', 'model.safetensors']
    >>> found, same = load_pretrained(folder)
    >>> found == config, bool(jnp.all(same["trunk"]["embedding"] == params["trunk"]["embedding"]))
    (True, True)
    """
    folder = Path(folder).resolve()
    kind = architecture(config)
    if end_of_document is not None and not 0 <= end_of_document < config.vocabulary:
        raise ValueError(
            f"end_of_document is {end_of_document}; the model's ids are 0 to {config.vocabulary - 1}: name one of them"
        )
    _refuse_taken(folder)
    settings = to_settings(config, kind, end_of_document, max_length)
    ends = {"bos_token_id": end_of_document, "eos_token_id": end_of_document}
    texts = {"config.json": settings, "generation_config.json": {"_from_model_config": True, **ends}}
    if tokenizer is not None:
        longest = settings["n_positions" if kind == "gpt2" else "max_position_embeddings"]
        texts["tokenizer_config.json"] = _tokenizer_settings(Path(tokenizer), config, end_of_document, longest)
    arrays = _to_file(config, kind, params)
    with _temporary(folder) as temporary:
        for name, content in texts.items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, temporary / "tokenizer.json")


def load_pretrained(source: Path | str, *, scan_layers: bool = False) -> tuple[DecoderConfig, Parameters]:
    """The decoder of an installed model, a GGUF file, or a Hugging Face folder of Mistral, Llama or GPT-2.

    Weights become float32. What the files do not say (how to compute: blocks, chunks, recomputation) is the config's
    default; change it by `dataclasses.replace`.

    Args:
        source: "smollm2", whose package is found and never imported; a file *.gguf of the architecture llama; a folder
            with config.json, and model.safetensors or model.safetensors.index.json and its files.
        scan_layers: parameters of scanned layers, and `scan_layers` set in the config.

    Returns:
        (config, params).

    Raises:
        ValueError: an architecture or option that this decoder has not; tensors missing, of another shape or type, or
            too many; a damaged file. It names the file, the key or tensor, what was expected, and a hint.
        FileNotFoundError: a file that is not there; a model package that is not installed, with what installs it.
    """
    path = pretrained_path(source)
    config, params = _from_gguf(path) if path.suffix == ".gguf" else _from_folder(path)
    if not scan_layers:
        return config, params
    return dataclasses.replace(config, scan_layers=True), stack_layers(params)


def _from_gguf(path: Path) -> tuple[DecoderConfig, Parameters]:
    model = read_gguf(path)
    kind, config = from_settings(model.settings, str(path))
    wanted = {tensor.name: tensor for tensor in tensors(config, kind)}
    check_tensors(path, model.tensors, wanted)
    return config, parameters_of(wanted, model.tensors)


def _from_folder(folder: Path) -> tuple[DecoderConfig, Parameters]:
    kind, config = from_settings(read_json(folder / "config.json"), str(folder / "config.json"))
    with opened_tensors(folder) as files:
        held = {name: stored(file, name) for name, file in files.items()}
        prefix = PREFIX[kind]
        bare = prefix + EMBEDDING[kind] not in held and EMBEDDING[kind] in held
        wanted = {t.name.removeprefix(prefix) if bare else t.name: t for t in tensors(config, kind)}
        copy = OUTPUT if config.tied_embeddings and OUTPUT in held else None
        check_tensors(folder, held, wanted, FLOATS, unused=(copy,) if copy else ())
        embedding = next(iter(wanted))
        if copy and not np.array_equal(held[copy].read(), held[embedding].read()):
            raise ValueError(
                f"{folder}: tie_word_embeddings is true, and {copy} is another matrix than {embedding}; set it to "
                "false in config.json, or remove the tensor that does not count"
            )
        return config, parameters_of(wanted, held)


def _to_file(config: DecoderConfig, kind: str, params: Parameters) -> dict[str, np.ndarray]:
    """The parameters by their names in the file; ValueError where they are not those of the config."""
    flat = flatten_dict(unstack_layers(params) if "layers" in params["trunk"] else params)
    wanted = tensors(config, kind)
    known = {leaf for tensor in wanted for leaf in tensor.leaves}
    if flat.keys() != known:
        missing, extra = (
            some(["/".join(leaf) for leaf in part]) for part in (known - flat.keys(), flat.keys() - known)
        )
        raise ValueError(
            f"the parameters are not those of the config: missing {missing}; unknown {extra}. Give the config that "
            "they were made with"
        )
    arrays = {}
    for tensor in wanted:
        parts = [np.asarray(flat[leaf], np.float32) for leaf in tensor.leaves]
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        array = np.ascontiguousarray(joined.T if tensor.transposed else joined)
        if array.shape != tensor.shape:
            leaves = " and ".join("/".join(leaf) for leaf in tensor.leaves)
            raise ValueError(
                f"{leaves} makes {tensor.name} of shape {list(array.shape)}; the config expects {list(tensor.shape)}: "
                "give the config that the parameters were made with"
            )
        arrays[tensor.name] = array
    return arrays


def _tokenizer_settings(path: Path, config: DecoderConfig, end: int | None, longest: int) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; name a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception
        raise ValueError(f"{path} is not a tokenizer.json ({error}); name one") from error
    last = max(tokenizer.get_vocab().values(), default=-1)
    if last >= config.vocabulary:
        raise ValueError(
            f"{path} has ids up to {last}, the model up to {config.vocabulary - 1}; give the tokenizer that it was "
            "trained with"
        )
    token = None if end is None else tokenizer.id_to_token(end)
    if end is not None and token is None:
        raise ValueError(f"{path} has no token of id {end}, the end_of_document; give the id of one that it has")
    ends = {} if token is None else {"bos_token": token, "eos_token": token}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **ends,
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
        # As in training: the name of the end-of-document token inside a text is text.
        "split_special_tokens": True,
    }


def _refuse_taken(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; name another folder, or remove it")


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that becomes it, on the disk, when the block ends well, and is removed otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            _flush(path)
        _refuse_taken(folder)
        os.replace(temporary, folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    windows = os.name == "nt"  # it has no such call for folders, and wants a file opened for writing
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
