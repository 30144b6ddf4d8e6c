"""A table of stages: whole, one at a time, after a kill, from another run, and inside a stage."""

import pytest

from pmpjax.runs import RunError, open_run, read_json, write_json
from pmpjax.runs.pipeline import Context, Pipeline, Stage, View
from pmpjax.runs.progress import within
from tests.corpora import Recorder


def made(at):
    """Each stage adds the numbers that it reads and its own setting."""
    total = sum(read_json(folder / "x.json") for name, folder in at.folders.items() if name in TABLE[at.name].inputs)
    BUILT.append(at.name)
    write_json(at.folder / "x.json", total + at.config.get(at.name, 0))


BUILT = []
TABLE = {
    "one": Stage((), lambda config: config["one"], made),
    "two": Stage(("one",), lambda config: config["two"], made),
    "side": Stage(("one",), lambda config: config["side"], made, lambda config: "side" in config),
    "three": Stage(("two", "side"), lambda config: None, made),
}
PIPELINE = Pipeline("demo", TABLE)
CONFIG = {"one": 1, "two": 10}


@pytest.fixture(autouse=True)
def nothing_built_yet():
    BUILT.clear()


def total(config, out, **options):
    with PIPELINE.open(config, out, **options) as running:
        return read_json(running.build_all()["three"] / "x.json")


def test_all_stages_are_built_once_in_their_order(tmp_path):
    assert total(CONFIG, tmp_path / "run") == 11 and BUILT == ["one", "two", "three"]
    assert total(CONFIG, tmp_path / "run") == 11 and BUILT == ["one", "two", "three"]
    assert total({**CONFIG, "side": 100}, tmp_path / "other") == 112
    assert BUILT[3:] == ["one", "two", "side", "three"]
    with pytest.raises(RunError, match=r"two: 10 before, 20 now.*; ask me"):
        total({"one": 1, "two": 20}, tmp_path / "run", hint="ask me")


def test_one_stage_takes_nothing_for_granted(tmp_path):
    out = tmp_path / "run"
    with PIPELINE.open(CONFIG, out) as running:
        with pytest.raises(RunError, match=r"three reads what two makes.*; run `pmpjax demo two --out"):
            running.build("one")
            running.build_one("three")
        assert running.build_one("two") == out / "two" and BUILT == ["one", "two"]
    with PIPELINE.open(CONFIG, out) as running:
        assert read_json(running.build_one("three") / "x.json") == 11 and BUILT == ["one", "two", "three"]


def test_what_is_equal_is_taken_from_another_run_and_what_reads_something_else_is_built(tmp_path, capsys):
    total(CONFIG, tmp_path / "before")
    BUILT.clear()
    assert total({**CONFIG, "side": 100}, tmp_path / "run", stages_from=tmp_path / "before") == 112
    assert BUILT == ["side", "three"] and f"two: taken from {tmp_path / 'before'}" in capsys.readouterr().err
    with PIPELINE.open(CONFIG, tmp_path / "third", stages_from=tmp_path / "before") as running:
        running.build_one("three")
    assert BUILT == ["side", "three"]


def test_stages_are_taken_from_a_run_of_the_same_command_alone(tmp_path):
    for name, content, found in (
        ("empty", None, "no run directory"),
        ("nameless", {}, "names no command"),
        ("foreign", {"command": "law"}, "is of the command 'law', expected 'demo'"),
    ):
        other = tmp_path / name
        other.mkdir()
        if content is not None:
            write_json(other / "manifest.json", content)
        with pytest.raises(RunError, match=found), PIPELINE.open(CONFIG, tmp_path / "run", stages_from=other):
            pass
    assert not (tmp_path / "run").exists()


def test_a_folder_that_another_run_made_is_an_input_like_any_other(tmp_path):
    total(CONFIG, tmp_path / "before")
    part = Pipeline("part", {"two": TABLE["two"]})
    for expected in (11, 21):  # another content is another input
        with part.open(CONFIG, tmp_path / str(expected), given={"one": tmp_path / "before" / "one"}) as running:
            assert read_json(running.build_all()["two"] / "x.json") == expected
            manifest = read_json(tmp_path / str(expected) / "two" / "manifest.json")
        assert list(manifest["inputs"]) == ["one"]
        total({"one": 11, "two": 10}, tmp_path / "again")
        (tmp_path / "before" / "one").rename(tmp_path / f"was-{expected}")
        (tmp_path / "again" / "one").rename(tmp_path / "before" / "one")


def test_a_pipeline_inside_a_stage_goes_on_after_a_kill(tmp_path):
    bar, killed = Recorder(), []

    def once_killed(at):
        if not killed:
            killed.append(at.name)
            raise KeyboardInterrupt
        with at.progress(at.name, 5) as own:
            own.update(5, loss=1.5)
        made(at)

    table = {**TABLE, "two": TABLE["two"]._replace(build=once_killed)}

    def view(*arguments):
        return View(*arguments, progress=within(bar))

    def outer(folder):
        running = Pipeline("demo", table, view).inside(CONFIG, folder / "inner")
        write_json(folder / "sum.json", read_json(running.build_all()["three"] / "x.json"))

    for _ in range(2):
        with open_run(tmp_path / "run", "outer", {}) as run:
            if not killed:
                with pytest.raises(KeyboardInterrupt):
                    run.stage("outer", outer)
            else:
                folder = run.stage("outer", outer)
    assert BUILT == ["one", "two", "three"] and read_json(folder / "sum.json") == 11
    assert bar.done == 0 and bar.fields == {"loss": 1.5}, "an inner stage shows its numbers in the outer one's bar"


def test_a_stage_sees_the_config_the_folders_and_the_seconds_before_it(tmp_path):
    seen = []
    table = {"one": TABLE["one"], "two": TABLE["two"]._replace(build=seen.append)}
    with Pipeline("demo", table).open(CONFIG, tmp_path / "run") as running:
        running.build_all()
    (view,) = seen
    assert view.config == CONFIG and view.name == "two" and view.folder.name == "two.partial"
    assert view.folders == {"one": tmp_path / "run" / "one"} and view.seconds.keys() == {"one"}
    context = Context(view.folder, {"rows": 3}, 7, Recorder())
    assert context.mesh is None and context.data["rows"] == 3
