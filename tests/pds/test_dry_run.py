"""The dry run of PDS: every stage's program, in this process for one device, and by the command for sixteen."""

import dataclasses
import os
import re
import subprocess
import sys

import jax
import pytest

from pmpjax.models import Decoder, initialise, parameter_count
from pmpjax.pds.config import PDSConfig
from pmpjax.pds.dry_run import PROGRAMS, dry_run
from pmpjax.pds.presets import Placement
from pmpjax.pds.stages.prepare import PrepareConfig
from pmpjax.pds.stages.pretrain import PretrainConfig
from pmpjax.pds.stages.proxy import ProxyConfig
from pmpjax.pds.sweep.problem import SolveConfig
from pmpjax.scoring.engine import ScoreConfig
from pmpjax.scoring.regressor import FitConfig
from pmpjax.train import MeshConfig
from pmpjax.train.model import ModelConfig

MODEL = ModelConfig(width=16, layers=1, heads=4, key_value_heads=2, hidden=32)
CONFIG = PDSConfig(
    prepare=PrepareConfig(vocabulary=64, length=33),
    model=MODEL,
    proxy=ProxyConfig(batch=16),
    solve=SolveConfig(
        instances=64, steps=4, batch=16, inner_optimizer="adamw", trajectory="source", dev_batch=None, every=2, chunk=16
    ),
    fit=FitConfig(batch=16),
    score=ScoreConfig(batch=16),
    pretrain=PretrainConfig(batch=16),
)
STAGES = ("proxy", "solve", "fit", "score", "pretrain")


@pytest.mark.slow
def test_every_stage_is_compiled_and_counted():
    names = []
    report = dry_run(CONFIG, Placement("v5e-1", corpus_tokens=1e6, rate=2.0), progress=names.append)
    assert tuple(names) == tuple(cost.name for cost in report.programs) == tuple(PROGRAMS) == STAGES
    stages = dict(zip(STAGES, report.programs, strict=True))
    params = initialise(Decoder(MODEL.decoder(64)), jax.random.key(0), jax.numpy.zeros((1, 2), int))
    count = parameter_count(params)
    assert stages["pretrain"].program.parameters == stages["solve"].program.parameters == count
    # Parameters and Adam's two moments come in, and go out in their places.
    assert stages["pretrain"].memory.arguments >= 3 * 4 * count and stages["pretrain"].memory.output < 4 * count
    assert stages["score"].program.calls == pytest.approx(1e6 / (16 * 33))
    peak = report.hardware.accelerator.single
    for cost in report.programs:
        assert cost.fits and cost.program.flops > 0 and cost.program.compute == "parameters" and not cost.collectives
        assert cost.hours == pytest.approx(cost.program.flops / (0.4 * peak) / 3600)
    assert (report.utilisation, report.rate, dict(report.mesh)) == (0.4, 2.0, {"data": 1, "fsdp": 1, "tensor": 1})


def test_devices_that_are_not_there_are_refused_before_anything_is_compiled():
    with pytest.raises(ValueError, match="v5e-8 has 8 devices, this process 1"):
        dry_run(CONFIG, Placement("v5e-8"), progress=pytest.fail)
    with pytest.raises(ValueError, match="a mesh of data 3"):
        dry_run(dataclasses.replace(CONFIG, mesh=MeshConfig(data=3)), Placement("v5e-1"), progress=pytest.fail)


@pytest.mark.slow
def test_the_papers_smallest_run_compiles_for_its_devices_and_fits(tmp_path):
    """By the command, in a process of its own with 16 devices (experiments/pds_dry_run.py has the other sizes)."""
    options = ["--preset", "paper-160m", "--dry-run", "--hardware", "v5e-16", "--rate", "2"]
    line = [sys.executable, "-m", "pmpjax", "pds", "run", *options]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "COLUMNS": "250"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "full rematerialization" not in done.stderr  # the partitioner found no way but to copy something everywhere
    for text in ("every program fits", "16 devices", "at 2 an hour", "all-reduce"):
        assert text in done.stdout, text
    collectives = dict(re.findall(r"^collectives of a call, (\w+): (.*)$", done.stdout, flags=re.MULTILINE))
    assert tuple(collectives) == STAGES and all("all-gather" in kinds for kinds in collectives.values())
    hours = re.search(r"all programs: ([\d.]+) device-hours", done.stdout)
    assert hours and 200 < float(hours[1]) < 600
    assert not list(tmp_path.iterdir()), "a dry run leaves nothing"
