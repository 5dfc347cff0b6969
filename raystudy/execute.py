"""One Ray Tune experiment for a whole study: starts or joins Ray, runs every cell's trials, leaves nothing behind."""

import contextlib
import logging
import math
import os
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from rich.console import Console

from raystudy.budget import Budget
from raystudy.errors import InputError
from raystudy.ledger import TrialHistory
from raystudy.progress import Progress
from raystudy.search import CellScheduler, CellSearch, StudySearch, checkpoint_path
from raystudy.storage import url
from raystudy.trial import TrialActor

RETRIES = 5  # how often a trial whose worker died is started again; it goes on from its checkpoint


@dataclass(frozen=True)
class Resources:
    """Where and how trials are run: nothing here changes their results."""

    address: str | None  # of a running Ray; None: one of its own on this machine
    cpus: float  # per trial
    gpus: float
    max_concurrent: int | None
    checkpoint_every: float  # seconds
    data_root: Path


def capacity(resources: Resources) -> float:
    """How many trials can run at once on this machine; on a cluster what --max-concurrent says, or one for each CPU here."""
    slots = (os.cpu_count() or 1) / resources.cpus
    if resources.gpus and torch.cuda.is_available():
        slots = min(slots, torch.cuda.device_count() / resources.gpus)
    return min(max(1.0, math.floor(slots)), resources.max_concurrent or math.inf)


class _Stopper(tune.Stopper):
    """Ends the experiment when the budget is used up: running trials are left as a Ctrl-C would leave them."""

    def __init__(self, budget: Budget, searcher: StudySearch) -> None:
        self.budget, self.searcher = budget, searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.budget.spent(len(self.searcher.live))

    def __getstate__(self) -> dict[str, Any]:
        return {}


def execute(
    name: str, searches: list[CellSearch], resources: Resources, console: Console, budget: Budget | None = None
) -> None:
    """One Ray Tune experiment for all cells."""
    slots = capacity(resources)
    os.environ |= {
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing is ever restored from Tune's own snapshots
        "TUNE_MAX_PENDING_TRIALS_PG": str(
            resources.max_concurrent or (10_000 if resources.address else int(slots) + 1)
        ),
        "TUNE_WARN_THRESHOLD_S": "60",
    }
    for logger in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    where: dict[str, Any] = {"address": resources.address}
    if not resources.address:  # a Ray of its own, never one that an earlier, killed driver left behind
        where = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
    place = f"on {resources.address}" if resources.address else "on this machine"
    console.print(f"starting Ray {place}: up to {slots:.0f} trials at once", highlight=False)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise InputError(f"cannot start or reach Ray {place}: {str(e).splitlines()[0]}") from None

    def config(search: CellSearch, trial: TrialHistory) -> dict[str, Any]:
        return {
            "spec": asdict(search.spec(trial.point, trial.seed)),
            "recorded": trial.epochs,
            "rungs": search.rungs if trial.origin != "replicate" else [],
            "checkpoint": str(checkpoint_path(search.ledger.dir, trial.key)),
            "storage": url(search.ledger.dir.parent),
            "study": name,
            "checkpoint_seconds": resources.checkpoint_every,
            "data_root": str(resources.data_root),
            "threads": max(1, int(resources.cpus)),
            "gpus": resources.gpus,
        }

    limit = resources.max_concurrent or (math.inf if resources.address else slots)
    searcher = StudySearch(searches, config, limit)
    scratch = tempfile.mkdtemp(prefix="raystudy-")
    try:
        with _sigterm_like_sigint(), warnings.catch_warnings(), Progress(searches, slots, console):
            warnings.simplefilter("ignore")
            tune.Tuner(
                tune.with_resources(TrialActor, {"cpu": resources.cpus, "gpu": resources.gpus}),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=CellScheduler(searcher),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: trial.trial_id,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name=name,
                    storage_path=scratch,
                    verbose=0,
                    stop=_Stopper(budget, searcher) if budget else None,
                    failure_config=tune.FailureConfig(max_failures=RETRIES),
                    checkpoint_config=tune.CheckpointConfig(
                        checkpoint_at_end=False
                    ),  # trials keep their own, apart from Tune
                ),
            ).fit()
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _sigterm_like_sigint() -> Iterator[None]:
    """A scheduler's SIGTERM stops the study as cleanly as Ctrl-C, which Ray Tune handles."""
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
