"""Strict everywhere: jaxtyping checked by beartype, no implicit rank promotion. float64 is asked for by the test."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("pmpjax", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Most of the suite's time is compilation of programs that run once; this halves it and changes no test's meaning.
jax.config.update("jax_disable_most_optimizations", True)


_MAPPINGS = Path("/proc/self/maps")
_MANY_MAPPINGS = 20_000


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_freed() -> Iterator[None]:
    """Each compiled program takes a few memory mappings, of which Linux gives a process 65,530: then it crashes."""
    yield
    if _MAPPINGS.exists() and len(_MAPPINGS.read_bytes().splitlines()) > _MANY_MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def float64() -> Iterator[None]:
    """Double precision inside the test, for identities."""
    from pmpjax.runs.precision import double_precision  # imports pmpjax, hence after the hook

    with double_precision():
        yield
