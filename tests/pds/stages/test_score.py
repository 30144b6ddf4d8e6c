"""The stage `score`: whole, killed, corrupted, and with rows whose score is known."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmpjax.pds.stages.score import build_score
from pmpjax.scoring.engine import computed_tokens, predict, score_shard
from pmpjax.scoring.shards import prepared_shards
from pmpjax.train.model import forward_flops
from tests.corpora import LENGTH, Recorder, prepared_corpus
from tests.killing import kill, start
from tests.scoring.test_engine import CONFIG, DECODER, MODEL, scorer_params


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    prepared = prepared_corpus(tmp_path_factory.mktemp("corpus"))
    return prepared, scorer_params(prepared)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    build_score(CONFIG, MODEL, *corpus, folder, Recorder())
    return folder


def test_the_stage_is_the_scored_shards_one_behind_the_other(corpus, whole):
    prepared, params = corpus
    table = pq.read_table(whole / "scores.parquet")
    assert table.column_names == ["id", "score", "rows", "tokens"]
    assert table["id"].to_pylist() == list(prepared.documents.ids)
    np.testing.assert_array_equal(table["rows"], prepared.documents.n_rows)
    np.testing.assert_array_equal(table["tokens"], prepared.documents.n_tokens)
    (one,) = prepared_shards(prepared, 10**9)
    shards = prepared_shards(prepared, CONFIG.shard)
    assert len(shards) > 2
    for shard in shards[:2]:
        (of_shard,) = (np.flatnonzero(np.isin(prepared.documents.ids, shard.ids)),)
        assert score_shard(DECODER, params, shard, CONFIG).equals(table.take(of_shard))
    # Another cut into shards puts rows into other batches, and at most rounds them otherwise.
    np.testing.assert_allclose(score_shard(DECODER, params, one, CONFIG)["score"], table["score"], rtol=1e-5, atol=1e-6)

    facts = json.loads((whole / "score.json").read_text())
    computed = sum(computed_tokens(shard.lengths, LENGTH, CONFIG) for shard in shards)
    assert facts["flops"] == forward_flops(DECODER, computed, output=False)
    assert facts["padding"] == pytest.approx(1 - prepared.source.lengths.sum() / computed)
    assert (facts["documents"], facts["rows"]) == (60, len(prepared.source.tokens))
    assert facts["not_finite"] == {"documents": 0, "first": []} and facts["recomputed"] == []
    assert {path.name for path in whole.iterdir()} == {"score.json", "scores.parquet"}


class Dying(Recorder):
    """A bar that ends the work when more than `rows` are done."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def update(self, advance=1, **fields):
        super().update(advance, **fields)
        if self.done > self.rows:
            raise KeyboardInterrupt


def test_scoring_goes_on_with_the_shards_that_are_not_whole(corpus, whole, tmp_path):
    prepared, _ = corpus
    with pytest.raises(KeyboardInterrupt):
        build_score(CONFIG, MODEL, *corpus, tmp_path, Dying(100))
    kept = sorted((tmp_path / "shards").iterdir())
    assert len(kept) == 2 and not (tmp_path / "scores.parquet").exists()
    written = kept[0].stat().st_mtime_ns
    content = kept[1].read_bytes()
    kept[1].write_bytes(content[: len(content) // 2])

    with pytest.raises(KeyboardInterrupt):  # the first shard is whole: no batch is needed to have its rows done
        build_score(CONFIG, MODEL, *corpus, tmp_path, Dying(0))
    assert kept[0].stat().st_mtime_ns == written
    build_score(CONFIG, MODEL, *corpus, tmp_path, bar := Recorder())
    assert bar.done == len(prepared.source.tokens)
    assert (tmp_path / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()
    assert json.loads((tmp_path / "score.json").read_text())["recomputed"] == [kept[1].name]
    assert not kept[0].parent.exists()

    kept[0].parent.mkdir()  # a kill while the shards are removed
    kept[0].write_bytes(b"")
    written = (tmp_path / "scores.parquet").stat().st_mtime_ns
    build_score(CONFIG, MODEL, *corpus, tmp_path, Recorder())
    assert (tmp_path / "scores.parquet").stat().st_mtime_ns == written and not kept[0].parent.exists()


SCRIPT = """
import sys, time
from pathlib import Path
import tests.conftest  # the settings of this process: another level of optimisation rounds otherwise
from tests.corpora import Recorder, prepared_corpus
from tests.scoring.test_engine import CONFIG, MODEL, scorer_params
from pmpjax.pds.stages.score import build_score

class Slow(Recorder):
    def update(self, advance=1, **fields):
        time.sleep(0.05)  # work that can be killed between two shards

folder = Path(sys.argv[1])
prepared = prepared_corpus(folder)
build_score(CONFIG, MODEL, prepared, scorer_params(prepared), folder / "out", Slow())
"""


@pytest.mark.slow
def test_a_killed_process_leaves_whole_shards_and_the_same_result(corpus, whole, tmp_path):
    out = tmp_path / "out"
    for shards in (1, 3):
        process = start("-c", SCRIPT, tmp_path)
        kill(process, lambda shards=shards: len(list((out / "shards").glob("rows-*.parquet"))) >= shards)
        assert not (out / "score.json").exists()
    build_score(CONFIG, MODEL, *corpus, out, Recorder())
    assert (out / "scores.parquet").read_bytes() == (whole / "scores.parquet").read_bytes()
    assert json.loads((out / "score.json").read_text())["recomputed"] == []


def test_scores_that_are_not_finite_are_counted_and_listed(corpus, tmp_path):
    prepared, params = corpus
    bad = prepared.source.tokens[prepared.documents.first_row[3], 0]
    having = np.unique(prepared.source_document[(prepared.source.tokens[:, 0] == bad)])
    embedding = params["trunk"]["embedding"].at[bad].set(np.nan)
    broken = {**params, "trunk": {**params["trunk"], "embedding": embedding}}
    build_score(CONFIG, MODEL, prepared, broken, tmp_path, Recorder())
    found = json.loads((tmp_path / "score.json").read_text())["not_finite"]
    scores = pq.read_table(tmp_path / "scores.parquet")["score"].to_numpy()
    names = prepared.documents.ids[~np.isfinite(scores)].tolist()
    assert found == {"documents": len(names), "first": names}
    assert set(prepared.documents.ids[having]) <= set(names) and len(names) < 60


def test_rows_that_the_sweep_evaluated_keep_their_score_and_the_others_have_the_prediction(corpus, tmp_path):
    prepared, params = corpus
    rows = np.flatnonzero(np.arange(len(prepared.source.tokens)) % 3 > 0)
    target = np.random.default_rng(0).normal(size=len(rows)).astype(np.float32)
    pq.write_table(pa.table({"row": rows, "target": target}), tmp_path / "targets.parquet")
    expected = predict(DECODER, params, prepared.source.tokens, prepared.source.lengths, CONFIG)
    expected[rows] = target
    weights = prepared.source.lengths.astype(float)
    means = np.bincount(prepared.source_document, expected * weights) / np.bincount(prepared.source_document, weights)
    for rows_are in ("measured", "predicted"):
        measured = rows_are == "measured"
        config, folder = dataclasses.replace(CONFIG, known_rows=rows_are), tmp_path / rows_are
        build_score(config, MODEL, *corpus, folder, Recorder(), targets=tmp_path / "targets.parquet")
        found = pq.read_table(folder / "scores.parquet")["score"].to_numpy()
        assert np.allclose(found, means, rtol=1e-5, atol=1e-6) == measured
        assert json.loads((folder / "score.json").read_text())["measured"] == measured * len(rows)


def test_measured_scores_without_their_file_are_an_error_that_names_it(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"targets\.parquet"):
        build_score(dataclasses.replace(CONFIG, known_rows="measured"), MODEL, *corpus, tmp_path, Recorder())
