"""One Ray Tune experiment for a whole study: starts or joins Ray, runs every cell's trials, leaves nothing behind."""

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from rich.console import Console

from raystudy.errors import InputError
from raystudy.record.checkpoints import arrays_path, checkpoint_path
from raystudy.record.ledger import TrialHistory
from raystudy.record.storage import url
from raystudy.run import memory
from raystudy.run.budget import Budget
from raystudy.run.nodes import Watch, largest
from raystudy.run.progress import Progress
from raystudy.run.search import CellSearch
from raystudy.run.trial import TrialActor
from raystudy.run.tune import CellScheduler, StudySearch

PATIENCE = 8.0  # seconds that Ray may take to stop
RETRIES = 5  # how often a trial whose worker died is started again; it goes on from its checkpoint


@dataclass(frozen=True)
class Resources:
    """Where and how trials are run: nothing here changes their results."""

    address: str | None  # of a running Ray; None: one of its own on this machine
    cpus: float  # per trial
    gpus: float  # per trial, of a device
    measure: bool  # find out by a probe how much of a device each method takes, rather than ``gpus``
    max_concurrent: int | None
    checkpoint_every: float  # seconds
    data_root: Path
    trial_timeout: float = math.inf  # seconds without a record after which a trial has failed


def capacity(resources: Resources) -> float:
    """How many trials can run at once on this machine; on a cluster what --max-concurrent says, or one for each CPU here."""
    slots = (os.cpu_count() or 1) / resources.cpus
    if resources.gpus and torch.cuda.is_available():
        slots = min(slots, torch.cuda.device_count() / resources.gpus)
    return min(max(1.0, math.floor(slots)), resources.max_concurrent or math.inf)


def reach(resources: Resources) -> None:
    """Raises InputError, one line, where nothing listens at ``--address HOST:PORT``: Ray itself would try for minutes."""
    host, colon, port = (resources.address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), 10).close()
        except (OSError, OverflowError) as e:
            raise InputError(f"cannot start or reach Ray on {resources.address}: {e}") from None


class _Stopper(tune.Stopper):
    """Ends the experiment when the budget is used up or the ledger cannot be written; running trials are left as by a Ctrl-C."""

    def __init__(self, budget: Budget | None, searcher: StudySearch) -> None:
        self.budget, self.searcher = budget, searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        spent = self.budget is not None and self.budget.spent(sum(len(c.busy) for c in self.searcher.cells))
        return spent or self.searcher.problem is not None

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
    console.print(f"starting Ray {place}: up to {slots:.0f} trials at once", markup=False, highlight=False)
    reach(resources)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as e:  # Ray raises nothing more special where a busy machine keeps it from starting in time
        raise InputError(f"cannot start or reach Ray {place}: {' '.join(str(e).split())[:400]}") from None
    scratch, problem = tempfile.mkdtemp(prefix="raystudy-"), None
    with _stopping(console):
        try:
            problem = _experiment(name, searches, resources, slots, scratch, console, budget)
        finally:
            ray.shutdown()
            shutil.rmtree(scratch, ignore_errors=True)
    if problem:
        raise problem


def _experiment(
    name: str,
    searches: list[CellSearch],
    resources: Resources,
    slots: float,
    scratch: str,
    console: Console,
    budget: Budget | None,
) -> InputError | None:
    """Measures what trials take if it was asked for, then runs them all. Returns why nothing could be recorded any more, if so."""
    shares = _measured(searches, resources, console) if resources.measure and resources.gpus else {}
    if shares:
        slots = capacity(replace(resources, gpus=min(shares.values())))

    machine = max(resources.cpus, largest("CPU"))

    def config(search: CellSearch, trial: TrialHistory) -> dict[str, Any]:
        cpus, gpus = resources.cpus, shares.get(_kind(search), resources.gpus)
        if trial.retried:
            cpus, gpus = (cpus, max(1.0, gpus)) if gpus else (machine, 0.0)
        return {
            "spec": asdict(search.spec(trial.point, trial.seed)),
            "recorded": trial.epochs,
            "rungs": search.rungs if trial.origin != "replicate" else [],
            "checkpoint": str(checkpoint_path(search.ledger.dir, trial.key)),
            "arrays": str(arrays_path(search.ledger.dir, trial.key)),
            "storage": url(search.ledger.dir.parent),
            "study": name,
            "checkpoint_seconds": resources.checkpoint_every,
            "data_root": str(resources.data_root),
            "threads": max(1, int(resources.cpus)),
            "cpus": cpus,
            "gpus": gpus,
            "whole": gpus >= 1 if gpus else cpus >= machine,
        }

    limit = resources.max_concurrent or (math.inf if resources.address else slots)
    searcher = StudySearch(searches, config, limit)
    watch = Watch(searches[0].ledger.dir, others=bool(resources.address))
    with watch, warnings.catch_warnings(), Progress(searches, slots, console):
        warnings.simplefilter("ignore")
        tune.Tuner(
            tune.with_resources(TrialActor, _request),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=CellScheduler(searcher, resources.trial_timeout),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=scratch,
                verbose=0,
                stop=_Stopper(budget, searcher),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_at_end=False
                ),  # trials keep their own, apart from Tune
            ),
        ).fit()
    return searcher.problem


def _request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial asks Ray for."""
    return tune.PlacementGroupFactory([{"CPU": config["cpus"]} | ({"GPU": config["gpus"]} if config["gpus"] else {})])


def _kind(search: CellSearch) -> tuple[str, str, str]:
    """What decides how much memory a trial takes: method, data set and network."""
    spec = search.spec(search.paper_point, search.study.seed)
    return spec.method, spec.dataset, spec.network


def _measured(searches: list[CellSearch], resources: Resources, console: Console) -> dict[tuple[str, str, str], float]:
    """The share of a device for each kind of trial, measured with the published point on free devices."""
    asked: dict[tuple[str, str, str], Any] = {}
    for search in searches:
        kind = _kind(search)
        if kind not in asked and not search.finished():
            spec = search.spec(search.paper_point, search.study.seed)
            task = ray.remote(num_gpus=1, num_cpus=resources.cpus, max_calls=1)(memory.probe)
            asked[kind] = task.remote(spec, resources.data_root)
    console.print(f"measuring how much memory {len(asked)} kinds of trial take", highlight=False)
    shares = {}
    for kind, task in asked.items():
        try:
            shares[kind] = ray.get(task)
        except ray.exceptions.RayError:  # what is wrong, a trial will tell
            shares[kind] = 1.0
    for (method, dataset, network), part in shares.items():
        console.print(f"  {method}, {network} on {dataset}: {part:g} of a device", markup=False, highlight=False)
    return shares


@contextlib.contextmanager
def _stopping(console: Console) -> Iterator[None]:
    """A scheduler's SIGTERM stops the study as cleanly as Ctrl-C, which Ray Tune handles; a second Ctrl-C takes Tune out of it.

    Where the signal went to all processes of the study, as `timeout` and Slurm send it, Ray's own have died of it, and this one stands
    in a call to them for a minute and answers no signal. Then a thread ends it, as nothing but the ledger is needed to go on.
    """
    done, (read, write) = threading.Event(), os.pipe()
    os.set_blocking(write, False)

    def follow() -> None:
        while (got := os.read(read, 1)) and got[0] != signal.SIGTERM:  # SIGINT is kept from Ray's processes
            pass
        if got and not done.wait(PATIENCE):
            console.show_cursor()
            console.print("stopped while Ray gave no answer; the same command goes on from here", style="yellow")
            os._exit(130)

    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    wakeup = signal.set_wakeup_fd(write)
    thread = threading.Thread(target=follow, name="raystudy-stop", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        done.set()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, before)
        os.close(write)
        thread.join()
        os.close(read)
