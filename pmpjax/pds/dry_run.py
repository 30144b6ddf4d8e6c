"""`pmpjax pds run --dry-run`: every stage compiled for a mesh of simulated devices, and what it would cost."""

from collections.abc import Callable, Sequence
from typing import Any

from pmpjax.costs import dry_run as costs
from pmpjax.costs.hardware import hardware
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.presets import Placement
from pmpjax.pds.programs import stage_programs
from pmpjax.train import make_mesh


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
