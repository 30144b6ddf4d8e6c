"""`pmpjax pds run --dry-run`: every stage compiled for a mesh of simulated devices, and what it would cost.

Nothing is allocated and no data are read: shapes alone go through the compiler.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from pmpjax.costs.compiled import Memory, Traffic, collectives, matrix_product_flops, memory
from pmpjax.costs.hardware import ACCELERATORS, Accelerator, Compute, Hardware, hardware
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.overhead import stage_flops
from pmpjax.pds.presets import Placement
from pmpjax.pds.programs import stage_programs
from pmpjax.train import make_mesh

COMPARED = ("v2", "v5e", "v5p", "v6e", "a100", "h100")
"""Kinds of device whose hours stand side by side."""

CAVEATS = (
    "FLOPs are analytic (2 N D a forward pass; attention's own products and rematerialisation left out); those of the "
    "compiled program are its matrix products, with both, loops multiplied out.",
    "Memory and collectives are those of the program that XLA made for simulated CPU devices: partitioned alike, "
    "but without an accelerator's fused kernels and layouts, and with bfloat16 products in float32.",
    "Collectives in loops are counted as often as the loops go round; bytes are those of the result on one device.",
)


class StageCost(NamedTuple):
    """What a stage would need.

    Fields:
        stage: its name. parameters: of its model. compute: dtype of its products.
        flops: of the whole stage, analytic. calls: times that its program runs. compiled_flops: matrix products of one
        call on one device, in the compiled program. memory: on one device. collectives: of one call, on one device.
        fits: whether one device of the hardware has that memory. hours: of the machine, at the assumed utilisation.
        compile_seconds: here, on this machine.
    """

    stage: str
    parameters: int
    compute: Compute
    flops: float
    calls: float
    compiled_flops: float
    memory: Memory
    collectives: dict[str, Traffic]
    fits: bool
    hours: float
    compile_seconds: float


class DryRun(NamedTuple):
    """The report: the machine, its mesh as sizes by axis, and each stage."""

    hardware: Hardware
    placement: Placement
    mesh: dict[str, int]
    stages: tuple[StageCost, ...]

    @property
    def device_hours(self) -> float:
        """Of all stages, pretraining one model among them."""
        return self.device_hours_on(self.hardware.accelerator)

    def device_hours_on(self, accelerator: Accelerator) -> float:
        """The same on another kind of device, at the same utilisation, whether or not it has the memory."""
        seconds = sum(stage.flops / accelerator.flops(stage.compute) for stage in self.stages)
        return seconds / self.placement.utilisation / 3600


def simulate_devices(count: int) -> None:
    """Lets this process see `count` CPU devices; before JAX is used for the first time.

    Raises:
        ValueError: JAX has other devices already.
    """
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        pass  # JAX runs already: what counts is whether it has the devices
    if len(jax.devices()) < count:
        raise ValueError(
            f"a dry run simulates {count} devices, and this process has {len(jax.devices())} already; start it in a "
            "fresh process"
        )


def dry_run(
    config: PDSConfig,
    placement: Placement = Placement(),
    devices: Sequence[Any] | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> DryRun:
    """Compiles proxy, solve, fit, score and pretrain for the run's mesh on the placement's hardware, and says the cost.

    Args:
        devices: as many as the hardware has (`simulate_devices`); the first of `jax.devices()` when None.
        progress: called with the name of each stage before it is compiled.

    Raises:
        ValueError: an unknown hardware, too few devices, or a mesh that does not divide batch or model.
    """
    machine = hardware(placement.hardware)
    devices = list(jax.devices() if devices is None else devices)[: machine.devices]
    if len(devices) < machine.devices:
        raise ValueError(f"{machine.name} has {machine.devices} devices, this process {len(devices)}: simulate_devices")
    mesh = make_mesh(config.mesh, devices)
    programs, flops = stage_programs(config, placement, mesh), stage_flops(config, placement)
    stages = []
    for stage, program in programs.items():
        progress(stage)
        begin = time.perf_counter()
        compiled = program.lower().compile()
        text = compiled.as_text()
        seconds = time.perf_counter() - begin
        needed, compute = memory(compiled), program.model.compute
        speed = placement.utilisation * machine.accelerator.flops(compute) * machine.devices
        stages.append(
            StageCost(
                stage,
                program.parameters,
                compute,
                flops[stage],
                program.calls,
                matrix_product_flops(text, program.branch, program.rounds),
                needed,
                collectives(text, program.branch, program.rounds),
                needed.total <= machine.accelerator.memory,
                flops[stage] / speed / 3600,
                seconds,
            )
        )
    return DryRun(machine, placement, dict(mesh.shape), tuple(stages))


HEADER = (
    "stage", "calls", "parameters", "FLOPs", "compiled, a call and device", "arguments", "temporary", "output",
    "memory a device", "collectives of a call", "hours", "device-hours",
)  # fmt: skip


def dry_run_rows(report: DryRun) -> list[tuple[str, ...]]:
    """A row of texts for each stage, under `HEADER`."""
    return [_row(stage, report.hardware) for stage in report.stages]


def dry_run_notes(report: DryRun) -> list[str]:
    """What stands beside the table: machine, mesh, total, assumptions, and what the numbers are not."""
    machine, placement = report.hardware, report.placement
    axes = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    peak = machine.accelerator.peak / 1e12
    notes = [
        f"{machine.name}: {machine.devices} devices ({machine.accelerator.kind}) as {axes}, each "
        f"{_size(machine.accelerator.memory)}, {peak:g} TFLOP/s bfloat16, {machine.accelerator.single / 1e12:.3g} "
        f"float32; {placement.utilisation:.0%} of the peak assumed"
    ]
    short = [stage.stage for stage in report.stages if not stage.fits]
    notes.append(
        f"does not fit: {', '.join(short)}; raise fsdp, lower batch or chunk, or take more devices"
        if short
        else "every stage fits"
    )
    hours = report.device_hours
    price = "" if placement.rate is None else f", {hours * placement.rate:,.2f} at {placement.rate:g} an hour"
    notes.append(f"all stages, one model pretrained: {_hours(hours)} device-hours{price}")
    others = ", ".join(f"{name} {_hours(report.device_hours_on(ACCELERATORS[name]))}" for name in COMPARED)
    notes.append(f"device-hours by kind of device, at the same utilisation: {others}")
    seconds = sum(stage.compile_seconds for stage in report.stages)
    return [*notes, f"compiled in {seconds:.0f} s", *CAVEATS]


def _row(stage: StageCost, machine: Hardware) -> tuple[str, ...]:
    spoken = ", ".join(
        f"{round(traffic.count)} {kind} {_size(traffic.bytes)}" for kind, traffic in stage.collectives.items()
    )
    return (
        stage.stage,
        f"{stage.calls:,.0f}",
        f"{stage.parameters / 1e6:,.1f} M {'float32' if stage.compute == 'parameters' else stage.compute}",
        f"{stage.flops:.2e}",
        f"{stage.compiled_flops:.2e}",
        *(_size(one) for one in (stage.memory.arguments, stage.memory.temporary, stage.memory.output)),
        f"{_size(stage.memory.total)}{'' if stage.fits else ' (too much)'}",
        spoken or "none",
        _hours(stage.hours),
        _hours(stage.hours * machine.devices),
    )


def _hours(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _size(count: int | float) -> str:
    """Bytes as text: 1.5 GiB.

    >>> _size(1.5 * 2**30), _size(100)
    ('1.5 GiB', '0.0 MiB')
    """
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
