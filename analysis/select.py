"""Selection rules: how the reported epoch and the reported hyperparameter point are picked from records, offline.

A rule is a choice of epoch within one trial (``RULES``) or of a trial among those of a cell (``POINT_RULES``); the two are chosen
separately. The point that a study reports is chosen by the noisy validation set alone (``chosen``); only the ORACLE may look at the
test set, and it is called so wherever it is shown. A rule picks among the epochs that were evaluated in full, whatever else a study with
``--evaluate`` has recorded; a trial that is complete has its last ten among them, and one that was stopped at a rung that epoch.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from raystudy.record.ledger import CellHistory, TrialHistory

TEST, VAL, CLEAN_VAL = "test/acc", "val/acc", "val/clean_acc"
SUBSET = "test/subset_acc"  # of some of the test set, in epochs that are not evaluated in full: no rule reads it
BALANCED = "test/balanced_acc"  # mean recall of the classes, recorded where the training set is imbalanced
FILTER = tuple(f"filter/{what}" for what in ("removed", "relabelled", "precision", "recall", "auroc", "wrong"))
MAIN = "last10"  # the rule of figures, tests and gains; the leaderboard is shown under every rule


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _at_best(curve: Sequence[float], by: Sequence[float]) -> float:
    """``curve`` at the epoch where ``by`` is highest, of those that have both; over several equally high epochs the mean, so that no
    order decides."""
    both = [(c, v) for c, v in zip(curve, by, strict=True) if not (math.isnan(c) or math.isnan(v))]
    best = max((v for _, v in both), default=math.nan)
    return _mean([c for c, v in both if v == best])


def evaluated(curve: Sequence[float]) -> list[float]:
    """What there is of a curve, without the epochs in which it was not measured."""
    return [v for v in curve if not math.isnan(v)]


def _curve(trial: TrialHistory, metric: str) -> Sequence[float]:
    """A trial's curve; not measured in any epoch where a ledger from elsewhere has none."""
    return trial.curves.get(metric) or [math.nan] * max(trial.epochs, 1)


RULES: dict[str, Callable[[TrialHistory], float]] = {
    "noisy_val": lambda t: _at_best(_curve(t, TEST), _curve(t, VAL)),
    "last": lambda t: _mean(evaluated(_curve(t, TEST))[-1:]),
    "last10": lambda t: _mean(evaluated(_curve(t, TEST)[-10:])),
    "clean_val": lambda t: _at_best(_curve(t, TEST), t.curves[CLEAN_VAL]) if CLEAN_VAL in t.curves else math.nan,
    "oracle_test": lambda t: _at_best(_curve(t, TEST), _curve(t, TEST)),
}


def objective(curve: Sequence[float]) -> float:
    """What a curve is worth to the search: its mean over the last tenth of its epochs (one lucky epoch is not a good point).

    Of these, those that were evaluated. NaN for a curve that is empty, or whose last epoch has no number: it was not finite there, or
    nobody looked, which at rungs and at the end of a training never happens.
    """
    tenth = curve[-math.ceil(len(curve) / 10) :] if len(curve) else ()
    return _mean(evaluated(tenth)) if len(tenth) and not math.isnan(tenth[-1]) else math.nan


def value(trial: TrialHistory, metric: str = VAL) -> float:
    """The search objective of a trial, higher is better (a loss is negated)."""
    worth = objective(trial.curves.get(metric, ()))
    return -worth if metric.endswith("loss") else worth


def reached(trial: TrialHistory) -> float:
    """The noisy validation accuracy of a trial as its search sees it: the mean of its last tenth of epochs, not its peak."""
    return objective(trial.curves.get(VAL, ()))


def _worth(metric: str) -> Callable[[TrialHistory], float]:
    return lambda t: value(t, metric)


POINT_RULES: dict[str, Callable[[TrialHistory], float]] = {
    "noisy_val": _worth(VAL),  # in a study that searched by val/loss: by that
    "clean_val": _worth(CLEAN_VAL),
    "oracle_test": _worth(TEST),
}


def paper(cell: CellHistory) -> TrialHistory | None:
    """Trial 0, the published point."""
    return next((t for t in cell.trials.values() if t.origin == "paper"), None)


def searched(cell: CellHistory) -> list[TrialHistory]:
    """The paper point and the proposals of the search, in their order."""
    return [t for t in cell.trials.values() if t.origin != "replicate"]


def best(trials: Iterable[TrialHistory], worth: Callable[[TrialHistory], float]) -> TrialHistory | None:
    """The finished trial that is worth most; the earliest wins ties."""
    done = [(worth(t), -t.number, t) for t in trials if t.state == "complete"]
    known = [d for d in done if not math.isnan(d[0])]
    return max(known, key=lambda d: d[:2])[2] if known else None


def chosen(cell: CellHistory, metric: str = VAL) -> TrialHistory | None:
    """The trial whose point the search chose: the best finished one by the noisy validation set."""
    return best(searched(cell), _worth(metric))


def _point_rule(cell: CellHistory, rule: str) -> Callable[[TrialHistory], float]:
    return _worth(cell.header.get("objective", VAL)) if rule == "noisy_val" else POINT_RULES[rule]


def repeated(cell: CellHistory) -> list[TrialHistory]:
    """The replicates of a cell, one for each point and seed.

    A second one of the same point and seed has another key: what it was trained on, or its method, had changed in between. Only the
    one proposed last is of the data whose digest the cell's header has now, and one seed is never counted twice.
    """
    latest: dict[tuple[int, str], TrialHistory] = {}
    for t in cell.trials.values():
        if t.origin == "replicate":
            latest[t.seed, repr(sorted(t.point.items()))] = t
    return list(latest.values())


def replicates(cell: CellHistory, of: TrialHistory | None) -> list[TrialHistory]:
    """The finished replicates of a trial's point; without any, the trial itself."""
    if of is None:
        return []
    same = [t for t in repeated(cell) if t.point == of.point]
    done = [t for t in same if t.state == "complete"]
    longer = any(t.planned for t in same)  # then the trial itself, of fewer epochs, stands for none of them
    return done or ([of] if of.state == "complete" and not longer else [])


def standing(cell: CellHistory, among: Collection[str] | None = None) -> TrialHistory | None:
    """The training whose weights stand for a cell: the best finished replicate by the noisy validation set, before there are any
    the best finished trial of the search. ``among``: of those with these keys only, such as those whose weights there are."""
    worth = _worth(cell.header.get("objective", VAL))
    for kind in (repeated(cell), searched(cell)):
        if found := best((t for t in kind if among is None or t.key in among), worth):
            return found
    return None


def winners(trials: Mapping[str, tuple[str, float]]) -> set[str]:
    """Of each condition the cell that is best by noisy validation. ``trials``: cell -> condition and what its training is worth."""
    first: dict[str, str] = {}
    for cell, (condition, worth) in trials.items():
        if not math.isnan(worth) and (condition not in first or worth > trials[first[condition]][1]):
            first[condition] = cell
    return set(first.values())


class Score(NamedTuple):
    """Mean and standard deviation (n - 1) over n trainings; NaN where undefined."""

    mean: float
    std: float
    n: int


def score(trials: Sequence[TrialHistory], rule: str) -> Score:
    """Test accuracy under a rule over replicates, each of which picks its epoch anew."""
    return spread([RULES[rule](t) for t in trials])


def balanced(trials: Sequence[TrialHistory]) -> Score:
    """Balanced test accuracy over replicates, the mean of the last ten epochs as under MAIN; NaN where it was not recorded."""
    return spread(_mean(evaluated(_curve(t, BALANCED)[-10:])) for t in trials)


def spread(values: Iterable[float]) -> Score:
    """Mean and standard deviation of what is not NaN."""
    values = [v for v in values if not math.isnan(v)]
    return Score(_mean(values), statistics.stdev(values) if len(values) > 1 else math.nan, len(values))


def select(cell: CellHistory, point_rule: str, epoch_rule: str) -> float:
    """Test accuracy on the search's own seed: point by one rule among all finished trials of the search, epoch by another."""
    found = best(searched(cell), _point_rule(cell, point_rule))
    return RULES[epoch_rule](found) if found else math.nan


def reselect(cell: CellHistory, point_rule: str, epoch_rule: str) -> Score:
    """The whole selection redone by every replicate seed: its point among the points trained on that seed, then its epoch.

    On a fresh seed the chosen and the published point are trained, so a replicate chooses between these two. Without
    replicates it is the search's own seed alone.
    """
    seeds: dict[int, list[TrialHistory]] = {}
    for t in repeated(cell):
        seeds.setdefault(t.seed, []).append(t)
    picked = [best(trials, _point_rule(cell, point_rule)) for trials in seeds.values()]
    values = [RULES[epoch_rule](t) for t in picked if t]
    return spread(values or [select(cell, point_rule, epoch_rule)])


def gap(trials: Sequence[TrialHistory]) -> Score:
    """What honest selection of the epoch costs: ORACLE minus noisy_val within each training."""
    return spread([RULES["oracle_test"](t) - RULES["noisy_val"](t) for t in trials])


COSTS = ("trials", "passes", "seconds")


def spent(trial: TrialHistory, cost: str) -> float:
    """What a trial of the search took: 1, its sample passes through a network (``cost/passes``), or its seconds."""
    return 1.0 if cost == "trials" else float(np.nansum(trial.curves.get(f"cost/{cost}", ())))


def progress(cell: CellHistory, cost: str, rule: str = "noisy_val") -> list[tuple[float, float]]:
    """How a search went: after each of its ended trials, in their order, what was spent in all, and the test accuracy of the point
    it would have chosen then by noisy validation, under a rule for the epoch. NaN until one is complete; pruned trials cost, too.
    """
    worth, total, most, reached, out = _point_rule(cell, "noisy_val"), 0.0, -math.inf, math.nan, []
    for t in searched(cell):
        total += spent(t, cost)
        if t.state == "complete" and worth(t) > most:
            most, reached = worth(t), RULES[rule](t)
        if t.state != "running":
            out.append((total, reached))
    return out


def after(steps: Sequence[tuple[float, float]], budget: float) -> float:
    """Where a search stood when it had spent a budget: the last step of ``progress`` within it; NaN before its first."""
    return next((v for total, v in reversed(steps) if total <= budget * (1 + 1e-9)), math.nan)


def filtered(trial: TrialHistory) -> dict[str, float]:
    """What a filter did before the training, by metric: told once, with the first epoch; empty where there was none."""
    return {what: trial.curves[what][0] for what in FILTER if what in trial.curves and trial.epochs}


def cell_summary(cell: CellHistory) -> dict[str, float]:
    """The numbers of a cell that people compare, each under a short name; what is not known yet is left out."""
    metric = cell.header.get("objective", VAL)
    tuned, published = replicates(cell, chosen(cell, metric)), replicates(cell, paper(cell))
    out: dict[str, float] = {}
    for rule in RULES:
        name = "ORACLE" if rule == "oracle_test" else rule
        out[f"tuned/{name}"], out[f"tuned/{name}_std"], _ = score(tuned, rule)
    out["tuned/balanced"], out["tuned/balanced_std"], _ = balanced(tuned)
    out["paper/balanced"] = balanced(published).mean
    out["tuned/gap"] = gap(tuned).mean
    for rule in ("noisy_val", "last10"):
        out[f"paper/{rule}"] = score(published, rule).mean
    for what in ("select/auroc", "label/memorised", "label/corrected"):
        out[what] = _mean([t.curves[what][-1] for t in tuned if what in t.curves])
    for what in FILTER:
        out[what] = _mean([filtered(t).get(what, math.nan) for t in tuned])
    out["cost/seconds"] = _mean([math.fsum(t.curves["cost/seconds"]) for t in tuned if "cost/seconds" in t.curves])
    return {k: v for k, v in out.items() if not math.isnan(v)}
