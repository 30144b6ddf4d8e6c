"""On any GPU or TPU, in under ten minutes: gradients against float64 on the CPU, the sweep's cost, tokens per second.

    python -m pytest -n 0 -s -m accelerator tests/accelerator

Without an accelerator the same code runs in small sizes, and what only an accelerator can show is skipped. JAX must see
the CPU too: with `JAX_PLATFORMS` set it is `JAX_PLATFORMS=cuda,cpu`.
"""

import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pmpjax as pmp
from pmpjax import observables as obs
from pmpjax.costs.utilisation import peak_flops
from pmpjax.data import Rows
from pmpjax.models import Decoder, DecoderConfig, example_losses, initialise
from pmpjax.runs.precision import double_precision
from pmpjax.train import train, train_step
from pmpjax.train.model import forward_flops
from tests.oracles import relative_error

pytestmark = pytest.mark.accelerator
BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"
OPTIMIZERS = {"SGD": optax.sgd(0.05), "AdamW": optax.adamw(1e-3, eps_root=1e-6)}


@pytest.fixture(scope="module")
def accelerated():
    """Whether there is one; then programs are compiled as users' are, where tests/conftest.py saves optimizations."""
    device = jax.devices()[0]
    print(f"\n{device.platform}, {device.device_kind}, jax {jax.__version__}")
    jax.config.update("jax_disable_most_optimizations", device.platform == "cpu")
    yield device.platform != "cpu"
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def benchmark(monkeypatch):
    """experiments/benchmarks/costate.py, which is in no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import costate

    return costate


def only_an_accelerator_shows(accelerated, what):
    if not accelerated:
        pytest.skip(f"{what} is of an accelerator, and JAX shows only the CPU here; the rest of this test passed")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_control_gradients_are_those_of_float64_on_the_cpu(benchmark, accelerated, optimizer):
    """A plain loss, which asks for no precision: TF32 and bfloat16 products would be 1e-3 to 1e-2 off."""
    steps = 32 if accelerated else 8
    layers, width = (2, 128) if accelerated else (1, 32)
    shape = benchmark.DecoderShape(layers=layers, width=width, vocabulary=64, batch=8, length=16)
    losses = functools.partial(benchmark.decoder_losses, shape)
    keys = jax.random.split(jax.random.key(0), 3)
    tokens, desired = benchmark.decoder_tokens(shape, steps, keys[0]), benchmark.decoder_tokens(shape, 1, keys[1])
    host = jax.tree.map(np.asarray, (benchmark.init_decoder(shape, keys[2]), tokens, desired))

    def gradient(dtype):
        params, tokens, desired = host
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
        dynamics = pmp.training_dynamics(losses, OPTIMIZERS[optimizer])
        problem = pmp.Problem(dynamics, pmp.area_under(lambda p: losses(p, desired[0]).mean()))
        weights = jnp.full((steps, shape.batch), 1 / shape.batch, dtype)
        sweep = pmp.costate(problem, dynamics.init(params), weights, tokens, observe=obs.control_gradient)
        return np.asarray(sweep.seen)

    found = gradient(jnp.float32)
    with double_precision(), jax.default_device(jax.devices("cpu")[0]):
        expected = gradient(jnp.float64)
    error = relative_error(found, expected)
    print(f"control gradients through {optimizer}: relative error {error:.1e}")
    assert found.dtype == np.float32 and expected.dtype == np.float64 and error < 1e-4


def test_what_a_sweep_costs(benchmark, accelerated, tmp_path):
    """In gradients of the training loss, interleaved with the bare training run."""
    small = benchmark.DecoderShape(layers=1, width=32, vocabulary=64, batch=4, length=16)
    shape = benchmark.DecoderShape() if accelerated else small
    adjoints = {name: benchmark.ADJOINTS[name] for name in ("StoreAll", "Checkpointed")}
    options = benchmark.Options(what="decoder", rounds=9 if accelerated else 1, out=tmp_path)
    rows = benchmark.decoder_rows(shape, 64 if accelerated else 6, "SGD", adjoints, options)
    print(benchmark.table(rows))
    cost = {row["method"]: row for row in rows}
    assert set(cost) == {*benchmark.PEERS, *adjoints}
    assert all(cost[name]["gradients"] > 1 and cost[name]["temporary_bytes"] > 0 for name in adjoints)
    only_an_accelerator_shows(accelerated, "a sweep's cost")
    assert cost["Checkpointed"]["gradients"] < 8
    assert cost["Checkpointed"]["temporary_bytes"] < cost["jax.grad, checkpoint"]["temporary_bytes"]


def test_training_tokens_per_second(accelerated):
    """A decoder in bfloat16, the library's own loop; compiled by a first call, timed by a second."""
    sizes = {"width": 768, "layers": 12, "heads": 12, "key_value_heads": 12, "hidden": 3_072}
    if not accelerated:
        sizes = {"width": 32, "layers": 1, "heads": 2, "key_value_heads": 2, "hidden": 64}
    batch, length, steps = (16, 512, 40) if accelerated else (2, 16, 4)
    config = DecoderConfig(vocabulary=8_192 if accelerated else 64, compute="bfloat16", **sizes)
    decoder = Decoder(config)
    params = initialise(decoder, jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
    step = train_step(example_losses(decoder), optax.adamw(1e-3), steps_per_call=steps // 2)
    tokens = np.random.default_rng(0).integers(0, config.vocabulary, (batch, length + 1), dtype=np.int32)
    rows = Rows(tokens, np.full(batch, length + 1, np.int32))  # the same each time: it can be learned by heart

    def run():
        begin = time.perf_counter()
        trained = train(step, params, [rows] * steps, steps)
        return trained.losses, time.perf_counter() - begin

    run()
    curve, seconds = run()
    rate = batch * length * steps / seconds
    share = 3 * forward_flops(config, batch * length) * steps / seconds / peak_flops(jax.devices()[:1])
    print(f"{rate:,.0f} training tokens per second, {share:.1%} of the peak in 16 bits")
    assert np.isfinite(curve).all() and curve[-1] < curve[0]
    only_an_accelerator_shows(accelerated, "a rate")
    assert rate > 5_000, "two CPU cores make 4,837 with a model a ninth of this size"
