"""The leaderboard as data: what is told of every cell, and which stand first. How it looks on a terminal is in ``tables``;
``raystudy.Results.leaderboard`` is ``frame``."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from analysis import truth
from analysis.select import MAIN, RULES, Score, balanced, chosen, gap, paper, replicates, score, spread
from raystudy.design.study import Cell, Study
from raystudy.record.ledger import CellHistory, TrialHistory


class Line(NamedTuple):
    """A cell's line. Accuracies are in [0, 1]; what is not known yet is NaN."""

    cell: Cell
    wrong: float | None  # share of wrong labels; None where nobody knows
    scores: dict[str, Score]  # by rule for the epoch, over replicates of the chosen point
    balanced: Score  # balanced accuracy, under MAIN, where the training set is imbalanced
    gap: float  # what honest selection of the epoch costs: ORACLE minus noisy_val
    n: int  # trainings behind the scores
    gain: float
    seconds: float  # a training
    oracle: bool  # whether the chosen point was read off the truth
    against_oracle: bool  # whether the published one was, that the gain is over
    checked: bool  # whether the test labels are known to be right; else accuracies are against given labels
    partly: int = 0  # of a mean: over how many conditions in which a point was read off the truth


def rules(study: Study) -> list[str]:
    """The rules for the epoch that a study can be judged by."""
    return [r for r in RULES if r != "clean_val" or study.clean_val]


def label(rule: str, study: Study) -> str:
    """A rule's name for people."""
    return {"clean_val": f"clean_val({study.clean_val})", "oracle_test": "ORACLE"}.get(rule, rule)


def gain(tuned: list[TrialHistory], published: list[TrialHistory]) -> float:
    """What the search gained: accuracy of the chosen point minus that of the published one, each the mean of its replicates, by MAIN."""
    return score(tuned, MAIN).mean - score(published, MAIN).mean


def line(cell: Cell, history: CellHistory, study: Study) -> Line:
    """A cell's line."""
    best, first = chosen(history, study.objective), paper(history)
    tuned, published = replicates(history, best), replicates(history, first)
    seconds = [math.fsum(t.curves["cost/seconds"]) for t in tuned if "cost/seconds" in t.curves]
    return Line(
        cell=cell,
        wrong=history.header.get("effective_rate"),
        scores={rule: score(tuned, rule) for rule in rules(study)},
        balanced=balanced(tuned),
        gap=gap(tuned).mean,
        n=len(tuned),
        gain=gain(tuned, published),
        seconds=math.fsum(seconds) / len(seconds) if seconds else math.nan,
        oracle=truth.oracle(best, history.header),
        against_oracle=truth.oracle(first, history.header),
        checked=truth.tested_clean(history.header),
    )


def lines(study: Study, histories: Mapping[Cell, CellHistory]) -> list[list[Line]]:
    """The lines of each condition, best first by MAIN; those without a number last."""
    conditions: dict[str, list[Line]] = {}
    for cell, history in histories.items():
        conditions.setdefault(cell.condition, []).append(line(cell, history, study))
    return [sorted(found, key=_place) for found in conditions.values()]


def foremost(lines: list[Line], most: int, baseline: str = "ce") -> list[Line]:
    """The first ``most`` lines of a condition; the last of them is the baseline's where that would be left out."""
    kept = lines[:most]
    left = [told for told in lines[most:] if told.cell.method == baseline]
    return kept[:-1] + left[:1] if left and most > 1 else kept


def overall(conditions: list[list[Line]]) -> list[tuple[int, Line]]:
    """For each method over how many conditions it has numbers, and the means of these, best first; ``n`` is their sum."""
    methods: dict[str, list[Line]] = {}
    for told in [told for lines in conditions for told in lines]:
        methods.setdefault(told.cell.method, []).append(told)
    found = [(sum(told.n > 0 for told in lines), _mean(lines)) for lines in methods.values()]
    return sorted(found, key=lambda f: _place(f[1]))


def _mean(lines: list[Line]) -> Line:
    scores = {rule: spread(told.scores[rule].mean for told in lines)._replace(std=math.nan) for rule in lines[0].scores}
    wrong = [told.wrong for told in lines if told.wrong is not None]
    return Line(
        cell=lines[0].cell,
        wrong=sum(wrong) / len(wrong) if wrong else None,
        scores=scores,
        balanced=spread(told.balanced.mean for told in lines)._replace(std=math.nan),
        gap=spread(told.gap for told in lines).mean,
        n=sum(told.n for told in lines),
        gain=spread(told.gain for told in lines).mean,
        seconds=spread(told.seconds for told in lines).mean,
        oracle=all(told.oracle for told in lines),  # a mean is not starred for one of its levels
        against_oracle=all(told.against_oracle for told in lines),
        checked=all(told.checked for told in lines),
        partly=sum(told.oracle or told.against_oracle for told in lines),
    )


def _place(told: Line) -> float:
    mean = told.scores[MAIN].mean
    return math.inf if math.isnan(mean) else -mean


def frame(study: Study, histories: Mapping[Cell, CellHistory]) -> list[dict[str, Any]]:
    """The leaderboard as records, one a cell, in the order of ``lines``: fractions, not percent; NaN where there is nothing."""
    out = []
    for told in (told for condition in lines(study, histories) for told in condition):
        n = told.cell.noise
        row: dict[str, Any] = {"dataset": told.cell.dataset, "noise": n.kind, "variant": n.variant}
        row |= {"rate": math.nan if truth.came(n) else n.rate}
        row |= {"setting": told.cell.suffix.strip(), "wrong": math.nan if told.wrong is None else told.wrong}
        row |= {"test_labels": "clean" if told.checked else "given", "method": told.cell.method}
        for rule, found in told.scores.items():
            name = "ORACLE" if rule == "oracle_test" else rule
            row |= {name: found.mean, f"{name}_std": found.std}
        if not math.isnan(told.balanced.mean):
            row |= {"balanced": told.balanced.mean, "balanced_std": told.balanced.std}
        row |= {"gap": told.gap, "n": told.n, "gain": told.gain, "seconds": told.seconds}
        out.append(row | {"point_from_truth": told.oracle, "published_from_truth": told.against_oracle})
    return out
