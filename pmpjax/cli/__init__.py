"""The command `pmpjax`: one sub-command a job, its options the fields of the job's frozen dataclass.

Rooms are imported only when their command is run, so that `--help` and `--version` answer at once.
Exit status: 0 done, 1 a bug or a failed check, 2 what the user can fix, 130 stopped by Ctrl-C, 143 by SIGTERM,
141 when nobody reads its output any more.
"""

import os
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pmpjax.cli import contexts, doctor, fine_tuning, icl, kosmos, law, pds, prototypes, training
from pmpjax.cli.options import Command
from pmpjax.runs import RunError
from pmpjax.runs.errors import nearest
from pmpjax.runs.interrupt import deferred

_ROOMS = (pds, training, law, contexts, icl, prototypes, fine_tuning, kosmos, doctor)
COMMANDS: dict[tuple[str, ...], Command] = {name: command for room in _ROOMS for name, command in room.COMMANDS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status; never raises for a mistake of the user, nor shows a trace.

    `--debug` anywhere lets exceptions through.

    >>> main(["--version"])  # doctest: +ELLIPSIS
    pmpjax ...
    0
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments[:1] == ["--version"]:
        print(f"pmpjax {metadata.version('pmpjax')}")
        return 0
    words = 0
    while words < len(arguments) and not arguments[words].startswith("-"):
        words += 1
    names = [name for name in COMMANDS if arguments[: len(name)] == list(name)]
    if not names:
        return _overview(arguments, words)
    name = names[0]

    directories: list[Path] = []
    with deferred(lambda: _say("stopping at the next safe moment; again to stop at once")) as signals:
        return _run(name, arguments, directories, signals, debug)


def _run(name: tuple[str, ...], arguments: list[str], directories: list[Path], signals: list[int], debug: bool) -> int:
    try:
        status = COMMANDS[name].run(arguments[len(name) :], " ".join(("pmpjax", *name)), directories.append)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `pmpjax pds run --help | head`: nobody reads on, and nobody needs to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to be flushed at exit
        return 128 + getattr(signal, "SIGPIPE", 13)  # Windows has no name for it
    except KeyboardInterrupt:
        if directories:
            _say(f"stopped; the run is in {directories[-1]}, and the same command goes on from there")
        else:
            _say("stopped")
        return 128 + (signals[0] if signals else signal.SIGINT)
    except SystemExit as leaving:  # tyro: after --help, or after it said what is wrong with an option
        return leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 2
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        if _is_users(error):
            _say(f"error: {text}")
            return 2
        _say(f"unexpected {type(error).__name__}: {text} (run it again with --debug for the trace)")
        return 1


def _is_users(error: Exception) -> bool:
    from pmpjax.data.documents import SourceError

    return isinstance(error, RunError | SourceError | ValueError | OSError)


def _say(text: str) -> None:
    print(f"pmpjax: {text}", file=sys.stderr)


def _overview(arguments: list[str], words: int) -> int:
    given = tuple(arguments[:words])
    below = [name for name in COMMANDS if name[: len(given)] == given]
    asked = not arguments or arguments[words:][:1] in (["--help"], ["-h"])
    if below and (asked or (given and words == len(arguments))):
        print("usage: pmpjax COMMAND [OPTIONS]    (pmpjax COMMAND --help lists its options)\n")
        width = max(len(" ".join(name)) for name in below)
        for name in below:
            print(f"  pmpjax {' '.join(name):<{width}}  {COMMANDS[name].help}")
        if not given:
            print(f"\n  pmpjax {'--version':<{width}}  the version")
            print(f"  {'--debug':<{width + 7}}  with any command: show the trace of an error")
        return 0
    if given and not below:
        known = [" ".join(name) for name in COMMANDS]
        meant = nearest(" ".join(given), known)
        hint = f"; did you mean `pmpjax {meant}`?" if meant else ""
        _say(f"error: no command {' '.join(given)!r}{hint} (commands: {', '.join(known)})")
    else:
        _say(f"error: expected a command before {arguments[words]!r}; `pmpjax --help` lists them")
    return 2
