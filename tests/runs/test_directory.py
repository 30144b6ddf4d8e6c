"""A run directory is whole or resumable, belongs to one process, and refuses what does not fit it."""

import shutil
import time
from dataclasses import dataclass, replace

import pytest

from pmpjax.runs import RunError, open_run, read_json, write_json
from tests.killing import finish, kill, start


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Config:
    seed: int = 3
    inner: Inner = Inner()


# Writes one file a tenth of a second into its stage, going on from those that it finds, and marks each start.
SLOW_STAGE = """
import sys, time
from pathlib import Path
from pmpjax.runs import open_run, write_text

def build(folder):
    with open(sys.argv[1] + ".starts", "a") as starts:
        starts.write("x")
    for part in range(int(sys.argv[2])):
        if not (folder / f"{part}.txt").exists():
            time.sleep(0.1)  # work that can be killed in the middle
            write_text(folder / f"{part}.txt", str(part))

with open_run(Path(sys.argv[1]), "test", {"seed": 0}) as run:
    run.stage("slow", build)
"""


def begin(directory, parts):
    return start("-c", SLOW_STAGE, directory, parts)


def test_a_killed_stage_goes_on_from_what_it_left(tmp_path):
    directory = tmp_path / "run"
    kill(begin(directory, 20), (directory / "slow.partial" / "2.txt").exists)
    assert not (directory / "slow").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (directory / "slow.partial").glob("*.txt")}
    assert 3 <= len(before) < 20

    assert finish(begin(directory, 20)) == ("", "")
    files = {path.name: path.stat().st_mtime_ns for path in (directory / "slow").glob("*.txt")}
    assert len(files) == 20 and all(files[name] == stamp for name, stamp in before.items())
    assert not (directory / "slow.partial").exists()
    manifest = read_json(directory / "slow" / "manifest.json")
    assert set(manifest["files"]) == set(files), "no temporary file is listed as a result"
    assert (tmp_path / "run.starts").read_text() == "xx"


def test_a_second_process_is_refused_by_the_pid_of_the_first(tmp_path):
    process = begin(tmp_path / "run", 600)

    def refused():
        if not (tmp_path / "run" / "slow.partial" / "0.txt").exists():
            return False
        with pytest.raises(RunError, match=rf"process {process.pid} is working in .*run"):
            with open_run(tmp_path / "run", "test", {"seed": 0}):
                pass
        return True

    kill(process, refused)
    with open_run(tmp_path / "run", "test", {"seed": 0}):
        pass  # the kernel let go of the lock


def test_a_complete_stage_is_skipped_and_its_seconds_read_back(tmp_path):
    calls = []
    for _ in range(2):
        with open_run(tmp_path / "run", "test", Config()) as run:
            # The sleep is work whose seconds are known from below.
            run.stage("one", lambda folder: (calls.append(1), time.sleep(0.05), write_json(folder / "x.json", 1)))
            assert run.seconds["one"] >= 0.05
    assert calls == [1]
    manifest = read_json(tmp_path / "run" / "manifest.json")
    assert manifest["seed"] == 3 and manifest["config"]["inner"] == {"rate": 0.1} and "jax" in manifest["versions"]


def test_a_changed_config_is_refused_with_old_and_new_values(tmp_path):
    with open_run(tmp_path, "test", Config()) as run:
        run.stage("one", lambda folder: None, config={"size": 3})
    with pytest.raises(RunError, match=r"inner\.rate: 0\.1 before, 0\.2 now"):
        with open_run(tmp_path, "test", replace(Config(), inner=Inner(0.2))):
            pass
    with pytest.raises(RunError, match=r'command: "test" before, "other" now'):
        with open_run(tmp_path, "other", Config()):
            pass
    with open_run(tmp_path, "test", Config()) as run:
        with pytest.raises(RunError, match=r"size: 3 before, 4 now"):
            run.stage("one", lambda folder: None, config={"size": 4})
        with pytest.raises(RunError, match=r"more: \(absent\) before, null now"):
            run.stage("one", lambda folder: None, config={"size": 3, "more": None})


def test_a_changed_config_of_a_partial_stage_is_refused(tmp_path):
    def interrupted(folder):
        raise KeyboardInterrupt

    with open_run(tmp_path, "test", Config()) as run:
        with pytest.raises(KeyboardInterrupt):
            run.stage("one", interrupted, config={"size": 3})
        with pytest.raises(RunError, match=r"size: 3 before, 4 now"):
            run.stage("one", lambda folder: None, config={"size": 4})
        assert run.stage("one", lambda folder: None, config={"size": 3}).is_dir()


def test_a_stage_knows_its_inputs_by_content_not_by_time(tmp_path):
    def run_once(content, delete=False):
        with open_run(tmp_path, "test", Config()) as run:
            if delete:
                for file in (tmp_path / "one").iterdir():
                    file.unlink()
                (tmp_path / "one").rmdir()
            one = run.stage("one", lambda folder: write_json(folder / "x.json", content))
            return run.stage("two", lambda folder: None, inputs={"one": one})

    run_once(1)
    run_once(1, delete=True)  # built again, same content: still fits
    with pytest.raises(RunError, match=r"inputs\.one"):
        run_once(2, delete=True)


def build(directory, content, rate=0.1):
    """A run of two stages, of which the second reads the first; returns the folder."""
    with open_run(directory, "test", {"content": content, "rate": rate}) as run:
        one = run.stage("one", lambda folder: write_json(folder / "deep" / "x.json", content), config=content)
        run.stage("two", lambda folder: write_json(folder / "y.json", rate), config={"rate": rate}, inputs={"one": one})
    return directory


def take(directory, earlier, content, rate=0.1):
    with open_run(directory, "test", {"content": content, "rate": rate}) as run:
        taken = [run.take("one", earlier, config=content)]
        inputs = {"one": directory / "one"} if taken[0] else {}
        return [*taken, run.take("two", earlier, config={"rate": rate}, inputs=inputs)]


def test_stages_of_another_run_are_taken_where_config_and_inputs_are_equal(tmp_path):
    earlier = build(tmp_path / "earlier", 1)
    assert take(tmp_path / "same", earlier, 1) == [True, True]
    assert take(tmp_path / "rate", earlier, 1, rate=0.2) == [True, False]
    assert take(tmp_path / "content", earlier, 2) == [False, False]
    linked = tmp_path / "same" / "one" / "deep" / "x.json"
    assert linked.samefile(earlier / "one" / "deep" / "x.json")
    build(tmp_path / "same", 1)  # whole by the manifests: nothing is refused, nothing built
    assert linked.samefile(earlier / "one" / "deep" / "x.json")

    other = build(tmp_path / "other", 2)
    with open_run(tmp_path / "rate", "test", {"content": 1, "rate": 0.2}) as run:
        assert not run.take("one", other, config=2), "what is here is never replaced"
        assert not run.take("two", other, config={"rate": 0.1}, inputs={"one": run.directory / "one"})
        (run.directory / "two.partial").mkdir()
        assert not run.take("two", earlier, config={"rate": 0.1}, inputs={"one": run.directory / "one"})


def test_a_stage_is_taken_whole_over_file_systems_and_after_a_kill(tmp_path, monkeypatch):
    earlier = build(tmp_path / "earlier", 1)

    def refuse(*_):
        raise OSError("another device")

    monkeypatch.setattr("pmpjax.runs.directory.os.link", refuse)
    run = build(tmp_path / "run", 1)
    shutil.rmtree(run / "one")
    shutil.rmtree(run / "two")
    (run / ".one.taken").mkdir()
    (run / ".one.taken" / "half.json").write_text("[1,")  # what a killed process left
    assert take(run, earlier, 1) == [True, True]
    copy, original = (folder / "one" / "deep" / "x.json" for folder in (run, earlier))
    assert copy.read_bytes() == original.read_bytes() and not copy.samefile(original)
    assert sorted(path.name for path in (run / "one").iterdir()) == ["deep", "manifest.json"]
    original.write_text("123")
    with pytest.raises(RunError, match=r"earlier/one/deep/x\.json has 3 bytes"):
        take(tmp_path / "again", earlier, 1)


def test_a_damaged_stage_is_named(tmp_path):
    with open_run(tmp_path, "test", Config()) as run:
        one = run.stage("one", lambda folder: write_json(folder / "x.json", 12345))
        (one / "x.json").write_text("1")
        with pytest.raises(RunError, match=r"x\.json has 1 bytes, its manifest says 6 bytes; delete"):
            run.stage("one", lambda folder: None)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"has 'thesis\.tex' but no manifest\.json"):
        with open_run(tmp_path, "test", Config()):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
