"""What a study will take before it is run: cells, trials, epochs, device-hours and money, each with its uncertainty.

Nothing is written. What is in the ledger is not counted again. The pace (seconds an epoch) comes from records where there are any: of the
cell, else of the same method, data set and network at other noise levels or in other studies of the storage. Else it is measured by
``Probe``: the method itself for a few epochs where an epoch is short; where it is long, the method's passes through the network on
a stand-in, times what one pass of that network costs here.

All ranges are (low, middle, high). Trials and epochs: low where the scheduler stops all it may and the chosen point is the published one,
high where it stops none; the middle lets the best third of each rung go on. Pace: the spread of the records, or a factor for a probe.
"""

import argparse
import itertools
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.space import Space
from raystudy.design.study import Cell, Study, study_dir
from raystudy.errors import InputError
from raystudy.learn.spec import TrialSpec
from raystudy.record import ledger
from raystudy.record.ledger import CellHistory, TrialHistory
from raystudy.run.budget import Price, price
from raystudy.run.progress import duration
from raystudy.run.pruning import PEERS, REDUCTION, rungs

if TYPE_CHECKING:
    from raystudy.run.execute import Resources

FEW = 3  # trials that have to be recorded before their spread counts
SPREAD_FEW = (0.8, 1.25)  # factors on the pace: records of one or two trials,
SPREAD_DIRECT = (0.7, 1.6)  # ... the method itself was probed (trials run side by side later),
SPREAD_SCALED = (0.4, 2.5)  # ... passes times their cost
SHORT = 1.0  # seconds an epoch up to which the method itself is probed
PROBE_EPOCHS = 8  # of a probe: durations are fractions of them, so that all phases of a method are seen


class Range(NamedTuple):
    """Low, middle, high."""

    low: float
    mid: float
    high: float

    def plus(self, other: "Range") -> "Range":
        return Range(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, other: "Range") -> "Range":
        return Range(*(a * b for a, b in zip(self, other, strict=True)))

    def scaled(self, factor: float) -> "Range":
        return Range(*(a * factor for a in self))


NOTHING = Range(0, 0, 0)
UNKNOWN = Range(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Work:
    """What is left of a cell."""

    trials: Range
    epochs: Range


@dataclass(frozen=True)
class Pace:
    """Seconds an epoch, and where they are from."""

    seconds: Range
    source: str


@dataclass(frozen=True)
class Row:
    """The cells of one method, data set and network."""

    method: str
    dataset: str
    network: str
    cells: int
    work: Work
    seconds: Range  # of training
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

    @property
    def work(self) -> Work:
        trials, epochs = NOTHING, NOTHING
        for row in self.rows:
            trials, epochs = trials.plus(row.work.trials), epochs.plus(row.work.epochs)
        return Work(trials, epochs)

    @property
    def hours(self) -> Range:
        """Of one trial after the other."""
        total = NOTHING
        for row in self.rows:
            total = total.plus(row.seconds)
        return total.scaled(1 / 3600)

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
    left = sum(epochs - t.epochs for t in trials if t.state == "running")
    stopped = max(0, new - whole)
    search = Range(
        left + whole * epochs + stopped * first, left + whole * epochs + stopped * middle, left + new * epochs
    )

    told = [t for t in trials if t.origin == "replicate"]
    distinct = len({tuple(sorted(t.point.items())) for t in told})
    points = (distinct,) * 3 if told and not new else (1, 1.5, 2) if target > 1 else (1, 1, 1)
    more = Range(*(max(0.0, study.replicates * p - len(told)) for p in points))
    running = sum(t.state == "running" for t in trials)
    return Work(Range(*(running + new + m for m in more)), search.plus(more.scaled(epochs)))


def _stopped(study: Study, cell: Cell, space_: Space) -> tuple[int, float]:
    """Epochs of a trial that is stopped as early as can be, and of the average one if a third of each rung goes on."""
    epochs = study.epochs_of(cell)
    levels = rungs(study, cell, space_, space_.paper(cell.dataset, cell.noise)[0])
    if not levels:
        return epochs, float(epochs)
    marks = [*levels, epochs]
    middle = marks[0] + sum((b - a) / REDUCTION ** (k + 1) for k, (a, b) in enumerate(itertools.pairwise(marks)))
    return levels[0], middle


# -- the pace ------------------------------------------------------------------------------------------------------------------------

Kind = tuple[str, str, str]  # method, data set, network


def _per_epoch(trials: Iterable[TrialHistory]) -> list[float]:
    """Mean seconds an epoch of each trial that has any."""
    means = []
    for trial in trials:
        seconds = np.asarray(trial.curves.get("cost/seconds", ()), dtype=float)
        if seconds.size and np.isfinite(seconds).any():
            means.append(float(np.nanmean(seconds)))
    return means


def _spread(means: list[float], where: str) -> Pace:
    mid = math.fsum(means) / len(means)
    if len(means) < FEW:
        low, high = mid * SPREAD_FEW[0], mid * SPREAD_FEW[1]
    else:
        low, high = (float(q) for q in np.quantile(means, (0.1, 0.9)))
    return Pace(Range(min(low, mid), mid, max(high, mid)), f"{len(means)} trial{'s' * (len(means) > 1)} {where}")


def elsewhere(storage: Path, wanted: set[Kind], but: str) -> dict[Kind, list[float]]:
    """Mean seconds an epoch of the trials of other studies, for the kinds of cells that are wanted."""
    found: dict[Kind, list[float]] = defaultdict(list)
    for folder in sorted(p.parent for p in storage.glob("*/study.toml") if p.parent.name != but):
        for path in ledger.cells(folder):
            try:
                header = next(ledger.events(path))[0]
                kind = header["cell"]["method"], header["cell"]["dataset"], header["network"]
                if kind in wanted:
                    found[kind] += _per_epoch(ledger.replay(path).trials.values())
            except (InputError, StopIteration, KeyError, TypeError):
                continue  # of another version or broken: not what was asked about
    return found


class Probe:
    """Measures paces on this machine, until its time is used up."""

    def __init__(self, study: Study, root: Path, gpus: float, limit: float) -> None:
        import torch

        self.study, self.root = study, root
        self.device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        self.end = time.monotonic() + limit
        self._passes: dict[str, float] = {}
        self._cost: dict[tuple[str, int, int], tuple[float, float]] = {}
        self._warm = False

    def pace(self, cell: Cell) -> Pace:
        """The pace of a cell of which there are no records."""
        from raystudy.data import datasets

        network = self.study.network_of(cell)
        (channels, size, _), classes, train, test = facts(cell.dataset, self.root)
        images = round(train * (1 - self.study.val_fraction))
        key = network, channels, size
        if key not in self._cost:
            if time.monotonic() > self.end:
                return Pace(UNKNOWN, "not measured")
            self._cost[key] = self._network(network, (channels, size, size), classes)
        passes = self.passes(cell.method)
        seconds = images * passes * self._cost[key][0] + (test + train - images) * self._cost[key][1]
        if seconds < SHORT and datasets.present(cell.dataset, self.root) and time.monotonic() < self.end:
            seconds = self._run(cell.method, cell.dataset, cell.noise, network)[0]
            return Pace(
                Range(seconds * SPREAD_DIRECT[0], seconds, seconds * SPREAD_DIRECT[1]),
                f"probe of {PROBE_EPOCHS} epochs here",
            )
        spread = Range(seconds * SPREAD_SCALED[0], seconds, seconds * SPREAD_SCALED[1])
        return Pace(spread, f"probe here: {passes:.1f} passes an image and epoch")

    def passes(self, method: str) -> float:
        """Passes through a network for each training image and epoch (forward 1, with backward 3), mean over the phases of a method."""
        if method not in self._passes:
            if time.monotonic() > self.end:
                return 3.0
            _, self._passes[method] = self._run(method, "smoke:digits", Noise("symmetric", 0.5), "mlp")
        return self._passes[method]

    def _run(self, method: str, dataset: str, noise: Noise, network: str) -> tuple[float, float]:
        """Seconds and passes an image of one epoch, from a whole training of a few."""
        from raystudy.learn import training
        from raystudy.learn.celldata import prepare
        from raystudy.learn.point import method_class

        data = prepare(dataset, self.root, noise, self.study.val_fraction, self.device)
        spec = TrialSpec(
            method=method,
            version=method_class(method).version,
            point=space.load(method).paper(dataset, noise)[0],
            dataset=dataset,
            data_digest=data.data_digest,
            noise=noise.to_dict(),
            noise_digest=data.noise_digest,
            network=network,
            recipe=space.recipe_for("shared", method, dataset, network).to_dict(),
            epochs=PROBE_EPOCHS,
            seed=0,
            val_fraction=self.study.val_fraction,
            clean_val=0,
        )
        if not self._warm:  # what a process does once is no part of an epoch
            training.Run(spec, data, self.device).epoch()
            self._warm = True
        run = training.Run(spec, data, self.device)
        records = [run.epoch() for _ in range(PROBE_EPOCHS)]
        total = {
            name: math.fsum(r[name] or 0.0 for r in records) / len(records) for name in ("cost/seconds", "cost/passes")
        }
        return total["cost/seconds"], total["cost/passes"] / len(data.y)

    def _network(self, name: str, shape: tuple[int, int, int], classes: int) -> tuple[float, float]:
        """Seconds of one pass of one image in training (a third of forward and backward) and in evaluation."""
        import torch

        from raystudy.learn import networks

        net = networks.build(name, shape[0], shape[1], classes).to(self.device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

        def measured(images: int, train: bool) -> float:
            x = torch.randn(images, *shape, device=self.device).contiguous(memory_format=torch.channels_last)
            y = torch.zeros(images, dtype=torch.int64, device=self.device)
            net.train(train)
            begun = time.perf_counter()
            with torch.set_grad_enabled(train):
                with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda", cache_enabled=False):
                    loss = torch.nn.functional.cross_entropy(net(x).float(), y)
                if train:
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    optimizer.step()
            loss.item()  # waits for the device
            return time.perf_counter() - begun

        cost = []
        for train in (True, False):
            images = 8
            measured(images, train)  # the first is slow
            while (spent := measured(images, train)) < 0.1 and images < 256:
                images *= 2
            cost.append(min(spent, measured(images, train)) / images)
        return cost[0] / 3, cost[1]


def facts(dataset: str, root: Path) -> tuple[tuple[int, int, int], int, int, int]:
    """Shape [C, H, W], classes, training and test images of a data set; it is loaded only where no table tells."""
    from raystudy.data import datasets

    name, _, options = dataset.partition("?")
    if info := datasets.DATASETS.get(name):
        size = int(dict(o.partition("=")[::2] for o in options.split("&")).get("size", info.shape[-1]))
        return (info.shape[0], size, size), info.n_classes, info.train, info.test
    data = datasets.load(dataset, root)
    return (data.channels, data.size, data.size), data.n_classes, len(data.y_train), len(data.y_test)


# -- the plan ------------------------------------------------------------------------------------------------------------------------


def made(study: Study, storage: Path, resources: "Resources", args: argparse.Namespace, console: Console) -> Plan:
    """The plan of a study, with what its folder in the storage already holds. Writes nothing."""
    from raystudy.run.execute import capacity

    folder = study_dir(storage, study.name)
    if (folder / "study.toml").exists():
        study = study.grown_from(Study.from_toml(folder / "study.toml"))
    charge = price(args.prices, args.machine, resources.cpus, resources.gpus)
    if not (math.isfinite(args.probe_seconds) and args.probe_seconds >= 0):
        raise InputError(f"--probe-seconds is {args.probe_seconds:g}; it must be 0 or more")
    begun = {path.stem: path for path in ledger.cells(folder)}
    histories = {cell: ledger.replay(begun[cell.key]) for cell in study.cells() if cell.key in begun}
    spaces = {method: space.load(method) for method in study.methods}
    kinds: dict[Kind, list[Cell]] = defaultdict(list)
    for cell in study.cells():
        kinds[cell.method, cell.dataset, study.network_of(cell)].append(cell)
    mine = {cell: _per_epoch(h.trials.values()) for cell, h in histories.items()}
    pooled = {kind: [m for c in cells for m in mine.get(c, ())] for kind, cells in kinds.items()}
    others = elsewhere(storage, {kind for kind, means in pooled.items() if not means}, study.name)
    probe = Probe(study, resources.data_root, resources.gpus, args.probe_seconds)
    rows = []
    for n, (kind, cells) in enumerate(kinds.items(), 1):
        total, seconds = Work(NOTHING, NOTHING), NOTHING
        paces: dict[str, Pace] = {}
        for cell in cells:
            left = work(study, cell, spaces[cell.method], histories.get(cell))
            total = Work(total.trials.plus(left.trials), total.epochs.plus(left.epochs))
            if not left.epochs.high:
                continue
            if means := mine.get(cell):
                pace = _spread(means, "of this study")
            elif "rest" in paces:
                pace = paces["rest"]
            elif pooled[kind]:
                pace = paces["rest"] = _spread(pooled[kind], "of this study at other noise")
            elif others.get(kind):
                pace = paces["rest"] = _spread(others[kind], "of other studies in the storage")
            else:
                if console.is_terminal:
                    console.print(f"measuring {n} of {len(kinds)}: {', '.join(kind)}", highlight=False, markup=False)
                pace = paces["rest"] = probe.pace(cell)
            paces[pace.source] = pace
            seconds = seconds.plus(left.epochs.times(pace.seconds))
        told = tuple({p.source: p for p in paces.values()}.values())
        rows.append(Row(*kind, len(cells), total, seconds, told))
    trials = [t for h in histories.values() for t in h.trials.values()]
    spent = math.fsum(v for t in trials for v in t.curves.get("cost/seconds", ()) if math.isfinite(v))
    ended = sum(t.state != "running" for t in trials)
    done = (ended, len(trials) - ended, sum(t.epochs for t in trials), spent)
    device, each = ("GPU", resources.gpus) if resources.gpus else ("CPU", resources.cpus)
    return Plan(study, tuple(rows), done, capacity(resources), device, each, charge)


def _told(r: Range, whole: bool = False) -> str:
    """``12 (10 to 14)``; one number where there is no range; a dash where nothing is known."""
    if math.isnan(r.mid):
        return "–"

    def number(v: float) -> str:
        return f"{v:,.0f}" if whole or v >= 100 else f"{v:.3g}"

    low, mid, high = map(number, r)
    return mid if low == high else f"{mid} ({low} to {high})"


def show(plan: Plan, console: Console) -> None:
    """Prints a plan."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("method", "data set", "network"):
        table.add_column(name, overflow="fold")
    for name in ("cells", "trials to go", "epochs to go", "s an epoch", f"{plan.device}-hours"):
        table.add_column(name, justify="right")
    table.add_column("measured by", overflow="fold")
    for row in plan.rows:
        pace = Range(*(s / e if e else 0.0 for s, e in zip(row.seconds, row.work.epochs, strict=True)))
        table.add_row(
            *map(escape, (row.method, row.dataset, row.network)),
            str(row.cells),
            _told(row.work.trials, whole=True),
            _told(row.work.epochs, whole=True),
            _told(pace) if row.work.epochs.high else "",
            _told(row.seconds.scaled(plan.per_trial / 3600)) if row.work.epochs.high else "done",
            "; ".join(p.source for p in row.paces),
        )
    console.print(table)

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    ended, begun, epochs, seconds = plan.done
    study = plan.study
    line(
        f"study {study.name}: {len(study.cells())} cells, up to {study.trials} trials and {study.replicates} replicates each"
    )
    line(
        f"in the ledger, not repeated: {ended} trials ended, {begun} begun; {epochs:,} epochs, {duration(seconds)} of training"
    )
    line(f"to go: {_told(plan.work.trials, whole=True)} trials, {_told(plan.work.epochs, whole=True)} epochs")
    if not plan.work.epochs.high:
        return
    hours, devices = plan.hours, plan.device_hours
    unknown = sum(any(math.isnan(p.seconds.mid) for p in row.paces) for row in plan.rows)
    if unknown:
        line(
            f"{plan.device}-hours and money: unknown; {unknown} of {len(plan.rows)} rows are not measured, raise --probe-seconds"
        )
        return
    clock = hours.scaled(3600 / plan.slots)
    long = f"{duration(clock.mid)} ({duration(clock.low)} to {duration(clock.high)})"
    line(f"{plan.device}-hours: {_told(devices)}; with {plan.slots:.0f} trials at once {long}")
    line(f"money: {_told(hours.scaled(plan.price.hour))} {plan.price.currency} ({plan.price.source})")
    line(
        "rests on: low, the scheduler stops all it may and the chosen point is the published one; high, it stops none; the pace as in the "
        "last column, without the start of Ray and of workers"
    )


def confirmed(plan: Plan, limit: float, console: Console) -> bool:
    """Whether a sweep may begin: it is planned below the limit (device-hours), or the user says yes. Without a terminal: InputError."""
    hours = plan.device_hours
    if not (math.isfinite(limit) and limit >= 0):
        raise InputError(f"--confirm-above is {limit:g}; it must be 0 or more")
    if hours.mid <= limit:  # not so for what is not known
        return True
    told = f"planned to take {_told(hours)} {plan.device}-hours, above --confirm-above {limit:g}"
    if not (sys.stdin.isatty() and console.is_terminal):
        raise InputError(f"study {plan.study.name} is {told}; --yes runs it all the same")
    show(plan, console)
    answer = console.input(f"This is {told}. Run it? \\[y/N] ")
    return answer.strip().lower() in ("y", "yes")
