"""What messages are made of: an error's first line, and the known name that is nearest to a wrong one."""

import difflib
from collections.abc import Iterable


def first_line(error: BaseException, length: int = 240) -> str:
    """The first line of an error's text, or its type where it has none, cut to a length that a message can hold.

    >>> first_line(ValueError("no such\\nfile")), first_line(ValueError()), first_line(ValueError("abc"), 2)
    ('no such', 'ValueError', 'ab')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:length]


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name that is most like the given one; None where none is like it.

    >>> nearest("papr-1b", ["tiny", "paper-1b"]), nearest("x", ["tiny"])
    ('paper-1b', None)
    """
    found = difflib.get_close_matches(given, list(known), n=1, cutoff=0.4)
    return found[0] if found else None
