"""Training as a controlled dynamical system: any optax rule, with the weights of the examples as the control."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from pmpjax.control import trees
from pmpjax.control.dynamics import Cost, Cotangents, Dynamics, StepHealth, Vjp, takes_input
from pmpjax.training import checks
from pmpjax.training.singular import Points, UpdateVjp, singular_points, update_vjp

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
    `gradient_cotangent` d; the linearised gradient of (L_t, with the per-example losses as well) along d then gives
    Hess L d and every <d, grad l_n> at once. No per-example gradient is formed, nothing is differentiated twice in
    reverse.

    Where the rule has a derivative, that derivative is taken, at a zero gradient too. Where it has none (Adam without
    `eps_root` at a coordinate that never had a gradient) the coordinate is left out of `gradient_cotangent`; it is
    counted in `Sweep.health.singular` if an example of the step has a gradient there (`pmpjax.singular`).

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
        params = trees.as_arrays(params, "params")
        checks.check_params(params)
        opt_state = trees.as_arrays(checks.optimizer_state(optimizer, params), "the optimizer's state")
        checks.check_update(update, opt_state, params)
        return TrainState(params, opt_state)

    def weights_of(control: Array, input: PyTree) -> Array:
        if index is None:
            return control
        rows = index(input)
        return control[rows] * (control.shape[0] / rows.shape[0])

    def weighted_loss(params: PyTree, weights: Array, input: PyTree) -> tuple[Array, Array]:
        each = losses(params, input)
        checks.check_losses(each, weights, indexed=index is not None)
        return jnp.sum(weights.astype(each.dtype) * each), each

    gradient = jax.grad(weighted_loss, has_aux=True)

    def update(gradients: PyTree, opt_state: PyTree, params: PyTree, constant: PyTree = None) -> TrainState:
        """The optimizer's step. constant: like the parameters, True where their update counts as a constant."""
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        if constant is not None:
            updates = jax.tree.map(lambda cut, u: jnp.where(cut, jax.lax.stop_gradient(u), u), constant, updates)
        return TrainState(optax.apply_updates(params, updates), opt_state)

    def step(state: TrainState, control: Array, input: PyTree) -> TrainState:
        gradients, _ = gradient(state.params, weights_of(control, input), input)
        return update(gradients, state.opt_state, state.params)

    def differentiable_update(static: PyTree, constant: PyTree, g: PyTree, s: PyTree, p: PyTree) -> PyTree:
        return trees.partition(update(g, trees.combine(s, static), p, constant))[0]

    def points_of(state: TrainState) -> Points:
        moments, static = trees.partition(state.opt_state)
        return singular_points(
            functools.partial(differentiable_update, static, None), state.params, moments, state.params
        )

    # Compiled functions of their own, so that a sweep which is traced several times traces them once.
    @jax.jit
    def guarded_vjp(gradients: PyTree, state: TrainState, costate: PyTree, plain: PyTree) -> UpdateVjp:
        moments, static = trees.partition(state.opt_state)
        at = gradients, moments, state.params
        return update_vjp(functools.partial(differentiable_update, static), at, costate, plain, points_of(state))

    @jax.jit
    def count(singular: PyTree, state: TrainState, weights: Array, input: PyTree) -> PyTree:
        """Coordinates that are left out although an example has a gradient there, a leaf."""

        def probed() -> PyTree:
            # Weights that no gradients cancel under; the step's own hide the examples of weight zero.
            random = jax.random.uniform(jax.random.key(0), weights.shape, weights.dtype, 1.0, 2.0)
            reached, _ = gradient(state.params, random, input)
            return jax.tree.map(lambda s, g: jnp.sum(s & (g != 0), dtype=jnp.int32), singular, reached)

        # Where every example weighs something, a gradient of zero is one of all examples: nothing was left out.
        hidden = jnp.any(weights == 0) & jnp.any(jnp.stack([jnp.any(s) for s in jax.tree.leaves(singular)]))
        return jax.lax.cond(hidden, probed, lambda: jax.tree.map(lambda s: jnp.int32(0), singular))

    def pullback(state: TrainState, control: Array, input: PyTree) -> tuple[TrainState, Vjp]:
        params, opt_state = state
        weights, weights_vjp = jax.vjp(lambda u: weights_of(u, input), control)
        at = jax.checkpoint(gradient) if remat else gradient
        (gradients, _), tangent = jax.linearize(lambda p: at(p, weights, input), params)
        moments, static = trees.partition(opt_state)
        _, plain_vjp = jax.vjp(functools.partial(differentiable_update, static, None), gradients, moments, params)
        guard = (gradients, state, weights, input) if any(points_of(state)) else None
        return update(gradients, opt_state, params), jax.tree_util.Partial(vjp, plain_vjp, tangent, weights_vjp, guard)

    def vjp(plain_vjp: Any, tangent: Any, weights_vjp: Any, guard: Any, costate: PyTree) -> Cotangents:
        (cotangent, opt_state, params), singular = plain_vjp(costate), None
        if guard is not None:
            gradients, state, weights, input = guard
            found = guarded_vjp(gradients, state, costate, (cotangent, opt_state, params))
            cotangent, opt_state, params = found.cotangents
            singular = count(found.singular, state, weights, input)
        curvature, products = tangent(cotangent)  # Hess L d, and each <d, grad l_n>
        return Cotangents(
            TrainState(trees.add(params, curvature), opt_state),
            weights_vjp(products)[0],
            cotangent,
            StepHealth(singular, trees.norm(costate.params)),
        )

    def finite(state: TrainState, control: Array, input: PyTree) -> tuple[Array, Array]:
        gradients, each = gradient(state.params, weights_of(control, input), input)
        return trees.finite(each), trees.finite(gradients)

    return Dynamics(init, step, pullback, finite)
