"""Where documents come from, in a few groups."""

import numpy as np

from pmpjax.data import DocumentTable
from pmpjax.data.origins import parse_origin


def origin_group(origin: str) -> str:
    """What an origin is called in tables and caps: the kind of harvested text, or the ending of a file.

    >>> origin_group("scipy:docstring:scipy.stats.norm"), origin_group("notes/a.txt:3")
    ('docstring', 'txt')
    """
    return parse_origin(origin).kind


def origin_shares(table: DocumentTable, selected: np.ndarray) -> dict[str, dict[str, float]]:
    """Share of the tokens of each group of origins in the source and in the selection, largest of the source first.

    A document that is `selected` several times counts as often.
    """
    groups = np.array([origin_group(origin) for origin in table.origins])
    chosen = table.n_tokens * np.bincount(selected, minlength=len(groups))
    total, kept = float(table.n_tokens.sum()), float(chosen.sum())
    shares = {
        str(name): {
            "source": float(table.n_tokens[groups == name].sum() / total),
            "selection": float(chosen[groups == name].sum() / kept),
        }
        for name in np.unique(groups)
    }
    return dict(sorted(shares.items(), key=lambda item: -item[1]["source"]))
