"""Who is told what happens while a study runs. A command shows it on a terminal, a notebook in a cell; nothing else here prints."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raystudy.running.search import CellSearch


def _nothing(text: str, style: str = "") -> None:
    pass


def _unseen(cells: "list[CellSearch]", places: Callable[[], float]) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Audience:
    """``line`` takes one line of text and a style ("yellow" for what deserves a look, "" for the rest); ``progress`` makes the context in
    which trials run, from the cells and a function that tells how many trials fit at once by now; ``abandoned`` is called in a thread,
    where a stop by SIGTERM was asked for and Ray gave no answer: it must end the process. Without it, signals are left as they are."""

    line: Callable[..., None] = _nothing
    progress: "Callable[[list[CellSearch], Callable[[], float]], AbstractContextManager[object]]" = _unseen
    abandoned: Callable[[], None] | None = None
