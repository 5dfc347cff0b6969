"""A study's places in MLflow: on the run of its first cell, each span once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recorded

from raystudy.record import usage
from raystudy.record.ledger import cells, events
from raystudy.record.usage import Span
from raystudy.tracking import places, store
from raystudy.tracking.sync import sync


@pytest.mark.slow
def test_places_over_time_are_there_once(tmp_path: Path, empty_store: Callable[[Path], str]) -> None:
    study, uri = tmp_path / "studies" / "s", empty_store(tmp_path)
    recorded.write(study, ("ce",), rates=(0.2,), trials=1, replicates=0, epochs=1, arrays=False)
    begun = next(event for event, _ in events(cells(study)[0]))["time"]
    file = usage.file_of(study, begun)
    spans = [
        Span(begun + 10_000, 10, places=20, busy=10, repeated=1800),
        Span(begun + 12_000, 2, nodes=2, places=8, busy=8, died=1800),
    ]
    client = store.connect(uri)

    def curves() -> dict[str, list[tuple[int, float, int]]]:
        experiment = client.get_experiment_by_name("s").experiment_id
        found: dict[str, Any] = {name: [] for name in places.NAMES}
        for run in client.search_runs([experiment]):
            for name in places.NAMES:
                points = client.get_metric_history(run.info.run_id, name)
                found[name] += [(p.step, p.value, p.timestamp - begun) for p in points]
        return {name: sorted(points) for name, points in found.items()}

    usage.append(file, spans[0])
    sync(study, uri)
    usage.append(file, spans[1])
    assert sync(study, uri).values == 3
    assert str(sync(study, uri)) == "nothing was missing"
    assert curves() == {
        "places/there": [(10, 2, 10_000), (12, 4, 12_000)],
        "places/busy": [(10, 1, 10_000), (12, 4, 12_000)],
        "places/lost_hours": [(10, 0.5, 10_000), (12, 1, 12_000)],
    }
