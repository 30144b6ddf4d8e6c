"""The loop against a plain Python loop, and resumed against uninterrupted."""

import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmpjax.data import batch_schedule, scheduled_batches
from pmpjax.runs import RunError
from pmpjax.train import (
    DivergedError,
    Evaluation,
    OptimizerConfig,
    Saving,
    adamw,
    train,
    train_step,
)

DATA = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2), "y": np.arange(12, dtype=np.float32)}
OPTIMIZER = adamw(OptimizerConfig(learning_rate=0.05, warmup_steps=3))
SCHEDULE = batch_schedule(12, 10, 4, seed=3)
STEPS = len(SCHEDULE)


def batches():
    return scheduled_batches(DATA, SCHEDULE)


def losses(params, batch):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def evaluate(params):
    return {"all": jnp.mean(losses(params, DATA)), "b": params["b"]}


STEP = train_step(losses, OPTIMIZER)


def start():
    return {"w": jnp.array([0.3, -0.2]), "b": jnp.array(0.1)}


class Sink:
    """A metrics sink in memory: {step: numbers}, cut at a resume."""

    def __init__(self):
        self.lines = []

    def resume(self, step):
        self.lines = [(at, values) for at, values in self.lines if at < step]

    def write(self, step, values):
        self.lines.append((step, dict(values)))

    def of(self, name):
        return [(step, values[name]) for step, values in self.lines if name in values]


def test_the_loop_does_what_a_plain_loop_does():
    done, sink = [], Sink()
    trained = train(
        STEP,
        start(),
        batches(),
        STEPS,
        evaluation=Evaluation(evaluate, 4),
        progress=done.append,
        metrics=sink,
    )
    params, state, expected, norms, evaluated = start(), OPTIMIZER.init(start()), [], [], []
    step = jax.jit(jax.value_and_grad(lambda p, batch: losses(p, batch).mean()))
    for t, rows in enumerate(SCHEDULE):
        if t % 4 == 0:
            evaluated.append(evaluate(params))
        value, gradient = step(params, {name: leaf[rows] for name, leaf in DATA.items()})
        updates, state = OPTIMIZER.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        expected.append(value)
        norms.append(optax.tree.norm(gradient))
    evaluated.append(evaluate(params))
    np.testing.assert_allclose(trained.losses, expected, rtol=1e-5)
    assert trained.evaluated_at.tolist() == [0, 4, 8, 10]
    for name in ("all", "b"):
        np.testing.assert_allclose(trained.evaluated[name], [float(e[name]) for e in evaluated], rtol=1e-5)
    np.testing.assert_allclose(trained.params["w"], params["w"], rtol=1e-5)
    assert sum(report.steps for report in done) == STEPS == done[-1].step
    assert trained.resumed_at is None and trained.damaged == ()
    assert [step for step, _ in sink.of("loss")] == list(range(STEPS))
    np.testing.assert_allclose([norm for _, norm in sink.of("gradient_norm")], norms, rtol=1e-5)
    assert [step for step, _ in sink.of("all")] == [0, 4, 8, 10]


class Killed(Exception):
    pass


def stopping_at(step):
    """Losses whose data raise at a batch: the loop has then dispatched the steps before it."""

    class Source:
        def __len__(self):
            return STEPS

        def __getitem__(self, index):
            if index == step:
                raise Killed
            return {name: leaf[SCHEDULE[index]] for name, leaf in DATA.items()}

    return grain.MapDataset.source(Source()).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


@pytest.mark.parametrize("fatal", [2, 5, 9])
@pytest.mark.parametrize(("measure", "together"), [(evaluate, 1), (None, 1), (evaluate, 4), (None, 4)])
def test_a_run_stopped_anywhere_and_started_again_gives_the_same_bits(tmp_path, fatal, measure, together):
    step = train_step(losses, OPTIMIZER, steps_per_call=together)
    sinks, done = [Sink(), Sink()], []
    measured = None if measure is None else Evaluation(measure, 2)
    options = {"evaluation": measured, "metrics": sinks[0], "saving": Saving(tmp_path / "a", 4)}
    whole = train(step, start(), batches(), STEPS, **options)
    options |= {"metrics": sinks[1], "saving": Saving(tmp_path / "b", 4)}
    with pytest.raises(Killed):
        train(step, start(), stopping_at(fatal), STEPS, **options)
    again = train(step, start(), batches(), STEPS, progress=done.append, **options)
    # The next call's batches are read before this one's end is saved.
    assert again.resumed_at == ({2: None, 5: 4, 9: 8} if together == 1 else {2: None, 5: None, 9: 4})[fatal]
    assert done[0].step >= (again.resumed_at or 0) and sum(report.steps for report in done) == STEPS
    for name in ("params", "opt_state", "losses", "evaluated_at", "evaluated"):
        jax.tree.map(np.testing.assert_array_equal, getattr(again, name), getattr(whole, name))
    for name in ("loss", "gradient_norm", "all"):
        assert sinks[0].of(name) == sinks[1].of(name)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_is_never_saved(tmp_path):
    # Params are 2^8, 2^24, ..., 2^120, and infinite at step 8: however a mean is taken, no sum overflows before.
    def overflow(params, batch):
        return params["w"] * jnp.ones_like(batch["y"])

    growing = optax.stateless(lambda updates, params: jax.tree.map(lambda leaf: (2**16 - 1) * leaf, params))
    with pytest.raises(DivergedError, match=r"loss is inf at step 8; lower the learning rate"):
        params = {"w": jnp.float32(2.0**8)}
        train(train_step(overflow, growing), params, batches(), STEPS, saving=Saving(tmp_path, 1))
    assert max(int(path.name) for path in tmp_path.iterdir()) == 8  # the state before that loss


def test_the_last_step_is_saved_where_more_are_to_come(tmp_path):
    for saving, kept in ((Saving(tmp_path / "none"), []), (Saving(tmp_path / "last", last=True), [5])):
        train(STEP, start(), batches(), 5, saving=saving)
        assert [int(path.name) for path in saving.folder.glob("*")] == kept
    further = train(STEP, start(), batches(), STEPS, saving=Saving(tmp_path / "last", last=True))
    assert further.resumed_at == 5
    whole = train(STEP, start(), batches(), STEPS)
    np.testing.assert_array_equal(further.losses, whole.losses)
    jax.tree.map(np.testing.assert_array_equal, further.params, whole.params)


def test_data_that_end_early_and_data_without_a_position_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the data end after 10 batches, the run has 11 steps"):
        train(STEP, start(), batches(), STEPS + 1)
    with pytest.raises(ValueError, match="list_iterator has not"):
        train(STEP, start(), list(batches()), STEPS, saving=Saving(tmp_path, 4))
    train(STEP, start(), batches(), STEPS, saving=Saving(tmp_path, 4))
    with pytest.raises(RunError, match="a checkpoint of step 8, the run has 5; raise steps"):
        train(STEP, start(), batches(), 5, saving=Saving(tmp_path, 4))


def test_the_wait_for_slow_data_is_measured():
    class Slow:
        def __len__(self):
            return 8

        def __getitem__(self, index):
            time.sleep(0.05)
            return DATA

    slow = grain.MapDataset.source(Slow()).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    assert train(STEP, start(), slow, 8).host_wait > 0.7
