"""The same run on one device, on meshes of eight, and across processes; what does not divide is refused by name."""

import json
import socket
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from pmpjax.models import Decoder, DecoderConfig, initialise
from pmpjax.train import MeshConfig, make_mesh
from pmpjax.train.mesh import AXES, check_mesh, partition, path_names, shardings
from tests.killing import finish, start

STEPS = 20
MESHES = [None, [8, 1, 1], [1, 8, 1], [2, 2, 2], [1, 4, 2]]


@pytest.fixture(scope="module")
def begin(tmp_path_factory):
    """(devices, settings) -> a process of `tests.train.on_devices`."""
    cache = tmp_path_factory.mktemp("cache")  # most of the time here is compilation, and much of it is shared

    def begin(devices, **settings):
        line = ["-m", "tests.train.on_devices", json.dumps({"steps": STEPS, **settings})]
        flags = f"--xla_force_host_platform_device_count={devices}"
        return start(*line, cache=cache, JAX_PLATFORMS="cpu", XLA_FLAGS=flags, JAX_DISABLE_MOST_OPTIMIZATIONS="true")

    return begin


def found(process):
    return json.loads(finish(process)[0].splitlines()[-1])


def across_processes(begin, meshes, devices=2, **settings):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [begin(devices, meshes=meshes, process=p, processes=2, port=port, **settings) for p in range(2)]
    first, second = map(found, processes)
    assert first == second  # each process reads the same losses
    return first


@pytest.fixture(scope="module")
def alone(begin):
    return found(begin(8, meshes=MESHES, temporary=[[1, 1, 1], [1, 8, 1]]))


@pytest.mark.slow
@pytest.mark.parametrize("which", range(1, len(MESHES)))
def test_a_mesh_does_not_change_the_losses(alone, which):
    np.testing.assert_allclose(alone["losses"][which], alone["losses"][0], rtol=1e-5, atol=1e-5)
    assert alone["losses"][0][-1] < alone["losses"][0][0] - 0.05  # it learns: equal losses mean equal updates
    assert alone["sharded"] == [1, 1, 8, 4, 8]


@pytest.mark.slow
def test_eight_devices_share_the_rows_of_a_batch(alone):
    """Left to itself the partitioner follows the weights, and each device computes every row."""
    whole, part = alone["temporary"]
    assert part < whole / 4


@pytest.mark.slow
def test_processes_do_not_change_the_losses_and_a_checkpoint_goes_to_another_mesh(begin, alone, tmp_path):
    across = across_processes(begin, [[2, 2, 1]], steps=12, checkpoints=str(tmp_path), save_every=8)
    np.testing.assert_allclose(across["losses"][0], alone["losses"][0][:12], rtol=1e-5, atol=1e-5)
    resumed = across_processes(begin, [[1, 2, 2]], checkpoints=str(tmp_path), save_every=8)
    assert resumed["resumed_at"] == 8
    np.testing.assert_allclose(resumed["losses"][0], alone["losses"][0], rtol=1e-5, atol=1e-5)
    single = found(begin(1, meshes=[None], checkpoints=str(tmp_path), save_every=8))
    assert single["resumed_at"] == 16
    np.testing.assert_allclose(single["losses"][0], alone["losses"][0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_micro_batches_on_meshes_and_processes_that_share_their_rows(begin, alone):
    for settings in ({"accumulate": 2}, {"scan_layers": True}):
        others = found(begin(8, meshes=[None, [1, 8, 1], [2, 2, 2]], **settings))["losses"]
        # Stacked layers are initialised otherwise: these runs compare with their own on one device.
        for losses in others[1:]:
            np.testing.assert_allclose(losses, others[0], rtol=1e-5, atol=1e-5)
        if "accumulate" in settings:
            np.testing.assert_allclose(others[0], alone["losses"][0], rtol=1e-5, atol=1e-5)
    tensor = across_processes(begin, [[1, 1, 2]], devices=1)
    np.testing.assert_allclose(tensor["losses"][0], alone["losses"][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scanned", [False, True])
def test_the_rule_covers_every_product_of_the_decoder_and_its_optimizer(scanned):
    config = DecoderConfig(
        vocabulary=64,
        width=16,
        layers=2,
        heads=4,
        key_value_heads=2,
        hidden=32,
        tied_embeddings=False,
        biases=True,
        norm="layer",
        scan_layers=scanned,
    )
    params = initialise(Decoder(config), jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    state = {"params": params, "opt_state": optax.adamw(1e-3).init(params)}
    cut = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        names = path_names(path)
        spec = partition(names, leaf.ndim)
        matrix = names[-1] in ("kernel", "embedding", "output")
        assert set(spec) - {None} == ({"fsdp", "tensor"} if matrix else {"tensor"} if cut_bias(names) else set()), names
        assert not spec or "layers" not in names or spec[0] is None  # the stack of layers stays whole
        cut += bool(spec)
    assert cut == 3 * (2 + (7 + 5) * (1 if scanned else 2))
    placed = shardings(state, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert placed["opt_state"][0].mu["trunk"]["embedding"].spec == partition(("trunk", "embedding"), 2)


def cut_bias(names):
    return names[-1] == "bias" and names[-2] in ("query", "key", "value", "gate", "up")


@pytest.mark.parametrize(
    ("mesh", "batch", "accumulate", "message"),
    [
        ((3, 1, 1), 16, 1, r"batch 16 is not a multiple of data x fsdp x accumulate \(3 x 1 x 1 = 3\)"),
        ((2, 2, 1), 16, 3, r"\(2 x 2 x 3 = 12\); change batch, accumulate or the mesh"),
        ((1, 3, 1), 12, 1, r"width 16 is not a multiple of the mesh axis fsdp \(3\); lower fsdp or change width"),
        ((1, 1, 4), 16, 1, r"key_value_heads 2 is not a multiple of the mesh axis tensor \(4\)"),
    ],
)
def test_what_a_mesh_does_not_divide_is_named(mesh, batch, accumulate, message):
    config = DecoderConfig(vocabulary=64, width=16, layers=1, heads=4, key_value_heads=2, hidden=32)
    with pytest.raises(ValueError, match=message):
        check_mesh(Mock(spec=Mesh, shape=dict(zip(AXES, mesh, strict=True))), config, batch, accumulate)


def test_meshes_that_do_not_fit_the_devices_are_named():
    with pytest.raises(ValueError, match="data 1 x fsdp 4 x tensor 1 does not fit 1 devices"):
        make_mesh(MeshConfig(1, 4, 1), jax.devices()[:1])
    with pytest.raises(ValueError, match="one of them may be -1"):
        MeshConfig(-1, -1, 1)
    with pytest.raises(ValueError, match="found data 0"):
        MeshConfig(0, 1, 1)
