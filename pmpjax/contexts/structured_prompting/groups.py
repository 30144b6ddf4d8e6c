"""Groups of demonstrations, each of which a model reads by itself."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from pmpjax.contexts.prompt import Format, named, plain_text


class Groups(NamedTuple):
    """Tokens of M groups.

    Fields:
        tokens: [M, L] int32, padded behind.
        lengths: [M] int32, tokens of each group, at least one.
        prefix: [P] int32, what every group and every query is read behind.
        members: indices of each group's demonstrations, in order.
        too_long: demonstrations left out because the window cannot hold one of them with prefix and query.
        duplicates: demonstrations in the groups that begin with the text of a query.
    """

    tokens: Int[np.ndarray, "m l"]
    lengths: Int[np.ndarray, " m"]
    prefix: Int[np.ndarray, " p"]
    members: tuple[tuple[int, ...], ...]
    too_long: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()


def build_groups(
    form: Format,
    demonstrations: Sequence[str],
    groups: Sequence[Sequence[int]] | None = None,
    *,
    size: int | None = None,
    room: int = 0,
    queries: Sequence[str] = (),
) -> Groups:
    """prefix + demonstrations of one group: at most `form.window - room` tokens, for each group.

    Each text is encoded by itself; separators belong to the texts, and a demonstration usually ends with a line break.

    Args:
        groups: indices of each group's demonstrations, as `balanced_groups` draws them. None: all demonstrations in
            their order, as many a group as `size` says, or as fit; the last group keeps what is left, however few.
        size: demonstrations in a group; None: as many as fit.
        room: tokens kept free for the longest query and its answer.
        queries: texts that will be asked.

    Raises:
        ValueError: no demonstration, an empty group, a demonstration without tokens or that does not exist, all of them
            too long, or a group that is longer than the window.

    Warns:
        UserWarning: demonstrations too long for the window, which are left out, and such that begin with the text of a
            query, which stay; both are counted and named by index.

    Source: arXiv 2212.06713, which drops an incomplete last group; here it is kept.

    >>> form = Format(lambda text: list(text.encode()), window=12, prefix=(0,))
    >>> groups = build_groups(form, ["a=1 ", "b=2 ", "c=3 "], room=2)
    >>> groups.members, groups.lengths.tolist(), groups.tokens[1].tolist()
    (((0, 1), (2,)), [8, 4], [99, 61, 51, 32, 0, 0, 0, 0])
    """
    if size is not None and (size < 1 or groups is not None):
        raise ValueError(f"size is {size}; give at least 1 demonstration a group, or the groups themselves, not both")
    wanted = [list(range(len(demonstrations)))] if groups is None else [list(group) for group in groups]
    _check(demonstrations, wanted)
    parts = {index: list(form.encode(demonstrations[index])) for group in wanted for index in group}
    bare = sorted(index for index, ids in parts.items() if not ids)
    if bare:
        raise ValueError(f"{len(bare)} demonstrations have no token: {named(bare)}; leave them out")
    space = form.window - len(form.prefix) - room
    too_long = tuple(sorted(index for index, ids in parts.items() if len(ids) > space))
    if too_long:
        words = (
            f"{len(too_long)} of {len(parts)} demonstrations are longer than the {space} tokens that the window has in "
            f"addition to prefix and query: {named(f'{index} ({len(parts[index])} tokens)' for index in too_long)}"
        )
        if len(too_long) == len(parts):
            raise ValueError(f"{words}; none is left: shorten them or raise the window")
        warnings.warn(f"{words}; they are left out", UserWarning, stacklevel=2)
    kept = [[index for index in group if index not in too_long] for group in wanted]
    sizes = {index: len(ids) for index, ids in parts.items()}
    members = _filled(kept[0], sizes, space, size) if groups is None else kept
    _check_sizes(members, sizes, space)
    asked = tuple(text for text in (plain_text(query) for query in queries) if text)
    duplicates = tuple(i for i in sizes if i not in too_long and plain_text(demonstrations[i]).startswith(asked))
    if asked and duplicates:
        warnings.warn(
            f"{len(duplicates)} demonstrations begin with the text of a query: {named(duplicates)}; the model can copy "
            "the answer, leave them out of what is measured",
            UserWarning,
            stacklevel=2,
        )
    rows = [[token for index in group for token in parts[index]] for group in members]
    lengths = np.asarray([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), int(lengths.max())), np.int32)
    for padded, row in zip(tokens, rows, strict=True):
        padded[: len(row)] = row
    prefix = np.asarray(form.prefix, np.int32)
    return Groups(tokens, lengths, prefix, tuple(map(tuple, members)), too_long, duplicates if asked else ())


def _filled(order: list[int], sizes: dict[int, int], space: int, size: int | None) -> list[list[int]]:
    members: list[list[int]] = []
    used = space + 1
    for index in order:
        full = len(members[-1]) == size if size is not None and members else used + sizes[index] > space
        if full or not members:
            members.append([])
            used = 0
        members[-1].append(index)
        used += sizes[index]
    return members


def _check(demonstrations: Sequence[str], groups: list[list[int]]) -> None:
    if not len(demonstrations) or not groups:
        raise ValueError("there is no demonstration; give at least one, for an empty context changes nothing")
    empty = [number for number, group in enumerate(groups) if not group]
    if empty:
        raise ValueError(f"{len(empty)} groups are empty: {named(empty)}; leave them out, for M counts the groups")
    wrong = [index for group in groups for index in group if not 0 <= index < len(demonstrations)]
    if wrong:
        raise ValueError(
            f"the groups name the demonstrations {named(wrong)}, expected indices below {len(demonstrations)}"
        )


def _check_sizes(groups: list[list[int]], sizes: dict[int, int], space: int) -> None:
    for number, group in enumerate(groups):
        if not group:
            raise ValueError(
                f"group {number} is empty without the demonstrations that are too long; give it others, or raise the "
                "window"
            )
        length = sum(sizes[index] for index in group)
        if length > space:
            raise ValueError(
                f"group {number} has {length} tokens, and the window holds {space} in addition to prefix and query; "
                "give fewer demonstrations a group"
            )
