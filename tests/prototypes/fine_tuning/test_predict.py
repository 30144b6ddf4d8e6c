"""A table in, the same table with predictions out; bad rows are counted and listed."""

import csv
import dataclasses

import pytest

from pmpjax.data.documents import SourceError
from pmpjax.prototypes.fine_tuning.predict import ADDED, PredictConfig, run_predict
from pmpjax.prototypes.fine_tuning.storage import load_classifier
from pmpjax.runs.files import read_json, write_json
from tests.prototypes.fine_tuning.bars import Bars


def predicted(fitted, path, content, **settings):
    path.write_text(content)
    bars = Bars()
    found = run_predict(PredictConfig(path, fitted.run, **settings), bars)
    with open(found.path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert bars["predict"] == [len(rows), len(rows)] and found.rows == len(rows)
    return found, rows


def test_rows_keep_their_fields_and_get_a_class_and_the_texts_that_explain_it(fitted, tmp_path):
    content = 'who,sentence,when\n"Ann, B.",c d c c d,1\nCy,a a b a b,2\n'
    found, rows = predicted(fitted, tmp_path / "new.csv", content)
    assert list(rows[0]) == ["who", "sentence", "when", *ADDED] and found.path == tmp_path / "new.predicted.csv"
    assert [row["who"] for row in rows] == ["Ann, B.", "Cy"] and [row["when"] for row in rows] == ["1", "2"]
    assert [row["predicted_label"] for row in rows] == ["<b>second</b>", "<b>first</b>"]
    assert found.labels == {"<b>first</b>": 1, "<b>second</b>": 1} and found.abstained == 0
    assert all(0.5 < float(row["probability"]) <= 1 and row["abstained"] == "false" for row in rows)
    texts = load_classifier(fitted.run / "fit").texts
    assert all(rows[0][name] in texts and set(rows[0][name]) <= set("cd ") for name in ADDED[3:])


def test_bad_rows_are_listed_and_unsure_ones_abstain(fitted, tmp_path):
    found, rows = predicted(fitted, tmp_path / "new.csv", 'sentence\na b\n" "\nc d\n', threshold=1.0)
    assert [row["sentence"] for row in rows] == ["a b", "c d"] and len(found.rejected) == 1
    assert [one["line"] for one in read_json(tmp_path / "new.predicted.rejected.json")] == [3]
    assert found.abstained == sum(row["abstained"] == "true" for row in rows) > 0


def test_jsonl_rows_may_have_other_fields_each(fitted, tmp_path):
    content = '{"sentence": "a b", "x": 1}\n{"sentence": "d", "y": "z"}\n'
    _, rows = predicted(fitted, tmp_path / "new.jsonl", content, out=tmp_path / "out.csv")
    assert [(row["x"], row["y"]) for row in rows] == [("1", ""), ("", "z")]


def test_what_cannot_be_predicted_is_refused(fitted, tmp_path):
    def refused(error, words, content="sentence\na\n", name="new.csv", **settings):
        (tmp_path / name).write_text(content)
        with pytest.raises(error, match=words):
            run_predict(PredictConfig(tmp_path / name, **{"run": fitted.run} | settings), Bars())

    refused(ValueError, "a column 'probability' already", "sentence,probability\na,1\n")
    refused(SourceError, "'sentence'", "other\na\n")
    refused(SourceError, "is no table", name="new.txt")
    refused(SourceError, "new.csv", "sentence\n")
    (tmp_path / "digits" / "fit").mkdir(parents=True)
    write_json(tmp_path / "digits" / "config.json", dataclasses.asdict(fitted.config) | {"data": "digits:1,2"})
    refused(ValueError, "numbers of the task 'digits', and a table has texts", run=tmp_path / "digits")
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        PredictConfig(tmp_path / "new.csv", fitted.run, threshold=1.5)
