"""Documents of a TensorFlow Datasets builder, read without TensorFlow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pmpjax.data.documents import Document, Rejection, SourceError, reject_reason
from pmpjax.runs.errors import first_line


def read_tfds(name: str) -> Iterator[Document | Rejection]:
    """Reads the feature `text` of a data set in ArrayRecord format, and `id`, `origin` and `group` where it has them.

    Args:
        name: what `tfds.data_source` takes ("ag_news_subset", "wiki40b/en:1.3.0"), or the folder of a data set that is
            already written (".../ag_news_subset/1.0.0"); split "train", or another behind an @ ("ag_news_subset@test").

    Raises `SourceError` where the data set cannot be had or has no feature `text`.
    """
    import tensorflow_datasets as tfds  # takes a second to import; only who reads such a source waits for it

    place, _, split = name.partition("@")
    split = split or "train"
    builder: Any  # the library's own annotations hide the method's parameters
    rows: Any
    try:
        if Path(place).is_dir():
            builder = tfds.builder_from_directory(place)
            rows = builder.as_data_source(split=split)
        else:
            rows = tfds.data_source(place, split=split)
    except Exception as error:  # network, disk and registry errors of many types
        reason = first_line(error)
        raise SourceError(
            f"tfds:{name} cannot be read ({reason}); name a data set written in ArrayRecord format, or its folder"
        ) from error
    for index in range(len(rows)):
        row = rows[index]
        if "text" not in row:
            raise SourceError(f"tfds:{name} has no feature 'text', its features are {', '.join(row)}; choose another")
        line = index + 1
        given = {"id": f"{place}@{split}:{line}", "origin": f"tfds:{name}:{line}", "group": f"{place}@{split}"}
        try:
            for field in Document._fields:
                if field in row:
                    given[field] = row[field].decode("utf-8") if isinstance(row[field], bytes) else row[field]
            reason = reject_reason(given["text"])
        except UnicodeDecodeError as error:
            reason = f"not UTF-8: byte {error.object[error.start]:#04x} at {error.start}"
        if reason is not None:
            yield Rejection(f"tfds:{name}", line, reason)
        else:
            yield Document(**{field: str(value) for field, value in given.items()})
