"""A cell's search on the real ledger and real Optuna, its trainings replaced by a formula of (point, epoch): shared by several tests."""

import hashlib
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from raystudy.data.noise import Noise
from raystudy.design.space import load
from raystudy.design.study import Cell, Study
from raystudy.learn.spec import TrialSpec
from raystudy.record.ledger import Ledger
from raystudy.running.search import CellSearch

optuna.logging.set_verbosity(optuna.logging.ERROR)
CELL = Cell("dividemix", "digits", Noise("symmetric", 0.5))


def study(**changes: Any) -> Study:
    told = {
        "name": "s",
        "methods": ("dividemix",),
        "datasets": ("digits",),
        "noises": (CELL.noise,),
        "trials": 8,
        "replicates": 2,
        "epochs": 27,
        "network": "mlp",
    }
    return Study(**(told | changes))


def spec(point: dict[str, Any], seed: int) -> TrialSpec:
    return TrialSpec("dividemix", 1, point, "digits", "d", {}, "n", "mlp", {}, 27, seed, 0.1, 0)


def opened(folder: Path, told: Study, cell: Cell = CELL) -> CellSearch:
    ledger = Ledger(folder)
    return CellSearch(told, cell, load("dividemix"), ledger, ledger.open(cell.key, {"cell": cell.to_dict()}), spec)


def accuracy(point: dict[str, Any], seed: int, epoch: int) -> float:
    """A smooth fake: best near p_threshold 0.6, with a little noise that only the key decides."""
    wobble = int(hashlib.sha256(f"{sorted(point.items())}{seed}{epoch}".encode()).hexdigest()[:4], 16) / 2**16
    return round((1 - abs(point["p_threshold"] - 0.6)) * (1 - math.exp(-(epoch + 1) / 5)) + 0.02 * wobble, 6)


def train(
    search: CellSearch,
    score: Callable[..., float] = accuracy,
    stop: Callable[[], bool] = lambda: False,
    shuffle: random.Random | None = None,
) -> None:
    """Runs waiting trials to their end, one result an epoch; with ``shuffle`` several at once in random turns."""
    live: list[str] = []
    while not stop():
        live += [t.key for t in search.waiting()]
        search.started |= set(live)
        if not live:
            return
        key = shuffle.choice(live) if shuffle else live[0]
        trial = search.history.trials[key]
        value = score(trial.point, trial.seed, trial.epochs)
        record = {"val/acc": None if math.isnan(value) else value, "test/acc": 0.5}
        if search.report(key, trial.epochs, [record], math.isnan(value), ""):
            live.remove(key)
