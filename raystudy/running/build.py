"""Turns a study into what can be run: data loaded and digested, spaces, recipes and network checked, one search per cell."""

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import optuna

from raystudy import own
from raystudy.data import corruption, datasets, evaluation, masks
from raystudy.data.loader import split_validation
from raystudy.data.noise import Noise, condition_digest
from raystudy.data.spec import code_of
from raystudy.design import space
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.learn import filtering, networks
from raystudy.learn.celldata import prepare
from raystudy.learn.condition import assumption
from raystudy.learn.point import Point, code, method_class
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.record.ledger import Ledger, events
from raystudy.record.provenance import commit, versions
from raystudy.running.pruning import rungs
from raystudy.running.search import CellSearch
from raystudy.running.transfer import Found, Place, starts


class Data(NamedTuple):
    """What is known of a cell's data without holding it."""

    data_digest: str
    noise_digest: str
    effective_rate: float | None  # None where the truth is not known
    images: int  # of the training set, validation held out
    assumed: bool = False  # whether noise was drawn on labels of which nobody knows whether they are right
    classes: tuple[str, ...] = ()


class Builder:
    """Turns a study into cell searches: loads each cell's data once for its digests, checks spaces, recipes and the network."""

    def __init__(self, study: Study, data_root: Path, found: Sequence[Found] = ()) -> None:
        self.study, self.data_root, self.found = study, data_root, found  # ``found``: what the study starts from
        self.spaces = {m: space.load(m) for m in study.methods}
        self.recipes: dict[Cell, Recipe] = {}
        self.data: dict[tuple[str, Noise], Data] = {}
        self.shapes: dict[str, tuple[tuple[int, ...], int]] = {}  # of what networks take, and classes, of a data set
        remarks: dict[str, None] = {}
        recipe_for, built = lru_cache(maxsize=None)(space.recipe_for), set()
        for cell in study.cells():
            network = study.network_of(cell)
            self.recipes[cell] = recipe_for(study.recipe_of(cell), cell.method, cell.dataset, network)
            if (cell.dataset, cell.noise) not in self.data:
                data = prepare(cell.dataset, data_root, cell.noise, study.val_fraction)
                self.data[cell.dataset, cell.noise] = Data(
                    data.data_digest,
                    data.noise_digest,
                    data.effective_rate,
                    len(data.y),
                    bool(assumption(data, cell.noise)),
                    data.classes,
                )
                told = datasets.load(cell.dataset, data_root, cell.noise).remarks
                remarks |= dict.fromkeys((*told, *assumption(data, cell.noise)))
                evaluation.parse(study.evaluate).fits(cell.dataset, len(data.y_test))
                if study.clean_val > (most := data.clean_validation):
                    held = f"{cell.dataset} holds out {most} validation images whose true labels are known"
                    raise InputError(f"--clean-val is {study.clean_val}, but {held}; choose 0 to {most}")
                self.shapes[cell.dataset] = (data.shape, data.n_classes)
            if chosen := study.filter_of(cell):
                filtering.suits(chosen, cell.dataset, self.shapes[cell.dataset][0])
            if (cell.dataset, network) not in built:
                networks.build(network, *self.shapes[cell.dataset])
                built.add((cell.dataset, network))
        self.remarks = tuple(
            remarks
        )  # what a person should hear of the data before trusting the study, a sentence each
        self.commit, self.versions = commit(), versions()
        pairs = {(cell.method, study.network_of(cell)) for cell in study.cells()}
        self.codes = {pair: code(*pair) for pair in pairs}  # of what is a user's own
        self.own = own.sources(
            dict.fromkeys(name for pair in sorted(pairs) for name in pair)
            | dict.fromkeys(filter(None, map(code_of, study.datasets)))
        )

    def check(self, folder: Path) -> None:
        """Raises InputError, one line, where a cell's data is not what the study in ``folder`` was begun with: its images, or a file that
        noise is read from, have changed since, by what its ledger and its masks say."""
        for cell in self.study.cells():
            now, header = self.data[cell.dataset, cell.noise], _header(folder, cell)
            if header and header.get("code", "") != self.codes[cell.method, self.study.network_of(cell)]:
                theirs = " and ".join(n for n in (cell.method, self.study.network_of(cell)) if self._own(n))
                raise InputError(
                    f"{theirs} has changed since study {self.study.name!r} was begun, and a changed file is another method: choose another "
                    f"--name, or put it back (as it was: {folder / 'own'})"
                )
            for begun in (_digests(header), _of_mask(folder, cell, self.study.val_fraction)):
                if begun not in (None, (now.data_digest, now.noise_digest)):
                    raise InputError(
                        f"{cell.condition} is not what study {self.study.name!r} was begun with: its images, or a file that its noise "
                        f"is read from, have changed; put them back or choose another --name (its labels then: {_mask(folder, cell)})"
                    )

    def store_masks(self, folder: Path) -> None:
        """Writes the mask of every condition into the study's folder, where there is none that can be read."""
        for cell in {c.data_key: c for c in self.study.cells()}.values():
            try:
                masks.load(_mask(folder, cell))
            except InputError:  # none yet, or a damaged one, which is as good as none
                data = datasets.load(cell.dataset, self.data_root, cell.noise)
                masks.save(corruption.mask(data, cell.noise, self.data_root), _mask(folder, cell))

    @staticmethod
    def _own(name: str) -> bool:
        return own.written(name) or any(name in own.installed(kind) for kind in ("methods", "networks"))

    def spec(self, cell: Cell, point: Point, seed: int) -> TrialSpec:
        data = self.data[cell.dataset, cell.noise]
        return TrialSpec(
            method=cell.method,
            version=method_class(cell.method).version,
            point=point,
            dataset=cell.dataset,
            data_digest=data.data_digest,
            noise=cell.noise.to_dict(),
            noise_digest=data.noise_digest,
            network=self.study.network_of(cell),
            recipe=self.recipes[cell].to_dict(),
            epochs=self.study.epochs_of(cell),
            seed=seed,
            val_fraction=self.study.val_fraction,
            clean_val=self.study.clean_val,
            code=self.codes[cell.method, self.study.network_of(cell)],
            evaluate=self._evaluation(cell),
            filter=self.study.filter_of(cell),
        )

    def _evaluation(self, cell: Cell) -> dict[str, Any]:
        """How trials of a cell are evaluated: in full where its scheduler compares them."""
        asked, found = evaluation.parse(self.study.evaluate), self.spaces[cell.method]
        return asked.at(rungs(self.study, cell, found, found.paper(cell.dataset, cell.noise)[0])).to_dict()

    def header(self, cell: Cell) -> dict[str, Any]:
        data = self.data[cell.dataset, cell.noise]
        code = self.codes[cell.method, self.study.network_of(cell)]
        told = {
            "code": code,
            "assumed": data.assumed,
            "filter": self.study.filter_of(cell),
            "evaluate": self.study.evaluate,
        }
        if data.classes != tuple(map(str, range(len(data.classes)))):
            told["classes"] = list(data.classes)
        return {
            "cell": cell.to_dict(),
            "digests": {"data": data.data_digest, "noise": data.noise_digest},
            "effective_rate": data.effective_rate,
            "images": data.images,
            "network": self.study.network_of(cell),
            "recipe": self.recipes[cell].to_dict(),
            "epochs": self.study.epochs_of(cell),
            "objective": self.study.objective,
            "space": {d.name: d.to_dict() for d in self.spaces[cell.method].dimensions},
            "versions": self.versions,
            "commit": self.commit,
        } | {name: value for name, value in told.items() if value}

    def updates(self, cell: Cell) -> int:
        """Updates of one network over a whole training, as plain cross-entropy counts them."""
        images, recipe = self.data[cell.dataset, cell.noise].images, self.recipes[cell]
        return self.study.epochs_of(cell) * math.ceil(images / recipe.batch_size)

    def searches(self, study: Study, ledger: Ledger) -> list[CellSearch]:
        """The search of every cell, rebuilt from the ledger."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        found = []
        for cell in study.cells():
            history = ledger.open(cell.key, self.header(cell))
            found.append(
                CellSearch(
                    study,
                    cell,
                    self.spaces[cell.method],
                    ledger,
                    history,
                    partial(self.spec, cell),
                    [point for point, _ in self.starts(cell)],
                )
            )
        return found

    def unstarted(self) -> list[str]:
        """Methods with something to search of which the studies that this one starts from know no point."""
        known = {cell.method for cell in self.study.cells() if self.starts(cell)}
        named = [m for m in self.spaces if self.spaces[m].dimensions and m not in known]
        return named if self.study.start_from else []

    def starts(self, cell: Cell) -> list[tuple[Point, Found]]:
        """What a cell tries after the published point, and where it was found."""
        shape, classes = self.shapes[cell.dataset]
        space = self.spaces[cell.method]
        published, _, _ = space.paper(cell.dataset, cell.noise)
        place = Place(cell.method, cell.dataset, cell.noise, classes, len(shape) == 1)
        return starts(place, self.found, space, published)


def _mask(folder: Path, cell: Cell) -> Path:
    return folder / "masks" / f"{cell.data_key}.npz"


def _of_mask(folder: Path, cell: Cell, val_fraction: float) -> tuple[str, str] | None:
    """Digests of the data and the noise by the mask of a cell; None where there is none that can be read."""
    try:
        mask = masks.load(_mask(folder, cell))
    except InputError:
        return None
    _, val = split_validation(len(mask.given), val_fraction, mask.seed)
    return mask.data, condition_digest(mask.given, val, mask.images)


def _header(folder: Path, cell: Cell) -> dict[str, Any]:
    """The first line of a cell's ledger; empty where there is none yet."""
    path = folder / "cells" / f"{cell.key}.jsonl"
    return next(events(path), ({}, 0))[0] if path.exists() else {}


def _digests(header: dict[str, Any]) -> tuple[str, str] | None:
    """Digests of the data and the noise by a cell's header; None where it has none."""
    told = header.get("digests") or {}
    return (told["data"], told["noise"]) if {"data", "noise"} <= told.keys() else None
