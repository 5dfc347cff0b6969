"""Replays of recorded trials: the real search on curves that are known, so that what it must find is known, too."""

import csv
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from searched import CELL, accuracy, opened, train
from searched import study as told

from raystudy import cli
from raystudy.design.space import Dimension, coordinates, distances
from raystudy.errors import InputError
from raystudy.record.ledger import TrialHistory
from raystudy.tools import simulate
from raystudy.tools.simulate import Options, expected_epochs, recorded, replay

RANDOM = Options(("random",), ("none", "asha"), 4, 0.0)


def recorded_study(folder: Path, trials: int = 16, scheduler: str = "none", score: Any = accuracy) -> Path:
    """A study of one cell that is run to its end; best near p_threshold 0.6."""
    study = told(name=folder.name, trials=trials, scheduler=scheduler, sampler="random", replicates=1)
    search = opened(folder, study)
    (folder / "study.toml").write_text(study.to_toml())
    train(search, score)
    search.ledger.close()
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_study(tmp_path_factory.mktemp("studies") / "s")


def test_every_search_finds_the_best_recorded_point_and_counts_what_it_cost(study: Path) -> None:
    rows = simulate.simulate(study, RANDOM)
    assert len(rows) == 8
    curves = [
        list(t.curves["val/acc"])
        for t in simulate.load.study(study)[1][CELL].trials.values()
        if t.origin != "replicate"
    ]
    winner = max(statistics.fmean(c[-3:]) for c in curves)
    for r in rows:
        assert r.winner == pytest.approx(winner)
        assert (r.pool, r.censored) == (16, 0)
        assert 1 <= r.trials <= 16
        if r.scheduler == "none":
            assert r.found
            assert r.best == r.winner
            assert r.epochs == 27 * r.trials
        else:
            assert r.epochs <= 27 * r.trials
    whole, cut = ([r for r in rows if r.scheduler == s] for s in ("none", "asha"))
    assert sum(r.epochs / r.trials for r in cut) < sum(r.epochs / r.trials for r in whole)
    assert len({r.trials for r in whole}) > 1  # fresh seeds are other searches
    assert rows == simulate.simulate(study, RANDOM)
    assert "4 repeats are too few" in simulate.verdict(rows)


def test_a_wide_epsilon_is_met_at_once(study: Path) -> None:
    (row,) = simulate.simulate(study, Options(("random",), ("none",), 1, 1.0))
    assert (row.trials, row.epochs, row.found) == (1, 27, True)


def test_the_test_set_is_not_looked_at(study: Path, tmp_path: Path) -> None:
    other = tmp_path / "s"
    (other / "cells").mkdir(parents=True)
    (other / "study.toml").write_bytes((study / "study.toml").read_bytes())
    for file in (study / "cells").iterdir():
        (other / "cells" / file.name).write_text(file.read_text().replace('"test/acc":0.5', '"test/acc":null'))
    assert "null" in next((other / "cells").iterdir()).read_text()
    assert simulate.simulate(other, RANDOM) == simulate.simulate(study, RANDOM)


def test_a_censored_trial_ends_where_its_curve_ends_and_never_wins(tmp_path: Path) -> None:
    folder = recorded_study(tmp_path / "s", 20, "asha")
    study, histories = simulate.load.study(folder)
    pool = recorded(study, histories[CELL])
    cut = [t for t in pool if t.state == "pruned"]
    assert cut
    assert len(pool) == 20
    assert pool[0].origin == "paper"
    row = replay(study, CELL, pool, "random", "none", 0, 0.0)
    assert row.found
    assert row.censored == len(cut)
    worst = replay(study, CELL, [*cut, next(t for t in pool if t.state == "complete")], "random", "none", 0, 0.0)
    assert worst.found
    assert worst.epochs <= sum(t.epochs for t in cut) + 27


def test_diverged_points_are_replayed_as_such(tmp_path: Path) -> None:
    def score(point: dict[str, Any], seed: int, epoch: int) -> float:
        return math.nan if point["p_threshold"] > 0.5 and epoch == 2 else accuracy(point, seed, epoch)

    folder = recorded_study(tmp_path / "s", 12, score=score)
    study, histories = simulate.load.study(folder)
    pool = recorded(study, histories[CELL])
    gone = [t for t in pool if t.state == "diverged"]
    assert gone
    row = replay(study, CELL, pool, "qmc", "none", 0, -1.0)  # what cannot be met: the whole pool is tried
    assert not row.found
    assert row.trials == 12
    assert row.epochs == 27 * (12 - len(gone)) + 3 * len(gone)


def test_several_workers_are_counted_in_virtual_time(study: Path) -> None:
    """Without early stopping all trials are 27 epochs long: three begin at once, and when the winner ends two others run."""
    told = simulate.options("random", "none", 4, 0.0, 3, "1,batches")
    rows = simulate.simulate(study, told)
    alone = {r.repeat: r for r in simulate.simulate(study, Options(("random",), ("none",), 4, 0.0))}
    assert {r.order for r in rows} == {"slack 1", "batches"}
    for r in rows:
        first = alone[r.repeat].trials  # the random sampler sees nothing: the winner has the same number
        assert r.found
        assert r.best == r.winner
        assert r.trials == min(16, math.ceil(first / 3) * 3)
        assert r.epochs == 27 * r.trials


def test_what_is_no_slack_and_no_number_of_workers() -> None:
    assert simulate.options("tpe", "asha", 1, 0.0, 2, "1.5, batches").orders == (1.5, 0.0)
    for wrong in ("0", "-1", "nan", "inf", "much", "", "101"):
        with pytest.raises(InputError, match=f"--slack is '{wrong}'; it must be above 0 and at most 100, or batches"):
            simulate.options("tpe", "asha", 1, 0.0, 2, wrong)
    with pytest.raises(InputError, match="--workers is 0"):
        simulate.options("tpe", "asha", 1, 0.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_model_based_samplers_replay_too(study: Path, sampler: str) -> None:
    rows = simulate.simulate(study, Options((sampler,), ("none",), 2, 0.0))
    assert all(r.found for r in rows)


def distance(dimensions: tuple[Dimension, ...], a: dict[str, Any], b: dict[str, Any]) -> float:
    return float(distances(dimensions, *(coordinates(dimensions, [p]) for p in (a, b)))[0, 0])


def test_distance_by_hand() -> None:
    dimensions = (
        Dimension("a", 0.0, 2.0),
        Dimension("b", 1.0, 100.0, log=True, or_zero=True),
        Dimension("c", choices=("x", "y")),
    )
    start = {"a": 0.5, "b": 1.0, "c": "x"}
    assert distance(dimensions, start, start) == 0
    assert distance(dimensions, start, start | {"a": 1.5}) == pytest.approx(0.25)
    assert distance(dimensions, start, start | {"b": 10.0}) == pytest.approx(0.25)
    assert distance(dimensions, start, start | {"b": 0.0}) == 1
    assert distance(dimensions, start, {"a": 2.5, "b": 0.0, "c": "y"}) == pytest.approx(3)


def test_expected_epochs_by_hand() -> None:
    def row(found: bool, epochs: int) -> simulate.Replay:
        return simulate.Replay("c", "l", "m", "tpe", "none", 0, 9, 0, found, 1, epochs, 0.5, 0.5)

    assert expected_epochs([row(True, 10), row(True, 20)]) == 15
    assert expected_epochs([row(True, 10), row(False, 30)]) == 40
    assert expected_epochs([row(False, 30)]) == math.inf


def searches(costs: dict[str, list[list[int]]], missed: int = -1) -> list[simulate.Replay]:
    """Searches by name, each with the epochs of its repeats in each cell; in cell ``missed`` none is found."""
    return [
        simulate.Replay(f"c{c}", "l", "m", name, "none", i, 9, 0, c != missed, 1, epochs, 0.5, 0.5)
        for name, cells in costs.items()
        for c, repeats in enumerate(cells)
        for i, epochs in enumerate(repeats)
    ]


def test_a_difference_within_the_spread_names_no_winner() -> None:
    spread = [40, 80, 100, 120, 160, 60, 140, 90, 110, 100]
    near = searches({"tpe": [spread, spread], "gp": [[e * 103 // 100 for e in reversed(spread)]] * 2})
    first, second = simulate.standings(near)
    assert (first.search, first.ratio) == ("tpe + none", 1)
    assert second.ratio == pytest.approx(1.03, abs=0.005)
    assert second.low < 1 < second.high
    assert second.level
    told = simulate.verdict(near)
    assert told.startswith("no single winner: tpe + none is ahead, but not beyond chance: gp + none took 1.03 x (0.")


def test_a_difference_beyond_the_spread_names_the_winner() -> None:
    spread = [40, 80, 100, 120, 160, 60, 140, 90, 110, 100]
    far = searches({"gp": [[3 * e for e in reversed(spread)]] * 2, "tpe": [spread, spread]})
    _, second = simulate.standings(far)
    assert second.ratio == pytest.approx(3)
    assert 1 < second.low < 3 < second.high
    assert simulate.verdict(far).startswith("soonest: tpe + none; the next, gp + none took 3.00 x (")


def test_searches_that_are_the_same_are_seldom_told_apart() -> None:
    """Four searches that differ by chance alone: one is named the soonest in about one study of twenty at most."""
    draw = np.random.default_rng(1)
    told = [
        simulate.verdict(
            searches({s: draw.geometric(0.05, size=(n, 10)).tolist() for s in ("tpe", "gp", "qmc", "random")})
        )
        for n in (1, 3)
        for _ in range(50)
    ]
    assert sum(t.startswith("soonest") for t in told) <= 5


def test_a_search_that_never_finds_a_winner_loses_and_a_cell_without_one_tells_nothing() -> None:
    good = searches({"tpe": [[20, 21, 22, 23, 24]] * 2}, missed=1)
    never = [replace(r, sampler="gp", found=False) for r in good]
    first, second = simulate.standings(never + good)
    assert (first.search, second.search) == ("tpe + none", "gp + none")
    assert math.isinf(second.ratio)
    assert not second.level
    assert (
        simulate.verdict(never + good) == "soonest: tpe + none; the next, gp + none never found the winner of some cell"
    )
    assert simulate.verdict(never) == "no search found a winner"
    assert simulate.verdict(good) == "soonest: tpe + none, the only search"


def test_the_command(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.csv"
    argv = ["simulate", "s", "--storage", str(study.parent), "--samplers", "random,qmc", "--schedulers", "none"]
    assert cli.main([*argv, "--repeats", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "random + none" in shown
    assert "2 repeats are too few" in shown
    with out.open() as f:
        rows = list(csv.DictReader(f))
    assert [(r["sampler"], r["repeat"]) for r in rows] == [("random", "0"), ("random", "1"), ("qmc", "0"), ("qmc", "1")]
    for wrong, words in (
        (["--samplers", "tpo"], "unknown sampler 'tpo'; did you mean 'tpe'"),
        (["--schedulers", ""], "unknown scheduler ''; choose from: asha, none"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--epsilon", "-1"], "--epsilon is -1"),
        (["--out", str(tmp_path / "no" / "x.csv")], "cannot write"),
    ):
        assert cli.main([*argv, "--repeats", "1", *wrong]) == 2
        assert words in capsys.readouterr().err


def test_nothing_to_find(tmp_path: Path) -> None:
    folder = recorded_study(tmp_path / "s", 2)
    with pytest.raises(InputError, match="no cell with 3 recorded points"):
        simulate.simulate(folder, RANDOM)


def test_one_point_twice_is_one(tmp_path: Path) -> None:
    folder = recorded_study(tmp_path / "s", 3)
    study, histories = simulate.load.study(folder)
    trials = histories[CELL].trials
    first = next(iter(trials.values()))
    trials["again"] = TrialHistory("again", 9, "search", first.point, 0, state="complete", curves=first.curves)
    assert [t.number for t in recorded(study, histories[CELL])] == [0, 1, 2]


def test_the_nearest_untried_point_is_that_of_the_distance() -> None:
    """Of all at once as of one by one, with zeros that stand for themselves and choices."""
    space = simulate.space.load("dividemix")
    draw = np.random.default_rng(0)

    def point() -> dict[str, Any]:
        out = {}
        for d in space.dimensions:
            if d.choices:
                out[d.name] = d.choices[draw.integers(len(d.choices))]
            else:
                low, high = (math.log(v) if d.log else v for v in (d.low, d.high))
                v = draw.uniform(low, high)
                out[d.name] = 0.0 if d.or_zero and draw.random() < 0.4 else math.exp(v) if d.log else v
        return out

    points = tuple(point() for _ in range(20))
    history = simulate.CellHistory("c")
    pool = simulate.Pool(space.method, space.dimensions, (), {}, points=points, history=history)
    for i in range(20):
        asked = point()
        tried = [t.point for t in history.trials.values()]
        want = min((p for p in points if p not in tried), key=lambda p: distance(space.dimensions, asked, p))
        assert pool.nearest(asked) == want
        history.trials[str(i)] = TrialHistory(str(i), i, "search", want, 0)
    assert pool.nearest(points[3]) == points[3]  # all tried: again


def test_a_replay_begins_with_what_it_starts_from_and_ends_at_its_goal(study: Path) -> None:
    told, histories = simulate.load.study(study)
    pool = recorded(told, histories[CELL])
    best = max(pool, key=lambda t: simulate.value(t, "val/acc"))
    r = replay(told, CELL, pool, "random", "none", 0, 0.0, starts=[best.point])
    assert r.found
    assert r.trials == (1 if best is pool[0] else 2)
    r = replay(told, CELL, pool, "random", "none", 0, 0.0, goal=2.0, most=5)
    assert (r.found, r.trials) == (False, 5)
