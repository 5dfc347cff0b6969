"""How far a running study is: counts, the best so far and the time left of every cell, read and never changed. Shows nothing itself."""

import math
from collections import Counter
from dataclasses import dataclass

from analysis.select import evaluated
from analysis.tables import point as described
from raystudy.running.search import CellSearch


@dataclass(frozen=True)
class Row:
    """A cell at one moment."""

    search: CellSearch
    done: int
    running: int
    pruned: int
    failed: int  # and diverged
    of: int  # trials, replicates included, as far as can be told
    best: float  # noisy validation accuracy so far, 0 before there is any
    left: float  # seconds on one worker
    point: str  # of the trial that is best so far, for people

    @property
    def ended(self) -> int:
        return self.done + self.pruned + self.failed


@dataclass(frozen=True)
class Snapshot:
    """A study at one moment."""

    rows: tuple[Row, ...]
    left: float  # seconds to the end: all the work over all the workers; NaN before anything is known

    @property
    def ended(self) -> int:
        return sum(row.ended for row in self.rows)

    @property
    def of(self) -> int:
        return sum(row.of for row in self.rows)


def snapshot(cells: list[CellSearch], places: float) -> Snapshot:
    """Before a cell has records, its pace is the slowest seen elsewhere."""
    paces = [c.pace() for c in cells]
    slowest = max((p for p in paces if not math.isnan(p)), default=math.nan)
    rows = tuple(_row(c, slowest if math.isnan(p) else p) for c, p in zip(cells, paces, strict=True))
    return Snapshot(rows, math.fsum(row.left for row in rows) / max(places, 1) if rows else math.nan)


def _row(search: CellSearch, pace: float) -> Row:
    trials = list(search.history.trials.values())
    states = Counter(t.state for t in trials)
    running = sum(t.state == "running" and t.key in search.busy for t in trials)
    failed = states["failed"] + states["diverged"]
    known = max(search.target, len(search.searched())) if not search.finished() else 0
    planned = sum(t.origin == "replicate" for t in trials) + search.unplanned()
    total = known + planned if known else len(trials)
    reached = [(max(evaluated(list(t.curves.get("val/acc", ()))), default=0.0), t.point) for t in trials]
    best, point = max(reached, key=lambda r: r[0], default=(0.0, {}))
    left = search.remaining() * pace if search.remaining() else 0.0
    return Row(
        search,
        states["complete"],
        running,
        states["pruned"],
        failed,
        total,
        best,
        left,
        described(point) if best else "",
    )
