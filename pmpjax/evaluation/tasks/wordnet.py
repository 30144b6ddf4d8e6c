"""WordNet's noun glosses -> their category, from Debian's package `wordnet-base` or from a small extract of it."""

import csv
import gzip
import io
from collections import Counter
from pathlib import Path

from pmpjax.data.documents import SourceError
from pmpjax.data.sources.tables import read_table
from pmpjax.evaluation.tasks.make import Sizes, make_task
from pmpjax.evaluation.tasks.task import Task

CATEGORIES = tuple(
    """
    Tops act animal artifact attribute body cognition communication event feeling food group location motive object
    person phenomenon plant possession process quantity relation shape state substance time
    """.split()
)
"""Names of WordNet's lexicographer files 3 to 28, lexnames(5WN): noun.Tops to noun.time."""

INSTALLED = Path("/usr/share/wordnet")
EXTRACT = Path(__file__).with_name("wordnet_glosses.tsv.gz")
SIZES = Sizes(classes=16, per_class=400)
"""What the extract holds. From the whole database the same sizes, or smaller ones, give the same task."""


def wordnet(*, seed: int = 0, sizes: Sizes = SIZES, folder: Path | None = None) -> Task:
    """Glosses of noun synsets -> one of 16 categories (act, animal, ..., substance).

    A gloss is the definition alone, without its examples of use: "the trait of being dutiful" -> attribute.
    Source: WordNet 3.0, Princeton University; its licence is in `wordnet_licence.txt`, in this folder.

    Args:
        folder: with WordNet's `data.noun`; None means where `wordnet-base` puts it, and the extract where it is not
            installed. With sizes up to the default ones both give the same task.

    Raises:
        SourceError: more is asked for than the extract has.
    """
    if folder is None and (INSTALLED / "data.noun").exists():
        folder = INSTALLED
    if folder is not None:
        return make_task("wordnet", glosses(folder), seed=seed, sizes=sizes, source=f"{folder.as_posix()}/data.noun")
    held = (SIZES.classes or 0, SIZES.per_class or 0)
    if (sizes.classes or 27) > held[0] or (sizes.per_class or 10**9) > held[1]:
        raise SourceError(
            f"the extract of WordNet has {held[0]} classes of {held[1]} glosses, asked for {sizes.classes or 'all'} "
            f"classes of {sizes.per_class or 'all'}; install Debian's wordnet-base, or give the folder of data.noun"
        )
    table = read_table(EXTRACT)
    pairs = list(zip(table.texts, table.labels, strict=True))
    return make_task("wordnet", pairs, seed=seed, sizes=sizes, source="extract of WordNet 3.0")


def glosses(folder: Path) -> list[tuple[str, str]]:
    """(definition, category) of each noun synset in `data.noun`, wndb(5WN).

    Raises:
        SourceError: no such file, or a line that is none of this format.
    """
    file = folder / "data.noun"
    if not file.is_file():
        raise SourceError(f"{file.as_posix()} does not exist; install Debian's wordnet-base, or name another folder")
    pairs = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("  "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        category = fields.split(" ")[1:2]
        if not gloss or not category[0].isdigit() or not 3 <= int(category[0]) <= 28:
            raise SourceError(f"{file.as_posix()}:{number} is no synset of nouns; give data.noun of WordNet 3")
        definition = gloss.split('; "')[0].strip()
        pairs.append((definition, CATEGORIES[int(category[0]) - 3]))
    return pairs


def write_extract(folder: Path, file: Path = EXTRACT) -> Task:
    """Writes what `SIZES` keeps of the whole database as a table of texts and labels; the same bytes each time."""
    found = glosses(folder)
    task = make_task("wordnet", found, seed=0, sizes=SIZES)
    text = io.StringIO(newline="")
    rows = csv.writer(text, delimiter="\t", lineterminator="\n")
    rows.writerow(("text", "label"))
    # Of classes of one size the task keeps those that come first: the largest of the whole database.
    size = Counter(category for _, category in found)
    pairs = [(text, task.classes[label]) for text, label in zip(task.texts, task.labels, strict=True)]
    for category, _ in size.most_common():
        rows.writerows(sorted(pair for pair in pairs if pair[1] == category))
    file.write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))
    return task
