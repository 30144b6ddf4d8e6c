"""The page of answers behind a context, from metrics by hand."""

import numpy as np
import pytest

from pmpjax.contexts.structured_prompting.report import confusion, verdict, write_report

CLASSES = ("blue", "red", "<b>")
METRICS = {
    "groups": 2,
    "texts": 4,
    "predicted": {"blue": 1, "red": 3, "<b>": 0},
    "accuracy": 0.75,
    "confusion": [[1, 1, 0], [0, 2, 0], [0, 0, 0]],
    "each group alone": {"texts": 2, "accuracies": [0.5, 1.0], "together": 1.0},
    "log weights": [-0.25, 0.5],
}


def test_the_verdict_tells_accuracy_and_the_groups():
    expected = (
        "4 texts behind 2 groups of demonstrations: accuracy 75.0%; on 2 of them 100.0% behind all groups, "
        "and behind one alone 50.0% to 100.0%"
    )
    assert verdict(METRICS) == expected
    assert verdict({"groups": 1, "texts": 1}).endswith("no labels to compare with")


def test_the_confusion_counts_every_text_once():
    labels, chosen = np.array([2, 0, 2, 1]), np.array([2, 1, 0, 1])
    found = confusion(labels, chosen, 3)
    assert found.sum() == 4 and np.trace(found) == (labels == chosen).sum()
    assert found[2, 0] == found[0, 1] == 1


def test_the_page_has_confusion_groups_and_options(tmp_path):
    write_report(tmp_path / "report.html", METRICS, CLASSES, {"task": "colours.csv", "size": None})
    page = (tmp_path / "report.html").read_text()
    assert "<td>50.0%</td>" in page and "<td>no text</td>" in page and "&lt;b&gt;" in page
    assert "standard deviation 35.4%" in page and "+0.500" in page and "colours.csv" in page
    assert "data:image/png;base64" in page and (tmp_path / "groups.pdf").exists()


@pytest.mark.parametrize("missing", ["each group alone", "log weights"])
def test_what_was_not_made_is_not_on_the_page(tmp_path, missing):
    write_report(tmp_path / "report.html", {k: v for k, v in METRICS.items() if k != missing}, CLASSES, {})
    page = (tmp_path / "report.html").read_text()
    assert ("learned log-weight" in page) == (missing != "log weights")
    assert ("accuracy alone" in page) == (missing != "each group alone")


def test_texts_without_labels_are_counted(tmp_path):
    plain = {"groups": 1, "texts": 4, "predicted": METRICS["predicted"]}
    write_report(tmp_path / "report.html", plain, CLASSES, {})
    page = (tmp_path / "report.html").read_text()
    assert "<td>3</td>" in page and "Groups" not in page
