"""The loop against a plain Python loop, and resumed against uninterrupted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmpjax.data import batch_schedule
from pmpjax.train import OptimizerConfig, adamw, load_params, save_params, train

DATA = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(12, 2), "y": np.arange(12, dtype=np.float32)}
OPTIMIZER = adamw(OptimizerConfig(learning_rate=0.05, warmup_steps=3))
SCHEDULE = batch_schedule(12, 10, 4, seed=3)


def losses(params, batch):
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def evaluate(params):
    return {"all": jnp.mean(losses(params, DATA)), "b": params["b"]}


def start():
    return {"w": jnp.array([0.3, -0.2]), "b": jnp.array(0.1)}


def test_the_loop_does_what_a_plain_loop_does():
    done = []
    trained = train(
        losses,
        OPTIMIZER,
        start(),
        DATA,
        SCHEDULE,
        evaluate=evaluate,
        evaluate_every=4,
        progress=lambda n, _: done.append(n),
    )
    params, state, expected, evaluated = start(), OPTIMIZER.init(start()), [], []
    step = jax.jit(jax.value_and_grad(lambda p, batch: losses(p, batch).mean()))
    for t, rows in enumerate(SCHEDULE):
        if t % 4 == 0:
            evaluated.append(evaluate(params))
        value, gradient = step(params, {name: leaf[rows] for name, leaf in DATA.items()})
        updates, state = OPTIMIZER.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        expected.append(value)
    evaluated.append(evaluate(params))
    np.testing.assert_allclose(trained.losses, expected, rtol=1e-5)
    assert trained.evaluated_at.tolist() == [0, 4, 8, 10]
    for name in ("all", "b"):
        np.testing.assert_allclose(trained.evaluated[name], [float(e[name]) for e in evaluated], rtol=1e-5)
    np.testing.assert_allclose(trained.params["w"], params["w"], rtol=1e-5)
    assert done == [4, 4, 2]


class Killed(Exception):
    pass


@pytest.mark.parametrize("fatal", [1, 2, 3])
@pytest.mark.parametrize("measure", [evaluate, None])
def test_a_run_stopped_anywhere_and_started_again_gives_the_same_bits(tmp_path, fatal, measure):
    options = {"evaluate": measure, "evaluate_every": 2, "save_every": 4}
    whole = train(losses, OPTIMIZER, start(), DATA, SCHEDULE, **options)
    calls = []

    def stop(steps, _):
        calls.append(steps)
        if len(calls) == fatal:
            raise Killed

    with pytest.raises(Killed):
        train(losses, OPTIMIZER, start(), DATA, SCHEDULE, checkpoints=tmp_path, progress=stop, **options)
    done = []
    again = train(
        losses,
        OPTIMIZER,
        start(),
        DATA,
        SCHEDULE,
        checkpoints=tmp_path,
        progress=lambda n, _: done.append(n),
        **options,
    )
    jax.tree.map(np.testing.assert_array_equal, again._asdict(), whole._asdict())
    assert done[0] == (4 if fatal == 3 else 2)  # the checkpoint of step 4 was found, or there was none yet


def test_the_callers_parameters_stay_usable():
    params = start()
    train(losses, OPTIMIZER, params, DATA, SCHEDULE)
    assert float(params["b"]) == pytest.approx(0.1)


def test_parameters_survive_their_file(tmp_path):
    params = {"trunk": {"layers_0": {"kernel": np.arange(6.0).reshape(2, 3)}}, "bias": np.float32(2)}
    save_params(tmp_path / "params", params)
    jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / "params"), params)


def test_the_rate_warms_up_then_stays_and_scales_do_not_decay():
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=2, weight_decay=0.5)
    optimizer, params = adamw(config), {"matrix": jnp.ones((1, 1)), "scale": jnp.ones(1)}
    state, sizes = optimizer.init(params), []
    for _ in range(5):
        updates, state = optimizer.update(jax.tree.map(lambda p: 0.1 * p, params), state, params)
        sizes.append((float(updates["scale"][0]), float(updates["matrix"][0, 0])))
    np.testing.assert_allclose([s for s, _ in sizes], [0, -0.05, -0.1, -0.1, -0.1], atol=1e-6)
    np.testing.assert_allclose([m / s for s, m in sizes[1:]], 1.5, rtol=1e-4)
