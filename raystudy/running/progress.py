"""How far a running study is: counts, the best so far and the time left of every cell, read and never changed. Shows nothing itself."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

from analysis.select import VAL, best, evaluated, reached, value
from analysis.tables import point as described
from raystudy.record.ledger import TrialHistory
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
    best: float  # noisy validation accuracy of the point chosen so far, as `status` tells it; NaN before a trial is complete
    now: float  # the newest of the training that is furthest along; NaN where none runs
    left: float  # seconds on one worker
    point: str  # the point chosen so far, for people
    current: str  # that of the training that is furthest along
    path: tuple[float, ...]  # the objective of the best point so far, after each complete trial of the search

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
    metric = search.study.objective
    searched = [t for t in trials if t.origin != "replicate"]
    picked = best(searched, lambda t: value(t, metric))
    under_way = [t for t in trials if t.state == "running" and t.key in search.busy]
    current = max(under_way, key=lambda t: (t.epochs, -t.number), default=None)
    return Row(
        search,
        done=states["complete"],
        running=running,
        pruned=states["pruned"],
        failed=failed,
        of=total,
        best=reached(picked) if picked else math.nan,
        now=next(reversed(evaluated(list(current.curves.get(VAL, ())))), math.nan) if current else math.nan,
        left=search.remaining() * pace if search.remaining() else 0.0,
        point=described(picked.point) if picked else "",
        current=described(current.point) if current else "",
        path=_path(searched, metric),
    )


def _path(trials: list[TrialHistory], metric: str) -> tuple[float, ...]:
    """The best objective so far after each complete trial, in the order of their numbers."""
    known = [value(t, metric) for t in sorted(trials, key=lambda t: t.number) if t.state == "complete"]
    return tuple(accumulate((v for v in known if not math.isnan(v)), max))
