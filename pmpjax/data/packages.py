"""The files of the standard library and of the packages that pmpjax needs to run."""

import os
import platform
import re
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from pmpjax.data.documents import SourceError

ROOT = "pmpjax"
STANDARD_LIBRARY = "python"

# Linux distributions ship these parts of the standard library apart or not at all; the corpus must not depend on it.
_SPLIT_OFF = ("test", "idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip", "distutils", "site-packages")
_SPLIT_OFF += ("dist-packages", "pydoc_data")
# Written by whoever built or packaged the interpreter, not by its authors.
_LOCAL = ("_sysconfigdata", "sitecustomize")


class InstalledFile(NamedTuple):
    """A file of an installed package: package name in normal form, path relative to the package's root, where it is."""

    package: str
    name: str
    path: Path


def normal_name(name: str) -> str:
    """A distribution's name as the packaging standard compares it.

    >>> normal_name("Array_Record")
    'array-record'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def runtime_closure(root: str = ROOT) -> dict[str, metadata.Distribution]:
    """The installed distributions that `root` needs to run, by normal name, sorted, without `root` itself.

    Requirements are followed with their markers evaluated on this machine and with the extras that they ask for; the
    extras of `root` are not followed, so that tools for tests and whatever else is installed change nothing.
    Raises `SourceError` when `root` is not installed; requirements that are not installed are left out.
    """
    try:
        metadata.distribution(root)
    except metadata.PackageNotFoundError as error:
        raise SourceError(f"{root} is not installed as a package, so its closure is unknown; pip install it") from error
    found: dict[str, metadata.Distribution] = {}
    visited: set[tuple[str, frozenset[str]]] = set()
    pending = [(root, frozenset[str]())]
    while pending:
        name, extras = pending.pop()
        key = normal_name(name)
        if (key, extras) in visited:
            continue
        visited.add((key, extras))
        try:
            found[key] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for line in found[key].requires or []:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                pending.append((requirement.name, frozenset(requirement.extras)))
    return {name: found[name] for name in sorted(found) if name != normal_name(root)}


def installed_files() -> tuple[dict[str, str], list[InstalledFile]]:
    """Versions by package, and all files of the standard library and of the closure, in a fixed order."""
    versions = {STANDARD_LIBRARY: platform.python_version()}
    library = Path(sysconfig.get_path("stdlib"))
    files = []
    for folder, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in (*_SPLIT_OFF, "__pycache__") and "config-" not in name]
        files += [
            InstalledFile(STANDARD_LIBRARY, path.relative_to(library).as_posix(), path)
            for path in (Path(folder, name) for name in names)
            if not path.name.startswith(_LOCAL)
        ]
    for package, distribution in runtime_closure().items():
        versions[package] = distribution.version
        for entry in distribution.files or []:
            if ".." not in entry.parts and entry.suffix != ".pyc":
                files.append(InstalledFile(package, entry.as_posix(), Path(str(distribution.locate_file(entry)))))
    return versions, sorted(files)
