"""Training as a controlled dynamical system: any optax rule is the plant, example weights are the control."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from pmpjax.control import trees
from pmpjax.control.dynamics import Cost, Dynamics, Pulled, takes_input
from pmpjax.second_moments import Unmoved, unmoved_coordinates

Losses = Callable[[PyTree, PyTree], Array]


class TrainState(NamedTuple):
    """x_t = (parameters, optimizer state)."""

    params: PyTree
    opt_state: PyTree


def uniform(*shape: int) -> Float[Array, "..."]:
    """gamma = 1 / N with N the last axis: `uniform(T, N)` for weights in time, `uniform(N)` for constant ones.

    Example:
        >>> uniform(2, 4).tolist()
        [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
    """
    return jnp.full(shape, 1.0 / shape[-1], dtype=float)  # a dtype, for a weak type would compile every sweep twice


def terminal_loss(loss: Callable[..., Array]) -> Cost:
    """J = loss(theta_T). `loss`: (params) or (params, input) -> scalar; the input is the last step's, w_{T-1}."""
    return Cost(running=None, terminal=lambda state, input: _desired(loss, state, input))


def area_under(loss: Callable[..., Array]) -> Cost:
    """J = sum_{t=0..T} loss(theta_t), a plain sum of T + 1 terms; the first is a constant for the controls.

    `loss`: (params) or (params, input) -> scalar. With an input, step t's is w_t (a fresh desired batch in each step);
    the term at T takes the last one, w_{T-1}.

    Source: PDS (arXiv 2410.07064) and Learning Law (arXiv 2402.17759), the area under the desired loss curve.
    """
    return Cost(
        running=lambda state, control, input: _desired(loss, state, input),
        terminal=lambda state, input: _desired(loss, state, input),
    )


def _desired(loss: Callable[..., Array], state: TrainState, input: PyTree) -> Array:
    return loss(state.params, input) if takes_input(loss, 1) else loss(state.params)


def training_dynamics(
    losses: Losses,
    optimizer: optax.GradientTransformation | optax.MultiSteps,
    *,
    index: Callable[[PyTree], Array] | None = None,
    remat: bool = False,
) -> Dynamics:
    """theta_{t+1}, s_{t+1} = optimizer(grad_theta L_t(theta_t), s_t, theta_t) with L_t = sum_n u_n l_n(theta_t).

    The pullback is mixed-mode and knows no optimizer: the costate goes back through the update alone, which gives the
    `direction` d; the linearised gradient of (L_t, with the per-example losses beside it) along d then gives Hess L d
    and every <d, grad l_n> at once. No per-example gradient is formed, nothing is differentiated twice in reverse.

    Coordinates on which an Adam-like rule has no slope (neither gradient nor second moment so far: the embedding of an
    unseen token) do not move; they are left out of `direction` and counted in `Sweep.health.unmoved`.

    Args:
        losses: (params, input) -> [N], one loss an example.
        optimizer: any optax transformation that needs no more than (gradient, state, params): SGD, momentum, AdamW,
            clipping, schedules, `optax.MultiSteps`, `optax.masked`, ...
        index: None when a step's control weighs the examples of its input one by one, [N]. Otherwise input -> [B], the
            positions of the batch in a control over all N instances: then L_t = (N / B) sum_{i in index} u_i l_i, so
            that uniform u is the mean loss; use it with `Problem(control_axis=None)`.
        remat: compute the gradient again for the Hessian-vector product instead of keeping all that its linearisation
            needs, against which `jax.checkpoint` inside `losses` does nothing: one gradient more a step. (160M
            parameters, 16 x 1,024 tokens a device: 12 GB against 48.)

    Returns:
        Dynamics whose `init(params)` makes the `TrainState`.

    Raises:
        ValueError: from `init` or while tracing: an optimizer that needs more arguments, parameters that are not
            floating, losses that are not [N], weights of another length.

    Warns:
        UserWarning: for parameters of reduced precision, in which costates accumulate rounding.

    Source: PDS (arXiv 2410.07064), costate equation; forward-over-reverse as in MixFlow-MG (arXiv 2505.00793).

    Example:
        >>> import jax.numpy as jnp, optax
        >>> squares = lambda params, batch: (params - batch) ** 2
        >>> dynamics = training_dynamics(squares, optax.sgd(0.25))
        >>> state = dynamics.init(jnp.array(0.0))
        >>> float(dynamics.step(state, uniform(2), jnp.array([1.0, 3.0])).params)
        1.0
    """
    if not hasattr(optimizer, "update"):  # optax.MultiSteps is a class with a transformation inside
        raise ValueError(f"optimizer is a {type(optimizer).__name__}, expected an optax transformation")
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()

    def init(params: PyTree) -> TrainState:
        params = jax.tree.map(jnp.asarray, params)
        _check_params(params)
        state = TrainState(params, jax.tree.map(jnp.asarray, optimizer.init(params)))
        _check_update(optimizer, state)
        return state

    def weights_of(control: Array, input: PyTree) -> Array:
        if index is None:
            return control
        rows = index(input)
        return control[rows] * (control.shape[0] / rows.shape[0])

    def weighted_loss(params: PyTree, weights: Array, input: PyTree) -> tuple[Array, Array]:
        each = losses(params, input)
        _check_losses(each, weights, indexed=index is not None)
        return jnp.sum(weights.astype(each.dtype) * each), each

    def gradient(params: PyTree, weights: Array, input: PyTree) -> tuple[PyTree, Array]:
        return jax.grad(weighted_loss, has_aux=True)(params, weights, input)

    def update(gradients: PyTree, opt_state: PyTree, params: PyTree) -> TrainState:
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return TrainState(optax.apply_updates(params, updates), opt_state)

    def step(state: TrainState, control: Array, input: PyTree) -> TrainState:
        gradients, _ = gradient(state.params, weights_of(control, input), input)
        return update(gradients, state.opt_state, state.params)

    def pullback(state: TrainState, control: Array, input: PyTree) -> tuple[TrainState, Callable[[PyTree], Pulled]]:
        params, opt_state = state
        weights, pull_weights = jax.vjp(lambda u: weights_of(u, input), control)
        at = jax.checkpoint(gradient) if remat else gradient
        (gradients, _), tangent = jax.linearize(lambda p: at(p, weights, input), params)
        following = update(gradients, opt_state, params)
        unmoved = unmoved_coordinates(gradients, opt_state, following.opt_state, params)
        moving, fixed = trees.split(unmoved.opt_state)

        def moving_update(g: PyTree, s: PyTree, p: PyTree) -> PyTree:
            return trees.split(update(g, trees.merge(s, fixed), p))[0]

        _, pull_update = jax.vjp(moving_update, gradients, moving, params)
        return following, jax.tree_util.Partial(_pull, pull_update, tangent, pull_weights, unmoved)

    return Dynamics(init, step, pullback)


def _pull(
    pull_update: Callable[[PyTree], tuple[PyTree, PyTree, PyTree]],
    tangent: Callable[[PyTree], tuple[PyTree, Array]],
    pull_weights: Callable[[Array], tuple[PyTree]],
    unmoved: Unmoved,
    costate: PyTree,
) -> Pulled:
    direction, opt_state, params = pull_update(costate)
    direction = unmoved.without(direction)
    curvature, along = tangent(direction)
    return Pulled(
        state=TrainState(trees.add(params, curvature), opt_state),
        control=pull_weights(along)[0],
        direction=direction,
        unmoved=unmoved.counts,
    )


def _check_params(params: PyTree) -> None:
    for name, leaf in trees.named_leaves(params, "params"):
        if not trees.is_moving(leaf):
            raise ValueError(
                f"{name} has dtype {leaf.dtype}, expected a floating one; keep what is not trained in the losses"
            )
        if leaf.dtype in (jnp.bfloat16, jnp.float16):
            warnings.warn(
                f"{name} has dtype {leaf.dtype}: costates accumulate rounding over the steps. Keep parameters in "
                "float32, or trust the scores only where pmpjax.verify's consistency check holds.",
                UserWarning,
                stacklevel=3,
            )


def _check_update(optimizer: optax.GradientTransformation, state: TrainState) -> None:
    try:
        jax.eval_shape(lambda s: optimizer.update(s.params, s.opt_state, s.params), state)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "the optimizer needs more than (gradient, state, params), as line searches and methods that look at the "
            f"loss do, and cannot be the plant: {error}; use a rule such as optax.sgd or optax.adamw"
        ) from error


def _check_losses(each: Any, weights: Array, indexed: bool) -> None:
    if each.ndim != 1:
        raise ValueError(
            f"losses returned shape {each.shape}, expected [N], one loss an example; do not reduce over examples"
        )
    if weights.shape != each.shape:
        what = "the index names" if indexed else "the control has"
        raise ValueError(
            f"{what} {weights.shape} weights for losses of shape {each.shape}; expected one weight an example"
        )
