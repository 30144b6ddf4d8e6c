"""A dry run of programs whose costs are known."""

import jax
import jax.numpy as jnp
import pytest

from pmpjax.costs.dry_run import (
    HEADER,
    Program,
    devices_of,
    dry_run,
    dry_run_notes,
    dry_run_rows,
    simulate_devices,
)
from pmpjax.costs.hardware import ACCELERATORS, hardware

SIZE = 64
MATRIX = jax.ShapeDtypeStruct((SIZE, SIZE), jnp.float32)


def powers(matrix, exponent):
    return jax.lax.fori_loop(0, exponent, lambda _, product: product @ matrix, matrix)


PROGRAMS = {
    "product": Program(
        lambda: jax.jit(jnp.matmul).lower(MATRIX, MATRIX), flops=10 * 2.0 * SIZE**3, calls=10, parameters=SIZE**2
    ),
    "power": Program(
        lambda: jax.jit(powers).lower(MATRIX, jax.ShapeDtypeStruct((), jnp.int32)),
        flops=7 * 2.0 * SIZE**3,
        compute="bfloat16",
        rounds=7.0,
    ),
}


@pytest.fixture(scope="module")
def dry():
    """(the names that progress was called with, the report)."""
    names = []
    machine = hardware("v5e-1")
    return names, dry_run(PROGRAMS, machine, {"data": 1}, utilisation=0.5, rate=2e6, progress=names.append)


def test_costs_are_those_of_the_programs(dry):
    names, report = dry
    assert names == [cost.name for cost in report.programs] == list(PROGRAMS)
    product, power = report.programs
    assert product.compiled_flops == 2 * SIZE**3 and power.compiled_flops == 7 * 2 * SIZE**3
    assert product.memory.arguments == 2 * 4 * SIZE**2 and product.memory.output == 4 * SIZE**2
    assert product.collectives == power.collectives == {} and product.fits and power.fits
    peak = ACCELERATORS["v5e"]
    assert product.hours == pytest.approx(product.program.flops / (0.5 * peak.single) / 3600)
    assert power.hours == pytest.approx(power.program.flops / (0.5 * peak.peak) / 3600)
    assert report.device_hours == pytest.approx(product.hours + power.hours)
    other = ACCELERATORS["h100"]
    seconds = product.program.flops / (0.5 * other.single) + power.program.flops / (0.5 * other.peak)
    assert report.device_hours_on(other) == pytest.approx(seconds / 3600)


def test_more_devices_take_less_time_and_as_many_device_hours(dry):
    several = dry_run(PROGRAMS, hardware("v5e-8"), {"data": 8}, utilisation=0.5)
    assert several.programs[0].hours == pytest.approx(dry[1].programs[0].hours / 8)
    assert several.device_hours == pytest.approx(dry[1].device_hours)


def test_the_report_as_text(dry):
    report = dry[1]
    rows = [dict(zip(HEADER, row, strict=True)) for row in dry_run_rows(report)]
    assert [row["program"] for row in rows] == list(PROGRAMS)
    assert (rows[0]["calls"], rows[0]["collectives of a call"]) == ("10", "none")
    assert "float32" in rows[0]["parameters"] and "bfloat16" in rows[1]["parameters"]
    notes = " ".join(dry_run_notes(report))
    assert "every program fits" in notes and "50% of the peak" in notes and "CPU" in notes
    assert f"{2e6 * report.device_hours:,.2f} at 2e+06 an hour" in notes


def test_what_is_too_large_is_named(dry):
    costs = dry[1].programs
    tight = dry[1]._replace(programs=(costs[0]._replace(fits=False), costs[1]))
    (note,) = (note for note in dry_run_notes(tight) if "fit" in note.split(":")[0])
    assert "product" in note and "power" not in note
    assert ["too much" in " ".join(row) for row in dry_run_rows(tight)] == [True, False]


def test_a_program_fits_where_its_memory_is_at_most_the_devices():
    machine = hardware("v2")
    large = jax.ShapeDtypeStruct((3 * 2**30,), jnp.float32)
    (cost,) = dry_run({"large": Program(lambda: jax.jit(jnp.negative).lower(large))}, machine, {}).programs
    assert cost.memory.total >= 2 * 4 * 3 * 2**30 > machine.accelerator.memory and not cost.fits


def test_devices_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="v5e-8 has 8 devices, this process 1"):
        devices_of(hardware("v5e-8"))
    assert devices_of(hardware("v5e-1"), ["one", "two"]) == ["one"]
    with pytest.raises(ValueError, match="fresh process"):
        simulate_devices(8)
