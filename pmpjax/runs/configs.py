"""The config that a run directory was begun with, as the dataclass that it was."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from pmpjax.runs.files import read_json
from pmpjax.runs.lock import RunError

Config = TypeVar("Config")


def stored_config(directory: Path | str, kind: type[Config]) -> Config | None:
    """What `open_run` wrote into DIR/manifest.json, as a `kind`; None where there is no run yet.

    Raises:
        RunError: when the stored config has fields that `kind` has not (another version wrote it), or refused values.
    """
    path = Path(directory) / "manifest.json"
    if not path.is_file():
        return None
    stored = read_json(path)
    if not isinstance(stored, dict) or "config" not in stored:
        raise RunError(f"{path} holds no config; begin a new run in another folder")
    return _as(kind, stored["config"], path)


def read_config(path: Path | str, kind: type[Config]) -> Config:
    """A config.json, as `open_run` writes it; fields that it lacks get their defaults.

    Raises:
        RunError: it cannot be read, or has fields that `kind` has not, or refused values.
    """
    return _as(kind, read_json(Path(path)), path)


def _as(kind: type[Config], stored: Any, path: Path | str) -> Config:
    try:
        return restore(kind, stored)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path} holds no {kind.__name__} of this version ({error}); begin a new run in another folder"
        ) from error


def restore(kind: Any, value: Any) -> Any:
    """The inverse of `pmpjax.runs.files.plain` for frozen dataclasses of numbers, text, tuples and dataclasses.

    A field that is not stored gets its default.

    >>> from pmpjax.runs.files import plain
    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     names: tuple[str, ...] = ("a",)
    ...     rate: float | None = None
    >>> restore(Example, plain(Example(("b", "c"), 0.5)))
    Example(names=('b', 'c'), rate=0.5)
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise TypeError(f"{kind.__name__} is stored as {value!r}, expected its fields")
        hints = typing.get_type_hints(kind)
        names = {field.name for field in dataclasses.fields(kind)}
        if not names >= value.keys():
            raise TypeError(f"{kind.__name__} has no field {', '.join(sorted(value.keys() - names))}")
        return kind(**{name: restore(hints[name], item) for name, item in value.items()})
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else restore(next(part for part in parts if part is not type(None)), value)
    if origin is tuple:
        return tuple(restore(parts[0], item) for item in value)
    return value


def fields_of(config: Any) -> dict[str, Any]:
    """A dataclass's fields, without going into nested ones.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Example:
    ...     rate: float = 0.5
    >>> fields_of(Example())
    {'rate': 0.5}
    """
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
