"""The ledger in MLflow: an experiment for the study, a run for each cell, a child run for each trial.

Here belongs what is written to MLflow and when; ``store`` knows where it is, ``runs`` what runs are called, ``cursor`` what is there
already. It only reads the ledger; MLflow can be away or be deleted at any time and is brought up again by another pass: one of the
``follower`` beside a running study, or one that a command asks for (``sync``).

Why nothing is ever there twice. A trial's run is found by its tags (cell and key), is created under a lock, and its
status is written last: a run that is FINISHED or FAILED and ended when the ledger says is all there. Of any other run the
newest point of each metric tells how far it is, for points are logged epoch by epoch; what comes after is logged. Where the ledger
tells that epoch otherwise (its last lines were lost and the epoch was recorded again), MLflow would keep both points: the run goes to
the trash and is made anew. A run that somebody put into the trash is taken out again: what is not to be seen is to leave the ledger.

Files are logged, too. Write them, and the next pass of a study that is not running (the follower's last one, or ``sync``) brings them
to MLflow, again only when their content has changed: ``artifacts/<cell key>/`` of the study's folder goes to that cell's run;
``report/``, ``data/``, ``masks/`` and ``artifacts/study/`` go once to the run of the first cell, to which the others' descriptions link.
"""

import contextlib
import json
import math
import shlex
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis import palette
from raystudy.errors import InputError
from raystudy.record import ledger, usage
from raystudy.record.ledger import ENDED, CellHistory, TrialHistory
from raystudy.tracking import cursor, files, places, runs, store, views
from raystudy.tracking.cursor import Cursor
from raystudy.tracking.runs import Point

STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "diverged": "FAILED", "failed": "FAILED"}
ENDS = frozenset(STATUS.values())  # a trial's run has one of these when all of it is in
GIVEN = "raystudy.name"  # tag of the name that we gave a cell's run: one with another name was renamed by somebody
TUNED = "raystudy.tuned"  # tag of the trainings behind a cell's tuned numbers
ACTIVE, ANY = 1, 3  # of mlflow.entities.ViewType: ACTIVE_ONLY, and ALL, which has those in the trash, too


@dataclass
class Synced:
    """What a pass wrote."""

    experiment: str = ""  # its id
    runs: int = 0  # created
    restored: int = 0  # runs taken out of MLflow's trash
    values: int = 0  # of metrics
    changes: int = 0  # calls that changed anything

    def __str__(self) -> str:
        """For people, who asked for what was missing."""
        restored = f"{self.restored} restored from MLflow's trash, " if self.restored else ""
        told = f"{self.runs} runs created, {restored}{self.values} metric values written"
        return told if self.changes else "nothing was missing"


@dataclass
class Run:
    """What we know of a run in MLflow."""

    id: str
    status: str = "RUNNING"
    ended: int | None = None  # ms
    epochs: int = 0  # how many this process has logged; of a cell's run: how many trials its progress tells of
    last: dict[str, Point] = field(default_factory=dict)  # the newest point of each metric, of a run that was found
    metrics: dict[str, float] = field(default_factory=dict)  # the latest values, of a cell's run
    fresh: bool = True  # has no params yet
    tuned: str = ""  # the cell it is tagged with, as one of the trainings behind its tuned numbers
    noted: bool = False  # has its accuracy as a point over noise levels
    place: tuple[str, str] | None = None  # number and parent's id, of a trial's run that was found
    named: str = ""  # the name that we gave a cell's run
    coloured: bool = True  # has a colour, of a cell's run


@dataclass
class CellState:
    """A cell, as far as it was read, and its runs in MLflow."""

    history: CellHistory
    offset: int = 0
    running: bool = False  # as what the open trials were shown last
    parent: Run | None = None
    runs: dict[str, Run] = field(default_factory=dict)


class Projection:
    """Brings one MLflow store up to one study's ledger, pass by pass."""

    def __init__(self, study_dir: Path, uri: str) -> None:
        self.dir, self.uri = study_dir, uri
        self.client = store.connect(uri)
        self.cursor_file = cursor.place(study_dir, uri)
        self.forget()

    def forget(self) -> None:
        """What MLflow holds is found out anew in the next pass."""
        self.experiment, self.new_experiment = "", False
        self.cursor = Cursor()
        self.cells: dict[str, CellState] = {}
        self.names, self.told_of = runs.Names(), -1  # what runs are called, and how many cells that was found of
        self.tags: dict[str, str] | None = None  # of the experiment
        self.begun = 0  # when it was made, ms
        self.spanned = 0  # up to which time MLflow has what became of the study's places, ms

    def sync(self, running: bool, whole: bool = False) -> Synced:
        """One pass. Raises what MLflow raises, InputError for a broken ledger file (after the other cells).

        ``whole``: MLflow is asked whether it still has what was brought there before; a follower believes its cursor.
        """
        done, broken = Synced(), None
        paths = ledger.cells(self.dir)
        with store.locked(self.dir / "tracking" / "lock"):
            try:
                if not self.experiment or cursor.read(self.cursor_file).token != self.cursor.token:
                    self.forget()  # also when another process wrote in between
                    if not self._find_experiment(paths, done):
                        return done
                done.experiment = self.experiment
                self._find_names(paths)
                if whole and self.cursor.done:
                    self._doubt()
                for path in paths:
                    try:
                        self._cell(path, running, done)
                    except InputError as e:
                        self.cells.pop(path.stem, None)
                        broken = broken or e
                self._places(paths, done)
                if self.cells and (done.changes or self.tags is None):
                    self._save_views(paths, done)
                logged = self.cursor.files if running else files.state(self.dir)
                if logged != self.cursor.files:
                    self._log_files(done)
                if done.changes or not self.cursor.token or logged != self.cursor.files:
                    self._write_cursor(logged)
            except BaseException:
                self.forget()
                raise
        if broken:
            raise broken
        return done

    # -- cursor

    def _write_cursor(self, logged: str) -> None:
        told = Cursor(
            uuid.uuid4().hex,
            dict(self.cursor.done),
            dict(self.cursor.runs),
            files=logged,
            uri=store.public(self.uri),
            version=cursor.VERSION,
            names=repr(self.names),
        )
        for key, cell in self.cells.items():
            unfinished = [t.key for t in cell.history.trials.values() if t.state == "running"]
            if not unfinished and cell.parent and cell.parent.status == "FINISHED":
                told.done[key] = cursor.mark(self.dir / "cells" / f"{key}.jsonl", cell.offset)
            else:
                told.done.pop(key, None)
            told.runs[key] = len(cell.runs) + 1
        self.client.set_experiment_tag(self.experiment, "raystudy.cursor", told.token)
        cursor.write(self.cursor_file, told)
        self.cursor = told

    # -- finding what is there

    def _find_experiment(self, paths: list[Path], done: Synced) -> bool:
        """Finds or creates the study's experiment; False if nothing has begun.

        A study that was deleted and begun anew, or another user's of the same name, is another study: while such a one
        has the experiment of that name, ours is named with the time of its beginning.
        """
        begun = {path.stem: event["time"] for path in paths for event in [_first(path)] if event}
        if not begun:
            return False
        study, told = self.dir.absolute().name, cursor.read(self.cursor_file)
        tags = {"mlflow.experimentKind": "custom_model_development", "raystudy.study": study}
        for experiment in self.client.search_experiments(ANY, filter_string=f"tags.\"raystudy.study\" = '{study}'"):
            if told.token and told.token == experiment.tags.get("raystudy.cursor"):
                self.cursor = told
                break
            cells = list(self._search(experiment.experiment_id, "tags.\"raystudy.role\" = 'cell'"))
            if not cells or any(begun.get(c.data.tags["raystudy.cell"]) == c.info.start_time for c in cells):
                break
        else:
            experiment = self.client.get_experiment_by_name(study)
            if experiment and "raystudy.study" not in experiment.tags:  # made for us by hand
                for key, value in tags.items():
                    self.client.set_experiment_tag(experiment.experiment_id, key, value)
            else:
                seconds, ms = divmod(min(begun.values()), 1000)
                when = f"{time.strftime('%Y-%m-%dT%H.%M.%S', time.gmtime(seconds))}.{ms:03}"
                name = f"{study}-{when}" if experiment else study
                self.experiment = self.client.create_experiment(name, store.artifacts(self.uri, name), tags)
                self.new_experiment = True
                done.changes += 1
                return True
        if experiment.lifecycle_stage != "active":
            restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            restore = f"MLFLOW_TRACKING_URI={shlex.quote(store.public(self.uri))} {restore}"
            why = f"is in MLflow's trash; take it out (`{restore}`) or empty it (`mlflow gc`)"
            raise InputError(f"experiment {experiment.name!r} {why}")
        self.experiment = experiment.experiment_id
        return True

    def _find_names(self, paths: list[Path]) -> None:
        """What the study's runs are called: a study that has grown may need more words to tell them apart."""
        if len(paths) == self.told_of:
            return
        headers = [event for path in paths for event in [_first(path)] if event]
        names, self.told_of = runs.Names.of(h["cell"] for h in headers), len(headers)
        if self.cells and names != self.names:  # all are looked at again, as if by a new process
            self.cells, self.new_experiment = {}, False
        if self.cursor.names != repr(names):
            self.cursor.done.clear()
        self.names = names

    def _doubt(self) -> None:
        """Believes the cursor no more of cells that have other runs in MLflow than it tells: somebody has deleted some."""
        there = Counter(run.data.tags.get("raystudy.cell") for run in self._search(self.experiment, "", ACTIVE))
        for key in [key for key in self.cursor.done if there[key] != self.cursor.runs.get(key)]:
            del self.cursor.done[key]

    def _find_runs(self, cell: CellState, done: Synced) -> None:
        """Finds the cell's runs in MLflow, those in its trash too, which are taken out again.

        A run of the same key that began at another time is not of this ledger, but of a cell that was deleted and begun
        anew: it goes to MLflow's trash. So does a second run of a key, left by an answer that was lost.
        """
        history = cell.history
        begun = {"": history.header["time"], **{t.key: t.started for t in history.trials.values()}}
        found: dict[str, list[Any]] = {}
        for entity in self._search(self.experiment, f"tags.\"raystudy.cell\" = '{history.key}'"):
            found.setdefault(entity.data.tags.get("raystudy.key", ""), []).append(entity)
        for key, entities in found.items():
            if key not in begun:
                continue
            ours = min((e for e in entities if e.info.start_time == begun[key]), key=_in_trash, default=None)
            for entity in entities:
                if entity is not ours and not _in_trash(entity):
                    self.client.delete_run(entity.info.run_id)
            if ours is None:
                continue
            if _in_trash(ours):
                self.client.restore_run(ours.info.run_id)
                done.restored += 1
                done.changes += 1
            info, data = ours.info, ours.data
            run = Run(info.run_id, info.status, info.end_time, metrics=data.metrics, fresh=not data.params)
            run.tuned, run.noted = data.tags.get(TUNED, ""), views.BY_NOISE in data.metrics
            run.named = data.tags.get(runs.NAME, "") if data.tags.get(GIVEN) in (None, data.tags.get(runs.NAME)) else ""
            run.coloured = runs.COLOUR in data.tags
            run.place = data.tags.get("raystudy.number", ""), data.tags.get("mlflow.parentRunId", "")
            if key == "" or not _all_in(run, history.trials[key]):
                run.last = {m.key: (m.step, m.timestamp, m.value) for m in data.to_proto().metrics}
            cell.runs[key] = run
        cell.parent = cell.runs.pop("", None)
        if cell.parent:
            told = {(m.key, m.step): (m.timestamp, m.value) for m in runs.progress(history, 0)}
            if not runs.agree(cell.parent.last, told):  # a merge may have numbered trials anew
                self.client.delete_run(cell.parent.id)
                cell.parent = None
            else:
                cell.parent.epochs = max(
                    cell.parent.last[name][0] + 1 if name in cell.parent.last else 0 for name in views.SEARCH
                )

    def _search(self, experiment: str, which: str, of: int = ANY) -> Iterator[Any]:
        """Runs, those in the trash among them where nothing else is said."""
        page = None
        while True:
            found = self.client.search_runs([experiment], which, of, 1000, page_token=page)
            yield from found
            page = found.token
            if not page:
                return

    # -- bringing up

    def _cell(self, path: Path, running: bool, done: Synced) -> None:
        key, size = path.stem, path.stat().st_size
        cell = self.cells.get(key)
        if cell and size < cell.offset:  # deleted and begun anew
            del self.cells[key]
            cell, self.new_experiment = None, False
        if cell is None and key in self.cursor.done and self.cursor.done[key] == cursor.mark(path, size):
            return
        if cell and (cell.offset, cell.running) == (size, running):
            return
        cell = cell or CellState(CellHistory(key))
        history, touched = cell.history, _read(cell, path)
        if not history.header:
            return
        from mlflow.entities import Param

        if key not in self.cells:
            if not self.new_experiment:
                self._find_runs(cell, done)
            self.cells[key] = cell
            touched = dict.fromkeys(history.trials)
        unfinished = [t.key for t in history.trials.values() if t.state == "running"]
        if running != cell.running:
            touched.update(dict.fromkeys(unfinished))
            cell.running = running
        news = [history.trials[k] for k in touched if not _all_in(cell.runs.get(k), history.trials[k])]

        if cell.parent is None:
            name = self.names.cell(history.header["cell"])
            tags = runs.cell_tags(self.dir, history) | {"raystudy.role": "cell", GIVEN: name}
            tags |= {runs.COLOUR: palette.alone(tags["method"]), runs.NOTE: self._note(cell.history.key)}
            cell.parent = self._create(name, history.header["time"], tags, done)
            cell.parent.named = name
            self._log_dataset(cell, done)
        self._name(cell, cell.parent, done)
        if cell.parent.fresh:
            params = [Param(k, v) for k, v in runs.cell_params(history).items()]
            self.client.log_batch(cell.parent.id, params=params)
            cell.parent.fresh = False
            done.changes += 1
        for trial in history.trials.values():
            self._place(cell, cell.parent, trial, done)
        # A cell that is done stays FINISHED when the study is run again, until there is news of it.
        idle = not news and not unfinished and cell.parent.status == "FINISHED"
        for trial in news:
            self._trial(cell, cell.parent, trial, done)
        if any(history.trials[k].state != "running" for k in touched):
            self._summary(history, cell.parent, done)
        if not (running and unfinished):
            self._mark_tuned(cell, done)
        status = "RUNNING" if running and not idle else "KILLED" if unfinished else "FINISHED"
        self._set_status(cell.parent, status, runs.last_time(history), done)

    def _trial(self, cell: CellState, parent: Run, trial: TrialHistory, done: Synced) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run = cell.runs.get(trial.key)
        if run and not runs.agree(run.last, runs.points(trial, run.last)):
            self.client.delete_run(run.id)
            run = None
        if run is None:
            tags = runs.cell_tags(self.dir, cell.history) | runs.trial_tags(trial) | {"mlflow.parentRunId": parent.id}
            run = self._create(
                runs.trial_name(cell.history, trial), trial.started, tags | runs.end_tags(trial), done
            )  # one call less
            cell.runs[trial.key], tags = run, {}
        else:
            tags = runs.end_tags(trial)
        metrics = [
            Metric(name, column[epoch], trial.times[epoch], epoch)
            for epoch in range(run.epochs, trial.epochs)
            for name, column in trial.curves.items()
            if not math.isnan(column[epoch]) and (name not in run.last or epoch > run.last[name][0])
        ]
        params = [Param(k, v) for k, v in runs.params(cell.history, trial).items()] if run.fresh else []
        if metrics or params or tags:
            self.client.log_batch(run.id, metrics, params, [RunTag(k, v) for k, v in tags.items()])
            done.changes += 1
        run.epochs, run.fresh = trial.epochs, False
        done.values += len(metrics)
        status = STATUS.get(trial.state, "RUNNING" if cell.running else "KILLED")
        self._set_status(run, status, runs.ended(trial), done)

    def _place(self, cell: CellState, parent: Run, trial: TrialHistory, done: Synced) -> None:
        """Brings a run that was found to where its trial is now: a merge numbers trials anew, and may give the cell a new run."""
        run = cell.runs.get(trial.key)
        if run is None or run.place is None:
            return
        if run.place != (str(trial.number), parent.id):
            tags = {
                "raystudy.number": str(trial.number),
                "mlflow.parentRunId": parent.id,
                runs.NAME: runs.trial_name(cell.history, trial),
            }
            for name, value in tags.items():
                self.client.set_tag(run.id, name, value)
            done.changes += 1
        run.place = None

    def _name(self, cell: CellState, parent: Run, done: Synced) -> None:
        """Brings the name and colour of a cell's run up to date, but neither that somebody has changed by hand."""
        header = cell.history.header["cell"]
        name = self.names.cell(header)
        tags = {} if parent.coloured else {runs.COLOUR: palette.alone(header["method"])}
        if parent.named and parent.named != name:
            tags |= {GIVEN: name, runs.NAME: name}
        for key, value in tags.items():
            self.client.set_tag(parent.id, key, value)
            done.changes += 1
        parent.named, parent.coloured = name if parent.named else "", True

    def _create(self, name: str, begun: int, tags: dict[str, str], done: Synced) -> Run:
        run = self.client.create_run(self.experiment, begun, tags, name)
        done.runs += 1
        done.changes += 1
        return Run(run.info.run_id)

    def _set_status(self, run: Run, status: str, when: int, done: Synced) -> None:
        if status == run.status and (status == "RUNNING" or run.ended == when):
            return
        if status == "RUNNING":
            self.client.update_run(run.id, status)
        else:
            self.client.set_terminated(run.id, status, when)
        run.status, run.ended = status, when
        done.changes += 1

    def _summary(self, history: CellHistory, parent: Run, done: Synced) -> None:
        from mlflow.entities import Metric

        from analysis.select import cell_summary

        states = Counter(t.state for t in history.trials.values())
        values = {**{f"trials/{state}": float(states[state]) for state in ENDED}, **cell_summary(history)}
        # Always step 0, where the newest value counts: MLflow draws numbers of one step as bars side by side, not as curves.
        new = {k: v for k, v in values.items() if math.isfinite(v) and parent.metrics.get(k) != v}
        when = max(t.ended for t in history.trials.values())
        if new:  # always when a trial has ended: their numbers are among these
            told = runs.progress(history, parent.epochs)
            self.client.log_batch(parent.id, [*(Metric(k, v, when, 0) for k, v in new.items()), *told])
            parent.metrics = {**parent.metrics, **new}
            parent.epochs = max([parent.epochs, *(m.step + 1 for m in told)])
            done.values += len(new) + len(told)
            done.changes += 1

    def _places(self, paths: list[Path], done: Synced) -> None:
        """Brings what became of the study's places to the run of its first cell."""
        spans = usage.read(self.dir)
        if not spans or spans[-1].time == self.spanned:
            return
        begun = {path.stem: event["time"] for path in paths for event in [_first(path)] if event}
        if not begun:
            return
        key = min(begun, key=lambda k: (begun[k], k))
        which = f"tags.\"raystudy.cell\" = '{key}' and tags.\"raystudy.role\" = 'cell'"
        for run in self._search(self.experiment, which, ACTIVE):
            new = places.bring(self.client, run.info.run_id, spans, begun[key])
            self.spanned = spans[-1].time
            done.values += new
            done.changes += new > 0

    def _mark_tuned(self, cell: CellState, done: Synced) -> None:
        """Tags the trainings behind the cell's tuned numbers with its name, by which the view of the curves groups them."""
        from analysis.select import VAL, chosen, replicates

        history, name = cell.history, self.names.cell(cell.history.header["cell"])
        tuned = {t.key for t in replicates(history, chosen(history, history.header.get("objective", VAL)))}
        for key, run in cell.runs.items():
            told = name if key in tuned else ""
            point = runs.by_noise(history, history.trials[key]) if told and not run.noted else None
            if run.tuned and not told:
                self.client.delete_tag(run.id, TUNED)
            elif run.tuned != told:
                self.client.set_tag(run.id, TUNED, told)
            if point:
                self.client.log_batch(run.id, [point])
                done.values += 1
            done.changes += (run.tuned != told) + bool(point)
            run.tuned, run.noted = told, run.noted or bool(point)

    # -- what the UI shows, and files

    def _log_dataset(self, cell: CellState, done: Synced) -> None:
        """Data and labels as the data set of the cell's run; on every trial it would cost much, and say nothing new."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        header = cell.history.header
        digests = header.get("digests")
        if not digests or cell.parent is None:
            return
        digest = f"{digests['data'][:17]}-{digests['noise'][:18]}"  # MLflow takes 36
        profile = json.dumps({"noise": header["cell"]["noise"], "effective_rate": header.get("effective_rate")})
        source = json.dumps({"tags": {"raystudy.digests": digests}})
        data = Dataset(runs.condition(header["cell"]), digest, "code", source, profile=profile)
        self.client.log_inputs(cell.parent.id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
        done.changes += 1

    def _save_views(self, paths: list[Path], done: Synced) -> None:
        """Saves the views of the study, those that are new, and takes out those on trials of no cell that there is."""
        if self.tags is None:
            experiment = self.client.get_experiment(self.experiment)
            self.tags, self.begun = dict(experiment.tags), experiment.creation_time
        cells = {}
        if len(paths) <= views.MOST_VIEWS:
            for key, cell in self.cells.items():
                points = [trial.point for trial in cell.history.trials.values()]
                common = sorted(set.intersection(*map(set, points))) if points else []
                cells[key] = self.names.cell(cell.history.header["cell"]), common
        for key, value in views.saved(self.begun, cells, self.names.axes()).items():
            if self.tags.get(key) != value:
                self.client.set_experiment_tag(self.experiment, key, value)
                self.tags[key] = value
                done.changes += 1
        known = {views.TAG + views.trials_of(path.stem) for path in paths}
        for key in [k for k in self.tags if k.startswith(views.TAG + views.TRIALS) and k not in known]:
            self.client.delete_experiment_tag(self.experiment, key)
            del self.tags[key]
            done.changes += 1

    def _log_files(self, done: Synced) -> None:
        """Brings the study's files to the runs of its cells; a run is tagged with the digest of what it has."""
        told = self._search(self.experiment, "tags.`raystudy.role` = 'cell'", ACTIVE)
        keys = {*self.cells, *self.cursor.done}
        found = {key: run for run in told if (key := run.data.tags["raystudy.cell"]) in keys}
        if gone := sorted(keys - found.keys()):
            raise InputError(
                f"the run of {gone[0]} is in MLflow's trash, so no files were logged; raystudy sync takes it out"
            )
        if not found:
            return
        first = min(found.values(), key=lambda r: (r.info.start_time, r.info.run_name))
        for key, run in found.items():
            folders = [(self.dir / "artifacts" / key, ""), (self.dir / "models" / key, "models")]
            folders += [(f, f.name) for f in files.study_folders(self.dir)] if run is first else []
            if (digest := files.digest([f for f, _ in folders])) not in ("", run.data.tags.get("raystudy.files", "")):
                for folder, below in folders:
                    for file in files.below(folder):
                        place = Path(below) / file.relative_to(folder).parent
                        self.client.log_artifact(run.info.run_id, str(file), str(place) if place.parts else None)
                self.client.set_tag(run.info.run_id, "raystudy.files", digest)
                done.changes += 1
        if files.study_folders(self.dir):
            at = f"#/experiments/{self.experiment}/runs/{first.info.run_id}/artifacts"
            report = f"\n\nThe study's report and pictures: [artifacts of {first.info.run_name}]({at})"
            for key, run in found.items():
                note = self._note(key) + report
                if run.data.tags.get(runs.NOTE) != note:
                    self.client.set_tag(run.info.run_id, runs.NOTE, note)
                    done.changes += 1

    def _note(self, cell: str) -> str:
        """The description of a cell's run."""
        at = views.trials(self.experiment, cell, self.told_of)[1:]
        return f"[The trials of this cell, side by side]({at})"


def _in_trash(entity: Any) -> bool:
    return bool(entity.info.lifecycle_stage == "deleted")


def _all_in(run: Run | None, trial: TrialHistory) -> bool:
    """Whether a trial's run has all that was told of it: its status, which is written last, and the end that the ledger tells.

    A run that has ended while the ledger does not tell so is left as it is until it does.
    """
    return run is not None and run.status in ENDS and (trial.state == "running" or run.ended == runs.ended(trial))


def _first(path: Path) -> dict[str, Any] | None:
    """The header of a cell file; None while it is not there, or for a broken file (which ``_read`` reports)."""
    with contextlib.suppress(InputError):
        return next((event for event, _ in ledger.events(path)), None)
    return None


def _read(cell: CellState, path: Path) -> dict[str, None]:
    """Folds in what is new in the file. Returns the keys of the trials it told of, in order."""
    touched: dict[str, None] = {}
    try:
        for event, offset in ledger.events(path, cell.offset):
            if cell.history.apply(event) and event["event"] != "cell":
                touched[event["key"]] = None
            cell.offset = offset
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: not a ledger file of raystudy ({type(e).__name__}: {e})") from None
    return touched
