"""Decoders and Kosmos-2 as Hugging Face folders (config.json, safetensors), in and out; decoders as GGUF files, in."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
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
from pmpjax.models.kosmos import KosmosConfig
from pmpjax.models.kosmos_files import (
    KOSMOS,
    KOSMOS_EMBEDDING,
    KOSMOS_OUTPUT,
    UNUSED,
    kosmos_config,
    kosmos_settings,
    kosmos_tensors,
)
from pmpjax.models.losses import Parameters
from pmpjax.models.new_folders import new_folder, refuse_taken
from pmpjax.models.packages import pretrained_path
from pmpjax.models.stacking import stack_layers, unstack_layers
from pmpjax.models.tensor_files import (
    FLOATS,
    WEIGHTS,
    Stored,
    arrays_of,
    check_tensors,
    opened_tensors,
    parameters_of,
    read_json,
    stored,
)


def load_decoder(source: Path | str, *, scan_layers: bool = False) -> tuple[DecoderConfig, Parameters]:
    """`load_pretrained` of a model of text alone.

    Raises ValueError for a Kosmos-2, whose decoder alone would be another model; else as `load_pretrained`.
    """
    config, params = load_pretrained(source, scan_layers=scan_layers)
    if not isinstance(config, DecoderConfig):
        raise ValueError(f"{source} holds a Kosmos-2, which reads images as well; name a model of text alone")
    return config, params


def save_pretrained(
    folder: Path | str,
    config: DecoderConfig | KosmosConfig,
    params: Parameters,
    *,
    end_of_document: int | None = None,
    tokenizer: Path | str | None = None,
    max_length: int | None = None,
) -> None:
    """Writes a model as a folder that transformers opens: `AutoModelForCausalLM.from_pretrained(folder)`.

    A `KosmosConfig` is a Kosmos-2, which `AutoModelForImageTextToText` opens. Of decoders, RMS norms, rotary positions
    and SwiGLU without biases are a Mistral where the config has a window, else a Llama; layer norms, learned positions
    and GELU with biases are a GPT-2. The folder is whole or not there: it is written under a temporary name in the same
    place (.NAME.PID.tmp, of no use where a killed process left it), and renamed.

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
    decoder = config.decoder if isinstance(config, KosmosConfig) else config
    if end_of_document is not None and not 0 <= end_of_document < decoder.vocabulary:
        raise ValueError(
            f"end_of_document is {end_of_document}; the model's ids are 0 to {decoder.vocabulary - 1}: name one of them"
        )
    refuse_taken(folder)
    if isinstance(config, KosmosConfig):
        settings, wanted = kosmos_settings(config, end_of_document, max_length), kosmos_tensors(config)
        longest = settings["text_config"]["max_position_embeddings"]
    else:
        kind = architecture(config)
        settings, wanted = to_settings(config, kind, end_of_document, max_length), tensors(config, kind)
        longest = settings["n_positions" if kind == "gpt2" else "max_position_embeddings"]
    ends = {"bos_token_id": end_of_document, "eos_token_id": end_of_document}
    texts = {"config.json": settings, "generation_config.json": {"_from_model_config": True, **ends}}
    if tokenizer is not None:
        texts["tokenizer_config.json"] = _tokenizer_settings(Path(tokenizer), decoder, end_of_document, longest)
    arrays = arrays_of(wanted, _each_decoder(params, _unrolled))
    with new_folder(folder) as temporary:
        for name, content in texts.items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        save_file(arrays, temporary / WEIGHTS, metadata={"format": "pt"})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, temporary / "tokenizer.json")


def load_pretrained(source: Path | str, *, scan_layers: bool = False) -> tuple[Any, Parameters]:
    """The decoder of an installed model, a GGUF file, or a Hugging Face folder of Mistral, Llama or GPT-2; a Kosmos-2.

    Weights become float32. What the files do not say (how to compute: blocks, chunks, recomputation) is the config's
    default; change it by `dataclasses.replace`.

    Args:
        source: "smollm2", whose package is found and never imported; a file *.gguf of the architecture llama; a folder
            with config.json, and model.safetensors or model.safetensors.index.json and its files.
        scan_layers: parameters of scanned layers, and `scan_layers` set in the config (of Kosmos: of its decoder).

    Returns:
        (config, params), with a `DecoderConfig`, and for a folder of Kosmos-2 a `KosmosConfig`.

    Raises:
        ValueError: an architecture or option that this decoder has not; tensors missing, of another shape or type, or
            too many; a damaged file. It names the file, the key or tensor, what was expected, and a hint.
        FileNotFoundError: a file that is not there; a model package that is not installed, with what installs it.
    """
    path = pretrained_path(source)
    config, params = _from_gguf(path) if path.suffix == ".gguf" else _from_folder(path)
    if not scan_layers:
        return config, params
    if isinstance(config, KosmosConfig):
        config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, scan_layers=True))
    else:
        config = dataclasses.replace(config, scan_layers=True)
    return config, _each_decoder(params, stack_layers)


def _each_decoder(params: Parameters, change: Callable[[Parameters], Parameters]) -> Parameters:
    """The parameters with those of the decoder changed: all of them, or the part of a Kosmos."""
    return change(params) if "trunk" in params else {**params, "decoder": change(params["decoder"])}


def _unrolled(params: Parameters) -> Parameters:
    return unstack_layers(params) if "layers" in params["trunk"] else params


def _from_gguf(path: Path) -> tuple[DecoderConfig, Parameters]:
    model = read_gguf(path)
    kind, config = from_settings(model.settings, str(path))
    wanted = {tensor.name: tensor for tensor in tensors(config, kind)}
    check_tensors(path, model.tensors, wanted)
    return config, parameters_of(wanted, model.tensors)


def _from_folder(folder: Path) -> tuple[DecoderConfig | KosmosConfig, Parameters]:
    settings, where = read_json(folder / "config.json"), str(folder / "config.json")
    if settings.get("model_type") == KOSMOS:
        return _kosmos(folder, kosmos_config(settings, where))
    kind, config = from_settings(settings, where)
    with opened_tensors(folder) as files:
        held = {name: stored(file, name) for name, file in files.items()}
        prefix = PREFIX[kind]
        bare = prefix + EMBEDDING[kind] not in held and EMBEDDING[kind] in held
        wanted = {t.name.removeprefix(prefix) if bare else t.name: t for t in tensors(config, kind)}
        copy = OUTPUT if config.tied_embeddings and OUTPUT in held else None
        check_tensors(folder, held, wanted, FLOATS, unused=(copy,) if copy else ())
        if copy:
            _demand_copy(folder, held, copy, next(iter(wanted)), "set it to false in config.json, or ")
        return config, parameters_of(wanted, held)


def _kosmos(folder: Path, config: KosmosConfig) -> tuple[KosmosConfig, Parameters]:
    with opened_tensors(folder) as files:
        held = {name: stored(file, name) for name, file in files.items()}
        wanted = {tensor.name: tensor for tensor in kosmos_tensors(config)}
        check_tensors(folder, held, wanted, FLOATS, unused=(KOSMOS_OUTPUT, *UNUSED))
        if KOSMOS_OUTPUT in held:
            _demand_copy(folder, held, KOSMOS_OUTPUT, KOSMOS_EMBEDDING)
        return config, parameters_of(wanted, held)


def _demand_copy(folder: Path, held: Mapping[str, Stored], copy: str, embedding: str, hint: str = "") -> None:
    if not np.array_equal(held[copy].read(), held[embedding].read()):
        raise ValueError(
            f"{folder}: tie_word_embeddings is true, and {copy} is another matrix than {embedding}; {hint}remove the "
            "tensor that does not count"
        )


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
