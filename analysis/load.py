"""Reading a study's folder into histories, and what finished trials left beside them."""

import gc
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raystudy.design.study import Cell, Study
from raystudy.record import ledger
from raystudy.record.checkpoints import arrays_path
from raystudy.record.ledger import CellHistory

Arrays = dict[str, NDArray]


def study(folder: Path, only: Collection[str] | None = None) -> tuple[Study, dict[Cell, CellHistory]]:
    """A study and the history of each of its cells that has been begun, in the order of the grid.

    ``only`` some metrics' curves where named, which takes less time and memory.
    """
    told = Study.from_toml(folder / "study.toml")
    begun = {path.stem: path for path in ledger.cells(folder)}
    collecting = gc.isenabled()
    gc.disable()  # nothing here is circular, and walking millions of values again and again takes half of the time
    try:
        return told, {cell: ledger.replay(begun[cell.key], only) for cell in told.cells() if cell.key in begun}
    finally:
        if collecting:
            gc.enable()


def arrays(folder: Path, key: str) -> Arrays | None:
    """What a finished trial left for figures (``raystudy.learn.training.Run.arrays``); None where it is absent or cannot be read."""
    try:
        with np.load(arrays_path(folder, key), allow_pickle=False) as z:
            return {name: z[name] for name in z.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
