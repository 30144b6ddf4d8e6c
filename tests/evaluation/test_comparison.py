"""Comparison of methods: the sentence and the numbers for curves whose answer is known."""

import numpy as np
import pytest

from pmpjax.evaluation.comparison import at_equal_cost, compare_curves, comparison, comparison_table, verdict
from pmpjax.statistics import Speedup, paired_difference

STEPS = np.arange(0, 401, 20)


def curves(rates):
    """One seed a rate: the selected run learns `rate` times as fast as the random one."""
    fall = {("random", seed): 1.0 for seed in range(len(rates))} | {("pds", s): rate for s, rate in enumerate(rates)}
    return {
        key: {"steps": STEPS, "test": 6 - STEPS * rate / 200, "dev": 5 - STEPS * rate / 200, "train": np.zeros(400)}
        for key, rate in fall.items()
    }


def straight(falls):
    """{(method, seed): curves} that fall by `falls[method][seed]` in all."""
    return {
        (name, seed): {"steps": STEPS, **{split: 6 - STEPS * fall / 400 for split in ("test", "dev")}}
        for name, per_seed in falls.items()
        for seed, fall in enumerate(per_seed)
    }


def test_numbers_of_a_known_case():
    found = compare_curves(curves([2.0, 4.0]), "pds", "random")
    assert found["speedup"]["test"] == pytest.approx([2, 4])
    assert found["speedup"]["dev"] == pytest.approx([2, 4])
    assert found["steps_needed"]["test"] == pytest.approx([200, 100])
    assert found["final_loss"]["test"]["random"] == pytest.approx([4, 4])
    assert found["final_loss"]["test"]["pds"] == pytest.approx([2, -2])
    assert "150 of 400 steps (3.00x" in found["verdict"] and "mean over 2 seeds" in found["verdict"]


def test_final_losses_are_those_of_the_decay_branch_and_steps_of_the_constant_rate():
    given = curves([2.0, 4.0])
    for (method, seed), one in given.items():
        one["decayed_test"], one["decayed_dev"] = np.float32(3 - seed - (method == "pds")), np.float32(2)
    found = compare_curves(given, "pds", "random")
    assert found["final_loss"]["test"] == {"pds": [2, 1], "random": [3, 2]}
    assert found["constant_rate_loss"]["test"]["random"] == pytest.approx([4, 4])
    assert found["speedup"]["test"] == pytest.approx([2, 4])


def test_a_selection_that_is_worse_never_reaches_the_baselines_end():
    found = compare_curves(curves([0.5]), "pds", "random")
    assert found["speedup"]["test"] == found["steps_needed"]["test"] == [None]
    assert "never reaches" in found["verdict"]


def test_a_seed_that_never_arrives_is_counted():
    assert "1 of 2 seeds it never does" in verdict([Speedup(100.0, 200, 2.0), Speedup(None, 200, None)])


def test_other_methods_change_nothing_for_the_one_judged():
    pair = {"pds": [2.0, 2.2, 2.1], "random": [1.0, 1.0, 1.0]}
    two = compare_curves(straight(pair), "pds", "random")
    several = compare_curves(straight({"dsir": [1.6, 2.4, 0.5], **pair}), "pds", "random")
    assert {name: several[name] for name in ("speedup", "steps_needed", "verdict", "seeds")} == {
        name: two[name] for name in ("speedup", "steps_needed", "verdict", "seeds")
    }
    assert "arms" not in two and "difference" not in two
    assert several["arms"]["dsir"]["speedup"]["test"] == [pytest.approx(1.6), pytest.approx(2.4), None]
    assert several["difference"]["test"]["dsir"]["values"] == pytest.approx([-0.4, 0.2, -1.6])
    low, high = several["difference"]["test"]["random"]["interval"]
    assert low < -1.1 < high < 0


def test_the_table_is_sorted_by_loss_and_pairs_each_method_with_those_asked_for():
    evaluation = compare_curves(straight({"a": [2.0, 2.2], "random": [1.0, 1.0], "b": [2.5, 2.3]}), "a", "random")
    costs = {name: {"seconds": 90.0, "flops": 1e12} for name in ("a", "b", "random")}
    found = comparison(evaluation, costs, {"minus_a": "a", "minus_b": "b"})
    assert list(found) == ["b", "a", "random"] and found["random"]["mean"] == pytest.approx(5)
    for name, facts in found.items():
        for key, method in (("minus_a", "a"), ("minus_b", "b")):
            losses = evaluation["final_loss"]["test"]
            expected = None if name == method else paired_difference(losses[method], losses[name])
            assert facts[key] == expected
    header, *rows = comparison_table(found, {"a": "A", "b": "B", "random": "random"}, {"minus_b": "B minus it"})
    column = header.index("B minus it")
    assert [(row[0], row[column].split(" ")[0]) for row in rows] == [("B", ""), ("A", "-0.3000"), ("random", "-1.4000")]
    assert {len(row) for row in rows} == {len(header)} == {6}
    assert rows[2][2] == "400" and rows[0][-2:] == ("90", "1.00e+12")


def test_it_pays_when_it_is_better_after_the_steps_that_its_selections_cost():
    steps = np.arange(0, 20, 4)
    curves = {("receding", 0): {"steps": steps, "test": np.linspace(5, 3, 5)}, ("pds", 0): {"test": np.full(5, 4.25)}}
    judged = at_equal_cost(curves, "receding", "pds", 4.0)
    assert judged["extra_steps"] == 4 and judged["steps"] == 12
    assert judged["difference"]["values"] == pytest.approx([3.5 - 4.25])
    assert at_equal_cost(curves, "receding", "pds", 4e3)["steps"] is None
