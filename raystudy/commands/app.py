"""The ``raystudy`` command: which commands there are, and how a user's mistake is told. Each command is imported when it is used."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, Parameter
from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from raystudy import __version__, packages
from raystudy.commands import texts
from raystudy.errors import InputError, unknown
from raystudy.terminal import lenient, printable

KINDS = {int: "a whole number", float: "a number", bool: "nothing: it is a switch"}
PLAIN = Parameter(
    negative_bool="",
    negative_iterable="",
    allow_repeating=True,
    show_default=False,
    show_choices=False,
    show_env_var=False,
)


def _app(name: str, help_: str, epilogue: str = "", **more: Any) -> App:
    return App(name=name, help=help_, help_epilogue=epilogue, help_format="plaintext", default_parameter=PLAIN, **more)


def build() -> App:
    """The command line of ``raystudy``."""
    app = _app(
        "raystudy",
        "Controlled studies of learning with noisy labels: Ray Tune runs them, Optuna searches, MLflow shows.",
        texts.EXAMPLES,
        version=f"raystudy {__version__}",
        version_flags=["--version"],
    )
    groups = {name: _app(name, help_) for name, help_ in texts.GROUPS.items()}
    for within in groups.values():
        app.command(within)
    for name, (where, help_, examples) in texts.COMMANDS.items():
        group, _, last = name.rpartition(" ")
        told: dict[str, Any] = {"name": last, "help": help_, "help_epilogue": examples, "default_parameter": PLAIN}
        (groups[group] if group else app).command(f"raystudy.commands.{where}", **told)
    return app


def sweep() -> App:
    """``python -m raystudy.sweep``: the main job as a command of its own."""
    from raystudy.commands.sweep import sweep as command

    _, help_, examples = texts.COMMANDS["sweep"]
    app = _app("python -m raystudy.sweep", help_, examples, version_flags=[])
    app.default(command)
    return app


def run(make: Callable[[], App], argv: Sequence[str] | None = None) -> int:
    """Parses and runs; a user's mistake becomes one line on standard error and exit code 2."""
    lenient()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if empty := [w for w in words if w.startswith("--") and w.endswith("=--")]:
            raise InputError(f"{empty[0].removesuffix('=--')} has no value that could be used: '--'")
        packages.pin()
        app = make()
        try:
            code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        except CycloptsError as e:
            raise _mistake(e) from None
        if app.default_command is None and (not words or words in [[group] for group in texts.GROUPS]):
            return 2  # no command was named, and help was shown
        return code or 0
    except InputError as e:
        return _refused(printable(" ".join(str(e).split())))
    except KeyboardInterrupt:
        print("raystudy: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `raystudy ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as e:
        if "home directory" not in str(e):  # of Path.expanduser
            raise
        return _refused("a path begins with ~NAME, and this machine has no user of that name")
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        if not (full or (e.errno and e.filename)):
            raise  # not of a file that somebody named
        where = f" for {e.filename}" if e.filename else ""
        more = "; the same command goes on once there is" if full else ""
        return _refused(f"{' '.join(f'{os.strerror(e.errno or 0).lower()}{where}'.split())}{more}")


def _refused(line: str) -> int:
    print(f"raystudy: {line}", file=sys.stderr)
    return 2


def _mistake(e: CycloptsError) -> InputError:
    """A mistake on the command line in our words: what is wrong, and the valid choices."""
    if isinstance(e, UnknownOptionError):
        word = e.token.keyword or e.token.value
        return unknown("option", word.partition("=")[0], _options(e))
    if isinstance(e, UnknownCommandError):
        known = _within(e) if e.command_chain else list(dict.fromkeys(n.partition(" ")[0] for n in texts.COMMANDS))
        return unknown("command", (e.unused_tokens or [""])[0], known)
    if isinstance(e, MissingArgumentError) and e.argument is not None:
        name = e.argument.name if e.keyword is None else e.keyword
        return InputError(f"{name} is missing its value" if name.startswith("--") else f"name a {name.upper()}")
    if isinstance(e.__cause__, InputError):  # of a converter of ours
        return e.__cause__
    if isinstance(e, CoercionError) and e.token is not None:
        kind = KINDS.get(e.target_type, "") if isinstance(e.target_type, type) else ""
        name = e.token.keyword or (e.argument.name.upper() if e.argument else "value")
        return InputError(f"{name} is {e.token.value!r}; it must be {kind}" if kind else str(e))
    if isinstance(e, UnusedCliTokensError):
        return InputError(f"more words than this command takes: {' '.join(e.unused_tokens or [])}")
    return InputError(" ".join(str(e).split()))


def _within(e: CycloptsError) -> list[str]:
    prefix = " ".join(e.command_chain or ()) + " "
    return [n.removeprefix(prefix) for n in texts.COMMANDS if n.startswith(prefix)]


def _options(e: UnknownOptionError) -> list[str]:
    names = [n for a in e.argument_collection for n in a.names if n.startswith("--")]
    return [*names, "--help"]


def main(argv: Sequence[str] | None = None) -> int:
    return run(build, argv)
