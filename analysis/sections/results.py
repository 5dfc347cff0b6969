"""Results: accuracy against noise rate, and the leaderboard under each rule."""

import math
from collections.abc import Iterator
from typing import Any

from analysis import stats, words
from analysis.figures import results as figures
from analysis.grid import Group
from analysis.material import TOP, Item, Material, Plot
from analysis.select import MAIN, RULES, Score, score, spread
from analysis.sheets import Row, Sheet, Value, percent, sentence


def items(material: Material) -> Iterator[Item]:
    for g in material.groups:
        none = Score(math.nan, math.nan, 0)
        top, kept = g.top(TOP)
        told = {m: [score(r[m].tuned, MAIN) if m in r else none for r in g.levels.values()] for m in top}
        figure = figures.rates(g.rates(), told, f"{g.measured} in %, {MAIN}")
        text = words.RATES + g.starred() + kept
        yield Plot(f"rates-{g.name}", f"{sentence(g.measured)} over noise levels, {g.title}", text, figure)
        for rule in material.rules:
            yield _leaderboard(material, g, rule)


def _leaderboard(material: Material, g: Group, rule: str) -> Sheet:
    honest = rule != "oracle_test"
    winners = {
        level: stats.winner({m: o.by_seed(rule) for m, o in row.items() if not o.oracle}) if honest else None
        for level, row in g.levels.items()
    }
    rows: list[Row] = []
    long: list[dict[str, Any]] = []
    for method in g.methods():
        line: Row = [method]
        for level, row in g.levels.items():
            if method not in row:
                line.append(Value("–", ""))
                continue
            values = [RULES[rule](t) for t in row[method].tuned]
            s, best, (low, high) = spread(values), winners[level], stats.interval(values)
            shown = percent(s, bold=bool(best and best.method == method and best.clear))
            line.append(shown._replace(text=shown.text + "*" * row[method].oracle))
            told = {"rule": rule, "mean": s.mean, "std": s.std, "n": s.n, "low": low, "high": high}
            long.append(row[method].keys() | told | {"oracle_point": row[method].oracle})
        rows.append(line)
    title = f"{sentence(g.measured)} in %, epoch by {material.label(rule)}, {g.title}"
    note = (words.LEADERBOARD if honest else words.ORACLE) + words.STAR * bool(g.starred()) + g.relative
    return Sheet(f"leaderboard-{rule}-{g.name}", title, ["method", *g.levels], rows, note, long)
