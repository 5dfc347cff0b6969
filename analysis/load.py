"""Reading a study's folder into histories."""

from pathlib import Path

from raystudy import ledger
from raystudy.ledger import CellHistory
from raystudy.study import Cell, Study


def study(folder: Path) -> tuple[Study, dict[Cell, CellHistory]]:
    """A study and the history of each of its cells that has been begun, in the order of the grid."""
    told = Study.from_toml(folder / "study.toml")
    begun = {path.stem: path for path in ledger.cells(folder)}
    return told, {cell: ledger.replay(begun[cell.key]) for cell in told.cells() if cell.key in begun}
