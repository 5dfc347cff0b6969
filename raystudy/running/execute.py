"""One Ray Tune experiment for a whole study: runs every cell's trials in an open Ray session, and leaves nothing behind."""

import contextlib
import fcntl
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray import tune

from raystudy.errors import InputError
from raystudy.record.checkpoints import arrays_path, checkpoint_path
from raystudy.record.ledger import TrialHistory
from raystudy.record.models import weights_path
from raystudy.record.storage import url
from raystudy.running import local, memory
from raystudy.running.audience import Audience
from raystudy.running.budget import Budget
from raystudy.running.places import Places, counted
from raystudy.running.resources import Resources
from raystudy.running.search import CellSearch
from raystudy.running.trial import TrialActor
from raystudy.running.tune import RETRIES, CellScheduler, StudySearch
from raystudy.running.usage import Usage
from raystudy.terminal import printable

NOTHING: Mapping[str, str] = MappingProxyType({})
SCRATCH = "raystudy-scratch-"


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


class _Silent(tune.ProgressReporter):
    """The audience is told by us: in a notebook Tune's own reporter would clear the cell's output."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return False

    def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
        pass


def execute(
    study_dir: Path,
    searches: list[CellSearch],
    resources: Resources,
    places: Places,
    audience: Audience,
    budget: Budget | None = None,
    texts: Mapping[str, str] = NOTHING,
) -> None:
    """One Ray Tune experiment for all cells, in the Ray session that is open.

    ``texts``: the files of the user's own (``raystudy.own``), which go to the workers.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(
        resources.max_concurrent or (10_000 if resources.address else int(places.now) + 1)
    )
    with scratch() as folder:
        problem = _experiment(study_dir, searches, resources, places, folder, audience, budget, texts)
    if problem:
        raise problem


@contextlib.contextmanager
def scratch() -> Iterator[str]:
    """A folder for what Tune writes beside the ledger, gone afterwards. Those of drivers that were killed are taken away.

    Whether a driver is alive its lock tells, and not its number: a container that shares this folder has numbers of its own.
    """
    place = Path(tempfile.gettempdir())
    for left in place.glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{SCRATCH}"))
    with _locked(made):
        folder = made.rename(place / made.name[1:])  # only now can another driver find it
        try:
            yield str(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which ends with its process. Raises OSError where another process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _experiment(
    study_dir: Path,
    searches: list[CellSearch],
    resources: Resources,
    places: Places,
    folder: str,
    audience: Audience,
    budget: Budget | None,
    texts: Mapping[str, str],
) -> InputError | None:
    """Measures what trials take if it was asked for, then runs them all. Returns why nothing could be recorded any more, if so."""
    shares = _measured(searches, resources, audience, texts) if resources.measure and resources.gpus else {}
    if shares:
        places.for_trials_of(replace(resources, gpus=min(shares.values())), ray.nodes())
        audience.line(counted(int(places.now)))
    name = study_dir.name

    def config(search: CellSearch, trial: TrialHistory) -> dict[str, Any]:
        machine = places.machine or math.inf  # no node yet: each may be larger than a trial
        cpus, gpus = resources.cpus, shares.get(_kind(search), resources.gpus)
        if trial.retried:
            cpus, gpus = (cpus, 1.0) if gpus else (max(cpus, places.machine), 0.0)
        return {
            "spec": asdict(search.spec_of(trial)),
            "recorded": trial.epochs,
            "rungs": search.rungs if trial.origin != "replicate" else [],
            "checkpoint": str(checkpoint_path(search.ledger.dir, trial.key)),
            "lasts": search.lasts(trial),
            **({"source": str(checkpoint_path(search.ledger.dir, s.key))} if (s := search.shorter(trial)) else {}),
            "arrays": str(arrays_path(search.ledger.dir, trial.key)),
            # Of every image only what is reported: a search would fill the storage with points that were not chosen.
            "each": trial.origin == "replicate" or not search.study.replicates,
            **({} if search.study.keeps == "none" else _model(name, search, trial)),
            "storage": url(search.ledger.dir.parent),
            "study": name,
            "checkpoint_seconds": resources.checkpoint_every,
            "data_root": str(resources.data_root),
            "threads": resources.threads,
            "cpus": cpus,
            "gpus": gpus,
            "whole": gpus >= 1 if gpus else cpus >= machine,
            "own": dict(texts),
        }

    limit = resources.max_concurrent or (math.inf if resources.address else places.now)
    searcher = StudySearch(searches, config, limit)
    used = contextlib.closing(Usage(study_dir, searches, places))
    workers = contextlib.nullcontext() if resources.address else local.inherited()
    with warnings.catch_warnings(), workers, used as usage, audience.progress(searches, places):
        warnings.simplefilter("ignore")
        tune.Tuner(
            tune.with_resources(TrialActor, _request),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=CellScheduler(searcher, resources.trial_timeout, usage),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=folder,
                verbose=0,
                progress_reporter=_Silent(),
                stop=_Stopper(budget, searcher),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_at_end=False
                ),  # trials keep their own, apart from Tune
            ),
        ).fit()
    for line in noted(searcher.notes):
        audience.line(line, style="yellow")
    return searcher.problem


def _model(study: str, search: CellSearch, trial: TrialHistory) -> dict[str, Any]:
    """Where a trial leaves its weights, and what their card says of whose they are."""
    cell, told = search.cell, search.history.header
    whose = {"study": study, "cell": cell.key, "condition": cell.condition, "number": trial.number}
    whose |= {"origin": trial.origin, "oracle": list(trial.oracle), "commit": told.get("commit", "")}
    place = weights_path(search.ledger.dir, cell.key, trial.key)
    return {"model": str(place), "whose": whose | {"versions": told.get("versions", {})}}


def noted(notes: Mapping[str, Collection[str]], most: int = 3) -> list[str]:
    """What went wrong beside trainings that went on (a checkpoint or arrays that could not be written), a line each."""
    lines = [
        f"note: {printable(note)} ({len(keys)} trial{'s' * (len(keys) != 1)})"
        for note, keys in list(notes.items())[:most]
    ]
    return lines + [f"note: and {len(notes) - most} more of the kind"] * (len(notes) > most)


def _request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial asks Ray for."""
    return tune.PlacementGroupFactory([{"CPU": config["cpus"]} | ({"GPU": config["gpus"]} if config["gpus"] else {})])


def _kind(search: CellSearch) -> tuple[str, str, str]:
    """What decides how much memory a trial takes: method, data set and network."""
    spec = search.spec(search.paper_point, search.study.seed)
    return spec.method, spec.dataset, spec.network


def _measured(
    searches: list[CellSearch], resources: Resources, audience: Audience, texts: Mapping[str, str]
) -> dict[tuple[str, str, str], float]:
    """The share of a device for each kind of trial, measured with the published point on free devices."""
    asked: dict[tuple[str, str, str], Any] = {}
    for search in searches:
        kind = _kind(search)
        if kind not in asked and not search.finished():
            spec = search.spec(search.paper_point, search.study.seed)
            task = ray.remote(num_gpus=1, num_cpus=resources.cpus, max_calls=1)(memory.probe)
            asked[kind] = task.remote(spec, resources.data_root, dict(texts))
    audience.line(f"measuring how much memory {len(asked)} kinds of trial take")
    shares = {}
    for kind, task in asked.items():
        try:
            shares[kind] = ray.get(task)
        except ray.exceptions.RayError:  # what is wrong, a trial will tell
            shares[kind] = 1.0
    for (method, dataset, network), part in shares.items():
        audience.line(f"  {method}, {network} on {dataset}: {part:g} of a device")
    return shares
