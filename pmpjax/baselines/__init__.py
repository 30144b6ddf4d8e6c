"""Other ways to choose documents, each with the signature of a PDS scorer (`Scorer`)."""

from pmpjax.baselines.random import random
from pmpjax.baselines.scorers import Scorer

__all__ = ["Scorer", "random"]
