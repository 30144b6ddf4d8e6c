"""What the commands share: options from a dataclass, and a table of results."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pmpjax.runs.errors import nearest

Options = TypeVar("Options")


class Command(NamedTuple):
    """help: one line. run: (arguments, name for messages, announce a run directory) -> exit status."""

    help: str
    run: Callable[[list[str], str, Callable[[Path], None]], int]


def parse(
    kind: type[Options],
    default: Options,
    arguments: list[str],
    name: str,
    describe: str,
    out: str,
    more: Any = None,
) -> tuple[Options, Path, Any]:
    """The options of a command, its run directory, and `more`: a dataclass of options that decide no result.

    Leaves by SystemExit: 0 after --help, 2 after a mistake.
    """
    import tyro

    unnamed = tyro.conf.arg(name="")

    def options(
        config: Annotated[kind, unnamed] = default,  # pyright: ignore[reportInvalidTypeForm]
        out: Path = Path(out),
    ) -> Any:  # no type variable here: tyro would try to resolve it
        return config, out, None

    def more_options(
        more: Annotated[type(more), unnamed] = more,  # pyright: ignore[reportInvalidTypeForm]
        config: Annotated[kind, unnamed] = default,  # pyright: ignore[reportInvalidTypeForm]
        out: Path = Path(out),
    ) -> Any:
        return config, out, more

    chosen = options if more is None else more_options
    chosen.__doc__ = (
        f"{describe}\n\nArgs:\n    config: -\n    more: -\n"
        "    out: The run directory; an unfinished run in it is resumed."
    )
    return tyro.cli(
        chosen, prog=name, args=arguments, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands)
    )


def near(given: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a question, or all of them.

    >>> near("papr-1b", ["tiny", "paper-1b"]), near("x", ["tiny"])
    ('; did you mean paper-1b?', '; expected one of tiny')
    """
    known = list(known)
    found = nearest(given, known)
    return f"; did you mean {found}?" if found else f"; expected one of {', '.join(known)}"


def value_of(arguments: list[str], option: str, default: str) -> str:
    """Reads one option before the others, because their defaults depend on it."""
    for index, argument in enumerate(arguments):
        if argument == option and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(option + "="):
            return argument.split("=", 1)[1]
    return default


def show_table(title: str, rows: dict[str, str]) -> None:
    """Prints what was found, a line each."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)
