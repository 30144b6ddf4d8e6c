"""Sources by name: `installed-docs[:PACKAGES]`, `tfds:`, `hf:`, stories, or a local file or folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pmpjax.data.documents import Document, Rejection, SourceError, no_good_row
from pmpjax.data.sources.files import read_files
from pmpjax.data.sources.hub import read_hub
from pmpjax.data.sources.installed import Budget, fingerprints, harvest, reference
from pmpjax.data.sources.packages import normal_name
from pmpjax.data.sources.stories import GRAMMAR, TINYSTORIES, generate_stories, grammar_count, read_tinystories
from pmpjax.data.sources.tfds import read_tfds

INSTALLED = "installed-docs"


@dataclass
class Corpus:
    """What a source gave.

    Attributes:
        documents: at least one; their ids are unique.
        rejected: what was no document, with file and line.
        packages: by package of `installed-docs`: version, number of documents, content hash. Empty for files.
    """

    documents: list[Document] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    packages: dict[str, dict[str, str | int]] = field(default_factory=dict)


def packages_of(name: str) -> frozenset[str]:
    """The packages of "installed-docs:PACKAGE[,PACKAGE...]" in normal form, none for any other source.

    >>> sorted(packages_of("installed-docs:SciPy,optax")), packages_of("installed-docs")
    (['optax', 'scipy'], frozenset())
    """
    kind, _, packages = name.partition(":")
    return frozenset(normal_name(part) for part in packages.split(",") if part) if kind == INSTALLED else frozenset()


def read_source(name: str, budget: Budget, *, exclude: frozenset[str] = frozenset(), seed: int = 0) -> Corpus:
    """Reads one source.

    Args:
        name: "installed-docs" (a sample within `budget`), "installed-docs:PACKAGE[,PACKAGE...]" (all docstrings of
            these packages), "tfds:NAME[@SPLIT]", "hf:NAME[@SPLIT]", "tinystories[@SPLIT]" (downloaded),
            "story-grammar[:COUNT]" (generated from the seed), or the path of a .txt, .jsonl, .jsonl.gz, .parquet or
            .arrayrecord file or of a folder of them.
        exclude: packages that "installed-docs" leaves out (the target's).
        seed: of the sample of "installed-docs" and of generated stories.

    Raises:
        SourceError: nothing there, a kind that is not known, or not one good row.
    """
    corpus = Corpus()
    packages = sorted(packages_of(name))
    if name == INSTALLED or packages:
        parts = [reference(package, budget.minimum) for package in packages] or [
            harvest(budget, exclude=exclude, seed=seed)
        ]
        for part in parts:
            corpus.documents += part.documents
            corpus.rejected += part.rejected
            corpus.packages |= fingerprints(part.documents, part.versions)
    else:
        for row in _read_rows(name, seed):
            if isinstance(row, Document):
                corpus.documents.append(row)
            else:
                corpus.rejected.append(row)
    if not corpus.documents:
        raise no_good_row(name, corpus.rejected)
    corpus.documents = _with_unique_ids(corpus.documents)
    return corpus


def _read_rows(name: str, seed: int) -> Iterator[Document | Rejection]:
    kind, _, rest = name.partition(":")
    data_set, _, split = name.partition("@")
    if kind == "tfds":
        return read_tfds(rest)
    if kind == "hf":
        return read_hub(rest)
    if kind == GRAMMAR:
        return generate_stories(grammar_count(rest), seed)
    if data_set == TINYSTORIES:
        return read_tinystories(split)
    return read_files(name)


def read_sources(
    names: Sequence[str], budget: Budget, *, exclude: frozenset[str] = frozenset(), seed: int = 0
) -> Corpus:
    """Reads several sources as one; each must have a good row. See `read_source`."""
    if not names:
        raise SourceError(f"no source is named; give {INSTALLED}, a file or a folder")
    result = Corpus()
    for name in names:
        part = read_source(name, budget, exclude=exclude, seed=seed)
        result.documents += part.documents
        result.rejected += part.rejected
        result.packages |= part.packages
    result.documents = _with_unique_ids(result.documents)
    return result


def _with_unique_ids(documents: list[Document]) -> list[Document]:
    """The documents, a repeated id followed by a number that makes it unique."""
    taken: set[str] = set()
    repeats: dict[str, int] = {}
    result = []
    for document in documents:
        name = document.id
        while name in taken:
            repeats[document.id] = repeats.get(document.id, 1) + 1
            name = f"{document.id}#{repeats[document.id]}"
        taken.add(name)
        result.append(document if name == document.id else document._replace(id=name))
    return result
