"""The tensors of a model's files: one safetensors file or several and their index, compared with what is wanted."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from pmpjax.models.huggingface import Tensor

WEIGHTS = "model.safetensors"
"""The one file of a model that is not split."""

FLOATS = ("F32", "BF16", "F16")
"""The types that are read from safetensors."""

_INDEX = "model.safetensors.index.json"
# Masks and frequencies that earlier versions of transformers stored beside the parameters.
_BUFFER = re.compile(r"(^|\.)(attn\.(masked_)?bias|rotary_emb\.inv_freq)$")
_NAMED = 6


class Stored(NamedTuple):
    """One tensor of a file, not yet read.

    Fields:
        shape: as Hugging Face has it, [out, in].
        kind: how its numbers are stored.
        read: gives the numbers in float32.
    """

    shape: tuple[int, ...]
    kind: str
    read: Callable[[], np.ndarray]


def stored(file: Any, name: str) -> Stored:
    """A tensor of an open safetensors file."""
    part = file.get_slice(name)
    return Stored(tuple(part.get_shape()), part.get_dtype(), lambda: np.asarray(file.get_tensor(name), np.float32))


def check_tensors(
    source: Path,
    held: Mapping[str, Stored],
    wanted: Mapping[str, Tensor],
    kinds: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> None:
    """Compares names, shapes and types (any of them where `kinds` is empty) before anything is read.

    `unused` are beginnings of names that a file may have and nobody reads. ValueError lists all that is wrong.
    """
    problems = {
        "missing": [f"{name} {list(tensor.shape)}" for name, tensor in wanted.items() if name not in held],
        "unknown": [name for name in held if name not in wanted and not name.startswith(unused)],
        "of another shape": [],
        f"of another type than {', '.join(kinds)}": [],
    }
    _, _, shapes, types = problems.values()
    for name in held.keys() & wanted.keys():
        if held[name].shape != wanted[name].shape:
            shapes.append(f"{name} is {list(held[name].shape)}, expected {list(wanted[name].shape)}")
        if kinds and held[name].kind not in kinds:
            types.append(f"{name} is {held[name].kind}")
    listed = [f"{len(names)} {problem}: {some(names)}" for problem, names in problems.items() if names]
    if listed:
        raise ValueError(
            f"{source}: the tensors are not those of its settings: {'; '.join(listed)}. Take the files of one model, "
            "with all its parts, together"
        )


def parameters_of(wanted: Mapping[str, Tensor], held: Mapping[str, Stored]) -> dict[str, Any]:
    """The nested dictionary of parameters, read tensor by tensor."""
    leaves: dict[tuple[str, ...], Any] = {}
    for name, tensor in wanted.items():
        array = held[name].read()
        parts = np.split(array.T if tensor.transposed else array, len(tensor.leaves), axis=-1)
        leaves.update({leaf: jnp.asarray(part) for leaf, part in zip(tensor.leaves, parts, strict=True)})
    return unflatten_dict(leaves)


def arrays_of(wanted: Sequence[Tensor], params: Any) -> dict[str, np.ndarray]:
    """The parameters of unrolled layers by their names in the file; ValueError where they are not those wanted."""
    flat = flatten_dict(params)
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


@contextlib.contextmanager
def opened_tensors(folder: Path) -> Iterator[dict[str, Any]]:
    """{name of a tensor: its open safetensors file}, in one file or in those of an index; nothing is read yet.

    Raises FileNotFoundError for a file that is not there; ValueError for a damaged one, and where the index names a
    tensor that its file has not.
    """
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(_opened(path)) for name, path in _files(folder).items()}
        if (folder / WEIGHTS).is_file():
            index = {name: WEIGHTS for name in files[WEIGHTS].keys()}
        else:
            index = read_json(folder / _INDEX)["weight_map"]
            wrong = [f"{name} in {file}" for name, file in index.items() if name not in files[file].keys()]
            if wrong:
                raise ValueError(
                    f"{folder / _INDEX} names tensors that are not there: {some(wrong)}; copy the folder again"
                )
        yield {name: files[file] for name, file in index.items() if not _BUFFER.search(name)}


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; FileNotFoundError or ValueError with its path."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; name a folder that transformers' save_pretrained wrote")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy the file again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not an object; copy the file again")
    return found


def some(names: list[str]) -> str:
    """The first few, in order, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more if names else "none"


def _files(folder: Path) -> dict[str, Path]:
    """The safetensors files by name; where there are several, the index names them."""
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS: folder / WEIGHTS}
    if not (folder / _INDEX).is_file():
        there = some([path.name for path in folder.iterdir() if path.name != "config.json"])
        raise FileNotFoundError(
            f"{folder} has neither {WEIGHTS} nor {_INDEX}, but {there}; save the model with safetensors"
        )
    index = read_json(folder / _INDEX).get("weight_map")
    names = list(index.values()) if isinstance(index, Mapping) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{folder / _INDEX}: weight_map must give each tensor's file in this folder; copy it again")
    return {name: folder / name for name in sorted({*names})}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, and {_INDEX} names it; copy the whole folder again")
    try:
        file = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}; {path.stat().st_size:,} bytes); copy it again"
        ) from error
    with file:
        yield file
