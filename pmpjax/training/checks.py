"""What can be wrong with losses, parameters or an optimizer, said while tracing, with the leaf and a hint."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from pmpjax.control import trees


def check_params(params: PyTree) -> None:
    """Parameters are floating; those of reduced precision are warned of."""
    for name, leaf in trees.named_leaves(params, "params"):
        if not trees.is_differentiable(leaf):
            hint = "keep what is not trained in the losses"
            raise ValueError(f"{name} has dtype {leaf.dtype}, expected a floating one; {hint}")
        if leaf.dtype in (jnp.bfloat16, jnp.float16):
            warnings.warn(
                f"{name} has dtype {leaf.dtype}: costates accumulate rounding over the steps. Keep parameters in "
                "float32, or trust the scores only where pmpjax.verify's consistency check holds.",
                UserWarning,
                stacklevel=3,
            )


def optimizer_state(optimizer: optax.GradientTransformation, params: PyTree) -> PyTree:
    """`optimizer.init(params)`, whose errors name the parameters."""
    try:
        return optimizer.init(params)
    except Exception as error:  # whatever a rule raises for parameters that it was not made for
        names = ", ".join(name for name, _ in trees.named_leaves(params, "params")[:3])
        raise ValueError(
            f"optimizer.init(params) raised {type(error).__name__}: {error}; the rule does not fit these parameters "
            f"(leaves {names}, ...)"
        ) from error


def check_update(update: Callable[[PyTree, PyTree, PyTree], PyTree], opt_state: PyTree, params: PyTree) -> None:
    """An update can be traced from gradient, state and parameters alone."""
    try:
        jax.eval_shape(update, params, opt_state, params)
    except Exception as error:  # whatever a rule raises for what it was not made for
        needs = [name for name in ("value", "grad", "value_fn", "obj_fn") if f"'{name}'" in str(error)]
        if needs:
            hint = (
                f"the optimizer needs more than (gradient, state, params), namely {', '.join(needs)}, as line searches "
                "do, and cannot be the inner optimizer; use a rule such as optax.sgd or optax.adamw"
            )
        elif "dtype_promotion" in str(error):
            hint = "the rule itself mixes dtypes: set jax_numpy_dtype_promotion to 'standard'"
        else:
            hint = "expected a rule whose gradient, parameters and updates have one structure (optax.lookahead has not)"
        raise ValueError(f"optimizer.update raised {type(error).__name__}: {error}; {hint}") from error


def check_losses(each: Any, weights: Array, indexed: bool) -> None:
    """One loss an example, and one weight a loss."""
    if not isinstance(each, jax.Array):
        found = f"a {type(each).__name__} of {len(each)}" if isinstance(each, tuple | list | dict) else f"{each!r}"
        hint = "return the losses alone and leave out what comes with them (metrics, new batch statistics)"
        raise ValueError(f"losses returned {found}, expected one array [N], one loss an example; {hint}")
    if each.ndim != 1:
        hint = "do not reduce over examples"
        raise ValueError(f"losses returned shape {each.shape}, expected [N], one loss an example; {hint}")
    if weights.shape != each.shape:
        what = "the index names" if indexed else "the control has"
        expected = "expected one weight an example"
        raise ValueError(f"{what} {weights.shape} weights for losses of shape {each.shape}; {expected}")
