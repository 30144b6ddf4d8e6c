"""`pmpjax kosmos train` and `ground` at the smallest size: what a run leaves, that it goes on, what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from pmpjax.cli import main
from pmpjax.multimodal.config import PRESETS, KosmosTrainConfig
from pmpjax.multimodal.scenes import draw_scene
from pmpjax.multimodal.training import load_reader, run
from pmpjax.runs import RunError
from pmpjax.train.optimizers import OptimizerConfig

SMALLEST = KosmosTrainConfig(
    side=4,
    latents=4,
    width=16,
    layers=1,
    vision_width=8,
    vision_layers=1,
    patch=16,
    batch=4,
    steps=4,
    optimizer=OptimizerConfig(1e-3, warmup_steps=1),
    evaluate_every=4,
    heldout=8,
    test_scenes=2,
    save_every=2,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("kosmos") / "run"
    return out, run(SMALLEST, out)


@pytest.mark.slow
def test_a_run_leaves_metrics_and_a_page_of_pictures(trained):
    out, metrics = trained
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["steps"] == 4 and set(metrics["heldout"]) == {"text", "locations"}
    assert set(metrics["recall"]) >= {"phrases", "phrases_blank", "phrases_ceiling", "held_out"}
    assert all(0 <= share <= 1 for share in metrics["recall"].values())
    assert metrics["switch"]["without"] == 0.0
    assert "data:image/png" in (out / "report.html").read_text()
    assert not (out / "train" / "checkpoints").exists()


@pytest.mark.slow
def test_a_finished_run_is_not_made_again(trained):
    out, metrics = trained
    stamp = (out / "train" / "params.npz").stat().st_mtime_ns
    assert run(SMALLEST, out) == metrics and (out / "train" / "params.npz").stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_another_config_is_refused(trained):
    with pytest.raises(RunError, match="width"):
        run(dataclasses.replace(SMALLEST, width=32), trained[0])


@pytest.mark.slow
def test_ground_draws_into_a_png(trained, tmp_path, capsys):
    Image.fromarray(draw_scene(0, 0).image).resize((96, 96)).save(tmp_path / "scene.png")
    assert main(["kosmos", "ground", "--run", str(trained[0]), str(tmp_path / "scene.png"), "a red square"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("a red square: ") and "scene.boxes.png" in said
    assert np.asarray(Image.open(tmp_path / "scene.boxes.png")).shape == (288, 288, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "phrase"), [("absent.png", "a disc"), ("scene.png", "a <object>")])
def test_ground_refuses_what_it_cannot_read(trained, tmp_path, capsys, file, phrase):
    Image.fromarray(draw_scene(0, 0).image).save(tmp_path / "scene.png")
    assert main(["kosmos", "ground", "--run", str(trained[0]), str(tmp_path / file), phrase]) == 2
    assert ("absent.png" if "absent" in file else "markup") in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(RunError, match="pmpjax kosmos train"):
        load_reader(tmp_path)


@pytest.mark.parametrize("changes", [{"steps": 6_000}, {"batch": 0}, {"seed": -1}])
def test_configs_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        KosmosTrainConfig(**changes)


def test_presets_name_themselves_and_every_row_fits():
    assert all(config.preset == name and config.steps <= 5_000 for name, config in PRESETS.items())
