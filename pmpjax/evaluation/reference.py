"""What a run of `pmpjax train` has to beat: the n-gram model of its own training tokens, on its own held-out text."""

import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from pmpjax.data import PackedRows, Rows
from pmpjax.data.storage import read_tokens
from pmpjax.evaluation.ngrams import KneserNey, bits_per_byte
from pmpjax.models import Decoder, label_mask, load_pretrained
from pmpjax.models.layers import apply
from pmpjax.runs.metrics import read_metrics
from pmpjax.statistics import bootstrap


class Comparison(NamedTuple):
    """Bits per byte on the held-out documents.

    Fields:
        decoder: of the trained model.
        ngram: of the Kneser-Ney model, over the same tokens.
        difference: decoder - ngram.
        interval: 95% interval of the difference, a bootstrap over documents.
        documents_better: share of the documents on which the decoder's loss is the lower one.
    """

    decoder: float
    ngram: float
    difference: float
    interval: tuple[float, float]
    documents_better: float


def against_ngrams(run: Path, order: int = 5, length: int = 256, batch: int = 8) -> Comparison:
    """Compares the decoder of a finished run (its export/) with `KneserNey` of the tokens that it was trained on.

    The decoder reads rows of `length` tokens and is not asked for the first token of a document, so neither is the
    n-gram model: the mean over the other tokens stands for it.
    """
    corpus = run / "corpus"
    counts = json.loads((corpus / "counts.json").read_text(encoding="utf-8"))
    train, heldout = (read_tokens(corpus / "tokens", name) for name in ("train", "heldout"))
    model = KneserNey.fit(
        np.concatenate(train), order, vocabulary=counts["vocabulary"], end_of_document=counts["end_of_document"]
    )
    ngram = model.losses(np.concatenate(heldout))
    decoder, asked = _decoder_losses(run, length, batch, len(ngram))
    document = np.repeat(np.arange(len(heldout)), [len(tokens) for tokens in heldout])
    sums = [np.bincount(document[asked], values[asked], minlength=len(heldout)) for values in (decoder, ngram)]
    number = np.bincount(document[asked], minlength=len(heldout)).astype(float)

    def bits(nats: float, tokens: float) -> float:
        return bits_per_byte(nats / tokens * counts["heldout"]["tokens"], counts["heldout"]["bytes"])

    excess = sums[0] - sums[1]
    low, high = bootstrap(lambda drawn: excess[drawn].sum(axis=1) / number[drawn].sum(axis=1), len(heldout))
    return Comparison(
        bits(sums[0].sum(), number.sum()),
        bits(sums[1].sum(), number.sum()),
        bits(excess.sum(), number.sum()),
        (bits(low, 1.0), bits(high, 1.0)),
        float(np.mean(excess[number > 0] < 0)),
    )


def _decoder_losses(run: Path, length: int, batch: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(losses, asked) of every held-out token in stored order, [tokens]: nats, and whether the decoder predicts it."""
    config, params = load_pretrained(run / "export")
    packed = PackedRows(run / "corpus" / "tokens", "heldout", min(length, tokens - 1), keep_last=True)
    found = [packed[index] for index in range(len(packed))]
    rows = Rows(*(np.stack([row[name] for row in found]) for name in Rows._fields))
    rows = jax.tree.map(lambda leaf: np.pad(leaf, ((0, -len(found) % batch), *((0, 0),) * (leaf.ndim - 1))), rows)
    decoder = Decoder(config)
    losses = jax.jit(lambda params, part: apply(decoder, params, part.tokens, part.segments, method="token_losses"))
    parts = [
        losses(params, jax.tree.map(lambda leaf, first=first: leaf[first : first + batch], rows))
        for first in range(0, len(rows.tokens), batch)
    ]
    # Rows overlap by one token: what they predict, one behind the other, are the tokens from the second on.
    flat, asked = np.concatenate(parts).ravel(), np.asarray(label_mask(rows)).ravel() > 0
    return np.append(0.0, flat[: tokens - 1]), np.append(False, asked[: tokens - 1])


def draw_training(run: Path, found: Comparison, order: int, path: Path) -> None:
    """Draws bits per byte on the held-out text against training steps, and the n-gram model's as a line."""
    from pmpjax.runs.plots import figure  # matplotlib, only for those who draw

    lines = [line for line in read_metrics(run / "train" / "metrics") if "heldout_bits_per_byte" in line]
    with figure(path) as (_, panels):
        axes = panels[0, 0]
        axes.plot([line["step"] for line in lines], [line["heldout_bits_per_byte"] for line in lines], label="decoder")
        axes.axhline(found.ngram, linestyle=":", color="C1", label=f"Kneser-Ney {order}-gram")
        axes.set_ylim(top=1.5 * found.ngram)
        axes.set_xlabel("training step")
        axes.set_ylabel("bits per byte, held out")
        axes.legend(loc="upper right")
