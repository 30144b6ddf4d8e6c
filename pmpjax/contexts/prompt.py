"""Prompts made of demonstrations and a query, and which tokens each demonstration has."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int

_NAMED = 8


class Format(NamedTuple):
    """How texts become a prompt.

    Fields:
        encode: text -> ids without special tokens, such as
            `lambda text: tokenizer.encode(text, add_special_tokens=False).ids`.
        window: tokens that the model reads at most.
        prefix: ids at the begin, such as the token of the begin.
    """

    encode: Callable[[str], Sequence[int]]
    window: int
    prefix: Sequence[int] = ()


class Prompt(NamedTuple):
    """prefix, demonstrations, query, answer: one row.

    Fields:
        tokens: [L] int32.
        owner: [L] int32, the demonstration that a token belongs to, by its index in the list; -1 for all others.
        answers: [A] int32, places of the answer's tokens; each is predicted from what stands before it.
        pool: demonstrations in the list, chosen or not.
        too_long: demonstrations left out because the window cannot hold one of them with the query.
        duplicates: demonstrations in the prompt that begin with the query's text.
    """

    tokens: np.ndarray
    owner: np.ndarray
    answers: np.ndarray
    pool: int
    too_long: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()


class Prompts(NamedTuple):
    """Prompts over one list of demonstrations, padded behind to one length.

    Fields:
        tokens: [N, L] int32.
        owner: [N, L] int32, as in `Prompt`.
        answers: [N, A] int32; -1 is padding.
        pool: demonstrations in the list.
    """

    tokens: Any
    owner: Any
    answers: Any
    pool: int


def build_prompt(
    form: Format, demonstrations: Sequence[str], query: str, answer: str = "", chosen: Sequence[int] | None = None
) -> Prompt:
    """prefix + demonstrations + query + answer, each text encoded by itself, so that tokens belong to one of them.

    Separators belong to the texts: a demonstration usually ends with a line break.

    Args:
        demonstrations: the whole list; owners are indices of it.
        query: the text that is asked, without its answer.
        answer: what is predicted; empty where a prompt is only read.
        chosen: the demonstrations of the prompt, in order; None: all of them.

    Raises:
        ValueError: no demonstration, one that has no token or does not exist, a query without tokens or longer than
            the window, all demonstrations too long, or more of them than the window holds together.

    Warns:
        UserWarning: demonstrations too long for the window, which are left out, and such that begin with the query's
            text, which stay; both are counted and named by index.

    >>> form = Format(lambda text: list(text.encode()), window=12, prefix=(0,))
    >>> prompt = build_prompt(form, ["a=1 ", "b=2 "], "c=", "3")
    >>> prompt.tokens.tolist()
    [0, 97, 61, 49, 32, 98, 61, 50, 32, 99, 61, 51]
    >>> prompt.owner.tolist(), prompt.answers.tolist()
    ([-1, 0, 0, 0, 0, 1, 1, 1, 1, -1, -1, -1], [11])
    """
    order = range(len(demonstrations)) if chosen is None else chosen
    if not len(order):
        raise ValueError(
            "the list of demonstrations is empty; give at least one, for without any there is nothing to weigh"
        )
    wrong = [index for index in order if not 0 <= index < len(demonstrations)]
    if wrong or len(set(order)) < len(order):
        raise ValueError(
            f"chosen is {named(order)}, expected different indices below {len(demonstrations)}, the number of "
            "demonstrations"
        )
    asked, said = list(form.encode(query)), list(form.encode(answer)) if answer else []
    if not asked:
        raise ValueError(f"the query {query!r} has no token; give the text that is asked")
    fixed = len(form.prefix) + len(asked) + len(said)
    if fixed > form.window:
        raise ValueError(
            f"prefix, query and answer have {fixed} tokens, and the window holds {form.window}: {query[:60]!r}; "
            "shorten the query or raise the window"
        )
    parts = {index: list(form.encode(demonstrations[index])) for index in order}
    empty = [index for index, ids in parts.items() if not ids]
    if empty:
        raise ValueError(f"{len(empty)} demonstrations have no token: {named(empty)}; leave them out")
    room = form.window - fixed
    too_long = tuple(index for index, ids in parts.items() if len(ids) > room)
    kept = [index for index in order if index not in too_long]
    _check_room(parts, kept, too_long, room)
    plain = plain_text(query)
    duplicates = tuple(index for index in kept if plain and plain_text(demonstrations[index]).startswith(plain))
    if duplicates:
        warnings.warn(
            f"{len(duplicates)} demonstrations begin with the query's own text: {named(duplicates)}; the model can "
            "copy the answer, leave them out of what is measured",
            UserWarning,
            stacklevel=2,
        )
    pieces = [(-1, list(form.prefix)), *((index, parts[index]) for index in kept), (-1, asked), (-1, said)]
    tokens = np.concatenate([np.asarray(ids, np.int32) for _, ids in pieces])
    owner = np.concatenate([np.full(len(ids), index, np.int32) for index, ids in pieces])
    answers = np.arange(len(tokens) - len(said), len(tokens), dtype=np.int32)
    return Prompt(tokens, owner, answers, len(demonstrations), too_long, duplicates)


def stack_prompts(prompts: Sequence[Prompt], padding: int = 0) -> Prompts:
    """Rows of one length, padded behind, where a causal model does not look.

    Raises ValueError where there is none, or where they are over lists of different lengths.
    """
    pools = sorted({prompt.pool for prompt in prompts})
    if len(pools) != 1:
        raise ValueError(
            f"prompts over lists of {named(pools) or 'no'} demonstrations, expected one list for all: give every "
            "prompt the same list, and `chosen`"
        )

    def padded(rows: Sequence[np.ndarray], value: int) -> np.ndarray:
        out = np.full((len(rows), max(map(len, rows))), value, np.int32)
        for row, part in zip(out, rows, strict=True):
            row[: len(part)] = part
        return out

    return Prompts(
        padded([prompt.tokens for prompt in prompts], padding),
        padded([prompt.owner for prompt in prompts], -1),
        padded([prompt.answers for prompt in prompts], -1),
        pools[0],
    )


def balanced_groups(key: Array, pool: int, size: int, rounds: int = 1) -> Int[np.ndarray, "groups size"]:
    """Random groups of `size` out of `pool` demonstrations; in each round every one is in a group at least once.

    The last group of a round is filled from the round's beginning. No group holds one twice.

    >>> balanced_groups(jax.random.key(0), 6, 3, rounds=2).shape
    (4, 3)
    """
    if not 1 <= size <= pool:
        raise ValueError(f"groups of {size} out of {pool} demonstrations; expected 1 to {pool}")
    groups = -(-pool // size)
    orders = [np.asarray(jax.random.permutation(part, pool)) for part in jax.random.split(key, rounds)]
    return np.concatenate([np.resize(order, groups * size).reshape(groups, size) for order in orders])


def _check_room(parts: dict[int, list[int]], kept: list[int], too_long: tuple[int, ...], room: int) -> None:
    if too_long:
        words = f"{len(too_long)} of {len(parts)} demonstrations are longer than the {room} tokens that the window has "
        words += f"in addition to the query: {named(f'{index} ({len(parts[index])} tokens)' for index in too_long)}"
        if not kept:
            raise ValueError(f"{words}; none is left: shorten them or raise the window")
        warnings.warn(f"{words}; they are left out", UserWarning, stacklevel=3)
    sizes = np.cumsum([len(parts[index]) for index in kept])
    if sizes[-1] > room:
        raise ValueError(
            f"{len(kept)} demonstrations have {sizes[-1]} tokens, and the window holds {room} in addition to the "
            f"query; the first {int((sizes <= room).sum())} fit: choose fewer, or read them in groups "
            "(`balanced_groups`)"
        )


def plain_text(text: str) -> str:
    """The text without case and with single spaces: what is compared to find duplicates."""
    return " ".join(text.casefold().split())


def named(indices: Iterable[object]) -> str:
    """The first few, and how many more there are."""
    shown = [str(index) for index in indices]
    return ", ".join(shown[:_NAMED]) + (f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else "")
