"""Contexts in safetensors files, with what tells the model that they belong to."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pmpjax.contexts.structured_prompting.context import Context
from pmpjax.models import DecoderConfig, Parameters, unstack_layers
from pmpjax.runs.files import atomic

_KIND = "pmpjax context 1"
# How a decoder computes; the others decide what it computes.
_COMPUTING = ("attention", "attention_block", "compute", "scan_layers", "remat", "loss_chunk")


def save_context(
    path: Path | str,
    context: Context,
    config: DecoderConfig,
    params: Parameters,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Writes a context in float32 at least, the sizes of its model, a digest of the parameters, and `notes` as JSON.

    >>> import jax, jax.numpy as jnp, tempfile
    >>> from pmpjax.contexts import Format, build_context, build_groups
    >>> from pmpjax.models import Decoder, initialise
    >>> decoder = Decoder(DecoderConfig(vocabulary=11, width=8, layers=1, heads=2, key_value_heads=1, hidden=16))
    >>> params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    >>> form = Format(lambda text: [int(letter) for letter in text], window=8)
    >>> context = build_context(decoder, params, build_groups(form, ["123", "4567"], size=1))
    >>> path = Path(tempfile.mkdtemp()) / "context.safetensors"
    >>> save_context(path, context, decoder.config, params, {"task": "digits"})
    >>> load_context(path, decoder.config, params).lengths.tolist(), context_notes(path)["notes"]
    ([3, 4], {'task': 'digits'})
    """
    # Numpy's ascontiguousarray would make an array of one number of a scalar.
    arrays = {name: np.array(leaf, order="C") for name, leaf in context._asdict().items()}
    wide = {name: leaf.astype("f4") if leaf.dtype.itemsize == 2 else leaf for name, leaf in arrays.items()}
    told = {
        "kind": _KIND,
        "model": json.dumps(_sizes(config)),
        "parameters": parameters_digest(params),
        "notes": json.dumps(dict(notes or {})),
    }
    with atomic(path) as temporary:
        save_file(wide, temporary, metadata=told)


def load_context(path: Path | str, config: DecoderConfig, params: Parameters) -> Context:
    """The context that `save_context` wrote, for the same model, with scanned or unrolled layers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or no context; it was made by a model of other sizes, or of other parameters.
    """
    told = context_notes(path)
    sizes = _sizes(config)
    other = [
        f"{name} {told['model'].get(name)}, here {value}"
        for name, value in sizes.items()
        if told["model"].get(name) != value
    ]
    if other:
        raise ValueError(f"{path} is of a model of other sizes ({', '.join(other)}); build it again with this model")
    digest = parameters_digest(params)
    if told["parameters"] != digest:
        raise ValueError(
            f"{path} is of a model with other parameters (digest {told['parameters'][:12]}, here {digest[:12]}); build "
            "it again with this model"
        )
    with safe_open(path, framework="numpy") as file:
        missing = [name for name in Context._fields if name not in file.keys()]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}; build it again")
        return Context(*(file.get_tensor(name) for name in Context._fields))


def context_notes(path: Path | str) -> dict[str, Any]:
    """What a file says of itself without its model: "model" (sizes), "parameters" (digest), "notes", and "shapes" by
    name of a tensor. Raises as `load_context`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there; write it by `pmpjax context build` or `save_context`")
    try:
        with safe_open(path, framework="numpy") as file:
            told = file.metadata() or {}
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); build it again") from error
    if told.get("kind") != _KIND:
        raise ValueError(f"{path} is no context but {told.get('kind', 'another safetensors file')}, expected {_KIND}")
    return {
        "model": json.loads(told["model"]),
        "parameters": told["parameters"],
        "notes": json.loads(told["notes"]),
        "shapes": shapes,
    }


def parameters_digest(params: Parameters) -> str:
    """SHA-256 of names, shapes, types and numbers of all parameters; the same for scanned and unrolled layers."""
    unrolled = unstack_layers(params) if "layers" in params["trunk"] else params
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(unrolled, sep=".").items()):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def _sizes(config: DecoderConfig) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in _COMPUTING}
