"""Training as a controlled dynamical system: any optax rule, with the weights of the examples as the control."""

from pmpjax.training.dynamics import TrainState, area_under, terminal_loss, training_dynamics, uniform

__all__ = ["TrainState", "area_under", "terminal_loss", "training_dynamics", "uniform"]
