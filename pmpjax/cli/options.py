"""What the commands share: options from a dataclass, and a table of results."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

Options = TypeVar("Options")


class Command(NamedTuple):
    """help: one line. run: (arguments, name for messages, announce a run directory) -> exit status."""

    help: str
    run: Callable[[list[str], str, Callable[[Path], None]], int]


def parse(
    kind: type[Options], default: Options, arguments: list[str], name: str, describe: str, out: str
) -> tuple[Options, Path]:
    """The options of a command, and its run directory; leaves by SystemExit (0 after --help, 2 after a mistake)."""
    import tyro

    def options(
        config: Annotated[kind, tyro.conf.arg(name="")] = default,  # pyright: ignore[reportInvalidTypeForm]
        out: Path = Path(out),
    ) -> Any:  # no type variable here: tyro would try to resolve it
        return config, out

    options.__doc__ = (
        f"{describe}\n\nArgs:\n    config: -\n    out: The run directory; an unfinished run in it is resumed."
    )
    return tyro.cli(options, prog=name, args=arguments, config=(tyro.conf.FlagConversionOff,))


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
