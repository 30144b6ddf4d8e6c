"""The cases of Algorithm 1 as data, and what is refused."""

import dataclasses

import pytest

from pmpjax.pds.sweep.problem import SolveConfig, Trajectory


def test_the_paper_and_the_default_are_values_of_the_same_loop():
    paper = SolveConfig(trajectory="source", every=10, outer_steps=3, outer_rate=2.0)
    assert paper.trajectories == (Trajectory("source", None, 3, 2.0, 10),) and paper.sweeps == 3
    first, last = SolveConfig(steps=8, batch=4, first_rate=7.0, outer_steps=2).trajectories
    assert first == Trajectory("source", 4 * 8 * 4, 1, 7.0) and last == Trajectory("weights", None, 2, 0.5)


@pytest.mark.parametrize("other", [{"every": 4}, {"trajectory": "source"}, {"add_scores": False}])
def test_scores_are_added_only_where_both_runs_are_at_one_point(other):
    assert SolveConfig(every=None).adds
    assert not dataclasses.replace(SolveConfig(every=None), **other).adds


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"first_instances": 0}, {"every": 0}, {"outer_rate": 0.0}, {"learning_rate": -1.0}],
)
def test_a_value_out_of_range_is_named(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name} {value}, expected"):
        SolveConfig(**wrong)
