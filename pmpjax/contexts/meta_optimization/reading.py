"""Prompts with and without demonstrations, and the demonstrations alone as rows to train on: the same tokens in all."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pmpjax.contexts.prompt import Format, build_prompt


class Layout(NamedTuple):
    """How demonstrations and queries stand in a prompt.

    Fields:
        form: encodes texts; its prefix begins every row, also those without demonstrations and those to train on.
        separator: text behind each demonstration of a context; it is no part of what is trained on.
        options: ids of each class's answer.
    """

    form: Format
    separator: str
    options: Sequence[Sequence[int]]


class Reading(NamedTuple):
    """Prompts over the same demonstrations, or over none, read up to the query's last token.

    Fields:
        tokens: [N, L] int32, padded behind.
        last: [N] column of the query's last token.
        asked: [N, T] columns of the query's tokens, the last one at the end; -1 in front where a query is shorter.
        shown: [M] columns of the demonstrations' tokens without separators; none without demonstrations.
        sizes: how many of these each demonstration has.
        context: [L] bool, columns of demonstrations and separators.
        begin: column of the query's first token, the same in all rows.
        too_long: demonstrations that the window cannot hold, by index; they are in no row.
        duplicates: pairs of a query and a demonstration that begins with it.
    """

    tokens: np.ndarray
    last: np.ndarray
    asked: np.ndarray
    shown: np.ndarray
    sizes: tuple[int, ...]
    context: np.ndarray
    begin: int
    too_long: tuple[int, ...] = ()
    duplicates: int = 0


class TrainingRows(NamedTuple):
    """Demonstrations in their order, one a row, each behind the prefix.

    Fields:
        tokens: [K, L] int32, padded behind.
        labels: [K, L - 1] float32, 1 where the next token is one of the demonstration's own.
        shown: [2, M] row and column of each token of a demonstration, in the order of `Reading.shown`.
    """

    tokens: Any
    labels: Any
    shown: Any


def in_context(layout: Layout, demonstrations: Sequence[str], queries: Sequence[str]) -> Reading:
    """Rows of prefix, demonstrations (each with the separator behind it), query.

    A demonstration that the window cannot hold with the longest query is in no row, so that all arms see the same.

    Raises:
        ValueError: no query, and what `pmpjax.contexts.build_prompt` refuses: no demonstrations, too many for the
            window, a query without tokens.
    """
    if not queries:
        raise ValueError("no queries; give at least one item to ask about")
    form, ending = layout.form, layout.separator
    separator = list(form.encode(ending)) if ending else []
    ended = form._replace(encode=lambda text: _ended(form, ending, separator, text))
    texts = [text + ending for text in demonstrations]
    longest = max(queries, key=lambda query: len(form.encode(query)))
    first = build_prompt(ended, texts, longest)
    chosen = [index for index in range(len(texts)) if index not in first.too_long]
    prompts = [build_prompt(ended, texts, query, chosen=chosen) for query in queries]
    owner = prompts[0].owner
    shown = [np.flatnonzero(owner == index)[: -len(separator) or None] for index in chosen]
    begin = int(np.flatnonzero(owner >= 0)[-1]) + 1
    return _reading([prompt.tokens for prompt in prompts], begin, shown)._replace(
        too_long=first.too_long, duplicates=sum(len(prompt.duplicates) for prompt in prompts)
    )


def zero_shot(layout: Layout, reading: Reading) -> Reading:
    """The same rows without what stands between prefix and query."""
    prefix = len(layout.form.prefix)
    rows = [
        np.concatenate([row[:prefix], row[reading.begin : last + 1]])
        for row, last in zip(reading.tokens, reading.last, strict=True)
    ]
    return _reading(rows, prefix, [])


def training_rows(layout: Layout, reading: Reading) -> TrainingRows:
    """The demonstrations of a reading as rows, token for token what the prompts show."""
    runs = np.split(reading.shown, np.cumsum(reading.sizes)[:-1])
    prefix = len(layout.form.prefix)
    length = prefix + max(map(len, runs))
    tokens = np.zeros((len(runs), length), np.int32)
    labels = np.zeros((len(runs), length - 1), np.float32)
    for row, run in enumerate(runs):
        tokens[row, : prefix + len(run)] = [*layout.form.prefix, *reading.tokens[0, run]]
        labels[row, max(prefix - 1, 0) : prefix + len(run) - 1] = 1
    shown = [(row, prefix + place) for row, run in enumerate(runs) for place in range(len(run))]
    return TrainingRows(tokens, labels, np.array(shown, np.int64).T)


def _ended(form: Format, ending: str, separator: list[int], text: str) -> list[int]:
    """Body and separator each by itself, so that no token joins them."""
    if not (ending and text.endswith(ending)):
        return list(form.encode(text))
    body = list(form.encode(text.removesuffix(ending)))
    return [*body, *separator] if body else []


def _reading(rows: Sequence[np.ndarray], begin: int, shown: Sequence[np.ndarray]) -> Reading:
    last = np.array([len(row) - 1 for row in rows])
    tokens = np.zeros((len(rows), int(last.max()) + 1), np.int32)
    for out, row in zip(tokens, rows, strict=True):
        out[: len(row)] = row
    asked = last[:, None] - np.arange(int(last.max()) - begin, -1, -1)[None, :]
    context = np.zeros(tokens.shape[1], bool)
    if shown:
        context[shown[0][0] : begin] = True
    columns = np.concatenate(shown) if shown else np.zeros(0, np.int64)
    sizes = tuple(len(part) for part in shown)
    return Reading(tokens, last, np.where(asked >= begin, asked, -1), columns, sizes, context, begin)
