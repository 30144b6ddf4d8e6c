"""The files of the standard library and of a constant list of packages: what pmpjax needed to run in autumn 2026."""

import os
import platform
import re
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

STANDARD_LIBRARY = "python"

PACKAGES = tuple(
    """
    absl-py aiofiles anyio array-record attrs certifi charset-normalizer click cloudpickle contourpy cycler
    dm-tree docstring-parser einops etils filelock flax fonttools fsspec googleapis-common-protos grain h11
    hf-xet httpcore2 httpx2 huggingface-hub humanize idna immutabledict jax jaxlib jaxtyping kiwisolver
    markdown-it-py matplotlib mdurl ml-dtypes msgpack numpy opt-einsum optax orbax-checkpoint packaging pillow
    portpicker prometheus-client promise protobuf psutil pyarrow pygments pyparsing python-dateutil pyyaml
    requests rich safetensors scipy simple-parsing simplejson six tensorboardx tensorflow-datasets
    tensorflow-metadata tensorstore termcolor tokenizers toml tqdm treescope truststore typeguard
    typing-extensions tyro tzdata urllib3 uvloop wadler-lindig wrapt zipp
    """.split()
)
"""Names in normal form, a constant: a new dependency, an extra or a busy Colab image must not change the corpus."""

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


def installed_files() -> tuple[dict[str, str], list[InstalledFile]]:
    """Versions by package, and all files of the standard library and of `PACKAGES`, in a fixed order.

    A package of the list that is not installed is left out: a later version of another one may do without it.
    """
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
    for package in PACKAGES:
        try:
            distribution = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            continue
        versions[package] = distribution.version
        for entry in distribution.files or []:
            if ".." not in entry.parts and entry.suffix != ".pyc":
                files.append(InstalledFile(package, entry.as_posix(), Path(str(distribution.locate_file(entry)))))
    return versions, sorted(files)
