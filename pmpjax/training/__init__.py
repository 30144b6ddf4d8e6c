"""Training as a controlled dynamical system: any optax rule is the plant, example weights are the control."""

from pmpjax.training.dynamics import TrainState, area_under, terminal_loss, training_dynamics, uniform

__all__ = ["TrainState", "area_under", "terminal_loss", "training_dynamics", "uniform"]
