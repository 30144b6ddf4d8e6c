"""Training as a controlled dynamical system: any optax rule is the plant, example weights are the control."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from pmpjax.control import trees
from pmpjax.control.dynamics import Cost, Dynamics, Pulled, StepHealth, takes_input
from pmpjax.training.singular import Points, Pull, pull_through, singular_points

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
        _check_params(params)
        state = TrainState(params, trees.as_arrays(_optimizer_state(optimizer, params), "the optimizer's state"))
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

    def moving_update(fixed: PyTree, g: PyTree, s: PyTree, p: PyTree) -> PyTree:
        return trees.split(update(g, trees.merge(s, fixed), p))[0]

    def cut_update(fixed: PyTree, constant: PyTree, g: PyTree, s: PyTree, p: PyTree) -> PyTree:
        updates, opt_state = optimizer.update(g, trees.merge(s, fixed), p)
        updates = jax.tree.map(lambda cut, u: jnp.where(cut, jax.lax.stop_gradient(u), u), constant, updates)
        return trees.split(TrainState(optax.apply_updates(p, updates), opt_state))[0]

    def points_of(state: TrainState) -> Points:
        moving, fixed = trees.split(state.opt_state)
        return singular_points(functools.partial(moving_update, fixed), state.params, moving, state.params)

    # Compiled functions of their own, so that a sweep which is traced several times traces them once.
    @jax.jit
    def pull_carefully(gradients: PyTree, state: TrainState, costate: PyTree, plain: PyTree) -> Pull:
        moving, fixed = trees.split(state.opt_state)
        at = gradients, moving, state.params
        return pull_through(functools.partial(cut_update, fixed), at, costate, plain, points_of(state))

    @jax.jit
    def counts_of(singular: PyTree, state: TrainState, weights: Array, input: PyTree) -> PyTree:
        """Coordinates that are left out although an example has a gradient there, a leaf."""

        def probed() -> PyTree:
            # Weights that no gradients cancel under; the step's own hide the examples of weight zero.
            random = jax.random.uniform(jax.random.key(0), weights.shape, weights.dtype, 1.0, 2.0)
            reached, _ = gradient(state.params, random, input)
            return jax.tree.map(lambda s, g: jnp.sum(s & (g != 0), dtype=jnp.int32), singular, reached)

        # Where every example weighs something, a gradient of zero is one of all examples: nothing was left out.
        hidden = jnp.any(weights == 0) & jnp.any(jnp.stack([jnp.any(s) for s in jax.tree.leaves(singular)]))
        nothing = jax.tree.map(lambda s: jnp.int32(0), singular)
        return jax.lax.cond(hidden, probed, lambda: nothing)

    def pullback(state: TrainState, control: Array, input: PyTree) -> tuple[TrainState, Callable[[PyTree], Pulled]]:
        params, opt_state = state
        weights, pull_weights = jax.vjp(lambda u: weights_of(u, input), control)
        at = jax.checkpoint(gradient) if remat else gradient
        (gradients, _), tangent = jax.linearize(lambda p: at(p, weights, input), params)
        moving, fixed = trees.split(opt_state)
        update_here = functools.partial(moving_update, fixed)
        _, pull_update = jax.vjp(update_here, gradients, moving, params)
        guard = (gradients, state, weights, input) if any(points_of(state)) else None
        rule = jax.tree_util.Partial(pull, pull_update, tangent, pull_weights, guard)
        return update(gradients, opt_state, params), rule

    def pull(
        pull_update: Callable[[PyTree], tuple[PyTree, PyTree, PyTree]],
        tangent: Callable[[PyTree], tuple[PyTree, Array]],
        pull_weights: Callable[[Array], tuple[PyTree]],
        guard: tuple[PyTree, TrainState, Array, PyTree] | None,
        costate: PyTree,
    ) -> Pulled:
        found, singular = pull_update(costate), None
        if guard is not None:
            gradients, state, weights, input = guard
            found, masks = pull_carefully(gradients, state, costate, found)
            singular = counts_of(masks, state, weights, input)
        cotangent, opt_state, params = found
        curvature, along = tangent(cotangent)
        size = trees.norm(costate.params)
        return Pulled(
            TrainState(trees.add(params, curvature), opt_state),
            pull_weights(along)[0],
            cotangent,
            StepHealth(singular, size),
        )

    def finite(state: TrainState, control: Array, input: PyTree) -> tuple[Array, Array]:
        gradients, each = gradient(state.params, weights_of(control, input), input)
        return trees.finite(each), trees.finite(gradients)

    return Dynamics(init, step, pullback, finite)


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


def _optimizer_state(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    try:
        return optimizer.init(params)
    except Exception as error:  # whatever a rule raises for parameters that it was not made for
        raise ValueError(
            f"optimizer.init(params) raised {type(error).__name__}: {error}; the rule does not fit these parameters "
            f"(leaves {', '.join(name for name, _ in trees.named_leaves(params, 'params')[:3])}, ...)"
        ) from error


def _check_update(optimizer: optax.GradientTransformation, state: TrainState) -> None:
    def update(state: TrainState) -> TrainState:
        updates, opt_state = optimizer.update(state.params, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state)

    try:
        jax.eval_shape(update, state)
    except Exception as error:  # whatever a rule raises for what it was not made for
        needs = [name for name in ("value", "grad", "value_fn", "obj_fn") if f"'{name}'" in str(error)]
        if needs:
            hint = (
                f"the optimizer needs more than (gradient, state, params), namely {', '.join(needs)}, as line searches "
                "do, and cannot be the plant; use a rule such as optax.sgd or optax.adamw"
            )
        elif "dtype_promotion" in str(error):
            hint = "the rule itself mixes dtypes: set jax_numpy_dtype_promotion to 'standard'"
        else:
            hint = "expected a rule whose gradient, parameters and updates have one structure (optax.lookahead has not)"
        raise ValueError(f"optimizer.update raised {type(error).__name__}: {error}; {hint}") from error


def _check_losses(each: Any, weights: Array, indexed: bool) -> None:
    if not isinstance(each, jax.Array):
        found = f"a {type(each).__name__} of {len(each)}" if isinstance(each, tuple | list | dict) else f"{each!r}"
        raise ValueError(
            f"losses returned {found}, expected one array [N], one loss an example; return the losses alone and leave "
            "out what comes with them (metrics, new batch statistics)"
        )
    if each.ndim != 1:
        raise ValueError(
            f"losses returned shape {each.shape}, expected [N], one loss an example; do not reduce over examples"
        )
    if weights.shape != each.shape:
        what = "the index names" if indexed else "the control has"
        raise ValueError(
            f"{what} {weights.shape} weights for losses of shape {each.shape}; expected one weight an example"
        )
