"""``raystudy simulate``: recorded trials replayed under other searches. Which would have found the winner soonest? Trains nothing.

The search is the real one (``search.CellSearch``) on a ledger in memory; only the trainings are replaced, by their recorded curves. What
a sampler proposes becomes the nearest recorded point that was not tried yet (distance in the space scaled to [0, 1], logarithmic
where the space is; 0 and not 0, and different choices, are 1 apart). So a search can only be as good as what was recorded, and near the end
of the pool all searches are alike.

A trial that was stopped early is censored: its curve ends there, and so does the replayed trial, whatever the scheduler; it can never be
the winner and it costs less than it would have. Studies made with ``--scheduler none`` have no such trials.

Several workers of a cell are simulated as equally fast ones, with the virtual clock (``slack``, see ``running.clock``) or in batches. What
a search cost is what they had begun and trained when the winner is found, what was trained on while a rung could not be judged included.

The winner is the best complete trial by the study's own objective, which is a ``val/`` metric. The test set is not looked at.

A search is called sooner than another only where chance does not explain it: the comparison is made again on resampled cells and
repeats, and must come out the same way nearly always. Where it does not, the searches are level, whatever the means say.
"""

import csv
import heapq
import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import optuna
from numpy.typing import NDArray
from rich import box
from rich.markup import escape
from rich.table import Table

from analysis import load, tables
from analysis.select import value
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.names import SAMPLERS, SCHEDULERS
from raystudy.design.space import Space, coordinates, distances
from raystudy.design.study import MOST_SLACK, Cell, Study
from raystudy.errors import InputError, unknown
from raystudy.learn.point import Point
from raystudy.learn.spec import TrialSpec
from raystudy.record.ledger import CellHistory, Event, TrialHistory
from raystudy.running.clock import virtual_workers
from raystudy.running.search import CellSearch

SMALLEST = 3  # recorded points below which there is nothing to find
FEW = 5  # repeats below which nothing can be told from chance
RESAMPLES = 4000
BATCHES = "batches"
TAIL = 0.025  # of the resamples on either side of a 95 % interval


@dataclass(frozen=True)
class Options:
    """What is simulated: every sampler with every scheduler in every order, ``repeats`` times each, until ``epsilon`` from the winner."""

    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]
    repeats: int
    epsilon: float  # in units of the objective
    workers: int = 1  # of a cell
    orders: tuple[float, ...] = (1.0,)  # slack of the virtual clock; 0 for batches


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
    order: str = ""  # slack or batches; empty for one trial after the other


@dataclass(frozen=True)
class Standing:
    """A search against the soonest: epochs until the winner is found over those of the soonest, as a geometric mean over the cells."""

    search: str
    ratio: float  # infinite where it never found the winner of some cell; NaN where nothing can be compared
    low: float  # of the 95 % interval; NaN where there are too few repeats for one
    high: float
    level: bool  # chance may be all that lies between it and the soonest


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
        return self.nearest(super().suggest(trial, flat))

    def nearest(self, asked: Point) -> Point:
        """The recorded point that is nearest to this one, of those that were not tried while there are any."""
        far = distances(self.dimensions, coordinates(self.dimensions, [asked]), self._coordinates)[0]
        tried = [self._at[repr(t.point)] for t in self.history.trials.values()] if self.history else []
        if len(tried) < len(far):
            far[tried] = np.inf
        return self.points[int(np.argmin(far))]

    @cached_property
    def _at(self) -> dict[str, int]:
        return {repr(p): i for i, p in enumerate(self.points)}

    @cached_property
    def _coordinates(self) -> NDArray[np.float64]:
        return coordinates(self.dimensions, self.points)

    def paper(self, dataset: str, noise: Noise) -> tuple[Point, tuple[str, ...], str]:
        return self.points[0], (), "recorded"


def options(
    samplers: str, schedulers: str, repeats: int, epsilon: float, workers: int = 1, slack: str = "1"
) -> Options:
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
    if not 1 <= workers <= 10**4:
        raise InputError(f"--workers is {workers}; it must be from 1 to 10000")
    return Options(told[0], told[1], repeats, epsilon, workers, tuple(dict.fromkeys(map(_order, slack.split(",")))))


def _order(word: str) -> float:
    """The slack of one word, 0 for batches."""
    try:
        slack = 0.0 if word.strip() == BATCHES else float(word)
    except ValueError:
        slack = math.nan
    if not (slack or word.strip() == BATCHES) or not 0 <= slack <= MOST_SLACK:
        raise InputError(f"--slack is {word.strip()!r}; it must be above 0 and at most {MOST_SLACK}, or {BATCHES}")
    return slack


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
            searches = list(itertools.product(told.samplers, told.schedulers, range(told.repeats), told.orders))
            rows += [replay(study, cell, pool, a, b, r, told.epsilon, told.workers, o) for a, b, r, o in searches]
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
    study: Study,
    cell: Cell,
    pool: Sequence[TrialHistory],
    sampler: str,
    scheduler: str,
    repeat: int,
    epsilon: float,
    workers: int = 1,
    slack: float = 1.0,
    *,
    within: Space | None = None,
    starts: Sequence[Point] = (),
    goal: float | None = None,
    most: int | None = None,
) -> Replay:
    """One search over recorded trials, until it has a complete trial within epsilon of the best recorded one, or of ``goal``.

    ``slack`` 0: in batches; ``within``: the space, where it is not the method's own; ``starts``: points it tries first; ``most`` trials.
    """
    metric, found = study.objective, within or space.load(cell.method)
    points = [found.complete(t.point) for t in pool]
    history = CellHistory(cell.key)
    told = replace(
        study,
        sampler=sampler,
        scheduler=scheduler,
        trials=min(most or len(pool), len(pool)),
        replicates=0,
        batch=0 if slack else workers,
        virtual_workers=virtual_workers(slack, workers, 1),
        seed=study.seed + repeat,
    )

    def spec(point: Point, seed: int) -> TrialSpec:
        return TrialSpec(
            cell.method, 1, point, "", "", {}, "", "", {}, study.epochs_of(cell), seed, study.val_fraction, 0
        )

    where = Pool(found.method, found.dimensions, found.papers, found.recipe, points=tuple(points), history=history)
    first = dict.fromkeys(where._at[repr(where.nearest(p))] for p in starts)
    search = CellSearch(told, cell, where, Memory(history), history, spec, [points[i] for i in first])  # type: ignore[arg-type]
    winner = max(value(t, metric) for t in pool if t.state == "complete") if goal is None else goal
    at, now, spent, ended = math.inf, 0, 0, 0  # when the winner is found; an epoch takes 1
    trained: set[str] = set()  # not those that would only have begun then
    queue: list[tuple[int, int, str, int]] = []  # when a trial tells its next epoch, its number, key and that epoch
    while True:
        for trial in search.waiting() if at == math.inf else ():
            if len(queue) < workers:
                search.started.add(trial.key)
                heapq.heappush(queue, (now + 1, trial.number, trial.key, 0))
        if not queue or queue[0][0] > at:
            break
        now, number, key, epoch = heapq.heappop(queue)
        trial = history.trials[key]
        source = pool[where._at[repr(trial.point)]]
        v, last = source.curves[metric][epoch], epoch == source.epochs - 1
        spent += 1
        trained.add(key)
        over = search.report(
            key, epoch, [{metric: None if math.isnan(v) else v}], last and source.state == "diverged", ""
        )
        if last and not over:
            search.end(key, "pruned", "its recorded curve ends here")
        elif not over:
            heapq.heappush(queue, (now + 1, number, key, epoch + 1))
        if len(search.clock.ends) == ended:
            continue
        ended = len(search.clock.ends)
        if any(t.state == "complete" and value(t, metric) >= winner - epsilon for t in history.trials.values()):
            at = min(at, now)
    done = [t for t in history.trials.values() if t.state == "complete"]
    best = max((v for t in done if not math.isnan(v := value(t, metric))), default=-math.inf)
    return Replay(
        cell.key,
        tables.level(cell, study),
        cell.method,
        sampler,
        scheduler,
        repeat,
        len(pool),
        sum(t.state == "pruned" for t in pool),
        math.isfinite(at),
        len(trained),
        spent,
        abs(best) if math.isfinite(best) else math.nan,
        abs(winner),
        "batches" if not slack else f"slack {slack:g}" if (workers, slack) != (1, 1) else "",
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


def table(rows: Sequence[Replay], told: Options, width: int = 160) -> Table:
    """Per cell its searches, soonest first; after the cells, each search's expected epochs relative to the best of the cell."""
    out = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=f"How soon a search has a complete trial within {told.epsilon:g} of the winner (mean ± standard deviation "
        f"over {told.repeats} repeats)",
        caption="trials, epochs: of the searches that found it. expected: epochs spent per success, which orders the searches. "
        "All cells: epochs over those of the soonest search (geometric mean, 95 % interval over cells and repeats). "
        "Recorded trials are replayed: proposals become the nearest untried recorded point, and a trial that was stopped early "
        "ends where it was stopped.",
        title_justify="left",
        caption_justify="left",
    )
    columns: dict[str, list[str]] = {
        n: [] for n in ("method", "noise", "search", "found", "trials", "epochs", "expected")
    }
    ends = []
    cells = {r.cell: [s for s in rows if s.cell == r.cell] for r in rows}
    for cell in cells.values():
        searches = {_search(r): [s for s in cell if _search(s) == _search(r)] for r in cell}
        ordered = sorted(searches.items(), key=lambda item: expected_epochs(item[1]))
        for i, (name, own) in enumerate(ordered):
            expected, hits = expected_epochs(own), [r for r in own if r.found]
            shown = [_spread([r.trials for r in hits]), _spread([r.epochs for r in hits])]
            place = (own[0].method, own[0].level) if i == 0 else ("", "")
            told_expected = f"{expected:.0f}" if math.isfinite(expected) else "–"
            texts = (*place, name, f"{len(hits)} of {len(own)}", *shown, told_expected)
            for column, text in zip(columns.values(), texts, strict=True):
                column.append(text)
            ends += [len(columns["method"]) - 1] * (i == len(ordered) - 1)
    for i, s in enumerate(standings(rows)):
        texts = ("all cells" if i == 0 else "", "", s.search, "", "", "", _ratio(s) if i else "1 x")
        for column, text in zip(columns.values(), texts, strict=True):
            column.append(text)
    kept = tables.fitting(columns, width, ("trials", "epochs", "found"))
    for name in kept:
        out.add_column(name, justify="left" if name in ("method", "noise", "search") else "right", no_wrap=True)
    for i, texts in enumerate(zip(*(columns[name] for name in kept), strict=True)):
        out.add_row(*map(escape, texts), end_section=i in ends)
    return out


def standings(rows: Sequence[Replay]) -> list[Standing]:
    """All searches, the soonest first; none where no search found a winner.

    Level is what is as soon as the soonest, or sooner, in more than ``TAIL`` of the resamples. Of two searches that are the same, the one
    that comes first by chance is so named the only soonest one time in twenty; of more than two, less often. A resample draws cells, then
    repeats (the same of every search: a repeat is a seed), one fewer of each than there are, which keeps the variance right.
    """
    names = list(dict.fromkeys(map(_search, rows)))
    found = list(dict.fromkeys(r.cell for r in rows if r.found))  # where no search finds the winner, none is sooner
    if not found:
        return []
    at = {(r.cell, _search(r), r.repeat): r for r in rows}
    repeats = sorted({r.repeat for r in rows})
    grid = [[[at[c, s, i] for i in repeats] for c in found] for s in names]
    epochs = np.array([[[r.epochs for r in own] for own in cells] for cells in grid], dtype=float)
    hits = np.array([[[r.found for r in own] for own in cells] for cells in grid], dtype=float)
    whole = [_cost(e, h) for e, h in zip(epochs, hits, strict=True)]
    first = int(np.argmin(whole))
    draw = np.random.default_rng(0)
    cells = draw.integers(len(found), size=(RESAMPLES, max(1, len(found) - 1), 1))
    taken = draw.integers(len(repeats), size=(*cells.shape[:2], max(1, len(repeats) - 1)))
    costs = [_cost(e[cells, taken], h[cells, taken]) for e, h in zip(epochs, hits, strict=True)]
    told = []
    for i, name in enumerate(names):
        with np.errstate(invalid="ignore"):  # infinite against infinite, which is level
            ratio, ratios = np.exp(whole[i] - whole[first]), np.exp(costs[i] - costs[first])
        low = high = math.nan
        level = True
        if i == first:
            ratio = low = high = 1.0
        elif len(repeats) >= FEW:
            level = bool(np.mean(~(ratios > 1)) > TAIL)
            ends = np.sort(np.where(np.isnan(ratios), 1, ratios))  # by rank: infinite ones cannot be interpolated
            low, high = float(ends[int(TAIL * RESAMPLES)]), float(ends[-1 - int(TAIL * RESAMPLES)])
        told.append((i != first, whole[i], Standing(name, float(ratio), low, high, level)))
    return [s for *_, s in sorted(told, key=lambda item: item[:2])]


def _cost(epochs: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Logarithm of the expected epochs of one search, repeats last and cells before them, averaged over the cells."""
    with np.errstate(divide="ignore"):
        return np.log(epochs.sum(-1) / hits.sum(-1)).mean(-1)


def verdict(rows: Sequence[Replay]) -> str:
    """Which search found the winners soonest, in one line; more than one, with the numbers, where chance may be all that parts them."""
    found = standings(rows)
    if not found:
        return "no search found a winner"
    first, *others = found
    if not others:
        return f"soonest: {first.search}, the only search"
    repeats, ahead = len({r.repeat for r in rows}), f"{first.search} is ahead"
    level = ", ".join(_took(s) for s in others if s.level)
    if repeats < FEW:
        return (
            f"no winner is named: {repeats} repeats are too few to tell from chance (at least {FEW}); {ahead}, {level}"
        )
    if level:
        return f"no single winner: {ahead}, but not beyond chance: {level}"
    return f"soonest: {first.search}; the next, {_took(others[0])}"


def _took(s: Standing) -> str:
    return (
        f"{s.search} took {_ratio(s)} its epochs"
        if math.isfinite(s.ratio)
        else f"{s.search} never found the winner of some cell"
    )


def _search(r: Replay) -> str:
    return f"{r.sampler} + {r.scheduler}" + (f", {r.order}" if r.order else "")


def _ratio(s: Standing) -> str:
    """``1.03 x (0.81 to 1.30)``, a dash for what is infinite or unknown."""
    ratio, low, high = (f"{v:.2f}" if math.isfinite(v) else "–" for v in (s.ratio, s.low, s.high))
    return f"{ratio} x" if math.isnan(s.low) else f"{ratio} x ({low} to {high})"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"
