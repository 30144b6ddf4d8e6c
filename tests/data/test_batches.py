import numpy as np
import pytest

from pmpjax.data import batch_schedule


@pytest.mark.parametrize(("count", "batch"), [(10, 2), (10, 3), (7, 7), (5, 16), (1, 4)])
def test_each_epoch_holds_each_instance_once(count, batch):
    schedule = batch_schedule(count, 40, batch, seed=3)
    assert schedule.shape == (40, batch) and schedule.dtype == np.int32
    stream = schedule.ravel()
    for epoch in range(len(stream) // count):
        np.testing.assert_array_equal(np.sort(stream[epoch * count : (epoch + 1) * count]), np.arange(count))


def test_a_resumed_schedule_goes_on_where_it_was():
    whole = batch_schedule(13, 50, 4, seed=1)
    for start in range(0, 50, 7):
        np.testing.assert_array_equal(batch_schedule(13, 50 - start, 4, seed=1, start=start), whole[start:])


def test_epochs_and_seeds_have_orders_of_their_own():
    stream = batch_schedule(1000, 2, 1000, seed=0)
    other = batch_schedule(1000, 1, 1000, seed=1)
    assert (stream[0] == stream[1]).sum() < 20 and (stream[0] == other[0]).sum() < 20


def test_no_steps_give_an_empty_schedule():
    assert batch_schedule(3, 0, 2, seed=0).shape == (0, 2)


@pytest.mark.parametrize("wrong", [dict(count=0), dict(batch=0), dict(steps=-1), dict(start=-1)])
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        batch_schedule(**({"count": 3, "steps": 2, "batch": 2, "seed": 0} | wrong))
