"""Importance, response surfaces and recommendations, where the right answer is known."""

import pytest
import recorded

from analysis import load
from analysis.surfaces import FEW, Axis, Level, axes, importance, leave_one_out, recommend, surfaces
from raystudy.record.ledger import CellHistory, TrialHistory

TAU = Axis("tau", 0.0, 1.0)
LAM = Axis("lam", 1.0, 100.0, log=True, or_zero=True)
MODE = Axis("mode", choices=("a", "b", "c"))


def level(rate: float, **point: object) -> Level:
    trial = TrialHistory("k", 0, "search", dict(point), 0)
    return Level(rate, trial, None, [trial], [trial])


@pytest.mark.parametrize("axis", [TAU, LAM, Axis("n", 1, 9, integer=True), Axis("w", 0.01, 10.0, log=True)])
def test_unit_and_value_are_inverse(axis: Axis) -> None:
    for v in (axis.low, axis.high, *([0.0] if axis.or_zero else [])):
        assert axis.value(axis.unit(v)) == pytest.approx(v)
    assert axis.unit(axis.low) == 0
    assert axis.unit(axis.high) == 1


def test_a_recommendation_is_interpolated_on_the_scale_of_the_space() -> None:
    levels = [level(0.2, tau=0.2, lam=1.0, mode="a"), level(0.6, tau=0.6, lam=100.0, mode="c")]
    told = recommend([TAU, LAM, MODE], levels, 0.4)
    assert told["tau"] == pytest.approx(0.4)
    assert told["lam"] == pytest.approx(10.0)  # the geometric mean
    assert recommend([MODE], levels, 0.3)["mode"] == "a"  # a choice is the nearer level's
    assert recommend([MODE], levels, 0.5)["mode"] == "c"


def test_beyond_the_outermost_levels_and_beside_the_extra_zero_nothing_is_invented() -> None:
    levels = [level(0.2, tau=0.2, lam=0.0), level(0.6, tau=0.6, lam=100.0)]
    assert recommend([TAU], levels, 0.9)["tau"] == pytest.approx(0.6)
    assert recommend([TAU], levels, 0.0)["tau"] == pytest.approx(0.2)
    assert recommend([LAM], levels, 0.3)["lam"] == 0.0
    assert recommend([LAM], levels, 0.5)["lam"] == 100.0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("s") / "many"
    recorded.write(folder, ("ce", "elr"), (0.2, 0.4, 0.6, 0.8), trials=30, replicates=0, epochs=2)
    return load.study(folder)[1]


def test_importance_finds_the_hyperparameter_that_matters(study: dict) -> None:
    cells = [h for c, h in study.items() if c.method == "elr"]
    for told in (importance(cells), importance(cells[:1])):
        assert set(told) == {"tau", "lam", "mode"}
        assert told["tau"] > told["mode"]
        assert sum(told.values()) == pytest.approx(1)
    assert importance([h for c, h in study.items() if c.method == "ce"]) == {}


def test_of_few_trials_nothing_is_said(study: dict) -> None:
    cell = next(h for c, h in study.items() if c.method == "elr")
    few = CellHistory("c", cell.header, dict(list(cell.trials.items())[: FEW - 1]))
    assert importance([few]) == {}


def test_the_surface_follows_the_noise_rate_and_its_recommendation_does_well(study: dict) -> None:
    (surface,) = surfaces(study)  # ce has nothing to search
    assert [a.name for a in surface.axes] == ["tau", "lam", "mode"]
    for lv in surface.levels:
        assert lv.best.point["tau"] == pytest.approx(lv.rate, abs=0.15)  # the fake's best tau is the rate
    told = leave_one_out(surface)
    assert [t.rate for t in told] == [0.2, 0.4, 0.6, 0.8]
    assert [t.inside for t in told] == [False, True, True, False]
    for t in told[1:3]:
        assert t.point["tau"] == pytest.approx(t.rate, abs=0.15)
        assert 0 <= t.distance < 0.4
        assert t.predicted == pytest.approx(t.tuned, abs=0.12)


def test_a_ledger_without_the_space_gets_the_range_that_was_tried(study: dict) -> None:
    cells = [CellHistory("c", {}, h.trials) for c, h in study.items() if c.method == "elr"]
    found = {a.name: a for a in axes(cells)}
    assert found["tau"].high <= 0.9
    assert found["lam"].log
    assert found["lam"].or_zero
    assert set(found["mode"].choices) == {"soft", "hard"}
    assert set(importance(cells)) == {"tau", "lam", "mode"}


def test_two_levels_are_too_few_to_leave_one_out(study: dict) -> None:
    two = {c: h for c, h in study.items() if c.noise.rate < 0.5}
    (surface,) = surfaces(two)
    assert leave_one_out(surface) == []
