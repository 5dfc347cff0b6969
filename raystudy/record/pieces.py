"""A growing file in a storage that has no append: kept in pieces, each of them the bytes from its place in the file on.

``c.jsonl`` is the piece that begins at 0, ``c.jsonl.000000012345`` the one that begins at byte 12,345. The file is the chain of pieces that
begins at 0 and goes on where the last one ends; what is not of the chain (pieces that a longer one has taken in, and that were not removed
yet) does not count. Every piece is written in one step and ends with a whole line, so a writer may be killed at any point.

So that there are never many, a new piece takes in those before it once ``FAN`` of its size lie there. A byte is sent once for each
sixteenfold of size up to ``WHOLE``, however long the file is; and there are at most ``FAN`` pieces of a size.
"""

import re
from collections.abc import Mapping, Sequence

from raystudy.record.storage import Place

FAN = 16

WHOLE = 1 << 19  # bytes from which a piece is left as it is

_NAME = re.compile(r"(?P<file>.+\.jsonl)(\.(?P<start>\d{12}))?")


def name(file: str, start: int) -> str:
    """What the piece of a file is called that begins at byte ``start``."""
    return f"{file}.{start:012d}" if start else file


def found(files: Mapping[str, int]) -> dict[str, dict[int, int]]:
    """Of the files of a folder (name -> bytes) those that are pieces: by their file, where each begins -> bytes."""
    told: dict[str, dict[int, int]] = {}
    for piece, size in files.items():
        if (m := _NAME.fullmatch(piece)) and size:
            told.setdefault(m["file"], {})[int(m["start"] or 0)] = size
    return told


def chain(pieces: Mapping[int, int]) -> list[int]:
    """Where the pieces begin that make up the file, in order."""
    starts, at = [], 0
    while at in pieces:
        starts.append(at)
        at += pieces[at]
    return starts


def length(pieces: Mapping[int, int]) -> int:
    """Bytes of the file."""
    starts = chain(pieces)
    return starts[-1] + pieces[starts[-1]] if starts else 0


def begin(sizes: Sequence[int], new: int) -> int:
    """Of the pieces of a file, by their sizes, how many stay as they are when ``new`` bytes come: those after them become one piece with
    the new bytes."""
    stay, total = len(sizes), new
    while True:
        alike = 0
        while alike < stay and _level(sizes[stay - 1 - alike]) <= min(_level(total), _level(WHOLE) - 1):
            alike += 1
        if alike < FAN - 1:
            return stay
        total += sum(sizes[stay - alike : stay])
        stay -= alike


def _level(size: int) -> int:
    """Sizes of one level are within a factor of sixteen."""
    return size.bit_length() // 4


def read(folder: Place, file: str, pieces: Mapping[int, int], start: int, end: int) -> bytes:
    """Bytes ``start`` to ``end`` of a file. Raises FileNotFoundError where its writer has just joined some of these pieces."""
    told = []
    for at in chain(pieces):
        a, b = max(start, at), min(end, at + pieces[at])
        if a < b:
            told.append((folder / name(file, at)).read(a - at, b - at))
    return b"".join(told)
