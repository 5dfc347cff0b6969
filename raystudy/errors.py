"""The one exception for a user's mistake, and the helper that names the valid choices."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A mistake in what the user gave us, told in one line.

    The line names the mistake and the valid choices. The commands print it to
    standard error without a traceback and exit with code 2.
    """


def unknown(what: str, name: object, choices: Iterable[str]) -> InputError:
    """The error for a name that is not one of ``choices``, with the nearest valid name first."""
    names = sorted(choices)
    near = get_close_matches(str(name), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {what} {name!r}; {hint}choose from: {', '.join(names) or '(none)'}")
