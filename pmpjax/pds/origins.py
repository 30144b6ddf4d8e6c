"""Where documents come from, in a few groups."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from pmpjax.data import DocumentTable
from pmpjax.data.origins import parse_origin


def origin_group(origin: str) -> str:
    """What an origin is called in tables and caps: the kind of harvested text, or the ending of a file.

    >>> origin_group("scipy:docstring:scipy.stats.norm"), origin_group("notes/a.txt:3")
    ('docstring', 'txt')
    """
    return parse_origin(origin).kind


def origin_groups(origins: Sequence[str] | np.ndarray) -> tuple[np.ndarray, Int[np.ndarray, " documents"]]:
    """The names of all groups in alphabetical order, and the number of each document's group among them.

    >>> names, group = origin_groups(["b.txt:1", "a.md:1", "c.txt:1"])
    >>> names.tolist(), group.tolist()
    (['md', 'txt'], [1, 0, 1])
    """
    names, group = np.unique([origin_group(origin) for origin in origins], return_inverse=True)
    return names, group.astype(np.int64)


def origin_shares(table: DocumentTable, selected: np.ndarray) -> dict[str, dict[str, float]]:
    """Share of the tokens of each group of origins in the source and in the selection, largest of the source first.

    A document that is `selected` several times counts as often.
    """
    names, group = origin_groups(table.origins)
    chosen = table.n_tokens * np.bincount(selected, minlength=len(group))
    source, selection = (np.bincount(group, tokens) / float(tokens.sum()) for tokens in (table.n_tokens, chosen))
    shares = {
        str(name): {"source": float(of_source), "selection": float(of_selection)}
        for name, of_source, of_selection in zip(names, source, selection, strict=True)
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]["source"]))
