"""Reverse derivatives in which 0 * infinity is 0: a traced function, evaluated again with guarded operations."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, PyTree

INFINITE_SLOPES = frozenset({"sqrt", "rsqrt", "cbrt", "div", "pow", "log", "log1p", "integer_pow"})
"""Elementwise operations whose slope may be infinite at finite operands."""

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
"""Operations that only call a function, and the parameter that holds it."""

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
    structure = jax.tree.structure(shapes)
    return lambda *given: structure.unflatten(evaluate(traced.jaxpr, traced.consts, *jax.tree.leaves(given)))


def evaluate(jaxpr: Jaxpr, constants: Sequence[Any], *arguments: Any) -> list[Any]:
    """The results of a traced function, its operations guarded."""
    values = every_value(jaxpr, constants, arguments)
    return [read(values, variable) for variable in jaxpr.outvars]


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


def as_closed(jaxpr: Any) -> ClosedJaxpr:
    """The function that an operation's parameter holds."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, [])


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
    if name in CALLS:
        return _function(params[CALLS[name]])(*operands)
    if name == "cond":
        return jax.lax.switch(operands[0], [_function(branch) for branch in params["branches"]], *operands[1:])
    if name == "scan":
        body, fixed, carried = _function(params["jaxpr"]), params["num_consts"], params["num_carry"]

        def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
            found = body(*operands[:fixed], *carry, *rows)
            return found[:carried], found[carried:]

        carry, rows = operands[fixed : fixed + carried], operands[fixed + carried :]
        carry, rows = jax.lax.scan(step, carry, rows, params["length"], params["reverse"], params["unroll"])
        return [*carry, *rows]
    if name.startswith("custom_"):  # whose derivative is its author's: taken as it is
        given = {v: x for v, x in zip(equation.invars, operands, strict=True) if not isinstance(v, Literal)}
        called = as_closed(params.get("call_jaxpr", params.get("fun_jaxpr"))).jaxpr
        alone = called.replace(constvars=(), invars=[*given], outvars=equation.outvars, eqns=[equation])
        return list(jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values()))
    found = bind(*operands)
    return list(found) if equation.primitive.multiple_results else [found]


def _function(jaxpr: Any) -> Callable[..., list[Any]]:
    traced = as_closed(jaxpr)
    return functools.partial(evaluate, traced.jaxpr, traced.consts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _strong(bind: Callable[..., Array], *operands: Any) -> Array:
    return bind(*operands)


def _strong_forward(bind: Callable[..., Array], *operands: Any) -> tuple[Array, tuple[Array, ...]]:
    return bind(*operands), tuple(map(jnp.asarray, operands))


def _strong_backward(bind: Callable[..., Array], operands: Sequence[Any], cotangent: Array) -> tuple[Any, ...]:
    def product(operand: Any, slope: Array) -> Any:
        if not jnp.issubdtype(operand.dtype, jnp.floating):  # an integer exponent
            return np.zeros(operand.shape, jax.dtypes.float0)
        pulled = jnp.where((cotangent == 0) & ~jnp.isfinite(slope), 0.0, cotangent * slope)
        shape = operand.shape or (1,) * pulled.ndim
        repeated = tuple(axis for axis, size in enumerate(shape) if size != pulled.shape[axis])
        return jnp.sum(pulled, axis=repeated, keepdims=True).reshape(operand.shape)

    return tuple(map(product, operands, _slopes(bind, operands, cotangent.shape)))


_strong.defvjp(_strong_forward, _strong_backward)
