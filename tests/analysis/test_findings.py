"""What a study says about the field, on numbers worked out by hand; and the reference studies that come with raystudy can be read."""

import math
from array import array

import pytest
from scipy import stats

from analysis.findings import agreement, fitted, peeking
from raystudy.record.ledger import CellHistory, TrialHistory


def trial(number: int, val: list[float], test: list[float], origin: str = "search") -> TrialHistory:
    curves = {"val/acc": array("d", val), "test/acc": array("d", test)}
    return TrialHistory(
        f"k{number}",
        number,
        origin,
        {"a": number},
        0,
        state="complete",
        times=array("q", [0] * len(val)),
        curves=curves,
    )


def test_peeking_by_hand() -> None:
    cell = CellHistory("c", {"objective": "val/acc"})
    cell.trials["k0"] = trial(0, [0.5, 0.6], [0.70, 0.60], "paper")  # chosen: best last validation
    cell.trials["k1"] = trial(1, [0.6, 0.4], [0.65, 0.90])  # its best validation epoch has .65, its best test epoch .90
    cell.trials["k2"] = trial(2, [0.9, 0.9], [1.0, 1.0], "replicate")  # no part of the search
    told = peeking(cell)
    assert told == pytest.approx((0.60, 0.70, 0.65, 0.90))
    assert told.gains == pytest.approx((0.10, 0.05, 0.30))


def test_peeking_of_nothing() -> None:
    assert all(math.isnan(v) for v in peeking(CellHistory("c")))


def test_agreement_by_hand() -> None:
    ours = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6, "alone": 0.1}
    theirs = {"a": 90.0, "b": 70.0, "c": 80.0, "d": 60.0}  # one of six pairs is the other way round
    told = agreement(ours, theirs)
    assert told.tau == pytest.approx(4 / 6)
    assert told.n == 4
    assert told.low <= told.tau <= told.high == 1
    assert agreement(ours, {m: -v for m, v in theirs.items()}).tau == pytest.approx(-4 / 6)


def test_agreement_of_ties_is_scipys() -> None:
    ours, theirs = {"a": 1.0, "b": 1.0, "c": 0.5, "d": 0.2}, {"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0}
    assert agreement(ours, theirs).tau == pytest.approx(
        stats.kendalltau(list(ours.values()), list(theirs.values())).statistic
    )


def test_agreement_needs_three() -> None:
    assert math.isnan(agreement({"a": 1, "b": 2}, {"a": 1, "b": 2}).tau)


def test_convergence_time() -> None:
    start = math.log(10)
    goal = 0.05 * start
    assert fitted([start, start / 2, goal], 10) == 3
    assert fitted([goal - (start - goal)], 10) == pytest.approx(0.5)  # half way down its first epoch
    assert fitted([start, 2 * goal, 0.0], 10) == pytest.approx(2.5)
    assert fitted([1.0, 0.9], 10) == math.inf
