"""Checkpoints: whole or absent, of this run or refused by name."""

import gc
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmpjax.runs import RunError
from pmpjax.train import Checkpoints, OptimizerConfig, adamw, load_params, load_state, save_params, save_state

NOISE = jax.random.normal(jax.random.key(0), (2, 3000))  # large enough for files of its own, and incompressible
STATE = {"params": {"w": NOISE}, "opt_state": {"mu": {"w": NOISE + 1}}}


def saved(folder, steps=(4, 8), **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            state = jax.tree.map(lambda leaf: leaf * step, STATE)
            checkpoints.save(step, state, {"losses": np.arange(step, dtype=np.float32)}, {"next_index": step})


def restored(folder, like=STATE, **options):
    with Checkpoints(folder, **options) as checkpoints:
        return checkpoints.restore(like), checkpoints.damaged


def test_the_newest_comes_back_and_older_ones_go(tmp_path):
    assert restored(tmp_path) == (None, [])
    saved(tmp_path, steps=(2, 4, 8), keep=2)
    found, damaged = restored(tmp_path)
    assert found.step == 8 and found.position == {"next_index": 8} and not damaged
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "8"]
    np.testing.assert_array_equal(found.state["params"]["w"], 8 * STATE["params"]["w"])
    np.testing.assert_array_equal(found.history["losses"], np.arange(8))


def test_a_save_holds_what_was_given_though_the_loop_gives_the_memory_away(tmp_path):
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    x = jnp.arange(1_000_000.0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x}, {"losses": np.ones(1)}, {})
        for _ in range(20):
            x = double(x)
    found, _ = restored(tmp_path, {"x": x})
    np.testing.assert_array_equal(found.state["x"], np.arange(1_000_000.0))


@pytest.mark.parametrize(
    "name",
    ["_CHECKPOINT_METADATA", "state/manifest.ocdbt", "state/_METADATA", "history/d/*", "state/d/*", "state/*/d/*"],
)
@pytest.mark.parametrize("keep", [0.0, 0.5, None])
# Orbax drops the reads that wait for a failed one.
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_newest_one_is_passed_over_and_said(tmp_path, name, keep):
    saved(tmp_path)
    for path in (tmp_path / "8").glob(name):
        if keep is None:
            path.unlink()
        else:
            os.truncate(path, int(keep * path.stat().st_size))
    found, damaged = restored(tmp_path)
    assert found.step == 4 and len(damaged) == 1 and "step 8 cannot be read" in damaged[0]
    np.testing.assert_array_equal(found.state["params"]["w"], 4 * STATE["params"]["w"])
    saved(tmp_path, steps=(8,))  # reached again, it is written again
    assert restored(tmp_path)[0].step == 8
    gc.collect()


def test_where_none_can_be_read_the_run_does_not_begin_again_unasked(tmp_path):
    saved(tmp_path)
    for path in tmp_path.glob("*/_CHECKPOINT_METADATA"):
        path.write_text("{")
    with pytest.raises(RunError, match=r"no checkpoint in .* can be read: .*step 8.*step 4.*delete the folder"):
        restored(tmp_path)


def test_what_belongs_to_another_run_is_refused_by_name(tmp_path):
    saved(tmp_path / "a", identity={"tokenizer": "abc", "vocabulary": 300})
    ours = {"identity": {"tokenizer": "abc", "vocabulary": 300}}
    with pytest.raises(RunError, match="vocabulary 300 there, 512 here"):
        restored(tmp_path / "a", identity={"tokenizer": "abc", "vocabulary": 512})
    wider = {**STATE, "params": {"w": jnp.ones((2, 4)), "b": jnp.ones(1)}}
    with pytest.raises(
        RunError, match=r"another architecture: params/w float32\[2, 3000\] there, float32\[2, 4\] here"
    ):
        restored(tmp_path / "a", wider, **ours)
    with pytest.raises(RunError, match=r"another optimizer: opt_state/mu/w .* there, absent here"):
        restored(tmp_path / "a", {**STATE, "opt_state": {"trace": jnp.ones(1)}}, **ours)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        Checkpoints(tmp_path / "file")


def test_a_checkpoint_of_another_program_is_refused(tmp_path):
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(str(tmp_path)) as checkpointer:
        checkpointer.save_checkpointables(3, {"state": {"w": jnp.ones(2)}}, custom_metadata={"theirs": 1})
    with pytest.raises(RunError, match="a checkpoint of another program"):
        restored(tmp_path)


FULL = """
import resource, sys, numpy as np, jax.numpy as jnp
from pathlib import Path
from pmpjax.train import Checkpoints, OptimizerConfig, adamw, load_params, load_state, save_params, save_state
from pmpjax.runs import RunError
history = {"losses": np.ones(1, np.float32)}
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    checkpoints.save(1, {"w": jnp.arange(50_000.0)}, history, {})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))  # as a full disk: writes fail
    try:
        checkpoints.save(2, {"w": 0.5 + jnp.arange(50_000.0)}, history, {})
        checkpoints.wait()
    except RunError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_is_said_and_the_checkpoint_before_is_whole(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "the checkpoint of step 2 could not be written to" in done.stdout
    assert "the one of step 1 is whole. Make room on the disk" in done.stdout
    found, _ = restored(tmp_path, {"w": jnp.zeros(50_000)})
    assert found.step == 1
    np.testing.assert_array_equal(found.state["w"], np.arange(50_000.0))


def test_parameters_survive_their_file(tmp_path):
    params = {"trunk": {"layers_0": {"kernel": np.arange(6.0).reshape(2, 3)}}, "bias": np.float32(2)}
    save_params(tmp_path / "model-v1.2", params)
    save_params(tmp_path / "model-v1.3", jax.tree.map(np.zeros_like, params))
    for name in ("model-v1.2", "model-v1.2.npz"):
        jax.tree.map(np.testing.assert_array_equal, load_params(tmp_path / name), params)


def test_an_optimizers_state_survives_its_file_and_another_optimizers_is_refused(tmp_path):
    optimizer, params = adamw(OptimizerConfig()), {"w": jnp.arange(3.0), "b": jnp.float32(2)}
    _, moments = optimizer.update(params, optimizer.init(params), params)
    save_state(tmp_path / "moments", moments)
    like = jax.eval_shape(optimizer.init, params)
    found = load_state(tmp_path / "moments", like)
    assert jax.tree.structure(found) == jax.tree.structure(moments)
    jax.tree.map(np.testing.assert_array_equal, found, moments)
    with pytest.raises(RunError, match=r"moments\.npz is not the state of this optimizer: .* absent here"):
        load_state(tmp_path / "moments", jax.eval_shape(optax.sgd(0.1).init, params))
    with pytest.raises(RunError, match=r"other\.npz is missing"):
        load_state(tmp_path / "other", like)
