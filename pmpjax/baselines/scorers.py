"""What every method of selection is: a function from prepared data to one number for each document."""

from collections.abc import Callable

from jaxtyping import Array

from pmpjax.data import Prepared

Scorer = Callable[[Prepared, Array], Array]
"""(prepared, key) -> [D], one score for each document of the source in their order; the highest are kept.

PDS's score and every baseline have this signature, so that selection and pretraining treat them alike. The key is the
method's only randomness. Scores are finite; their scale does not matter, for selection standardises them.
"""
