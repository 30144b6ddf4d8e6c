"""Short descriptions of Debian packages -> the archive's section, from the machine's own package lists."""

import gzip
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pmpjax.data.documents import SourceError
from pmpjax.evaluation.tasks.make import Sizes, make_task
from pmpjax.evaluation.tasks.task import Task
from pmpjax.runs.errors import first_line

LISTS = Path("/var/lib/apt/lists")
READER = "/usr/lib/apt/apt-helper"
_NAME = re.compile(r".*_Packages(\.(gz|lz4|xz|zst|bz2|lzma))?")
_FIELD = re.compile(r"^(Package|Section|Description): *(.*)$", re.MULTILINE)


def debian_sections(*, seed: int = 0, sizes: Sizes = Sizes(classes=16), lists: Path = LISTS) -> Task:
    """Short descriptions of packages -> section (games, libs, python, science, ...).

    "Real-time strategy game of ancient warfare" -> games. A component before the section ("contrib/net") is dropped.
    The lists are those of the machine: another release gives another task.

    Raises:
        SourceError: no package lists, or lists that cannot be read.
    """
    files = sorted(path for path in lists.glob("*_Packages*") if _NAME.fullmatch(path.name))
    if not files:
        raise SourceError(
            f"{lists.as_posix()} has no package lists; run `apt-get update` on a Debian machine, or choose another task"
        )
    seen: set[str] = set()
    pairs = []
    for file in files:
        for package, section, description in packages(file):
            if package not in seen:  # the lists of security and updates name packages again
                seen.add(package)
                pairs.append((description, section))
    if not pairs:
        raise SourceError(f"{files[0].as_posix()} lists no package with section and description; run `apt-get update`")
    return make_task("debian-sections", pairs, seed=seed, sizes=sizes, source=", ".join(file.name for file in files))


def packages(file: Path) -> Iterator[tuple[str, str, str]]:
    """(package, section, short description) of the entries of a package list that have all three."""
    for entry in _content(file).split("\n\n"):
        fields = dict(_FIELD.findall(entry))
        if len(fields) == 3 and fields["Description"].strip():
            yield fields["Package"], fields["Section"].rpartition("/")[2], fields["Description"].strip()


def _content(file: Path) -> str:
    """The text of a list. Formats that Python's standard library may lack are read by apt's own helper."""
    try:
        if file.suffix == ".gz":
            data = gzip.decompress(file.read_bytes())
        elif file.suffix == "":
            data = file.read_bytes()
        else:
            data = subprocess.run([READER, "cat-file", str(file)], check=True, capture_output=True).stdout
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode("utf-8", "replace").strip().splitlines()[:1] or ["no reason given"]
        raise SourceError(f"{file.as_posix()} cannot be read ({reason[0]}); run `apt-get update`") from error
    except (OSError, EOFError) as error:
        raise SourceError(
            f"{file.as_posix()} cannot be read ({first_line(error)}); compressed lists need {READER} of Debian's "
            "package apt"
        ) from error
    return data.decode("utf-8", "replace")
