"""Which models stay: decided from the ledger and from what is there, whenever a trial ends and whenever a study is opened."""

from pathlib import Path
from typing import Any

import pytest
from searched import CELL, opened, study, train

from analysis.select import standing, winners
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.record import models
from raystudy.record.ledger import CellHistory, TrialHistory
from raystudy.running.keeping import licence, surplus


def cell(*trials: tuple[str, str, str, float]) -> CellHistory:
    """A history of trials: key, origin, state and noisy validation accuracy."""
    made = CellHistory("c")
    for number, (key, origin, state, val) in enumerate(trials):
        trial = TrialHistory(key, number, origin, {"a": 1.0}, number, state=state)
        trial.add([{"val/acc": val, "test/acc": 1 - val}], [0])  # the test set says the contrary
        made.trials[key] = trial
    return made


SOME = cell(
    ("p", "paper", "complete", 0.9),
    ("s", "search", "pruned", 0.95),
    ("t", "search", "complete", 0.8),
    ("r1", "replicate", "complete", 0.6),
    ("r2", "replicate", "complete", 0.7),
    ("r3", "replicate", "running", 0.99),
)


def test_the_best_replicate_stands_for_a_cell_by_noisy_validation() -> None:
    found = standing(SOME)
    assert found is not None
    assert found.key == "r2"
    searched = standing(SOME, {"p", "s", "t"})
    assert searched is not None
    assert searched.key == "p"  # no replicate is there; one that was pruned does not count
    assert standing(SOME, {"s", "r3"}) is None


def test_what_goes_and_what_stays() -> None:
    every = set(SOME.trials)
    assert surplus(SOME, every, "best") == {"p", "s", "t", "r1"}  # not r3, which runs
    assert surplus(SOME, {"p", "t"}, "best") == {"t"}
    assert surplus(SOME, {"s", "r3", "stranger"}, "best") == set()  # nothing takes its place
    for keeps in ("all", "none"):
        assert surplus(SOME, every, keeps) == {"s"}  # it trained on past the rung that stopped it


def test_the_winner_of_a_condition() -> None:
    told = {"a": ("x", 0.5), "b": ("x", 0.7), "c": ("y", 0.1), "d": ("y", float("nan"))}
    assert winners(told) == {"b", "c"}


def leaving(search: Any, folder: Path) -> None:
    """Trains as ``searched.train`` does, each trial leaving its files before its end is told."""
    told = search.report

    def report(key: str, start: int, *more: Any) -> bool:
        if start == search.epochs - 1:
            for end in models.ENDINGS:
                file = models.folder(folder, search.cell.key) / f"{key}{end}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(key)
        return bool(told(key, start, *more))

    search.report = report


@pytest.mark.parametrize("stop", [9**9, 40, 120, 200])
def test_a_cell_ends_with_one_model_however_often_its_driver_was_killed(stop: int, tmp_path: Path) -> None:
    told = study(trials=4, replicates=2)
    for round_ in range(8):
        search = opened(tmp_path, told)
        search.tidy()
        leaving(search, tmp_path)
        left = [stop]

        def over(left: list[int] = left, last: bool = round_ == 7) -> bool:
            left[0] -= 1
            return left[0] < 0 and not last

        train(search, stop=over)
        done = search.finished()
        search.ledger.close()
        if done:
            break
    assert done
    best = standing(search.history)
    assert best is not None
    assert best.origin == "replicate"
    assert models.here(tmp_path, CELL.key) == {best.key}
    again = opened(tmp_path, told)  # a restart of a finished study
    again.tidy()
    assert models.here(tmp_path, CELL.key) == {best.key}


def test_what_a_study_was_begun_with_holds_until_something_else_is_said() -> None:
    assert study().keeps == "best"
    assert study().grown_from(study(keep_models="all")).keeps == "all"
    assert study(keep_models="none").grown_from(study(keep_models="all")).keeps == "none"
    with pytest.raises(InputError, match=r"unknown keep-models 'some'; .*all, best, none"):
        study(keep_models="some")


def test_it_is_recorded_and_read_from_a_study_of_before(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(study(keep_models="all").to_toml())
    assert Study.from_toml(file).keeps == "all"
    file.write_text(study().to_toml().replace('keep_models = ""\n', ""))
    assert Study.from_toml(file) == study()


def test_licences() -> None:
    assert licence("digits") == "CC BY 4.0"
    assert licence("digits?pad=0") == "CC BY 4.0"
    assert "own data" in licence("npz:/x/y.npz")
