"""The search of a cell on the real ledger and real Optuna; trainings are replaced by a formula of (point, epoch)."""

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from searched import CELL, opened, spec, study, train

from analysis.select import chosen, replicates
from raystudy.data.noise import Noise
from raystudy.design.names import SAMPLERS
from raystudy.design.space import Space, load
from raystudy.design.study import Cell, Study
from raystudy.learn.recipe import Recipe
from raystudy.record.ledger import Ledger, replay
from raystudy.running.search import CellSearch
from raystudy.running.tune import RETRIES, CellScheduler, StudySearch

optuna.logging.set_verbosity(optuna.logging.ERROR)


def outcome(path: Path) -> list[Any]:
    """Everything that matters in a cell's ledger, without the clock and the order of arrival."""
    trials = replay(path).trials.values()
    return sorted(
        (
            t.number,
            t.origin,
            sorted(t.point.items()),
            t.seed,
            t.state,
            t.reason,
            {k: list(v) for k, v in t.curves.items()},
        )
        for t in trials
    )


def ledger_file(folder: Path) -> Path:
    return folder / "cells" / f"{CELL.key}.jsonl"


def test_trial_0_is_the_published_point(tmp_path: Path) -> None:
    search = opened(tmp_path, study())
    first = search.searched()[0]
    assert first.origin == "paper"
    assert first.number == 0
    assert first.point["lambda_u"] == 25
    assert first.point == search.paper_point


def test_a_study_goes_on_with_the_point_that_it_began_with(tmp_path: Path) -> None:
    """Not with what is published by the time it goes on: rungs, replicates and what was read off the truth are of one point."""
    began = opened(tmp_path, study())
    began.ledger.close()
    newer = load("dividemix")
    newer = replace(
        newer, papers=tuple(replace(p, point=p.point | {"warmup": 0.5}, oracle=("alpha",)) for p in newer.papers)
    )
    assert newer.paper(CELL.dataset, CELL.noise)[0] != began.paper_point
    ledger = Ledger(tmp_path)
    search = CellSearch(study(), CELL, newer, ledger, ledger.open(CELL.key, {"cell": CELL.to_dict()}), spec)
    assert (search.paper_point, search.oracle, search.rungs) == (began.paper_point, began.oracle, began.rungs)
    train(search)
    published = [t for t in search.history.trials.values() if t.point == began.paper_point]
    assert {t.origin for t in published} == {"paper", "replicate"}
    assert {t.oracle for t in published} == {began.oracle}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_whole_search(tmp_path: Path, sampler: str) -> None:
    search = opened(tmp_path, study(sampler=sampler))
    train(search)
    trials = search.searched()
    assert [t.number for t in trials] == list(range(8))
    assert len({str(t.point) for t in trials}) == 8
    assert all(t.state in ("complete", "pruned") for t in trials)
    replicates = [t for t in search.history.trials.values() if t.origin == "replicate"]
    assert {t.seed for t in replicates} == {1, 2}
    assert all(t.state == "complete" for t in replicates)
    assert search.finished()
    assert search.remaining() == 0


def test_pruned_trials_are_told_with_their_curve_and_none_lingers(tmp_path: Path) -> None:
    search = opened(tmp_path, study(trials=12))
    train(search)
    by_key = {t.user_attrs["raystudy.key"]: t for t in search.optuna.trials if t.state != TrialState.FAIL}
    states = set()
    for trial in search.searched():
        told = by_key[trial.key]
        states.add(trial.state)
        assert told.state == {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}[trial.state]
        assert told.intermediate_values == dict(enumerate(trial.curves["val/acc"]))
        if trial.state == "complete":
            assert told.value == pytest.approx(sum(trial.curves["val/acc"][-3:]) / 3)  # last tenth of 27, rounded up
        else:
            assert trial.epochs in search.rungs
            assert "best third" in trial.reason
    assert states == {"complete", "pruned"}
    assert not [t for t in search.optuna.trials if t.state == TrialState.RUNNING]


def test_diverged_and_failed_trials_fail_in_optuna(tmp_path: Path) -> None:
    search = opened(tmp_path, study(trials=4))

    def score(point: dict[str, Any], seed: int, epoch: int) -> float:
        return math.nan if point != search.paper_point and epoch == 2 else 0.5

    train(search, score)
    assert [t.state for t in search.searched()] == ["complete", "diverged", "diverged", "diverged"]
    ours = [
        t.state for t in search.optuna.trials if "raystudy.key" in t.user_attrs
    ]  # others gave a point and were let go
    assert ours == [TrialState.COMPLETE, *3 * [TrialState.FAIL]]
    assert not [t for t in search.optuna.trials if t.state == TrialState.RUNNING]
    assert search.finished()


def test_rungs_begin_after_warm_up_and_ramp(tmp_path: Path) -> None:
    search = opened(tmp_path, study())
    settled = load("dividemix").settled(search.paper_point)
    assert search.rungs[0] >= settled * 27
    slow = next(t for t in search.history.trials.values())
    slow.point |= {"warmup": 0.9}
    search._settled.clear()
    assert search._pruned(slow) == ""


def test_cells_are_never_compared(tmp_path: Path) -> None:
    """Hopeless accuracies in one cell are its best: nothing is pruned because another noise level does better."""
    ledger = Ledger(tmp_path)
    cells = [Cell("dividemix", "digits", Noise("symmetric", r)) for r in (0.2, 0.8)]
    good, bad = (
        CellSearch(study(trials=3), c, load("dividemix"), ledger, ledger.open(c.key, {"cell": c.to_dict()}), spec)
        for c in cells
    )
    train(good, lambda p, s, e: 0.9 + e / 1000)
    train(bad, lambda p, s, e: 0.1 + e / 1000)
    assert all(t.state == "complete" for t in bad.searched())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_killed_at_any_moment_ends_the_same(tmp_path: Path, sampler: str, batch: int) -> None:
    """The ledger cut at random bytes, again and again, leads to the same trials, records and decisions as no kill."""
    told = study(sampler=sampler, batch=batch)
    train(opened(tmp_path / "whole", told))
    want = outcome(ledger_file(tmp_path / "whole"))
    rng = random.Random(f"{sampler}{batch}")
    for cut in range(6 if sampler == "gp" else 15):
        folder = tmp_path / str(cut)
        for _ in range(3):
            search = opened(folder, told)
            steps = rng.randrange(120)
            countdown = iter(range(steps))
            train(search, stop=lambda countdown=countdown: next(countdown, None) is None, shuffle=rng)
            search.ledger.close()
            size = ledger_file(folder).stat().st_size
            with ledger_file(folder).open("r+b") as f:
                f.truncate(max(size - rng.randrange(200), 0))
        search = opened(folder, told)
        train(search, shuffle=rng)
        assert outcome(ledger_file(folder)) == want
        search.ledger.close()


def test_growing_runs_only_what_is_missing(tmp_path: Path) -> None:
    search = opened(tmp_path, study(trials=4, replicates=1))
    train(search)
    before = {k: t.ended for k, t in search.history.trials.items()}
    search.ledger.close()
    again = opened(tmp_path, study(trials=4, replicates=1))
    assert again.finished()
    again.ledger.close()
    grown = opened(tmp_path, study(trials=7, replicates=3))
    assert not grown.finished()
    train(grown)
    assert len(grown.searched()) == 7
    assert {k: grown.history.trials[k].ended for k in before} == before
    assert len([t for t in grown.history.trials.values() if t.origin == "replicate"]) >= 3


def test_a_finished_last_epoch_without_its_end_is_ended_on_restart(tmp_path: Path) -> None:
    search = opened(tmp_path, study(trials=1, replicates=0))
    train(search)
    search.ledger.close()
    lines = ledger_file(tmp_path).read_text().splitlines(keepends=True)
    assert '"end"' in lines[-1]
    ledger_file(tmp_path).write_text("".join(lines[:-1]))
    assert opened(tmp_path, study(trials=1, replicates=0)).searched()[0].state == "complete"


def test_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    """A space of three points yields three trials, however many are asked for."""
    from raystudy.design.space import Dimension, Space

    ledger = Ledger(tmp_path)
    space = Space("dividemix", (Dimension("loss_history", choices=(1, 5, 10)),), (), {})
    search = CellSearch(study(trials=9, scheduler="none"), CELL, space, ledger, ledger.open(CELL.key, {}), spec)
    train(search, lambda p, s, e: 0.5)
    assert sorted(t.point["loss_history"] for t in search.searched()) == [1, 5, 10]
    assert search.finished()


# -- more epochs for what was chosen


def test_more_epochs_are_for_replicates_and_are_other_trials(tmp_path: Path) -> None:
    """The search stays as it was; of every replicate there is a longer one, and only that is reported."""
    train(begun := opened(tmp_path, study()))
    short = {t.key: t for t in begun.history.trials.values()}
    begun.ledger.close()
    search = opened(tmp_path, study(epochs=40).grown_from(study(), longer=True))
    assert search.study.epochs == 27
    assert search.study.final_epochs == 40
    fresh = [t for t in search.history.trials.values() if t.key not in short]
    assert [(t.origin, t.planned, t.seed) for t in fresh] == [("replicate", 40, s) for s in (1, 2, 1, 2)]
    assert {t.key for t in fresh} == {replace(spec(t.point, t.seed), epochs=40).key for t in fresh}
    assert search.remaining() == 4 * 40
    chosen_ = chosen(search.history)
    assert replicates(search.history, chosen_) == []  # nothing of 27 epochs among those of 40
    train(search)
    assert search.finished()
    assert {t.epochs for t in replicates(search.history, chosen_)} == {40}
    search.ledger.close()
    again = opened(tmp_path, study(epochs=40).grown_from(search.study, longer=True))
    assert again.finished()
    assert len(again.history.trials) == len(short) + 4


def test_more_epochs_go_on_from_the_checkpoint_of_fewer_and_then_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of replicates stay where the schedule does not hang on the epochs, and nowhere else; a driver that dies in between keeps
    them, too."""
    constant = Recipe(schedule="constant").to_dict()
    monkeypatch.setattr(Space, "settled", lambda self, point: 0.0)  # as a method without a warm-up

    def begun(told: Study) -> CellSearch:
        ledger = Ledger(tmp_path)
        history = ledger.open(CELL.key, {"cell": CELL.to_dict()})
        return CellSearch(
            told, CELL, load("dividemix"), ledger, history, lambda p, s: replace(spec(p, s), recipe=constant)
        )

    def checkpoints() -> set[str]:
        return {f.name for f in (tmp_path / "checkpoints").iterdir()}

    def left(search: CellSearch) -> None:
        """What workers leave beside the ledger."""
        for key in search.running:
            (tmp_path / "checkpoints" / f"{key}.pt").write_bytes(b"")

    (tmp_path / "checkpoints").mkdir()
    search = begun(study(trials=2))
    while not search.finished():
        left(search)
        search.started.clear()
        train(search, stop=iter([False] * 30 + [True]).__next__)
    short = {t.key: t for t in search.history.trials.values() if t.origin == "replicate"}
    assert checkpoints() == {f"{key}.pt" for key in short}
    search.ledger.close()
    search = begun(study(trials=2, epochs=40).grown_from(search.study, longer=True))
    for trial in search.running.values():
        found = search.shorter(trial)
        assert found is not None
        assert (found.point, found.seed, found.key in short) == (trial.point, trial.seed, True)
    left(search)
    train(search, stop=iter([False] * 50 + [True]).__next__)  # one has ended, a second has begun
    search.ledger.close()
    search = begun(search.study)
    train(search)
    longer = {t.key for t in search.history.trials.values() if t.planned}
    assert checkpoints() == {f"{key}.pt" for key in longer}


@pytest.mark.parametrize("recovers", [True, False], ids=["in training", "while it begins"])
def test_a_node_that_is_lost_is_no_failure_of_its_trial(recovers: bool, tmp_path: Path) -> None:
    """However often; a worker that dies by itself has so many tries. ``recovers``: Tune starts the trial again by itself."""
    cell = opened(tmp_path / "s", study(virtual_workers=1))
    searcher = StudySearch([cell], lambda cell, trial: {"whole": False})
    searcher.suggest("ray")
    key = searcher.live["ray"][1]
    scheduler, file = CellScheduler(searcher), tmp_path / "error.txt"
    trial = SimpleNamespace(
        trial_id="ray", status="ERROR" if recovers else "PENDING", ERROR="ERROR", max_failures=RETRIES
    )
    trial.error_file, trial.config, trial.num_failures = str(file), {"whole": False}, 1

    def dies(why: str) -> None:
        with file.open("a") as f:
            f.write(f"Failure # 1 (occurred at some time)\n{why}\n")
        cell.started.add(key)
        scheduler.on_trial_error(None, trial)

    for lost in range(1, RETRIES + 5):
        dies(
            "The actor died unexpectedly before finishing this task.\nThe actor died because its node has died. Node Id: 0a"
        )
        assert trial.max_failures == RETRIES + lost * recovers
        assert (key in cell.started) == recovers
    for _ in range(RETRIES + 1):
        dies("The actor died unexpectedly before finishing this task. Worker exit type: SYSTEM_ERROR")
    assert trial.max_failures == RETRIES + (RETRIES + 4) * recovers
    assert key in cell.started  # of no use any more: it ends as failed
