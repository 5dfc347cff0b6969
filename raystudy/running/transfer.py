"""What other searches have found, as the beginning of a search: reading it, keeping it with the study, and which points it gives a cell.

A study keeps what it starts from in its own folder (``start/points.json``) and the digest of that in ``study.toml``: the studies it comes
from may grow or go, and which points a cell tries first follows from this file alone. How they are proposed is ``search``'s.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import load
from analysis.select import objective, searched, value
from raystudy.data import datasets, masks
from raystudy.data.noise import Noise
from raystudy.data.spec import family
from raystudy.design.space import Space, coordinates, distances
from raystudy.design.study import Cell, Study, study_dir
from raystudy.errors import InputError, unknown
from raystudy.learn.point import Point
from raystudy.record import mirror, storage

FILE = Path("start") / "points.json"
FORMAT = 1
REFERENCE = "reference"  # the name of what comes with raystudy
START_FROM = "--start-from"
STARTS = 4  # points from elsewhere that a cell tries, after the published one
PATIENCE = 2  # of them that are worse than the published point before the rest is left out
KEPT = 256  # trials of a cell that is started from, the first
KEPT_REFERENCE = 65  # of the reference; from 109 no better points were chosen, and the file grows
REACH = 0.15  # how far from a point its value tells of others, where every dimension is 1 wide
FORMER_REACH = 0.3  # of what was kept before the reach was kept with it
NEARNESS = 0.3  # a cell so far away tells a third as much
DOUBT = 0.1  # of a point far from all that was tried: it counts as middling
# How far apart two cells are: each of these that differs, beside the difference of the noise rates.
KIND, DATA, DATASET, CLASSES = 0.5, 0.5, 0.25, 0.25


@dataclass(frozen=True)
class Place:
    """Where a cell lies, as far as it is known: what decides which cells are near it. ``classes`` 0, ``vectors`` None: not known."""

    method: str
    dataset: str
    noise: Noise
    classes: int = 0
    vectors: bool | None = None  # or images


@dataclass(frozen=True)
class Found:
    """What a search has found in a cell: its complete trials."""

    source: str  # the study
    place: Place
    points: tuple[Point, ...]
    values: tuple[float, ...]  # of the objective, higher is better
    reach: float = REACH  # kept with it, as which points a study begins with follows from it

    def to_dict(self) -> dict[str, Any]:
        p = self.place
        where = {"method": p.method, "dataset": p.dataset, "noise": p.noise.to_dict(), "classes": p.classes}
        return {
            **{"source": self.source, **where, "vectors": p.vectors},
            **{"points": list(self.points), "values": list(self.values)},
            **({"reach": self.reach} if self.reach != FORMER_REACH else {}),
        }

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> "Found":
        place = Place(d["method"], d["dataset"], Noise(**d["noise"]), int(d["classes"]), d["vectors"])
        points, values = tuple(dict(p) for p in d["points"]), tuple(map(float, d["values"]))
        return cls(str(d["source"]), place, points, values, float(d.get("reach", FORMER_REACH)))


# ------------------------------------------------------------------------------------------------- which points


def distance(a: Place, b: Place) -> float:
    """How far two cells of a method are apart: the difference of their noise rates, and a step for each other thing that differs."""
    return (
        round(abs(a.noise.level - b.noise.level), 9)
        + KIND * (a.noise.kind != b.noise.kind)
        + DATA * (a.vectors is not b.vectors)
        + DATASET * (family(a.dataset) != family(b.dataset))
        + CLASSES * (a.classes != b.classes)
    )


def starts(
    here: Place, found: Iterable[Found], space: Space, published: Point, most: int = STARTS
) -> list[tuple[Point, Found]]:
    """Up to ``most`` points to try after the published one, the most promising first, each with the nearest cell that it was tried in.

    What a point promises is the mean over the cells of its method of what was found around it there, nearer cells counting more: values
    of a cell in units of its standard deviation, smoothed over the space by a Gaussian kernel (Nadaraya 1964, On Estimating Regression), as
    one value of a noisy validation set is half luck. A point outside the space is passed over; what it does not name takes its default.
    """
    near = sorted((f for f in found if f.place.method == here.method), key=lambda f: distance(here, f.place))
    if not space.dimensions:
        return []
    cells: list[Any] = []
    candidates: dict[str, tuple[Point, Found]] = {}
    for cell in near:
        inside = [(p, v) for told, v in zip(cell.points, cell.values, strict=True) if (p := _inside(told, space))]
        if inside:
            cells.append((distance(here, cell.place), cell.reach, *map(list, zip(*inside, strict=True))))
            for p, _ in inside:
                candidates.setdefault(repr(p), (p, cell))
    wanted = [c for c in candidates.values() if c[0] != published]
    promise = _promise([p for p, _ in wanted], cells, space)
    return [wanted[i] for i in np.argsort(-promise, kind="stable")[:most]]


def _promise(points: list[Point], cells: list[Any], space: Space) -> NDArray[np.float64]:
    """What each of the points [n] promises; ``cells``: how far each is, its reach, its points, their values."""
    total = np.zeros(len(points))
    at = coordinates(space.dimensions, points)
    for far, reach, tried, values in cells if points else ():
        v = np.array(values)
        z = (v - np.median(v)) / (v.std() or 1.0)
        kernel = np.exp(-distances(space.dimensions, at, coordinates(space.dimensions, tried)) / (2 * reach**2))
        total += math.exp(-far / NEARNESS) * (kernel @ z) / (kernel.sum(1) + DOUBT)
    return total


def misled(published: float, tried: Sequence[float]) -> bool:
    """Whether what was tried first (values, higher is better, NaN for a trial that did not come to its end) is no better here than the
    published point, so that the sampler goes on alone."""
    return len(tried) >= PATIENCE and not any(v >= published or (math.isnan(published) and v == v) for v in tried)


def _inside(point: Point, space: Space) -> Point | None:
    """A point of this space with these values; None where one of them cannot be."""
    names = {d.name for d in space.dimensions}
    whole = space.complete({k: v for k, v in point.items() if k in names})
    try:
        for d in space.dimensions:
            d.check(whole[d.name], space.method)
    except (InputError, TypeError):
        return None
    return whole


# ------------------------------------------------------------------------------------------------- where they come from


def gather(names: Sequence[str], storages: Path, root: Path) -> list[Found]:
    """What the named studies have found: names in ``storages``, folders, ``reference``, or what ``raystudy recommend`` wrote (FILE.json).
    Raises InputError, one line, for one that is none or has nothing that is complete."""
    out: list[Found] = []
    for name in names:
        if name == REFERENCE:
            cells = reference()
        else:
            cells = recommended(Path(name).expanduser()) if name.endswith(".json") else _of_study(name, storages, root)
        if not cells:
            raise InputError(f"--start-from {name}: no trial of it is complete, so there is nothing to start from")
        out += cells
    return out


def recommended(file: Path) -> list[Found]:
    """The points that ``raystudy recommend`` wrote to ``file``. Raises InputError, one line, for anything else."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return [replace(Found.from_dict(d), reach=REACH) for d in told["cells"]]
    except FileNotFoundError:
        raise InputError(f"--start-from {file}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"--start-from {file} is no file that `raystudy recommend` has written") from None


def folder_of(name: str, storages: Path, option: str) -> Path:
    """Where a study lies that an option names: by its name in ``storages``, or by its folder. Raises InputError where there is none."""
    folder = Path(name).expanduser() if "/" in name else study_dir(storages, name)
    mirror.pull(folder)
    if not (folder / "study.toml").is_file():
        known = [REFERENCE] if option == START_FROM else []
        raise unknown(f"study for {option}", name, [*known, *storage.studies(storages), "FOLDER/"])
    return folder


def _of_study(name: str, storages: Path, root: Path) -> list[Found]:
    folder = folder_of(name, storages, START_FROM)
    study = Study.from_toml(folder / "study.toml")
    _, histories = load.study(folder, only=(study.objective,))
    out = []
    for cell, history in histories.items():
        whole = [
            (t.point, v)
            for t in searched(history)
            if t.state == "complete" and math.isfinite(v := value(t, study.objective))
        ][:KEPT]
        if whole:
            place = _place(cell, folder, root)
            out.append(Found(study.name, place, tuple(p for p, _ in whole), tuple(v for _, v in whole)))
    return out


def _place(cell: Cell, folder: Path, root: Path) -> Place:
    """Of a recorded cell, by what its study has kept; its data may be gone."""
    try:
        classes = len(masks.load(folder / "masks" / f"{cell.data_key}.npz").matrix)
    except InputError:
        classes = 0
    try:
        vectors: bool | None = len(datasets.shape(cell.dataset, root)) == 1
    except InputError:
        vectors = None
    return Place(cell.method, cell.dataset, cell.noise, classes, vectors)


def reference() -> list[Found]:
    """The pools of random trials that come with raystudy (``analysis/reference/pools.parquet``, docs/search.md): short trainings."""
    from analysis.reference import pools  # pandas and pyarrow take long to import

    out = []
    for (dataset, method, rate), trials in pools().groupby(["dataset", "method", "rate"], sort=True):
        whole = trials[~trials["diverged"]].sort_values("number")[:KEPT_REFERENCE]
        values = tuple(round(float(objective(list(c))), 6) for c in whole["val/acc"])
        place = Place(method, dataset, Noise("symmetric", float(rate)), 10, True)
        out.append(Found(REFERENCE, place, tuple(map(json.loads, whole["point"])), values))
    return out


# ------------------------------------------------------------------------------------------------- kept with the study


def text(found: Sequence[Found]) -> str:
    """What a study keeps."""
    return json.dumps({"format": FORMAT, "cells": [f.to_dict() for f in found]}, indent=1, sort_keys=True) + "\n"


def digest(told: str) -> str:
    """16 hex digits of what a study keeps, for its ``study.toml``."""
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def keep(told: str, folder: Path) -> None:
    """Writes what a study starts from into its folder, in one step."""
    file = folder / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_text(told, encoding="utf-8")
    os.replace(new, file)


def kept(folder: Path, wanted: str) -> list[Found]:
    """What a study in ``folder`` starts from, whose digest is ``wanted``. Raises InputError where that is gone or another."""
    file = folder / FILE
    try:
        told = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            f"{file}: what this study was started from is gone; put it back, or choose another --name"
        ) from None
    if digest(told) != wanted:
        raise InputError(
            f"{file} is not what this study was started from (digest {digest(told)}, in study.toml {wanted}): put it back, or choose "
            "another --name"
        )
    return [Found.from_dict(d) for d in json.loads(told)["cells"]]
