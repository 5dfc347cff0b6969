"""The ledger of a study: what happened, one JSON line per event, one file per cell. The single source of truth.

Here belong writing, reading and folding events; nothing that decides, trains or shows.

Events of ``cells/<cell key>.jsonl``, each with ``time`` in milliseconds since 1970:

    cell    first line of the file: the cell and what all its trials share (digests, effective noise rate, ...)
    trial   key, number, origin (paper | search | replicate), point, seed: a trial was proposed; epochs where not the cell's
    record  key, epoch (from 0), metrics: what was measured after one epoch
    retry   key, reason: memory ran out, and the trial goes on from its checkpoint with a whole device; once at most
    end     key, state (complete | pruned | diverged | failed), reason, worker (host:process it last ran in)
"""

import contextlib
import fcntl
import itertools
import json
import math
import os
import re
import time
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import orjson

from raystudy.errors import InputError

Event = dict[str, Any]
ENDED = ("complete", "pruned", "diverged", "failed")
ORIGINS = ("paper", "search", "replicate")
FIELDS: dict[str, dict[str, type]] = {  # what an event must have; ``MAY``: of which kind the rest is where it is there
    "trial": {"key": str, "number": int, "origin": str, "point": dict, "seed": int},
    "record": {"key": str, "epoch": int, "metrics": dict},
    "retry": {"key": str, "reason": str},
    "end": {"key": str, "state": str},
}
MAY: dict[str, Any] = {
    **{
        "reason": str,
        "oracle": list,
        "digests": dict,
        "effective_rate": float | int | None,
        "images": int,
        "network": str,
        "evaluate": str,
    },
    **{"cell": dict, "recipe": dict, "epochs": int, "objective": str, "space": dict, "versions": dict, "commit": str},
}
MOST = 10**14  # of a whole number: dates in milliseconds up to the year 5000, and all that a table can hold
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # a trial's key is a part of file names


@dataclass
class TrialHistory:
    """One trial as the ledger tells it. Curves are columns: ``curves[metric][epoch]``, NaN where not measured."""

    key: str
    number: int
    origin: str
    point: dict[str, Any]
    seed: int
    oracle: tuple[str, ...] = ()
    state: str = "running"
    reason: str = ""
    started: int = 0  # ms, when it was proposed
    ended: int = 0  # ms
    retried: str = ""  # why it was given a whole device
    planned: int = 0  # epochs it is to have, where these are not the cell's
    times: array = field(default_factory=lambda: array("q"))  # ms, one per epoch
    curves: dict[str, array] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs are recorded."""
        return len(self.times)

    def add(self, told: Sequence[Event], times: Sequence[int], only: Collection[str] | None = None) -> None:
        """Takes the metrics and times of consecutive records, the next epoch first; of the metrics all, or ``only`` some."""
        n = len(self.times)
        for name in dict.fromkeys(itertools.chain.from_iterable(told)) if only is None else only:
            try:
                new = array("d", [metrics[name] for metrics in told])
            except (KeyError, TypeError):  # not measured in some of them
                values = [metrics.get(name) for metrics in told]
                if only is not None and values.count(None) == len(values):
                    continue
                new = array("d", [math.nan if v is None else v for v in values])
            column = self.curves.setdefault(name, array("d"))
            column.extend(array("d", [math.nan]) * (n - len(column)))
            column.extend(new)
        self.times.extend(array("q", times))
        for column in self.curves.values():
            column.extend(array("d", [math.nan]) * (len(self.times) - len(column)))


@dataclass
class CellHistory:
    """One cell as the ledger tells it: its header and its trials in the order they were proposed."""

    key: str
    header: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, TrialHistory] = field(default_factory=dict)

    def apply(self, event: Event) -> bool:
        """Folds one event in. Returns False for what is already known (a record told twice), which changes nothing."""
        kind = event["event"]
        if kind == "record":
            trial = self.trials[event["key"]]
            if event["epoch"] != trial.epochs or trial.state != "running":
                return False
            trial.add([event["metrics"]], [event["time"]])
        elif kind == "trial":
            if event["key"] in self.trials:
                return False
            self.trials[event["key"]] = TrialHistory(
                event["key"],
                event["number"],
                event["origin"],
                event["point"],
                event["seed"],
                tuple(event.get("oracle", ())),
                started=event["time"],
                planned=event.get("epochs", 0),
            )
        elif kind == "end":
            trial = self.trials[event["key"]]
            if trial.state != "running":
                return False
            trial.state, trial.reason, trial.ended = event["state"], event.get("reason", ""), event["time"]
        elif kind == "retry":
            trial = self.trials[event["key"]]
            if trial.retried or trial.state != "running":
                return False
            trial.retried = event["reason"]
        elif kind == "cell":
            self.header = event
        return True


def _checked(event: Event) -> None:
    """Raises ValueError, TypeError or KeyError for what is no event: nothing that is read later has to doubt its kind."""
    kind, at = event["event"], event["time"]
    if type(at) is not int or not 0 <= at < MOST:
        raise ValueError(f"time is {at!r}")
    if kind == "record":  # without a loop where all is well: large studies have half a million
        epoch = event["epoch"]
        good = type(epoch) is int and 0 <= epoch < MOST
        if good and type(event["key"]) is str and type(event["metrics"]) is dict:
            return
    for name, wanted in FIELDS.get(kind, {}).items():
        value: Any = event[name]
        fits = type(value) is wanted
        if not fits or (wanted is int and not 0 <= value < MOST):
            raise ValueError(f"{name} is {value!r}")
    for name, wanted in MAY.items():
        if name in event and (not isinstance(event[name], wanted) or isinstance(event[name], bool)):
            raise ValueError(f"{name} is {event[name]!r}")
    if kind == "end" and event["state"] not in ENDED:
        raise ValueError(f"state is {event['state']!r}")
    if kind == "trial":
        if not _KEY.fullmatch(event["key"]):
            raise ValueError(f"key is {event['key']!r}")
        if event["origin"] not in ORIGINS:
            raise ValueError(f"origin is {event['origin']!r}")
        for name, value in event["point"].items():
            if any(not isinstance(v, str | int | float) for v in (value if isinstance(value, list) else [value])):
                raise ValueError(f"{name} of its point is {value!r}")
        if not all(isinstance(name, str) for name in event.get("oracle", ())):
            raise ValueError(f"oracle is {event['oracle']!r}")


def events(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """The whole events of a cell file from a byte offset on, each with the offset after it.

    A last line without its newline was torn by a crash, or is being written: it is left out.
    Raises InputError for a line in the middle that is not an event.
    """
    with path.open("rb") as f:
        f.seek(offset)
        for line in f:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = orjson.loads(line)
                _checked(event)
            except (ValueError, KeyError, TypeError) as e:
                why = f"no {e}" if isinstance(e, KeyError) else f"{e}"
                raise InputError(
                    f"{path}: broken ledger line before byte {offset}: {line[:60]!r} ({why[:80]})"
                ) from None
            yield event, offset


def replay(path: Path, only: Collection[str] | None = None) -> CellHistory:
    """A cell's history from its file; the curves of ``only`` some metrics where named.

    The same as applying the events one by one, but records are folded in a column at a time: large studies have half a million.
    """
    cell = CellHistory(path.stem)
    waiting: dict[str, tuple[list[Event], list[int]]] = {}  # metrics and times of each open trial, not folded in yet
    due: dict[str, int] = {}  # the epoch of its next record; an ended trial takes none
    try:
        for event, _ in events(path):
            if event["event"] == "record":
                key = event["key"]
                if event["epoch"] == due[key]:
                    due[key] += 1
                    told, times = waiting[key]
                    told.append(event["metrics"])
                    times.append(event["time"])
            elif cell.apply(event):
                if event["event"] == "trial":
                    waiting[event["key"]], due[event["key"]] = ([], []), 0
                elif event["event"] == "end":
                    cell.trials[event["key"]].add(*waiting.pop(event["key"]), only)
                    due[event["key"]] = -1
        for key, open_ in waiting.items():
            cell.trials[key].add(*open_, only)
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: not a ledger file of raystudy ({type(e).__name__}: {e})") from None
    return cell


def cells(study_dir: Path) -> list[Path]:
    """The cell files of a study."""
    return sorted((study_dir / "cells").glob("*.jsonl"))


class Ledger:
    """The one writer of a study's ledger. Holds the study's lock while it is open.

    A ``held`` ledger keeps what is appended to itself until ``release``: a study is opened, and everything that may refuse it asked, before
    anything is written. One that is closed without a release leaves the folder as it found it.
    """

    def __init__(self, study_dir: Path, held: bool = False) -> None:
        self.dir = study_dir
        self._files: dict[str, FileIO] = {}
        self.histories: dict[str, CellHistory] = {}
        self._problem: InputError | None = None  # why nothing is written any more: what came after would not fit on
        self._held: dict[str, list[Event]] | None = {} if held else None
        self._ends: dict[str, int] = {}  # bytes up to the last whole line of a file that ends in a torn one
        self._made = [p for p in (study_dir, *study_dir.parents) if not p.exists()]  # the innermost first
        self._new = not (study_dir / "lock").exists()
        try:
            study_dir.mkdir(parents=True, exist_ok=True)
            if not held:
                (study_dir / "cells").mkdir(exist_ok=True)
            self._lock = (study_dir / "lock").open("a+", encoding="utf-8")
        except OSError as e:
            raise InputError(f"cannot write to the storage {study_dir}: {e.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.seek(0)
            raise InputError(
                f"study {study_dir.name} is being run by process {self._lock.read().strip()}; wait for it or stop it"
            ) from None
        self._lock.seek(0)
        self._before = self._lock.read()  # the process that held it last
        self._sign(str(os.getpid()))

    def _sign(self, who: str) -> None:
        """Writes into the lock whose it is."""
        self._lock.truncate(0)
        self._lock.write(who)
        self._lock.flush()

    def open(self, key: str, header: Event) -> CellHistory:
        """Reads a cell's history and makes it ready to append to; a torn last line of its file is cut off."""
        path = self.dir / "cells" / f"{key}.jsonl"
        if path.exists():
            end = 0
            for _, end in events(path):  # noqa: B007 - only the offset after the last whole line
                pass
            if end < path.stat().st_size:
                self._ends[key] = end
            self.histories[key] = replay(path)
        else:
            self.histories[key] = CellHistory(key)
        if self._held is None:
            self._ready(key)
        else:
            self._held[key] = []
        if not self.histories[key].header:
            self.append(key, {"event": "cell", **header})
        return self.histories[key]

    def release(self) -> None:
        """Writes what was held, and from now on at once."""
        waiting, self._held = self._held or {}, None
        (self.dir / "cells").mkdir(exist_ok=True)
        for key, fresh in waiting.items():
            self._ready(key)
            self._write(key, fresh)

    def append(self, key: str, *new: Event) -> None:
        """Folds events into the history and writes them at once. Already known records are left out.

        Raises InputError if the disk takes no more; the file then ends with its last whole event, and the study can go on later.
        """
        if self._problem:
            raise self._problem
        now = time.time_ns() // 1_000_000
        told = [{**event, "time": now} for event in new]
        fresh = [event for event in told if self.histories[key].apply(event)]
        if self._held is not None:
            self._held[key] += fresh
        elif fresh:
            self._write(key, fresh)

    def _ready(self, key: str) -> None:
        path = self.dir / "cells" / f"{key}.jsonl"
        if key in self._ends:
            os.truncate(path, self._ends[key])
        self._files[key] = path.open("ab", buffering=0)  # so that what is written is known, if the disk fills up

    def _write(self, key: str, fresh: list[Event]) -> None:
        file = self._files[key]
        lines = "".join(json.dumps(event, separators=(",", ":"), allow_nan=False) + "\n" for event in fresh).encode()
        size = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(lines):  # a disk that is nearly full takes a part
                written += file.write(lines[written:])
        except OSError as e:
            os.truncate(file.fileno(), size)
            why = f"{e.strerror}; once that is mended, the same command goes on from here"
            self._problem = InputError(f"cannot write the ledger {file.name}: {why}")
            raise self._problem from None

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._held is not None and not self._lock.closed:  # nothing was written: nothing is left
            if self._new:
                (self.dir / "lock").unlink(missing_ok=True)
            else:
                self._sign(self._before)
            with contextlib.suppress(OSError):
                for folder in self._made:
                    folder.rmdir()
        with contextlib.suppress(ValueError):
            self._lock.close()


def is_running(study_dir: Path) -> bool:
    """Whether a process holds the study's lock."""
    try:
        with (study_dir / "lock").open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
