"""A receding horizon: selections on the way, whatever stops it, and whether they pay."""

import dataclasses

import jax
import numpy as np
import pytest

from pmpjax.models import Decoder, initialise
from pmpjax.pds import PDSConfig
from pmpjax.pds.pipeline import STAGES
from pmpjax.pds.stages import receding
from pmpjax.pds.stages.prepare import PrepareConfig
from pmpjax.pds.stages.pretrain import PretrainConfig, build_pretrain, load_curves
from pmpjax.pds.stages.select import SelectConfig, load_selections
from pmpjax.pds.sweep.problem import SolveConfig
from pmpjax.runs import read_json, write_json, write_table
from pmpjax.runs.files import plain
from pmpjax.runs.pipeline import Context
from pmpjax.scoring.regressor import FitConfig
from pmpjax.train import OptimizerConfig, load_params
from pmpjax.train.model import ModelConfig
from tests.corpora import Recorder, prepared_corpus, warm_start

RATE = OptimizerConfig(learning_rate=1e-2, warmup_steps=3)
CONFIG = PDSConfig(
    receding_horizon=8,
    prepare=PrepareConfig(length=12),
    model=ModelConfig(width=16, layers=1, heads=2, key_value_heads=1, hidden=32),
    solve=SolveConfig(instances=48, minimum_tokens=4, steps=4, batch=8, dev_batch=8),
    fit=FitConfig(batch=8, optimizer=RATE),
    select=SelectConfig(ratio=0.4, repeat_by_rank=("pds",)),
    pretrain=PretrainConfig(
        steps=16, batch=4, optimizer=RATE, evaluate_every=4, dev_rows=8, test_rows=8, final_rows=16, save_every=4
    ),
)
FIRST = {0: np.arange(0, 60, 2)}
NAME = ("pds-receding", 0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_corpus(tmp_path_factory.mktemp("corpus"), documents=80)


def build(config, stages, prepared, folder, bar=None):
    receding.build_receding(config, FIRST, stages, Context(folder, prepared, 0, bar or Recorder()))


def quick(prepared, killed_in=None):
    """solve, fit and score without a sweep: the documents of the target's language score highest."""
    asked = []

    def made(work):
        asked.append(work.name)
        if work.name == killed_in and asked.count(killed_in) == 1:
            raise KeyboardInterrupt
        scores = 1.0 - np.arange(len(prepared.documents.ids)) % 2
        write_table(work.folder / "scores.parquet", {"id": list(prepared.documents.ids), "score": scores})
        write_json(work.folder / f"{work.name}.json", {"flops": 1e6})

    return {name: STAGES[name]._replace(build=made) for name in ("solve", "fit", "score")}, asked


@pytest.mark.slow
def test_it_goes_on_after_a_kill_in_a_selection(prepared, tmp_path, monkeypatch):
    """Two halves of 8 steps, selected again between them from half of the tokens."""
    stages, asked = quick(prepared, killed_in="fit")
    with pytest.raises(KeyboardInterrupt):
        build(CONFIG, stages, prepared, tmp_path)
    again = tmp_path / "work-0" / "step-00000008"
    assert sorted(path.name for path in again.iterdir()) == ["fit.partial", "solve"]
    monkeypatch.setattr(receding.shutil, "rmtree", lambda *_, **__: None)
    bar = Recorder()
    build(CONFIG, stages, prepared, tmp_path, bar)
    assert asked == ["solve", "fit", "fit", "score"]
    assert bar.done == CONFIG.pretrain.all_steps == 20
    selected = read_json(again / "select" / "select.json")
    assert 0.15 < selected["selected_fraction"] <= 0.2  # half of the steps are left, and half of the budget
    assert (load_selections(again / "select")[NAME] % 2 == 0).all()
    found = load_curves(tmp_path, [NAME])[NAME]
    assert found["steps"].tolist() == [0, 4, 8, 12, 16] and len(found["train"]) == 16
    facts = read_json(tmp_path / "receding.json")
    seconds = [read_json(again / name / "manifest.json")["seconds"] for name in (*stages, "select")]
    assert facts["selections"] == 1 and facts["selection_flops"] == 3e6
    assert facts["selection_seconds"] == pytest.approx(sum(seconds))

    ordinary = tmp_path / "ordinary"
    ordinary.mkdir()
    whole = dataclasses.replace(CONFIG.pretrain, steps=8, decay=0.0)
    build_pretrain(whole, CONFIG.model, {("pds", 0): FIRST[0]}, Context(ordinary, prepared, 0, Recorder()))
    before = load_curves(ordinary, [("pds", 0)])["pds", 0]
    np.testing.assert_allclose(found["test"][:3], before["test"], rtol=1e-6)  # until then it is the ordinary run
    np.testing.assert_allclose(found["train"][:8], before["train"], rtol=1e-6)


@pytest.mark.slow
def test_the_model_is_its_own_proxy(prepared, tmp_path):
    """solve, fit and score as they are, at the end of 8 of 12 steps."""
    stages = {name: STAGES[name] for name in ("solve", "fit", "score")}
    settings = dataclasses.replace(CONFIG.pretrain, steps=12, decay=0.0)
    config = dataclasses.replace(
        CONFIG, pretrain=settings, proxy=dataclasses.replace(CONFIG.proxy, model=ModelConfig(width=8))
    )
    decoder = Decoder(CONFIG.model.decoder(prepared.vocabulary))
    params = initialise(decoder, jax.random.key(0), prepared.source.tokens[:1])
    model = warm_start(params)._replace(optimizer=RATE)
    bar = Recorder()
    receding.select_again(config, model, 0, 8, stages, Context(tmp_path, prepared, 0, bar))
    assert bar.done == 0 and {"J", "mse"} <= bar.fields.keys()
    assert read_json(tmp_path / "solve" / "manifest.json")["config"]["model"] == plain(CONFIG.model)
    fitted = load_params(tmp_path / "fit" / "params")["trunk"]["embedding"]
    assert (
        fitted.shape == params["trunk"]["embedding"].shape and np.abs(fitted - params["trunk"]["embedding"]).max() < 1
    )
    chosen = load_selections(tmp_path / "select")[NAME]
    assert 0 < len(chosen) < 0.3 * len(prepared.documents.ids)


@pytest.mark.slow
def test_a_selection_after_the_decay_branch_has_left_changes_no_state_that_it_left_with(
    prepared, tmp_path, monkeypatch
):
    """The branch leaves at step 8, a selection is made at 12: the branch has its data from there on, and no other."""
    settings = dataclasses.replace(CONFIG.pretrain, decay=0.5)
    asked, chosen = [], {4: np.arange(0, 40, 2), 8: np.arange(20, 60, 2), 12: np.arange(1, 60, 2)}

    def select_again(config, model, seed, step, stages, at):
        asked.append(step)
        (at.folder / "select").mkdir(parents=True)

    monkeypatch.setattr(receding, "select_again", select_again)
    monkeypatch.setattr(receding, "load_selections", lambda folder: {NAME: chosen[int(folder.parent.name[5:])]})
    monkeypatch.setattr(receding, "_cost", lambda *_: {"flops": 0.0, "seconds": 0.0})
    build(dataclasses.replace(CONFIG, receding_horizon=4, pretrain=settings), {}, prepared, tmp_path)
    found = load_curves(tmp_path, [NAME])[NAME]
    assert asked == [4, 8, 12] and len(found["train"]) == 16
    assert np.isfinite(found["decayed_test"]) and found["decayed_test"] != found["test"][-1]
    assert not list(tmp_path.glob("*checkpoints"))


def test_a_horizon_between_two_measurements_is_refused():
    with pytest.raises(ValueError, match=r"receding_horizon is 6, .*multiple of pretrain\.evaluate_every"):
        dataclasses.replace(CONFIG, receding_horizon=6)
