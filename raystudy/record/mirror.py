"""A study's ledger between this machine and its storage: pulled before it is read, mirrored by a thread while it is run.

The driver stays the only writer of the ledger: it appends to a working copy on its own disk, and a thread copies that. So a slow or absent
storage never holds up a study, and ``flock``, append and ``fsync`` are never asked of an object store. What is new goes there as a piece
of its own (``pieces``); at the end of a study each of its files is joined again.
"""

import contextlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from raystudy.errors import InputError
from raystudy.record import models, pieces, usage
from raystudy.record.checkpoints import checkpoint_names
from raystudy.record.storage import Place, line_of, place, reached, url

MIRROR_SECONDS = 5.0  # the longest that a change waits; the end of a trial waits for LOOK_SECONDS only

LOOK_SECONDS = 0.5

LEASE_SECONDS = 60.0  # a driver that has not been heard of for so long is dead

CLOSE_WAITS = (0.5, 2.0, 5.0)  # seconds before each further try of the last copy

COMPARED = 4096  # bytes by which one ledger file is known to continue another: its last lines, with their times in milliseconds

SENDS = 8  # pieces on their way at once

LOOKS = 4  # at what a storage holds, while its driver is joining pieces

KEPT = ("masks", "report", "own", "start", usage.FOLDER)  # folders of a study whose files are copied as they are

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
    taken: list[tuple[Place, Path]] = []
    with reached(address):
        grown = _ledgers(study_dir / "cells", there / "cells")
        for kind in KEPT + ARRAYS * arrays:
            taken += [
                (there / kind / name, mine)
                for name, size in (there / kind).files().items()
                for mine in [study_dir / kind / name]
                if not mine.exists() or (kind == usage.FOLDER and mine.stat().st_size < size)  # which only grow
            ]
        taken += _models(study_dir, there, weights)
        settings = there / "study.toml"
        if settings.size() is not None and (taken or grown or not (study_dir / "study.toml").exists()):
            taken.append((settings, study_dir / "study.toml"))
        for source, file in taken:
            source.download(file)
    return len(taken) + grown


def _ledgers(mine: Path, there: Place) -> int:
    """Brings what the storage's ledger files have beyond ours; returns how many had more. Nothing is changed where one is in conflict."""
    done: set[str] = set()
    for look in range(LOOKS):
        try:
            held = pieces.found(there.files())
            lacking = {name: at for name, told in held.items() if (at := _lacks(mine / name, there, told)) is not None}
            for name, at in lacking.items():
                _extend(mine / name, at, pieces.read(there, name, held[name], at, pieces.length(held[name])))
                done.add(name)
            break
        except FileNotFoundError:  # joined with another since we looked
            if look == LOOKS - 1:
                raise
    return len(done)


def _extend(file: Path, at: int, more: bytes) -> None:
    """Puts bytes in place of what a file has from byte ``at`` on, in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    if at:
        shutil.copyfile(file, new)
    with new.open("r+b" if at else "wb") as out:
        out.truncate(at)
        out.seek(at)
        out.write(more)
    os.replace(new, file)


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


def _lacks(mine: Path, there: Place, held: Mapping[int, int]) -> int | None:
    """From which byte on a ledger file here lacks what the storage's pieces of it hold; None where it holds all of it.

    Raises InputError where neither continues the other.
    """
    size = pieces.length(held)
    if not mine.exists():
        return 0
    with mine.open("rb") as f:
        here = f.seek(0, os.SEEK_END)
        f.seek(max(0, here - COMPARED))
        here -= len((b"\n" + f.read()).rpartition(b"\n")[2])  # without a torn last line
        common = min(here, size)
        start = max(0, common - COMPARED)
        f.seek(start)
        if f.read(common - start) != pieces.read(there, mine.name, held, start, common):
            raise InputError(
                f"{mine} and {there.path}/{mine.name} tell different stories of one cell: the study was run in two places. "
                f"Move the folder {mine.parent.parent} away to go on from the storage, or choose another --name"
            )
    return here if here < size else None


class Mirror:
    """Copies a study's ledger to its storage from a thread, and removes there the checkpoints of trials that have ended, and the models
    that are not kept (``surplus``).

    What has come to a file, up to its last whole line, is sent when ``MIRROR_SECONDS`` have passed or a trial has ended in it; to a plain
    folder (``file://``) the whole file is copied, so that it can be used as one at any time. A copy that fails is tried again with the
    next; ``close`` makes a last one, and raises InputError if the storage still lacks anything.
    """

    def __init__(self, study_dir: Path, address: str, surplus: Surplus = lambda cell, trials: ()) -> None:
        self.dir, self.address, self.there = study_dir, address, place(address) / study_dir.name
        self.problem = ""
        self._held: dict[str, dict[int, int]] = {}  # what the storage holds: by file, where each piece begins -> bytes
        self._plain = self.there.fs.type_name == "local"
        self._seen: dict[str, int] = {}  # how far a file was searched for ends of trials
        self._stamps: dict[str, tuple[int, int]] = {}  # of files that are no ledger
        self._ended: list[str] = []
        self._lost = False  # another driver has the study
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
            self._held = pieces.found((self.there / "cells").files())
            for name in self._held:  # what a driver that was killed while it joined pieces has left
                self._sweep(name)
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
        if not self.problem:
            with contextlib.suppress(Exception):  # all of it is there, in pieces
                self._join()
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
        if self._lost and not due:
            return
        try:
            if due:
                self._next = time.monotonic() + MIRROR_SECONDS
                self._hold()
                for file in (self.dir / "study.toml", *sorted(f for k in KEPT for f in (self.dir / k).glob("*"))):
                    if file.is_file() and not file.name.endswith(".new"):
                        self._copy_whole(file)
            self._send([new for f in sorted((self.dir / "cells").glob("*.jsonl")) if (new := self._news(f, due))])
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

    def _news(self, file: Path, due: bool) -> tuple[Path, int, int] | None:
        """The piece of a ledger file that is to be sent now, if any: the file, and where the piece begins and ends."""
        size, name = file.stat().st_size, file.name
        held = self._held.setdefault(name, {})
        at = pieces.length(held)
        start = self._seen.get(name, at)
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
        if due and whole > at:
            starts = pieces.chain(held)
            stay = 0 if self._plain else pieces.begin([held[s] for s in starts], whole - at)
            return file, (*starts, at)[stay], whole
        return None

    def _send(self, news: Sequence[tuple[Path, int, int]]) -> None:
        """Puts pieces there, several at a time: a storage far away takes as long for each. Raises what went wrong with the first that
        failed; the others are there."""
        if news:
            with ThreadPoolExecutor(SENDS, "raystudy-send") as pool:
                done = [pool.submit(self._send_one, *piece) for piece in news]
            for sent in done:
                sent.result()

    def _send_one(self, file: Path, start: int, end: int) -> None:
        """Puts one piece there, then removes those that it has taken in."""
        with file.open("rb") as f:
            f.seek(start)
            (self.there / "cells" / pieces.name(file.name, start)).write(f.read(end - start))
        self._held[file.name][start] = end - start
        self._sweep(file.name)

    def _sweep(self, name: str) -> None:
        """Removes the pieces of a file that are not of its chain."""
        held = self._held[name]
        for start in set(held) - set(pieces.chain(held)):
            (self.there / "cells" / pieces.name(name, start)).remove()
            del held[start]

    def _join(self) -> None:
        """One file of each that is in pieces: as a folder holds it, for whoever reads the storage without us."""
        parted = [name for name, held in self._held.items() if len(held) > 1]
        self._send([(self.dir / "cells" / name, 0, pieces.length(self._held[name])) for name in parted])

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

    def _hold(self) -> None:
        """Claims the study again. Raises InputError where another driver took this one for dead: two stories would be mixed."""
        other = driver(self.there)
        self._lost = other.get("id", self._id) != self._id
        if self._lost:
            raise InputError(f"process {other['pid']} on {other['host']} runs the study now")
        self._claim()

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
