"""The whole pipeline on a corpus with a known answer, killed and resumed."""

import dataclasses
import functools
import html
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from pmpjax.cli import main
from pmpjax.pds import PDSConfig, checks, pipeline, run, run_stage
from pmpjax.pds.checks import check_scores
from pmpjax.pds.pipeline import PIPELINE, STAGES
from pmpjax.pds.stages.prepare import PrepareConfig
from pmpjax.pds.stages.pretrain import PretrainConfig
from pmpjax.pds.stages.proxy import ProxyConfig
from pmpjax.pds.stages.select import SelectConfig, load_selections
from pmpjax.pds.sweep.problem import SolveConfig
from pmpjax.runs import RunError, read_json, stored_config, write_json
from pmpjax.scoring.regressor import FitConfig
from pmpjax.train import OptimizerConfig
from pmpjax.train.model import ModelConfig
from tests.corpora import write_sources
from tests.killing import compilations_kept, kill, start

RATE = OptimizerConfig(learning_rate=1e-2, warmup_steps=5)


def config(folder):
    return PDSConfig(
        source=(str(folder / "wanted.jsonl"), str(folder / "other.jsonl")),
        target=str(folder / "target.jsonl"),
        prepare=PrepareConfig(vocabulary=300, length=32),
        model=ModelConfig(width=16, layers=1, heads=2, key_value_heads=1, hidden=32),
        proxy=ProxyConfig(steps=12, batch=8, optimizer=RATE, save_every=4),
        solve=SolveConfig(instances=96, minimum_tokens=8, steps=8, batch=8, dev_batch=8),
        select=SelectConfig(ratio=0.4, repeat_by_rank=("pds",)),
        fit=FitConfig(epochs=4, batch=8, optimizer=RATE, save_every=10),
        pretrain=PretrainConfig(
            steps=40, batch=8, optimizer=RATE, evaluate_every=4, dev_rows=16, test_rows=16, save_every=8
        ),
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_sources(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    with compilations_kept(corpus / "cache"):
        return out, run(config(corpus), out)


def test_the_selection_finds_the_targets_language_and_pays(corpus, whole):
    out, metrics = whole
    lines = [json.loads(line) for line in (out / "select" / "selected.jsonl").read_text().splitlines()]
    assert np.mean(["wanted" in line["origin"] for line in lines]) > 0.95
    assert metrics["scorer_spearman"] > 0.5
    assert metrics["speedup"][0] > 1
    assert metrics["final_target_loss"]["pds"][0] < metrics["final_target_loss"]["random"][0]
    assert 0.35 < metrics["selected_fraction"] <= 0.4


def test_metrics_have_the_documented_keys_and_the_page_the_verdict(whole):
    out, metrics = whole
    stored = read_json(out / "metrics.json")
    assert {
        "speedup",
        "final_target_loss",
        "scorer_spearman",
        "selected_fraction",
        "duplicates_removed",
        "leaks_removed",
        "rejected_rows",
        "stage_seconds",
        "stage_flops",
        "verdict",
    } <= stored.keys()
    stages = {"prepare", "proxy", "solve", "fit", "score", "select", "pretrain", "evaluate", "report"}
    assert stored["stage_seconds"].keys() == stages
    assert all(stored["stage_flops"][name] > 0 for name in ("proxy", "solve", "fit", "score", "pretrain"))
    assert stored["verdict"] == metrics["verdict"]
    assert len(pq.read_table(out / "score" / "scores.parquet")) == 150 - metrics["duplicates_removed"]


def test_the_page_shows_what_the_stages_found(whole):
    out, metrics = whole
    page = html.unescape((out / "report" / "report.html").read_text())
    for text in (
        metrics["verdict"],
        "consistency",
        "Frank-Wolfe gap",
        "best</th><th>worst",
        "of one model",
        "jsonl",
        f"passes over the selection</td><td>{metrics['stages']['pretrain']['passes']['0']:.4g}</td>",
    ):
        assert text in page
    assert page.count("data:image/png;base64,") == 2 and "nan" not in page.split("base64,")[0]
    shares = metrics["origins"]["jsonl"]
    assert shares == {"source": 1.0, "selection": 1.0}


def test_scores_of_texts_whose_worth_is_known(whole, tmp_path, monkeypatch):
    found = check_scores(whole[0], documents=60, pairs=30)
    # Noise over two small languages may score anything: what it scores on real text is in experiments/pds_compare.md.
    assert 0 <= found["random_in_lowest_third"] <= 1 and found["documents"] == 60
    assert 0 < found["shuffled_below"] < 1 and 0 < found["pairs"] <= 30
    monkeypatch.setattr(checks, "random_scores", lambda *_: np.array([-1e9, 1e9, -1e9, -1e9]))
    monkeypatch.setattr(checks, "shuffled_scores", lambda *_: (np.array([1.0, 2.0]), np.array([0.0, 3.0])))
    found = check_scores(whole[0])
    assert found["random_in_lowest_third"] == 0.75 and found["shuffled_below"] == 0.5
    with pytest.raises(ValueError, match="has no stage score"):
        check_scores(tmp_path)


def test_both_arms_start_alike_and_have_equal_budgets(whole):
    out, _ = whole
    arms = [dict(np.load(out / "pretrain" / f"{name}-0.npz")) for name in ("pds", "random")]
    assert arms[0]["test"][0] == arms[1]["test"][0]
    assert arms[0]["dev"][0] == arms[1]["dev"][0]
    assert (arms[0]["test"][1:] != arms[1]["test"][1:]).all()
    np.testing.assert_array_equal(arms[0]["steps"], arms[1]["steps"])
    assert len(arms[0]["train"]) == len(arms[1]["train"]) == 40
    for name in ("pds", "random"):
        assert dict(np.load(out / "pretrain" / f"{name}-0-params.npz"))["trunk/embedding"].shape[1] == 16


SCRIPT = """
import sys
from pathlib import Path
import tests.conftest  # the settings of this process: another level of optimisation rounds otherwise
from tests.pds.test_pipeline import config
from pmpjax.pds.pipeline import run
run(config(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_training_goes_on_to_the_same_results(corpus, whole, tmp_path):
    out = tmp_path / "run"
    checkpoints = out / "pretrain.partial" / "pds-0-checkpoints" / "constant"
    kill(start("-c", SCRIPT, corpus, out, cache=corpus / "cache"), lambda: bool(list(checkpoints.glob("*[0-9]"))))
    assert not (out / "pretrain").exists() and not (out / "metrics.json").exists()

    with compilations_kept(corpus / "cache"):
        resumed = run(config(corpus), out)
    assert_equal_runs(whole, (out, resumed))
    written = (out / "metrics.json").stat().st_mtime_ns
    params = (out / "pretrain" / "pds-0-params.npz").stat().st_mtime_ns
    assert run(config(corpus), out)["verdict"] == resumed["verdict"]  # everything is there: nothing is built again
    assert (out / "pretrain" / "pds-0-params.npz").stat().st_mtime_ns == params
    assert (out / "metrics.json").stat().st_mtime_ns >= written


def assert_equal_runs(one, other):
    changing = {"stage_seconds"}
    assert {k: v for k, v in one[1].items() if k not in changing} == {
        k: v for k, v in other[1].items() if k not in changing
    }
    for name in (
        "proxy/params.npz",
        "solve/scores.parquet",
        "fit/params.npz",
        "score/scores.parquet",
        "select/selected.jsonl",
        "pretrain/pds-0.npz",
        "pretrain/random-0.npz",
        "pretrain/pds-0-params.npz",
        "evaluate/curves.png",
    ):
        assert (one[0] / name).read_bytes() == (other[0] / name).read_bytes(), name


@pytest.mark.slow
def test_baselines_are_trained_alike_and_tabled_from_the_same_scores(corpus, whole, tmp_path):
    out = tmp_path / "run"
    baselines = ("dsir", "gradient-similarity")
    short = dataclasses.replace(config(corpus).pretrain, steps=12, evaluate_every=2)
    wanted = dataclasses.replace(config(corpus), baselines=baselines, seeds=2, pretrain=short)
    with pytest.raises(RunError, match=r"seeds: 1 before, 2 now.*--stages-from"):
        run(wanted, whole[0])
    with pytest.raises(RunError, match="no run directory"):
        run(wanted, out, tmp_path)
    assert not out.exists()
    metrics = run(wanted, out, whole[0])
    manifests = [(name, out / name / "manifest.json", whole[0] / name / "manifest.json") for name in STAGES]
    same = {name for name, new, old in manifests if old.exists() and new.samefile(old)}
    assert same == {"prepare", "proxy", "solve", "fit", "score"}, "baselines and seeds leave these as they are"

    table = read_json(out / "compare.json")
    assert table == read_json(out / "metrics.json")["comparison"]
    methods = {"pds", "random", *baselines}
    assert set(table) == set(metrics["final_target_loss"]) == methods
    assert table["dsir"]["mean"] < table["random"]["mean"]
    assert table["random"]["seconds"] == 0 < table["dsir"]["seconds"] < table["gradient-similarity"]["seconds"]
    for name, facts in table.items():
        assert len(facts["final_target_loss"]) == 2 and facts["half_width"] is not None
        if name != "pds":
            expected = np.subtract(table["pds"]["final_target_loss"], facts["final_target_loss"])
            np.testing.assert_allclose(facts["difference"]["values"], expected)
    assert len({np.load(out / "pretrain" / f"{name}-0.npz")["test"][0] for name in methods}) == 1
    chosen = load_selections(out / "select")
    assert not np.array_equal(chosen["dsir", 0], chosen["dsir", 1]), "each seed draws its own Gumbel noise"
    page = (out / "report" / "report.html").read_text()
    assert "Methods at equal budgets" in page and "gradient similarity" in page and "DSIR" in page


FIRST = ("prepare", "proxy", "solve", "fit", "score")
ALL = (*FIRST, "select", "pretrain", "evaluate", "report")
BASELINES = ("dsir", "rho-loss")


@pytest.fixture
def built(monkeypatch):
    """Stages that write what they were made from, and at once; the names of those that were built, in their order."""
    names = []

    def build(name, stage, work):
        names.append(name)
        made = {other: read_json(work.folders[other] / "made.json") for other in stage.inputs if other in work.folders}
        write_json(work.folder / "made.json", {"config": stage.decided(work.config), **made})

    table = {name: stage._replace(build=functools.partial(build, name, stage)) for name, stage in STAGES.items()}
    monkeypatch.setattr(pipeline, "PIPELINE", dataclasses.replace(PIPELINE, table=table))
    monkeypatch.setattr(pipeline, "_finish", lambda *_: {})
    return names


def changed(**changes):
    """A run of settings that differ from the default's; `select.ratio` is written select__ratio."""
    settings = PDSConfig()
    for name, value in changes.items():
        stage, _, field = name.partition("__")
        settings = dataclasses.replace(
            settings, **{stage: dataclasses.replace(getattr(settings, stage), **{field: value}) if field else value}
        )
    return settings


COMPARED = {"baselines": BASELINES}
AGAIN = {"receding_horizon": 30}


@pytest.mark.parametrize(
    ("before", "now", "taken"),
    [
        ({}, {}, ALL),
        ({}, {"seeds": 5}, FIRST),
        ({}, {"select__ratio": 0.2}, FIRST),
        ({}, COMPARED, FIRST),  # what comes after reads the baselines: it is another's without them
        ({"seeds": 5}, {"seeds": 5, **COMPARED}, FIRST),
        ({}, {"seeds": 5, **COMPARED}, FIRST),
        ({}, AGAIN, (*FIRST, "select", "pretrain")),
        (AGAIN, {}, (*FIRST, "select", "pretrain")),
        (AGAIN, {"receding_horizon": 60}, (*FIRST, "select", "pretrain")),
        (COMPARED, {}, FIRST),
        (COMPARED, {"baselines": BASELINES[:1]}, FIRST),
        (COMPARED, {**COMPARED, "select__ratio": 0.2}, (*FIRST, "baselines")),
        ({**COMPARED, **AGAIN}, COMPARED, (*FIRST, "baselines", "select", "pretrain")),
        ({**COMPARED, **AGAIN}, {**COMPARED, **AGAIN}, (*FIRST, "baselines", *ALL[5:7], "receding", *ALL[7:])),
        ({}, {"pretrain__steps": 300}, (*FIRST, "select")),
        ({}, {"fit__epochs": 7}, FIRST[:3]),
        ({}, {"solve__steps": 8, **COMPARED}, FIRST[:2]),
        ({}, {"seed": 1}, ()),
    ],
)
def test_of_a_whole_run_what_is_equal_is_taken_and_nothing_else(before, now, taken, built, tmp_path):
    earlier, out, fresh = tmp_path / "earlier", tmp_path / "out", tmp_path / "fresh"
    run(changed(**before), earlier)
    built.clear()
    run(changed(**now), out, earlier)
    stages = list(PIPELINE.stages(changed(**now)))
    assert built == [name for name in stages if name not in taken]
    run(changed(**now), fresh)
    for name in stages:
        assert (out / name / "made.json").read_bytes() == (fresh / name / "made.json").read_bytes(), name


def test_a_stage_whose_inputs_were_built_here_is_taken_when_they_came_out_equal(built, tmp_path):
    earlier, out = tmp_path / "earlier", tmp_path / "out"
    run(changed(), earlier)
    (earlier / "solve").rename(tmp_path / "solve")  # the earlier run has lost it: it is made again, to the same bytes
    built.clear()
    run(changed(), out, earlier)
    assert built == ["solve"]


def test_a_run_that_takes_stages_goes_on_after_a_kill(built, tmp_path, monkeypatch):
    earlier, out, whole = tmp_path / "earlier", tmp_path / "out", changed(baselines=BASELINES)
    run(changed(), earlier)
    built.clear()
    quick = pipeline.PIPELINE

    def killed(_):
        raise KeyboardInterrupt

    for name in ("baselines", "pretrain"):
        killing = quick.table | {name: quick.table[name]._replace(build=killed)}
        monkeypatch.setattr(pipeline, "PIPELINE", dataclasses.replace(quick, table=killing))
        with pytest.raises(KeyboardInterrupt):
            run(whole, out, earlier)
    monkeypatch.setattr(pipeline, "PIPELINE", quick)
    run(whole, out, earlier)
    assert built == ["baselines", "select", "pretrain", "evaluate", "report"]


def test_a_stage_by_itself_takes_what_it_reads_from_another_run(built, tmp_path):
    earlier, out, compared = tmp_path / "earlier", tmp_path / "out", changed(baselines=BASELINES)
    run(changed(), earlier)
    built.clear()
    with pytest.raises(RunError, match=rf"select reads what baselines makes.*`pmpjax pds baselines --out {out}` first"):
        run_stage(compared, out, "select", earlier)
    assert built == [] and {path.name for path in out.iterdir() if path.is_dir()} == set(FIRST)
    run_stage(compared, out, "baselines")
    run_stage(compared, out, "select", earlier)
    assert built == ["baselines", "select"]
    other = tmp_path / "other"
    assert run_stage(changed(), other, "evaluate", earlier) == other / "evaluate" and built == ["baselines", "select"]


def test_compare_of_a_finished_run_makes_no_second_sweep(whole, tmp_path, capsys):
    """README's own use, on the corpus with a known answer."""
    out, earlier = tmp_path / "run", whole[0]
    short = ["--pretrain.steps", "12", "--pretrain.decay", "0"]
    taken = ["--stages-from", str(earlier), "--out", str(out)]
    assert main(["pds", "compare", "--baselines", "dsir", "--seeds", "1", *short, *taken]) == 0
    assert "DSIR" in capsys.readouterr().out
    for name in PIPELINE.stages(changed(baselines=("dsir",))):
        manifests = [folder / name / "manifest.json" for folder in (out, earlier)]
        same = manifests[1].exists() and manifests[0].samefile(manifests[1])
        assert same == (name in FIRST), name
    chosen, before = load_selections(out / "select"), load_selections(earlier / "select")
    assert set(chosen) == {("pds", 0), ("random", 0), ("dsir", 0)}
    np.testing.assert_array_equal(chosen["pds", 0], before["pds", 0])
    assert set(read_json(out / "compare.json")) == {"pds", "random", "dsir"}


def test_each_stage_by_itself_makes_what_the_run_makes(corpus, whole, tmp_path, monkeypatch):
    out, wanted = tmp_path / "run", config(corpus)
    with pytest.raises(RunError, match=r"solve reads what prepare makes.*pmpjax pds prepare"):
        run_stage(wanted, out, "solve")
    with pytest.raises(ValueError, match="no stage 'baselines'"):
        run_stage(wanted, out, "baselines")
    run_stage(wanted, out, "prepare")
    assert stored_config(out, PDSConfig) == wanted
    for name in ("proxy", "solve", "fit", "score", "pretrain"):
        shutil.copytree(whole[0] / name, out / name)
    select = (whole[0] / "select" / "selections.parquet").read_bytes()
    for name in ("select", "evaluate", "report"):
        assert run_stage(wanted, out, name) == out / name
    assert (out / "select" / "selections.parquet").read_bytes() == select
    found, expected = (read_json(folder / "metrics.json") for folder in (out, whole[0]))
    for metrics in (found, expected):
        metrics.pop("stage_seconds")
    assert found == expected


def test_another_setting_in_the_same_folder_is_refused_by_name(corpus, whole):
    with pytest.raises(RunError, match="seeds"):
        run(dataclasses.replace(config(corpus), seeds=2), whole[0])
