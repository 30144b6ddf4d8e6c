"""The page of a fit: its figures are those of the predictions, and texts are data."""

import numpy as np
import pytest

from pmpjax.evaluation.tasks import make_task
from pmpjax.prototypes.fine_tuning import Policy, PrototypeClassifier
from pmpjax.prototypes.fine_tuning.report import verdict, write_report
from pmpjax.prototypes.fine_tuning.storage import Stored
from tests.prototypes.fine_tuning.test_fit import corners

SCRIPT = "<script>alert({})</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page whose texts and first class are markup; of eight test texts six are right, four of them surely."""
    names = ["<i>even</i>", "odd"]
    pairs = [(SCRIPT.format(number), names[number // 2 % 2]) for number in range(80)]
    task = make_task("toy", pairs, seed=0)
    states, labels = corners()
    policy = Policy(per_class=2, steps=0, passes=3)
    model = PrototypeClassifier(policy=policy).fit(states, np.array(names)[labels])
    test = task.splits["test"][:8]
    right = np.array([0.97] * 4 + [0.6] * 2 + [0.4, 0.1])
    probabilities = np.where(np.arange(2) == task.labels[test][:, None], right[:, None], 1 - right[:, None])
    metrics = {
        "task": {"duplicates": 3, "conflicting": 0, "rejected": 1},
        "accuracy": 0.75,
        "test": 8,
        "prototypes": dict(zip(names, [2, 2], strict=True)),
        "baselines": {"1-NN": 0.5},
    }
    texts = [text for text, _ in pairs]
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, task, metrics, Stored(model, texts), probabilities, test)
    return path.read_text(), metrics, task, Stored(model, texts)


def test_texts_and_classes_are_escaped(page):
    assert "<script>alert" not in page[0] and "<i>even" not in page[0]
    assert page[0].count("&lt;script&gt;alert(") == 12 and "&lt;i&gt;even&lt;/i&gt;" in page[0]


def test_abstention_and_confusion_are_counted(page):
    cells = " ".join(page[0].split()).replace("</td> <td>", "</td><td>")
    assert "<td>0</td><td>100.0%</td><td>75.0%</td>" in cells
    assert "<td>0.9</td><td>62.5%</td><td>80.0%</td>" in cells
    assert "3 duplicates, 0 conflicting, 1 rejected" in cells
    assert "Cross-validation chose the concentration" in cells


def test_the_verdict_is_a_sentence_and_a_page_needs_no_test_texts(page, tmp_path):
    _, metrics, task, stored = page
    assert verdict(metrics) == (
        "4 prototypes of 2 classes: accuracy 75.0% on 8 texts that were not fitted (1-NN 50.0%)"
    )
    write_report(tmp_path / "page.html", task, metrics | {"accuracy": None}, stored, np.zeros((0, 2)), np.zeros(0, int))
    text = (tmp_path / "page.html").read_text()
    assert "no text was left to test them on" in text and "Confusion" not in text
