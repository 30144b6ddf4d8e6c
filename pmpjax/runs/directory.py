"""Run directories: one lock, one manifest, and stages that are whole or absent.

DIR/.lock                     held while a process works here (`pmpjax.runs.lock`)
DIR/manifest.json             command, config, seed, versions, created
DIR/config.json               the config alone
DIR/<stage>.partial/          what a stage has written so far; kept after a kill, for the stage to go on from
DIR/<stage>/manifest.json     config, fingerprints of inputs, files with sizes and sha256, seconds, fingerprint
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pmpjax.runs.files import flush, plain, read_json, sha256, write_json
from pmpjax.runs.interrupt import check
from pmpjax.runs.lock import RunError, lock

_MANIFEST = "manifest.json"
CONFIG = "config.json"
_STARTED = ".started.json"  # in a partial folder: for which config and inputs it was begun
HINT = "give the old values to go on with it, choose another folder, or delete this one to begin again"


@dataclass(frozen=True)
class Run:
    """An open run directory, made by `open_run`; `seconds` has the wall time of each stage, of skipped ones too."""

    directory: Path
    config: Any
    seconds: dict[str, float] = field(default_factory=dict)

    def stage(
        self,
        name: str,
        build: Callable[[Path], Any],
        *,
        config: Any = None,
        inputs: Mapping[str, Path | str] | None = None,
    ) -> Path:
        """Returns DIR/<name>, after `build(folder)` has filled it, or at once when it is complete already.

        `build` works in DIR/<name>.partial, where after a kill it finds what it left and may go on from there; the
        folder gets its manifest and its name only when `build` returns. `inputs` are files or folders (earlier stages)
        that the stage reads: their fingerprints are stored and compared.

        Raises `RunError` when a stored config or input differs (naming the fields, old and new), or when a file of a
        complete stage is missing or has another size.
        """
        if not name or name != Path(name).name or name.startswith("."):
            raise RunError(f"a stage's name is a plain folder name, found {name!r}")
        folder, partial = self.directory / name, self.directory / f"{name}.partial"
        wanted = _deciding(config, inputs)
        if folder.exists():
            stored = read_json(folder / _MANIFEST)
            _refuse_changes(
                folder, stored, wanted, hint=f"delete {folder} (and what was built from it) to build it again"
            )
            _check_files(folder, stored)
            self.seconds[name] = stored["seconds"]
            return folder

        started = partial / _STARTED
        spent = 0.0
        if started.exists():
            stored = read_json(started)
            _refuse_changes(partial, stored, wanted, hint=f"delete {partial} to begin it again")
            spent = stored["seconds"]
        partial.mkdir(parents=True, exist_ok=True)
        write_json(started, {**wanted, "seconds": spent})

        begin = time.perf_counter()
        try:
            check()
            build(partial)
            check()
        except BaseException:  # Ctrl-C too: the time spent so far belongs to the stage
            write_json(started, {**wanted, "seconds": spent + time.perf_counter() - begin})
            raise
        seconds = spent + time.perf_counter() - begin

        for leftover in partial.rglob(".*.tmp*"):  # half-written files of a killed process
            leftover.unlink()
        content = {**wanted, "files": _list_files(partial)}
        manifest = {**content, "seconds": seconds, "fingerprint": _digest(content), "versions": versions()}
        write_json(partial / _MANIFEST, manifest)
        os.rename(partial, folder)
        (folder / _STARTED).unlink()
        flush(self.directory)
        self.seconds[name] = seconds
        return folder

    def take(
        self,
        name: str,
        earlier: Path,
        *,
        config: Any = None,
        inputs: Mapping[str, Path | str] | None = None,
    ) -> bool:
        """Takes DIR/<name> from the run directory `earlier`, where it is whole and has equal config and inputs.

        Returns whether it was taken: not where the stage has been begun here, or is missing or differs there. Files are
        linked, as those of a whole stage never change, and copied where the two folders lie on different file systems.
        Seconds and versions stay those of when it was built.

        Raises `RunError` when a file of the earlier stage is missing or has another size.
        """
        source, folder = earlier / name, self.directory / name
        if folder.exists() or (self.directory / f"{name}.partial").exists() or not source.exists():
            return False
        stored = read_json(source / _MANIFEST)
        if any(stored.get(key) != value for key, value in _deciding(config, inputs).items()):
            return False
        _check_files(source, stored)
        temporary = self.directory / f".{name}.taken"
        if temporary.exists():  # of a process that was killed
            shutil.rmtree(temporary)
        shutil.copytree(source, temporary, copy_function=_link)
        for path in (*temporary.rglob("*"), temporary):
            flush(path)
        os.rename(temporary, folder)
        flush(self.directory)
        return True


@contextmanager
def open_run(directory: Path | str, command: str, config: Any, *, hint: str = HINT) -> Iterator[Run]:
    """Opens DIR for one process, new or to go on with; writes its manifest.

    `config` is a frozen dataclass (or a mapping) with everything that decides the result, and nothing else.
    Raises `RunError` when another process holds the directory (naming its pid), when the directory holds something that
    is not a run, or when it was begun by another command or config (naming the fields, with old and new values, and
    `hint`, what can be done).

    >>> import tempfile
    >>> with open_run(tempfile.mkdtemp(), "demo", {"seed": 0}) as run:
    ...     path = run.stage("one", lambda folder: write_json(folder / "x.json", 1))
    >>> sorted(file.name for file in path.iterdir())
    ['manifest.json', 'x.json']
    """
    directory = Path(directory).absolute()
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory} is a file; choose a folder for the run")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _MANIFEST
    if not path.exists():
        foreign = [entry.name for entry in sorted(directory.iterdir()) if not entry.name.startswith(".")]
        if foreign:
            raise RunError(
                f"{directory} is not a run directory: it has {foreign[0]!r} but no {_MANIFEST}; choose an empty folder"
            )
    with lock(directory):
        wanted = {"command": command, "config": plain(config)}
        if path.exists():
            _refuse_changes(directory, read_json(path), wanted, hint=hint)
        else:
            seed = wanted["config"].get("seed") if isinstance(wanted["config"], dict) else None
            created = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(directory / CONFIG, wanted["config"])  # `--config FILE` begins the same run again elsewhere
            write_json(path, {**wanted, "seed": seed, "versions": versions(), "created": created})
        yield Run(directory, config)


def versions() -> dict[str, str]:
    """Versions of what decides a run's numbers: Python, the platform, this package and the numerical ones below it.

    >>> sorted(versions())[:3]
    ['flax', 'grain', 'jax']
    """
    names = ("pmpjax", "jax", "jaxlib", "optax", "flax", "numpy", "scipy", "grain", "tokenizers")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def fingerprint(path: Path | str) -> str:
    """A digest of what a file or folder holds; of a whole stage the one in its manifest, which costs no reading.

    Raises `RunError` where there is nothing.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_json(folder / "x.json", 1)
    >>> before = fingerprint(folder)
    >>> write_json(folder / "x.json", 2)
    >>> before == fingerprint(folder)
    False
    """
    path = Path(path)
    if (path / _MANIFEST).exists():
        manifest = read_json(path / _MANIFEST)
        if "fingerprint" in manifest:
            return manifest["fingerprint"]
    if path.is_dir():
        return _digest(_list_files(path))
    if path.is_file():
        return sha256(path)
    raise RunError(f"input {path} does not exist; name a file or folder that does")


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {key: item for name, part in value.items() for key, item in _flatten(part, f"{prefix}{name}.").items()}
    return {prefix.removesuffix("."): value}


def _refuse_changes(where: Path, stored: dict[str, Any], wanted: dict[str, Any], hint: str) -> None:
    old = _flatten({key: stored.get(key) for key in wanted})
    new = _flatten(wanted)
    absent = "(absent)"
    changed = [
        f"{key.removeprefix('config.')}: {json.dumps(old[key]) if key in old else absent} before, "
        f"{json.dumps(new[key]) if key in new else absent} now"
        for key in sorted(old.keys() | new.keys())
        if (key in old) != (key in new) or old.get(key) != new.get(key)
    ]
    if changed:
        raise RunError(f"{where} was begun with other settings ({'; '.join(changed)}); {hint}")


def _deciding(config: Any, inputs: Mapping[str, Path | str] | None) -> dict[str, Any]:
    return {
        "config": plain({} if config is None else config),
        "inputs": {key: fingerprint(path) for key, path in (inputs or {}).items()},
    }


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _list_files(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path not in (folder / _MANIFEST, folder / _STARTED)
    )
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files
    }


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["size"]:
            state = "is missing" if found is None else f"has {found} bytes"
            raise RunError(
                f"{path} {state}, its manifest says {entry['size']} bytes; delete {folder} to build it again"
            )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
