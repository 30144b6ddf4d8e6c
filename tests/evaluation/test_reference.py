"""A run against n-grams: the same tokens asked of both, and differences that a plain loop confirms."""

import json

import jax
import numpy as np
import pytest

from pmpjax.data.storage import write_tokens
from pmpjax.evaluation import KneserNey, against_ngrams, draw_training
from pmpjax.models import Decoder, DecoderConfig, initialise, save_pretrained
from pmpjax.runs.metrics import Metrics

CONFIG = DecoderConfig(vocabulary=12, width=8, layers=1, heads=2, key_value_heads=1, hidden=12)
HELDOUT = [[3, 5, 7, 0], [2, 0], [9, 8, 7, 6, 5, 4, 0]]


@pytest.fixture
def run(tmp_path):
    generator = np.random.default_rng(0)
    documents = {"train": [[*generator.integers(1, 12, 6), 0] for _ in range(20)], "heldout": HELDOUT}
    for name, sequences in documents.items():
        parts = [np.asarray(sequence, np.uint16) for sequence in sequences]
        write_tokens(tmp_path / "corpus" / "tokens", name, parts, lengths=True)
    counts = {"vocabulary": 12, "end_of_document": 0, "heldout": {"tokens": 13, "bytes": 40}}
    (tmp_path / "corpus" / "counts.json").write_text(json.dumps(counts))
    params = initialise(Decoder(CONFIG), jax.random.key(0), np.zeros((1, 4), np.int32))
    save_pretrained(tmp_path / "export", CONFIG, params)
    return tmp_path, params, np.concatenate(documents["train"])


def test_both_models_are_asked_for_the_same_tokens(run):
    folder, params, train = run
    found = against_ngrams(folder, order=2, length=100)
    model = KneserNey.fit(train, 2, vocabulary=12, end_of_document=0)
    apply = jax.jit(Decoder(CONFIG).apply)
    ours, theirs = [], []
    for document in HELDOUT:
        log_p = np.asarray(jax.nn.log_softmax(apply({"params": params}, np.asarray([document]))))[0]
        ours.append([-log_p[i, token] for i, token in enumerate(document[1:])])
        theirs.append(model.losses(np.asarray(document))[1:])
    scale = 13 / 40 / np.log(2)
    np.testing.assert_allclose(found.decoder, np.concatenate(ours).mean() * scale, rtol=1e-5)
    np.testing.assert_allclose(found.ngram, np.concatenate(theirs).mean() * scale, rtol=1e-12)
    np.testing.assert_allclose(found.difference, found.decoder - found.ngram, rtol=1e-9)
    assert found.interval[0] <= found.difference <= found.interval[1]
    better = np.mean([np.sum(a) < np.sum(b) for a, b in zip(ours, theirs, strict=True)])
    assert found.documents_better == pytest.approx(better)


def test_a_run_is_drawn_with_what_it_has_to_beat(run):
    folder, _, _ = run
    with Metrics(folder / "train" / "metrics", lambda step, values: {}) as metrics:
        for step in (0, 10, 20):
            metrics.write(step, {"heldout_bits_per_byte": 8.0 / (1 + step)})
    draw_training(folder, against_ngrams(folder, order=2, length=4), 2, folder / "drawn")
    assert (folder / "drawn.png").stat().st_size > 5_000 and (folder / "drawn.pdf").exists()
