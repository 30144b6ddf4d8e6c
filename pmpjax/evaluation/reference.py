"""What a run of `pmpjax train` has to beat: the n-gram model of its own training tokens, on its own held-out text."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pmpjax.data.storage import read_tokens
from pmpjax.evaluation.ngrams import KneserNey, bits_per_byte
from pmpjax.runs.metrics import read_metrics
from pmpjax.runs.plots import figure


def ngram_bits_per_byte(corpus: Path, order: int = 5) -> float:
    """Bits a byte of `KneserNey` on the held-out tokens of a corpus, counted as `pmpjax train` counts its own.

    The decoder is not asked for the first token of a document, so neither is the n-gram model: the mean over the
    others stands for it.

    Args:
        corpus: the folder of the stage `corpus` (tokens/, counts.json).
        order: tokens of the longest n-gram.
    """
    counts = json.loads((corpus / "counts.json").read_text(encoding="utf-8"))
    train, heldout = (read_tokens(corpus / "tokens", name) for name in ("train", "heldout"))
    model = KneserNey.fit(
        np.concatenate(train), order, vocabulary=counts["vocabulary"], end_of_document=counts["end_of_document"]
    )
    first = np.cumsum([0, *(len(document) for document in heldout[:-1])])
    losses = np.delete(model.losses(np.concatenate(heldout)), first)
    return bits_per_byte(losses.mean() * counts["heldout"]["tokens"], counts["heldout"]["bytes"])


def draw_training(run: Path, reference: Mapping[str, float], path: Path) -> None:
    """Draws bits a byte on the held-out text against training steps, with the values of other models as lines."""
    lines = [line for line in read_metrics(run / "train" / "metrics") if "heldout_bits_per_byte" in line]
    with figure(path) as (_, panels):
        axes = panels[0, 0]
        axes.plot([line["step"] for line in lines], [line["heldout_bits_per_byte"] for line in lines], label="decoder")
        for index, (name, value) in enumerate(reference.items()):
            axes.axhline(value, linestyle=":", color=f"C{index + 1}", label=name)
        axes.set_ylim(top=1.5 * max(reference.values()))
        axes.set_xlabel("training step")
        axes.set_ylabel("bits a byte, held out")
        axes.legend()
