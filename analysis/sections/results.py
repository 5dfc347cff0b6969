"""Results: accuracy against noise rate, and the leaderboard under each rule."""

import math
from collections.abc import Iterator
from typing import Any

from analysis import stats, words
from analysis.figures import results as figures
from analysis.grid import MAIN, Group
from analysis.material import TOP, Item, Material, Plot
from analysis.select import RULES, Score, score, spread
from analysis.sheets import Row, Sheet, Value, percent


def items(material: Material) -> Iterator[Item]:
    for g in material.groups:
        none = Score(math.nan, math.nan, 0)
        top, kept = g.top(TOP)
        told = {m: [score(r[m].tuned, MAIN) if m in r else none for r in g.levels.values()] for m in top}
        figure = figures.rates(g.rates(), told, MAIN)
        yield Plot(f"rates-{g.name}", f"Accuracy against noise rate, {g.title}", words.RATES + kept, figure)
        for rule in material.rules:
            yield _leaderboard(material, g, rule)


def _leaderboard(material: Material, g: Group, rule: str) -> Sheet:
    honest = rule != "oracle_test"
    winners = {
        level: stats.winner({m: o.by_seed(rule) for m, o in row.items()}) if honest else None
        for level, row in g.levels.items()
    }
    rows: list[Row] = []
    long: list[dict[str, Any]] = []
    for method in g.methods():
        line: Row = [method + "*" * any(o.method != method for o in g.of(method))]
        for level, row in g.levels.items():
            if method not in row:
                line.append(Value("–", ""))
                continue
            values = [RULES[rule](t) for t in row[method].tuned]
            s, best, (low, high) = spread(values), winners[level], stats.interval(values)
            line.append(percent(s, bold=bool(best and best.method == method and best.clear)))
            told = {"rule": rule, "mean": s.mean, "std": s.std, "n": s.n, "low": low, "high": high}
            long.append(row[method].keys() | told | {"oracle_point": row[method].method != method})
        rows.append(line)
    title = f"Test accuracy in %, epoch by {material.label(rule)}, {g.title}"
    note = words.LEADERBOARD if honest else words.ORACLE
    return Sheet(f"leaderboard-{rule}-{g.name}", title, ["method", *g.levels], rows, note, long)
