"""What the commands share: options from a dataclass, and a table of results."""

import dataclasses
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pmpjax.runs.errors import nearest

Options = TypeVar("Options")

_HELP = ("--help", "-h")


class Command(NamedTuple):
    """help: one line. run: (arguments, name for messages, announce a run directory) -> exit status."""

    help: str
    run: Callable[[list[str], str, Callable[[Path], None]], int]


@dataclasses.dataclass(frozen=True)
class Offer:
    """Which fields of a config are options, and which of these a short help shows.

    Attributes:
        brief: dotted names, or beginnings of them that end with a dot, of what `--help` shows; None shows every one.
        withheld: the same for what is no option at all, though Python may set it.
    """

    brief: tuple[str, ...] | None = None
    withheld: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """Whether the field is an option.

        >>> offer = Offer(brief=("seed", "fit."), withheld=("fit.clip",))
        >>> [offer.takes(name) for name in ("seed", "fit.clip", "fit.epochs")]
        [True, False, True]
        """
        return not _within(name, self.withheld)

    def shows(self, name: str) -> bool:
        """Whether a short help shows it.

        >>> offer = Offer(brief=("seed", "fit."), withheld=("fit.clip",))
        >>> [offer.shows(name) for name in ("seed", "seeds", "fit.clip", "fit.epochs")]
        [True, False, False, True]
        """
        return self.takes(name) and (self.brief is None or _within(name, self.brief))


def _within(name: str, names: Iterable[str]) -> bool:
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in names)


def parse(
    kind: type[Options],
    default: Options,
    arguments: list[str],
    name: str,
    describe: str,
    out: str,
    more: Any = None,
    offer: Offer = Offer(),
) -> tuple[Options, Path, Any]:
    """The options of a command, its run directory, and `more`: a dataclass of options that decide no result.

    `--help` shows the options that `offer` names, `--help-all` every one.
    Leaves by SystemExit: 0 after --help, 2 after a mistake.
    """
    import tyro

    brief = offer.brief is not None and "--help-all" not in arguments and any(one in arguments for one in _HELP)
    shown = offer.shows if brief else offer.takes
    arguments = ["--help" if argument == "--help-all" else argument for argument in arguments]
    made, values, _ = _offered(default, shown)
    more_made, more_values, _ = _Offered(None, None, False) if more is None else _offered(more, shown)
    unnamed = tyro.conf.arg(name="")

    def options(
        settings: Annotated[made, unnamed] = values,  # pyright: ignore[reportInvalidTypeForm]
        out: Path = Path(out),
    ) -> Any:  # no type variable here: tyro would try to resolve it
        return settings, out, None

    def more_options(
        more: Annotated[more_made, unnamed] = more_values,  # pyright: ignore[reportInvalidTypeForm]
        settings: Annotated[made, unnamed] = values,  # pyright: ignore[reportInvalidTypeForm]
        out: Path = Path(out),
    ) -> Any:
        return settings, out, more

    chosen = options if more is None else more_options
    if brief:
        describe += " These are the options most asked for; --help-all lists every one."
    chosen.__doc__ = (
        f"{describe}\n\nArgs:\n    settings: -\n    more: -\n"
        "    out: The run directory; an unfinished run in it is resumed."
    )
    config, folder, further = tyro.cli(
        chosen, prog=name, args=arguments, config=(tyro.conf.FlagCreatePairsOff, tyro.conf.AvoidSubcommands)
    )
    return _given(default, config), folder, None if more is None else _given(more, further)


class _Offered(NamedTuple):
    """kind: a dataclass with the fields of another. values: its own values. some: whether any field is an option."""

    kind: Any
    values: Any
    some: bool


def _offered(value: Any, shown: Callable[[str], bool], prefix: str = "") -> _Offered:
    """The dataclass `value` with the fields that are not shown hidden from tyro, which then keep their values."""
    import tyro

    hints = typing.get_type_hints(type(value), include_extras=True)
    fields, values, any_shown = [], {}, False
    for field in dataclasses.fields(value):
        name, kind, own = f"{prefix}{field.name}".replace("_", "-"), hints[field.name], getattr(value, field.name)
        some = shown(name)
        if dataclasses.is_dataclass(own):
            kind, own, some = _offered(own, shown, f"{name}.")
        fields.append((field.name, kind if some else tyro.conf.Suppress[kind], dataclasses.field(default=own)))
        values[field.name] = own
        any_shown = any_shown or some
    made = dataclasses.make_dataclass(type(value).__name__, fields, frozen=True)
    # tyro reads the fields' descriptions from the docstring: those of a parent class stand below its own.
    own, *parents = [kind.__doc__ or "" for kind in type(value).__mro__ if dataclasses.is_dataclass(kind)]
    made.__doc__ = own.rstrip() + "".join(parent.split("Attributes:")[-1].rstrip() for parent in parents)
    return _Offered(made, made(**values), any_shown)


def _given(value: Any, parsed: Any) -> Any:
    """`value` with the fields of what `_offered` made of it: its own checks run again."""
    found = {field.name: getattr(parsed, field.name) for field in dataclasses.fields(parsed)}
    found = {
        name: _given(getattr(value, name), own) if dataclasses.is_dataclass(own) else own for name, own in found.items()
    }
    return dataclasses.replace(value, **found)


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
    from rich.text import Text

    # As text, not as markup: a class may be called [spam].
    table = Table(title=Text(title), show_header=False, title_justify="left")
    for key, value in rows.items():
        table.add_row(Text(key), Text(value))
    Console().print(table)
