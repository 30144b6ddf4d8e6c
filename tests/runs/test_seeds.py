"""Random streams: the same for the same seed and purpose, unrelated for others, and constant between versions."""

import jax
import numpy as np
import pytest

from pmpjax.runs.seeds import stage_generator, stage_key, stage_seed

STREAMS = {
    "key": lambda seed, *names: np.asarray(jax.random.bits(stage_key(seed, *names), (4,))),
    "generator": lambda seed, *names: stage_generator(seed, *names).integers(2**31, size=4),
    "seed": lambda seed, *names: np.asarray(stage_seed(seed, *names)),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_stream_depends_on_the_seed_and_on_each_name(stream):
    first = stream(0, "solve", "order")
    np.testing.assert_array_equal(first, stream(0, "solve", "order"))
    for other in ((1, "solve", "order"), (0, "solve", "pool"), (0, "fit", "order"), (0, "solve")):
        assert not np.array_equal(first, stream(*other)), other
