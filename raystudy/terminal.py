"""What all that is printed shares: the console, and texts and times as a terminal can show them."""

import codecs
import math
import sys
import unicodedata

from rich.console import Console

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
    **dict(zip("▁▂▃▄▅▆▇█", "__..--==", strict=True)),
    **{"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "†": "+", "‡": "++", "§": "S.", "•": "*"},
}


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
    console = Console(force_jupyter=False)  # a notebook gets plain lines, too
    return console if console.is_terminal and not notebook() else Console(width=160, force_jupyter=False)


def notebook() -> bool:
    """Whether this runs in a notebook."""
    return Console().is_jupyter


def say(console: Console, text: str, style: str = "") -> None:
    """Prints one line as it is: nothing in it is markup, and the terminal wraps it."""
    console.print(text, style=style or None, markup=False, highlight=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """``4 s``, ``3 min``, ``2 h 05``, ``12 days``; a dash for unknown."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds >= 4 * 86400:
        return f"{seconds / 86400:,.0f} days"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f}"
