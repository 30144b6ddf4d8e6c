"""Random keys and generators for a purpose, from one seed."""

import zlib

import jax
import numpy as np
from jaxtyping import Array


def stage_key(seed: int, *names: str) -> Array:
    """A random key for a purpose: the same seed and names give the same one, other names an unrelated one.

    >>> bool((jax.random.key_data(stage_key(0, "init")) != jax.random.key_data(stage_key(0, "order"))).any())
    True
    """
    return jax.random.fold_in(jax.random.key(seed), _code(*names))


def stage_generator(seed: int, *names: str) -> np.random.Generator:
    """The same for numpy."""
    return np.random.Generator(np.random.PCG64([seed, _code(*names)]))


def stage_seed(seed: int, *names: str) -> int:
    """The same as a whole number, for `pmpjax.data.batch_schedule`."""
    return int(stage_generator(seed, *names).integers(2**31))


def _code(*names: str) -> int:
    return zlib.crc32("/".join(names).encode())
