"""Programs of the stages before they are compiled: how often they run, of what size, and what is refused."""

import dataclasses

import jax
import pytest

from pmpjax.pds.config import PDSConfig
from pmpjax.pds.dry_run import PROGRAMS, stage_programs
from pmpjax.pds.overhead import stage_flops
from pmpjax.pds.presets import PLACEMENTS, PRESETS, Placement
from pmpjax.train import MeshConfig, make_mesh
from tests.pds.test_dry_run import CONFIG

MESH = make_mesh(MeshConfig(), jax.devices()[:1])


def test_a_stage_runs_its_program_as_often_as_its_config_asks():
    config, placement = PRESETS["paper-160m"], PLACEMENTS["paper-160m"]
    found = stage_programs(config, placement, MESH)
    assert {name: program.flops for name, program in found.items()} == stage_flops(config, placement)
    assert (found["proxy"].calls, found["pretrain"].calls) == (config.proxy.steps, config.pretrain.steps)
    assert found["fit"].calls == config.fit.steps(163_840 - 16_384)
    assert found["solve"].calls == 1, "one outer step along text as it comes needs no sweep before it"
    assert found["solve"].branch == 1 / 10 and found["solve"].rounds == 10
    assert [program.compute for program in found.values()] == ["parameters", "parameters", *["bfloat16"] * 3]
    size = {name: program.parameters for name, program in found.items()}
    assert size["proxy"] == size["solve"] == size["pretrain"] and size["fit"] == size["score"]


def test_a_sweep_before_the_others_counts_by_its_share():
    calls = PROGRAMS["solve"](PDSConfig(), Placement(), MESH).calls
    assert PDSConfig().solve.outer_steps < calls < PDSConfig().solve.outer_steps + 1


@pytest.mark.slow
def test_the_defaults_two_trajectories_are_traced():
    config = dataclasses.replace(CONFIG, solve=dataclasses.replace(CONFIG.solve, trajectory="selection", every=4))
    assert config.solve.adds and not CONFIG.solve.adds
    assert PROGRAMS["solve"](config, Placement(), MESH).lower().out_info is not None
