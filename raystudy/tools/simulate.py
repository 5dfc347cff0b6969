"""``raystudy simulate``: recorded trials replayed under other searches. Which would have found the winner soonest? Trains nothing.

The search is the real one (``search.CellSearch``) on a ledger in memory; only the trainings are replaced, by their recorded curves. What
a sampler proposes becomes the nearest recorded point that was not tried yet (distance in the space scaled to [0, 1], logarithmic
where the space is; 0 and not 0, and different choices, are 1 apart). So a search can only be as good as what was recorded, and near the end
of the pool all searches are alike.

A trial that was stopped early is censored: its curve ends there, and so does the replayed trial, whatever the scheduler; it can never be
the winner and it costs less than it would have. Studies made with ``--scheduler none`` have no such trials.

The winner is the best complete trial by the study's own objective, which is a ``val/`` metric. The test set is not looked at.
"""

import csv
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import optuna
from rich import box
from rich.markup import escape
from rich.table import Table

from analysis import load, tables
from analysis.select import value
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.names import SAMPLERS, SCHEDULERS
from raystudy.design.space import Dimension, Space
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError, unknown
from raystudy.learn.point import Point
from raystudy.learn.spec import TrialSpec
from raystudy.record.ledger import CellHistory, Event, TrialHistory
from raystudy.running.search import CellSearch

SMALLEST = 3  # recorded points below which there is nothing to find


@dataclass(frozen=True)
class Options:
    """What is simulated: every sampler with every scheduler, ``repeats`` times each, until ``epsilon`` from the winner."""

    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]
    repeats: int
    epsilon: float  # in units of the objective


@dataclass(frozen=True)
class Replay:
    """One simulated search of one cell, up to the trial that was within epsilon of the winner, or to its end."""

    cell: str
    level: str  # noise, for people
    method: str
    sampler: str
    scheduler: str
    repeat: int
    pool: int  # recorded points
    censored: int  # ... of which curves end early
    found: bool
    trials: int
    epochs: int
    best: float  # the objective of the best complete trial; NaN without one
    winner: float  # of the best recorded one


class Memory:
    """A ledger that forgets: what ``CellSearch`` needs of one."""

    dir = Path("/nonexistent")  # there are no checkpoints

    def __init__(self, history: CellHistory) -> None:
        self.history = history

    def append(self, key: str, *new: Event) -> None:
        for event in new:
            self.history.apply({**event, "time": 0})


@dataclass(frozen=True)
class Pool(Space):
    """A search space that holds recorded points only: a proposal becomes the nearest one that was not tried."""

    points: tuple[Point, ...] = ()
    history: CellHistory | None = None

    def suggest(self, trial: optuna.Trial, flat: bool = False) -> Point:
        asked = super().suggest(trial, flat)
        tried = [t.point for t in self.history.trials.values()] if self.history else []
        free = [p for p in self.points if p not in tried] or list(self.points)
        return min(free, key=lambda p: distance(self.dimensions, asked, p))

    def paper(self, dataset: str, noise: Noise) -> tuple[Point, tuple[str, ...], str]:
        return self.points[0], (), "recorded"


def scaled(d: Dimension, v: float) -> float:
    """A value within its dimension's interval, 0 to 1."""
    low, high, v = (math.log(x) for x in (d.low, d.high, v)) if d.log else (d.low, d.high, v)
    return (v - low) / (high - low)


def distance(dimensions: Iterable[Dimension], a: Point, b: Point) -> float:
    """How far two points are apart, squared, each dimension counting 1 from end to end."""
    total = 0.0
    for d in dimensions:
        x, y = a[d.name], b[d.name]
        if x == y:
            continue
        apart = d.choices or (d.or_zero and 0 in (x, y))
        total += 1.0 if apart else (scaled(d, x) - scaled(d, y)) ** 2
    return total


def options(samplers: str, schedulers: str, repeats: int, epsilon: float) -> Options:
    """The command line's words, checked. Raises InputError."""
    told = []
    for what, text, choices in (("sampler", samplers, SAMPLERS), ("scheduler", schedulers, SCHEDULERS)):
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in names:
            if name not in choices:
                raise unknown(what, name, choices)
        told.append(names)
    if repeats < 1:
        raise InputError(f"--repeats is {repeats}; it must be at least 1")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise InputError(f"--epsilon is {epsilon:g}; it must be 0 or more")
    return Options(told[0], told[1], repeats, epsilon)


def simulate(folder: Path, told: Options, say: Callable[[str], None] = lambda line: None) -> list[Replay]:
    """Replays every cell of a study that has enough trials. Raises InputError if none has."""
    study, histories = load.study(folder)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows: list[Replay] = []
    try:
        for cell, history in histories.items():
            pool = recorded(study, history)
            if len(pool) < SMALLEST or not any(t.state == "complete" for t in pool):
                say(f"{cell.key}: {len(pool)} recorded points are too few, left out")
                continue
            began = time.monotonic()
            searches = [(a, b, r) for a in told.samplers for b in told.schedulers for r in range(told.repeats)]
            rows += [replay(study, cell, pool, *search, told.epsilon) for search in searches]
            cut = sum(t.state == "pruned" for t in pool)
            note = f", {cut} of them censored (stopped early)" if cut else ""
            say(f"{cell.key}: {len(searches)} searches over {len(pool)} points{note}, {time.monotonic() - began:.0f} s")
    finally:
        optuna.logging.set_verbosity(verbosity)
    if not rows:
        raise InputError(f"study {study.name} has no cell with {SMALLEST} recorded points and a complete trial")
    return rows


def recorded(study: Study, history: CellHistory) -> list[TrialHistory]:
    """The trials of a cell's search that tell something, the published point first, one a point."""
    told: dict[str, TrialHistory] = {}
    for t in sorted(history.trials.values(), key=lambda t: t.number):
        ended = t.state in ("complete", "pruned", "diverged") and study.objective in t.curves
        if t.origin != "replicate" and ended:
            told.setdefault(json.dumps(t.point, sort_keys=True), t)
    return list(told.values())


def replay(
    study: Study, cell: Cell, pool: Sequence[TrialHistory], sampler: str, scheduler: str, repeat: int, epsilon: float
) -> Replay:
    """One search over recorded trials, until it has a complete trial within epsilon of the best recorded one."""
    metric, found = study.objective, space.load(cell.method)
    points = [found.complete(t.point) for t in pool]
    history = CellHistory(cell.key)
    told = replace(
        study, sampler=sampler, scheduler=scheduler, trials=len(pool), replicates=0, batch=1, seed=study.seed + repeat
    )

    def spec(point: Point, seed: int) -> TrialSpec:
        return TrialSpec(
            cell.method, 1, point, "", "", {}, "", "", {}, study.epochs_of(cell), seed, study.val_fraction, 0
        )

    where = Pool(found.method, found.dimensions, found.papers, found.recipe, tuple(points), history)
    search = CellSearch(told, cell, where, Memory(history), history, spec)  # type: ignore[arg-type]
    winner = max(value(t, metric) for t in pool if t.state == "complete")
    best = -math.inf
    while best < winner - epsilon and (trial := next(search.waiting(), None)):
        source = pool[points.index(trial.point)]
        search.started.add(trial.key)
        for epoch, v in enumerate(source.curves[metric]):
            diverged = source.state == "diverged" and epoch == source.epochs - 1
            metrics = {metric: None if math.isnan(v) else v}
            if search.report(trial.key, epoch, [metrics], diverged, ""):
                break
        if trial.state == "running":
            search.end(trial.key, "pruned", "its recorded curve ends here")
        if trial.state == "complete" and not math.isnan(value(trial, metric)):
            best = max(best, value(trial, metric))
    ended = [t for t in history.trials.values() if t.state != "running"]
    return Replay(
        cell.key,
        tables.level(cell, study),
        cell.method,
        sampler,
        scheduler,
        repeat,
        len(pool),
        sum(t.state == "pruned" for t in pool),
        best >= winner - epsilon,
        len(ended),
        sum(t.epochs for t in ended),
        abs(best) if math.isfinite(best) else math.nan,
        abs(winner),
    )


def expected_epochs(rows: Sequence[Replay]) -> float:
    """Epochs until the winner is found if a search that misses it is begun again: all epochs spent, per success."""
    hits = sum(r.found for r in rows)
    return sum(r.epochs for r in rows) / hits if hits else math.inf


def write(rows: Sequence[Replay], file: Path) -> None:
    """All searches as CSV, one a line. Raises InputError if it cannot be written."""
    new = file.with_name(f".{file.name}.new")
    try:
        with new.open("w", newline="", encoding="utf-8") as f:
            out = csv.DictWriter(f, [field.name for field in fields(Replay)])
            out.writeheader()
            out.writerows(asdict(r) for r in rows)
        os.replace(new, file)
    except OSError as e:
        raise InputError(f"cannot write {file}: {e.strerror}") from None


def table(rows: Sequence[Replay], told: Options) -> Table:
    """Per cell its searches, soonest first; after the cells, each search's expected epochs relative to the best of the cell."""
    out = Table(
        box=box.SIMPLE_HEAD,
        title=f"How soon a search has a complete trial within {told.epsilon:g} of the winner (mean ± standard deviation "
        f"over {told.repeats} repeats)",
        caption="trials, epochs: of the searches that found it. expected: epochs spent per success, which orders the searches. "
        "Recorded trials are replayed: proposals become the nearest untried recorded point, and a trial that was stopped early "
        "ends where it was stopped.",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("method", "noise", "search"):
        out.add_column(name, no_wrap=True)
    for name in ("found", "trials", "epochs", "expected"):
        out.add_column(name, justify="right", no_wrap=True)
    relative: dict[str, list[float]] = {}
    cells = {r.cell: [s for s in rows if s.cell == r.cell] for r in rows}
    for cell in cells.values():
        searches = {f"{r.sampler} + {r.scheduler}": [s for s in cell if _same(s, r)] for r in cell}
        ordered = sorted(searches.items(), key=lambda item: expected_epochs(item[1]))
        soonest = expected_epochs(ordered[0][1])
        for i, (name, own) in enumerate(ordered):
            expected, hits = expected_epochs(own), [r for r in own if r.found]
            if math.isfinite(soonest):
                relative.setdefault(name, []).append(expected / soonest)
            shown = [_spread([r.trials for r in hits]), _spread([r.epochs for r in hits])]
            place = (own[0].method, own[0].level) if i == 0 else ("", "")
            told_expected = f"{expected:.0f}" if math.isfinite(expected) else "–"
            out.add_row(
                *map(escape, place),
                name,
                f"{len(hits)} of {len(own)}",
                *shown,
                told_expected,
                end_section=i == len(ordered) - 1,
            )
    if len(cells) > 1:
        means = {name: float(np.mean(values)) for name, values in relative.items()}
        for i, (name, mean) in enumerate(sorted(means.items(), key=lambda item: item[1])):
            out.add_row(
                "all cells" if i == 0 else "", "", name, "", "", "", f"{mean:.2f} x" if math.isfinite(mean) else "–"
            )
    return out


def verdict(rows: Sequence[Replay]) -> str:
    """Which search found the winners soonest, in one line."""
    searches = list(dict.fromkeys((r.sampler, r.scheduler) for r in rows))
    cells = list(dict.fromkeys(r.cell for r in rows))
    firsts = {s: 0 for s in searches}
    for cell in cells:
        expected = {
            s: expected_epochs([r for r in rows if (r.cell, r.sampler, r.scheduler) == (cell, *s)]) for s in searches
        }
        for s in searches:
            firsts[s] += math.isfinite(expected[s]) and expected[s] == min(expected.values())
    most = max(firsts.values())
    names = " and ".join(f"{a} + {b}" for (a, b), n in firsts.items() if n == most)
    return f"soonest: {names}, first or level in {most} of {len(cells)} cells" if most else "no search found a winner"


def _same(a: Replay, b: Replay) -> bool:
    return (a.sampler, a.scheduler) == (b.sampler, b.scheduler)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"
