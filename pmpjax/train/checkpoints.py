"""Orbax checkpoints of a training run, and small files for finished parameters."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from pmpjax.runs import RunError, read_arrays, write_arrays
from pmpjax.runs.errors import first_line
from pmpjax.runs.files import with_ending
from pmpjax.train.mesh import path_names

_FORMAT = "pmpjax.train/1"


class Restored(NamedTuple):
    """What `Checkpoints.restore` found: updates done, state on the devices, history on the host, position of the data.

    Fields:
        step: updates done.
        state: as it was saved, placed as `like` is.
        history: nested dictionary of numpy arrays.
        position: the data iterator's state, JSON.
    """

    step: int
    state: Any
    history: Any
    position: Any


class Checkpoints:
    """The newest states of a run under a folder, whole or absent; does nothing when the folder is None.

    Saves are written while training goes on. One that a kill cuts off leaves a temporary folder, which the next start
    removes, so that up to two intervals are lost. A context manager; leaving it waits for the last save.

    Args:
        folder: holds one folder a step.
        keep: newest checkpoints that stay.
        identity: facts that decide whether a checkpoint belongs to this run (a tokenizer's hash), JSON.

    Attributes:
        damaged: one line for each checkpoint that `restore` could not read.

    Raises:
        RunError: the folder is a file.
    """

    def __init__(self, folder: Path | None, *, keep: int = 2, identity: Mapping[str, Any] | None = None):
        self._checkpointer: Any = None
        self._identity = dict(identity or {})
        self._writing: int | None = None
        self._whole: int | None = None
        self.damaged: list[str] = []
        if folder is None:
            return
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 checkpoint must stay")
        self._folder = Path(folder).absolute()
        if self._folder.exists() and not self._folder.is_dir():
            raise RunError(f"{self._folder} is a file; checkpoints need a folder")
        from orbax.checkpoint import v1 as ocp  # a second of imports, only for those who save

        newest: Any = ocp.training.preservation_policies.LatestN(keep)  # its protocol and its class differ in types
        self._checkpointer = ocp.training.Checkpointer(
            str(self._folder), cleanup_tmp_directories=True, preservation_policy=newest
        )

    def restore(self, like: Any) -> Restored | None:
        """The newest whole checkpoint, with the structure, dtypes and shardings of `like`; None when there is none.

        One that cannot be read (truncated, a file missing) is noted in `damaged`, and the one before it taken.

        Raises:
            RunError: a checkpoint is of another program, model, optimizer or identity (naming what differs), or none
                of them can be read.
        """
        if self._checkpointer is None:
            return None
        for step in sorted((checkpoint.step for checkpoint in self._checkpointer.checkpoints), reverse=True):
            try:
                with _quiet():
                    stored = self._checkpointer.checkpointables_metadata(step).custom_metadata
                if not stored:
                    raise ValueError("its metadata is missing")
            except Exception as error:  # Orbax and tensorstore raise many types for a damaged file
                self._note(step, error)
                continue
            self._refuse_others(step, stored, like)
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
            )
            try:
                # One at a time: of two that are read together, one that fails leaves the other waiting for ever.
                with _quiet():
                    history = self._checkpointer.load_checkpointables(step, {"history": None})["history"]
                    state = self._checkpointer.load_checkpointables(step, {"state": abstract})["state"]
            except Exception as error:
                self._note(step, error)
                continue
            self._whole = step
            return Restored(step, state, jax.tree.map(np.asarray, history), stored["position"])
        if self.damaged:
            raise RunError(
                f"no checkpoint in {self._folder} can be read: {'; '.join(self.damaged)}; "
                "delete the folder to begin again"
            )
        return None

    def save(self, step: int, state: Any, history: Any, position: Any) -> None:
        """Copies the state of a step and returns; it is written meanwhile. Waits for the save before.

        Raises:
            RunError: the save before this one failed (a full disk); names the checkpoint that is whole.
        """
        if self._checkpointer is None:
            return
        self.wait()
        self._writing = step
        metadata = {
            "format": _FORMAT,
            "identity": self._identity,
            "leaves": _describe(state),
            "position": position,
        }
        if jax.default_backend() == "cpu":
            # There Orbax reads the arrays where they lie while the loop, which donates them, writes there.
            state = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))(state)
        try:
            self._checkpointer.save_checkpointables_async(
                step, {"state": state, "history": history}, force=True, overwrite=True, custom_metadata=metadata
            )
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Waits for the save under way; raises `RunError` where it failed."""
        if self._checkpointer is None or self._writing is None:
            return
        try:
            self._checkpointer.wait()
        except Exception as error:
            raise self._failure(error) from error
        self._whole, self._writing = self._writing, None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._checkpointer is None:
            return
        try:
            self.wait()
        except RunError:
            if kind is None:
                raise
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self._checkpointer.close()
        except Exception:  # a failed save is raised once more here; `wait` has said it
            if self._writing is None:
                raise

    def _failure(self, error: Exception) -> RunError:
        whole = "there is no earlier one" if self._whole is None else f"the one of step {self._whole} is whole"
        return RunError(
            f"the checkpoint of step {self._writing} could not be written to {self._folder} ({first_line(error)}); "
            f"{whole}. Make room on the disk; the same command goes on from the newest checkpoint"
        )

    def _note(self, step: int, error: Exception) -> None:
        self.damaged.append(f"the checkpoint of step {step} cannot be read ({first_line(error)})")

    def _refuse_others(self, step: int, stored: Mapping[str, Any], like: Any) -> None:
        where = self._folder / str(step)
        if stored.get("format") != _FORMAT:
            raise RunError(f"{where} is a checkpoint of another program; choose an empty folder for checkpoints")
        identity = stored["identity"]
        changed = [
            f"{key} {identity.get(key, 'absent')} there, {self._identity.get(key, 'absent')} here"
            for key in sorted(identity.keys() | self._identity.keys())
            if identity.get(key) != self._identity.get(key)
        ]
        if changed:
            raise RunError(f"{where} belongs to another run: {'; '.join(changed)}; give what it was made with")
        differing = _differing(stored["leaves"], _describe(like))
        if differing:
            kind = "architecture" if any(name.startswith("params/") for name in differing) else "optimizer"
            raise RunError(
                f"{where} was made with another {kind}: {_first(differing)}; give the settings it was made with, or "
                "another folder"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from warning of a damaged file in a page of its own: `damaged` says it in a line."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _describe(state: Any) -> dict[str, str]:
    """Leaf by path: dtype and shape."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {"/".join(path_names(path)): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}


def _differing(there: Mapping[str, str], here: Mapping[str, str]) -> dict[str, str]:
    """What two descriptions say of each leaf in which they differ."""
    return {
        name: f"{name} {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    }


def _first(differing: Mapping[str, str]) -> str:
    shown = list(differing.values())
    return "; ".join(shown[:3]) + (f", and {len(shown) - 3} more leaves" if len(shown) > 3 else "")


def save_params(path: Path, params: Any) -> None:
    """Writes a nested dictionary of arrays as one .npz, keys joined by "/"; the same parameters give the same bytes."""
    flat = traverse_util.flatten_dict(params, sep="/")
    write_arrays(path, {name: np.asarray(leaf) for name, leaf in sorted(flat.items())})


def load_params(path: Path) -> Any:
    """The nested dictionary that `save_params` wrote."""
    return traverse_util.unflatten_dict(dict(read_arrays(path)), sep="/")


def save_state(path: Path, state: Any) -> None:
    """Writes any pytree of arrays, an optimizer's state say, as one .npz, whose keys are the paths of its leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    write_arrays(path, {"/".join(path_names(where)): np.asarray(leaf) for where, leaf in leaves})


def load_state(path: Path, like: Any) -> Any:
    """What `save_state` wrote, in the structure of `like`, arrays or their shapes; numpy arrays.

    Raises:
        RunError: no such file; leaves of other names, shapes or dtypes, of which it names three.
    """
    file = with_ending(path, ".npz")
    if not file.is_file():
        raise RunError(f"{file} is missing: an older version made this run; begin a new one in another folder")
    stored = read_arrays(file)
    there = {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in stored.items()}
    if differing := _differing(there, _describe(like)):
        raise RunError(
            f"{file} is not the state of this optimizer: {_first(differing)}; give the settings that it was made with"
        )
    return jax.tree_util.tree_map_with_path(lambda where, _: stored["/".join(path_names(where))], like)
