"""A dry run: programs compiled for a mesh of simulated devices, and what they would cost on known hardware.

Nothing is allocated and no data are read: shapes alone go through the compiler.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from pmpjax.costs.compiled import Memory, Traffic, collectives, matrix_product_flops, memory
from pmpjax.costs.hardware import ACCELERATORS, Accelerator, Compute, Hardware

COMPARED = ("v2", "v5e", "v5p", "v6e", "a100", "h100")
"""Kinds of device whose hours are compared."""

CAVEATS = (
    "FLOPs are analytic (2 N D for a forward pass; attention's own products and rematerialisation left out); those of "
    "the compiled program are its matrix products, with both, loops multiplied out.",
    "Memory and collectives are those of the program that XLA made for simulated CPU devices: partitioned alike, "
    "but without an accelerator's fused kernels and layouts, and with bfloat16 products in float32.",
    "Collectives in loops are counted once for each iteration; bytes are those of the result on one device.",
)

# The program is never run, so that the machine code need not be fast. Its HLO, which is what is counted, is the same.
_UNOPTIMISED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Program(NamedTuple):
    """A device program before it is compiled.

    Fields:
        lower: traces it for its mesh, to a `jax.stages.Lowered`.
        flops: of all calls on all devices, analytic; 0 where they are not counted.
        calls: how often it is run.
        parameters: numbers trained or applied.
        compute: dtype of its products.
        branch: share of times that its conditionals take their costly branch.
        rounds: on average, of its loops whose length is data.
    """

    lower: Callable[[], Any]
    flops: float = 0.0
    calls: float = 1.0
    parameters: int = 0
    compute: Compute = "parameters"
    branch: float = 1.0
    rounds: float | None = None


class ProgramCost(NamedTuple):
    """What a program would need.

    Fields:
        name: as in the table given. program: what was compiled.
        compiled_flops: matrix products of one call on one device, in the compiled program.
        memory: on one device.
        collectives: of one call, on one device.
        fits: whether one device of the hardware has that memory.
        hours: of the machine, at the assumed utilisation.
        compile_seconds: here, on this machine.
    """

    name: str
    program: Program
    compiled_flops: float
    memory: Memory
    collectives: dict[str, Traffic]
    fits: bool
    hours: float
    compile_seconds: float


class DryRun(NamedTuple):
    """The report.

    Fields:
        hardware: the machine. mesh: its axes and their sizes. utilisation: share of the peak that is assumed.
        programs: each one's cost, in the order given. rate: price of an hour of one device, if known.
    """

    hardware: Hardware
    mesh: Mapping[str, int]
    utilisation: float
    programs: tuple[ProgramCost, ...]
    rate: float | None = None

    @property
    def device_hours(self) -> float:
        """Of all programs."""
        return self.device_hours_on(self.hardware.accelerator)

    def device_hours_on(self, accelerator: Accelerator) -> float:
        """The same on another kind of device, at the same utilisation, whether or not it has the memory."""
        seconds = sum(cost.program.flops / accelerator.flops(cost.program.compute) for cost in self.programs)
        return seconds / self.utilisation / 3600


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


def devices_of(machine: Hardware, devices: Sequence[Any] | None = None) -> list[Any]:
    """As many devices of this process as the machine has, the first of `devices` (all when None).

    Raises:
        ValueError: there are fewer.
    """
    found = list(jax.devices() if devices is None else devices)[: machine.devices]
    if len(found) < machine.devices:
        raise ValueError(f"{machine.name} has {machine.devices} devices, this process {len(found)}: simulate_devices")
    return found


def dry_run(
    programs: Mapping[str, Program],
    machine: Hardware,
    mesh: Mapping[str, int],
    *,
    utilisation: float = 0.4,
    rate: float | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> DryRun:
    """hours = flops / (utilisation * peak * devices) for each program, with what its compilation shows.

    Args:
        programs: by name; lowered for devices of this process, in the mesh that the machine would have.
        mesh: sizes of its axes, for the report.
        progress: called with the name of each program before it is compiled.

    >>> from pmpjax.costs.hardware import hardware
    >>> double = Program(lambda: jax.jit(lambda x: 2 * x).lower(jax.ShapeDtypeStruct((1024,), "float32")), flops=1024)
    >>> (cost,) = dry_run({"double": double}, hardware("v5e"), {"data": 1}).programs
    >>> cost.memory.arguments, cost.memory.output, cost.compiled_flops, cost.fits
    (4096, 4096, 0.0, True)
    """
    costs = []
    for name, program in programs.items():
        progress(name)
        begin = time.perf_counter()
        compiled = program.lower().compile(compiler_options=_UNOPTIMISED)
        text, needed = compiled.as_text(), memory(compiled)
        seconds = time.perf_counter() - begin
        speed = utilisation * machine.accelerator.flops(program.compute) * machine.devices
        costs.append(
            ProgramCost(
                name,
                program,
                matrix_product_flops(text, program.branch, program.rounds),
                needed,
                collectives(text, program.branch, program.rounds),
                needed.total <= machine.accelerator.memory,
                program.flops / speed / 3600,
                seconds,
            )
        )
    return DryRun(machine, dict(mesh), utilisation, tuple(costs), rate)


HEADER = (
    "program", "calls", "parameters", "FLOPs", "compiled, per call and device", "arguments", "temporary", "output",
    "memory per device", "collectives of a call", "hours", "device-hours",
)  # fmt: skip


def dry_run_rows(report: DryRun) -> list[tuple[str, ...]]:
    """A row of texts for each program, under `HEADER`."""
    return [_row(cost, report.hardware) for cost in report.programs]


def dry_run_notes(report: DryRun) -> list[str]:
    """What belongs to the table: machine, mesh, total, assumptions, and what the numbers are not."""
    machine = report.hardware
    axes = " x ".join(f"{name} {size}" for name, size in report.mesh.items())
    notes = [
        f"{machine.name}: {machine.devices} devices ({machine.accelerator.kind}) as {axes}, each "
        f"{_size(machine.accelerator.memory)}, {machine.accelerator.peak / 1e12:g} TFLOP/s bfloat16, "
        f"{machine.accelerator.single / 1e12:.3g} float32; {report.utilisation:.0%} of the peak assumed"
    ]
    large = [cost.name for cost in report.programs if not cost.fits]
    notes.append(
        f"does not fit: {', '.join(large)}; raise fsdp, lower batch or chunk, or take more devices"
        if large
        else "every program fits"
    )
    hours = report.device_hours
    price = "" if report.rate is None else f", {hours * report.rate:,.2f} at {report.rate:g} an hour"
    notes.append(f"all programs: {_hours(hours)} device-hours{price}")
    others = ", ".join(f"{name} {_hours(report.device_hours_on(ACCELERATORS[name]))}" for name in COMPARED)
    notes.append(f"device-hours by kind of device, at the same utilisation: {others}")
    seconds = sum(cost.compile_seconds for cost in report.programs)
    return [*notes, f"compiled in {seconds:.0f} s", *CAVEATS]


def _row(cost: ProgramCost, machine: Hardware) -> tuple[str, ...]:
    program, needed = cost.program, cost.memory
    traffic = ", ".join(f"{round(one.count)} {kind} {_size(one.bytes)}" for kind, one in cost.collectives.items())
    return (
        cost.name,
        f"{program.calls:,.0f}",
        f"{program.parameters / 1e6:,.1f} M {'float32' if program.compute == 'parameters' else program.compute}",
        f"{program.flops:.2e}",
        f"{cost.compiled_flops:.2e}",
        *(_size(one) for one in (needed.arguments, needed.temporary, needed.output)),
        f"{_size(needed.total)}{'' if cost.fits else ' (too much)'}",
        traffic or "none",
        _hours(cost.hours),
        _hours(cost.hours * machine.devices),
    )


def _hours(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _size(count: int | float) -> str:
    """Bytes as text: 1.5 GiB.

    >>> _size(1.5 * 2**30), _size(100)
    ('1.5 GiB', '0.0 MiB')
    """
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
