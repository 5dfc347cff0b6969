"""Selection rules and summaries on hand-made curves, with values worked out by hand."""

import math
from array import array
from pathlib import Path
from typing import Any

import pytest

from analysis.select import (
    RULES,
    Score,
    after,
    cell_summary,
    chosen,
    gap,
    objective,
    paper,
    progress,
    replicates,
    reselect,
    score,
    select,
    value,
)
from raystudy.record.ledger import CellHistory, Ledger, TrialHistory, replay

NAN = math.nan


def trial(
    number: int = 0, origin: str = "search", state: str = "complete", point: dict[str, Any] | None = None, **curves: Any
) -> TrialHistory:
    """A trial from its curves; ``val`` and ``test`` stand for the accuracies, ``clean`` for the clean validation set."""
    names = {
        "val": "val/acc",
        "test": "test/acc",
        "clean": "val/clean_acc",
        "loss": "val/loss",
        "seconds": "cost/seconds",
    }
    columns = {names.get(k, k): array("d", v) for k, v in curves.items()}
    n = len(next(iter(columns.values()), ()))
    point = {"a": float(number)} if point is None else point
    seed = number if origin == "replicate" else 0
    return TrialHistory(
        f"key{number}", number, origin, point, seed, state=state, times=array("q", range(n)), curves=columns
    )


def cell(*trials: TrialHistory) -> CellHistory:
    return CellHistory("c", {}, {t.key: t for t in trials})


# -- rules: which epoch of a trial


@pytest.mark.parametrize(
    ("rule", "curves", "want"),
    [
        ("noisy_val", {"val": [0.1, 0.3, 0.2], "test": [0.5, 0.6, 0.9]}, 0.6),
        ("noisy_val", {"val": [0.3, 0.1, 0.3], "test": [0.5, 0.9, 0.7]}, 0.6),  # two best epochs: (0.5 + 0.7) / 2
        ("noisy_val", {"val": [0.3, 0.3, 0.3], "test": [0.1, 0.2, 0.6]}, 0.3),
        ("noisy_val", {"val": [NAN, 0.1, NAN], "test": [0.9, 0.2, 0.8]}, 0.2),
        ("noisy_val", {"val": [NAN, NAN], "test": [0.9, 0.2]}, NAN),
        ("last", {"val": [0.9, 0.1], "test": [0.9, 0.4]}, 0.4),
        ("last10", {"val": [0.0] * 12, "test": [0.0, 0.0, *[k / 10 for k in range(10)]]}, 0.45),
        ("last10", {"val": [0.0] * 3, "test": [0.1, 0.2, 0.6]}, 0.3),  # shorter than ten: all of them
        ("clean_val", {"val": [0.9, 0.1], "test": [0.5, 0.7], "clean": [0.2, 0.4]}, 0.7),
        ("clean_val", {"val": [0.9, 0.1], "test": [0.5, 0.7], "clean": [0.4, 0.4]}, 0.6),
        ("clean_val", {"val": [0.9, 0.1], "test": [0.5, 0.7]}, NAN),  # there was no clean validation set
        ("oracle_test", {"val": [0.9, 0.1, 0.1], "test": [0.5, 0.8, 0.7]}, 0.8),
        ("oracle_test", {"val": [0.9, 0.1, 0.1], "test": [0.8, 0.8, 0.7]}, 0.8),
        # Epochs that were not evaluated, or not in full (no test accuracy of the whole test set): no rule picks one.
        ("noisy_val", {"val": [0.9, NAN, 0.5, 0.4], "test": [NAN, NAN, 0.6, 0.7]}, 0.6),
        ("clean_val", {"val": [0.1] * 3, "clean": [0.9, 0.5, NAN], "test": [NAN, 0.6, 0.7]}, 0.6),
        ("oracle_test", {"val": [NAN, 0.1, NAN], "test": [NAN, 0.4, 0.3]}, 0.4),
        ("last10", {"val": [0.0] * 12, "test": [0.9, *[NAN] * 9, 0.4, 0.6]}, 0.5),  # of the last ten, not the last ten
        ("last", {"val": [0.0] * 3, "test": [0.5, 0.6, NAN]}, 0.6),  # still running
    ],
)
def test_rule(rule: str, curves: dict[str, list[float]], want: float) -> None:
    assert RULES[rule](trial(**curves)) == pytest.approx(want, nan_ok=True)


def test_all_rules_are_tested_and_only_the_oracle_sees_the_test_set() -> None:
    """Turning the test curve round changes which epoch only the oracle picks."""
    assert set(RULES) == {"noisy_val", "last", "last10", "clean_val", "oracle_test"}
    told = trial(val=[0.1, 0.4, 0.2], clean=[0.1, 0.4, 0.2], test=[0.1, 0.2, 0.3])
    turned = trial(val=[0.1, 0.4, 0.2], clean=[0.1, 0.4, 0.2], test=[0.9, 0.8, 0.7])
    picked = {rule: (RULES[rule](told), RULES[rule](turned)) for rule in RULES}
    assert picked["noisy_val"] == picked["clean_val"] == (0.2, 0.8)
    assert picked["last"] == (0.3, 0.7)
    assert picked["oracle_test"] == (0.3, 0.9)  # the last epoch, then the first


@pytest.mark.parametrize(
    ("curve", "want"),
    [
        ([0.5], 0.5),
        ([0.1] * 9 + [0.7], 0.7),  # ten epochs: the last
        ([0.1] * 9 + [0.5, 0.7], 0.6),  # eleven: a tenth is 1.1, so the last two
        ([0.0] * 57 + [0.3, 0.6, 0.9], 0.3),  # sixty: the last six
        ([1.0] * 9 + [NAN], NAN),
        ([0.1] * 17 + [NAN, 0.5], 0.5),  # the last two: the one that was evaluated
        ([], NAN),
    ],
)
def test_objective_is_the_mean_of_the_last_tenth(curve: list[float], want: float) -> None:
    assert objective(curve) == pytest.approx(want, nan_ok=True)
    assert value(trial(val=curve, loss=curve)) == pytest.approx(want, nan_ok=True)
    assert value(trial(val=curve, loss=curve), "val/loss") == pytest.approx(-want, nan_ok=True)


def test_a_trial_without_records_is_worth_nothing() -> None:
    assert math.isnan(value(trial()))


# -- which trial of a cell


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_curve_that_a_ledger_lacks_is_not_a_number(rule: str) -> None:
    assert math.isnan(RULES[rule](trial(val=[0.5, 0.6])))
    assert math.isnan(RULES[rule](trial(seconds=[1.0])))


def test_chosen_is_the_best_finished_one_of_the_search() -> None:
    trials = [
        trial(0, "paper", val=[0.5, 0.6], test=[0.9, 0.9]),
        trial(1, val=[0.9, 0.7], test=[0.1, 0.1]),  # the last tenth decides: 0.7, not its lucky first epoch
        trial(2, val=[0.1, 0.8], test=[0.0, 0.0]),  # the best, however bad on the test set
        trial(3, state="pruned", val=[0.95, 0.95], test=[1.0, 1.0]),
        trial(4, state="diverged", val=[0.95, 0.95], test=[1.0, 1.0]),
        trial(5, state="failed", val=[0.95, 0.95], test=[1.0, 1.0]),
        trial(6, state="running", val=[0.95, 0.95], test=[1.0, 1.0]),
        trial(7, "replicate", val=[0.95, 0.95], test=[1.0, 1.0]),
        trial(8, val=[0.95, NAN], test=[1.0, 1.0]),
    ]
    best = chosen(cell(*trials))
    assert best is not None
    assert best.number == 2
    assert chosen(cell(*trials[3:8])) is None
    assert chosen(cell()) is None
    assert paper(cell(*trials)) is trials[0]
    assert paper(cell(*trials[1:])) is None


def test_of_equals_the_earliest_is_chosen() -> None:
    trials = [
        trial(n, "paper" if n == 0 else "search", val=[v], test=[0.0]) for n, v in enumerate([0.3, 0.5, 0.5, 0.4])
    ]
    for order in (trials, trials[::-1]):
        best = chosen(cell(*order))
        assert best is not None
        assert best.number == 1


def test_of_losses_the_lowest_is_chosen() -> None:
    trials = [trial(n, val=[0.5 + n / 10], loss=[v], test=[0.0]) for n, v in enumerate([0.9, 0.2, 0.4])]
    best = chosen(cell(*trials), "val/loss")
    assert best is not None
    assert best.number == 1


def test_replicates_are_of_the_same_point_and_finished() -> None:
    search = trial(1, point={"a": 1.0}, val=[0.5], test=[0.5])
    same = [trial(n, "replicate", point={"a": 1.0}, val=[0.5], test=[0.5]) for n in (2, 3)]
    others = [
        trial(4, "replicate", point={"a": 2.0}, val=[0.5], test=[0.5]),
        trial(5, "replicate", state="running", point={"a": 1.0}, val=[0.5], test=[0.5]),
        trial(6, "replicate", state="diverged", point={"a": 1.0}, val=[0.5], test=[0.5]),
    ]
    assert replicates(cell(search, *same, *others), search) == same
    assert replicates(cell(search, *others), search) == [search]  # without any, the trial itself
    search.state = "pruned"
    assert replicates(cell(search, *others), search) == []
    assert replicates(cell(search, *same), None) == []


def test_a_seed_is_counted_once_and_of_the_data_as_they_are_now(tmp_path: Path) -> None:
    """A ledger of two trainings of one seed and point: the data had changed in between, so their keys differ."""
    ledger = Ledger(tmp_path)
    ledger.open("c", {"digests": {"data": "old", "noise": "n"}})

    def train(key: str, origin: str, seed: int, accuracy: float, state: str = "complete") -> None:
        told = {"number": len(ledger.histories["c"].trials), "origin": origin, "point": {"a": 1.0}, "seed": seed}
        metrics = {"val/acc": accuracy, "test/acc": accuracy}
        record = {"event": "record", "key": key, "epoch": 0, "metrics": metrics}
        end = {"event": "end", "key": key, "state": state}
        ledger.append("c", {"event": "trial", "key": key, **told}, record, end)

    train("paper", "paper", 0, 0.1)
    train("old1", "replicate", 1, 0.9)
    train("old2", "replicate", 2, 0.8)
    ledger.append("c", {"event": "cell", "digests": {"data": "new", "noise": "n"}})
    train("new1", "replicate", 1, 0.5)
    train("new3", "replicate", 3, 0.7)
    ledger.close()
    told = replay(tmp_path / "cells" / "c.jsonl")
    assert told.header["digests"]["data"] == "new"
    assert [t.key for t in replicates(told, paper(told))] == ["new1", "old2", "new3"]
    assert score(replicates(told, paper(told)), "last") == pytest.approx(Score(2.0 / 3, math.sqrt(0.07 / 3), 3))
    assert reselect(told, "noisy_val", "last").n == 3
    assert cell_summary(told)["tuned/last"] == pytest.approx(2.0 / 3)


def test_score() -> None:
    def trials(*last: float) -> list[TrialHistory]:
        return [trial(n, val=[0.1], test=[v]) for n, v in enumerate(last)]

    told = score(trials(0.5, 0.7, 0.9), "last")
    assert told.mean == pytest.approx(0.7)
    assert told.std == pytest.approx(0.2)  # sqrt((0.04 + 0 + 0.04) / 2)
    assert told.n == 3
    assert score(trials(0.5), "last") == pytest.approx(Score(0.5, NAN, 1), nan_ok=True)
    assert score([], "last") == pytest.approx(Score(NAN, NAN, 0), nan_ok=True)
    assert score(trials(0.5, 0.7), "clean_val") == pytest.approx(Score(NAN, NAN, 0), nan_ok=True)


def test_every_replicate_picks_its_own_epoch() -> None:
    first, second = trial(0, val=[0.9, 0.1], test=[0.6, 0.0]), trial(1, val=[0.1, 0.9], test=[0.0, 0.8])
    assert score([first, second], "noisy_val").mean == pytest.approx(0.7)


# -- points and epochs, separately


def test_point_and_epoch_are_chosen_separately() -> None:
    told = cell(
        trial(0, "paper", val=[0.5, 0.9], clean=[0.9, 0.1], test=[0.6, 0.2]),  # best by noisy validation
        trial(1, val=[0.8, 0.5], clean=[0.1, 0.9], test=[0.3, 0.4]),  # best by clean validation
        trial(2, val=[0.8, 0.1], clean=[0.1, 0.1], test=[0.1, 0.9]),  # best on the test set
        trial(3, "replicate", val=[1.0, 1.0], clean=[1.0, 1.0], test=[1.0, 1.0]),
        trial(4, state="pruned", val=[1.0, 1.0], clean=[1.0, 1.0], test=[1.0, 1.0]),
    )
    assert select(told, "noisy_val", "noisy_val") == 0.2
    assert select(told, "noisy_val", "oracle_test") == 0.6
    assert select(told, "clean_val", "noisy_val") == 0.3
    assert select(told, "clean_val", "clean_val") == 0.4
    assert select(told, "oracle_test", "noisy_val") == 0.1
    assert select(told, "oracle_test", "last") == 0.9
    assert math.isnan(select(cell(), "noisy_val", "last"))
    told.header["objective"] = "val/loss"
    assert math.isnan(select(told, "noisy_val", "last"))  # no losses here


def test_replicates_redo_the_whole_selection() -> None:
    """Of each fresh seed the better of its points is chosen anew, not the point that won the search."""

    def seeded(number: int, seed: int, point: float, **curves: Any) -> TrialHistory:
        t = trial(number, "replicate", point={"a": point}, **curves)
        t.seed = seed
        return t

    told = cell(
        trial(0, "paper", point={"a": 0.0}, val=[0.6], test=[0.5]),
        trial(1, point={"a": 1.0}, val=[0.7], test=[0.6]),
        seeded(2, 1, 1.0, val=[0.8], test=[0.7]),
        seeded(3, 1, 0.0, val=[0.6], test=[0.9]),
        seeded(4, 2, 1.0, val=[0.5], test=[0.8]),
        seeded(5, 2, 0.0, val=[0.7], test=[0.4]),  # on this seed the published point looks better, and is worse
    )
    assert reselect(told, "noisy_val", "last") == pytest.approx(Score(0.55, math.sqrt(0.045), 2))  # 0.7 and 0.4
    assert reselect(told, "oracle_test", "last").mean == pytest.approx(0.85)
    assert score(replicates(told, chosen(told)), "last").mean == pytest.approx(0.75)  # the chosen point alone
    alone = cell(*list(told.trials.values())[:2])
    assert reselect(alone, "noisy_val", "last") == pytest.approx(Score(0.6, NAN, 1), nan_ok=True)


def test_gap_is_taken_within_each_training() -> None:
    first, second = trial(0, val=[0.9, 0.1], test=[0.6, 0.8]), trial(1, val=[0.1, 0.9], test=[0.0, 0.8])
    told = gap([first, second])
    assert told.mean == pytest.approx(0.1)  # 0.2 and 0
    assert told.std == pytest.approx(math.sqrt(0.02))


# -- equal budgets


def test_progress_pays_for_every_trial_and_chooses_by_noisy_validation() -> None:
    told = cell(
        trial(0, "paper", val=[0.5, 0.5], test=[0.9, 0.9], seconds=[1, 2]),
        trial(1, state="pruned", val=[0.9], test=[0.1], seconds=[4]),
        trial(2, val=[0.6, 0.6], test=[0.7, 0.7], seconds=[1, 1]),
        trial(3, val=[0.4, 0.4], test=[1.0, 1.0], seconds=[1, 1]),
        trial(4, state="running", val=[0.9], test=[1.0], seconds=[9]),
        trial(5, "replicate", val=[0.9, 0.9], test=[1.0, 1.0], seconds=[9, 9]),
    )
    assert progress(told, "trials") == [(1, 0.9), (2, 0.9), (3, 0.7), (4, 0.7)]
    steps = progress(told, "seconds")
    assert steps == [(3, 0.9), (7, 0.9), (9, 0.7), (11, 0.7)]
    assert [after(steps, b) for b in (3, 8.9, 9, 100)] == [0.9, 0.9, 0.7, 0.7]
    assert math.isnan(after(steps, 2))
    assert math.isnan(after([], 2))


# -- the summary of a cell


def test_cell_summary() -> None:
    shared = {
        "val": [0.5, 0.9],
        "select/auroc": [0.1, 0.6],
        "label/memorised": [0.1, 0.3],
        "label/corrected": [0.1, 0.5],
    }
    told = cell_summary(
        cell(
            trial(0, "paper", point={"a": 1.0}, val=[0.2, 0.4], test=[0.3, 0.1], seconds=[9, 9]),
            trial(1, point={"a": 2.0}, test=[0.0, 0.0], seconds=[9, 9], **shared),
            trial(2, "replicate", point={"a": 2.0}, test=[0.8, 0.6], seconds=[1, 2], **shared),
            trial(
                3,
                "replicate",
                point={"a": 2.0},
                test=[0.9, 0.8],
                seconds=[2, 3],
                **(shared | {"select/auroc": [0.1, 0.8]}),
            ),
            trial(4, "replicate", point={"a": 1.0}, val=[0.2, 0.4], test=[0.5, 0.2], seconds=[9, 9]),
        )
    )
    assert told == pytest.approx(
        {
            "tuned/noisy_val": 0.7,  # (0.6 + 0.8) / 2
            "tuned/noisy_val_std": math.sqrt(0.02),
            "tuned/last": 0.7,
            "tuned/last_std": math.sqrt(0.02),
            "tuned/last10": 0.775,  # (0.7 + 0.85) / 2
            "tuned/last10_std": math.sqrt(0.01125),
            "tuned/ORACLE": 0.85,
            "tuned/ORACLE_std": math.sqrt(0.005),
            "tuned/gap": 0.15,  # ((0.8 - 0.6) + (0.9 - 0.8)) / 2
            "paper/noisy_val": 0.2,
            "paper/last10": 0.35,
            "select/auroc": 0.7,
            "label/memorised": 0.3,
            "label/corrected": 0.5,
            "cost/seconds": 4.0,  # (3 + 5) / 2
        }
    )


def test_cell_summary_follows_the_objective() -> None:
    told = cell(trial(0, "paper", val=[0.9], test=[0.1], loss=[0.9]), trial(1, val=[0.1], test=[0.8], loss=[0.1]))
    assert cell_summary(told)["tuned/last"] == 0.1
    told.header["objective"] = "val/loss"
    assert cell_summary(told)["tuned/last"] == 0.8


def test_cell_summary_is_short_names_its_oracle_and_leaves_out_what_is_unknown() -> None:
    everything = {
        k: [0.5, 0.5] for k in ("val", "test", "clean", "select/auroc", "label/memorised", "label/corrected", "seconds")
    }
    trials = [
        trial(0, "paper", **everything),
        trial(1, "replicate", point={"a": 0.0}, **everything),
        trial(2, "replicate", point={"a": 0.0}, **everything),
    ]
    full = cell_summary(cell(*trials))
    assert len(full) < 25
    assert "tuned/clean_val" in full
    assert [k for k in full if "oracle" in k.lower()] == ["tuned/ORACLE", "tuned/ORACLE_std"]
    assert not [k for k in full if "test" in k]
    assert cell_summary(cell()) == {}
    assert cell_summary(cell(trial(0, "paper", state="running", val=[0.5], test=[0.5]))) == {}
    assert not any(k.endswith("_std") for k in cell_summary(cell(trials[0])))
