"""The search of one cell: what is tried next, from what, and when it has ended. Knows no Ray; ``tune`` has the ends that Ray Tune talks to.

Everything is decided from the ledger alone, in batches: proposal n of a cell depends on the results of earlier batches only, its
sampler is seeded from (study seed, cell, n), and a trial is pruned against trials of earlier batches only. So it does not matter
which trial ends first, how often the driver was killed, or how many workers there are: the same study tries the same points.
With a batch of one (as many cells as workers, or more) this is plain sequential search within each cell, cells side by side.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import TrialState

from analysis import truth
from analysis.select import chosen, objective, paper, repeated, value
from raystudy.design.space import Space
from raystudy.design.study import Cell, Study
from raystudy.learn.point import Point, recipe_of
from raystudy.learn.spec import TrialSpec
from raystudy.record import models
from raystudy.record.checkpoints import checkpoint_path
from raystudy.record.ledger import CellHistory, Event, Ledger, TrialHistory
from raystudy.running.keeping import surplus
from raystudy.running.pruning import rungs, stopped
from raystudy.running.samplers import STATES, draw, sampler

ATTEMPTS = 20  # fresh draws before a space that yields only known points is taken for exhausted


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
        self.paper_point, published, self.source = space.paper(cell.dataset, cell.noise)
        self.oracle = truth.read_off(published, history.header)
        self.target = study.trials if space.dimensions else 1
        self.batch = study.batch or 1
        self.epochs = study.epochs_of(cell)
        final = study.final_epochs_of(cell)
        self.longer = final if final > self.epochs else 0  # epochs of replicates, where not the search's
        self.started: set[str] = set()  # handed to Tune
        self.busy: frozenset[str] = frozenset()  # those of them that have a worker
        self.workers: dict[str, str] = {}  # trial key -> where it runs
        self.running = {t.key: t for t in history.trials.values() if t.state == "running"}  # not ended
        self._searched = [t for t in history.trials.values() if t.origin != "replicate"]
        self._settled: dict[str, int] = {}
        self._exhausted = False
        self._seed = draw(study.seed, cell.key)
        self._flat = study.sampler in ("qmc", "gp")
        self._asked: dict[int, optuna.Trial] = {}
        self._told = 0  # search trials handed to Optuna as finished
        lower = study.objective.endswith("loss")
        self.optuna = optuna.create_study(study_name=cell.key, direction="minimize" if lower else "maximize")

        self.rungs = rungs(study, cell, space, self.paper_point)
        ended = [t.key for t in history.trials.values() if t.state != "running"]
        self._kept = {
            key for key in ended if checkpoint_path(ledger.dir, key).exists()
        }  # of which a checkpoint is there

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

    def spec_of(self, trial: TrialHistory) -> TrialSpec:
        """What a trial is to train."""
        spec = self.spec(trial.point, trial.seed)
        return replace(spec, epochs=trial.planned) if trial.planned else spec

    def _event(self, number: int, origin: str, point: Point, seed: int, epochs: int = 0) -> Event:
        spec = self.spec(point, seed)
        event = {
            "event": "trial",
            "key": (replace(spec, epochs=epochs) if epochs else spec).key,
            "number": number,
            "origin": origin,
            "point": point,
            "seed": seed,
        } | ({"epochs": epochs} if epochs else {})
        return event | ({"oracle": list(self.oracle)} if self.oracle and point == self.paper_point else {})

    def _plan_replicates(self) -> None:
        """The chosen and the paper point, trained again on fresh seeds; without any, but for more epochs, on the search's own."""
        trials = [
            t
            for t in (chosen(self.history, self.study.objective), paper(self.history))
            if t and t.state in ("complete", "pruned")
        ]
        numbers = iter(range(len(self.history.trials), 10**9))
        new = []
        fresh = [self.study.seed + 1 + r for r in range(self.study.replicates)]
        for seed in fresh or [self.study.seed] * bool(self.longer):
            for point in ([trials[0].point] if trials else []) + [
                t.point for t in trials[1:] if t.point != trials[0].point
            ]:
                event = self._event(0, "replicate", point, seed, self.longer)
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
        running = list(self.running.values())  # a copy: progress is a thread
        open_ = sum((t.planned or self.epochs) - t.epochs for t in running)
        search = 0 if self._exhausted else max(0, self.target - len(self.searched()))
        distinct = 2 if self.target > 1 else 1
        planned = len(self.history.trials) > len(self._searched) or self.study.replicates == 0
        repeats = 0 if planned else self.study.replicates * distinct
        return open_ + self.epochs * search + (self.longer or self.epochs) * repeats

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
        self._kept.add(key)
        self.tidy()
        self.advance()
        self._tidy_checkpoints()

    def shorter(self, trial: TrialHistory) -> TrialHistory | None:
        """The finished trial of fewer epochs whose checkpoint a longer one may go on from; None where there is none."""
        same = [
            t
            for t in self.history.trials.values()
            if t.key in self._kept and (t.seed, t.point) == (trial.seed, trial.point)
        ]
        fewer = [t for t in same if (t.planned or self.epochs) < (trial.planned or self.epochs)]
        return max(fewer, key=lambda t: t.epochs, default=None)

    def lasts(self, trial: TrialHistory) -> bool:
        """Whether a trial's last checkpoint stays when it is complete, so that more epochs can go on from it: it is what is reported of
        a cell, and nothing that is known of it before hangs on how many epochs there are."""
        if self.study.keeps == "none" or (trial.origin != "replicate" and self.study.replicates):
            return False
        if self.space.settled(trial.point) > 0 or self.study.evaluate:
            return False
        spec = self.spec(trial.point, trial.seed)
        return recipe_of(spec.method, trial.point, spec.recipe).open_ended

    def _tidy_checkpoints(self) -> None:
        """Removes checkpoints of trials that have ended, but for those that a longer training goes on from, or may."""
        stays: set[str] = set()
        if any(self.lasts(self.history.trials[key]) for key in self._kept):
            told = repeated(self.history) if self.study.replicates or self.longer else []
            told += (
                []
                if self.study.replicates
                else [t for t in (chosen(self.history, self.study.objective), paper(self.history)) if t]
            )
            stays = {t.key for t in told if t.state == "complete" and self.lasts(t)}
            stays |= {found.key for t in self.running.values() if t.planned and (found := self.shorter(t))}
        for key in self._kept - stays:
            file = checkpoint_path(self.ledger.dir, key)
            for one in (file, file.with_name(file.name + ".prev")):
                one.unlink(missing_ok=True)
        self._kept &= stays

    def surplus(self, present: Collection[str]) -> set[str]:
        """Of the trials that have left a model those whose model goes."""
        return surplus(self.history, present, self.study.keeps)

    def tidy(self) -> None:
        """Removes the models that are not kept."""
        there = models.here(self.ledger.dir, self.cell.key)
        models.remove(self.ledger.dir, self.cell.key, self.surplus(there))

    def _judge(self, trial: TrialHistory) -> None:
        """Ends a trial that is complete, or that its newest rung says to stop."""
        if trial.epochs >= (trial.planned or self.epochs):
            self.end(trial.key, "complete")
        elif trial.origin != "replicate" and trial.epochs in self.rungs and (reason := self._pruned(trial)):
            self.end(trial.key, "pruned", reason)

    def _settles(self, trial: TrialHistory) -> int:
        """Epochs a trial needs for its warm-up and ramps."""
        if trial.key not in self._settled:
            self._settled[trial.key] = math.ceil(self.space.settled(trial.point) * self.epochs)
        return self._settled[trial.key]

    def _pruned(self, trial: TrialHistory) -> str:
        """Why the trial stops at this rung, or "" if it goes on.

        It goes on while it is among the best third (of those of earlier batches evaluated here) by the mean noisy validation value
        of the last tenth of the epochs so far. A trial still in its warm-up is neither stopped nor compared with.
        """
        rung, sign = trial.epochs, -1 if self.study.objective.endswith("loss") else 1
        if self._settles(trial) > rung:
            return ""
        others = [
            worth
            for t in self.searched()
            if t.number // self.batch < trial.number // self.batch
            and t.epochs >= rung
            and self._settles(t) <= rung
            and not math.isnan(worth := sign * objective(t.curves[self.study.objective][:rung]))
        ]
        mine = value(trial, self.study.objective)
        if math.isnan(mine):  # nobody looked there: a replayed curve of another scheduler's rungs
            return ""
        if (cutoff := stopped(mine, others)) is None:
            return ""
        values = f"{self.study.objective} {sign * mine:.4g} against {sign * cutoff:.4g}"
        return f"epoch {rung}: {values}, the best third of {len(others)} earlier trials"
