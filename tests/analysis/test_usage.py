"""Who used the places of a study, by hand."""

from array import array
from pathlib import Path

import pytest

from analysis.usage import course, lines, totals, trained
from raystudy.record import usage
from raystudy.record.ledger import CellHistory, TrialHistory
from raystudy.record.usage import Span

# Two places for 10 s, of which one trained; an hour of nothing; four places for 10 s, all busy but the last 10 place-seconds.
FIRST = Span(10_000, 10, places=20, busy=10, starting=4, waiting=6, repeated=1)
SECOND = Span(3_620_000, 10, nodes=2, places=40, busy=30, ending=10, died=2, beyond=3)


def test_sums() -> None:
    told = totals([FIRST, SECOND])
    assert (told["seconds"], told["places"], told["busy"]) == (20, 60, 40)
    assert [told[name] for name in usage.IDLE] == [4, 6, 10]
    assert [told[name] for name in usage.LOST] == [1, 2, 3]
    assert lines([FIRST, SECOND]) == [
        "places: 67 % of 0.0167 place-hours busy (idle: 7 % a trial waits for its worker; 10 % proposals wait for results; "
        "17 % nothing is left to propose)",
        "lost: 1 s trained again after a worker or the driver was lost; 2 s since the last record of a worker that died; "
        "3 s trained on where the trial was to stop",
    ]
    assert lines([]) == []


def test_the_course_leaves_out_the_time_in_which_no_driver_ran() -> None:
    told = course([FIRST, SECOND], parts=4)
    assert told.hours == pytest.approx([5 / 3600, 10 / 3600, 15 / 3600, 20 / 3600])
    assert told.means["places"] == pytest.approx([2, 2, 4, 4])
    assert told.means["busy"] == pytest.approx([1, 1, 3, 3])
    assert told.means["ending"] == pytest.approx([0, 0, 1, 1])
    # parts that do not fit the spans: the third is half of the first span and half of the second
    assert course([FIRST, SECOND], parts=5).means["places"] == pytest.approx([2, 2, 3, 4, 4])


def test_drivers_that_ran_at_once_are_added_up() -> None:
    other = Span(15_000, 10, places=30, busy=30)  # from 5 s to 15 s
    told = course([FIRST, other], parts=3)
    assert told.hours[-1] == pytest.approx(15 / 3600)
    assert told.means["places"] == pytest.approx([2, 5, 3])
    assert told.means["busy"] == pytest.approx([1, 4, 3])
    assert course([]).hours == []


def test_trainings_by_their_records() -> None:
    """Two epochs of 2 s; a stop; a third of 4 s."""
    history = CellHistory("c")
    trial = history.trials["k"] = TrialHistory("k", 0, "paper", {}, 0)
    trial.times, trial.curves = array("q", [10_000, 13_000, 900_000]), {"cost/seconds": array("d", [2, 2, 4])}
    assert trained([history]) == [Span(13_000, 5, busy=4), Span(900_000, 4, busy=4)]
    assert course(trained([history]), parts=3).means["busy"] == pytest.approx([4 / 5, (2 * 4 / 5 + 1) / 3, 1])


def test_what_a_driver_tells_is_read_again_and_nothing_else(tmp_path: Path) -> None:
    file = usage.file_of(tmp_path, 7)
    usage.append(file, SECOND)
    with file.open("a") as out:
        out.write(
            '{"time":1,"seconds":1,"places":"x"}\n[]\n{"time":1,"seconds":0}\n{"time":2,"seconds":1,"new":3}\n{"time":30,'
        )
    usage.append(file.with_name("other.jsonl"), FIRST)
    assert usage.read(tmp_path) == [Span(2, 1), FIRST, SECOND]
    assert usage.read(tmp_path / "none") == []
