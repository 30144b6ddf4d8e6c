"""The stages of PDS on several devices: the same run, but for rounding."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.pds import PDSConfig, run_stage
from pmpjax.train import MeshConfig
from tests.corpora import write_sources
from tests.pds.test_pipeline import config

STAGES = ("proxy", "solve", "fit", "score")
SCRIPT = """
import sys
from pathlib import Path
from tests.pds.test_mesh import stages_on
stages_on("2,2,1", Path(sys.argv[1]), Path(sys.argv[2]))
"""


def settings(folder: Path, axes: str) -> PDSConfig:
    few = config(folder)
    return dataclasses.replace(
        few,
        mesh=MeshConfig(*map(int, axes.split(","))),
        proxy=dataclasses.replace(few.proxy, save_every=100),
        solve=dataclasses.replace(few.solve, steps=4),
        fit=dataclasses.replace(few.fit, epochs=2, save_every=100),
    )


def stages_on(axes: str, folder: Path, out: Path) -> None:
    jax.config.update("jax_default_matmul_precision", "highest")
    for stage in STAGES:
        run_stage(settings(folder, axes), out, stage)


def found_in(out: Path):
    scores = [np.asarray(pq.read_table(out / name / "scores.parquet")["score"]) for name in ("solve", "score")]
    return *scores, *(np.load(out / name / "params.npz")["trunk/embedding"] for name in ("proxy", "fit"))


@pytest.mark.slow
def test_a_mesh_changes_nothing_but_rounding(tmp_path):
    write_sources(tmp_path)
    one, four = tmp_path / "one", tmp_path / "four"
    run_stage(settings(tmp_path, "1,1,1"), one, "prepare")  # on the host, whatever the devices
    shutil.copytree(one, four)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # as here: other programs round otherwise
    line = [sys.executable, "-c", SCRIPT, str(tmp_path), str(four)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as meshed:
        precision = jax.config.jax_default_matmul_precision
        try:
            stages_on("1,1,1", tmp_path, one)
        finally:
            jax.config.update("jax_default_matmul_precision", precision)
        said, _ = meshed.communicate()
    assert meshed.returncode == 0, said[-2000:]
    for alone, shared in zip(found_in(one), found_in(four), strict=True):
        assert not np.array_equal(alone, shared), "several devices round otherwise: is there a mesh at all?"
        np.testing.assert_allclose(shared, alone, rtol=1e-3, atol=1e-3 * np.abs(alone).max())
