"""The conventional baseline: every document has the same chance."""

import jax
from jaxtyping import Array, Float

from pmpjax.data import Prepared


def random(prepared: Prepared, key: Array) -> Float[Array, " documents"]:
    """s_d ~ U(0, 1), independent of the text: keeping the highest is a uniform sample without replacement."""
    return jax.random.uniform(key, (len(prepared.documents.ids),))
