"""The stage `prepare`: sources and target to tokenizer, tokens and document index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pmpjax.data import Budget, Document
from pmpjax.data.corpus import STEPS as STEPS
from pmpjax.data.corpus import Preparation, prepare_corpus
from pmpjax.data.splits import split_target
from pmpjax.runs.progress import Bar


@dataclass(frozen=True)
class PrepareConfig:
    """What decides the prepared data, apart from source, target and seed.

    Attributes:
        vocabulary: ids of the tokenizer, which is trained on the source. 2,048 ids take 13% more tokens than 4,096 and
            half the output product, which is most of a small decoder: a fifth less work a byte at d 128, 2 layers.
        length: tokens of a row.
        budget: how much of installed-docs is taken, in bytes by kind.
        dev_bytes: at most this much text of the target for the costate.
        test_bytes: at most this much text of the target for the measurement of the models.
        near_duplicates: Jaccard similarity of 5-word shingles from which a text counts as a copy.
    """

    vocabulary: int = 2048
    length: int = 128
    budget: Budget = field(default_factory=Budget)
    dev_bytes: int = 300_000
    test_bytes: int = 300_000
    near_duplicates: float = 0.7


def prepare(config: PrepareConfig, source: Sequence[str], target: str, seed: int, folder: Path, progress: Bar) -> None:
    """Fills `folder` with everything that `pmpjax.data.load_prepared` reads; see `pmpjax.data.corpus.prepare_corpus`.

    The splits are `source`, `dev` and `test`. A text that is in several is kept in test before dev before source.

    Raises:
        SourceError: as `prepare_corpus` does.
    """

    def split(rest: list[Document], documents: list[Document]) -> Mapping[str, Sequence[Document]]:
        dev, test = split_target(documents, seed)
        return {"test": test, "dev": dev, "source": rest}

    preparation = Preparation(
        tuple(source),
        target,
        split,
        role="target",
        at_most={"dev": config.dev_bytes, "test": config.test_bytes},
        length=config.length,
        vocabulary=config.vocabulary,
        budget=config.budget,
        near_duplicates=config.near_duplicates,
        seed=seed,
    )
    prepare_corpus(preparation, folder, progress)
