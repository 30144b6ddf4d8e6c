"""The device program of each stage of PDS, as shapes and shardings: ready to be compiled, nothing allocated."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pmpjax.control.adjoint import Checkpointed
from pmpjax.models import Decoder, DecoderConfig, Rows, ScorerModel, example_losses, parameter_count
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.overhead import corpus_tokens
from pmpjax.pds.presets import Placement
from pmpjax.pds.stages.solve import first_sweep_flops, sweep_flops
from pmpjax.pds.sweep.config import SolveConfig
from pmpjax.pds.sweep.problem import Step, inner_optimizer
from pmpjax.pds.sweep.scores import sweep_function
from pmpjax.scoring.engine import score_function
from pmpjax.scoring.regressor import squared_errors
from pmpjax.train import OptimizerConfig, adamw
from pmpjax.train.loop import step_function
from pmpjax.train.mesh import BATCH_AXES, check_mesh, shardings
from pmpjax.training import TrainState


class Program(NamedTuple):
    """A device program of a stage, before it is compiled.

    model: its decoder. parameters: numbers trained or applied. calls: times that the stage runs it. lower: traces it.
    branch: share of times that its conditionals take their costly branch. rounds: on average, of its loops whose length
    is data.
    """

    model: DecoderConfig
    parameters: int
    calls: float
    lower: Callable[[], Any]
    branch: float = 1.0
    rounds: float | None = None


def stage_programs(config: PDSConfig, placement: Placement, mesh: Mesh) -> dict[str, Program]:
    """The device program of each stage, with the settings of the run and the shapes of full rows.

    Raises:
        ValueError: a batch, chunk or width that the mesh does not divide; names it.
    """
    length, vocabulary = config.prepare.length, config.prepare.vocabulary
    proxy, scorer, model = (one.decoder(vocabulary) for one in (config.proxy_model, config.scorer_model, config.model))
    solve, fit = config.solve, config.fit
    for decoder, batch in (
        (proxy, config.proxy.batch),
        (proxy, solve.batch),
        (proxy, min(solve.chunk, solve.instances)),
        (proxy, solve.dev_batch or solve.chunk),
        (scorer, fit.batch),
        (scorer, config.score.batch),
        (model, config.pretrain.batch),
    ):
        check_mesh(mesh, decoder, batch)
    cut = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    whole = NamedSharding(mesh, PartitionSpec())

    def rows(*shape: int, sharding: NamedSharding = cut) -> Rows:
        tokens = jax.ShapeDtypeStruct((*shape, length), np.int32, sharding=sharding)
        return Rows(tokens, jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding))

    def abstract(module: Any, *inputs: Any) -> Any:
        made = jax.eval_shape(lambda key: module.init(key, *inputs)["params"], jax.random.key(0))
        return _lying(made, mesh)

    def training(losses: Any, settings: OptimizerConfig, steps: int, params: Any, batch: Any) -> Callable[[], Any]:
        optimizer = adamw(settings, steps)
        state = _lying(jax.eval_shape(optimizer.init, params), mesh)
        return lambda: step_function(losses, optimizer, mesh=mesh).lower(params, state, (batch,))

    def trained(decoder: DecoderConfig, settings: OptimizerConfig, steps: int, batch: int) -> Program:
        params = abstract(Decoder(decoder), tokens)
        lower = training(example_losses(Decoder(decoder)), settings, steps, params, rows(batch))
        return Program(decoder, parameter_count(params), steps, lower)

    tokens, lengths = jnp.zeros((1, 2), jnp.int32), jnp.ones(1, jnp.int32)
    head = ScorerModel(scorer)
    theta, head_params = abstract(Decoder(proxy), tokens), abstract(head, tokens, lengths)
    instances = solve.instances
    fit_steps = fit.steps(instances - round(fit.held_out * instances))
    target = jax.ShapeDtypeStruct((fit.batch,), np.float32, sharding=cut)
    fit_batch = {**dict(zip(("tokens", "lengths"), rows(fit.batch), strict=False)), "target": target}
    dev = None if solve.dev_batch else rows(placement.dev_rows, sharding=whole)
    index: Any = jax.ShapeDtypeStruct((solve.steps, solve.batch), np.int32, sharding=whole)
    step = Step(
        rows(solve.steps, solve.batch, sharding=whole),
        index,
        rows(solve.steps, solve.dev_batch, sharding=whole) if solve.dev_batch else None,
    )
    weights = jax.ShapeDtypeStruct((instances,), np.float32, sharding=whole)
    rule = inner_optimizer(solve.inner_optimizer, solve.learning_rate, config.proxy.optimizer)
    start = TrainState(theta, _lying(jax.eval_shape(rule.init, theta), mesh))

    return {
        "proxy": trained(proxy, config.proxy.optimizer, config.proxy.steps, config.proxy.batch),
        "solve": Program(
            proxy,
            parameter_count(theta),
            solve.outer_steps + _first_sweep(solve, placement.dev_rows),
            lambda: sweep_function(solve, proxy, config.proxy.optimizer, mesh).lower(
                start, weights, step, rows(instances, sharding=whole), dev, (theta,) if solve.adds else ()
            ),
            branch=solve.evaluations / solve.steps,
            rounds=solve.steps / Checkpointed().segments(solve.steps),
        ),
        "fit": Program(
            scorer,
            parameter_count(head_params),
            fit_steps,
            training(squared_errors(head), fit.optimizer, fit_steps, head_params, fit_batch),
        ),
        "score": Program(
            scorer,
            parameter_count(head_params),
            corpus_tokens(config, placement) / (config.score.batch * length),
            lambda: score_function(scorer, mesh).lower(head_params, *rows(config.score.batch)[:2]),
        ),
        "pretrain": trained(model, config.pretrain.optimizer, config.pretrain.steps, config.pretrain.batch),
    }


def _first_sweep(solve: SolveConfig, dev_rows: int) -> float:
    """The small sweep before the others, by FLOPs as a part of one of them."""
    dev = solve.dev_batch or dev_rows
    whole = sweep_flops(solve, solve.instances, solve.evaluations, dev, lambda rows: rows, 1 + solve.adds)
    return first_sweep_flops(solve, solve.instances, dev, lambda rows: rows) / whole


def _lying(tree: Any, mesh: Mesh) -> Any:
    """Shapes with the sharding that the rule of `pmpjax.train.mesh` gives each leaf."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )
