"""The one exception for a user's mistake, and the helpers that name the value and the valid choices."""

from collections.abc import Iterable
from difflib import get_close_matches

SHOWN = 160  # characters of a value


class InputError(ValueError):
    """A mistake in what the user gave us, told in one line.

    The line names the mistake and the valid choices. The commands print it to
    standard error without a traceback and exit with code 2.
    """


def shown(value: object) -> str:
    """A value as a mistake names it: on the line, and no longer than one can read, whatever its repr is."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def unknown(what: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a name that is not one of ``choices``, with the nearest valid name first."""
    names = sorted(choices)
    near = get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {what} {shown(name)}; {hint}choose from: {', '.join(names) or '(none)'}")
