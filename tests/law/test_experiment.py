"""The experiment improves the policy, reports it truly, and resumes bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pmpjax.law import LawConfig, PerceptronProblem, optimise, run
from pmpjax.law.experiment import setting
from pmpjax.runs import RunError, read_arrays
from tests.killing import kill, start

SMALL = LawConfig(
    problem=PerceptronProblem(dimension=16, train=64, dev=32, test=32, steps=40, learning_rate=0.3),
    sweeps=24,
)
DESIGNED = {"acceleration_ratio", "area_under_curve", "kkt_spread", "law_spread", "sweeps", "seconds", "solver", "seed"}


def history_of(directory):
    arrays = read_arrays(directory / "solve" / "history.npz")
    return {name: array for name, array in arrays.items() if name != "seconds"}


def assert_same_run(one, other):
    for name, array in history_of(one).items():
        np.testing.assert_array_equal(array, history_of(other)[name], err_msg=name)
    policies = [read_arrays(directory / "solve" / "policy.npz")["policy"] for directory in (one, other)]
    np.testing.assert_array_equal(*policies)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("law") / "whole"
    return directory, run(SMALL, directory)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """`whole` draws them once (a module's fixture comes first); the other runs would mostly draw."""
    monkeypatch.setattr("pmpjax.law.report.draw", lambda *_: None)


@pytest.mark.parametrize("solver", ["mirror", "proximal", "frank-wolfe"])
def test_every_solver_lowers_the_area_and_stays_feasible(solver, tmp_path):
    metrics = run(replace(SMALL, solver=solver, sweeps=10), tmp_path / "run")
    area = metrics["area_under_curve"]
    assert area["final"] < 0.97 * area["initial"]
    policy = read_arrays(tmp_path / "run" / "solve" / "policy.npz")["policy"]
    assert policy.min() >= 0 and np.allclose(policy.sum(1), 1, atol=1e-5)


def test_metrics_are_complete_and_agree_with_training_again(whole):
    directory, metrics = whole
    stored = json.loads((directory / "metrics.json").read_text())
    assert stored.keys() == metrics.keys() and stored.keys() >= DESIGNED
    assert stored["sweeps"] == len(stored["history"]["sweep"]) == 24 and stored["seed"] == 0
    bench = setting(SMALL, 0)
    curve = bench.retrain(read_arrays(directory / "solve" / "policy.npz")["policy"])
    assert stored["area_under_curve"]["final"] == pytest.approx(float(curve["dev"].sum()), rel=1e-5)
    accepted = np.array(stored["history"]["accepted"], bool)
    best = np.array(stored["history"]["value"])[accepted]
    assert np.all(np.diff(best) < 0) and best[-1] == pytest.approx(stored["area_under_curve"]["final"], rel=1e-5)
    assert stored["acceleration_ratio"] == pytest.approx(stored["history"]["acceleration_ratio"][-1])
    assert stored["kkt_spread"]["final"] < stored["kkt_spread"]["initial"]


def test_figures_are_there_twice(whole):
    names = {"loss_curves", "convergence", "spread_of_contributions", "weights", "scaling_law"}
    files = {path.name for path in (whole[0] / "figures").iterdir()}
    assert files == {"manifest.json"} | {f"{name}{suffix}" for name in names for suffix in (".png", ".pdf")}
    page = (whole[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(names) and f"{whole[1]['acceleration_ratio']:.1f} times" in page


def test_interrupted_anywhere_it_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    class Interrupting:
        def __init__(self, after):
            self.left = after

        def update(self, advance=1, **fields):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    class Opened:
        def __init__(self, bar):
            self.bar = bar

        def __enter__(self):
            return self.bar

        def __exit__(self, *_):
            return False

    for after in (3, 9):  # twice, the second time in a run that was resumed
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("pmpjax.law.experiment.progress", lambda *_, after=after, **__: Opened(Interrupting(after)))
            run(SMALL, tmp_path / "run")
    assert (tmp_path / "run" / "solve.partial" / "resume.npz").exists()
    run(SMALL, tmp_path / "run")
    assert_same_run(whole[0], tmp_path / "run")


KILLED = """
import sys
from dataclasses import replace
from pathlib import Path
from pmpjax.law import optimise
from tests import conftest  # the same compiler options: bit for bit means the same program
from tests.law.test_experiment import SMALL, run
optimise._SAVE_SECONDS = 0.0
run(SMALL, Path(sys.argv[1]))
"""


def test_killed_it_goes_on_bit_for_bit(whole, tmp_path):
    directory = tmp_path / "run"
    kill(start("-c", KILLED, directory), (directory / "solve.partial" / "resume.npz").exists)
    assert not (directory / "solve").exists(), "killed in the middle"
    run(SMALL, directory)
    assert_same_run(whole[0], directory)


def test_a_finished_run_is_only_read(whole, monkeypatch):
    directory, _ = whole
    monkeypatch.setattr(optimise, "optimise", lambda *_, **__: pytest.fail("solved again"))
    before = (directory / "metrics.json").read_bytes()
    run(SMALL, directory)
    assert (directory / "metrics.json").read_bytes() == before
    with pytest.raises(RunError, match=r"sweeps: 24 before, 25 now"):
        run(replace(SMALL, sweeps=25), directory)


def test_several_seeds_give_means_and_intervals(tmp_path):
    config, directory = replace(SMALL, sweeps=4, seeds=(0, 1)), tmp_path / "mirror"
    metrics = run(config, directory)
    each = [json.loads((directory / f"seed-{seed}" / "metrics.json").read_text()) for seed in (0, 1)]
    areas = [one["area_under_curve"]["final"] for one in each]
    assert metrics["area_under_curve"]["final"] == pytest.approx(np.mean(areas))
    assert metrics["per_seed"]["area_under_curve.final"] == areas and metrics["seed"] == [0, 1]
    assert metrics["per_seed"]["seconds_to.5.5"] == [one["seconds_to"]["5.5"] for one in each]
    low, high = metrics["interval"]["area_under_curve.final"]
    half = 12.7062 * np.std(areas, ddof=1) / np.sqrt(2)  # Student's t, 97.5%, 1 degree of freedom
    assert (high - low) / 2 == pytest.approx(half, rel=1e-4)
    assert metrics.keys() >= DESIGNED and (directory / "figures" / "seeds.pdf").exists()


def test_early_stopping_keeps_the_policy_that_was_best_on_the_third_split(tmp_path):
    problem = replace(SMALL.problem, dev=4, steps=80)  # four examples are soon overfitted
    run(replace(SMALL, problem=problem, sweeps=60, patience=3), tmp_path / "run")
    history = history_of(tmp_path / "run")
    areas = history["holdout"].sum(1, dtype=np.float64)
    assert len(history["sweep"]) < 60 and len(areas) - 1 - areas.argmin() == 3, "stopped three accepted sweeps later"
    curves = read_arrays(tmp_path / "run" / "retrain" / "curves.npz")
    np.testing.assert_allclose(curves["dev_optimised"][:-1], history["dev"][areas.argmin()], rtol=1e-4)


def test_without_noise_there_is_no_noisy_group_and_no_failure(tmp_path):
    metrics = run(replace(SMALL, problem=replace(SMALL.problem, noise=0.0), sweeps=3), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["noisy_weight"] is None
    assert metrics["area_under_curve"]["final"] < metrics["area_under_curve"]["initial"]


def test_diverging_training_is_named_with_the_option_to_change(tmp_path):
    problem = replace(SMALL.problem, learning_rate=1e38)
    with pytest.raises(ValueError, match=r"not finite.*--problem\.learning-rate"):
        run(replace(SMALL, problem=problem), tmp_path / "run")
