"""Orbax checkpoints of a training run, and small files for finished parameters."""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from pmpjax.runs import read_arrays, write_arrays


class Checkpoints:
    """The newest two states of a run under a folder, whole or absent; does nothing when the folder is None.

    A save cut off by a kill leaves a temporary folder, which the next start removes. A context manager.
    """

    def __init__(self, folder: Path | None):
        self._checkpointer: Any = None
        if folder is not None:
            from orbax.checkpoint import v1 as ocp  # a second of imports, only for those who save

            latest_two: Any = ocp.training.preservation_policies.LatestN(
                2
            )  # its protocol and its class differ in types
            self._checkpointer = ocp.training.Checkpointer(
                str(Path(folder).absolute()),
                cleanup_tmp_directories=True,
                preservation_policy=latest_two,
            )

    def restore(self, like: Any) -> Any | None:
        """The newest state, with the structure, dtypes and host or device leaves of `like`; None when there is none."""
        if self._checkpointer is None or self._checkpointer.latest is None:
            return None
        step = self._checkpointer.latest.step
        state = self._checkpointer.load_checkpointables(step, {"state": like})["state"]
        return jax.tree.map(lambda leaf, of: np.array(leaf) if isinstance(of, np.ndarray) else leaf, state, like)

    def save(self, step: int, state: Any) -> None:
        """Stores the state of a step, wholly before it returns: the loop reuses the memory of its arrays."""
        if self._checkpointer is not None:
            self._checkpointer.save_checkpointables(step, {"state": state})

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._checkpointer is not None:
            self._checkpointer.close()


def save_params(path: Path, params: Any) -> None:
    """Writes a nested dictionary of arrays as one .npz, keys joined by "/"; the same parameters give the same bytes."""
    flat = traverse_util.flatten_dict(params, sep="/")
    write_arrays(path, {name: np.asarray(leaf) for name, leaf in sorted(flat.items())})


def load_params(path: Path) -> Any:
    """The nested dictionary that `save_params` wrote."""
    return traverse_util.unflatten_dict(dict(read_arrays(path)), sep="/")
