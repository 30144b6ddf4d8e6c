import gzip
import subprocess
from pathlib import Path

import pytest

from pmpjax.data.documents import SourceError
from pmpjax.evaluation.tasks import debian as module
from pmpjax.evaluation.tasks.debian import LISTS, READER, debian_sections, packages

ENTRY = """Package: {name}
Version: 1.0
Description: {description}
Depends: libc6
Tag: game::strategy,
 uitoolkit::sdl
Section: {section}
Filename: pool/{name}.deb
"""


def entries(sections=("games", "contrib/net", "libs"), count=10):
    return "\n".join(
        ENTRY.format(name=f"{section}-{i}", description=f"does {section} thing {i}", section=section)
        for section in sections
        for i in range(count)
    )


def test_plain_and_compressed_lists_are_joined_by_package(tmp_path):
    (tmp_path / "deb_main_binary-amd64_Packages").write_text(entries() + "\nPackage: virtual\nSection: libs\n")
    again = entries(("libs", "science")).replace("does libs", "newly does libs")
    (tmp_path / "deb_security_Packages.gz").write_bytes(gzip.compress(again.encode()))
    (tmp_path / "deb_InRelease").write_text("no list")
    (tmp_path / "deb_main_i18n_Translation-en").write_text("no list")
    task = debian_sections(lists=tmp_path)
    assert task.classes == ("games", "libs", "net", "science")
    assert len(task.texts) == 40 and "does contrib/net thing 3" in task.texts
    assert not any("newly" in text for text in task.texts)
    assert task.source == "deb_main_binary-amd64_Packages, deb_security_Packages.gz"


def test_other_formats_are_read_by_apt(tmp_path, monkeypatch):
    helper = tmp_path / "helper"
    helper.write_text('#!/bin/sh\n[ "$1" = cat-file ] && cat "$2"\n')
    helper.chmod(0o755)
    monkeypatch.setattr(module, "READER", str(helper))
    file = tmp_path / "a; name_Packages.lz4"  # an argument list: no shell reads the name
    file.write_text(entries(("games",), 1))
    assert list(packages(file)) == [("games-0", "games", "does games thing 0")]


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    with pytest.raises(SourceError, match=r"has no package lists; run `apt-get update`"):
        debian_sections(lists=tmp_path)
    file = tmp_path / "deb_Packages.gz"
    file.write_bytes(gzip.compress(entries().encode())[:-20])
    with pytest.raises(SourceError, match=r"deb_Packages\.gz cannot be read"):
        debian_sections(lists=tmp_path)
    file.write_bytes(gzip.compress(b""))
    with pytest.raises(SourceError, match="lists no package with section and description"):
        debian_sections(lists=tmp_path)
    file = file.rename(tmp_path / "deb_Packages.lz4")
    monkeypatch.setattr(module, "READER", str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match=r"compressed lists need .*nothing of Debian's package apt"):
        debian_sections(lists=tmp_path)
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho broken frame >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setattr(module, "READER", str(failing))
    with pytest.raises(SourceError, match="broken frame"):
        debian_sections(lists=tmp_path)


def machine_lists():
    return [path for path in LISTS.glob("*_Packages*") if path.suffix in ("", ".gz") or Path(READER).exists()]


@pytest.mark.skipif(not machine_lists(), reason="this machine has no Debian package lists")
def test_the_lists_of_this_machine():
    """Against dpkg's own reading of one entry: any package that is listed."""
    found = {name: (section, text) for path in machine_lists() for name, section, text in packages(path)}
    assert len(found) > 1000
    shown = subprocess.run(["apt-cache", "show", "--no-all-versions", "bash"], capture_output=True, text=True)
    if shown.returncode == 0 and "bash" in found:
        assert f"Section: {found['bash'][0]}\n" in shown.stdout and found["bash"][1] in shown.stdout
