"""Shapes and shardings of what a training or scoring step is given, to compile one without any data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pmpjax.data import Rows
from pmpjax.models import ScorerModel
from pmpjax.train.mesh import BATCH_AXES, shardings
from pmpjax.train.optimizers import OptimizerConfig, adamw
from pmpjax.train.step import step_function


class Shapes(NamedTuple):
    """Inputs of a program that are nothing but shape, dtype and sharding, ready to be lowered.

    Fields:
        mesh: the devices. length: tokens of a row.
    """

    mesh: Mesh
    length: int

    def array(self, dtype: Any, *shape: int, split: bool = False) -> Any:
        """Whole on every device, or split along the first axis."""
        sharding = NamedSharding(self.mesh, PartitionSpec(BATCH_AXES) if split else PartitionSpec())
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def rows(self, *shape: int, split: bool = False) -> Rows:
        """Full rows."""
        return Rows(self.array(np.int32, *shape, self.length, split=split), self.array(np.int32, *shape, split=split))

    def params(self, module: Any) -> Any:
        """The parameters of a Flax module of one row's tokens, and its length where it is a scorer."""
        inputs = (self.array(np.int32, 1, 2), self.array(np.int32, 1))
        inputs = inputs if isinstance(module, ScorerModel) else inputs[:1]
        return self.placed(lambda *rows: module.init(jax.random.key(0), *rows)["params"], *inputs)

    def placed(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """What `make` returns, each leaf sharded by the rule of `pmpjax.train.mesh`."""
        tree = jax.eval_shape(make, *arguments)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            shardings(tree, self.mesh),
        )

    def training(
        self, losses: Any, params: Any, batch: Any, optimizer: OptimizerConfig, steps: int
    ) -> Callable[[], Any]:
        """Lowers the AdamW step on a batch when it is called."""
        rule = adamw(optimizer, steps)
        state = self.placed(rule.init, params)
        return lambda: step_function(losses, rule, mesh=self.mesh).lower(params, state, (batch,))
