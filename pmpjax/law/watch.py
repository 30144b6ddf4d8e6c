"""What is observed during each costate sweep, so that one traced sweep gives gradients, curves and checks."""

from collections.abc import Callable

from jaxtyping import Array, PyTree

from pmpjax import Point, spread_of
from pmpjax import observables as obs
from pmpjax.law.policies import groups, relative_weights
from pmpjax.law.problems import Perceptron, mean_loss


def watch(drawn: Perceptron, stride: int, holdout: bool = False) -> dict[str, Callable[[Point], PyTree]]:
    """Observables of a sweep over the perceptron.

    `dev`, `test` (and `holdout`, when asked for): the loss at theta_0 .. theta_{T-1}, [T]. Each `stride` steps:
    `kkt` and `law`, the `pmpjax.Spread` of the contributions along the costate and along the desired gradient;
    `groups`, the relative weights of `pmpjax.law.policies.GROUPS`, [T / stride, 3].
    """

    def loss_on(name: str) -> Callable[[Point], Array]:
        return lambda point: mean_loss(point.state.params, getattr(drawn, name))

    def shares(point: Point) -> Array:
        return relative_weights(point.control, groups(point.state.params, drawn.train, drawn.noisy))

    watched: dict[str, Callable[[Point], PyTree]] = {
        name: loss_on(name) for name in ("dev", "test", *(["holdout"] if holdout else []))
    }
    watched["kkt"] = obs.every(stride, lambda point: spread_of(-point.control_gradient, point.control))
    watched["law"] = obs.every(stride, lambda point: spread_of(obs.alignment(point), point.control))
    watched["groups"] = obs.every(stride, shares)
    return watched
