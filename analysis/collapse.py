"""Early failure, told: trainings that predicted one class, or weighed all samples alike, for epochs on end after their warm-up."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from raystudy.design.study import Cell
from raystudy.record.ledger import CellHistory, TrialHistory

METRIC = "method/collapsed"  # recorded by ``learn.training`` from the third such epoch on
WHAT = {1.0: "one class predicted", 2.0: "all weights equal (as if nothing were weighed)"}  # by its value
WHEN = "for three epochs or more after the warm-up"


class Collapsed(NamedTuple):
    """The trainings of a cell that did, in the order they were proposed."""

    cell: Cell
    trials: list[TrialHistory]
    of: int  # trainings of the cell in all


def epochs(trial: TrialHistory) -> list[int]:
    """The epochs, from 0, in which a training had collapsed; none where it never did."""
    return [t for t, v in enumerate(trial.curves.get(METRIC, ())) if v in WHAT]


def said(values: Iterable[float | None]) -> str:
    """What values of ``METRIC`` tell, in words."""
    seen = set(values)
    return " and ".join(told for value, told in WHAT.items() if value in seen)


def what(trials: Sequence[TrialHistory]) -> str:
    """What happened to trainings that collapsed, in words."""
    return said(v for t in trials for v in t.curves.get(METRIC, ()))


def found(histories: Mapping[Cell, CellHistory], cells: Sequence[Cell]) -> list[Collapsed]:
    """Those of ``cells`` of which a training has collapsed."""
    told = []
    for cell in cells:
        trials = list(histories[cell].trials.values()) if cell in histories else []
        if fallen := [t for t in trials if epochs(t)]:
            told.append(Collapsed(cell, fallen, len(trials)))
    return told
