"""The models that a study has kept, beside what its ledger says of their trainings: for lists on a terminal and in a report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from analysis import load, truth
from analysis.select import VAL, standing, value, winners
from raystudy.design.study import Cell, Study
from raystudy.errors import unknown
from raystudy.record import models
from raystudy.record.ledger import CellHistory, TrialHistory

READ = ("val/acc", "val/loss", "test/acc")  # the metrics that are looked at here


@dataclass(frozen=True)
class Found:
    """A model that is kept."""

    name: str  # of what is made of it: the cell's key, with the trial's where a cell has several
    cell: str
    condition: str
    method: str
    key: str  # of its trial
    card: Path
    origin: str
    seed: int
    oracle: bool  # whether its point was read off the truth
    val: float  # noisy validation accuracy of these weights, of the last epoch
    test: float
    tested: str  # what ``test`` is called
    size: int  # bytes of the weights
    standing: bool  # whether it is the one that stands for its cell
    winner: bool  # whether it is the best of its condition by noisy validation


def found(folder: Path) -> list[Found]:
    """The models of a study, in the order of its grid. Those that its ledger knows nothing of are left out."""
    study, histories = load.study(folder, only=READ)
    return of(folder, study, histories)


def of(folder: Path, study: Study, histories: dict[Cell, CellHistory]) -> list[Found]:
    """The same of a study that was read."""
    by_cell: dict[str, list[models.Kept]] = {}
    for one in models.listed(folder):
        by_cell.setdefault(one.cell, []).append(one)
    there = [
        (cell, history, [k for k in by_cell.get(cell.key, ()) if k.key in history.trials])
        for cell, history in histories.items()
    ]
    first: dict[str, TrialHistory] = {}
    worth: dict[str, tuple[str, float]] = {}
    for cell, history, kept in there:
        if trial := standing(history, {k.key for k in kept}):
            first[cell.key] = trial
            worth[cell.key] = cell.condition, value(trial, history.header.get("objective", VAL))
    best = winners(worth)
    return [
        _found(cell, history, k, len(kept) > 1, first.get(cell.key), cell.key in best)
        for cell, history, kept in there
        for k in kept
    ]


def _found(
    cell: Cell, history: CellHistory, kept: models.Kept, several: bool, first: TrialHistory | None, best: bool
) -> Found:
    trial = history.trials[kept.key]
    stands = first is not None and first.key == kept.key
    weights = kept.told.get("weights")
    size = weights.get("bytes") if isinstance(weights, dict) else 0
    return Found(
        name=f"{cell.key}_{kept.key}" if several else cell.key,
        cell=cell.key,
        condition=cell.condition,
        method=cell.method,
        key=kept.key,
        card=kept.card,
        origin=trial.origin,
        seed=trial.seed,
        oracle=_oracle(history, trial),
        val=_last(trial, "val/acc"),
        test=_last(trial, "test/acc"),
        tested=truth.measured([history.header]),
        size=size if isinstance(size, int) else 0,
        standing=stands,
        winner=stands and best,
    )


def _oracle(history: CellHistory, trial: TrialHistory) -> bool:
    """A replicate of the published point is as much read off the truth as trial 0, whichever of them says so."""
    return any(truth.oracle(t, history.header) for t in history.trials.values() if t.point == trial.point)


def _last(trial: TrialHistory, metric: str) -> float:
    curve: Any = trial.curves.get(metric)
    return curve[-1] if curve else math.nan


def chosen(every: Sequence[Found], cells: Sequence[str] | None) -> list[Found]:
    """Those of some cells. Raises InputError for a cell that has none."""
    for name in cells or ():
        if name not in {m.cell for m in every}:
            raise unknown("cell with a model", name, {m.cell for m in every})
    return [m for m in every if not cells or m.cell in cells]


def why_none(folder: Path) -> str:
    """Why a study may have none, in one line."""
    if Study.from_toml(folder / "study.toml").keeps == "none":
        return "it is run with --keep-models none"
    return "no training has ended since models are kept (those from before left none)"


COLUMNS = ("cell", "trained as", "val", "test", "MB", "model")


def row(m: Found) -> list[str]:
    """What a list tells of a model, a text for each of COLUMNS."""
    seed = f"{m.origin} seed {m.seed}" + "*" * m.oracle
    mark = " (best)" if m.winner else ""
    return [f"{m.cell}{mark}", seed, _percent(m.val), _percent(m.test), f"{m.size / 1e6:.1f}", f"{m.key}.json"]


def _percent(v: float) -> str:
    return "–" if math.isnan(v) else f"{100 * v:.2f}"


def note(every: Sequence[Found]) -> str:
    """How a list is to be read."""
    measured = {m.tested for m in every}
    told = next(iter(measured)) if len(measured) == 1 else truth.MIXED
    star = " *: its point was read off the truth, so its number is no result." if any(m.oracle for m in every) else ""
    return (
        f"Weights of the last epoch. val: their noisy validation accuracy, test: their {told}, in %. best: of its condition by noisy "
        f"validation, never by test.{star}"
    )


def table(every: Sequence[Found], width: int) -> Table:
    """The list for a terminal."""
    made = Table(box=box.SIMPLE_HEAD, caption=note(every), caption_justify="left", padding=(0, 1, 0, 0))
    for name in COLUMNS:
        made.add_column(name, justify="right" if name in ("val", "test", "MB") else "left", overflow="fold")
    for m in every:
        made.add_row(*map(escape, row(m)))
    return made
