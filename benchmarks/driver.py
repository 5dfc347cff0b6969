"""What the driver decides by itself, without Ray: a large study whose trainings are invented, in processor time a result.

    python benchmarks/driver.py [--cells 100] [--trials 100] [--workers 1000] [--epochs 9]

The real ledger, searches of all cells and both ends that Ray Tune talks to (``StudySearch``, ``CellScheduler``), driven by a heap of events
in place of Ray: ``--workers`` trials are out at once, an epoch takes an invented time and is a result of its own, as with trainings of more
than half a second an epoch. Ten methods with spaces of their own, as many noise rates as the cells ask for, TPE and ASHA. What is told
is processor time, so other work on the machine does not matter; Tune's and MLflow's own part is in ``scale.py`` and ``tracking.py``.

A line for each tenth of the study: a result must not cost more the longer the study is. ``memory`` is what the process has grown by since
its searches were empty.
"""

import argparse
import hashlib
import heapq
import math
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from raystudy.data.noise import Noise  # noqa: E402
from raystudy.design import space  # noqa: E402
from raystudy.design.study import Cell, Study  # noqa: E402
from raystudy.learn.point import Point  # noqa: E402
from raystudy.learn.spec import TrialSpec  # noqa: E402
from raystudy.record.ledger import Ledger, TrialHistory  # noqa: E402
from raystudy.running.search import CellSearch  # noqa: E402
from raystudy.running.tune import CellScheduler, StudySearch  # noqa: E402

METHODS = ("dividemix", "coteaching", "mixup", "elr", "gce", "sce", "bootstrap", "focal", "jocor", "label_smoothing")
TARGET_MS = 10.0
METRICS = ("train/loss", "val/acc", "val/loss", "test/acc", "test/loss", "cost/seconds", "cost/passes")


def drawn(*parts: object) -> float:
    """A number in [0, 1) from names."""
    return int(hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:8], 16) / 2**32


def opened(told: Study, folder: Path) -> tuple[Ledger, list[CellSearch]]:
    """The searches of all cells on the ledger in ``folder``, as a start of the study has them, but for the data."""
    ledger, spaces = Ledger(folder), {name: space.load(name) for name in told.methods}

    def spec(cell: Cell, point: Point, seed: int) -> TrialSpec:
        noise, epochs = cell.noise.to_dict(), told.epochs_of(cell)
        return TrialSpec(cell.method, 1, point, cell.dataset, "d", noise, "n", "mlp", {}, epochs, seed, 0.1, 0)

    def search(cell: Cell) -> CellSearch:
        history = ledger.open(cell.key, {"cell": cell.to_dict()})
        return CellSearch(told, cell, spaces[cell.method], ledger, history, partial(spec, cell))

    return ledger, [search(cell) for cell in told.cells()]


def results(searches: list[CellSearch], workers: int) -> Iterator[int]:
    """Runs the study to its end as so many workers would; yields how many trials have ended, after each result."""

    def config(search: CellSearch, trial: TrialHistory) -> dict[str, Any]:
        return {"spec": search.spec(trial.point, trial.seed), "recorded": trial.epochs}

    searcher = StudySearch(searches, config, workers)
    scheduler = CellScheduler(searcher)
    out: list[tuple[float, int, Any]] = []  # when its next epoch ends, a number, the trial
    now, number, ended, idle = 0.0, 0, 0, True
    while True:
        while idle and len(out) < workers:
            trial = SimpleNamespace(trial_id=f"t{number}", number=number)
            told = searcher.suggest(trial.trial_id)
            if not isinstance(told, dict):
                break
            trial.spec, trial.next = told["spec"], told["recorded"]
            trial.pace = 20 * (0.5 + drawn("pace", trial.spec.key))
            number += 1
            heapq.heappush(out, (now + trial.pace, trial.number, trial))
        if not out:
            return
        now, _, trial = heapq.heappop(out)
        at, level = drawn(trial.spec.key), 1 - math.exp(-(trial.next + 1) / 3)
        record = dict.fromkeys(METRICS, 0.5) | {
            "val/acc": round(0.9 * level * (0.5 + at / 2) + 0.01 * drawn(trial.spec.key, now), 6)
        }
        result = {
            "start": trial.next,
            "records": [record],
            "diverged": False,
            "failure": "",
            "repeated": 0.0,
            "notes": [],
            "worker": "w:1",
            "again": False,
        }
        trial.next += 1
        idle = scheduler.on_trial_result(None, trial, result) == "STOP"
        if idle:
            trial.run_metadata = SimpleNamespace()
            scheduler.on_trial_complete(None, trial, result)
            searcher.on_trial_complete(trial.trial_id, result)
            ended += 1
        else:
            heapq.heappush(out, (now + trial.pace, trial.number, trial))
        yield ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("cells", 100), ("trials", 100), ("workers", 1000), ("epochs", 9), ("virtual-workers", 20)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--sampler", default="tpe")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rates = -(-args.cells // len(METHODS))
    noises = tuple(Noise("symmetric", round((i + 1) / (rates + 1), 6)) for i in range(rates))
    methods = METHODS[: -(-args.cells // rates)]
    told = Study(
        name="driver", methods=methods, datasets=("digits",), noises=noises, trials=args.trials, replicates=3,
        epochs=args.epochs, network="mlp", sampler=args.sampler, virtual_workers=args.virtual_workers,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        ledger, searches = opened(told, Path(folder))
        total = len(searches) * args.trials
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        cpu, n, tenth, since = time.process_time(), 0, 1, 0
        first, worst = cpu, 0.0
        for ended in results(searches, args.workers):
            n, since = n + 1, since + 1
            if ended * 10 >= tenth * total:
                spent = 1000 * (time.process_time() - cpu) / since
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - begun
                print(
                    f"{ended:>6} trials, {n:>7} results: {spent:5.2f} ms a result, memory {grown:6.0f} MiB", flush=True
                )
                worst, cpu, since, tenth = max(worst, spent), time.process_time(), 0, tenth + 1
        mean = 1000 * (time.process_time() - first) / n
        ledger.close()
        began = time.process_time()
        ledger, searches = opened(told, Path(folder))
        again = time.process_time() - began
        assert all(s.finished() for s in searches)
        size = sum(f.stat().st_size for f in (Path(folder) / "cells").iterdir()) / 2**20
    print(
        f"{len(searches)} cells, {n} results: {mean:.2f} ms of CPU a result, {worst:.2f} in the dearest tenth", end=""
    )
    print(
        f" (target {TARGET_MS:g}: {'yes' if worst < TARGET_MS else 'NO'}); ledger {size:.0f} MiB, restart {again:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
