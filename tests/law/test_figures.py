"""Figures where their data are special; `test_experiment` draws all of them from a run."""

import numpy as np

from pmpjax.law import figures


def history(sweeps, accepted, areas):
    kept = np.asarray(accepted, float)
    return {"sweep": np.arange(sweeps), "accepted": kept, "value": np.asarray(areas), "acceleration_ratio": kept + 1}


def test_a_refused_trial_keeps_the_last_accepted_policys_numbers():
    found = figures._of_policy(history(5, [1, 0, 1, 0, 0], [9.0, 99.0, 7.0, 98.0, 97.0]), "value")
    assert found.tolist() == [9, 9, 7, 7, 7]


def test_seeds_of_different_lengths_are_drawn_as_far_as_all_go(tmp_path):
    figures.seeds(tmp_path / "seeds", [history(3, [1, 1, 1], [3, 2, 1]), history(4, [1, 0, 1, 1], [4, 9, 3, 2])])
    assert (tmp_path / "seeds.png").stat().st_size > 1000 and (tmp_path / "seeds.pdf").exists()
