"""Where a warm start goes on: at the rate that the schedule had reached, whatever the schedule was."""

import pytest

from pmpjax.train import OptimizerConfig, rate_schedule
from pmpjax.train.warm_start import warm_start


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("done", [1, 30, 100])
def test_the_rate_is_held_where_the_schedule_was(schedule, done):
    config = OptimizerConfig(learning_rate=0.02, warmup_steps=10, schedule=schedule)
    found = warm_start({"w": 1.0}, "state", config, done, 100)
    assert found.optimizer.learning_rate == pytest.approx(float(rate_schedule(config, 100)(done)))
    held = rate_schedule(found.optimizer, 50)
    assert float(held(0)) == float(held(49)) == pytest.approx(found.optimizer.learning_rate)
    assert (found.params, found.opt_state) == ({"w": 1.0}, "state")
