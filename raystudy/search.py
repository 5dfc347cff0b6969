"""The search of a study: what is tried next in each cell, and what is stopped early.

``CellSearch`` holds the logic of one cell and knows no Ray; ``StudySearch`` and ``CellScheduler`` are the thin ends that Ray Tune talks to.

Everything is decided from the ledger alone, in batches: proposal n of a cell depends on the results of earlier batches only, its
sampler is seeded from (study seed, cell, n), and a trial is pruned against trials of earlier batches only. So it does not matter
which trial ends first, how often the driver was killed, or how many workers there are: the same study tries the same points.
With a batch of one (as many cells as workers, or more) this is plain sequential search within each cell, cells side by side.
"""

import contextlib
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from optuna.trial import TrialState
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from analysis.select import chosen, objective, paper, value
from raystudy.errors import InputError
from raystudy.ledger import CellHistory, Event, Ledger, TrialHistory
from raystudy.point import Point
from raystudy.space import Space
from raystudy.study import Cell, Study, TrialSpec

REDUCTION = 3  # ASHA: the best third of a rung goes on
PEERS = 2  # ... once so many earlier trials have come that far
STARTUP = 4  # random proposals before the model-based samplers begin
LOOK_SECONDS = 0.5  # between looks at which trials run
ATTEMPTS = 20  # fresh draws before a space that yields only known points is taken for exhausted

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


class _QMC(optuna.samplers.QMCSampler):
    """Quasi-random points numbered by the trial, so that a study rebuilt from the ledger goes on in the sequence."""

    def __init__(self, seed: int, position: int) -> None:
        super().__init__(scramble=True, seed=seed, warn_independent_sampling=False, warn_asynchronous_seeding=False)
        self._position = position

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        return self._position


def _draw(*parts: object) -> int:
    """A seed from names: the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")


def sampler(name: str, cell_seed: int, number: int, attempt: int) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial ``number`` of a cell; all its arguments follow from the study."""
    seed = _draw(cell_seed, number, attempt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental and soon deprecated arguments
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if name == "qmc":
            return _QMC(cell_seed, number + attempt * 2**12)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, deterministic_objective=False)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True, warn_independent_sampling=False
        )


class CellSearch:
    """One cell: proposes trials in batches, prunes at rungs, and after the search plans the replicates.

    ``spec`` turns a point and a seed into the full TrialSpec. All state follows from ``history``, the cell's ledger: constructing
    this object on a ledger that was left at any moment is the restart.
    """

    def __init__(
        self,
        study: Study,
        cell: Cell,
        space: Space,
        ledger: Ledger,
        history: CellHistory,
        spec: Callable[[Point, int], TrialSpec],
    ) -> None:
        self.study, self.cell, self.space, self.ledger, self.history, self.spec = (
            study,
            cell,
            space,
            ledger,
            history,
            spec,
        )
        self.paper_point, self.oracle, self.source = space.paper(cell.dataset, cell.noise)
        self.target = study.trials if space.dimensions else 1
        self.batch = study.batch or 1
        self.epochs = study.epochs_of(cell)
        self.started: set[str] = set()  # handed to Tune
        self.busy: frozenset[str] = frozenset()  # those of them that have a worker
        self.workers: dict[str, str] = {}  # trial key -> where it runs
        self.running = {t.key: t for t in history.trials.values() if t.state == "running"}  # not ended
        self._searched = [t for t in history.trials.values() if t.origin != "replicate"]
        self._settled: dict[str, int] = {}
        self._exhausted = False
        self._seed = _draw(study.seed, cell.key)
        self._flat = study.sampler in ("qmc", "gp")
        self._asked: dict[int, optuna.Trial] = {}
        self._told = 0  # search trials handed to Optuna as finished
        lower = study.objective.endswith("loss")
        self.optuna = optuna.create_study(study_name=cell.key, direction="minimize" if lower else "maximize")

        self.rungs = rungs(study, cell, space, self.paper_point)

        for trial in list(self.running.values()):  # decisions that a crash left undone
            self._judge(trial)
        self.advance()

    # -- what is tried ---------------------------------------------------------------------------------------------------------

    def searched(self) -> list[TrialHistory]:
        """The paper point and the proposals, by number."""
        return self._searched

    def _open(self, *events: Event) -> None:
        """Writes new trials to the ledger."""
        self.ledger.append(self.cell.key, *events)
        for trial in (self.history.trials[event["key"]] for event in events):
            self.running[trial.key] = trial
            if trial.origin != "replicate":
                self._searched.append(trial)

    def advance(self) -> None:
        """Opens the next batch if the last one has ended; after the search, plans replicates. Writes what is new to the ledger."""
        while True:
            trials = self.searched()
            if any(t.origin != "replicate" for t in self.running.values()):
                self._present(trials)
                return
            if len(trials) >= self.target or self._exhausted:
                break
            self._propose(trials)
        self._present(trials)
        self._tell(trials, len(trials))
        self._plan_replicates()

    def _propose(self, trials: list[TrialHistory]) -> None:
        batch = self.batch
        start = len(trials) // batch * batch
        self._present(trials)
        self._tell(trials, start)
        new: list[Event] = []
        known = set(self.history.trials)
        for number in range(len(trials), min(start + batch, self.target)):
            for attempt in range(ATTEMPTS):
                if number == 0:
                    asked, point = self._ask(self.paper_point), self.paper_point
                else:
                    self.optuna.sampler = sampler(self.study.sampler, self._seed, number, attempt)
                    asked = self.optuna.ask()
                    point = self.space.suggest(asked, self._flat)
                    if asked.params != self.space.params(point, self._flat):
                        self.optuna.tell(asked, state=TrialState.FAIL)
                        asked = self._ask(point)
                event = self._event(number, "search" if number else "paper", point, self.study.seed)
                if event["key"] not in known:
                    break
                self.optuna.tell(asked, state=TrialState.FAIL)
            else:
                self._exhausted = True
                break
            known.add(event["key"])
            self._asked[number] = asked
            new.append(event)
        self._open(*new)

    def _event(self, number: int, origin: str, point: Point, seed: int) -> Event:
        event = {
            "event": "trial",
            "key": self.spec(point, seed).key,
            "number": number,
            "origin": origin,
            "point": point,
            "seed": seed,
        }
        return event | ({"oracle": list(self.oracle)} if self.oracle and point == self.paper_point else {})

    def _plan_replicates(self) -> None:
        """The chosen and the paper point, trained again on fresh seeds."""
        trials = [
            t
            for t in (chosen(self.history, self.study.objective), paper(self.history))
            if t and t.state in ("complete", "pruned")
        ]
        numbers = iter(range(len(self.history.trials), 10**9))
        new = []
        for r in range(self.study.replicates):
            for point in ([trials[0].point] if trials else []) + [
                t.point for t in trials[1:] if t.point != trials[0].point
            ]:
                event = self._event(0, "replicate", point, self.study.seed + 1 + r)
                if event["key"] not in self.history.trials:
                    new.append(event | {"number": next(numbers)})
        self._open(*new)

    # -- Optuna, a projection --------------------------------------------------------------------------------------------------

    def _ask(self, point: Point) -> optuna.Trial:
        """A running Optuna trial with exactly this point."""
        self.optuna.enqueue_trial(self.space.params(point, self._flat))
        asked = self.optuna.ask()
        self.space.suggest(asked, self._flat)
        return asked

    def _present(self, trials: list[TrialHistory]) -> None:
        """Shows Optuna the proposals it has not seen yet (after a restart), batch by batch as they were made."""
        for n in range(self._told + len(self._asked), len(trials)):
            self._tell(trials, n // self.batch * self.batch)
            self._asked[n] = self._ask(self.space.complete(trials[n].point))

    def _tell(self, trials: list[TrialHistory], end: int) -> None:
        """Tells Optuna how trials up to number ``end`` ended, in the order of their numbers, each with its curve."""
        for trial in trials[self._told : end]:
            asked = self._asked.pop(self._told)
            self._told += 1
            curve = trial.curves.get(self.study.objective, ())
            for epoch, v in enumerate(curve):
                if math.isfinite(v):
                    asked.report(v, epoch)
            asked.set_user_attr("raystudy.key", trial.key)
            state = STATES[trial.state]
            self.optuna.tell(asked, objective(curve) if state == TrialState.COMPLETE else None, state=state)

    # -- what is running -------------------------------------------------------------------------------------------------------

    def waiting(self) -> Iterator[TrialHistory]:
        """Unfinished trials that have not been handed out, those with records (from before a restart) first."""
        trials = [t for t in self.running.values() if t.key not in self.started]
        return iter(sorted(trials, key=lambda t: (t.epochs == 0, t.number)))

    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return not self.running

    def remaining(self) -> int:
        """Epochs that are left, if no further trial is pruned."""
        open_ = sum(self.epochs - t.epochs for t in list(self.running.values()))  # a copy: progress is a thread
        search = 0 if self._exhausted else max(0, self.target - len(self.searched()))
        distinct = 2 if self.target > 1 else 1
        planned = len(self.history.trials) > len(self._searched) or self.study.replicates == 0
        return open_ + self.epochs * (search + (0 if planned else self.study.replicates * distinct))

    def report(
        self,
        key: str,
        start: int,
        records: list[dict[str, Any]],
        diverged: bool,
        failure: str,
        worker: str = "",
        again: bool = False,
    ) -> bool:
        """Takes a trial's new records, epoch ``start`` first. Returns whether the trial has ended, by its own or by pruning.

        A failure that is worth another try (``again``: memory ran out on a part of a device) is recorded, and the trial waits once more.
        """
        trial = self.history.trials[key]
        if trial.state != "running":
            return True
        self.ledger.append(
            self.cell.key,
            *({"event": "record", "key": key, "epoch": start + i, "metrics": r} for i, r in enumerate(records)),
        )
        if worker:
            self.workers[key] = worker
        if failure and again and not trial.retried:
            self.ledger.append(self.cell.key, {"event": "retry", "key": key, "reason": failure})
            self.started.discard(key)
            return True
        if failure:
            self.end(key, "failed", failure)
        elif diverged:
            self.end(key, "diverged", f"the loss was not finite in epoch {start + len(records) - 1}")
        else:
            self._judge(trial)
        return trial.state != "running"

    def end(self, key: str, state: str, reason: str = "") -> None:
        """Writes how a trial ended, then goes on with the search."""
        worker = self.workers.pop(key, "")
        self.ledger.append(
            self.cell.key, {"event": "end", "key": key, "state": state, "reason": reason, "worker": worker}
        )
        self.running.pop(key, None)
        checkpoint = checkpoint_path(self.ledger.dir, key)
        for file in (checkpoint, checkpoint.with_name(checkpoint.name + ".prev")):
            file.unlink(missing_ok=True)
        self.advance()

    def _judge(self, trial: TrialHistory) -> None:
        """Ends a trial that is complete, or that its newest rung says to stop."""
        if trial.epochs >= self.epochs:
            self.end(trial.key, "complete")
        elif trial.origin != "replicate" and trial.epochs in self.rungs and (reason := self._pruned(trial)):
            self.end(trial.key, "pruned", reason)

    def _settles(self, trial: TrialHistory) -> int:
        """Epochs a trial needs for its warm-up and ramps."""
        if trial.key not in self._settled:
            self._settled[trial.key] = math.ceil(self.space.settled(trial.point) * self.epochs)
        return self._settled[trial.key]

    def _pruned(self, trial: TrialHistory) -> str:
        """ASHA's decision at this rung: why the trial stops, or "" if it goes on.

        It goes on while it is among the best third (of those of earlier batches that came this far) by the mean noisy validation value
        of the last tenth of the epochs so far. A trial still in its warm-up is neither stopped nor compared with.
        """
        rung, sign = trial.epochs, -1 if self.study.objective.endswith("loss") else 1
        if self._settles(trial) > rung:
            return ""
        batch = self.batch
        others = [
            sign * objective(t.curves[self.study.objective][:rung])
            for t in self.searched()
            if t.number // batch < trial.number // batch and t.epochs >= rung and self._settles(t) <= rung
        ]
        mine = value(trial, self.study.objective)
        cutoff = float(np.quantile(others, 1 - 1 / REDUCTION)) if len(others) >= PEERS else -math.inf
        if mine >= cutoff:
            return ""
        values = f"{self.study.objective} {sign * mine:.4g} against {sign * cutoff:.4g}"
        return f"epoch {rung}: {values}, the best third of {len(others)} earlier trials"


def rungs(study: Study, cell: Cell, space: Space, paper_point: Point) -> list[int]:
    """The epochs at which trials of a cell may be stopped: from its warm-up or a ninth of the budget on, each three times the last."""
    if study.scheduler != "asha":
        return []
    first = math.ceil(max(space.settled(paper_point), 1 / REDUCTION**2) * study.epochs_of(cell))
    return [r for k in range(20) if (r := first * REDUCTION**k) < study.epochs_of(cell)]


def checkpoint_path(study_dir: Path, key: str) -> Path:
    """Where a trial's newest checkpoint lies."""
    return study_dir / "checkpoints" / f"{key}.pt"


class StudySearch(Searcher):
    """Ray Tune's searcher for a whole study: hands out waiting trials, of the cell with most left to do first."""

    def __init__(
        self,
        cells: list[CellSearch],
        config: Callable[[CellSearch, TrialHistory], dict[str, Any]],
        limit: float = math.inf,
    ) -> None:
        super().__init__()
        self.cells, self.config, self.limit = cells, config, limit
        self.live: dict[str, tuple[CellSearch, str]] = {}  # Ray's trial id -> cell, trial key
        self.problem: InputError | None = None  # why nothing can be recorded any more

    def suggest(self, trial_id: str) -> Any:
        if len(self.live) < self.limit and not self.problem:
            for cell in sorted(self.cells, key=lambda c: -c.remaining()):
                for trial in cell.waiting():
                    cell.started.add(trial.key)
                    self.live[trial_id] = cell, trial.key
                    return self.config(cell, trial)
        return Searcher.FINISHED if all(c.finished() for c in self.cells) else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Results are taken by the scheduler, which sees them first and all of them."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        cell, key = self.live.pop(trial_id)
        if error and key in cell.running and key in cell.started:  # else it waits for a whole device
            self.fail(cell, key, "its worker died again and again")

    def fail(self, cell: CellSearch, key: str, reason: str) -> None:
        """Ends a trial that cannot tell itself why it failed."""
        with self.recording():
            cell.end(key, "failed", reason)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """A ledger that cannot be written stops the study. Tune would take the error for the trial's, and go on."""
        try:
            yield
        except InputError as e:
            self.problem = e

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher and scheduler for a restore that is never made: the ledger is the state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger is the state."""


class CellScheduler(FIFOScheduler):
    """Ray Tune's scheduler: writes every result to the ledger before anyone acts on it, and lets the trial's cell decide.

    It also looks which trials run, and watches the clock: one that says nothing for ``timeout`` seconds is failed, its worker killed.
    """

    def __init__(self, searcher: StudySearch, timeout: float = math.inf) -> None:
        super().__init__()
        self.searcher, self.timeout = searcher, timeout
        self.heard: dict[
            str, float
        ] = {}  # Ray's trial id -> when it began or last had a record, on the monotonic clock
        self.looked = -math.inf

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        cell, key = self.searcher.live[trial.trial_id]
        told = (result[k] for k in ("start", "records", "diverged", "failure", "worker", "again"))
        if result["records"]:
            self.heard[trial.trial_id] = time.monotonic()
        ended = True
        with self.searcher.recording():
            ended = cell.report(key, *told)
        return TrialScheduler.STOP if ended else TrialScheduler.CONTINUE

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """None: Tune takes the trials in turn. It asks this many times a second, whether there is news or not.

        The trial that Tune's own scheduler would choose may have a worker on its way, which a worker that is free would then replace:
        short trials never got their second worker, as each is ended while it imports torch.
        """
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self._look(tune_controller)
            self.looked = time.monotonic()
        return None

    def _look(self, tune_controller: Any) -> None:
        """Notes which trials run, as opposed to waiting for a worker, and gives up those that hang."""
        busy: dict[int, set[str]] = {}
        for trial in list(tune_controller.get_live_trials()):
            if trial.status != trial.RUNNING or trial.trial_id not in self.searcher.live:
                self.heard.pop(trial.trial_id, None)
                continue
            cell, key = self.searcher.live[trial.trial_id]
            busy.setdefault(id(cell), set()).add(key)
            if time.monotonic() - self.heard.setdefault(trial.trial_id, time.monotonic()) > self.timeout:
                self._give_up(trial)
        for cell in self.searcher.cells:
            cell.busy = frozenset(busy.get(id(cell), ()))

    def _give_up(self, trial: Any) -> None:
        """Fails a trial that hangs. Its worker cannot be asked to stop, nor be used again: it is killed, and Tune starts another."""
        cell, key = self.searcher.live[trial.trial_id]
        if key in cell.running:
            self.searcher.fail(cell, key, f"it hung: no new record for {self.timeout:g} s (--trial-timeout)")
            trial.max_failures = 0  # so that Tune does not start it again
        if trial.temporary_state.ray_actor:
            ray.kill(trial.temporary_state.ray_actor)
        self.heard[trial.trial_id] = time.monotonic()

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tune keeps all trials to the end, with statistics of their results. The ledger has them; here they take much memory."""
        trial.run_metadata.metric_analysis, trial.run_metadata.metric_n_steps = {}, {}
        trial.run_metadata.last_result = {"trial_id": trial.trial_id, "done": True}

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A worker that Ray killed for its memory cannot say so: Ray's own error does. Tune tells of every death of a worker.

        The trial is started once more as it is, for others may have taken the memory; then once more on a whole machine.
        """
        cell, key = self.searcher.live[trial.trial_id]
        told = Path(trial.error_file).read_text(errors="replace") if trial.error_file else ""
        if key not in cell.running or not ("low on memory" in told or "OutOfMemory" in told):
            return
        if trial.should_recover():  # Tune starts it again, and after that no more
            trial.max_failures = trial.num_failures
            return
        with self.searcher.recording():
            why = "out of memory: Ray killed its worker again and again"
            cell.report(key, 0, [], False, why, again=not trial.config["whole"])
