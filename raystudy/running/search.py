"""The search of one cell: what is tried next, from what, and when it has ended. Knows no Ray; ``tune`` has the ends that Ray Tune talks to.

Everything is decided from the ledger alone, in virtual time (``clock``): proposal n of a cell depends on the results of the trials that
have ended by its virtual start, its sampler is seeded from (study seed, cell, n), and a trial is pruned against the trials that have come
as far by the same virtual time. So it does not matter which trial really ends first, how often the driver was killed, or how many workers
there are: the same study tries the same points and stops the same trials. With one virtual worker (as many cells as workers, or more)
this is plain sequential search within each cell, cells side by side.

What is not known yet is waited for, but no worker waits: a trial whose rung cannot be judged yet, because slower ones that count have not
come so far, trains on. What it tells meanwhile is ``held`` here and not in the ledger; it is written when the trial may go on, and dropped
when it was to stop. So every trial that has a worker comes to its end whatever others do, and nothing can wait in a circle.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from raystudy.record.checkpoints import arrays_path, checkpoint_path
from raystudy.record.ledger import CellHistory, Event, Ledger, TrialHistory
from raystudy.running.clock import Batches, Clock, Turn
from raystudy.running.keeping import surplus
from raystudy.running.pruning import rungs, stopped
from raystudy.running.samplers import FLAT, STATES, draw, sampler
from raystudy.running.transfer import misled

# With which proposals are shown to Optuna once they are made. Samplers leave notes with a trial that runs (TPE: what it drew for parameters
# that the trial does not use), from which the next proposals would follow, and which a restart does not have.
NEUTRAL = optuna.samplers.RandomSampler(seed=0)

ATTEMPTS = 20  # fresh draws before a space that yields only known points is taken for exhausted


@dataclass
class Held:
    """What a trial has told beyond a rung that is not judged yet."""

    records: list[dict[str, Any]] = field(default_factory=list)
    end: tuple[str, str] | None = None  # how its training ended by itself, and why


class CellSearch:
    """One cell: proposes trials in virtual time, prunes at rungs, and plans the replicates.

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
        starts: Sequence[Point] = (),
    ) -> None:
        self.study, self.cell, self.space, self.ledger, self.history, self.spec = (
            study,
            cell,
            space,
            ledger,
            history,
            spec,
        )
        self.starts = starts  # what others have found: tried after the published point
        self.paper_point, published, self.source = space.paper(cell.dataset, cell.noise)
        self.oracle = truth.read_off(published, history.header)
        if begun := paper(history):  # a study goes on with the point that it began with, whatever is published by now
            self.paper_point, self.oracle = begun.point, begun.oracle
        self.target = study.trials if space.dimensions else 1
        self.clock = Batches(study.batch) if study.batch else Clock(study.virtual_workers or 1)
        self.epochs = study.epochs_of(cell)
        final = study.final_epochs_of(cell)
        self.longer = final if final > self.epochs else 0  # epochs of replicates, where not the search's
        self.started: set[str] = set()  # handed to Tune
        self.busy: frozenset[str] = frozenset()  # those of them that have a worker
        self.workers: dict[str, str] = {}  # trial key -> where it runs
        self.beyond = 0.0  # seconds that trials trained on where they were to stop
        self.running = {t.key: t for t in history.trials.values() if t.state == "running"}  # not ended
        self._searched = sorted((t for t in history.trials.values() if t.origin != "replicate"), key=lambda t: t.number)
        self._held: dict[str, Held] = {}
        self._over = False  # whether a trial has ended whose checkpoint is still there
        self._passed: dict[str, int] = {}  # trial key -> the last rung at which it was judged and went on
        self._planned = 0  # how many points' replicates are opened: the published one's, then those of what was chosen
        self._settled: dict[str, int] = {}
        self._exhausted = False
        self._seed = draw(study.seed, cell.key)
        self._flat = study.sampler in FLAT
        self._asked: dict[int, optuna.Trial] = {}  # by number, not told yet how they ended
        self._epochs = sum(t.epochs for t in history.trials.values())
        self._seconds = math.fsum(
            v for t in history.trials.values() for v in t.curves.get("cost/seconds", ()) if math.isfinite(v)
        )
        lower = study.objective.endswith("loss")
        self.optuna = optuna.create_study(study_name=cell.key, direction="minimize" if lower else "maximize")

        self.rungs = rungs(study, cell, space, self.paper_point)
        ended = [t.key for t in history.trials.values() if t.state != "running"]
        self._kept = {
            key for key in ended if checkpoint_path(ledger.dir, key).exists()
        }  # of which a checkpoint is there
        self._repeats = sum(  # replicates of the length that they are to have now
            t.origin == "replicate" and t.planned == self.longer for t in history.trials.values()
        )

        for trial in self._open_trials():  # what a crash left undone
            if _broken(trial, study.objective):
                self._close(trial, "diverged", _not_finite(trial.epochs))
            else:
                self._go_on(trial)
        self.advance()
        self._tidy_checkpoints()

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
            else:
                self._repeats += trial.planned == self.longer

    def advance(self) -> None:
        """Opens what can be proposed now, and replicates as soon as their point is known. Writes what is new to the ledger."""
        self._present()
        while not self._enough() and (turn := self.clock.turn(self._earliest())):
            self._propose(turn)
        if not self._planned and not self.study.batch:
            self._replicate(paper(self.history))  # depends on nothing: work for workers that would be idle
            self._planned = 1
        if self._enough() and self._planned < 2 and all(t.origin == "replicate" for t in self.running.values()):
            self._tell([n for _, n in self.clock.ends])
            done = [chosen(self.history, self.study.objective), paper(self.history)]
            self._replicate(*(t for t in done if t and t.state in ("complete", "pruned")))
            self._planned = 2

    def _enough(self) -> bool:
        """Whether all proposals are made."""
        return len(self._searched) >= self.target or self._exhausted

    def _propose(self, turn: Turn) -> None:
        """Opens the next trial of the search, or notes that the space has no more points."""
        number = len(self._searched)
        self._tell(turn.seen)
        for attempt in range(ATTEMPTS):
            if number == 0:
                asked, point = self._ask(self.paper_point), self.paper_point
            elif attempt == 0 and number <= len(self.starts) and not misled(*self._tried()):
                asked, point = self._ask(self.starts[number - 1]), self.starts[number - 1]
            else:
                self.optuna.sampler = sampler(self.study.sampler, self._seed, number, attempt)
                asked = self.optuna.ask()
                point = self.space.suggest(asked, self._flat)
                if not self.study.batch or asked.params != self.space.params(point, self._flat):
                    self.optuna.tell(asked, state=TrialState.FAIL)
                    if not self.study.batch:
                        self.optuna.sampler = NEUTRAL
                    asked = self._ask(point)
            event = self._event(number, "search" if number else "paper", point, self.study.seed)
            if event["key"] not in self.history.trials:
                break
            self.optuna.tell(asked, state=TrialState.FAIL)
        else:
            self._exhausted = True
            return
        self._asked[number] = asked
        self.clock.begin(turn.start)
        self._open(event)

    def _tried(self) -> tuple[float, list[float]]:
        """How the published point and those that the search starts from did, as far as the next proposal sees them."""
        seen = {
            t.number: value(t, self.study.objective) if t.state == "complete" else math.nan
            for t in self._searched[: len(self.starts) + 1]
            if t.number not in self._asked
        }
        return seen.pop(0, math.nan), list(seen.values())

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

    def _replicate(self, *trials: TrialHistory | None) -> None:
        """The points of these trials, trained again on fresh seeds, where they are not yet; without any, but for more epochs, on the
        search's own."""
        points: list[Point] = []
        for trial in trials:
            if trial and trial.point not in points:
                points.append(trial.point)
        last = max((t.number for t in self.history.trials.values()), default=-1)
        first = len(self.history.trials) if self.study.batch else max(self.target, last + 1)
        new: dict[str, Event] = {}
        fresh = [self.study.seed + 1 + r for r in range(self.study.replicates)]
        for seed in fresh or [self.study.seed] * bool(self.longer):
            for point in points:
                event = self._event(first + len(new), "replicate", point, seed, self.longer)
                if event["key"] not in self.history.trials:
                    new[event["key"]] = event
        self._open(*new.values())

    # -- Optuna, a projection --------------------------------------------------------------------------------------------------

    def _ask(self, point: Point) -> optuna.Trial:
        """A running Optuna trial with exactly this point."""
        self.optuna.enqueue_trial(self.space.params(point, self._flat))
        asked = self.optuna.ask()
        self.space.suggest(asked, self._flat)
        return asked

    def _present(self) -> None:
        """Shows Optuna and the clock the proposals they have not seen yet (after a restart), as they were made."""
        for trial in self._searched[len(self.clock.starts) :]:
            # A merged ledger may hold proposals that its trials do not lead to: these see what the last one saw.
            turn = self.clock.turn(self._earliest()) or Turn(self.clock.starts[-1], [])
            self._tell(turn.seen)
            self.optuna.sampler = NEUTRAL
            self._asked[trial.number] = self._ask(self.space.complete(trial.point))
            self.clock.begin(turn.start)
            if trial.state != "running":
                self.clock.end(trial.number, self._cost(trial))

    def _tell(self, numbers: Iterable[int]) -> None:
        """Tells Optuna how these trials ended, those that it was not told of, each with its curve."""
        for number in numbers:
            if (asked := self._asked.pop(number, None)) is None:
                continue
            trial = self._searched[number]
            curve = trial.curves.get(self.study.objective, ())
            for epoch, v in enumerate(curve):
                if math.isfinite(v):
                    asked.report(v, epoch)
            asked.set_user_attr("raystudy.key", trial.key)
            state = STATES[trial.state]
            self.optuna.tell(asked, objective(curve) if state == TrialState.COMPLETE else None, state=state)

    # -- what is running -------------------------------------------------------------------------------------------------------

    def waiting(self) -> Iterator[TrialHistory]:
        """Unfinished trials that have not been handed out, those with records (from before a restart) first, replicates last."""
        trials = [t for t in self.running.values() if t.key not in self.started]
        return iter(sorted(trials, key=lambda t: (t.epochs == 0, t.origin == "replicate", t.number)))

    def opens(self) -> bool:
        """Whether further trials are to be opened, once results have come."""
        return self._unproposed() > 0 or self.unplanned() > 0

    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return not self.running

    def remaining(self) -> int:
        """Epochs that are left, if no further trial is pruned."""
        open_ = sum(self._length(t) - t.epochs for t in list(self.running.values()))  # a copy: progress is a thread
        return open_ + self.epochs * self._unproposed() + (self.longer or self.epochs) * self.unplanned()

    def _length(self, trial: TrialHistory) -> int:
        """Epochs that a trial is to have."""
        return trial.planned or self.epochs

    def _unproposed(self) -> int:
        return 0 if self._exhausted else max(0, self.target - len(self._searched))

    def unplanned(self) -> int:
        """Replicates that are still to be opened, where the chosen point is not the published one."""
        if self._planned == 2:
            return 0
        points = 2 if self.target > 1 else 1
        return max(0, (self.study.replicates or int(self.longer > 0)) * points - self._repeats)

    def pace(self) -> float:
        """Seconds an epoch; NaN before there is any."""
        return self._seconds / self._epochs if self._epochs else math.nan

    def ahead(self, trial: TrialHistory) -> float:
        """Epochs from here to the end of the cell on the longest way through this trial, if nothing is pruned: a trial of the search is
        followed by the proposals that wait for it, and by the replicates of what is chosen."""
        left = self._length(trial) - trial.epochs
        if trial.origin == "replicate":
            return left
        after = (self.longer or self.epochs) * (self.unplanned() > 0)
        return left + self.epochs * self._unproposed() / self.clock.workers + after

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
        """Takes a trial's new records, epoch ``start`` first. Returns whether its training is over, by its own or by pruning.

        A failure that is worth another try (``again``: memory ran out on a part of a device) is recorded, and the trial waits once more.
        """
        trial = self.history.trials[key]
        if trial.state != "running":
            self.beyond += _seconds(records)
            self._clear(trial)  # what its worker has written since
            self._tidy_checkpoints()
            return True
        if worker:
            self.workers[key] = worker
        held = self._held.setdefault(key, Held())
        come = trial.epochs + len(held.records)
        if start <= come:  # what is known already may be told again
            held.records += records[come - start :]
            come = trial.epochs + len(held.records)
        if failure and again and not trial.retried:
            self._settle(trial)
            self.ledger.append(self.cell.key, {"event": "retry", "key": key, "reason": failure})
            self.started.discard(key)
            return True
        if failure:
            held.end = "failed", failure
        elif diverged:
            held.end = "diverged", _not_finite(come)
        self._settle(trial)
        return trial.state != "running" or held.end is not None or come >= self._length(trial)

    def end(self, key: str, state: str, reason: str = "") -> None:
        """Takes that a training has ended by itself."""
        trial = self.history.trials[key]
        if trial.state == "running":
            self._held.setdefault(key, Held()).end = state, reason
            self._settle(trial)

    def _settle(self, trial: TrialHistory) -> None:
        """Writes what a trial has told as far as it is judged, then what that decides of others, and goes on with the search."""
        self._go_on(trial)
        if trial.origin != "replicate":
            for other in self._open_trials():
                if other.origin != "replicate" and other.number > trial.number:  # only these are compared with it
                    self._go_on(other)
        self.advance()
        if self._over:
            self._over = False
            self._tidy_checkpoints()

    def _open_trials(self) -> list[TrialHistory]:
        """Trials that have not ended, by number."""
        return sorted(self.running.values(), key=lambda t: t.number)

    def _go_on(self, trial: TrialHistory) -> None:
        """Takes a trial from rung to rung through what is held of it, as far as its rungs can be judged."""
        held = self._held.get(trial.key) or Held()
        while trial.state == "running":
            if not held.records and held.end and held.end[0] == "diverged":
                self._close(trial, *held.end)
            elif (reason := self._judged(trial)) is None:
                return
            elif reason:
                self._close(trial, "pruned", reason)
            elif trial.epochs >= self._length(trial):
                self._close(trial, "complete")
            elif held.records:
                self._record(trial, held.records, self._next_rung(trial) - trial.epochs)
            elif held.end:
                self._close(trial, *held.end)
            else:
                return

    def _record(self, trial: TrialHistory, records: list[dict[str, Any]], most: int) -> None:
        """Writes the first of these records, at most so many, and takes them away."""
        now, records[:] = records[:most], records[most:]
        events = [
            {"event": "record", "key": trial.key, "epoch": trial.epochs + i, "metrics": r} for i, r in enumerate(now)
        ]
        self.ledger.append(self.cell.key, *events)
        self._epochs += len(now)
        self._seconds += _seconds(now)

    def _close(self, trial: TrialHistory, state: str, reason: str = "") -> None:
        """Writes how a trial ended."""
        worker = self.workers.pop(trial.key, "")
        self.ledger.append(
            self.cell.key, {"event": "end", "key": trial.key, "state": state, "reason": reason, "worker": worker}
        )
        self.running.pop(trial.key, None)
        self.beyond += _seconds(self._held.pop(trial.key, Held()).records)
        if trial.origin != "replicate" and trial.number < len(self.clock.starts):
            self.clock.end(trial.number, self._cost(trial))
        self._clear(trial)
        self.tidy()

    def _clear(self, trial: TrialHistory) -> None:
        """Notes that the checkpoint of a trial that has ended may go, and removes what it left although it was to stop."""
        self._kept.add(trial.key)
        self._over = True
        if trial.state == "pruned":
            arrays_path(self.ledger.dir, trial.key).unlink(missing_ok=True)
            models.remove(self.ledger.dir, self.cell.key, [trial.key])

    # -- checkpoints of trials that have ended ---------------------------------------------------------------------------------

    def shorter(self, trial: TrialHistory) -> TrialHistory | None:
        """The finished trial of fewer epochs whose checkpoint a longer one may go on from; None where there is none."""
        same = [
            t
            for t in map(self.history.trials.__getitem__, self._kept)
            if (t.seed, t.point) == (trial.seed, trial.point) and self._length(t) < self._length(trial)
        ]
        return max(same, key=lambda t: t.epochs, default=None)

    def lasts(self, trial: TrialHistory) -> bool:
        """Whether a trial's last checkpoint stays when it is complete, so that more epochs can go on from it: it is what is reported of
        a cell, and nothing that is known of it before hangs on how many epochs there are."""
        if self.study.keeps == "none" or (trial.origin != "replicate" and self.study.replicates):
            return False
        if self._settles(trial) or self.study.evaluate:
            return False
        spec = self.spec(trial.point, trial.seed)
        return recipe_of(spec.method, trial.point, spec.recipe).open_ended

    def _tidy_checkpoints(self) -> None:
        """Removes checkpoints of trials that have ended, but for those that a longer training goes on from, or may."""
        stays: set[str] = set()
        if any(self.lasts(self.history.trials[key]) for key in self._kept):
            told = repeated(self.history) if self.study.replicates or self.longer else []
            if not self.study.replicates:
                told += [t for t in (chosen(self.history, self.study.objective), paper(self.history)) if t]
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

    # -- rungs -----------------------------------------------------------------------------------------------------------------

    def _judged(self, trial: TrialHistory) -> str | None:
        """Why a trial stops where it is, "" if it goes on, None while that is not known."""
        if trial.origin == "replicate" or trial.epochs not in self.rungs or self._passed.get(trial.key) == trial.epochs:
            return ""
        if (reason := self._pruned(trial)) == "":
            self._passed[trial.key] = trial.epochs
        return reason

    def _next_rung(self, trial: TrialHistory) -> int:
        """The epochs at which a trial is judged next, or has come to its end."""
        return next((r for r in self.rungs if r > trial.epochs and trial.origin != "replicate"), self._length(trial))

    def _stop(self, trial: TrialHistory, after: int) -> int:
        """The first number of epochs above ``after`` at which a trial may be stopped, or is complete."""
        return next((r for r in self.rungs if r > after and self._settles(trial) <= r), self.epochs)

    def _cost(self, trial: TrialHistory) -> int:
        """The virtual cost of a trial that has ended: its epochs.

        One that diverged or failed occupies its virtual worker up to its next rung, so a bound for a trial that runs need not allow
        for that.
        """
        return self._stop(trial, trial.epochs - (trial.state in ("complete", "pruned")))

    def _earliest(self) -> dict[int, int]:
        """Of every trial of the search that has begun and not ended, the earliest virtual time at which it may end."""
        starts = self.clock.starts
        return {
            t.number: starts[t.number] + self._stop(t, t.epochs - (self._passed.get(t.key) != t.epochs))
            for t in self.running.values()
            if t.origin != "replicate" and t.number < len(starts)
        }

    def _settles(self, trial: TrialHistory) -> int:
        """Epochs a trial needs for its warm-up and ramps."""
        if trial.key not in self._settled:
            self._settled[trial.key] = math.ceil(self.space.settled(trial.point) * self.epochs)
        return self._settled[trial.key]

    def _pruned(self, trial: TrialHistory) -> str | None:
        """Why the trial stops at this rung, "" if it goes on, None while not all have come here with which it is compared.

        It goes on while it is among the best third (of those that came this far before it, in virtual time) by the mean noisy validation
        value of the last tenth of the epochs so far. A trial still in its warm-up is neither stopped nor compared with.
        """
        rung, sign = trial.epochs, -1 if self.study.objective.endswith("loss") else 1
        if self._settles(trial) > rung:
            return ""
        peers = [t for n in self.clock.peers(trial.number) if self._settles(t := self._searched[n]) <= rung]
        if any(t.state == "running" and t.epochs < rung for t in peers):
            return None
        values = [sign * objective(t.curves[self.study.objective][:rung]) for t in peers if t.epochs >= rung]
        others = [v for v in values if not math.isnan(v)]
        mine = value(trial, self.study.objective)
        if math.isnan(mine):  # nobody looked there: a replayed curve of another scheduler's rungs
            return ""
        if (cutoff := stopped(mine, others)) is None:
            return ""
        told = f"{self.study.objective} {sign * mine:.4g} against {sign * cutoff:.4g}"
        return f"epoch {rung}: {told}, the best third of {len(others)} earlier trials"


def _seconds(records: Iterable[dict[str, Any]]) -> float:
    return math.fsum(r.get("cost/seconds") or 0.0 for r in records)


def _not_finite(epochs: int) -> str:
    return f"the loss was not finite in epoch {epochs - 1}"


def _broken(trial: TrialHistory, objective: str) -> bool:
    """Whether the last record of a trial says that it has diverged; its end was not written before a crash."""
    return any(c and math.isnan(c[-1]) for c in map(trial.curves.get, ("train/loss", "val/loss", objective)))
