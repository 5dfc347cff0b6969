"""The leaderboard of a study as values: a row a cell, its tuned point under every rule, what tuning gained and selection costs.

``tables`` shows it on a terminal, ``report`` on a page, ``raystudy.Results.leaderboard`` as a frame.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.select import RULES, Score, chosen, gap, paper, replicates, score
from raystudy.design.study import Cell, Study
from raystudy.record.ledger import CellHistory, TrialHistory

MAIN = "last10"  # the rule by which rows are ordered and gain is told


@dataclass(frozen=True)
class Row:
    """A cell, and what selection makes of it."""

    cell: Cell
    wrong: float | None  # share of wrong labels; None where the truth is not known
    scores: dict[str, Score]  # rule -> test accuracy over the replicates of the tuned point
    gap: float  # ORACLE minus noisy_val: what honest selection of the epoch costs
    n: int  # replicates
    gain: float
    seconds: float  # of a training
    oracle: tuple[bool, bool]  # whether the tuned, and the published point was read off the truth


def gain(tuned: list[TrialHistory], published: list[TrialHistory]) -> float:
    """What tuning gained: test accuracy of the tuned minus that of the published point under ``MAIN``, each over its replicates."""
    return score(tuned, MAIN).mean - score(published, MAIN).mean


def row(study: Study, cell: Cell, history: CellHistory) -> Row:
    """A cell's row."""
    best, first = chosen(history, study.objective), paper(history)
    tuned, published = replicates(history, best), replicates(history, first)
    spent = [math.fsum(t.curves["cost/seconds"]) for t in tuned if "cost/seconds" in t.curves]
    return Row(
        cell=cell,
        wrong=history.header.get("effective_rate"),
        scores={rule: score(tuned, rule) for rule in RULES},
        gap=gap(tuned).mean,
        n=len(tuned),
        gain=gain(tuned, published),
        seconds=sum(spent) / len(spent) if spent else math.nan,
        oracle=(bool(best and best.oracle), bool(first and first.oracle)),
    )


def rows(study: Study, histories: Mapping[Cell, CellHistory]) -> list[list[Row]]:
    """A list a condition (data set and noise), best method first in each; a cell without a number last."""
    conditions: dict[str, list[Row]] = {}
    for cell, history in histories.items():
        conditions.setdefault(cell.condition, []).append(row(study, cell, history))

    def worth(r: Row) -> float:
        value = r.scores[MAIN].mean
        return math.inf if math.isnan(value) else -value

    return [sorted(found, key=worth) for found in conditions.values()]


def frame(study: Study, histories: Mapping[Cell, CellHistory]) -> list[dict[str, Any]]:
    """The leaderboard as records, one a cell, in the order of ``rows``: fractions, not percent; NaN where there is nothing."""
    out = []
    for r in (r for found in rows(study, histories) for r in found):
        n = r.cell.noise
        told: dict[str, Any] = {"dataset": r.cell.dataset, "noise": n.kind, "variant": n.variant, "rate": n.rate}
        told |= {
            "setting": r.cell.suffix.strip(),
            "wrong": math.nan if r.wrong is None else r.wrong,
            "method": r.cell.method,
        }
        for rule in (rule for rule in RULES if rule != "clean_val" or study.clean_val):
            name = "ORACLE" if rule == "oracle_test" else rule
            told |= {name: r.scores[rule].mean, f"{name}_std": r.scores[rule].std}
        told |= {"gap": r.gap, "n": r.n, "gain": r.gain, "seconds": r.seconds}
        out.append(told | {"point_from_truth": r.oracle[0], "published_from_truth": r.oracle[1]})
    return out
