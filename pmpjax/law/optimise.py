"""Optimises a policy and keeps, in one atomic file, all that is needed to go on after a kill or Ctrl-C."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

import pmpjax as pmp
from pmpjax.control.solve import evaluation
from pmpjax.law.metrics import acceleration_ratio, spread
from pmpjax.runs import read_arrays, write_arrays
from pmpjax.runs.progress import Bar

HISTORY = "history.npz"
POLICY = "policy.npz"
_RESUME = "resume.npz"
_SAVE_SECONDS = 20.0  # what a kill loses at most; a save of three [T, N] arrays takes a fraction of a second
_ADJOINT = pmp.Linearized()  # a perceptron's linearised step is small, and never recomputed


@dataclass
class History:
    """Numbers of every sweep, and curves of the accepted ones (the outer iterations).

    rows: name -> one number per sweep, None where it is not defined. curves: name -> one array per accepted sweep.
    """

    rows: dict[str, list[float | None]] = field(default_factory=dict)
    curves: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.rows.values()), []))

    def add(self, row: Mapping[str, float | None], curves: Mapping[str, Any]) -> None:
        """Appends a sweep; `curves` is empty where the trial was refused."""
        for name, value in row.items():
            self.rows.setdefault(name, []).append(value)
        for name, curve in curves.items():
            self.curves.setdefault(name, []).append(np.asarray(curve))

    def arrays(self) -> dict[str, np.ndarray]:
        """rows: [sweeps] each, not a number for None; curves: [accepted sweeps, ...] each."""
        rows = {name: np.asarray(values, dtype=np.float64) for name, values in self.rows.items()}
        return rows | {name: np.stack(values) for name, values in self.curves.items()}

    def first(self, sweeps: int, accepted: int) -> "History":
        """The history of so many sweeps: an interrupt may come between a sweep's numbers."""
        rows = {name: values[:sweeps] for name, values in self.rows.items()}
        return History(rows, {name: values[:accepted] for name, values in self.curves.items()})

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "History":
        """From what `arrays` gave; a row is told from a curve by its one axis."""
        rows: dict[str, list[float | None]] = {
            name: [None if np.isnan(value) else float(value) for value in array]
            for name, array in arrays.items()
            if array.ndim == 1
        }
        return cls(rows, {name: list(array) for name, array in arrays.items() if array.ndim > 1})


@dataclass(frozen=True)
class _Best:
    """The policy with the lowest area on the third split, for early stopping; `age`: accepted sweeps since."""

    policy: Any = None
    value: float = np.inf
    age: int = 0


def optimise(
    problem: pmp.Problem,
    x0: PyTree,
    policy: jax.Array,
    train: PyTree,
    solver: pmp.AbstractSolver,
    *,
    watched: Mapping[str, Any],
    baseline: np.ndarray,
    sweeps: int,
    patience: int,
    folder: Path,
    bar: Bar,
) -> None:
    """Fills `folder` with policy.npz and history.npz; goes on from what an earlier process left there.

    `watched` are the observables of `pmpjax.law.watch`; `baseline` is the uniform policy's loss on the desired test set
    at theta_0 .. theta_T. The state is saved every few seconds and on Ctrl-C, and the solver resumes bit for bit.
    ValueError when training diverges at the first policy.
    """
    history, best, resume = _load(folder / _RESUME, problem, x0, policy, train, solver, watched)
    bar.update(len(history))
    earlier = (history.rows["seconds"][-1] or 0.0) if len(history) else 0.0
    begin = saved = time.perf_counter()
    # State and best policy change together, by one assignment, so that an interrupt finds a pair that fits.
    latest = (resume, best)

    def save() -> None:
        state, best = latest
        if state is not None:
            _save(folder / _RESUME, history.first(int(state.sweeps), int(state.accepted)), best, state)

    def watch(now: pmp.Progress) -> bool:
        nonlocal saved, latest
        curves = _curves(now.seen) if now.accepted else {}
        numbers = (
            {name: history.rows[name][-1] for name in _OF_POLICY} if not now.accepted else _numbers(curves, baseline)
        )
        clock = time.perf_counter()
        row = {
            "sweep": float(now.sweep),
            "seconds": earlier + clock - begin,
            "accepted": float(now.accepted),
            "value": now.value,
            "residual": now.residual,
            "gap": now.gap,
            "step": now.step,
        }
        best = latest[1]
        if now.accepted and patience:
            best = _better(best, float(np.sum(curves["holdout"], dtype=np.float64)), now.controls)
        history.add(row | numbers, curves)
        latest = (now.state, best)
        ratio = numbers["acceleration_ratio"]
        bar.update(1, loss=now.value, AR="-" if ratio is None else ratio, residual=now.residual)
        if clock - saved > _SAVE_SECONDS:
            save()
            saved = time.perf_counter()
        return bool(patience and best.age >= patience)

    if len(history) < sweeps and not (patience and best.age >= patience):
        try:
            solution = pmp.solve(
                problem,
                x0,
                policy,
                train,
                solver,
                adjoint=_ADJOINT,
                sweeps=sweeps - len(history),
                observe=dict(watched),
                callback=watch,
                resume=resume,
            )
        except KeyboardInterrupt:
            save()
            raise
        if solution.status is pmp.SolveStatus.DIVERGED:
            raise ValueError(f"the training run {solution.message}; see --problem.learning-rate")
    state, best = latest
    assert state is not None  # at least one sweep was made, here or before
    chosen = state.controls if best.policy is None else best.policy
    write_arrays(folder / POLICY, {"policy": chosen})
    write_arrays(folder / HISTORY, history.arrays())
    (folder / _RESUME).unlink(missing_ok=True)


_OF_POLICY = ("acceleration_ratio", "test_area", "test_last", "kkt_spread", "law_spread", "noisy_weight")


def _numbers(curves: Mapping[str, np.ndarray], baseline: np.ndarray) -> dict[str, float | None]:
    return {
        "acceleration_ratio": acceleration_ratio(curves["test"], baseline),
        "test_area": float(np.sum(curves["test"], dtype=np.float64)),
        "test_last": float(curves["test"][-1]),
        "kkt_spread": spread(curves["kkt"]),
        "law_spread": spread(curves["law"]),
        "noisy_weight": float(curves["groups"][:, 0].mean()),
    }


def _curves(seen: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in seen.items()}


def _better(best: _Best, value: float, policy: Any) -> _Best:
    return _Best(policy, value) if value < best.value else replace(best, age=best.age + 1)


def _save(path: Path, history: History, best: _Best, state: pmp.SolveState) -> None:
    arrays = {f"history/{name}": array for name, array in history.arrays().items()}
    arrays |= {f"state/{index}": np.asarray(leaf) for index, leaf in enumerate(jax.tree.leaves(state))}
    arrays |= {"best/value": np.asarray(best.value), "best/age": np.asarray(best.age)}
    if best.policy is not None:
        arrays["best/policy"] = np.asarray(best.policy)
    write_arrays(path, arrays)


def _load(
    path: Path, problem: pmp.Problem, x0: PyTree, policy: jax.Array, train: PyTree, solver: Any, watched: Any
) -> tuple[History, _Best, pmp.SolveState | None]:
    if not path.exists():
        return History(), _Best(), None
    arrays = read_arrays(path)
    evaluate = evaluation(problem, _ADJOINT, dict(watched))
    like = jax.eval_shape(lambda *data: solver.init(problem.prox, policy, evaluate(policy, *data)), x0, train)
    structure = jax.tree.structure(like)
    state = structure.unflatten([jnp.asarray(arrays[f"state/{index}"]) for index in range(structure.num_leaves)])
    history = History.of(
        {name.removeprefix("history/"): a for name, a in arrays.items() if name.startswith("history/")}
    )
    best = _Best(arrays.get("best/policy"), float(arrays["best/value"]), int(arrays["best/age"]))
    return history, best, state
