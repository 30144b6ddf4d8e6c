"""Training: the plain loop, its optimizer, its checkpoints."""

from pmpjax.train.checkpoints import Checkpoints, load_params, save_params
from pmpjax.train.loop import Trained, train
from pmpjax.train.optimizers import OptimizerConfig, adamw

__all__ = ["Checkpoints", "OptimizerConfig", "Trained", "adamw", "load_params", "save_params", "train"]
