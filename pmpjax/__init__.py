"""Training as a controlled dynamical system: Pontryagin's maximum principle for data selection and optimal learning.

x_{t+1} = f(x_t, u_t, w_t) is a training step, u_t the weights of its examples. `costate` carries lambda_t backward
through training and gives dJ/du for any optax optimizer; `solve` improves the weights; `verify` checks Pontryagin's
conditions; `observables` are looked at on the way, `prox` are the sets in which weights live.
"""

from importlib.metadata import version as _version

from pmpjax.control import observables, prox
from pmpjax.control.adjoint import AbstractAdjoint, Binomial, Checkpointed, Linearized, StoreAll
from pmpjax.control.conditions import Check, spread_of
from pmpjax.control.costate import Sweep, costate
from pmpjax.control.dynamics import Cost, Cotangents, Dynamics, Problem, StepHealth
from pmpjax.control.health import Health, Status
from pmpjax.control.observables import Point
from pmpjax.control.rollout import Rollout, objective, rollout
from pmpjax.control.solve import Progress, Record, Solution, SolveStatus, descend, solve
from pmpjax.control.solvers import (
    AbstractSolver,
    Evaluation,
    FrankWolfe,
    MirrorDescent,
    Proposal,
    ProximalGradient,
    SolveState,
)
from pmpjax.control.verify import PMPReport, verify
from pmpjax.training import TrainState, area_under, terminal_loss, training_dynamics, uniform

__version__ = _version("pmpjax")

__all__ = [
    "AbstractAdjoint",
    "AbstractSolver",
    "Binomial",
    "Check",
    "Checkpointed",
    "Cost",
    "Cotangents",
    "Dynamics",
    "Evaluation",
    "FrankWolfe",
    "Health",
    "Linearized",
    "MirrorDescent",
    "PMPReport",
    "Point",
    "Problem",
    "Progress",
    "Proposal",
    "ProximalGradient",
    "Record",
    "Rollout",
    "Solution",
    "SolveState",
    "SolveStatus",
    "Status",
    "StepHealth",
    "StoreAll",
    "Sweep",
    "TrainState",
    "area_under",
    "costate",
    "descend",
    "objective",
    "observables",
    "prox",
    "rollout",
    "solve",
    "spread_of",
    "terminal_loss",
    "training_dynamics",
    "uniform",
    "verify",
]
