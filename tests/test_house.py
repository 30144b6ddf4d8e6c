"""The house rules of the design: imports go one way, rooms keep to their business, the README runs."""

import ast
import graphlib
import inspect
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import jax
import pytest

import pmpjax as pmp
from tests.oracles import products

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pmpjax"
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

# DESIGN.md, House: a room imports what stands before it, and no neighbour on its own floor.
FLOORS = [
    {"control"},
    {"training"},
    {"runs"},
    {"models", "data", "costs"},
    {"train"},
    {"statistics"},
    {"baselines", "scoring"},
    {"evaluation"},
    {"law", "pds", "contexts", "prototypes", "prompts", "multimodal"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ALIASES = {"__main__": "cli"}


def room_of(module):
    """`pmpjax.law.report` is in `law`; the package's own `__init__` is in none."""
    parts = module.replace("/", ".").split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    return ALIASES.get(name, name)


def imported(tree):
    """Every module that an import statement names anywhere in a file, those inside functions and types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            # `from pmpjax import runs` names a room in its list.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_rooms(tree):
    names = {room_of(name) for name in imported(tree) if name.split(".")[0] == "pmpjax"}
    return {name for name in names if name in FLOOR}


def may_import(room, other):
    """A room imports itself and what stands on a lower floor, never a neighbour."""
    return room == other or FLOOR[other] < FLOOR[room]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    room = room_of(module)
    tree = ast.parse(MODULES[module].read_text())
    if room == "__init__":
        assert own_rooms(tree) <= {"control", "training"}, "the package itself re-exports control and training only"
        return
    assert room in FLOOR, f"{module} is in no room of the design"
    wrong = {other for other in own_rooms(tree) if not may_import(room, other)}
    assert not wrong, f"{module} imports {wrong}"
    if room in ("control", "training"):
        # The flat namespace is built on these two: importing it from them would go in a circle.
        assert "pmpjax" not in imported(tree)


def test_no_module_imports_itself_through_others():
    """Imports inside functions and for types count too: a circle is a circle."""
    names = {module.replace("/", ".") for module in MODULES if not module.endswith("__init__")}
    graph = {
        module.replace("/", "."): {name for name in imported(ast.parse(path.read_text())) if name in names}
        for module, path in MODULES.items()
        if not module.endswith(("__init__", "__main__"))
    }
    order = graphlib.TopologicalSorter(graph)
    order.prepare()  # raises CycleError, which names the circle


def test_the_walk_sees_what_it_forbids():
    source = "def f():\n    from pmpjax import runs\n    import pmpjax.pds.run\n    from pmpjax.law.report import x\n"
    rooms = own_rooms(ast.parse(source))
    assert rooms == {"runs", "pds", "law"}
    assert not any(may_import("training", room) for room in rooms)
    assert may_import("pds", "evaluation") and not may_import("pds", "law") and not may_import("models", "data")


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in ("control", "training")])
def test_control_and_training_know_no_flax_and_touch_no_file(module):
    tree = ast.parse(MODULES[module].read_text())
    tops = {name.split(".")[0] for name in imported(tree)}
    assert not tops & {"flax", "pathlib", "os", "io", "shutil", "tempfile", "pickle", "json", "orbax"}
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "open" not in calls
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not attributes & {"save", "savez", "load", "tofile", "write_text", "read_text"}


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_short(module):
    assert len(MODULES[module].read_text().splitlines()) <= 300


def test_control_and_training_stay_small():
    """Lines of code, blank lines, comments and docstrings apart; DESIGN.md asks for 1,300, which nobody has reached
    since singular coordinates came (450 lines)."""
    ours = [path for module, path in MODULES.items() if room_of(module) in ("control", "training")]
    assert sum(lines_of_code(path.read_text()) for path in ours) < 1800


def lines_of_code(source):
    """Lines that hold a token which is no comment, less those of docstrings."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines = {line for token in tokens if token.type not in ignored for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for one in body if isinstance(body, list) else []:
            if isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str):
                lines -= set(range(one.lineno, (one.end_lineno or one.lineno) + 1))
    return len(lines)


def test_lines_of_code_leave_out_what_is_none():
    source = '"""Doc."""\n\n# why\nx = 1\ndef f():\n    """More\n    doc."""\n    return (\n        x)\n'
    assert lines_of_code(source) == 4


def test_pds_stays_small():
    ours = [path for module, path in MODULES.items() if room_of(module) == "pds"]
    assert len(ours) <= 26 and sum(len(path.read_text().splitlines()) for path in ours) <= 3000


COVERED_BY = {
    "pmpjax/cli/contexts": "tests/contexts/structured_prompting/test_command.py",
    "pmpjax/cli/fine_tuning": "tests/prototypes/fine_tuning/test_command.py",
    "pmpjax/multimodal/config": "tests/multimodal/test_training.py",
    "pmpjax/models/kosmos_files": "tests/models/test_kosmos.py",
    "pmpjax/models/new_folders": "tests/models/test_io.py",
    "pmpjax/models/recording": "tests/models/test_options.py",
    "pmpjax/models/settings": "tests/models/test_io.py",
    "pmpjax/cli/kosmos": "tests/multimodal/test_training.py",
    "pmpjax/cli/law": "tests/test_cli.py",
    "pmpjax/cli/options": "tests/test_cli.py",
    "pmpjax/cli/pds": "tests/test_cli.py",
    "pmpjax/cli/prototypes": "tests/prototypes/test_comparison.py",
    "pmpjax/cli/training": "tests/test_cli.py",
    "pmpjax/data/packing": "tests/data/test_rows.py",
    "pmpjax/data/prepared": "tests/data/test_corpus.py",
    "pmpjax/data/sources/packages": "tests/data/sources/test_installed.py",
    "pmpjax/data/sources/story_grammar": "tests/data/sources/test_stories.py",
    "pmpjax/models/attention": "tests/models/test_decoder.py",
    "pmpjax/models/cache": "tests/contexts/structured_prompting/test_context.py",
    "pmpjax/models/layers": "tests/models/test_decoder.py",
    "pmpjax/models/losses": "tests/models/test_decoder.py",
    "pmpjax/models/positions": "tests/models/test_decoder.py",
    "pmpjax/models/search/endings": "tests/models/search/test_rollout.py",
    "pmpjax/models/scorer": "tests/models/test_decoder.py",
    "pmpjax/models/config": "tests/models/test_options.py",
    "pmpjax/models/encoder_files": "tests/models/test_encoder.py",
    "pmpjax/models/generate": "tests/models/test_decoder.py",
    "pmpjax/models/huggingface": "tests/models/test_io.py",
    "pmpjax/models/packages": "tests/models/test_gguf.py",
    "pmpjax/models/pretrained_tokenizers": "tests/train/test_generation.py",
    "pmpjax/models/stacking": "tests/models/test_io.py",
    "pmpjax/models/tensor_files": "tests/models/test_io.py",
    "pmpjax/pds/config": "tests/pds/test_presets.py",
    "pmpjax/pds/stages/pretrain": "tests/pds/test_pipeline.py",
    "pmpjax/pds/stages/proxy": "tests/pds/test_pipeline.py",
    "pmpjax/runs/precision": "tests/control/test_observables.py",
    "pmpjax/train/model": "tests/costs/test_compiled.py",
    "pmpjax/train/record": "tests/train/test_loop.py",
}
"""Modules without a test file of their own name, and the test that covers each."""


@pytest.mark.parametrize("module", [m for m in MODULES if not m.endswith(("__init__", "__main__"))])
def test_each_module_has_its_test(module):
    parts = module.split("/")[1:]
    own = Path("tests", *parts[:-1], f"test_{parts[-1]}.py")
    other = COVERED_BY.get(module)
    assert (ROOT / own).exists() != (other is not None), f"{module}: {own}, or a line in COVERED_BY"
    assert other is None or (ROOT / other).exists(), other


def prints(tree):
    """Lines that call print (or write to a standard stream)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "pprint"):
            yield node.lineno
        if isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr"):
            if isinstance(node.value, ast.Name) and node.value.id == "sys":
                yield node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_and_its_progress_print(module):
    lines = sorted(prints(ast.parse(MODULES[module].read_text())))
    allowed = room_of(module) == "cli" or module == "pmpjax/runs/progress"
    assert not lines or allowed, f"{module}:{lines}"


@pytest.mark.parametrize("module", [m for m in MODULES if m != "pmpjax/__main__"])
def test_modules_and_their_public_names_are_documented(module):
    tree = ast.parse(MODULES[module].read_text())
    assert ast.get_docstring(tree), f"{module} has no docstring"
    if module.endswith("__init__"):
        return
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    assert not bare, f"{module} has public names without a docstring: {bare}"


@pytest.mark.parametrize("name", pmp.__all__)
def test_every_public_name_has_a_docstring(name):
    found = getattr(pmp, name)
    text = found.__doc__ or ""
    assert len(text) > 15
    # A class that only inherits its text has none of its own.
    assert not inspect.isclass(found) or "__doc__" in vars(found)
    # NamedTuple and dataclass write one themselves, such as "Cost(running, terminal)".
    assert not text.startswith(f"{name}(")


def test_public_names_are_all_there_is():
    public = {name for name in vars(pmp) if not name.startswith("_") and not inspect.ismodule(vars(pmp)[name])}
    assert public <= set(pmp.__all__)
    assert sorted(pmp.__all__) == pmp.__all__


def test_the_readme_runs():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks, "the README shows no Python"
    names = {"__name__": "readme"}
    exec(compile(blocks[0], "README.md", "exec"), names)
    # Its plain losses ask for no precision; an accelerator's default would turn the costates into noise.
    problem, *arguments = (names[name] for name in ("problem", "x0", "weights", "batches"))
    lowered = jax.jit(lambda *a: pmp.costate(problem, *a)).lower(*arguments).as_text()
    assert {precision for precision, types in products(lowered) if "f32" in types} == {"HIGHEST"}


def test_nothing_committed_knows_the_machine():
    for path in (*MODULES.values(), ROOT / "README.md", ROOT / "pyproject.toml"):
        assert not re.search(r"/(?:work|home|root|Users)/", path.read_text()), path


# Windows has none of these; asyncio is imported first, because its half for Unix needs them.
WITHOUT_UNIX = """
import asyncio, importlib, os, pkgutil, signal, sys
for module in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
for owner, names in ((signal, ("SIGHUP", "SIGKILL", "SIGPIPE")), (os, ("fork", "getuid", "sysconf", "sysconf_names"))):
    for name in names:
        delattr(owner, name)
import pmpjax
from pmpjax import cli
for module in pkgutil.walk_packages(pmpjax.__path__, "pmpjax."):
    if module.name != "pmpjax.__main__":
        importlib.import_module(module.name)
sys.exit(cli.main(["--version"]) or cli.doctor._memory() == "")
"""


def test_every_module_imports_where_unix_is_not():
    done = subprocess.run([sys.executable, "-c", WITHOUT_UNIX], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("pmpjax "), done.stderr[-2000:]
