"""`pmpjax prototypes predict`: a table in, the same table with predictions out."""

import csv
import dataclasses
import gzip
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from pmpjax.data.documents import Rejection, SourceError, no_good_row, reject_reason
from pmpjax.data.sources.files import UNREADABLE, Broken, unreadable
from pmpjax.data.sources.tables import DELIMITERS, TABLES, read_rows
from pmpjax.prototypes.fine_tuning.storage import load_classifier
from pmpjax.prototypes.fine_tuning.texts import embed_texts, load_text_encoder
from pmpjax.prototypes.fine_tuning.work import check_encoder, read_config, trained_encoder
from pmpjax.runs.files import atomic, write_json
from pmpjax.runs.progress import Bar

ADDED = ("predicted_label", "probability", "abstained", "nearest_1", "nearest_2", "nearest_3")
"""Columns that a table gets."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """What is predicted.

    Attributes:
        data: a table (.csv, .tsv, .jsonl, .parquet).
        run: directory of `pmpjax prototypes fit`.
        text: its column with the texts; as in the fit if absent.
        threshold: below this probability a text is marked as abstained.
        out: the .csv file; NAME.predicted.csv in the table's folder if absent.
    """

    data: tyro.conf.Positional[Path]
    run: Path
    text: str | None = None
    threshold: float = 0.0
    out: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, expected a probability from 0 to 1")
        if self.out is not None and self.out.resolve() == self.data.resolve():
            raise ValueError(f"out is the table itself, {self.data}; give another name")

    @property
    def target(self) -> Path:
        """Where the predictions go."""
        ending = max((one for one in TABLES if self.data.name.lower().endswith(one)), key=len, default="")
        return self.out or self.data.with_name(f"{self.data.name.removesuffix(ending)}.predicted.csv")


class Predicted(NamedTuple):
    """path: of the table. rows: in it. abstained: of them. labels: how often each was given. rejected: bad rows."""

    path: Path
    rows: int
    abstained: int
    labels: dict[str, int]
    rejected: list[Rejection]


def run_predict(config: PredictConfig, progress: Callable[..., AbstractContextManager[Bar]]) -> Predicted:
    """Writes every good row with all its fields, and `ADDED`; bad ones are listed in NAME.rejected.json.

    Raises:
        RunError: no finished run. SourceError: a table that cannot be read, has no such column, or no good row.
        ValueError: a column of the table has the name of an added one; a run that was fitted to numbers.
    """
    fitted = read_config(config.run)
    if fitted.data.partition(":")[0] == "digits":
        raise ValueError(
            f"{config.run} was fitted to the numbers of the task 'digits', and a table has texts; give a run that was "
            "fitted to texts, or predict numbers with PrototypeClassifier in Python"
        )
    stored = load_classifier(config.run / "fit")
    rows, rejected = _rows(config.data, config.text or fitted.text)
    taken = [name for name in ADDED if any(name in row for row in rows)]
    if taken:
        raise ValueError(f"{config.data} has a column {taken[0]!r} already; rename it, or drop earlier predictions")
    texts = [str(row[config.text or fitted.text]) for row in rows]
    with progress("predict", len(texts)) as bar:
        check_encoder(fitted.encoder, config.run)
        encoder = trained_encoder(load_text_encoder(fitted.encoder, pooling=fitted.pooling), config.run)
        states = embed_texts(encoder, texts, bar=bar)
    probabilities, near = stored.model.predict_proba(states), stored.model.nearest_examples(states, 3)
    labels = stored.model.classes_[probabilities.argmax(axis=1)]
    sure = probabilities.max(axis=1)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic(config.target) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*names, *ADDED], restval="")
        writer.writeheader()
        for place, row in enumerate(rows):
            found = [stored.texts[number] for number in near[place]]
            values = [labels[place], f"{sure[place]:.6f}", str(bool(sure[place] < config.threshold)).lower()]
            writer.writerow(row | dict(zip(ADDED, [*values, *found], strict=False)))
    if rejected:
        write_json(config.target.with_suffix(".rejected.json"), [one._asdict() for one in rejected])
    counts = {str(name): int((labels == name).sum()) for name in stored.model.classes_}
    return Predicted(config.target, len(rows), int((sure < config.threshold).sum()), counts, rejected)


def _rows(file: Path, text: str) -> tuple[list[dict[str, Any]], list[Rejection]]:
    """The good rows with all their fields, and the bad ones."""
    if not file.name.lower().endswith(TABLES) or not file.is_file():
        raise SourceError(f"{file.as_posix()} is no table; give a file that ends in {', '.join(TABLES)}")
    rows, rejected, line = [], [], 0
    try:
        names = _columns(file)
        for line, row in read_rows(file, [text, *(name for name in names if name != text)]):
            broken = row if isinstance(row, Broken) else next((v for v in row.values() if isinstance(v, Broken)), None)
            reason = str(broken) if broken is not None or isinstance(row, Broken) else reject_reason(row[text])
            if reason is not None:
                rejected.append(Rejection(file.as_posix(), line, reason))
            elif not isinstance(row, Broken):
                rows.append(row if not names else {name: row[name] for name in names})
    except UNREADABLE as error:
        rejected.append(unreadable(file.as_posix(), line, error))
    if not rows:
        raise no_good_row(file.as_posix(), rejected)
    return rows, rejected


def _columns(file: Path) -> list[str]:
    """Names of all columns, in their order; of .jsonl none, whose rows name their own."""
    name = file.name.lower()
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        return pq.read_schema(file).names
    ending = name.removesuffix(".gz")[-4:]
    if ending not in DELIMITERS:
        return []
    opened = gzip.open(file, "rt", encoding="utf-8-sig", newline="") if name.endswith(".gz") else None
    with opened or file.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as stream:
        return next(csv.reader(stream, delimiter=DELIMITERS[ending]), [])
