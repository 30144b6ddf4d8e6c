"""Pontryagin's conditions hold at optima known otherwise, and the right one fails elsewhere."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pmpjax as pmp
from pmpjax.runs.precision import double_precision
from tests.control.small import small
from tests.oracles import regulator

NAMES = ("consistency", "stationarity", "gap", "kkt", "law", "convexity")


def verdicts(report):
    return {check.name: check.holds for check in report.checks}


@functools.cache
def solved_policy():
    """A small Learning Law problem in float64, solved."""
    with double_precision():
        plant = small(6, prox=pmp.prox.simplex)
        solution = pmp.solve(
            plant.problem,
            plant.x0,
            pmp.uniform(6, 4),
            plant.batches,
            pmp.ProximalGradient(),
            sweeps=60,
            adjoint=pmp.StoreAll(),
        )
        return plant, solution.controls


def verify_policy(controls, **more):
    plant, _ = solved_policy()
    return pmp.verify(plant.problem, plant.x0, controls, plant.batches, adjoint=pmp.StoreAll(), **more)


def test_regulator_at_its_optimum_and_elsewhere(float64):
    plant = regulator(5)
    problem = plant.problem()
    controls = jnp.asarray(plant.riccati()[0])
    report = pmp.verify(problem, plant.start, controls, None, adjoint=pmp.StoreAll())
    assert report and verdicts(report) == {"consistency": True, "stationarity": True}
    assert report["consistency"].value < 1e-6 and report["stationarity"].value < 1e-9
    assert report.convexity == "no violation in 4 probes"  # H is quadratic and convex in u
    assert report.value == pytest.approx(plant.riccati()[2], rel=1e-12)

    nothing_done = pmp.verify(problem, plant.start, 0 * controls, None, adjoint=pmp.StoreAll())
    assert not nothing_done and verdicts(nothing_done) == {"consistency": True, "stationarity": False}


def test_solved_policy_meets_the_conditions(float64):
    report = verify_policy(solved_policy()[1])
    assert report, str(report)
    expected = {"consistency": True, "stationarity": True, "gap": True, "kkt": True, "law": None}
    assert verdicts(report) == expected
    assert report.convexity == "affine"  # SGD's update is affine in the weights
    text = str(report)
    assert all(name in text for name in NAMES) and "FAILS" not in text and "information" in text


def test_uniform_policy_fails_by_name(float64):
    report = verify_policy(pmp.uniform(6, 4))
    assert not report
    expected = {"consistency": True, "stationarity": False, "gap": False, "kkt": False, "law": None}
    assert verdicts(report) == expected
    assert "FAILS" in str(report)


def test_a_wrong_costate_fails_consistency(float64):
    """A pullback that forgets a tenth of the costate."""
    plant, controls = solved_policy()
    honest = plant.problem.dynamics.pullback

    def pullback(state, control, input):
        following, pull = honest(state, control, input)
        return following, jax.tree_util.Partial(lambda pull, lam: pull(jax.tree.map(lambda a: 0.9 * a, lam)), pull)

    problem = plant.problem._replace(dynamics=plant.problem.dynamics._replace(pullback=pullback))
    report = pmp.verify(problem, plant.x0, controls, plant.batches, adjoint=pmp.StoreAll())
    assert not report and report["consistency"].holds is False and report["consistency"].value > 1e-2


def test_the_consistency_check_says_what_rounding_hides(float64):
    """In float64 next to nothing; in float32 a thousand times as much and more, and what it hides is said."""
    shown = []
    for dtype in (np.float32, np.float64):
        plant = small(6, dtype=dtype)
        report = pmp.verify(plant.problem, plant.x0, plant.weights, plant.batches, adjoint=pmp.StoreAll())
        found = re.search(r"(\S+) that J's rounding", report["consistency"].meaning)
        assert found, report["consistency"].meaning
        shown.append(float(found[1]))
        assert report["consistency"].holds and shown[-1] < report["consistency"].tolerance
    assert shown[0] > 1e3 * shown[1] > 0


def test_report_is_looked_up_by_name():
    check = pmp.Check("gap", 0.5, 1.0, True, "for a person")
    report = pmp.PMPReport(2.0, (check,), "affine", "finite")
    assert report["gap"] is check and bool(report)
    with pytest.raises(KeyError, match=r"kkt.*gap"):
        report["kkt"]


@pytest.mark.parametrize(("holds", "truth"), [((True, None), True), ((None, None), True), ((True, False), False)])
def test_truth_of_a_report_is_that_of_its_exact_conditions(holds, truth):
    checks = tuple(pmp.Check(f"check {i}", 0.0, 1.0, hold, "") for i, hold in enumerate(holds))
    assert bool(pmp.PMPReport(1.0, checks, "affine", "finite")) is truth


def test_a_concave_hamiltonian_is_found_out(float64):
    problem = pmp.Problem(
        pmp.Dynamics(jnp.asarray, lambda x, u, w: 0.5 * x + jnp.sum(u)),
        pmp.Cost(running=lambda x, u, w: -jnp.sum(u**2) + 0.1 * x**2, terminal=lambda x: x**2),
        prox=pmp.prox.box(-1.0, 1.0),
    )
    report = pmp.verify(problem, 0.3, jnp.full((3, 2), 0.4), None, adjoint=pmp.StoreAll())
    assert report.convexity == "violated" and report["consistency"].holds
    assert "convexity" in str(report) and "violated" in str(report)


def test_reduced_precision_is_seen_by_the_consistency_check():
    """bfloat16 parameters: `init` warns, and the costate is no derivative of J to three digits any more."""
    plant = small(6, dtype=np.float32)
    with pytest.warns(UserWarning, match=r"params\['unit'\] has dtype bfloat16"):
        x0 = plant.problem.dynamics.init({"unit": plant.x0.params["unit"].astype(jnp.bfloat16)})
    coarse = pmp.verify(plant.problem, x0, plant.weights, plant.batches, adjoint=pmp.StoreAll())
    fine = pmp.verify(plant.problem, plant.x0, plant.weights, plant.batches, adjoint=pmp.StoreAll())
    assert fine["consistency"].holds
    assert coarse["consistency"].holds is False and not coarse


def test_infeasible_controls_are_refused_before_anything_runs():
    plant = small(3, prox=pmp.prox.simplex, dtype=np.float32)
    with pytest.raises(ValueError, match=r"controls .* outside the set 'simplex'"):
        pmp.verify(plant.problem, plant.x0, 2 * plant.weights, plant.batches)


def test_kkt_reads_the_contributions_of_used_and_unused_examples(float64):
    """J = c . u: at a vertex of the cheapest coordinate all conditions hold, at another one only excess shows."""
    dynamics = pmp.Dynamics(jnp.asarray, lambda x, u, w: x + jnp.vdot(jnp.array([3.0, 1.0, 2.0]), u))
    problem = pmp.Problem(dynamics, pmp.Cost(terminal=lambda x: x), prox=pmp.prox.simplex)
    best, worst = (jax.nn.one_hot(jnp.array([n]), 3, dtype=jnp.float64) for n in (1, 0))
    assert pmp.verify(problem, 0.0, best, None, adjoint=pmp.StoreAll())
    # Tolerances are the caller's.
    tolerances = {"stationarity": 10.0, "gap": 10.0, "kkt": 10.0}
    assert pmp.verify(problem, 0.0, worst, None, adjoint=pmp.StoreAll(), **tolerances)
    report = pmp.verify(problem, 0.0, worst, None, adjoint=pmp.StoreAll())
    assert verdicts(report) == {"consistency": True, "stationarity": False, "gap": False, "kkt": False}
    assert report["gap"].value == pytest.approx(2.0 / 3.0)
    assert report["kkt"].value == pytest.approx(2.0 / (14.0 / 3.0) ** 0.5)
