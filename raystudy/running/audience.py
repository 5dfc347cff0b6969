"""Who is told what happens while a study runs. A command shows it on a terminal, a notebook in a cell; nothing else here prints."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsFloat

if TYPE_CHECKING:
    from raystudy.running.search import CellSearch


def _nothing(text: str, style: str = "") -> None:
    pass


def _unseen(cells: "list[CellSearch]", places: SupportsFloat) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Audience:
    """``line`` takes one line of text and a style ("yellow" for what deserves a look, "" for the rest); ``progress`` makes the context in
    which trials run, from the cells and how many trials fit at once, which may change; ``abandoned`` is called in a thread, where a stop
    by SIGTERM was asked for and Ray gave no answer: it must end the process. Without it, signals are left as they are."""

    line: Callable[..., None] = _nothing
    progress: "Callable[[list[CellSearch], SupportsFloat], AbstractContextManager[object]]" = _unseen
    abandoned: Callable[[], None] | None = None
