"""Files that start a study elsewhere, written for a person to read: over one of ours where that is asked for, and over nothing else."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from raystudy.errors import InputError

MARK = "written by `raystudy"  # in the first lines of each


def check(file: Path, text: str, force: bool) -> None:
    """Raises InputError where another text is there, which may be of another study or edited by hand, or no folder.

    ``force``: one that we wrote may go.
    """
    try:
        there = file.read_text(encoding="utf-8", errors="replace") if file.exists() else text
    except (OSError, ValueError) as e:
        raise InputError(f"--out {file} cannot be written: {getattr(e, 'strerror', None) or e}") from None
    if there != text and MARK not in there[:1000]:
        raise InputError(f"{file} is there already and was not written by raystudy: name another --out")
    if there != text and not force:
        raise InputError(f"{file} is there already and is another: name another --out, or --force to write over it")
    if not file.absolute().parent.is_dir():
        raise InputError(f"--out {file} cannot be written: there is no folder {file.parent}")


def write(file: Path, text: str, force: bool) -> None:
    """Writes it. Raises InputError as ``check`` does."""
    check(file, text, force)
    try:
        file.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as e:
        raise InputError(f"--out {file} cannot be written: {getattr(e, 'strerror', None) or e}") from None


def lines(words: Sequence[str]) -> list[str]:
    """The words of a command, quoted for a shell: what it begins with on one line, then a line an option."""
    found: list[list[str]] = []
    for i, word in enumerate(words):
        if not found or word.startswith("--") or (found[-1][0].startswith("--") and not words[i - 1].startswith("--")):
            found.append([])
        found[-1].append(word)
    return [" ".join(map(_quoted, line)) for line in found]


def _quoted(word: str) -> str:
    """A comma is quoted, too: in an array of bash it looks like one too many."""
    return f"'{word}'" if "," in word and shlex.quote(word) == word else shlex.quote(word)
