"""The values of a config.json, refused by key where this library has no such thing."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Settings(NamedTuple):
    """The content of a config.json, or an object in it, and `where` it stands, for errors."""

    settings: Mapping[str, Any]
    where: str

    def refuse(self, key: str, has: str) -> None:
        """Raises ValueError with file, key, value and what there may be."""
        raise ValueError(f"{self.where}: {key} is {self.settings.get(key)!r}; this decoder has {has}")

    def demand(self, key: str, default: Any, *known: Any) -> Any:
        """The value, which must be one of those that the decoder has."""
        found = self.settings.get(key, default)
        if found not in known:
            self.refuse(key, f"{' or '.join(map(repr, known))} only; take another model")
        return found

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number from 1 on; null is the default."""
        found = self.settings.get(key)
        found = default if found is None else found
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            self.refuse(key, "whole numbers from 1 on there; write it into the file")
        return found  # pyright: ignore[reportReturnType]

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        found = self.settings.get(key, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
            self.refuse(key, "positive numbers there; correct it")
        return float(found)
