"""Documents of a data set on the Hugging Face hub: its files are downloaded into the hub's cache and read as files."""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pmpjax.data.documents import Document, Rejection, SourceError
from pmpjax.data.sources.files import SUFFIXES, read_file
from pmpjax.runs.errors import first_line

_SPLITS = {"train": "train|training", "validation": "validation|valid|val|dev", "test": "test|testing|eval"}


def read_hub(name: str) -> Iterator[Document | Rejection]:
    """Reads the files of one split of a data set, in the order of their names; see `read_files` for what they hold.

    Args:
        name: "OWNER/NAME" or "OWNER/NAME@SPLIT"; the split is "train" when none is named.

    Raises `SourceError` where there is no network, no such data set, or no file of the split with a known ending.
    """
    repository, _, split = name.partition("@")
    try:
        folder, files = download(repository, split or "train")
    except SourceError:
        raise
    except Exception as error:  # the hub's client raises a dozen types, its transport some more
        reason = first_line(error)
        raise SourceError(
            f"hf:{name} cannot be had ({type(error).__name__}: {reason}); it needs a network and a public data set, or "
            f"name the folder of one that is already here"
        ) from error
    for file in files:
        yield from read_file(folder / file, f"hf:{repository}/{file}", f"{repository}/{file}")


def download(repository: str, split: str) -> tuple[Path, list[str]]:
    """(folder in the hub's cache, names of the split's files in it); only these files are downloaded."""
    from huggingface_hub import HfApi, snapshot_download  # a third of a second to import

    information = HfApi().dataset_info(repository)
    files = files_of_split([file.rfilename for file in information.siblings or []], split)
    if not files:
        raise SourceError(
            f"hf:{repository} has no file of split {split!r} that ends in {', '.join(SUFFIXES)}; name another split"
        )
    folder = snapshot_download(
        repository, repo_type="dataset", revision=information.sha, allow_patterns=[glob.escape(file) for file in files]
    )
    return Path(folder), files


def files_of_split(names: Sequence[str], split: str) -> list[str]:
    """The files of a split, sorted: those that carry its name as a word, or all where none of the files names a split.

    Where a data set has several formats, they hold the same rows: .parquet is taken, the hub's own, or else the ending
    that comes first in `SUFFIXES`.

    >>> files_of_split(["all-train.txt", "data/train-00000-of-00001.parquet", "data/valid-0.parquet", "a.py"], "train")
    ['data/train-00000-of-00001.parquet']
    >>> files_of_split(["data/valid-0.parquet"], "validation"), files_of_split(["b.txt", "a.txt"], "train")
    (['data/valid-0.parquet'], ['a.txt', 'b.txt'])
    """
    known = [name for name in names if name.lower().endswith(SUFFIXES)]
    wanted = [name for name in known if _names(name, _SPLITS.get(split, re.escape(split)))]
    if not wanted and split == "train" and not any(_names(name, words) for name in known for words in _SPLITS.values()):
        wanted = known
    for suffix in (".parquet", *SUFFIXES):
        same = sorted(name for name in wanted if name.lower().endswith(suffix))
        if same:
            return same
    return []


def _names(path: str, words: str) -> bool:
    return re.search(rf"(?<![a-z0-9])({words})(?![a-z])", path, re.IGNORECASE) is not None
