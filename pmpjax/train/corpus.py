"""The first stage of a training run: sources to a tokenizer, token shards and a held-out part that is never seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pmpjax.data import Budget, Document, SourceError
from pmpjax.data.corpus import Preparation, prepare_corpus
from pmpjax.data.documents import within_budget
from pmpjax.data.splits import hold_out
from pmpjax.data.tokenizer import END_OF_DOCUMENT
from pmpjax.runs.progress import Bar


@dataclass(frozen=True)
class CorpusConfig:
    """What decides the tokens that a model is trained and measured on.

    Attributes:
        source: sources to train on: installed-docs, files, folders, tfds:NAME[@SPLIT], hf:NAME[@SPLIT], tinystories,
            story-grammar.
        heldout: one source to measure on; installed-docs:PACKAGE[,PACKAGE...] is taken out of the source, and so is
            every copy of a held-out text. A share, "5%", holds out whole files or packages of the source itself.
        source_bytes: at most this much text of the source, a random part of it; None takes all. Copies are searched in
            memory, which takes some thirty times the text.
        heldout_bytes: at most this much held-out text.
        tokenizer: path of any tokenizer.json; None trains byte-level BPE on the source.
        end_token: the token of that tokenizer that ends a document, "<|endoftext|>" or "</s>" in many.
        vocabulary: ids of a trained tokenizer.
        budget: how much of installed-docs is taken, in bytes by kind.
        near_duplicates: Jaccard similarity of 5-word shingles from which a text counts as a copy.
        seed: of the sample of installed-docs and the order of documents.
    """

    source: tuple[str, ...] = ("installed-docs",)
    heldout: str = "installed-docs:scipy"
    source_bytes: int | None = None
    heldout_bytes: int = 500_000
    tokenizer: str | None = None
    end_token: str = END_OF_DOCUMENT
    vocabulary: int = 4096
    budget: Budget = field(default_factory=Budget)
    near_duplicates: float = 0.7
    seed: int = 0


def build_corpus(config: CorpusConfig, folder: Path, progress: Bar) -> None:
    """Fills `folder` as `pmpjax.data.corpus.prepare_corpus` does, with the splits `train` and `heldout`.

    Raises:
        SourceError: see `prepare_corpus`; or the share that is held out is none.
    """
    share = _share(config.heldout)

    def split(source: list[Document], heldout: list[Document]) -> Mapping[str, Sequence[Document]]:
        if config.source_bytes is not None:
            source = within_budget(source, config.source_bytes, config.seed)
        if share:
            source, heldout = hold_out(source, share, config.seed)
        return {"heldout": heldout, "train": source}

    preparation = Preparation(
        config.source,
        None if share else config.heldout,
        split,
        at_most={"heldout": config.heldout_bytes},
        tokenizer=config.tokenizer,
        end_token=config.end_token,
        vocabulary=config.vocabulary,
        budget=config.budget,
        near_duplicates=config.near_duplicates,
        seed=config.seed,
    )
    prepare_corpus(preparation, folder, progress)


def _share(heldout: str) -> float | None:
    """The fraction that "5%" names; None for the name of a source."""
    if not heldout.endswith("%"):
        return None
    try:
        share = float(heldout[:-1]) / 100
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise SourceError(f"heldout is {heldout!r}; a share lies between 0% and 100%, or name a source")
    return share
