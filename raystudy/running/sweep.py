"""A study from its beginning to its end: checked whole before anything is written, then run and recorded."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from raystudy.design.study import SLACK, Study, study_dir
from raystudy.errors import InputError
from raystudy.learn.point import recipe_of
from raystudy.record import mirror as mirrors
from raystudy.record.ledger import Ledger, TrialHistory
from raystudy.running import transfer
from raystudy.running.audience import Audience
from raystudy.running.budget import Budget
from raystudy.running.build import Builder
from raystudy.running.clock import virtual_workers
from raystudy.running.execute import execute
from raystudy.running.local import LocalRay
from raystudy.running.nodes import Watch
from raystudy.running.pictures import beside
from raystudy.running.resources import Resources
from raystudy.running.samplers import remark, settled
from raystudy.running.search import CellSearch
from raystudy.running.session import session
from raystudy.terminal import printable
from raystudy.tracking import cursor, follower, store, sync

OWN = "own"  # the folder of a study for files of the user's own
TRACKING_SECONDS = 120.0  # how long the end of a sweep waits for MLflow; it goes on in the background after that
FEW_UPDATES = 1000  # below this many updates a network, methods that mix are not given a fair chance


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended."""

    study: Study  # as its folder holds it now: it may have grown
    folder: Path
    ended: int  # trials that have ended
    trials: int  # trials that are known
    unfinished: int  # cells in which something is left to run
    reason: str  # why the run was stopped by its budget, or ""


def run(
    study: Study,
    storage: Path,
    resources: Resources,
    uri: str | None,
    audience: Audience = Audience(),  # noqa: B008 - frozen
    budget: Budget | None = None,
    named: bool = True,
    longer: bool = False,
    rising: LocalRay | None = None,
) -> Outcome:
    """Runs a study to its end, or goes on with it; stopped by Ctrl-C, SIGTERM or its budget it can be gone on with.

    ``uri``: the MLflow to record in, None for none. ``named``: its name was chosen by a person, who may add other data to a study of that
    name. ``longer``: so were its epochs, which may grow for what was chosen. ``rising``: the Ray to run it in, which comes up already.
    Raises InputError, one line, for anything that cannot be; nothing is written before all of it was asked.
    """
    folder = study_dir(storage, study.name)
    mirrors.pull(folder)
    asked, (study, begun) = study, grown(study, folder, named, longer)
    study, found = begins_with(study, storage, resources.data_root, begun)
    builder = Builder(study, resources.data_root, found)
    builder.check(folder)
    if uri:
        store.check(uri)
    if chosen := remark(asked, study):
        audience.line(chosen)
    for note in builder.remarks:
        audience.line(f"note: {note}", style="yellow")
    if none := builder.unstarted():
        audience.line(f"note: --start-from knows no point for {', '.join(none)}", style="yellow")

    ledger, mirror, following, behind = Ledger(folder, held=True), None, None, None
    searches: list[CellSearch] = []
    try:
        if begun:
            searches = builder.searches(study, ledger)
            for line in _extended(searches):
                audience.line(f"note: {line}", style="yellow")
        if begun and all(s.finished() for s in searches):
            mirror = _begin(builder, study, ledger, searches)
            if uri and cursor.behind(folder, uri):
                following = follower.start(folder, uri)
        else:
            with session(resources, audience, rising) as places, Watch(folder, places, audience):
                if not begun:
                    if (
                        not study.batch and not study.virtual_workers
                    ):  # the study.toml of another machine brings its own
                        searched = sum(bool(builder.spaces[c.method].dimensions) for c in study.cells())
                        study = replace(
                            study, virtual_workers=virtual_workers(study.slack or SLACK, places.asked, searched)
                        )
                    searches = builder.searches(study, ledger)
                mirror = _begin(builder, study, ledger, searches)
                few = min(builder.updates(c) for c in study.cells())
                if few < FEW_UPDATES:
                    audience.line(
                        f"note: {few} updates a network is little; methods that mix samples need {FEW_UPDATES} or more: raise --epochs",
                        style="yellow",
                    )
                following = follower.start(folder, uri) if uri else None
                known = sum(t.epochs for s in searches for t in s.history.trials.values())

                def under_way() -> bool:
                    return sum(t.epochs for s in searches for t in list(s.history.trials.values())) > known

                with beside(folder, builder.data, resources.data_root, study.val_fraction, under_way) as undrawn:
                    execute(folder, searches, resources, places, audience, budget, builder.own)
                _cards(folder, searches, audience)
                for line in undrawn:
                    audience.line(f"note: {printable(line)}", style="yellow")
    finally:
        ledger.close()  # so that the follower's last pass sees a study that is not running
        if following:
            behind = follower.finish(following, TRACKING_SECONDS)
        if mirror:
            mirror.close()
    if uri and behind:
        lacks = f"MLflow lacks a part of the study: {printable(behind)}; brought there by: {sync.command(folder, uri)}"
        audience.line(lacks, style="yellow")
    trials = [t for s in searches for t in s.history.trials.values()]
    left = sum(not s.finished() for s in searches) if searches else len(study.cells())
    ended = sum(t.state != "running" for t in trials)
    return Outcome(study, folder, ended, len(trials), left, budget.reason if budget else "")


def grown(study: Study, folder: Path, named: bool = False, longer: bool = False) -> tuple[Study, bool]:
    """The study with what its folder already holds, and whether that is anything; ``named`` and ``longer`` as of ``run``. Writes nothing.
    Raises InputError where the two are different studies."""
    told = folder / "study.toml"
    if not told.exists():
        return settled(replace(study, slack=study.slack or SLACK)), False
    old = Study.from_toml(told)
    if not named and (other := [d for d in study.datasets if d not in old.datasets]):
        raise InputError(
            f"study {study.name!r} was begun with other data ({', '.join(old.datasets)}, not {', '.join(other)}); give this one a name "
            f"of its own with --name, or --name {study.name} to add it to that study"
        )
    if silent := [n for n in old.brought if n not in study.brought]:
        raise InputError(
            f"study {study.name!r} also has {silent[0]}, which is not ours: name it in the command, so that it may run"
        )
    return settled(study.grown_from(old, longer)), True


def begins_with(study: Study, storage: Path, data_root: Path, begun: bool) -> tuple[Study, list[transfer.Found]]:
    """The study with the digest of what it starts from, and that: of one that has begun what its folder keeps, else what the studies
    it names have found now. Raises InputError."""
    if begun:
        return study, transfer.kept(study_dir(storage, study.name), study.start) if study.start else []
    if not study.start_from:
        return replace(study, start=""), []
    found = transfer.gather(study.start_from, storage, data_root)
    return replace(study, start=transfer.digest(transfer.text(found))), found


def _begin(builder: Builder, study: Study, ledger: Ledger, searches: list[CellSearch]) -> mirrors.Mirror | None:
    """From here on the study is written."""
    by_cell = {s.cell.key: s for s in searches}
    mirror = mirrors.mirror(ledger.dir, lambda cell, keys: by_cell[cell].surplus(keys) if cell in by_cell else ())
    try:
        if study.start:  # first: a study.toml that names it must not be without it
            transfer.keep(transfer.text(builder.found), ledger.dir)
        _write(ledger.dir / "study.toml", study.to_toml())
        builder.store_masks(ledger.dir)
        for name, text in builder.own.items():  # files of the user's own, beside what they were used for
            (ledger.dir / OWN).mkdir(exist_ok=True)
            _write(ledger.dir / OWN / name, text)
        ledger.release()
        for search in searches:
            search.tidy()
    except BaseException:
        if mirror:
            mirror.close()
        raise
    return mirror


def _extended(searches: list[CellSearch]) -> Iterator[str]:
    """What becomes of the trainings that are to be longer, a line for each way."""
    ways: dict[str, list[TrialHistory]] = {}
    for search in searches:
        for trial in search.running.values():
            if trial.planned and not trial.epochs:
                ways.setdefault(_way(search, trial), []).append(trial)
    for way, trials in ways.items():
        yield f"trainings of {trials[0].planned} epochs for what was chosen, {len(trials)} of them {way}"


def _way(search: CellSearch, trial: TrialHistory) -> str:
    recipe = recipe_of(search.cell.method, trial.point, search.spec_of(trial).recipe)
    if not recipe.open_ended:
        return f"begin anew: with schedule {recipe.schedule} they differ from those of {search.epochs} from the first epoch on"
    if search.study.evaluate:
        return "begin anew: which epochs are evaluated hangs on how many there are"
    if search.space.settled(trial.point) > 0:
        return f"begin anew: durations of {search.cell.method} are fractions of all epochs"
    if not (source := search.shorter(trial)):
        return "begin anew: there is no checkpoint to go on from"
    return f"go on after their {source.epochs} (from the beginning where a method asks how many there are)"


def _cards(folder: Path, searches: list[CellSearch], audience: Audience) -> None:
    """Brings the cards of models that trials left in a storage, so that MLflow shows them."""
    try:
        mirrors.pull_models(folder)
    except InputError as e:
        audience.line(f"note: {printable(str(e))}", style="yellow")
    for search in searches:
        search.tidy()


def _write(path: Path, text: str) -> None:
    """Writes a file in one step: a reader sees the old text or the new."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
