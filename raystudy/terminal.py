"""What all commands share: how a user's mistake is told, where results are printed, and what becomes of what a terminal cannot show."""

import argparse
import codecs
import errno
import os
import sys
import unicodedata
from collections.abc import Callable, Sequence

from rich.console import Console

from raystudy.errors import InputError, unknown

STAND_INS = {  # of what we print; accents are left off, and of all else there is a ?
    **{
        "±": "+/-",
        "–": "-",
        "—": "-",
        "−": "-",
        "…": "...",
        "·": ".",
        "×": "x",
        "→": "->",
        "≥": ">=",
        "≤": "<=",
        "≈": "~",
    },
    **{"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "†": "+", "‡": "++", "§": "S.", "•": "*"},
}


def guarded(
    command: Callable[[argparse.Namespace], int], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Parses and runs; a user's mistake becomes one line on standard error and exit code 2."""
    lenient()
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
    except RuntimeError as e:
        if "home directory" not in str(e):  # of Path.expanduser
            raise
        print("raystudy: a path begins with ~NAME, and this machine has no user of that name", file=sys.stderr)
        return 2
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT)
        if not (full or (e.errno and e.filename)):
            raise  # not of a file that somebody named
        where = f" for {e.filename}" if e.filename else ""
        more = "; the same command goes on once there is" if full else ""
        print(f"raystudy: {' '.join(f'{os.strerror(e.errno or 0).lower()}{where}'.split())}{more}", file=sys.stderr)
        return 2


def lenient() -> None:
    """From now on nothing that is printed dies of an encoding: what a terminal cannot show is replaced by plain stand-ins."""
    codecs.register_error("raystudy", _stand_in)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a test or a notebook put there takes everything
            stream.reconfigure(errors="raystudy")


def _stand_in(e: UnicodeError) -> tuple[str, int]:
    """Of the characters that could not be encoded, and where to go on."""
    if not isinstance(e, UnicodeEncodeError):
        raise e
    return "".join(map(_plain, e.object[e.start : e.end])), e.end


def _plain(character: str) -> str:
    """One character in ASCII."""
    bare = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return STAND_INS.get(character) or bare or "?"


def printable(text: str) -> str:
    """A text with what a terminal would obey (escape sequences of a file's or a stranger's) written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def terminal() -> Console:
    """Where results are printed: the terminal, or plain text wide enough for the tables where there is none."""
    lenient()
    console = Console()
    return console if console.is_terminal else Console(width=160)
