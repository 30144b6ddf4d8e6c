"""The stage evaluate: what it leaves in its folder."""

from pmpjax.evaluation.comparison import compare_curves
from pmpjax.pds.stages.evaluate import EvaluateConfig, build_evaluate, load_evaluation, title
from tests.evaluation.test_comparison import curves


def test_the_folder_holds_the_comparison_and_its_figure(tmp_path):
    given = curves([2.0, 4.0])
    build_evaluate(EvaluateConfig(smoothing=1), given, "pds", tmp_path)
    assert load_evaluation(tmp_path) == compare_curves(given, "pds", "random", smoothing=1)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "curves.png", "curves.pdf"}


def test_methods_have_titles():
    assert (title("pds"), title("pds-receding"), title("influence")) == ("PDS", "PDS, receding horizon", "influence")
