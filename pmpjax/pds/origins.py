"""Where documents come from, in a few groups."""

from pathlib import Path


def origin_group(origin: str) -> str:
    """What an origin is called in tables and caps: the kind of harvested text, or the ending of a file.

    >>> origin_group("scipy:docstring:scipy.stats.norm"), origin_group("notes/a.txt:3")
    ('docstring', 'txt')
    """
    parts = origin.split(":")
    if len(parts) >= 3:
        return parts[1]
    return Path(parts[0]).suffix.removeprefix(".") or "other"
