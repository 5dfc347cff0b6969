"""A study's places in MLflow: how many there were, and how many were busy, over time. MLflow has no run for a study, so they are metrics of
the run of its first cell; a step is a second since the study began, and a point the mean since the one before.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from raystudy.record.usage import LOST, Span

THERE, BUSY, GONE = "places/there", "places/busy", "places/lost_hours"
NAMES = (THERE, BUSY, GONE)


def metrics(spans: Sequence[Span], begun: int, known: int) -> list[Any]:
    """The points of spans that end after ``known`` (ms); hours that were lost are of all spans so far, so they only grow."""
    from mlflow.entities import Metric

    found, lost = [], 0.0
    for span in spans:
        lost += math.fsum(getattr(span, name) for name in LOST)
        if span.time > known:
            values = (span.places / span.seconds, span.busy / span.seconds, lost / 3600)
            step = max(0, span.time - begun) // 1000
            found += [Metric(name, value, span.time, step) for name, value in zip(NAMES, values, strict=True)]
    return found


def told(client: Any, run: str) -> int:
    """The time (ms) of the last point that a run has."""
    points: Iterable[Any] = client.get_run(run).data.to_proto().metrics
    return max((m.timestamp for m in points if m.key == THERE), default=0)


def bring(client: Any, run: str, spans: Sequence[Span], begun: int) -> int:
    """Brings to a run what it lacks. Returns how many values that were."""
    new = metrics(spans, begun, told(client, run))
    if new:
        client.log_batch(run, new)
    return len(new)
