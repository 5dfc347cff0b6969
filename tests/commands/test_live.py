"""The live table of a sweep: what is always whole, what there is room for, and that it stays when a study is stopped."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from searched import opened, study

from raystudy.commands.live import Live, table
from raystudy.data.noise import Noise
from raystudy.design.study import Cell
from raystudy.running.progress import snapshot
from raystudy.running.search import CellSearch


@pytest.fixture
def cells(tmp_path: Path) -> list[CellSearch]:
    """Two cells with long names, in one of which a trial has a record."""
    noises = (Noise("symmetric", 0.2, "exclusive"), Noise("asymmetric", 0.35, "cifar10", seed=7))
    told = study(noises=noises, methods=("dividemix",))
    found = [opened(tmp_path / n.kind, told, Cell("dividemix", "digits", n)) for n in noises]
    trial = next(found[0].waiting())
    found[0].started.add(trial.key)
    found[0].report(trial.key, 0, [{"val/acc": 0.875, "cost/seconds": 2.0}], False, "")
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
    assert ("lambda_u=" in text) == (width >= 120)  # the best point, where there is room
    assert "87.5" in text


def test_what_is_left_is_the_slowest_pace_over_the_places(cells: list[CellSearch]) -> None:
    """8 trials of 27 epochs, 2 replicates of 2 points, of which an epoch is done; 2 s an epoch in the one cell, and so in the other."""
    found = snapshot(cells, 4)
    epochs = sum(c.remaining() for c in cells)
    assert found.left == pytest.approx(2.0 * epochs / 4)
    assert (found.ended, found.of) == (0, 2 * (8 + 4))


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
