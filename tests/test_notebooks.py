"""Each notebook is its script with the outputs of a full run; its first cell installs the clone around it on Colab, and
the packages of pretrained models where it needs them and they are missing."""

import importlib.machinery
import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from pmpjax.models.packages import INSTALL, PACKAGES
from tests.notebooks import FOLDER, cells_of, kept

NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.py"))
OF_MODELS = ("contexts", "prototypes")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_is_its_script_and_shows_what_it_printed_and_drew(name):
    sources, outputs = kept(name)
    assert sources == [text for _, text in cells_of(name)], "run `python -m tests.notebooks` again"
    kinds = [kind for kind, _ in cells_of(name)]
    assert kinds.count("sizes") == 1
    code = [text for kind, text in cells_of(name) if kind != "markdown"]
    for text, shown in zip(code, outputs, strict=True):
        assert bool(shown) == ("print(" in text or text.splitlines()[-1].startswith("draw_")), text
    assert any("image/png" in one.get("data", {}) for shown in outputs for one in shown)


@pytest.fixture
def run(monkeypatch):
    """Runs the first code cell, with this text replaced, and gives the commands that it ran."""
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))

    def cell(name, *, installed=True, **replaced):
        find = importlib.util.find_spec
        of_models = {package: importlib.machinery.ModuleSpec(package, None) for package, _ in PACKAGES.values()}
        held = of_models if installed else dict.fromkeys(of_models)
        text = next(text for kind, text in cells_of(name) if kind == "code")
        for old, new in replaced.items():
            assert f'{old} = ""' in text
            text = text.replace(f'{old} = ""', f"{old} = {new!r}")
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: held[name] if name in held else find(name))
            exec(compile(text, name, "exec"), {})
        return commands

    return cell


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_elsewhere_nothing_is_installed(name, run, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    assert run(name) == []


@pytest.mark.parametrize("name", OF_MODELS)
def test_missing_packages_of_models_are_installed(name, run, monkeypatch):
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    (command,) = run(name, installed=False)
    assert command == [sys.executable, "-m", *INSTALL.split()]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_on_colab_the_clone_around_it_is_installed(name, run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.chdir(FOLDER)
    (command,) = run(name)
    extra = "[models]" if name in OF_MODELS else ""
    assert command[1:4] == ["-m", "pip", "install"] and command[-1] == f"{FOLDER.parent}{extra}"
    assert not {"-e", "-c", "--upgrade"} & set(command)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="CLONE_FROM"):
        run(name)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_on_colab_it_clones_first_where_an_address_is_given(name, run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "pmpjax-clone" / "pmpjax"
    package.mkdir(parents=True)  # what git would make
    (package / "__init__.py").touch()
    clone, install = run(name, CLONE_FROM="somewhere")
    assert clone[:2] == ["git", "clone"] and clone[-2:] == ["somewhere", "pmpjax-clone"]
    assert install[-1].removesuffix("[models]") == str(tmp_path / "pmpjax-clone")
