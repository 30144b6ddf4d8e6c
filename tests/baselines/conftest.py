"""A corpus of two languages, a decoder small enough for its Hessian to be written out, and a proxy trained on both."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmpjax.data import Prepared, batch_schedule, packed_rows, scheduled_batches
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise, mean_token_loss
from pmpjax.train import OptimizerConfig, adamw, train, train_step
from tests.corpora import LENGTH, VOCABULARY, prepared_corpus


class Setting(NamedTuple):
    """Documents 0, 2, 4, ... are of the target's language; `opt_state` is Adam's at the end of the proxy's training."""

    prepared: Prepared
    decoder: Decoder
    params: Any
    opt_state: Any

    def document_rows(self, document):
        """All rows of a document, and rows without a label until they are as many as the longest document's."""
        table = self.prepared.documents
        rows = np.arange(table.n_rows.max()) + table.first_row[document]
        rows = np.minimum(rows, len(self.prepared.source.tokens) - 1)
        own = self.prepared.source_document[rows] == document
        taken = self.prepared.source.take(rows)
        return jax.tree.map(jnp.asarray, taken._replace(lengths=taken.lengths * own))

    def dev_rows(self):
        return jax.tree.map(jnp.asarray, self.prepared.dev)

    def loss(self, params, rows):
        """The mean loss over the labels of all rows, each row predicted from itself alone."""
        return _loss(self.decoder)(params, rows)

    def gradient(self, params, rows):
        """Its gradient."""
        return _gradient(self.decoder)(params, rows)

    def preferred(self, scores):
        """The share of pairs in which the document of the target's language has the higher score."""
        scores = np.asarray(scores)
        assert scores.shape == (len(self.prepared.documents.ids),) and np.isfinite(scores).all()
        return np.mean(scores[0::2, None] > scores[None, 1::2])


@functools.cache
def _loss(decoder):
    def loss(params, rows):
        total, count = mean_token_loss(decoder)(params, rows)
        return total / count

    return jax.jit(loss)


@functools.cache
def _gradient(decoder):
    return jax.jit(jax.grad(_loss(decoder)))


@pytest.fixture(scope="session")
def setting(tmp_path_factory) -> Setting:
    prepared = prepared_corpus(tmp_path_factory.mktemp("corpus"), documents=40)
    assert prepared.documents.n_rows.max() > 1
    decoder = Decoder(DecoderConfig(VOCABULARY, 8, 1, 2, 1, 12))
    rows = packed_rows(prepared, np.arange(40))
    trained = train(
        train_step(example_losses(decoder), adamw(OptimizerConfig(learning_rate=1e-2, warmup_steps=5))),
        initialise(decoder, jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32)),
        scheduled_batches(rows, batch_schedule(len(rows.tokens), 60, 8, seed=0)),
        60,
    )
    return Setting(prepared, decoder, trained.params, trained.opt_state)
