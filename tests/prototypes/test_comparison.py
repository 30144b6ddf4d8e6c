"""`pmpjax calibrate` on files of scores, whole, without labels and bad."""

import numpy as np
import pytest

from pmpjax.cli import main
from pmpjax.prototypes.calibration import DoubtfulClassWarning
from pmpjax.prototypes.comparison import CalibrateConfig, area_under_curve, run
from pmpjax.runs.progress import progress
from tests.prototypes.test_calibration import BIAS, drawn


@pytest.fixture
def scores(tmp_path):
    def written(**changes):
        x, y = drawn(0)
        arrays = {"logp": x, "labels": y, "content_free": BIAS, "fit": np.arange(len(x)) % 2 == 0, **changes}
        np.savez(tmp_path / "scores.npz", **{name: array for name, array in arrays.items() if array is not None})
        return tmp_path / "scores.npz"

    return written


def results(path, **options):
    return run(CalibrateConfig(path, starts=5, **options), progress)


def test_all_methods_are_measured_on_texts_that_none_has_seen(scores):
    path = scores()
    found = results(path)
    assert list(found) == ["argmax", "contextual", "batch", "prototypical", "supervised"]
    assert all(result.texts == 150 and result.predicted.sum() == 150 for result in found.values())
    assert found["argmax"].accuracy < 0.6 < 0.95 < min(found[m].accuracy for m in ("contextual", "supervised"))
    written = np.load(path.with_suffix(".calibrated.npz"))
    x, y = drawn(0)
    for method, result in found.items():
        assert np.mean(written[method][1::2] == y[1::2]) == result.accuracy
        np.testing.assert_allclose(written[f"{method}_probabilities"], result.calibrator.predict_proba(x))


def test_without_labels_it_predicts_and_claims_nothing(scores):
    found = results(scores(labels=None, fit=None, content_free=None))
    assert list(found) == ["argmax", "batch", "prototypical"]
    assert all(result.accuracy is None and result.auc is None for result in found.values())


def test_named_classes_number_the_columns_and_may_lack_fitted_texts(scores):
    x, y = drawn(0)
    fit = (np.arange(len(x)) % 2 == 0) & (y == 0)
    found = results(scores(classes=np.array(["yes", "no", "maybe"]), fit=fit), method="contextual")["contextual"]
    assert list(found.names) == ["yes", "no", "maybe"] and found.accuracy > 0.95


def test_a_shift_of_the_scores_does_not_change_the_area():
    (x, y), shift = drawn(0, bias=np.zeros(2)), np.array([5.0, 0.0])
    areas = [area_under_curve(np.exp(z) / np.exp(z).sum(1, keepdims=True), y) for z in (x, x + shift, np.zeros_like(x))]
    assert areas[0] == pytest.approx(areas[1], abs=1e-3) and areas[0] > 0.9 and areas[2] == 0.5
    assert area_under_curve(np.ones((4, 2)), np.zeros(4, int)) is None


def test_the_command_shows_a_table_and_names_bad_files(scores, tmp_path, capsys):
    assert main(["calibrate", str(scores()), "--starts", "3"]) == 0
    shown = capsys.readouterr().out
    assert "prototypical" in shown and "AUC" in shown
    text = tmp_path / "text.npz"
    text.write_text("no arrays")
    np.savez(tmp_path / "other.npz", scores=np.ones((3, 2)))
    for path, named in ((text, "text.npz"), (tmp_path / "other.npz", "logp"), (tmp_path / "absent.npz", "absent.npz")):
        assert main(["calibrate", str(path)]) == 2
        assert named in capsys.readouterr().err
    assert main(["calibrate", str(scores(labels=np.zeros(3)))]) == 2
    assert "labels has the shape [3] for 300 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": np.where(np.arange(300) == 1, 9, drawn(0)[1])}, "1 labels, the first of them 9 of row 1"),
        ({"fit": np.arange(300)}, "it is a mask"),
        ({"fit": np.zeros(300, bool)}, "marks no text"),
        ({"classes": np.array(["a", "b"])}, "classes has the shape [2] for 3 columns"),
        ({"classes": np.array(["a", "b", "c"]), "labels": drawn(0)[1] + 1}, "not the numbers 0 to 2"),
        ({"logp": np.float64(1)}, "logp is float64 []"),
        ({"logp": np.array([["a", "b"]])}, "logp is <U1 [1, 2]"),
    ],
)
def test_arrays_that_mean_something_else_are_named(scores, changes, named):
    with pytest.raises(ValueError) as caught:
        results(scores(**changes))
    assert named in str(caught.value)


def test_a_class_without_fitted_texts_costs_the_supervised_method_alone(scores):
    x, y = drawn(0)
    path = scores(classes=np.array(["[yes]", "no", "maybe"]), fit=(np.arange(len(x)) % 2 == 0) & (y != 2))
    with pytest.warns(DoubtfulClassWarning):
        assert list(results(path)) == ["argmax", "contextual", "batch", "prototypical"]
    with pytest.raises(ValueError, match="each column needs a class"):
        results(path, method="supervised")


def test_names_of_classes_are_shown_as_they_are(scores, capsys):
    assert main(["calibrate", str(scores(classes=np.array(["[yes]", "[/no]", "maybe"]))), "--method", "argmax"]) == 0
    assert "[yes]" in (shown := capsys.readouterr().out) and "[/no]" in shown
