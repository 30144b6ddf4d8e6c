"""The stages of PDS on several devices: the same run, but for rounding."""

import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.corpora import write_sources

SCRIPT = """
import dataclasses, sys
from pathlib import Path
import jax
from pmpjax.pds import run_stage
from pmpjax.train import MeshConfig
from tests.pds.test_pipeline import config
jax.config.update("jax_default_matmul_precision", "highest")
mesh = MeshConfig(*map(int, sys.argv[3].split(",")))
wanted = dataclasses.replace(config(Path(sys.argv[1])), mesh=mesh)
for stage in ("prepare", "proxy", "solve", "fit", "score"):
    run_stage(wanted, Path(sys.argv[2]), stage)
"""


@pytest.mark.slow
def test_a_mesh_changes_nothing_but_rounding(tmp_path):
    write_sources(tmp_path)
    found = {}
    for devices, axes in ((1, "1,1,1"), (4, "2,2,1")):
        out = tmp_path / axes.replace(",", "-")
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        line = [sys.executable, "-c", SCRIPT, str(tmp_path), str(out), axes]
        done = subprocess.run(line, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        scores = np.asarray(pq.read_table(out / "solve" / "scores.parquet")["score"])
        scores = np.asarray(pq.read_table(out / "score" / "scores.parquet")["score"])
        found[axes] = (
            scores,
            scores,
            *(dict(np.load(out / name / "params.npz"))["trunk/embedding"] for name in ("proxy", "fit")),
        )
    for one, other in zip(found["1,1,1"], found["2,2,1"], strict=True):
        assert not np.array_equal(one, other), "several devices round otherwise: is there a mesh at all?"
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3 * np.abs(one).max())
