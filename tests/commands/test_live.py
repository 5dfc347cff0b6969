"""The live table of a sweep: what is always whole, what there is room for, and that it stays when a study is stopped."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from searched import opened, study

from analysis.select import chosen, reached
from analysis.tables import point, status
from raystudy.commands.live import Live, table, way
from raystudy.data.noise import Noise
from raystudy.design.study import Cell
from raystudy.running.progress import snapshot
from raystudy.running.search import CellSearch


@pytest.fixture
def cells(tmp_path: Path) -> list[CellSearch]:
    """Two cells with long names; in the first two trials are complete, and a third has a record."""
    noises = (Noise("symmetric", 0.2, "exclusive"), Noise("asymmetric", 0.35, "cifar10", seed=7))
    told = study(noises=noises, methods=("dividemix",), scheduler="none")
    found = [opened(tmp_path / n.kind, told, Cell("dividemix", "digits", n)) for n in noises]
    for values in ([0.99] + [0.5] * 25 + [0.6], [0.7] * 25 + [0.8, 0.84], [0.375]):
        trial = next(found[0].waiting())
        found[0].started.add(trial.key)
        found[0].busy = frozenset({trial.key})
        records = [{"val/acc": v, "test/acc": 0.5, "cost/seconds": 2.0} for v in values]
        found[0].report(trial.key, 0, records, False, "")
    return found


def shown(renderable: Any, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(renderable)
    return out.getvalue()


@pytest.mark.parametrize("width", [64, 80, 120, 160])
def test_method_and_noise_are_whole_at_any_width(cells: list[CellSearch], width: int) -> None:
    text = shown(table(list(snapshot(cells, 2).rows), "caption", width), width)
    assert max(map(len, text.splitlines())) <= width
    for name in ("dividemix", "symmetric exclusive 0.2", "asymmetric cifar10 0.35 seed 7"):
        assert name in text, text
    assert "78.0" in text  # of the best trial its last three epochs
    assert ("37.5" in text) == (width >= 80)  # of the one in training
    assert ("p_threshold=" in text) == (width >= 120)  # the best point, where there is room
    assert ("▁█" in text and "in training" in text) == (width >= 160)  # how the search went, and the point in training


def test_the_best_is_what_status_and_the_leaderboard_choose(cells: list[CellSearch]) -> None:
    """The rule's value of the chosen point (.76, .8, .84 by hand), never the peak of a curve (.99)."""
    row = snapshot(cells, 2).rows[0]
    told = cells[0].history
    picked = chosen(told)
    assert picked is not None
    assert row.best == pytest.approx((0.7 + 0.8 + 0.84) / 3)
    assert row.best == reached(picked)
    assert row.point == point(picked.point)
    assert row.path == pytest.approx(((0.5 + 0.5 + 0.6) / 3, row.best))
    text = shown(status(cells[0].study, {cells[0].cell: told}), 160)
    assert f" {100 * row.best:.1f} " in text
    assert "99.0" not in text


def test_the_baseline_is_first(tmp_path: Path) -> None:
    told = study(methods=("dividemix", "ce"))
    both = [opened(tmp_path / m, told, Cell(m, "digits", told.noises[0])) for m in told.methods]
    lines = shown(Live(both, 2, Console(width=100)).table(), 100).splitlines()
    first = [i for i, line in enumerate(lines) for m in told.methods if line.strip().startswith(f"{m} ")]
    assert lines[first[0]].strip().startswith("ce ")
    assert len(first) == 2


@pytest.mark.parametrize(
    ("path", "seen"),
    [((), ""), ((0.5,), ""), ((0.5, 0.5), "▁▁"), ((0.1, 0.5, 0.8), "▁▅█"), ((0.0,) * 20 + (1.0,), "▁" * 11 + "█")],
)
def test_the_way_of_a_search_in_blocks(path: tuple[float, ...], seen: str) -> None:
    assert way(path) == seen


def test_what_is_left_is_the_slowest_pace_over_the_places(cells: list[CellSearch]) -> None:
    """8 trials of 27 epochs, 2 replicates of 2 points, of which 55 epochs are done; 2 s an epoch in the one cell, and so in the other."""
    found = snapshot(cells, 4)
    epochs = sum(c.remaining() for c in cells)
    assert found.left == pytest.approx(2.0 * epochs / 4)
    assert (found.ended, found.of) == (2, 2 * (8 + 4))


@pytest.mark.parametrize("done", [False, True])
def test_the_table_of_a_stopped_study_stays(
    cells: list[CellSearch], done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one that has ended, the leaderboard takes its place."""
    monkeypatch.setattr(CellSearch, "finished", lambda self: done)
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, force_jupyter=False)
    with Live(cells, 2, console):
        pass
    last = out.getvalue().rpartition("left")[2]  # what is written after the table was drawn for the last time
    assert ("\x1b[2K" in last) == done, repr(last)
    assert "trials have ended" in out.getvalue()
