"""Measures who uses the places of a running study, and writes it down now and then. Decides nothing."""

import time
from pathlib import Path
from typing import Any

from raystudy.record import usage
from raystudy.record.usage import Span
from raystudy.running.places import Places
from raystudy.running.search import CellSearch

SHORTEST, LONGEST = 1.0, 60.0  # seconds of a span; in between a fiftieth of what the driver has run


class Usage:
    """Adds up place-seconds between two looks, as things were at the first, and lost seconds as they are told."""

    def __init__(self, study_dir: Path, cells: list[CellSearch], places: Places) -> None:
        self.cells, self.places = cells, places
        self.lost = dict.fromkeys(usage.LOST, 0.0)  # since the beginning
        now = time.time_ns() // 1_000_000
        self.file = usage.file_of(study_dir, now)
        self._begun = self._written = self._looked = time.monotonic()
        self._sums: dict[str, float] = {}
        self._told = dict(self.lost)
        self._state: dict[str, float] = {}
        self._count = places.now

    def look(self, running: int, handed: int, now: float | None = None) -> None:
        """Takes how many trials have a worker, and how many Ray was given; ``now`` on the monotonic clock."""
        at = time.monotonic() if now is None else now
        for name, places in self._state.items():
            self._sums[name] = self._sums.get(name, 0.0) + places * (at - self._looked)
        self._looked = at
        changed, self._count = self._count != self.places.now, self.places.now
        if changed or at - self._written >= min(LONGEST, max(SHORTEST, (at - self._begun) / 50)):
            self.close()
        self._state = shares(self.places.now, running, handed, any(c.opens() for c in self.cells))

    def close(self) -> None:
        """Ends a span, of which there may be a next, and writes it."""
        seconds = self._looked - self._written
        self.lost["beyond"] = sum(c.beyond for c in self.cells)
        lost = {name: value - self._told[name] for name, value in self.lost.items()}
        if seconds > 0:
            ended: Any = self._sums | lost
            usage.append(self.file, Span(time.time_ns() // 1_000_000, seconds, self.places.nodes, **ended))
            self._written, self._sums, self._told = self._looked, {}, dict(self.lost)


def shares(places: float, running: int, handed: int, more: bool) -> dict[str, float]:
    """Of so many places the busy ones, and the idle ones by why; ``more``: whether trials will be proposed when results have come."""
    every = max(float(places), float(running))
    idle = every - running
    starting = min(idle, float(max(0, handed - running)))
    rest = idle - starting
    return {
        "places": every,
        "busy": float(running),
        "starting": starting,
        "waiting": rest if more else 0.0,
        "ending": 0.0 if more else rest,
    }
