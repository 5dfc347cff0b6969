"""Which methods to try on a data set: what its labels look like, what was best where they looked alike, and where to begin.

Here belongs finding out about the data and where results lie; how near they are and what follows is ``analysis.recommend``'s, and how the
noise is estimated ``clean``'s. Nothing here trains but what an estimate needs.
"""

import json
import math
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import conditions
from analysis import recommend as rule
from analysis.conditions import BASELINE, Condition, Known, concentration, kind_of
from analysis.recommend import Prediction
from raystudy.data import datasets
from raystudy.data.corruption import corrupted
from raystudy.data.dataset import Dataset, unsplit
from raystudy.data.noise import Noise
from raystudy.data.spec import base
from raystudy.design import space
from raystudy.design.compose import default_setting
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.learn.methods import METHODS
from raystudy.learn.training import device_here
from raystudy.running import transfer
from raystudy.running.transfer import Found, Place
from raystudy.tools.clean.examine import chosen_method, examine
from raystudy.tools.estimate import labels_as_given
from raystudy.tools.folds import Labels

MOST = 3  # methods that are named
NEAREST = 3  # conditions that are
TRIALS, REPLICATES = 4, 2  # of the study that is proposed: the published point, those from here, and what is searched
EVENLY, ONE = (
    0.15,
    0.6,
)  # concentrations up to which mistakes go to all classes alike, and from which each class has one


@dataclass(frozen=True)
class Named:
    """A method that is recommended."""

    expected: Prediction
    points: tuple[tuple[Known, dict[str, Any]], ...]  # where to begin, and under which condition that was good
    seconds: float  # of one training on one CPU core, about; NaN: not known

    @property
    def method(self) -> str:
        return self.expected.method


@dataclass(frozen=True)
class Advice:
    """What was found out about a data set, and what is recommended for it."""

    dataset: str  # as ``data.spec.located`` gives it
    noise: Noise  # the labels that were looked at
    where: Condition
    classes: tuple[str, ...]
    counts: tuple[int, ...]  # labels given of each class
    rate_interval: tuple[float, float] | None  # 95 %; None: the rate was told
    conditions: int  # that are known
    nearest: tuple[tuple[float, Known], ...]  # the nearest of them, and how far away they are
    methods: tuple[Named, ...]  # most is expected of the first

    @property
    def far(self) -> bool:
        """Whether nothing near is known, so that the methods are those that were best on average."""
        return not self.nearest or self.nearest[0][0] > rule.FAR

    @property
    def studied(self) -> list[str]:
        """The methods of the study that is proposed; cross-entropy is beside them anyway."""
        return [n.method for n in self.methods if n.method != BASELINE]

    def found(self) -> list[Found]:
        """The points to begin with, as a study keeps what it starts from (``transfer``)."""
        vectors = self.where.kind == conditions.KINDS[0]
        out = []
        for named in self.methods:
            if named.points:
                place = Place(named.method, self.dataset, self.noise, len(self.classes), vectors)
                values = tuple(1 / (1 + i) for i in range(len(named.points)))  # in their order
                out.append(Found("recommend", place, tuple(p for _, p in named.points), values))
        return out

    def command(self, points: Path | None = None, root: Path = Path("data")) -> str:
        """The study that is proposed. ``points``: the file with where to begin."""
        words = ["raystudy", "sweep", *self.studied, "--dataset", self.dataset, "--noise", self.noise.label]
        words += ["--noise-seed", str(self.noise.seed)] if self.noise.seed else []
        words += ["--trials", str(TRIALS), "--replicates", str(REPLICATES)]
        words += ["--data-root", str(root)] if root != Path("data") else []
        words += ["--start-from", str(points)] if points else []
        return shlex.join(words)


def spread(where: Condition) -> str:
    """Where wrong labels go, in words."""
    c = where.concentration
    if math.isnan(c):
        return "where they go is not known"
    if where.rate < 0.02:
        return "too few to say where they go"
    if c <= EVENLY:
        return "spread evenly over the other classes, as of symmetric noise"
    return "most of a class go to one other" if c >= ONE else "to some classes more than to others"


def noise_seen(
    dataset: str, root: Path, noise: Noise, network: str | None = None, epochs: int | None = None
) -> tuple[float, float]:
    """The share of wrong labels and their concentration as they are estimated from the labels alone."""
    found = examine(dataset, noise.label, noise_seed=noise.seed, data_root=root, network=network, epochs=epochs)
    estimate = found.judged.estimate
    return estimate.rate, concentration(estimate.matrix)


def known(names: Sequence[str], storages: Path, root: Path, seen: bool = True) -> list[Known]:
    """The reference results, and those of the studies named: in ``storages``, or folders. Raises InputError for one that tells nothing.

    ``seen``: under the noise as it was estimated, where it was (``conditions.known``)."""
    from analysis.reference import results  # pandas and pyarrow take long to import

    rows = results().to_dict("records")
    for name in names:
        folder = transfer.folder_of(name, storages, "--from")
        told = Study.from_toml(folder / "study.toml")
        try:
            kind = kind_of(datasets.shape(told.datasets[0], root))
        except InputError:  # its data may be gone
            kind = ""
        fresh = conditions.of_study(folder, kind)
        if not any(row["method"] == BASELINE and row["values"] for row in fresh):
            if not (folder / "masks").is_dir():
                raise InputError(
                    f"--from {name}: it has no masks/, in which a study keeps which labels are wrong; what comes with raystudy "
                    "is looked up without it"
                )
            raise InputError(
                f"--from {name}: none of its cells tells what a method gains: that takes ended trainings of {BASELINE} beside it, and "
                "labels of which the truth is known"
            )
        rows += fresh
    return conditions.known(rows, seen)


def recommend(
    dataset: str,
    noise: str | None = None,
    *,
    names: Sequence[str] = (),
    storages: Path = Path("studies"),
    noise_rate: float | None = None,
    noise_seed: int = 0,
    data_root: Path = Path("data"),
    method: str = "auto",
    network: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> Advice:
    """Looks at the labels of ``dataset``, as ``clean`` does, and at what is known of others.

    ``names``: studies to look up beside the reference results. ``noise_rate``: the share of wrong labels where it is known; nothing is
    estimated then. ``method``, ``network``, ``epochs``: of ``clean``, for the estimate. Raises InputError.
    """
    if noise_rate is not None and not 0 <= noise_rate < 1:
        raise InputError(f"--noise-rate is {noise_rate:g}; it is a share of the labels, from 0 to below 1")
    if epochs is not None and epochs < 1:
        raise InputError(f"--epochs is {epochs}; it must be at least 1")
    results = known(
        names, storages, data_root, seen=noise_rate is None
    )  # first: a mistake is told before anything is computed
    data: Dataset
    given: Labels
    if noise_rate is None:
        found = examine(
            dataset,
            noise,
            noise_seed=noise_seed,
            data_root=data_root,
            method=method,
            network=network,
            epochs=epochs,
            seed=seed,
            device=device,
            threads=threads,
            tell=tell,
        )
        data, given, estimate = found.data, found.judged.given, found.judged.estimate
        rate, share, sure = estimate.rate, concentration(estimate.matrix), estimate.rate_interval
    else:
        setting, _ = labels_as_given(dataset, data_root, noise, noise_seed, device_here(device))
        data = datasets.load(dataset, data_root, setting)
        chosen_method(method, data.shape, dataset)  # raises for a name that is none
        data = unsplit(data) if noise is None or setting.kind == "given" else data
        given, rate, share, sure = corrupted(data, setting, data_root).given, noise_rate, math.nan, None
    where = Condition(kind_of(data.shape), len(given), len(data.classes), rate, share)
    far = rule.distances([k.where for k in results], where)
    nearest = tuple((float(far[i]), results[i]) for i in np.argsort(far, kind="stable")[:NEAREST])
    ours = [p for p in rule.ranked(results, where) if p.method in METHODS]
    return Advice(
        dataset=dataset,
        noise=_trained_on(data, noise, noise_seed, dataset, data_root, device),
        where=where,
        classes=data.classes,
        counts=tuple(np.bincount(given, minlength=len(data.classes)).tolist()),
        rate_interval=sure,
        conditions=len(results),
        nearest=nearest,
        methods=tuple(_named(p, results, where, dataset, data_root) for p in ours[:MOST]),
    )


def _trained_on(data: Dataset, noise: str | None, seed: int, dataset: str, root: Path, device: str | None) -> Noise:
    """The noise setting under which a study sees the labels that were looked at."""
    if noise is None and not data.truth:
        return Noise("given", 0.0, seed=seed)
    return labels_as_given(dataset, root, noise, seed, device_here(device))[0]


def _named(p: Prediction, results: list[Known], where: Condition, dataset: str, root: Path) -> Named:
    searched = {d.name: d for d in space.load(p.method).dimensions}
    points = rule.points(results, where, p.method) if searched else []
    for _, point in points:
        for rate in point.keys() & searched.keys() & set(rule.RATES):
            point[rate] = float(np.clip(point[rate], searched[rate].low, searched[rate].high))
    return Named(p, tuple(points), _seconds(p, results, where, dataset, root))


def _seconds(p: Prediction, results: list[Known], where: Condition, dataset: str, root: Path) -> float:
    """Of one training with the default network and epochs: as long a sample and epoch as where that network was timed nearest."""
    network, epochs = default_setting(dataset, root)
    timed = [
        k
        for k in results
        if k.network.partition(":")[0] == network and k.where.kind == where.kind and k.results[BASELINE].seconds > 0
    ]
    if not timed:
        return math.nan
    k = timed[int(np.argmin(rule.distances([k.where for k in timed], where)))]
    return p.seconds * k.results[BASELINE].seconds / (k.epochs * k.where.n) * epochs * where.n


def write(advice: Advice, out: Path) -> Path:
    """The advice as JSON; ``--start-from`` takes the file as where to begin."""
    told = {
        "format": transfer.FORMAT,
        "dataset": advice.dataset,
        "noise": advice.noise.label,
        "kind": advice.where.kind,
        "n": advice.where.n,
        "classes": list(advice.classes),
        "counts": list(advice.counts),
        "rate": advice.where.rate,
        "rate_interval": advice.rate_interval,
        "concentration": None if math.isnan(advice.where.concentration) else advice.where.concentration,
        "near": not advice.far,
        "nearest": [
            {"dataset": k.dataset, "noise": k.noise, "source": k.source, "distance": d} for d, k in advice.nearest
        ],
        "methods": [
            {
                "method": n.method,
                "gain": n.expected.gain,
                "interval": [n.expected.low, n.expected.high] if math.isfinite(n.expected.high) else None,
                "conditions": n.expected.conditions,
                "times_ce": n.expected.seconds if math.isfinite(n.expected.seconds) else None,
                "seconds": n.seconds if math.isfinite(n.seconds) else None,
            }
            for n in advice.methods
        ],
        "cells": [f.to_dict() for f in advice.found()],
    }
    part = out.with_name(f".{out.name}.{os.getpid()}")
    part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    os.replace(part, out)
    return out


def refuse(out: Path) -> None:
    """InputError where ``out`` cannot be written, before anything is computed."""
    if out.suffix != ".json" or out.is_dir():
        raise InputError(f"--out {out} is no file that ends in .json")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}")


def title(dataset: str) -> str:
    """A data set for people."""
    return Path(base(dataset).partition(":")[2] or dataset).name
