"""The compiled step: micro-batches, several steps a call, and the caller's own parameters."""

import jax
import numpy as np
import optax
import pytest

from pmpjax.train import Evaluation, train, train_step
from tests.train.test_loop import OPTIMIZER, STEP, STEPS, Sink, batches, evaluate, losses, start


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_have_the_gradient_of_the_whole_batch(count):
    optimizer = optax.sgd(0.01)  # Adam would hide the gradient's size
    whole = train(train_step(losses, optimizer), start(), batches(), STEPS)
    parts = train(train_step(losses, optimizer, accumulate=count), start(), batches(), STEPS)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), parts.params, whole.params)
    with pytest.raises(ValueError, match="a batch of 4 is not a multiple of accumulate, 3"):
        train(train_step(losses, optimizer, accumulate=3), start(), batches(), STEPS)
    with pytest.raises(ValueError, match="accumulate and steps_per_call must be positive"):
        train_step(losses, optimizer, accumulate=0)


@pytest.mark.parametrize("together", [3, 4, 50])
def test_steps_made_in_one_call_are_the_same_steps(together):
    measured = Evaluation(evaluate, 4)
    sinks = [Sink(), Sink()]
    single = train(STEP, start(), batches(), STEPS, metrics=sinks[0], evaluation=measured)
    joint = train_step(losses, OPTIMIZER, steps_per_call=together)
    joined = train(joint, start(), batches(), STEPS, metrics=sinks[1], evaluation=measured)
    np.testing.assert_allclose(joined.losses, single.losses, rtol=1e-6)
    assert joined.evaluated_at.tolist() == single.evaluated_at.tolist()
    np.testing.assert_allclose(joined.evaluated["all"], single.evaluated["all"], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), joined.params, single.params)
    for name in ("loss", "gradient_norm", "all"):
        assert [step for step, _ in sinks[0].of(name)] == [step for step, _ in sinks[1].of(name)]


def test_the_callers_parameters_stay_usable():
    params = start()
    train(STEP, params, batches(), STEPS)
    assert float(params["b"]) == pytest.approx(0.1)
