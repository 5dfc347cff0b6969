"""What a study will take before it is run: cells, trials, epochs, device-hours and money, each with its uncertainty.

Nothing is written. What is in the ledger is not counted again. The pace (seconds an epoch) comes from records where there are any: of the
cell, else of the same method, data set and network at other noise levels or in other studies of the storage. Else it is measured by
``Probe``: the method itself for a few epochs where an epoch is short; where it is long, the method's passes through the network on
a stand-in, times what one pass of that network costs here.

All ranges are (low, middle, high). Trials and epochs: low where the scheduler stops all it may and the chosen point is the published one,
high where it stops none; the middle lets the best third of each rung go on. Pace: the spread of the records, or a factor for a probe.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from raystudy.design import space
from raystudy.design.space import Space
from raystudy.design.study import Cell, Study, study_dir
from raystudy.errors import InputError
from raystudy.learn import samples
from raystudy.record import ledger
from raystudy.record.ledger import CellHistory
from raystudy.running.budget import Price
from raystudy.running.pace import NOTHING, Kind, Pace, Probe, Range, elsewhere, facts, per_epoch, spread_of
from raystudy.running.pruning import PEERS, REDUCTION, rungs
from raystudy.running.resources import Resources
from raystudy.running.samplers import settled


@dataclass(frozen=True)
class Work:
    """What is left of a cell."""

    trials: Range
    epochs: Range
    leaving: Range = NOTHING  # trainings that leave what they hold of every image (``learn.samples``)


def added(several: Iterable[Work]) -> Work:
    trials, epochs, leaving = NOTHING, NOTHING, NOTHING
    for work in several:
        trials, epochs, leaving = trials.plus(work.trials), epochs.plus(work.epochs), leaving.plus(work.leaving)
    return Work(trials, epochs, leaving)


@dataclass(frozen=True)
class Row:
    """The cells of one method, data set and network."""

    method: str
    dataset: str
    network: str
    cells: int
    work: Work
    seconds: Range  # of training
    left: Range  # bytes in arrays/, before compression
    paces: tuple[Pace, ...]


@dataclass(frozen=True)
class Plan:
    """What a study will take."""

    study: Study
    rows: tuple[Row, ...]
    done: tuple[int, int, int, float]  # trials that have ended, that have begun, epochs, seconds: in the ledger
    slots: float  # trials at once
    device: str  # GPU or CPU
    per_trial: float  # devices of a trial
    price: Price
    gpu_elsewhere: bool = False  # trials are planned for GPUs, and this machine has none

    @property
    def work(self) -> Work:
        return added([row.work for row in self.rows])

    @property
    def hours(self) -> Range:
        """Of one trial after the other."""
        total = NOTHING
        for row in self.rows:
            total = total.plus(row.seconds)
        return total.scaled(1 / 3600)

    @property
    def left(self) -> Range:
        """Bytes that trainings leave of single images."""
        total = NOTHING
        for row in self.rows:
            total = total.plus(row.left)
        return total

    @property
    def device_hours(self) -> Range:
        return self.hours.scaled(self.per_trial)


# -- what is left --------------------------------------------------------------------------------------------------------------------


def work(study: Study, cell: Cell, space_: Space, history: CellHistory | None) -> Work:
    """Trials and epochs that a cell still needs."""
    epochs = study.epochs_of(cell)
    target = study.trials if space_.dimensions else 1
    trials = list(history.trials.values()) if history else []
    searched = [t for t in trials if t.origin != "replicate"]
    first, middle = _stopped(study, cell, space_) if target > 1 else (epochs, float(epochs))
    new = max(0, target - len(searched))
    whole = min(max(0, PEERS - len(searched)), new)  # the first are not stopped: nothing to compare them with
    left = sum((t.planned or epochs) - t.epochs for t in trials if t.state == "running")
    final = study.final_epochs_of(cell)
    longer = final if final > epochs else 0
    stopped = max(0, new - whole)
    search = Range(
        left + whole * epochs + stopped * first, left + whole * epochs + stopped * middle, left + new * epochs
    )

    every = [t for t in trials if t.origin == "replicate"]
    distinct = len({tuple(sorted(t.point.items())) for t in every})
    told, repeats = [t for t in every if t.planned == longer], study.replicates or int(longer > 0)
    over = not new and all(t.state != "running" for t in searched)
    points = (distinct,) * 3 if every and over else (1, 1.5, 2) if target > 1 else (1, 1, 1)
    more = Range(*(max(0.0, repeats * p - len(told)) for p in points))
    running = sum(t.state == "running" for t in trials)
    ahead = Range(*(running + new + m for m in more))
    repeated = sum(t.state == "running" for t in told)
    leaving = Range(*(repeated + m for m in more)) if study.replicates else ahead
    return Work(ahead, search.plus(more.scaled(final)), leaving)


def _each(study: Study, cell: Cell, root: Path) -> int:
    """Bytes that one training leaves of single images."""
    _, classes, train, _ = facts(cell.dataset, root)
    held = round(train * study.val_fraction)
    return samples.size(train - held, held, classes)


def _stopped(study: Study, cell: Cell, space_: Space) -> tuple[int, float]:
    """Epochs of a trial that is stopped as early as can be, and of the average one if a third of each rung goes on."""
    epochs = study.epochs_of(cell)
    levels = rungs(study, cell, space_, space_.paper(cell.dataset, cell.noise)[0])
    if not levels:
        return epochs, float(epochs)
    marks = [*levels, epochs]
    middle = marks[0] + sum((b - a) / REDUCTION ** (k + 1) for k, (a, b) in enumerate(itertools.pairwise(marks)))
    return levels[0], middle


# -- the plan ------------------------------------------------------------------------------------------------------------------------


def made(
    study: Study,
    storage: Path,
    resources: Resources,
    price: Price,
    probe_seconds: float = 60.0,
    tell: Callable[[str], None] = lambda text: None,
    longer: bool = False,
) -> Plan:
    """The plan of a study, with what its folder in the storage already holds. Writes nothing.

    ``price``: of one trial's hour; ``probe_seconds``: how long may be measured what no ledger tells; ``tell`` hears what is being measured.
    ``longer``: its epochs were said, see ``Study.grown_from``.
    """
    from raystudy.running.resources import capacity

    folder = study_dir(storage, study.name)
    if (folder / "study.toml").exists():
        study = study.grown_from(Study.from_toml(folder / "study.toml"), longer)
    study = settled(study)
    if not (math.isfinite(probe_seconds) and probe_seconds >= 0):
        raise InputError(f"--probe-seconds is {probe_seconds:g}; it must be 0 or more")
    begun = {path.stem: path for path in ledger.cells(folder)}
    histories = {cell: ledger.replay(begun[cell.key]) for cell in study.cells() if cell.key in begun}
    spaces = {method: space.load(method) for method in study.methods}
    kinds: dict[Kind, list[Cell]] = defaultdict(list)
    for cell in study.cells():
        kinds[cell.method, cell.dataset, study.network_of(cell)].append(cell)
    mine = {cell: per_epoch(h.trials.values()) for cell, h in histories.items()}
    pooled = {kind: [m for c in cells for m in mine.get(c, ())] for kind, cells in kinds.items()}
    others = elsewhere(storage, {kind for kind, means in pooled.items() if not means}, study.name)
    probe = Probe(study, resources.data_root, resources.gpus, probe_seconds, resources.threads)
    rows = []
    for n, (kind, cells) in enumerate(kinds.items(), 1):
        total, seconds, size = Work(NOTHING, NOTHING), NOTHING, 0
        paces: dict[str, Pace] = {}
        for cell in cells:
            left = work(study, cell, spaces[cell.method], histories.get(cell))
            total = added([total, left])
            if not left.epochs.high:
                continue
            size = size or _each(study, cell, resources.data_root)
            if means := mine.get(cell):
                pace = spread_of(means, "of this study")
            elif "rest" in paces:
                pace = paces["rest"]
            elif pooled[kind]:
                pace = paces["rest"] = spread_of(pooled[kind], "of this study at other noise")
            elif others.get(kind):
                pace = paces["rest"] = spread_of(others[kind], "of other studies in the storage")
            else:
                tell(f"measuring {n} of {len(kinds)}: {', '.join(kind)}")
                pace = paces["rest"] = probe.pace(cell)
            paces[pace.source] = pace
            seconds = seconds.plus(left.epochs.times(pace.seconds))
        told = tuple({p.source: p for p in paces.values()}.values())
        rows.append(Row(*kind, len(cells), total, seconds, total.leaving.scaled(size), told))
    trials = [t for h in histories.values() for t in h.trials.values()]
    spent = math.fsum(v for t in trials for v in t.curves.get("cost/seconds", ()) if math.isfinite(v))
    ended = sum(t.state != "running" for t in trials)
    done = (ended, len(trials) - ended, sum(t.epochs for t in trials), spent)
    device, each = ("GPU", resources.gpus) if resources.gpus else ("CPU", resources.cpus)
    no_gpu = resources.gpus > 0 and probe.device == "cpu"
    not_here = no_gpu or resources.address
    slots = (not_here and resources.max_concurrent) or capacity(resources)  # of other machines only the user knows
    return Plan(study, tuple(rows), done, slots, device, each, price, no_gpu)
