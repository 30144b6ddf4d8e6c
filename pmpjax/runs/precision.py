"""Double precision for what needs it."""

from contextlib import AbstractContextManager

import jax


def double_precision() -> AbstractContextManager[None]:
    """A context in which JAX computes with float64; JAX before 0.8 has it under another name.

    >>> with double_precision():
    ...     jax.numpy.ones(1).dtype
    dtype('float64')
    """
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    return enable_x64()
