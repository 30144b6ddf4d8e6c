"""What a stage of PDS is given: the config, the folders of the stages before it, and what lies in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pmpjax.data import Prepared
from pmpjax.data.prepared import load_kept
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.stages.evaluate import RECEDING
from pmpjax.pds.stages.pretrain import load_curves
from pmpjax.pds.stages.proxy import load_proxy
from pmpjax.pds.stages.select import load_selections
from pmpjax.runs import read_json
from pmpjax.runs.pipeline import Context, View
from pmpjax.train.mesh import make_mesh
from pmpjax.train.warm_start import WarmStart


@dataclass(frozen=True)
class Work(View):
    """One stage's view of a run.

    Attributes:
        config: of the whole run.
        source: the data, where they are not those that `prepare` left in this run.
        start: the model around which the sweep is taken, where it is not the proxy of this run.
    """

    config: PDSConfig
    source: Prepared | None = None
    start: WarmStart | None = None

    @contextmanager
    def context(self, total: float | int | None = None) -> Iterator[Context[Prepared]]:
        """What the stage's own function works with, and a bar of `total` units within the block."""
        data = self.data
        with self.progress(self.name, total) as bar:
            yield Context(self.folder, data, self.config.seed, bar, self.mesh)

    @property
    def data(self) -> Prepared:
        """What `prepare` left."""
        return self.source or load_kept(self.folders["prepare"])

    @property
    def mesh(self) -> Mesh | None:
        """The devices that share the work; None where there is one."""
        return None if jax.device_count() == 1 else make_mesh(self.config.mesh)

    @property
    def proxy(self) -> WarmStart:
        """theta_0, and the rule and the state with which its training would go on."""
        return self.start or load_proxy(self.config.proxy, self.folders["proxy"])

    @property
    def selections(self) -> dict[tuple[str, int], np.ndarray]:
        """(method, seed) -> documents."""
        return load_selections(self.folders["select"])

    @property
    def curves(self) -> dict[tuple[str, int], dict[str, Any]]:
        """(method, seed) -> loss curves of every model trained so far."""
        curves = load_curves(self.folders["pretrain"], self.selections)
        if "receding" in self.folders:
            curves |= load_curves(self.folders["receding"], [(RECEDING, seed) for seed in self.config.every_seed])
        return curves

    @property
    def facts(self) -> dict[str, Any]:
        """STAGE.json of each stage that leaves one, by the stage's name."""
        paths = {name: folder / f"{name}.json" for name, folder in self.folders.items()}
        return {"prepare": self.data.counts, **{name: read_json(path) for name, path in paths.items() if path.exists()}}
