"""The two ends that Ray Tune talks to: ``StudySearch`` hands out trials, ``CellScheduler`` takes results and says what stops.

Both only pass on; what is tried and what is stopped early is decided in ``search`` and ``pruning``.
"""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raystudy.errors import InputError
from raystudy.record.ledger import TrialHistory
from raystudy.running.search import CellSearch
from raystudy.running.usage import Usage


class StudySearch(Searcher):
    """Ray Tune's searcher for a whole study: hands out waiting trials, the one with the longest way to the end of its cell first.

    So cells with most left to do go first, and of the last trials of a study the longest; what nothing waits for, replicates, fills places
    that would be idle. A way is counted in epochs at the pace of its cell so far; that decides the order alone, never what is tried.
    """

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
        self.notes: dict[str, set[str]] = {}  # what went wrong beside a training -> keys of the trials that say so

    def suggest(self, trial_id: str) -> Any:
        if len(self.live) < self.limit and not self.problem:
            paces = [c.pace() for c in self.cells]
            usual = max((p for p in paces if p > 0), default=1.0)  # of a cell without records: as the slowest
            longest, found = -1.0, None
            for cell, pace in zip(self.cells, paces, strict=True):
                trial = next(cell.waiting(), None)
                if trial and (way := cell.ahead(trial) * (pace if pace > 0 else usual)) > longest:
                    longest, found = way, (cell, trial)
            if found and not (found[1].origin == "replicate" and self._queued()):
                cell, trial = found
                cell.started.add(trial.key)
                self.live[trial_id] = cell, trial.key
                return self.config(cell, trial)
        return Searcher.FINISHED if all(c.finished() for c in self.cells) else None

    def _queued(self) -> bool:
        """Whether proposals are still to come, and would stand behind what Ray holds already. A cluster gets all that waits, so that the
        autoscaler sees it."""
        searching = self.limit == math.inf and any(c.unplanned() for c in self.cells)
        return searching and len(self.live) > sum(len(c.busy) for c in self.cells)

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

    def __init__(self, searcher: StudySearch, timeout: float = math.inf, usage: Usage | None = None) -> None:
        super().__init__()
        self.searcher, self.timeout, self.usage = searcher, timeout, usage
        self.heard: dict[
            str, float
        ] = {}  # Ray's trial id -> when it began or last had a record, on the monotonic clock
        self.looked = -math.inf
        self.deaths: Counter[str] = Counter()  # trial key -> how often its worker died

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        cell, key = self.searcher.live[trial.trial_id]
        told = (result[k] for k in ("start", "records", "diverged", "failure", "worker", "again"))
        for note in result["notes"]:
            self.searcher.notes.setdefault(note, set()).add(key)
        if result["records"]:
            self.heard[trial.trial_id] = time.monotonic()
        if self.usage:
            self.usage.lost["repeated"] += result["repeated"]
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
        if self.usage:
            self.usage.look(sum(map(len, busy.values())), len(self.searcher.live))

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
        """Tune tells of every death of a worker; where it starts the trial again by itself, the trial's status is ERROR by now.

        It does not while the trial begins, whose first worker that dies would be its last: such a trial waits once more. Nor does it
        do so again after a worker that Ray killed for its memory, which cannot say so: Ray's own error does. That trial is started
        once more as it is, for others may have taken the memory; then once more on a whole machine. A node that was lost, as spot machines
        are, is no failure of the trials that were on it, however often that happens.
        """
        cell, key = self.searcher.live[trial.trial_id]
        if key not in cell.running:
            return
        recovers = trial.status == trial.ERROR
        told = Path(trial.error_file).read_text(encoding="utf-8", errors="replace") if trial.error_file else ""
        told = told.rpartition("Failure # ")[2]  # the last of its worker's
        if self.usage and trial.trial_id in self.heard:
            self.usage.lost["died"] += time.monotonic() - self.heard.pop(trial.trial_id)
        if NODE_LOST in told:
            if recovers:
                trial.max_failures += 1
            else:
                cell.started.discard(key)
            return
        self.deaths[key] += 1
        if "low on memory" not in told and "OutOfMemory" not in told:
            if not recovers and self.deaths[key] <= RETRIES:
                cell.started.discard(key)
        elif recovers:
            trial.max_failures = trial.num_failures  # Tune starts it again, and after that no more
        else:
            with self.searcher.recording():
                why = "out of memory: Ray killed its worker again and again"
                cell.report(key, 0, [], False, why, again=not trial.config["whole"])


RETRIES = 5  # how often a trial whose worker died is started again; it goes on from its checkpoint
NODE_LOST = "its node has died"  # as Ray says it
LOOK_SECONDS = 0.5  # between looks at which trials run
