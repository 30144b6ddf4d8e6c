"""What is written is read as the same bits; files that do not belong together are refused."""

import shutil

import numpy as np
import pytest

from pmpjax.prototypes.fine_tuning import Policy, PrototypeClassifier
from pmpjax.prototypes.fine_tuning.storage import load_classifier, save_classifier
from pmpjax.runs import RunError
from pmpjax.runs.files import read_json, write_json
from tests.prototypes.fine_tuning.test_fit import CORNERS, corners

PLAIN = Policy(per_class=2, steps=0, passes=3)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    states, labels = corners()
    model = PrototypeClassifier(policy=PLAIN).fit(states, np.array(["even", "odd"])[labels])
    folder = tmp_path_factory.mktemp("stored")
    save_classifier(folder, model, [f"text {number}" for number in range(80)])
    return folder, model


def test_a_classifier_comes_back_whole(written):
    folder, model = written
    found = load_classifier(folder)
    np.testing.assert_array_equal(found.model.predict_proba(CORNERS), model.predict_proba(CORNERS))
    np.testing.assert_array_equal(found.model.nearest_examples(CORNERS), model.nearest_examples(CORNERS))
    assert found.texts[79] == "text 79" and found.model.classes_.tolist() == ["even", "odd"]
    assert found.model.levels_ == model.levels_ and found.model.calibrated_ == model.calibrated_
    assert found.model.n_prototypes_.tolist() == [2, 2] and found.model.concentration_ == model.concentration_


def test_files_of_no_classifier_are_refused(written, tmp_path):
    for name, change, message in (
        ("none", lambda folder: (folder / "classifier.npz").unlink(), "has no classifier.npz"),
        ("other", lambda folder: np.savez(folder / "classifier.npz", points=np.ones(3)), "another kind of classifier"),
        ("texts", lambda folder: changed(folder, texts=["one"]), "are not of one classifier"),
        ("classes", lambda folder: changed(folder, classes=["even"]), "are not of one classifier"),
    ):
        folder = shutil.copytree(written[0], tmp_path / name)
        change(folder)
        with pytest.raises(RunError, match=message):
            load_classifier(folder)


def changed(folder, **values):
    write_json(folder / "classifier.json", read_json(folder / "classifier.json") | values)
