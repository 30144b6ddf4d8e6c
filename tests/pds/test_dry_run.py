"""A dry run: what it says against what can be known."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import pytest

from pmpjax.costs.hardware import ACCELERATORS
from pmpjax.models import Decoder, initialise, parameter_count
from pmpjax.pds.config import PDSConfig, TextConfig
from pmpjax.pds.dry_run import HEADER, dry_run, dry_run_notes, dry_run_rows, simulate_devices
from pmpjax.pds.presets import PLACEMENTS, PRESETS, Placement
from pmpjax.pds.stages.pretrain import PretrainConfig
from pmpjax.pds.stages.proxy import ProxyConfig
from pmpjax.pds.sweep.config import SolveConfig
from pmpjax.scoring.engine import ScoreConfig
from pmpjax.scoring.regressor import FitConfig
from pmpjax.train import MeshConfig
from pmpjax.train.model import ModelConfig

MODEL = ModelConfig(width=16, layers=1, heads=4, key_value_heads=2, hidden=32)
CONFIG = PDSConfig(
    prepare=TextConfig(vocabulary=64, length=33),
    model=MODEL,
    proxy=ProxyConfig(batch=16),
    solve=SolveConfig(instances=64, steps=4, batch=16, inner_optimizer="adamw", dev_batch=None, every=2, chunk=16),
    fit=FitConfig(batch=16),
    score=ScoreConfig(batch=16),
    pretrain=PretrainConfig(batch=16),
)
STAGES = ("proxy", "solve", "fit", "score", "pretrain")


@pytest.fixture(scope="module")
def dry():
    """(what progress was told, the report)."""
    said = []
    return said, dry_run(CONFIG, Placement("v5e-1", corpus_tokens=1e6, rate=2.0), progress=said.append)


@pytest.mark.slow
def test_every_stage_is_compiled_and_counted(dry):
    said, report = dry
    assert tuple(said) == tuple(stage.stage for stage in report.stages) == STAGES
    stages = dict(zip(STAGES, report.stages, strict=True))
    params = initialise(Decoder(MODEL.decoder(64)), jax.random.key(0), jax.numpy.zeros((1, 2), int))
    count = parameter_count(params)
    assert stages["pretrain"].parameters == stages["solve"].parameters == count
    # Parameters and Adam's two moments come in, and go out in their places.
    assert stages["pretrain"].memory.arguments >= 3 * 4 * count and stages["pretrain"].memory.output < 4 * count
    assert stages["score"].calls == pytest.approx(1e6 / (16 * 33))
    peak = report.hardware.accelerator.single
    for stage in report.stages:
        assert stage.fits and stage.flops > 0 and stage.compute == "parameters" and stage.collectives == {}
        assert stage.hours == pytest.approx(stage.flops / (0.4 * peak) / 3600)
    assert report.device_hours == pytest.approx(sum(stage.hours for stage in report.stages))
    assert report.device_hours_on(ACCELERATORS["v5p"]) == pytest.approx(report.device_hours * 197 / 459)
    rows = dry_run_rows(report)
    assert [row[0] for row in rows] == list(STAGES) and {len(row) for row in rows} == {len(HEADER)}
    notes = " ".join(dry_run_notes(report))
    assert "every stage fits" in notes and "40% of the peak assumed" in notes and "CPU" in notes
    assert f"{2 * report.device_hours:,.2f} at 2 an hour" in notes


@pytest.mark.slow
def test_what_is_too_large_is_named(dry):
    report = dry[1]
    small = dataclasses.replace(report.hardware.accelerator, memory=float(report.stages[4].memory.total - 1))
    tight = report._replace(
        hardware=dataclasses.replace(report.hardware, accelerator=small),
        stages=tuple(stage._replace(fits=stage.memory.total <= small.memory) for stage in report.stages),
    )
    assert "does not fit" in dry_run_notes(tight)[1] and "pretrain" in dry_run_notes(tight)[1]
    assert "too much" in " ".join(dry_run_rows(tight)[4])


def test_what_cannot_be_is_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match="v5e-8 has 8 devices, this process 1"):
        dry_run(CONFIG, Placement("v5e-8"))
    with pytest.raises(ValueError, match="fresh process"):
        simulate_devices(8)
    with pytest.raises(ValueError, match="a mesh of data 3"):
        dry_run(dataclasses.replace(CONFIG, mesh=MeshConfig(data=3)), Placement("v5e-1"))


def paper():
    """In a process of its own: the paper's smallest preset on its 16 devices (experiments/pds_dry_run.py has all)."""
    simulate_devices(16)
    report = dry_run(PRESETS["paper-160m"], PLACEMENTS["paper-160m"])
    stages = [[stage.stage, stage.fits, *stage.memory, sorted(stage.collectives)] for stage in report.stages]
    print(json.dumps({"stages": stages, "device_hours": report.device_hours}))


@pytest.mark.slow
def test_the_papers_largest_run_compiles_for_its_mesh_and_fits():
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-c", "from tests.pds.test_dry_run import paper; paper()"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "full rematerialization" not in done.stderr  # the partitioner found no way but to copy something everywhere
    found = json.loads(done.stdout.splitlines()[-1])
    assert [stage[0] for stage in found["stages"]] == list(STAGES)
    assert all(fits and "all-gather" in kinds for _, fits, *_, kinds in found["stages"])
    assert 200 < found["device_hours"] < 600
