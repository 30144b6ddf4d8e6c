"""Noise in the source: what is added, and where the stages rank it."""

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.data import packed_rows
from pmpjax.pds import run_stage
from pmpjax.pds.checks import check_injected, noise_ranks, with_noise
from pmpjax.runs import RunError
from tests.corpora import END, LENGTH, VOCABULARY, prepared_corpus, write_sources
from tests.pds.test_pipeline import config


def test_noise_lies_behind_the_source_and_is_uniform(tmp_path):
    clean = prepared_corpus(tmp_path, documents=400)
    noisy = with_noise(clean, 0.5, seed=0)
    table, before, rows = noisy.documents, len(clean.documents.ids), len(clean.source.tokens)
    parts = ((*data.source[:2], data.source_document) for data in (clean, noisy))
    for old, new in zip(*parts, strict=True):
        np.testing.assert_array_equal(new[:rows], old)
        assert new.dtype == old.dtype
    assert len(set(table.ids)) == len(table.ids) > before
    wanted = 0.5 * clean.documents.n_tokens.sum()
    added = table.n_tokens[before:]
    assert added[:-1].sum() < wanted <= added.sum()
    # The invariants of a prepared source, which the stages rely on.
    np.testing.assert_array_equal(np.bincount(noisy.source_document), table.n_rows)
    np.testing.assert_array_equal(np.cumsum(table.n_rows) - table.n_rows, table.first_row)
    np.testing.assert_array_equal(np.bincount(noisy.source_document, noisy.source.lengths), table.n_tokens)
    for document in range(before, len(table.ids)):
        own = noisy.source_document == document
        tokens = noisy.source.tokens[own][np.arange(LENGTH) < noisy.source.lengths[own][:, None]]
        assert tokens[-1] == END and END not in tokens[:-1]
    packed = packed_rows(noisy, np.arange(before, len(table.ids)))
    tokens = packed.tokens[np.arange(LENGTH) < packed.lengths[:, None]]
    counts = np.bincount(tokens[tokens != END], minlength=VOCABULARY)[1:]
    expected = counts.sum() / len(counts)
    # Chi-square of 22 degrees of freedom: 48 has probability 1e-3, and the draw is always the same.
    assert np.sum((counts - expected) ** 2 / expected) < 48
    assert (with_noise(clean, 0.5, seed=1).source.tokens[rows:][:20] != noisy.source.tokens[rows:][:20]).any()


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\)"):
        with_noise(prepared_corpus(tmp_path), share, seed=0)


@pytest.mark.slow
def test_stages_and_baselines_score_the_noise(tmp_path):
    write_sources(tmp_path)
    settings = config(tmp_path)
    solve = dataclasses.replace(settings.solve, trajectory="source", inner_optimizer="sgd", steps=4)
    fit = dataclasses.replace(settings.fit, epochs=2, save_every=100)
    settings = dataclasses.replace(settings, baselines=("dsir",), solve=solve, fit=fit)
    out, folder = tmp_path / "run", tmp_path / "noise"
    with pytest.raises(ValueError, match="has no stage prepare"):
        check_injected(out, folder, share=0.1)
    prepared = run_stage(settings, out, "prepare")
    kept = {file.name: file.read_bytes() for file in prepared.rglob("*") if file.is_file()}
    found = check_injected(out, folder, share=0.1)
    assert list(found) == ["pds", "dsir"]
    table = pq.read_table(folder / "score" / "scores.parquet").to_pydict()
    noise = sum(name.startswith("noise-") for name in table["id"])
    assert found["pds"] == noise_ranks(np.asarray(table["score"]), len(table["id"]) - noise)
    assert found["dsir"].documents == noise > 3
    # DSIR has the closed form: noise has words of neither language, so it scores lower than all of the wanted one.
    assert found["dsir"].highest < 0.6
    assert {file.name: file.read_bytes() for file in prepared.rglob("*") if file.is_file()} == kept
    stored = (folder / "score" / "scores.parquet").stat().st_mtime_ns
    assert check_injected(out, folder, share=0.1) == found
    assert (folder / "score" / "scores.parquet").stat().st_mtime_ns == stored
    with pytest.raises(RunError, match="share"):
        check_injected(out, folder, share=0.2)
