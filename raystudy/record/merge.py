"""``raystudy merge A B``: the ledgers of two machines become one. Reads two studies and writes a third, or the first; runs nothing.

What is united is trials, by their keys. Of two copies of a trial the one further along is kept: complete before any other, then more
epochs, then ended before unfinished; between equals the one begun first. Both copies must tell the same of the epochs they share (cost
apart, which is the machine's). Proposals are numbered anew in the order in which they were begun, the published point first, so that a
search goes on from them as from its own. All of this hangs on the trials alone, not on which study is named first; a study merged
again with what it already holds is left as it is, byte for byte.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from raystudy.design.study import Study, study_dir
from raystudy.errors import InputError, unknown
from raystudy.record import ledger, usage
from raystudy.record.ledger import ORIGINS, CellHistory, Event, Ledger, is_running

FIXED = ("cell", "digests", "network", "recipe", "epochs", "objective")  # of a cell's header: what all its trials share
CONFLICTS = ("refuse", "keep")
BESIDES = ("arrays", "artifacts", "data", "masks", "models", usage.FOLDER)  # folders whose files come along


@dataclass
class Trial:
    """A trial's events as one ledger has them, and where that ledger lies."""

    folder: Path
    trial: Event
    records: list[Event] = field(default_factory=list)
    end: Event | None = None

    @property
    def events(self) -> list[Event]:
        return [self.trial, *self.records, *([self.end] if self.end else [])]

    @property
    def rank(self) -> tuple[bool, int, bool, int, str]:
        """The highest is kept."""
        complete = self.end is not None and self.end["state"] == "complete"
        told = json.dumps([*self.records, self.end], sort_keys=True)
        return complete, len(self.records), self.end is not None, -self.trial["time"], told


@dataclass
class CellTrials:
    """A cell's file, by trial."""

    header: Event
    trials: dict[str, Trial]


@dataclass
class Merged:
    """What a merge found and did."""

    folder: Path
    new: int = 0  # trials that the destination did not have
    further: int = 0  # trials of which the other copy was further along
    conflicts: list[str] = field(default_factory=list)  # one line each


def located(text: str, storage: Path) -> Path:
    """The folder of a study given by name or as a folder. Raises InputError."""
    for folder in (storage / text, Path(text).expanduser().absolute()):
        if (folder / "study.toml").is_file():
            return folder
    held = sorted(p.parent.name for p in storage.glob("*/study.toml"))
    raise unknown(f"study in {storage} and no study's folder either:", text, held)


def merge(first: Path, second: Path, into: Path | None = None, conflicts: str = "refuse") -> Merged:
    """Unites two studies in ``into``, a folder that is not there yet, or in the first.

    Raises InputError, with nothing written, where they are different studies, where one is running, and where two copies of a trial
    tell different things (unless ``conflicts`` is "keep": then the copy that is further along is kept, and told of).
    """
    if first.resolve() == second.resolve():
        raise InputError(f"{first} cannot be merged with itself")
    if into and into.exists():
        raise InputError(
            f"--into {into.name}: {into} is there already; choose another name, or leave it out to merge into {first.name}"
        )
    for folder in (first, second):
        if is_running(folder):
            raise InputError(f"study {folder.name} at {folder} is being run; wait for it or stop it")
    with _lock(None if into else first):
        done = Merged(into or first)
        study = _study(first, second, done.folder.name)
        files: dict[str, list[Event]] = {}
        unfinished: list[Trial] = []
        for key in sorted({p.stem for f in (first, second) for p in ledger.cells(f)}):
            mine, theirs = (_read(f, key) for f in (first, second))
            united = _unite(key, mine, theirs, done)
            unfinished += [t for t in united.trials.values() if t.end is None]
            if into or mine is None or not _same(united, mine):
                files[key] = _numbered(united)
        if done.conflicts and conflicts == "refuse":
            more = f" (and {len(done.conflicts) - 1} more)" if len(done.conflicts) > 1 else ""
            told = "--on-conflict keep merges all the same, with the copy that is further along"
            raise InputError(f"{done.conflicts[0]}{more}; nothing was merged: {told}")
        _write(first, second, into, study, files, unfinished)
    return done


@contextlib.contextmanager
def _lock(folder: Path | None) -> Iterator[None]:
    """Keeps sweeps out of the folder that is written."""
    held = Ledger(folder) if folder else None
    try:
        yield
    finally:
        if held:
            held.close()


def _study(first: Path, second: Path, name: str) -> Study:
    """The union of the grids and the larger budgets, in the order of the study that was begun first."""
    told = [(_begun(f), replace(Study.from_toml(f / "study.toml"), name=name)) for f in (first, second)]
    (_, older), (_, newer) = sorted(told, key=lambda t: (t[0], t[1].to_toml()))
    try:
        return newer.grown_from(older)
    except InputError as e:
        raise InputError(f"{first} and {second} are different studies: {str(e).partition(': choose')[0]}") from None


def _begun(folder: Path) -> int:
    times = [
        event["time"] for path in ledger.cells(folder) for event, _ in ledger.events(path) if event["event"] == "cell"
    ]
    return min(times, default=2**63)


def _read(folder: Path, key: str) -> CellTrials | None:
    path = folder / "cells" / f"{key}.jsonl"
    if not path.exists():
        return None
    history, trials = CellHistory(key), dict[str, Trial]()
    try:
        for event, _ in ledger.events(path):
            if not history.apply(event):
                continue
            if event["event"] == "trial":
                trials[event["key"]] = Trial(folder, event)
            elif event["event"] == "record":
                trials[event["key"]].records.append(event)
            elif event["event"] == "end":
                trials[event["key"]].end = event
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: not a ledger file of raystudy ({type(e).__name__}: {e})") from None
    return CellTrials(history.header, trials) if history.header else None


def _unite(key: str, mine: CellTrials | None, theirs: CellTrials | None, done: Merged) -> CellTrials:
    if mine is None or theirs is None:
        one = mine or theirs or CellTrials({}, {})
        done.new += len(one.trials) if mine is None else 0
        return one
    for name in FIXED:
        a, b = mine.header.get(name), theirs.header.get(name)
        if a != b:
            raise InputError(f"cell {key} differs in its {name}: {_short(a)} in one study, {_short(b)} in the other")
    header = min(mine.header, theirs.header, key=lambda h: (h["time"], json.dumps(h, sort_keys=True)))
    trials = dict(mine.trials)
    for k, other in theirs.trials.items():
        if k not in trials:
            trials[k] = other
            done.new += 1
            continue
        own = trials[k]
        if conflict := _conflict(key, own, other):
            done.conflicts.append(conflict)
        best = max(own, other, key=lambda t: t.rank)
        done.further += best is other and best.rank[:3] != own.rank[:3]
        # The published point stays it, wherever the copy comes from, and proposals keep the later of their numbers: a study that was
        # merged already has the later ones.
        origin = min(own.trial["origin"], other.trial["origin"], key=ORIGINS.index)
        told = {"number": max(own.trial["number"], other.trial["number"]), "origin": origin}
        oracle = own.trial.get("oracle") or other.trial.get("oracle")
        trials[k] = replace(best, trial=best.trial | told | ({"oracle": oracle} if oracle else {}))
    return CellTrials(header, trials)


def _conflict(cell: str, a: Trial, b: Trial) -> str:
    """What two copies of a trial tell differently, in one line; empty if nothing."""
    for what in ("point", "seed"):
        if a.trial[what] != b.trial[what]:
            raise InputError(
                f"trial {a.trial['key']} of cell {cell} has another {what} in {b.folder}: its ledger was changed by hand"
            )
    for mine, theirs in zip(a.records, b.records, strict=False):
        x, y = mine["metrics"], theirs["metrics"]
        for name in sorted(x.keys() | y.keys()):
            if not name.startswith("cost/") and x.get(name) != y.get(name):
                values = f"{x.get(name)} in {a.folder} and {y.get(name)} in {b.folder}"
                return f"trial {a.trial['number']} ({a.trial['key']}) of cell {cell}: {name} of epoch {mine['epoch']} is {values}"
    return ""


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _same(united: CellTrials, mine: CellTrials) -> bool:
    """Whether the destination's file tells all of it already, under whatever numbers."""

    def told(t: Trial) -> tuple[Path, Event]:
        return t.folder, {**t.trial, "number": 0}

    kept = united.header == mine.header and united.trials.keys() == mine.trials.keys()
    return kept and all(told(t) == told(mine.trials[k]) for k, t in united.trials.items())


def _numbered(cell: CellTrials) -> list[Event]:
    """The events of a cell, trial by trial: proposals numbered in the order they were begun, then replicates."""

    def order(t: Trial) -> tuple[bool, int, int, str]:
        return t.trial["origin"] != "paper", t.trial["time"], t.trial["number"], t.trial["key"]

    ordered = sorted(cell.trials.values(), key=order)
    searched = [t for t in ordered if t.trial["origin"] != "replicate"]
    events = [cell.header]
    for number, t in enumerate(searched + [t for t in ordered if t.trial["origin"] == "replicate"]):
        origin = "search" if 0 < number < len(searched) else t.trial["origin"]  # two spaces had two published points
        events += [t.trial | {"number": number, "origin": origin}, *t.events[1:]]
    return events


def _write(
    first: Path, second: Path, into: Path | None, study: Study, files: dict[str, list[Event]], unfinished: list[Trial]
) -> None:
    """Writes everything beside its place, then moves it there: the whole folder if it is new, else file by file, study.toml last."""
    folder = into or first
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (scratch / "cells").mkdir()
        for key, events in files.items():
            text = "".join(json.dumps(e, separators=(",", ":"), allow_nan=False) + "\n" for e in events)
            (scratch / "cells" / f"{key}.jsonl").write_text(text, encoding="utf-8")
        copies: list[tuple[Path, Path]] = []
        for trial in unfinished:
            source = trial.folder / "checkpoints" / f"{trial.trial['key']}.pt"
            copies += [(f, Path("checkpoints") / f.name) for f in (source, source.with_name(source.name + ".prev"))]
        for source in (second,) if not into else (first, second):
            for name in BESIDES:
                copies += [(f, f.relative_to(source)) for f in sorted((source / name).rglob("*")) if _plain(f)]
        for source, place in copies:
            if _plain(source) and source != folder / place and not (scratch / place).exists():
                if place.parts[0] in BESIDES and (folder / place).exists():
                    continue
                (scratch / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, scratch / place)
        text = study.to_toml()
        (scratch / "study.toml").write_text(text, encoding="utf-8")
        if into:
            os.chmod(scratch, 0o777 & ~_umask())
            os.rename(scratch, into)
            return
        for file in sorted(f for f in scratch.rglob("*") if f.is_file() and f.name != "study.toml"):
            place = folder / file.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
        if (folder / "study.toml").read_text(encoding="utf-8") != text:
            os.replace(scratch / "study.toml", folder / "study.toml")
    except OSError as e:
        raise InputError(f"cannot write {folder}: {e.strerror or e}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plain(file: Path) -> bool:
    """Whether this is a file, and no link to one: the other study may be a stranger's, and point anywhere."""
    return file.is_file() and not file.is_symlink()


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def resolve(first: str, second: str, into: str | None, storage: Path) -> tuple[Path, Path, Path | None]:
    """The folders that a command line names. Raises InputError."""
    return located(first, storage), located(second, storage), study_dir(storage, into) if into else None
