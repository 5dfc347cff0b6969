"""Studies as one object for the page: every cell with its scores, curves and losses, every trial. Numbers of four digits, None for NaN."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis import palette, stats, surfaces
from analysis.explore import headlines
from analysis.grid import Group, Outcome, mean
from analysis.material import Material
from analysis.select import MAIN, RULES, Score, balanced, objective, score, spent, spread
from analysis.stats import Winner
from analysis.tables import point
from raystudy.record.ledger import TrialHistory

POINTS = 60  # epochs of a curve that are drawn, evenly spread
DRAWN = 9000  # of a metric over all cells: with more than 150 cells a curve has fewer, but not below 5
TRIALS = 10_000  # that are in the page
BINS = 50  # of a histogram of losses
CURVES = {  # what is drawn over epochs: metric -> title, and whether it needs the truth
    "test/acc": ("accuracy", False),
    "val/acc": ("noisy validation", False),
    "label/memorised": ("wrong labels memorised", True),
    "label/corrected": ("wrong labels corrected", True),
    "select/auroc": ("AUROC of weights", True),
}
Data = dict[str, Any]


def explored(materials: Sequence[Material]) -> Data:
    """All that the first tab knows of some studies. ``groups`` with equal titles are one, whichever study they are of."""
    groups: dict[str, Data] = {}
    cells: list[Data] = []
    trials: list[list[Any]] = []
    points = max(5, min(POINTS, DRAWN // max(1, sum(len(m.outcomes) for m in materials))))
    winners: dict[str, list[Winner | None]] = {}  # of the conditions of each group
    for s, material in enumerate(materials):
        for g in material.groups:
            levels = groups.setdefault(g.title, {"title": g.title, "levels": {}, "measured": g.measured, "said": []})
            rates = g.rates()
            for level, row in g.levels.items():
                levels["levels"].setdefault(level, rates[level])
                told, clear = headlines.sentence(row), _clear(material.rules, row)
                levels["said"].append([s, level, told])
                winners.setdefault(g.title, []).append(headlines.first(row))
                for o in row.values():
                    cell = _cell(len(cells), s, list(groups).index(g.title), level, material, g, row, o, trials, points)
                    cells.append(cell | {"clear": clear.get(o.cell.method, [])})
    rules = list(dict.fromkeys(r for m in materials for r in m.rules))
    methods = sorted({c["method"] for c in cells})
    for title, group in groups.items():
        group["summary"] = headlines.summary(winners[title])
    for group in groups.values():  # a study that has grown, and a second one, bring levels in any order
        rates = group["levels"]
        if all(map(math.isfinite, rates.values())):
            group["levels"] = dict(sorted(rates.items(), key=lambda told: told[1]))
            group["said"].sort(key=lambda told: rates[told[1]])
    return {
        "studies": [m.study.name + f" (filter {m.study.filter})" * bool(m.study.filter) for m in materials],
        "summary": headlines.summary([w for told in winners.values() for w in told]),
        "rules": [[r, materials[0].label(r)] for r in rules],
        "main": MAIN,
        "metrics": [list(m) for m in METRICS if any(c["scores"].get(m[0]) for c in cells)],
        "groups": [g | {"levels": [[k, rounded(v)] for k, v in g["levels"].items()]} for g in groups.values()],
        "cells": cells,
        "trials": kept(trials),
        "recorded": len(trials),
        "looks": {m: _look(m) for m in methods},
        "curves": {k: title for k, (title, _) in CURVES.items()},
    }


# key, title, unit, whether it goes by the rule for the epoch, whether higher is better
METRICS = (
    ("acc", "accuracy", "%", True, True),
    ("balanced", "balanced accuracy", "%", False, True),
    ("beside", "gain over ce", "points", True, True),
    ("tuning", "gain of tuning over the published point", "points", True, True),
    ("memorised", "wrong labels memorised", "%", False, False),
    ("auroc", "AUROC of the weights", "%", False, True),
    ("passes", "sample passes of a training", "", False, False),
    ("seconds", "seconds of a training", "s", False, False),
    ("hours", "hours of the whole cell", "h", False, False),
)


def _cell(
    number: int,
    study: int,
    group: int,
    level: str,
    material: Material,
    g: Group,
    row: Mapping[str, Outcome],
    o: Outcome,
    trials: list[list[Any]],
    points: int,
) -> Data:
    """One cell; its trials are added to ``trials``."""
    metric = material.study.objective
    names = list(dict.fromkeys(k for t in o.history.trials.values() for k in t.point))
    for t in o.history.trials.values():
        trials.append([number, *_trial(t, metric, o, names)])
    rules = material.rules
    return {
        "id": number,
        "study": study,
        "group": group,
        "level": level,
        "method": o.cell.method,
        "star": o.oracle,
        "point": point(o.best.point) if o.best else "",
        "names": names,
        "seeds": [t.seed for t in o.tuned],
        "n": len(o.tuned),
        "scores": _scores(rules, row, o, g.known),
        "curves": curves(o.tuned, g.known, points),
        "losses": _losses(material, o, g.known),
        "importance": {k: rounded(v) for k, v in surfaces.importance([o.history], metric).items()},
        "axes": {a.name: a.log for a in surfaces.axes([o.history])},
        "objective": metric,
    }


def _trial(t: TrialHistory, metric: str, o: Outcome, names: Sequence[str]) -> list[Any]:
    """Number, origin, state, seed, objective, accuracy (MAIN), epochs, seconds, reason, point, whether it is the chosen one (1 or 0).

    The point is its values in the order of ``names``, None where it has none.
    """
    worth = objective(t.curves.get(metric, ()))
    numbers = [rounded(worth), rounded(RULES[MAIN](t)), t.epochs, rounded(spent(t, "seconds"))]
    place = [t.number, t.origin, t.state, t.seed]
    point = [rounded(v) if isinstance(v, float) else v for v in map(t.point.get, names)]
    return [*place, *numbers, t.reason, point, int(o.best is not None and t.key == o.best.key)]


def kept(trials: list[list[Any]], most: int = TRIALS) -> list[list[Any]]:
    """At most ``most`` of the trials, in their order: the chosen ones, replicates and published points, then those that trained longest."""
    if len(trials) <= most:
        return trials
    order = sorted(range(len(trials)), key=lambda i: (not trials[i][-1], trials[i][2] == "search", -trials[i][7]))
    return [trials[i] for i in sorted(order[:most])]


def _clear(rules: Iterable[str], row: Mapping[str, Outcome]) -> dict[str, list[str]]:
    """The rules under which a method is significantly better than every other one; never ORACLE, never a point read off the truth."""
    found: dict[str, list[str]] = {}
    for rule in rules:
        best = None
        if rule != "oracle_test":
            best = stats.winner({m: o.by_seed(rule) for m, o in row.items() if not o.oracle})
        if best and best.clear:
            found.setdefault(best.method, []).append(rule)
    return found


def _scores(rules: Iterable[str], row: Mapping[str, Outcome], o: Outcome, known: bool) -> Data:
    """Metric -> rule (or "") -> mean, standard deviation, n, and the interval's ends; in percent, points or as they are."""
    plain = row.get(headlines.BASELINE)
    out: dict[str, dict[str, Any]] = {}
    for rule in rules:
        s = score(o.tuned, rule)
        _put(out, "acc", rule, s, stats.interval([RULES[rule](t) for t in o.tuned]))
        if plain is not None and plain.tuned and o is not plain:
            _put(out, "beside", rule, _minus(s, score(plain.tuned, rule)))
        if o.published and o.best is not None and o.first is not None and o.best.point != o.first.point:
            _put(out, "tuning", rule, _minus(s, score(o.published, rule)))
    _put(out, "balanced", "", balanced(o.tuned))
    if known:
        for name, curve in (("memorised", "label/memorised"), ("auroc", "select/auroc")):
            _put(out, name, "", spread([t.curves[curve][-1] for t in o.tuned if curve in t.curves]))
    for name in ("passes", "seconds"):
        _put(out, name, "", spread([spent(t, name) for t in o.tuned]), scale=1)
    hours = math.fsum(spent(t, "seconds") for t in o.history.trials.values()) / 3600
    _put(out, "hours", "", Score(hours, math.nan, len(o.history.trials)), scale=1)
    return out


def _put(
    out: dict[str, dict[str, Any]],
    name: str,
    rule: str,
    s: Score,
    ends: tuple[float, float] = (math.nan, math.nan),
    scale: float = 100,
) -> None:
    if not math.isnan(s.mean):
        out.setdefault(name, {})[rule] = [
            *(rounded(scale * v) for v in (s.mean, s.std)),
            s.n,
            *(rounded(scale * v) for v in ends),
        ]


def _minus(a: Score, b: Score) -> Score:
    return Score(a.mean - b.mean, math.nan, min(a.n, b.n))


def curves(trials: Sequence[TrialHistory], known: bool, points: int = POINTS) -> dict[str, list[list[Any]]]:
    """Metric -> [epoch from 1, mean, lowest, highest over the trials], at most ``points`` epochs; those that nobody measured left out."""
    out: dict[str, list[list[Any]]] = {}
    for name, (_, needs_truth) in CURVES.items():
        told = [t.curves[name] for t in trials if name in t.curves]
        if not told or (needs_truth and not known):
            continue
        length = min(map(len, told))
        values = 100 * np.array([list(c[:length]) for c in told])
        measured = np.flatnonzero(~np.isnan(values).all(0))
        keep = measured[np.unique(np.linspace(0, len(measured) - 1, min(points, len(measured))).round().astype(int))]
        rows = [(e, [v for v in values[:, e] if not math.isnan(v)]) for e in keep.tolist()]
        out[name] = [[e + 1, rounded(mean(v)), rounded(min(v)), rounded(max(v))] for e, v in rows]
    return out


def _losses(material: Material, o: Outcome, known: bool) -> Data | None:
    """Histogram of the losses of right and wrong labels after the last epoch of one replicate; of all where the truth is not known."""
    found = material.arrays(o.tuned[:1])
    if not found or "edges" not in found[0]:
        return None
    arrays = found[0]
    step = max(1, (len(arrays["edges"]) - 1) // BINS)
    edges = arrays["edges"][::step]

    def binned(counts: Any) -> list[int]:
        return [int(v) for v in np.add.reduceat(counts, np.arange(0, len(counts), step))]

    if known and "clean" in arrays:
        parts = {"right": binned(arrays["clean"]), "wrong": binned(arrays["wrong"])}
    else:
        parts = {"all": binned(arrays["all"] if "all" in arrays else arrays["clean"] + arrays["wrong"])}
    return {"edges": [rounded(float(e)) for e in edges], **parts}


def _look(method: str) -> Data:
    style = palette.style(method)
    shapes = {
        "o": "circle",
        "s": "square",
        "^": "triangle-up",
        "D": "diamond",
        "v": "triangle-down",
        "P": "cross",
        "X": "cross",
    }
    dashes = {"-": [1, 0], "--": [6, 3], "-.": [6, 2, 2, 2], ":": [2, 2]}
    return {"colour": style["color"], "shape": shapes[style["marker"]], "dash": dashes[style["linestyle"]]}


def rounded(x: float) -> float | None:
    """Four digits; None where there is no number."""
    if not math.isfinite(x):
        return None
    return float(f"{x:.4g}") if abs(x) < 1e4 else float(round(x))
