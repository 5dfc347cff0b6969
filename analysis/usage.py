"""Who used the places of a study: sums, a course over time, a line for people. From what its drivers saw (``raystudy.record.usage``).

A study that was run before drivers told of it has its records alone: when trials trained follows from them, how many places there were does
not.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raystudy.record.ledger import CellHistory
from raystudy.record.usage import IDLE, LOST, Span
from raystudy.terminal import duration

PARTS = 200  # of a course
GAP = 60_000  # ms without a training after which a trial was not running
SUMMED = ("seconds", "places", "busy", *IDLE, *LOST)


@dataclass(frozen=True)
class Course:
    """Means over equal parts of the time in which a driver ran; the time in between is left out."""

    hours: list[float]  # the end of each part
    means: dict[str, list[float]]  # of places, busy and each reason, by part


def totals(spans: Sequence[Span]) -> dict[str, float]:
    """Seconds in all; of places, busy and idle summed over places."""
    return {name: math.fsum(getattr(s, name) for s in spans) for name in SUMMED}


def course(spans: Sequence[Span], parts: int = PARTS) -> Course:
    """How many places there were, and what became of them, over time. Drivers that ran at once are added up."""
    if not spans:
        return Course([], {})
    begins, ends = [s.begun for s in spans], [float(s.time) for s in spans]
    edges, so_far = _running(begins, ends)
    first, last = np.interp(begins, edges, so_far), np.interp(ends, edges, so_far)
    cuts = np.linspace(0, so_far[-1], parts + 1)
    means = {name: np.zeros(parts) for name in ("places", "busy", *IDLE)}
    for span, a, b in zip(spans, first, last, strict=True):
        i, j = np.searchsorted(cuts, a, "right") - 1, np.searchsorted(cuts, b, "left")
        inside = np.clip(np.minimum(cuts[i + 1 : j + 1], b) - np.maximum(cuts[i:j], a), 0, None)
        for name, mean in means.items():
            mean[i:j] += getattr(span, name) * inside / inside.sum() if inside.sum() else 0.0
    width = cuts[1] / 1000
    return Course((cuts[1:] / 3.6e6).tolist(), {name: (mean / width).tolist() for name, mean in means.items()})


def _running(begins: Sequence[float], ends: Sequence[float]) -> tuple[list[float], list[float]]:
    """Times at which a driver began or ended, and for how long any had run by then, both in ms."""
    edges, so_far = [min(begins)], [0.0]
    for begin, end in sorted(zip(begins, ends, strict=True)):
        if begin > edges[-1]:
            edges.append(begin)
            so_far.append(so_far[-1])
        if end > edges[-1]:
            so_far.append(so_far[-1] + end - edges[-1])
            edges.append(end)
    return edges, so_far


def trained(histories: Iterable[CellHistory]) -> list[Span]:
    """When trials trained, by the times and ``cost/seconds`` of their records: busy time alone. Of records that waited for a rung's verdict
    the time is that of the verdict, so they stand as late as that."""
    found = []
    for trial in (t for h in histories for t in h.trials.values() if t.epochs and "cost/seconds" in t.curves):
        ends = np.asarray(trial.times, float)
        seconds = np.nan_to_num(np.asarray(trial.curves["cost/seconds"], float))
        new = ends[1:] - 1000 * seconds[1:] - ends[:-1] > GAP
        for part in np.split(np.arange(len(ends)), np.flatnonzero(new) + 1):
            busy = float(seconds[part].sum())
            whole = max(busy, float(ends[part[-1]] - ends[part[0]]) / 1000 + float(seconds[part[0]]))
            if busy > 0:
                found.append(Span(int(ends[part[-1]]), whole, busy=busy))
    return sorted(found, key=lambda s: s.time)


def lines(spans: Sequence[Span]) -> list[str]:
    """What became of a study's places, for a terminal: nothing where no driver told, and of lost time where there was some."""
    told = totals(spans)
    if not told["places"]:
        return []

    def part(name: str) -> str:
        return f"{100 * told[name] / told['places']:.0f} %"

    idle = "; ".join(f"{part(name)} {why}" for name, why in IDLE.items() if told[name] >= 0.005 * told["places"])
    found = [
        f"places: {part('busy')} of {told['places'] / 3600:.3g} place-hours busy{f' (idle: {idle})' if idle else ''}"
    ]
    if lost := "; ".join(f"{duration(told[name])} {why}" for name, why in LOST.items() if told[name] >= 0.5):
        found.append(f"lost: {lost}")
    return found
