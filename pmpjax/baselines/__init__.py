"""Other ways to choose documents, each with the signature of a PDS scorer (`Scorer`)."""

from pmpjax.baselines.dsir import dsir
from pmpjax.baselines.gradients import gradient_flops, gradient_similarity
from pmpjax.baselines.influence import influence, influence_flops
from pmpjax.baselines.instances import Scorer
from pmpjax.baselines.random import random
from pmpjax.baselines.rho import rho_flops, rho_loss

__all__ = [
    "Scorer",
    "dsir",
    "gradient_flops",
    "gradient_similarity",
    "influence",
    "influence_flops",
    "random",
    "rho_flops",
    "rho_loss",
]
