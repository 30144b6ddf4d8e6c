"""The command line: statuses, one-line errors, presets, interruption, and the quick law from end to end."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from pmpjax import cli
from pmpjax.cli import main
from pmpjax.pds import PDSConfig
from pmpjax.pds.config import deciding
from pmpjax.pds.pipeline import STAGES
from pmpjax.pds.presets import PRESETS, with_method
from pmpjax.runs import open_run
from pmpjax.train.model import ModelConfig
from tests.corpora import write_texts

TINY = ["--problem.train", "64", "--problem.steps", "40", "--problem.dimension", "16", "--sweeps", "4"]


def command(*arguments):
    return [sys.executable, "-m", "pmpjax", *map(str, arguments)]


def test_version_and_help_do_not_wait_for_the_rooms():
    code = (
        "import sys; from pmpjax import cli; assert not cli.main(['--version']) and not cli.main(['--help']);"
        "print([name for name in ('matplotlib', 'scipy.optimize', 'tokenizers', 'tyro') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pmpjax 0.") and "law perceptron" in done.stdout
    assert done.stdout.rstrip().endswith("[]")


def test_groups_of_commands_list_what_is_below(capsys):
    assert main(["law"]) == 0
    shown = capsys.readouterr().out
    assert "pmpjax law perceptron" in shown and "pds" not in shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["law", "perceptrn"], "did you mean `pmpjax law perceptron`?"),
        (["doktor"], "did you mean `pmpjax doctor`?"),
        (["--sweeps", "3"], "expected a command before '--sweeps'"),
    ],
)
def test_unknown_commands_name_the_nearest(arguments, expected, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert expected in err and err.count("\n") == 1


def test_unknown_options_name_the_nearest(capsys):
    assert main(["law", "perceptron", "--sweps", "3"]) == 2
    assert "--sweeps" in capsys.readouterr().err


def test_presets_set_the_defaults_and_options_override_them(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("pmpjax.law.run", lambda config, out: seen.append((config, out)) or pytest.fail())
    with pytest.raises(pytest.fail.Exception):
        main(["law", "perceptron", "--preset", "quick", "--problem.noise", "0.3", "--seeds", "1", "2"])
    config, out = seen[0]
    assert config.preset == "quick" and config.problem.steps < 2000
    assert config.problem.noise == 0.3 and config.seeds == (1, 2) and str(out) == "runs/law-perceptron-quick"


def test_what_the_user_can_mend_is_one_line_and_no_trace(tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")]
    assert main(["law", "perceptron", *TINY, *out]) == 0
    assert "acceleration ratio" in capsys.readouterr().out
    assert main(["law", "perceptron", *TINY, "--sweeps", "5", *out]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "sweeps: 4 before, 5 now" in err and "Traceback" not in err
    assert main(["law", "perceptron", "--problem.noise", "0.9"]) == 2
    assert "problem.noise is 0.9" in capsys.readouterr().err


def test_a_bug_is_one_line_unless_debug(capsys, monkeypatch):
    def fail(arguments, name, announce):
        raise KeyError("inner")

    monkeypatch.setitem(cli.COMMANDS, ("doctor",), cli.Command("", fail))
    assert main(["doctor"]) == 1
    assert "unexpected KeyError: 'inner'" in capsys.readouterr().err
    with pytest.raises(KeyError):
        main(["doctor", "--debug"])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_says_how_to_go_on(tmp_path, number, status):
    line = command("law", "perceptron", *TINY[:-2], "--sweeps", 1_000_000, "--out", tmp_path / "run")
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (tmp_path / "run" / "solve.partial").exists() and time.monotonic() < end:
        time.sleep(0.01)  # polls the other process
    os.kill(process.pid, number)  # while it draws, traces or compiles: the worst moment
    err = process.communicate(timeout=60)[1]
    assert process.returncode == status and "Traceback" not in err, err
    assert f"the run is in {tmp_path / 'run'}, and the same command goes on from there" in err
    assert (tmp_path / "run" / "solve.partial").exists() and not (tmp_path / "run" / "solve").exists()


@pytest.mark.slow
def test_the_quick_law_ends_in_time_with_its_acceleration(tmp_path):
    before = os.times()
    line = command("law", "perceptron", "--preset", "quick", "--out", tmp_path / "run")
    done = subprocess.run(line, capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["acceleration_ratio"] >= 5.5
    # Of the processor, whatever else the machine does: by the clock it is 20 s on two free cores.
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    assert spent < 60, "17 s of the processor"


def test_compare_takes_all_baselines_and_five_seeds_and_prints_the_table(capsys, monkeypatch):
    facts = {"mean": 4.25, "half_width": 0.125, "steps_needed": [310.0, None], "seconds": 170.0, "flops": 7.5e12}
    other = facts | {"mean": 4.5, "difference": {"mean": -0.25, "interval": [-0.5, -0.125]}}
    table = {"pds": facts | {"difference": None}, "rho-loss": other}
    seen = []

    def run(config, out, stages_from):
        seen.append((config, out))
        stages = {"baselines": {"methods": {"influence": {"warnings": ["influence: raise damping"]}}}}
        return {"comparison": table, "verdict": "[it is so]", "stages": stages}

    monkeypatch.setattr("pmpjax.pds.pipeline.run", run)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["pds", "compare"]) == 0
    config, out = seen[0]
    assert config.baselines == ("dsir", "rho-loss", "influence", "gradient-similarity")
    assert config.seeds == 5 and str(out) == "runs/pds-compare"
    shown = capsys.readouterr().out
    for text in (
        "RHO-Loss",
        "4.2500 ± 0.1250",
        "310 (1 of 2 seeds)",
        "-0.2500 [-0.5000, -0.1250]",
        "[it is so]",
        "warning: influence: raise damping",
    ):
        assert text in shown
    assert main(["pds", "compare", "--baselines", "dsir", "--seeds", "2"]) == 0
    assert seen[1][0].baselines == ("dsir",) and seen[1][0].seeds == 2
    assert main(["pds", "compare", "--baselines"]) == 2 and "baselines is empty" in capsys.readouterr().err
    assert main(["pds", "compare", "--baselines", "dsri"]) == 2 and "dsir" in capsys.readouterr().err
    assert len(seen) == 2


def test_each_stage_of_pds_is_a_command_that_goes_on_with_the_options_of_its_run(tmp_path, capsys, monkeypatch):
    assert {name for _, name in cli.pds.COMMANDS} - {"run", "compare"} == set(STAGES)
    seen = []
    monkeypatch.setattr(
        "pmpjax.pds.run_stage", lambda config, out, name, _: seen.append((config, out, name)) or out / name
    )
    out = tmp_path / "run"
    with open_run(out, "pds", PDSConfig(seeds=3, source=("a", "b"))):
        pass
    assert main(["pds", "solve", "--out", str(out), "--solve.steps", "8"]) == 0
    config, folder, name = seen[0]
    assert (config.seeds, config.source, config.solve.steps, folder, name) == (3, ("a", "b"), 8, out, "solve")
    assert capsys.readouterr().out.strip() == str(out / "solve")
    assert main(["pds", "fit"]) == 0 and seen[1][0] == PDSConfig() and str(seen[1][1]) == "runs/pds-run"
    (out / "manifest.json").write_text('{"config": {"sed": 0}}')
    assert main(["pds", "solve", "--out", str(out)]) == 2
    assert "holds no PDSConfig of this version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("empty", "target", "empty.jsonl has no good row"),
        ("none", "target", "none.jsonl does not exist"),
        ("source", "short", "dev has 2 tokens, less than one row of 32"),
        ("source", "one", "a target needs at least 2 documents"),
        ("source", "source", "nothing is left of source"),
    ],
)
def test_data_that_cannot_be_used_are_named_and_leave_no_stage(tmp_path, capsys, source, target, message):
    write_texts(tmp_path / "source.jsonl", 0, 30, 0)
    write_texts(tmp_path / "target.jsonl", 1, 30, 1)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "one.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    files = ["--source", str(tmp_path / f"{source}.jsonl"), "--target", str(tmp_path / f"{target}.jsonl")]
    out = tmp_path / "run"
    sizes = ["--prepare.vocabulary", "300", "--prepare.length", "32"]
    assert main(["pds", "prepare", *files, *sizes, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (out / "prepare").exists()


def test_settings_of_pds_out_of_range_are_named(capsys):
    for options, message in (
        (["--select.ratio", "1.5"], "ratio 1.5"),
        (["--select.ration", "0.5"], "--select.ratio"),
        (["--seeds", "0"], "seeds is 0"),
        (["--solve.steps", "0"], "steps 0"),
    ):
        assert main(["pds", "run", *options]) == 2
        assert message in capsys.readouterr().err


def test_presets_of_pds_and_models_of_its_stages(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("pmpjax.pds.pipeline.run", lambda *given: seen.append(given[:2]) or pytest.fail())
    for arguments in (
        ["--preset", "paper-1b", "--source", "x", "--solve.steps", "50"],
        ["--fit.model.width", "64", "--receding-horizon", "300"],
    ):
        with pytest.raises(pytest.fail.Exception):
            main(["pds", "run", *arguments])
    (paper, folder), (own, other) = seen
    assert paper == dataclasses.replace(
        PRESETS["paper-1b"], source=("x",), solve=dataclasses.replace(PRESETS["paper-1b"].solve, steps=50)
    )
    assert str(folder) == "runs/pds-run-paper-1b" and str(other) == "runs/pds-run"
    assert own.fit.model == ModelConfig(width=64) and own.proxy.model is None and own.receding_horizon == 300
    assert main(["pds", "run", "--preset", "papr-1b"]) == 2
    assert "did you mean paper-1b?" in capsys.readouterr().err
    assert main(["pds", "run", "--preset", "paper-1b"]) == 2
    assert "give --source and --target" in capsys.readouterr().err
    for name in ("compare", "prepare"):
        assert main(["pds", name, "--preset", "paper-1b"]) == 2
        assert "give --source and --target" in capsys.readouterr().err
    assert main(["pds", "run", "--receding-horizon", "7"]) == 2
    assert "multiple of pretrain.evaluate_every" in capsys.readouterr().err


def test_a_short_help_has_what_most_users_need_and_a_long_one_the_rest(capsys):
    def options(*arguments):
        assert main(["pds", *arguments]) == 0
        shown = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
        return {
            option
            for line in re.findall(r"^[│| ]*(--?\w.*)$", shown, re.M)
            for option in re.findall(r"--[\w.-]+", line)[:1]
        }

    brief, every, of_select = options("run", "--help"), options("run", "--help-all"), options("select", "--help")
    assert brief < every and len(brief) <= 25
    assert {f"--{name}" for name in cli.pds.BRIEF} <= brief
    assert not {f"--{name}" for name in cli.pds.WITHHELD} & every
    assert "--select.temperature" in of_select & every and "--pretrain.steps" not in of_select


def test_what_is_withheld_are_fields_of_the_config():
    for name in cli.pds.WITHHELD:
        stage, field = name.replace("-", "_").split(".")
        assert hasattr(getattr(PDSConfig(), stage), field), name


def test_a_config_file_and_a_method_give_the_values_of_options_not_given(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pmpjax.pds.pipeline.run", lambda *given: seen.append(given[0]) or pytest.fail())
    begun = dataclasses.replace(PRESETS["small"], source=("a", "b"), seeds=3)
    with open_run(tmp_path / "run", "pds", deciding(begun)):
        pass
    file = str(tmp_path / "run" / "config.json")
    for arguments in (
        ["--config", file],
        ["--config", file, "--seeds", "5", "--method", "paper"],
        ["--method", "paper"],
    ):
        with pytest.raises(pytest.fail.Exception):
            main(["pds", "run", *arguments])
    same, more, tiny = seen
    assert same == begun
    assert more == dataclasses.replace(with_method(begun, "paper"), seeds=5)
    assert (tiny.solve.inner_optimizer, tiny.solve.trajectory, tiny.select.repeat_by_rank) == ("sgd", "source", ())
    assert main(["pds", "run", "--config", file, "--preset", "tiny"]) == 2
    assert "--preset tiny" in capsys.readouterr().err
    (tmp_path / "broken.json").write_text('{"sed": 0}')
    assert main(["pds", "run", "--config", str(tmp_path / "broken.json")]) == 2
    assert "sed" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error():
    with subprocess.Popen(command("pds", "run", "--help"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_presets_of_a_comparison_and_of_single_stages(tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pmpjax.pds.pipeline.run", lambda *given: seen.append(given[:2]) or pytest.fail())
    monkeypatch.setattr("pmpjax.pds.run_stage", lambda *given: seen.append(given[:2]))
    with pytest.raises(pytest.fail.Exception):
        main(["pds", "compare", "--preset", "small", "--baselines", "dsir"])
    assert main(["pds", "fit", "--preset", "small", "--seeds", "3"]) == 0
    own = tmp_path / "own"
    begun = dataclasses.replace(PRESETS["small"], seeds=7)
    with open_run(own, "pds", deciding(begun)):
        pass
    assert main(["pds", "fit", "--out", str(own), "--preset", "None"]) == 0
    assert main(["pds", "fit", "--out", str(own)]) == 0
    assert main(["pds", "fit", "--out", str(own), "--preset", "tiny"]) == 0
    (compared, folder), (stage, other), (same, _), (again, _), (new, _) = seen
    assert compared == dataclasses.replace(PRESETS["small"], seeds=5, baselines=("dsir",))
    assert stage == dataclasses.replace(PRESETS["small"], seeds=3)
    assert [str(folder), str(other)] == ["runs/pds-compare-small", "runs/pds-run-small"]
    assert same == again == begun and new == PRESETS["tiny"]


def test_a_run_that_takes_stages_from_another_takes_its_options_too(tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pmpjax.pds.pipeline.run", lambda *given: seen.append(given) or pytest.fail())
    monkeypatch.setattr("pmpjax.pds.run_stage", lambda *given: seen.append(given))
    begun = dataclasses.replace(PRESETS["small"], source=("a", "b"))
    earlier, own = tmp_path / "earlier", tmp_path / "own"
    for folder, config in ((earlier, begun), (own, dataclasses.replace(begun, seeds=7))):
        with open_run(folder, "pds", deciding(config)):
            pass
    taken = ["--stages-from", str(earlier)]
    for arguments in (["run", "--seeds", "3"], ["compare"], ["run", "--preset", "tiny"]):
        with pytest.raises(pytest.fail.Exception):
            main(["pds", *arguments, *taken])
    assert main(["pds", "select", *taken]) == 0
    assert main(["pds", "select", "--out", str(own), *taken]) == 0
    more, compared, preset, stage, gone_on = (config for config, *_ in seen)
    assert more == dataclasses.replace(begun, seeds=3)
    assert compared.source == ("a", "b") and len(compared.baselines) == 4 and compared.seeds == 5
    assert preset == PRESETS["tiny"] and stage == begun and gone_on.seeds == 7
    assert all(given[-1] == earlier for given in seen)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for name, count, seed in (("train", 60, 0), ("heldout", 20, 1)):
        write_texts(folder / f"{name}.jsonl", 0, count, seed)
    return folder


def training(texts, *options):
    sizes = "--model.width 16 --model.layers 1 --model.heads 2 --model.key-value-heads 1 --model.hidden 32"
    run = "--length 16 --batch 8 --steps 20 --evaluate-every 10 --save-every 8 --optimizer.warmup-steps 5"
    corpus = ["--corpus.source", texts / "train.jsonl", "--corpus.heldout", texts / "heldout.jsonl"]
    return [*map(str, corpus), "--corpus.vocabulary", "300", *sizes.split(), *run.split(), *map(str, options)]


def test_train_says_what_it_measured_and_what_the_user_can_mend(texts, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", *training(texts, "--out", out)]) == 0
    shown = capsys.readouterr()
    assert "held-out bits per byte" in shown.out and "tokens per second" in shown.out
    assert "train: 20/20" in shown.err and "MFU" in shown.err
    assert json.loads((out / "metrics.json").read_text())["tokens_seen"] == 20 * 8 * 16
    capsys.readouterr()
    assert (
        main(["generate", "--checkpoint", str(out), "--prompt", "the gradient", "--tokens", "5", "--top-k", "3"]) == 0
    )
    assert capsys.readouterr().out.startswith("the gradient")
    assert main(["generate", "--checkpoint", str(tmp_path / "none"), "--prompt", "the"]) == 2
    assert "holds no model: config.json, tokenizer.json not found" in capsys.readouterr().err
    assert main(["generate", "--checkpoint", str(out), "--prompt", "the", "--top-p", "2"]) == 2
    assert "top_p 2.0" in capsys.readouterr().err
    for options, message in (
        (["--steps", "30", "--out", out], "steps: 20 before, 30 now"),
        (["--mesh.data", "3", "--out", tmp_path / "b"], "a mesh of data 3 x fsdp 1 x tensor 1 does not fit 1 devices"),
        (["--batch", "7", "--accumulate", "2"], "batch 7 is not a multiple of accumulate, 2"),
        (["--corpus.source", tmp_path / "none", "--out", tmp_path / "c"], "none does not exist"),
        (["--optimizer.learning-rate", "1e30", "--out", tmp_path / "d"], "lower the learning rate"),
    ):
        assert main(["train", *training(texts, *options)]) == 2
        err = capsys.readouterr().err
        assert message in err and "Traceback" not in err, err


def test_train_interrupted_saves_a_checkpoint_and_goes_on_from_there(texts, tmp_path):
    line = command("train", *training(texts, "--steps", 100_000, "--save-every", 100_000, "--out", tmp_path / "run"))
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = tmp_path / "run" / "train.partial" / "metrics" / "metrics.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.02)  # polls the other process
    os.kill(process.pid, signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on from there" in err and "Traceback" not in err, err
    (saved,) = (tmp_path / "run" / "train.partial" / "checkpoints").iterdir()
    assert int(saved.name) > 0
