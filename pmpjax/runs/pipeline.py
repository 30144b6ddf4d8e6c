"""A table of stages: run whole or one at a time, resumed, taken from other runs, and nested in a stage's folder."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from jax.sharding import Mesh

from pmpjax.runs.directory import HINT, Run, open_run
from pmpjax.runs.files import read_json
from pmpjax.runs.lock import RunError
from pmpjax.runs.progress import Bar, note, progress

Data = TypeVar("Data")


class Stage(NamedTuple):
    """A row of the table.

    inputs: earlier stages that it reads; their fingerprints are stored. decided: config -> the part of it that decides
    what the stage makes, stored too. build: fills the folder of the `View` it is given. wanted: config -> whether a run
    has this stage.
    """

    inputs: tuple[str, ...]
    decided: Callable[[Any], Any]
    build: Callable[[Any], Any]
    wanted: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class View:
    """One stage's view of a run; a system derives from it what else its stages read.

    Attributes:
        config: of the whole run.
        folder: to be filled.
        folders: of the stages before it, by name.
        seconds: wall time of those.
        name: of the stage.
        progress: (name, total) -> a bar within a `with` block.
    """

    config: Any
    folder: Path
    folders: Mapping[str, Path]
    seconds: Mapping[str, float]
    name: str = ""
    progress: Callable[..., AbstractContextManager[Bar]] = progress


@dataclass(frozen=True)
class Context(Generic[Data]):
    """What the function behind a stage works with, whatever run it is part of.

    Attributes:
        folder: to be filled; after a kill it holds what was there.
        data: what the stage reads, such as the prepared corpus.
        seed: of its random streams.
        bar: is moved on.
        mesh: the devices that share the work; None where there is one.
    """

    folder: Path
    data: Data
    seed: int
    bar: Bar
    mesh: Mesh | None = None


@dataclass(frozen=True)
class Pipeline:
    """A command's stages, in their order.

    Attributes:
        command: its name, which the manifest holds.
        table: all stages by name; each reads earlier ones.
        view: what a stage is given, from `View`'s arguments.
        deciding: config -> what decides the run's result, for the manifest.

    >>> import tempfile
    >>> from pmpjax.runs import read_json, write_json
    >>> def square(at): write_json(at.folder / "x.json", at.config["n"] ** 2)
    >>> def halve(at): write_json(at.folder / "x.json", read_json(at.folders["square"] / "x.json") / 2)
    >>> squares, halves = Stage((), lambda config: config, square), Stage(("square",), lambda _: None, halve)
    >>> with Pipeline("demo", {"square": squares, "halve": halves}).open({"n": 6}, tempfile.mkdtemp()) as running:
    ...     read_json(running.build_all()["halve"] / "x.json")
    18.0
    """

    command: str
    table: Mapping[str, Stage]
    view: Callable[..., View] = View
    deciding: Callable[[Any], Any] = lambda config: config

    def stages(self, config: Any) -> dict[str, Stage]:
        """Those that a run of this config has."""
        return {name: stage for name, stage in self.table.items() if stage.wanted(config)}

    @contextmanager
    def open(
        self,
        config: Any,
        out: Path | str,
        *,
        stages_from: Path | None = None,
        given: Mapping[str, Path] | None = None,
        hint: str = HINT,
    ) -> Iterator["Running"]:
        """The run directory `out`, new or to go on with, locked within the block.

        Args:
            stages_from: another run of this command, from which stages are taken where they are equal.
            given: folders of stages that are not in the table, by name.
            hint: what to do about a directory that was begun with another config.

        Raises:
            RunError: as `pmpjax.runs.open_run`; or `stages_from` is no run of this command.
        """
        if stages_from is not None:
            self._check_command(stages_from)
        with open_run(out, self.command, self.deciding(config), hint=hint) as run:
            yield self._running(config, run, given, stages_from)

    def inside(self, config: Any, folder: Path, given: Mapping[str, Path] | None = None) -> "Running":
        """The same in a folder of a stage that is being built: nested, under the lock of the run that has it."""
        return self._running(config, Run(folder, config), given, None)

    def _running(self, config: Any, run: Run, given: Mapping[str, Path] | None, stages_from: Path | None) -> "Running":
        return Running(self, config, run, self.stages(config), stages_from, dict(given or {}))

    def _check_command(self, other: Path) -> None:
        """Another command's stages may have the same names and be of other data."""
        hint = f"name the folder of an earlier run of `pmpjax {self.command}`"
        try:
            command = read_json(other / "manifest.json")["command"]
        except RunError as error:
            raise RunError(f"stages_from is {other}, which is no run directory ({error}); {hint}") from error
        except (KeyError, TypeError) as error:
            raise RunError(f"{other / 'manifest.json'} names no command, expected {self.command!r}; {hint}") from error
        if command != self.command:
            raise RunError(
                f"{other / 'manifest.json'} is of the command {command!r}, expected {self.command!r}; {hint}"
            )


@dataclass(frozen=True)
class Running:
    """A pipeline in a run directory, made by `Pipeline.open` or `Pipeline.inside`.

    `folders` has those of the stages that are whole here, and the given ones.
    """

    pipeline: Pipeline
    config: Any
    run: Run
    stages: Mapping[str, Stage]
    stages_from: Path | None
    folders: dict[str, Path] = field(default_factory=dict)

    def build_all(self) -> dict[str, Path]:
        """Every stage in its order, each resumed, left as it is where it is whole, or taken; returns their folders."""
        for name in self.stages:
            self._take(name)  # only now: whether a stage fits is known when all that it reads is made
            self.build(name)
        return self.folders

    def build_one(self, name: str) -> Path:
        """One stage, from those before it, which are taken where they can be but never built; returns its folder.

        Raises:
            RunError: a stage that this one goes back to is missing.
        """
        readers = self._readers(name)
        for each in self.stages:
            self._take(each)
        for earlier, reader in readers.items():
            if not (self.run.directory / earlier).exists():
                raise RunError(
                    f"{reader} reads what {earlier} makes, and {self.run.directory} has none; run "
                    f"`pmpjax {self.pipeline.command} {earlier} --out {self.run.directory}` first"
                )
            self.build(earlier)
        return self.build(name)

    def build(self, name: str) -> Path:
        """One stage from those in `folders`; at once where it is whole already."""
        stage = self.stages[name]
        self.folders[name] = self.run.stage(
            name,
            lambda folder: stage.build(self.view(folder, name)),
            config=stage.decided(self.config),
            inputs=self._inputs(name),
        )
        return self.folders[name]

    def view(self, folder: Path, name: str = "") -> Any:
        """What a stage that fills `folder` is given."""
        return self.pipeline.view(self.config, folder, dict(self.folders), dict(self.run.seconds), name)

    def _inputs(self, name: str) -> dict[str, Path]:
        """The folders that a stage reads, made yet or not: those given, and those of stages that this run has."""
        here = {other: self.run.directory / other for other in self.stages}
        folders = here | self.folders
        return {other: folders[other] for other in self.stages[name].inputs if other in folders}

    def _take(self, name: str) -> None:
        """Takes a stage that is not here yet, where the other run made it from what is here.

        One that reads a stage which is still to be made is left: it must not be taken for one without that input.
        """
        inputs = self._inputs(name)
        if self.stages_from is None or not all(folder.exists() for folder in inputs.values()):
            return
        if self.run.take(name, self.stages_from, config=self.stages[name].decided(self.config), inputs=inputs):
            note(name, f"taken from {self.stages_from}")

    def _readers(self, name: str) -> dict[str, str]:
        """The stages that `name` goes back to, in their order, each with one that reads it."""
        readers: dict[str, str] = {}
        for reader in reversed(list(self.stages)):
            if reader == name or reader in readers:
                readers = {other: reader for other in self.stages[reader].inputs if other in self.stages} | readers
        return {other: readers[other] for other in self.stages if other in readers}
