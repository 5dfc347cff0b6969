"""Selection rules: how the reported epoch and the reported hyperparameter point are picked from records, offline.

A rule is a choice of epoch within one trial. The point of a cell is chosen by the noisy validation set alone (``chosen``); only the
ORACLE may look at the test set, and it is called so wherever it is shown.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from raystudy.ledger import CellHistory, TrialHistory

TEST, VAL, CLEAN_VAL = "test/acc", "val/acc", "val/clean_acc"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _at_best(curve: Sequence[float], by: Sequence[float]) -> float:
    """``curve`` at the epoch where ``by`` is highest; over several equally high epochs the mean, so that no order decides."""
    best = max((v for v in by if not math.isnan(v)), default=math.nan)
    return _mean([c for c, v in zip(curve, by, strict=True) if v == best])


RULES: dict[str, Callable[[TrialHistory], float]] = {
    "noisy_val": lambda t: _at_best(t.curves[TEST], t.curves[VAL]),
    "last": lambda t: t.curves[TEST][-1],
    "last10": lambda t: _mean(t.curves[TEST][-10:]),
    "clean_val": lambda t: _at_best(t.curves[TEST], t.curves[CLEAN_VAL]) if CLEAN_VAL in t.curves else math.nan,
    "oracle_test": lambda t: _at_best(t.curves[TEST], t.curves[TEST]),
}


def objective(curve: Sequence[float]) -> float:
    """What a curve is worth to the search: its mean over the last tenth of its epochs (one lucky epoch is not a good point)."""
    return _mean(curve[-math.ceil(len(curve) / 10) :]) if len(curve) else math.nan


def value(trial: TrialHistory, metric: str = VAL) -> float:
    """The search objective of a trial, higher is better (a loss is negated)."""
    worth = objective(trial.curves.get(metric, ()))
    return -worth if metric.endswith("loss") else worth


def paper(cell: CellHistory) -> TrialHistory | None:
    """Trial 0, the published point."""
    return next((t for t in cell.trials.values() if t.origin == "paper"), None)


def chosen(cell: CellHistory, metric: str = VAL) -> TrialHistory | None:
    """The trial whose point the search chose: the best finished one by the noisy validation set; the earliest wins ties."""
    done = [
        t
        for t in cell.trials.values()
        if t.origin != "replicate" and t.state == "complete" and not math.isnan(value(t, metric))
    ]
    return max(done, key=lambda t: (value(t, metric), -t.number), default=None)


def replicates(cell: CellHistory, of: TrialHistory | None) -> list[TrialHistory]:
    """The finished replicates of a trial's point; without any, the trial itself."""
    if of is None:
        return []
    done = [
        t for t in cell.trials.values() if t.origin == "replicate" and t.state == "complete" and t.point == of.point
    ]
    return done or ([of] if of.state == "complete" else [])


class Score(NamedTuple):
    """Mean and standard deviation (n - 1) over n trainings; NaN where undefined."""

    mean: float
    std: float
    n: int


def score(trials: Sequence[TrialHistory], rule: str) -> Score:
    """Test accuracy under a rule over replicates, each of which picks its epoch anew."""
    values = [v for v in (RULES[rule](t) for t in trials) if not math.isnan(v)]
    return Score(_mean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))


def cell_summary(cell: CellHistory) -> dict[str, float]:
    """The numbers of a cell that people compare, each under a short name; what is not known yet is left out."""
    metric = cell.header.get("objective", VAL)
    tuned, published = replicates(cell, chosen(cell, metric)), replicates(cell, paper(cell))
    out: dict[str, float] = {}
    for rule in RULES:
        name = "ORACLE" if rule == "oracle_test" else rule
        out[f"tuned/{name}"], out[f"tuned/{name}_std"], _ = score(tuned, rule)
    for rule in ("noisy_val", "last10"):
        out[f"paper/{rule}"] = score(published, rule).mean
    for what in ("select/auroc", "label/memorised", "label/corrected"):
        out[what] = _mean([t.curves[what][-1] for t in tuned if what in t.curves])
    out["cost/seconds"] = _mean([math.fsum(t.curves["cost/seconds"]) for t in tuned if "cost/seconds" in t.curves])
    return {k: v for k, v in out.items() if not math.isnan(v)}
