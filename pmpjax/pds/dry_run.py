"""`pmpjax pds run --dry-run`: the device program of each stage, as shapes, compiled for simulated devices."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from pmpjax.control.adjoint import Checkpointed
from pmpjax.costs import dry_run as costs
from pmpjax.costs.dry_run import Program
from pmpjax.costs.hardware import hardware
from pmpjax.models import Decoder, DecoderConfig, ScorerModel, example_losses, parameter_count
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.overhead import corpus_tokens, stage_flops
from pmpjax.pds.presets import Placement
from pmpjax.pds.stages.pretrain import PretrainConfig
from pmpjax.pds.stages.proxy import ProxyConfig
from pmpjax.pds.stages.solve import first_sweep_flops, sweep_flops
from pmpjax.pds.sweep.problem import Step, inner_optimizer
from pmpjax.pds.sweep.scores import sweep_function
from pmpjax.scoring.engine import score_function
from pmpjax.scoring.regressor import squared_errors
from pmpjax.train import make_mesh
from pmpjax.train.mesh import check_mesh
from pmpjax.train.model import ModelConfig
from pmpjax.train.shapes import Shapes
from pmpjax.training import TrainState


def stage_programs(config: PDSConfig, placement: Placement, mesh: Mesh) -> dict[str, Program]:
    """The device program of each stage, with the settings of the run and the shapes of full rows.

    Raises:
        ValueError: a batch, chunk or width that the mesh does not divide; names it.
    """
    flops = stage_flops(config, placement)
    return {name: make(config, placement, mesh)._replace(flops=flops[name]) for name, make in PROGRAMS.items()}


def _shapes(config: PDSConfig, mesh: Mesh, decoder: DecoderConfig, *batches: int) -> Shapes:
    for batch in batches:
        check_mesh(mesh, decoder, batch)
    return Shapes(mesh, config.prepare.length)


def _decoder(config: PDSConfig, mesh: Mesh, model: ModelConfig, settings: ProxyConfig | PretrainConfig) -> Program:
    decoder = model.decoder(config.prepare.vocabulary)
    shapes = _shapes(config, mesh, decoder, settings.batch)
    params, batch = shapes.params(Decoder(decoder)), shapes.rows(settings.batch, split=True)
    lower = shapes.training(example_losses(Decoder(decoder)), params, batch, settings.optimizer, settings.steps)
    return Program(lower, calls=settings.steps, parameters=parameter_count(params), compute=decoder.compute)


def _solve(config: PDSConfig, placement: Placement, mesh: Mesh) -> Program:
    solve, decoder = config.solve, config.proxy_model.decoder(config.prepare.vocabulary)
    batches = (solve.batch, min(solve.chunk, solve.instances), solve.dev_batch or solve.chunk)
    shapes = _shapes(config, mesh, decoder, *batches)
    theta = shapes.params(Decoder(decoder))
    rule = inner_optimizer(solve.inner_optimizer, solve.learning_rate, config.proxy.optimizer)
    start = TrainState(theta, shapes.placed(rule.init, theta))
    step = Step(
        shapes.rows(solve.steps, solve.batch),
        shapes.array(np.int32, solve.steps, solve.batch),
        shapes.rows(solve.steps, solve.dev_batch) if solve.dev_batch else None,
    )
    dev = None if solve.dev_batch else shapes.rows(placement.dev_rows)
    weights, instances = shapes.array(np.float32, solve.instances), shapes.rows(solve.instances)
    # The small sweep before the others counts as a part of one of them, by its FLOPs.
    rows = solve.dev_batch or placement.dev_rows
    whole = sweep_flops(solve, solve.instances, solve.evaluations, rows, lambda count: count, 1 + solve.adds)
    first = first_sweep_flops(solve, solve.instances, rows, lambda count: count) / whole
    return Program(
        lambda: sweep_function(solve, decoder, config.proxy.optimizer, mesh).lower(
            start, weights, step, instances, dev, (theta,) if solve.adds else ()
        ),
        calls=solve.outer_steps + first,
        parameters=parameter_count(theta),
        compute=decoder.compute,
        branch=solve.evaluations / solve.steps,
        rounds=solve.steps / Checkpointed().segments(solve.steps),
    )


def _fit(config: PDSConfig, placement: Placement, mesh: Mesh) -> Program:
    fit, decoder = config.fit, config.scorer_model.decoder(config.prepare.vocabulary)
    shapes, scorer = _shapes(config, mesh, decoder, fit.batch), ScorerModel(decoder)
    params, rows = shapes.params(scorer), shapes.rows(fit.batch, split=True)
    target = shapes.array(np.float32, fit.batch, split=True)
    batch = {"tokens": rows.tokens, "lengths": rows.lengths, "target": target}
    steps = fit.steps(config.solve.instances - round(fit.held_out * config.solve.instances))
    lower = shapes.training(squared_errors(scorer), params, batch, fit.optimizer, steps)
    return Program(lower, calls=steps, parameters=parameter_count(params), compute=decoder.compute)


def _score(config: PDSConfig, placement: Placement, mesh: Mesh) -> Program:
    decoder, batch = config.scorer_model.decoder(config.prepare.vocabulary), config.score.batch
    shapes = _shapes(config, mesh, decoder, batch)
    params, rows = shapes.params(ScorerModel(decoder)), shapes.rows(batch, split=True)
    return Program(
        lambda: score_function(decoder, mesh).lower(params, *rows[:2]),
        calls=corpus_tokens(config, placement) / (batch * config.prepare.length),
        parameters=parameter_count(params),
        compute=decoder.compute,
    )


PROGRAMS: dict[str, Callable[[PDSConfig, Placement, Mesh], Program]] = {
    "proxy": lambda config, _, mesh: _decoder(config, mesh, config.proxy_model, config.proxy),
    "solve": _solve,
    "fit": _fit,
    "score": _score,
    "pretrain": lambda config, _, mesh: _decoder(config, mesh, config.model, config.pretrain),
}
"""Each stage's program, by the name of the stage."""


def dry_run(
    config: PDSConfig,
    placement: Placement = Placement(),
    devices: Sequence[Any] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> costs.DryRun:
    """Compiles proxy, solve, fit, score and pretrain for the run's mesh on the placement's hardware.

    Args:
        devices: as many as the hardware has (`pmpjax.costs.dry_run.simulate_devices`); the process's own when None.
        progress: called with the name of each stage before it is compiled.

    Raises:
        ValueError: an unknown hardware, too few devices, or a mesh that does not divide batch or model.
    """
    machine = hardware(placement.hardware)
    mesh = make_mesh(config.mesh, costs.devices_of(machine, devices))
    programs = stage_programs(config, placement, mesh)
    return costs.dry_run(
        programs, machine, mesh.shape, utilisation=placement.utilisation, rate=placement.rate, progress=progress
    )
