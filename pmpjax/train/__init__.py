"""Training: the one loop, its optimizer, its checkpoints, and where its arrays lie."""

from pmpjax.train.checkpoints import Checkpoints, load_params, load_state, save_params, save_state
from pmpjax.train.loop import Evaluation, Saving, Trained, train
from pmpjax.train.mesh import MeshConfig, make_mesh
from pmpjax.train.optimizers import OptimizerConfig, adamw, decaying_adamw, rate_schedule
from pmpjax.train.record import DivergedError, Report
from pmpjax.train.step import TrainStep, train_step

__all__ = [
    "Checkpoints",
    "DivergedError",
    "Evaluation",
    "MeshConfig",
    "OptimizerConfig",
    "Report",
    "Saving",
    "TrainStep",
    "Trained",
    "adamw",
    "decaying_adamw",
    "load_params",
    "load_state",
    "make_mesh",
    "rate_schedule",
    "save_params",
    "save_state",
    "train",
    "train_step",
]
