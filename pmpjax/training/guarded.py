"""Reverse derivatives in which 0 * infinity is 0: a traced function, evaluated again with guarded operations."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, PyTree

from pmpjax.control.tracing import as_closed, called

INFINITE_SLOPES = frozenset({"sqrt", "rsqrt", "cbrt", "div", "pow", "log", "log1p", "integer_pow"})
"""Elementwise operations whose slope may be infinite at finite operands."""

_JAXPRS = (ClosedJaxpr, Jaxpr)
_GUARDED = INFINITE_SLOPES | {"mul"}  # a product with an infinite or undefined operand


def operations(jaxpr: Jaxpr) -> Iterator[Any]:
    """Every operation of a traced function and of those that it calls.

    Example:
        >>> [equation.primitive.name for equation in operations(jax.make_jaxpr(lambda x: jnp.sqrt(-x))(1.0).jaxpr)]
        ['neg', 'sqrt']
    """
    for equation in jaxpr.eqns:
        yield equation
        params = jax.tree.leaves([*equation.params.values()], is_leaf=lambda value: isinstance(value, _JAXPRS))
        for inside in (value for value in params if isinstance(value, _JAXPRS)):
            yield from operations(as_closed(inside).jaxpr)


def guarded(function: Callable[..., PyTree], *arguments: PyTree) -> Callable[..., PyTree]:
    """`function` with the same values, and 0 * infinity = 0 in its reverse derivative.

    Example:
        >>> clip = lambda g: jnp.where(jnp.sqrt(g @ g) < 1, g, g / jnp.sqrt(g @ g))
        >>> jax.vjp(guarded(clip, jnp.zeros(2)), jnp.zeros(2))[1](jnp.ones(2))[0].tolist()
        [1.0, 1.0]
    """
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    structure, of_leaves = jax.tree.structure(shapes), _guarded(traced)
    return lambda *given: structure.unflatten(of_leaves(*jax.tree.leaves(given)))


def _guarded(jaxpr: Any) -> Callable[..., list[Any]]:
    """The results of a traced function, its operations guarded."""
    traced = as_closed(jaxpr)

    def results(*arguments: Any) -> list[Any]:
        values = every_value(traced.jaxpr, traced.consts, arguments)
        return [read(values, variable) for variable in traced.jaxpr.outvars]

    return results


def every_value(jaxpr: Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> dict[Any, Any]:
    """The value of each variable of a traced function, its operations guarded."""
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        operands = [read(values, atom) for atom in equation.invars]
        values |= zip(equation.outvars, _apply(equation, operands), strict=True)
    return values


def read(values: dict[Any, Any], atom: Any) -> Any:
    """The value of a variable or a literal."""
    # A literal may be a Python number, which would take another dtype in `_strong` than the operation has.
    if isinstance(atom, Literal):
        return jnp.asarray(atom.val, jnp.result_type(atom.aval))
    return values[atom]


def slopes_of(equation: Any, operands: Sequence[Any]) -> list[Array]:
    """d result / d operand of an elementwise operation, each like the result; zero for integers."""
    bind = functools.partial(equation.primitive.bind, **equation.params)
    return _slopes(bind, operands, equation.outvars[0].aval.shape)


def _slopes(bind: Callable[..., Array], operands: Sequence[Any], shape: tuple[int, ...]) -> list[Array]:
    # Scalars and axes of length 1 are broadcast by hand, so that every slope is an elementwise one.
    result, vjp = jax.vjp(bind, *(jnp.broadcast_to(operand, shape) for operand in operands))
    found = vjp(jnp.ones_like(result))
    return [jnp.zeros_like(result) if slope.dtype == jax.dtypes.float0 else slope for slope in found]


def _apply(equation: Any, operands: list[Any]) -> list[Any]:
    """An operation's results: itself guarded where its slope may be infinite; calls, branches and scans entered."""
    name, params = equation.primitive.name, equation.params
    bind = functools.partial(equation.primitive.bind, **params)
    if name in _GUARDED and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating):
        return [_strong(bind, *operands)]
    if (inside := called(equation)) is not None:
        return _guarded(inside)(*operands)
    if name == "cond":
        return jax.lax.switch(operands[0], list(map(_guarded, params["branches"])), *operands[1:])
    if name == "scan":
        body, fixed, carried = _guarded(params["jaxpr"]), params["num_consts"], params["num_carry"]

        def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
            found = body(*operands[:fixed], *carry, *rows)
            return found[:carried], found[carried:]

        carry, rows = operands[fixed : fixed + carried], operands[fixed + carried :]
        carry, rows = jax.lax.scan(step, carry, rows, params["length"], params["reverse"], params["unroll"])
        return [*carry, *rows]
    if name.startswith("custom_"):  # whose derivative is its author's: taken as it is
        given = {v: x for v, x in zip(equation.invars, operands, strict=True) if not isinstance(v, Literal)}
        inner = as_closed(params.get("call_jaxpr", params.get("fun_jaxpr"))).jaxpr
        alone = inner.replace(constvars=(), invars=[*given], outvars=equation.outvars, eqns=[equation])
        return list(jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values()))
    found = bind(*operands)
    return list(found) if equation.primitive.multiple_results else [found]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _strong(bind: Callable[..., Array], *operands: Any) -> Array:
    return bind(*operands)


def _strong_forward(bind: Callable[..., Array], *operands: Any) -> tuple[Array, tuple[Array, ...]]:
    return bind(*operands), tuple(map(jnp.asarray, operands))


def _strong_backward(bind: Callable[..., Array], operands: Sequence[Any], cotangent: Array) -> tuple[Any, ...]:
    def product(operand: Any, slope: Array) -> Any:
        if not jnp.issubdtype(operand.dtype, jnp.floating):  # an integer exponent
            return np.zeros(operand.shape, jax.dtypes.float0)
        products = jnp.where((cotangent == 0) & ~jnp.isfinite(slope), 0.0, cotangent * slope)
        shape = operand.shape or (1,) * products.ndim
        repeated = tuple(axis for axis, size in enumerate(shape) if size != products.shape[axis])
        return jnp.sum(products, axis=repeated, keepdims=True).reshape(operand.shape)

    return tuple(map(product, operands, _slopes(bind, operands, cotangent.shape)))


_strong.defvjp(_strong_forward, _strong_backward)
