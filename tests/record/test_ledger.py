"""The ledger: what is appended is read back, what is torn is dropped, what is told twice is told once."""

import json
import math
import multiprocessing
from pathlib import Path

import pytest

from raystudy.errors import InputError
from raystudy.record.ledger import CellHistory, Ledger, is_running, replay

TRIAL = {"event": "trial", "key": "k", "number": 0, "origin": "paper", "point": {"a": 1.0}, "seed": 0}


def record(epoch: int, **metrics: float | None) -> dict:
    return {"event": "record", "key": "k", "epoch": epoch, "metrics": metrics}


def test_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open("c", {"cell": {"method": "ce"}})
    ledger.append("c", TRIAL, record(0, acc=0.5), record(1, acc=0.75, auroc=None))
    ledger.append("c", {"event": "end", "key": "k", "state": "complete"})
    for cell in (ledger.histories["c"], replay(tmp_path / "cells" / "c.jsonl")):
        trial = cell.trials["k"]
        assert cell.header["cell"] == {"method": "ce"}
        assert (trial.origin, trial.point, trial.state, trial.epochs) == ("paper", {"a": 1.0}, "complete", 2)
        assert list(trial.curves["acc"]) == [0.5, 0.75]
        assert math.isnan(trial.curves["auroc"][0])
        assert len(trial.curves["auroc"]) == 2


def test_told_twice_is_written_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open("c", {})
    ledger.append("c", TRIAL, record(0, acc=0.5))
    ledger.append("c", TRIAL, record(0, acc=0.5), record(2, acc=0.9), record(1, acc=0.6))
    lines = (tmp_path / "cells" / "c.jsonl").read_text().splitlines()
    assert [json.loads(line).get("epoch") for line in lines] == [None, None, 0, 1]


def test_replay_is_the_events_applied_one_by_one(tmp_path: Path) -> None:
    """Interleaved trials, metrics that come and go, records told twice or out of turn, records after the end."""
    second = TRIAL | {"key": "l"}
    events_ = [
        {"event": "cell", "cell": {}},
        TRIAL,
        record(0, acc=0.5, loss=1.0),
        second,
        record(0, acc=0.4) | {"key": "l"},
        record(0, acc=0.9, loss=9.0),
        record(1, acc=0.6),
        record(1, acc=None) | {"key": "l"},
        record(3, acc=0.9),
        record(2, acc=0.7, late=3.0),
        {"event": "end", "key": "k", "state": "complete"},
        record(3, acc=1.0),
    ]
    path, want = tmp_path / "c.jsonl", CellHistory("c")
    told = [{**e, "time": 10 + i} for i, e in enumerate(events_)]
    path.write_text("".join(json.dumps(e) + "\n" for e in told))
    for event in told:
        want.apply(event)
    found = replay(path)
    assert repr(found) == repr(want)  # NaN is not equal to itself
    assert list(found.trials["k"].curves["acc"]) == [0.5, 0.6, 0.7]
    assert [math.isnan(v) for v in found.trials["k"].curves["late"]] == [True, True, False]
    few = replay(path, only=("acc",))
    assert set(few.trials["k"].curves) == {"acc"}
    assert few.trials["k"].times == found.trials["k"].times


def test_torn_last_line_is_dropped_and_cut(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.open("c", {})
    ledger.append("c", TRIAL, record(0, acc=0.5))
    ledger.close()
    path = tmp_path / "cells" / "c.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"record","ke')
    assert replay(path).trials["k"].epochs == 1
    ledger = Ledger(tmp_path)
    ledger.open("c", {})
    ledger.append("c", record(1, acc=0.6))
    assert path.read_bytes().startswith(whole + b'{"event":"record"')
    assert replay(path).trials["k"].epochs == 2


def test_broken_line_in_the_middle_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"event":"cell","time":1}\nnot json\n{"event":"cell","time":1}\n')
    with pytest.raises(InputError, match=r"c\.jsonl: broken ledger line"):
        replay(tmp_path / "c.jsonl")
    (tmp_path / "d.jsonl").write_text('{"event":"record","time":1,"key":"nobody","epoch":0,"metrics":{}}\n')
    with pytest.raises(InputError, match="not a ledger file"):
        replay(tmp_path / "d.jsonl")


def _hold(folder: Path, ready: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    ledger = Ledger(folder)
    ready.set()
    done.wait(30)
    ledger.close()


def test_only_one_driver(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, done))
    other.start()
    assert ready.wait(60)
    assert is_running(tmp_path)
    with pytest.raises(InputError, match=f"being run by process {other.pid}"):
        Ledger(tmp_path)
    done.set()
    other.join()
    assert not is_running(tmp_path)
    Ledger(tmp_path).close()
