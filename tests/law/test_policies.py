"""Groups of examples, their weights, and the geometry of each solver."""

import jax
import numpy as np
import pytest

from pmpjax.law import policies, problems


def test_groups_partition_the_examples_and_their_weights_average_to_one():
    drawn = problems.draw(problems.PerceptronProblem(dimension=8, train=24, dev=12, test=10, steps=7), seed=0)
    masks = policies.groups(drawn.teacher, drawn.train, drawn.noisy)
    assert np.array_equal(masks.sum(0), np.ones(24)) and np.array_equal(masks[0], drawn.noisy)
    assert masks[1].sum() > 0 and masks[2].sum() > 0
    weights = jax.nn.softmax(jax.random.normal(jax.random.key(0), (24,)))
    found = policies.relative_weights(weights, masks)
    assert float(found @ masks.mean(1)) == pytest.approx(1.0, rel=1e-5)


def test_solvers_have_the_geometry_of_their_name():
    assert [policies.method(name).prox.name for name in ("mirror", "proximal", "frank-wolfe")] == [
        "entropic",
        "simplex",
        "simplex",
    ]
