"""What all commands share: how a user's mistake is told, and where results are printed."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from raystudy.errors import InputError, unknown


def guarded(
    command: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Parses and runs; a user's mistake becomes one line on standard error and exit code 2."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if empty := [w for w in words if w.startswith("--") and w.endswith("=--")]:  # argparse would give it a list
            raise InputError(f"{empty[0].removesuffix('=--')} has no value that could be used: '--'")
        args, rest = parser.parse_known_args(words)
        if rest:  # argparse would name no choices
            raise unknown("option", rest[0], getattr(args, "parser", parser)._option_string_actions)
        return command(args)
    except InputError as e:
        print(f"raystudy: {printable(' '.join(str(e).split()))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("raystudy: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `raystudy ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        if not (full or (e.errno and e.filename)):
            raise  # not of a file that somebody named
        where = f" for {e.filename}" if e.filename else ""
        more = "; the same command goes on once there is" if full else ""
        print(f"raystudy: {' '.join(f'{os.strerror(e.errno or 0).lower()}{where}'.split())}{more}", file=sys.stderr)
        return 2


def printable(text: str) -> str:
    """A text with what a terminal would obey (escape sequences of a file's or a stranger's) written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def terminal() -> Console:
    """Where results are printed: the terminal, or plain text wide enough for the tables where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
