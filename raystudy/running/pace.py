"""Seconds an epoch of a cell: from records, of this study or of others; else measured by a probe, under the conditions of a trial."""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.single import single
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.record import ledger
from raystudy.record.ledger import TrialHistory

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
class Pace:
    """Seconds an epoch, and where they are from."""

    seconds: Range
    source: str
    probed: bool = False  # measured on this machine, now


Kind = tuple[str, str, str]  # method, data set, network


def per_epoch(trials: Iterable[TrialHistory]) -> list[float]:
    """Mean seconds an epoch of each trial that has any."""
    means = []
    for trial in trials:
        seconds = np.asarray(trial.curves.get("cost/seconds", ()), dtype=float)
        if seconds.size and np.isfinite(seconds).any():
            means.append(float(np.nanmean(seconds)))
    return means


def spread_of(means: list[float], where: str) -> Pace:
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
                    found[kind] += per_epoch(ledger.replay(path).trials.values())
            except (InputError, StopIteration, KeyError, TypeError):
                continue  # of another version or broken: not what was asked about
    return found


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """torch's threads as a trial has them: with more, small networks are many times slower on a machine that has much else to do."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Probe:
    """Measures paces on this machine under the conditions of a trial, until its time is used up."""

    def __init__(self, study: Study, root: Path, gpus: float, limit: float, threads: int = 1) -> None:
        import torch

        self.study, self.root, self.threads = study, root, threads
        self.device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        self.end = time.monotonic() + limit
        self._passes: dict[str, float] = {}
        self._cost: dict[tuple[str, tuple[int, ...]], tuple[float, float]] = {}
        self._warm = False

    def pace(self, cell: Cell) -> Pace:
        """The pace of a cell of which there are no records."""
        with _threads(self.threads):
            return self._pace(cell)

    def _pace(self, cell: Cell) -> Pace:
        from raystudy.data import datasets

        network = self.study.network_of(cell)
        shape, classes, train, test = facts(cell.dataset, self.root)
        images = round(train * (1 - self.study.val_fraction))
        key = network, shape
        if key not in self._cost:
            if time.monotonic() > self.end:
                return Pace(UNKNOWN, "not measured")
            self._cost[key] = self._network(network, shape, classes)
        passes = self.passes(cell.method)
        seconds = images * passes * self._cost[key][0] + (test + train - images) * self._cost[key][1]
        if seconds < SHORT and datasets.present(cell.dataset, self.root) and time.monotonic() < self.end:
            seconds = self._run(cell.method, cell.dataset, cell.noise, network)[0]
            return Pace(
                Range(seconds * SPREAD_DIRECT[0], seconds, seconds * SPREAD_DIRECT[1]),
                f"probe of {PROBE_EPOCHS} epochs here",
                probed=True,
            )
        spread = Range(seconds * SPREAD_SCALED[0], seconds, seconds * SPREAD_SCALED[1])
        return Pace(spread, f"probe here: {passes:.1f} passes an image and epoch", probed=True)

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

        data = prepare(dataset, self.root, noise, self.study.val_fraction, self.device)
        point = space.load(method).paper(dataset, noise)[0]
        fraction = self.study.val_fraction
        spec = single(method, data, dataset, noise, network, PROBE_EPOCHS, val_fraction=fraction, point=point)
        if not self._warm:  # what a process does once is no part of an epoch
            training.Run(spec, data, self.device).epoch()
            self._warm = True
        run = training.Run(spec, data, self.device)
        records = [run.epoch() for _ in range(PROBE_EPOCHS)]
        total = {
            name: math.fsum(r[name] or 0.0 for r in records) / len(records) for name in ("cost/seconds", "cost/passes")
        }
        return total["cost/seconds"], total["cost/passes"] / len(data.y)

    def _network(self, name: str, shape: tuple[int, ...], classes: int) -> tuple[float, float]:
        """Seconds of one pass of one image in training (a third of forward and backward) and in evaluation."""
        import torch

        from raystudy.learn import networks

        net = networks.build(name, shape, classes).to(self.device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

        def measured(images: int, train: bool) -> float:
            x = torch.randn(images, *shape, device=self.device)
            if len(shape) == 3:
                x = x.contiguous(memory_format=torch.channels_last)
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


def facts(dataset: str, root: Path) -> tuple[tuple[int, ...], int, int, int]:
    """Shape ([C, H, W], or [d] of vectors), classes, training and test images of a data set; it is loaded only where no table tells."""
    from raystudy.data import datasets, spec

    name, _, options = dataset.partition("?")
    if (info := datasets.DATASETS.get(name)) and not spec.imbalanced(dataset):  # which changes the number of images
        size = int(dict(o.partition("=")[::2] for o in options.split("&")).get("size", info.shape[-1]))
        return (info.shape[0], size, size), info.n_classes, info.train, info.test
    data = datasets.load(dataset, root)
    return data.shape, data.n_classes, len(data.y_train), len(data.y_test)
