"""Who used the places of a study: what its drivers saw, a file each, a line for each span of time. Its form, writing and reading.

It stands beside the ledger and is no part of it: nothing is decided from it, a study is the same without it, and two ledgers are the same
whatever it says. A line tells of the time since the one before it, so a driver that is killed loses its last span alone, and while no
driver runs nothing is told. Drivers of other machines have files of their own, which a merge or a mirror puts side by side.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

FOLDER = "usage"
# Why a place is idle, in the order in which they are shown.
IDLE = {
    "starting": "a trial waits for its worker",
    "waiting": "proposals wait for results",
    "ending": "nothing is left to propose",
}
# What became of time that trials had a place for and the ledger does not have, or has twice.
LOST = {
    "repeated": "trained again after a worker or the driver was lost",
    "died": "since the last record of a worker that died",
    "beyond": "trained on where the trial was to stop",
}


@dataclass(frozen=True)
class Span:
    """Some time of a driver. All but ``time`` and ``nodes`` are seconds; places, busy and what is idle are summed over places."""

    time: int  # ms since 1970, its end
    seconds: float  # how long it is
    nodes: int = 1  # at its end
    places: float = 0.0  # busy and idle
    busy: float = 0.0
    starting: float = 0.0
    waiting: float = 0.0
    ending: float = 0.0
    repeated: float = 0.0
    died: float = 0.0
    beyond: float = 0.0

    @property
    def begun(self) -> float:
        """ms since 1970, its beginning."""
        return self.time - 1000 * self.seconds


NAMES = tuple(f.name for f in fields(Span))


def append(file: Path, span: Span) -> None:
    """Writes a span at the end of a driver's file. A disk that takes no more is the ledger's to tell of."""
    told = {name: round(value, 3) for name, value in asdict(span).items() if value}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(told, separators=(",", ":")) + "\n")


def read(study_dir: Path) -> list[Span]:
    """All spans of a study, by time; none where it was run before they were kept. What is no span is left out."""
    found = [span for file in (study_dir / FOLDER).glob("*.jsonl") for span in _spans(file)]
    return sorted(found, key=lambda s: (s.time, s.seconds))


def _spans(file: Path) -> Iterator[Span]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            told = {name: value for name, value in json.loads(line).items() if name in NAMES}
            span = Span(**told)
            if all(type(v) in (int, float) and math.isfinite(v) and v >= 0 for v in told.values()) and span.seconds > 0:
                yield span


def file_of(study_dir: Path, now: int) -> Path:
    """The file of a driver that begins now (ms since 1970)."""
    return study_dir / FOLDER / f"{now}-{os.getpid()}.jsonl"
