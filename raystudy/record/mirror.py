"""A study's ledger between this machine and its storage: pulled before it is read, mirrored by a thread while it is run.

The driver stays the only writer of the ledger: it appends to a working copy on its own disk, and a thread copies that. So a slow or absent
storage never holds up a study, and ``flock``, append and ``fsync`` are never asked of an object store.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from raystudy.errors import InputError
from raystudy.record import models
from raystudy.record.checkpoints import checkpoint_names
from raystudy.record.storage import Place, line_of, place, reached, url

MIRROR_SECONDS = 5.0  # the longest that a change waits; the end of a trial waits for LOOK_SECONDS only

LOOK_SECONDS = 0.5

LEASE_SECONDS = 60.0  # a driver that has not been heard of for so long is dead

CLOSE_WAITS = (0.5, 2.0, 5.0)  # seconds before each further try of the last copy

COMPARED = 4096  # bytes by which one ledger file is known to continue another: its last lines, with their times in milliseconds

KEPT = ("masks", "report", "own", "start")  # folders of a study whose files are copied as they are

ARRAYS = ("arrays",)  # another, of one file a trial


Surplus = Callable[
    [str, Collection[str]], Collection[str]
]  # key of a cell, trials with a model -> those whose model goes


def pull(study_dir: Path, arrays: bool = False, weights: bool = False) -> int:
    """Brings the working copy of a study up to what its storage holds; of two ledger files the longer one wins.

    ``arrays``: also what finished trials left for figures, one small file each; ``weights``: also the weights of models, whose cards are
    brought in any case. Returns how many files were taken; does nothing for a folder that is used as it is.
    Raises InputError where the copy and the storage tell different stories: neither continues the other.
    """
    address = url(study_dir.parent)
    if not address:
        return 0
    there = place(address) / study_dir.name
    taken = []
    with reached(address):
        held = there / "cells"
        for name, size in held.files().items():
            if name.endswith(".jsonl"):
                mine = study_dir / "cells" / name
                if not _continues(mine, held / name, size):
                    taken.append((held / name, mine))
        for kind in KEPT + ARRAYS * arrays:
            taken += [
                (there / kind / name, study_dir / kind / name)
                for name in (there / kind).files()
                if not (study_dir / kind / name).exists()
            ]
        taken += _models(study_dir, there, weights)
        settings = there / "study.toml"
        if settings.size() is not None and (taken or not (study_dir / "study.toml").exists()):
            taken.append((settings, study_dir / "study.toml"))
        for source, file in taken:
            source.download(file)
    return len(taken)


def _models(study_dir: Path, there: Place, weights: bool) -> list[tuple[Place, Path]]:
    """The files of models to take. Models here that the storage has no more are removed: this is a copy, and trials leave theirs there."""
    taken = []
    for cell in (there / models.FOLDER).folders():
        held = (there / models.FOLDER / cell).files()
        models.remove(study_dir, cell, models.here(study_dir, cell) - models.keys(held))
        for name, size in held.items():
            mine = models.folder(study_dir, cell) / name
            if name.endswith(models.ENDINGS if weights else ".json") and not (
                mine.exists() and mine.stat().st_size == size
            ):
                taken.append((there / models.FOLDER / cell / name, mine))
    return taken


def pull_models(study_dir: Path, weights: bool = False) -> None:
    """Brings the cards of a study's models from its storage, and the weights where asked for; does nothing for a folder that is used as
    it is. Raises InputError where the storage cannot be read."""
    if address := url(study_dir.parent):
        with reached(address):
            for source, file in _models(study_dir, place(address) / study_dir.name, weights):
                source.download(file)


def _continues(mine: Path, other: Place, size: int) -> bool:
    """Whether a ledger file here holds all that the one in the storage holds. Raises InputError where neither continues the other."""
    if not mine.exists():
        return False
    with mine.open("rb") as f:
        here = f.seek(0, os.SEEK_END)
        f.seek(max(0, here - COMPARED))
        here -= len((b"\n" + f.read()).rpartition(b"\n")[2])  # without a torn last line
        common = min(here, size)
        start = max(0, common - COMPARED)
        f.seek(start)
        if f.read(common - start) != other.read(start, common):
            raise InputError(
                f"{mine} and {other.path} tell different stories of one cell: the study was run in two places. "
                f"Move the folder {mine.parent.parent} away to go on from the storage, or choose another --name"
            )
    return here >= size


class Mirror:
    """Copies a study's ledger to its storage from a thread, and removes there the checkpoints of trials that have ended, and the models
    that are not kept (``surplus``).

    A file is copied, up to its last whole line, when it has grown and ``MIRROR_SECONDS`` have passed or a trial has ended in it. A copy
    that fails is tried again with the next; ``close`` makes a last one, and raises InputError if the storage still lacks anything.
    """

    def __init__(self, study_dir: Path, address: str, surplus: Surplus = lambda cell, trials: ()) -> None:
        self.dir, self.address, self.there = study_dir, address, place(address) / study_dir.name
        self.problem = ""
        self._sizes: dict[str, int] = {}  # what the storage holds, bytes
        self._seen: dict[str, int] = {}  # how far a file was searched for ends of trials
        self._stamps: dict[str, tuple[int, int]] = {}  # of files that are no ledger
        self._ended: list[str] = []
        self.surplus = surplus
        self._stirred: set[str] = set()  # cells whose models may be too many
        self._next = 0.0
        self._id = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="raystudy-mirror", daemon=True)

    def start(self) -> None:
        """Claims the study and begins. Raises InputError where another living driver has it, or the storage cannot be written."""
        if other := driver(self.there):
            ago = time.time() - other["time"]
            raise InputError(
                f"study {self.dir.name} in {self.address} is being run by process {other['pid']} on {other['host']}, heard of "
                f"{ago:.0f} s ago; wait for it or stop it (a driver that was killed is forgotten after {LEASE_SECONDS:.0f} s)"
            )
        try:
            self._claim()
            self._sizes = (self.there / "cells").files()
            self._stirred = set((self.there / models.FOLDER).folders())
        except OSError as e:
            raise InputError(f"--storage {self.address} cannot be written: {line_of(e)}") from None
        self._thread.start()

    def close(self) -> None:
        """Copies what is left. Raises InputError if that fails: what was measured is safe here, and not there."""
        self._stop.set()
        self._thread.join()
        for wait in (0.0, *CLOSE_WAITS):
            time.sleep(wait)
            self._copy(all_=True)
            if not self.problem:
                break
        with contextlib.suppress(OSError):
            if driver(self.there).get("id") == self._id:
                (self.there / "driver.json").remove()
        if self.problem:
            raise InputError(f"the ledger is whole in {self.dir}, but not in {self.address}: {self.problem}")

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._copy()

    def _copy(self, all_: bool = False) -> None:
        """One round. Anything that goes wrong is kept for ``close`` to tell: a mirror must never end a study."""
        due = all_ or time.monotonic() >= self._next
        try:
            if due:
                self._next = time.monotonic() + MIRROR_SECONDS
                self._claim()
                for file in (self.dir / "study.toml", *sorted(f for k in KEPT for f in (self.dir / k).glob("*"))):
                    if file.is_file() and not file.name.endswith(".new"):
                        self._copy_whole(file)
            for file in sorted((self.dir / "cells").glob("*.jsonl")):
                self._copy_ledger(file, due)
            while self._ended:
                for name in checkpoint_names(self._ended[-1]):
                    (self.there / "checkpoints" / name).remove()
                self._ended.pop()
            while due and self._stirred:
                self._remove_models(next(iter(self._stirred)))
            if due:
                self.problem = ""
        except Exception as e:
            self.problem = line_of(e)

    def _copy_ledger(self, file: Path, due: bool) -> None:
        size = file.stat().st_size
        name, start = file.name, self._seen.get(file.name, self._sizes.get(file.name, 0))
        if size > start:
            with file.open("rb") as f:
                f.seek(start)
                new = f.read(size - start)
            new = new[: new.rfind(b"\n") + 1]
            ends = [json.loads(line)["key"] for line in new.splitlines() if b'"event":"end"' in line]
            self._ended += ends
            self._stirred |= {file.stem} if ends else set()
            self._seen[name] = start + len(new)
            due = due or bool(ends)
        whole = self._seen.get(name, 0)
        if due and whole > self._sizes.get(name, 0):
            with file.open("rb") as f:
                (self.there / "cells" / name).write(f.read(whole))
            self._sizes[name] = whole

    def _remove_models(self, cell: str) -> None:
        self._stirred.discard(cell)  # first: what ends from now on is looked at again
        held = self.there / models.FOLDER / cell
        try:
            for key in self.surplus(cell, models.keys(held.files())):
                for end in models.ENDINGS:
                    (held / f"{key}{end}").remove()
        except BaseException:
            self._stirred.add(cell)
            raise

    def _copy_whole(self, file: Path) -> None:
        name, stat = str(file.relative_to(self.dir)), file.stat()
        stamp = stat.st_size, stat.st_mtime_ns
        if self._stamps.get(name) != stamp:
            (self.there / name).upload(file)
            self._stamps[name] = stamp

    def _claim(self) -> None:
        mine = {"id": self._id, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        (self.there / "driver.json").write(json.dumps(mine).encode())


def mirror(study_dir: Path, surplus: Surplus = lambda cell, trials: ()) -> Mirror | None:
    """Begins to mirror a study that is about to be run; None for a folder that is used as it is."""
    address = url(study_dir.parent)
    if not address:
        return None
    begun = Mirror(study_dir, address, surplus)
    begun.start()
    return begun


def driver(study: Place) -> dict[str, Any]:
    """Who runs a study: id, host, pid and time (seconds since 1970). Empty where nobody does, or nobody was heard of for a while."""
    try:
        found = json.loads((study / "driver.json").read())
        fresh = time.time() - found["time"] < LEASE_SECONDS
        here = found["host"] == socket.gethostname()
        return found if fresh and not (here and not Path(f"/proc/{found['pid']}").exists()) and found["id"] else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def driven(study_dir: Path) -> bool:
    """Whether some machine runs a study into the storage of this working copy."""
    address = url(study_dir.parent)
    return bool(address and driver(place(address) / study_dir.name))
