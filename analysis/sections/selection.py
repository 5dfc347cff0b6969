"""Selection: every rule for the point and for the epoch, and what the search gained."""

import math
from collections.abc import Iterator

from analysis import truth, words
from analysis.figures import results as figures
from analysis.leaderboard import gain
from analysis.material import MANY, Item, Material, Plot
from analysis.select import MAIN, POINT_RULES, Score, gap, reselect, score, select
from analysis.sheets import Row, Sheet, num, percent
from analysis.tables import point


def items(material: Material) -> Iterator[Item]:
    for g in material.groups:
        ends = {
            level: {m: (score(o.tuned, "noisy_val").mean, score(o.tuned, "oracle_test").mean) for m, o in row.items()}
            for level, row in g.some(MANY).items()
        }
        yield Plot(
            f"gap-{g.name}",
            f"ORACLE minus noisy_val, {g.title}",
            words.GAP + g.starred(),
            figures.gaps(ends, g.measured),
        )
    rules = [r for r in POINT_RULES if r != "clean_val" or material.study.clean_val]
    columns = ["noise", "method", *map(material.label, material.rules), "gap", "redone"]
    columns += [*(f"point {material.label(r)}" for r in rules), "n"]
    star = words.STAR * any(o.oracle for o in material.outcomes)
    filled = words.FILLED * any(o.oracle or truth.oracle(o.first, o.history.header) for o in material.outcomes)
    rows: list[Row] = []
    for o in material.outcomes:
        line: Row = [o.condition, o.method, *(percent(score(o.tuned, r)) for r in material.rules)]
        line += [percent(gap(o.tuned), sign=True), percent(reselect(o.history, "noisy_val", "noisy_val"))]
        line += [num(select(o.history, r, "noisy_val"), 1, 100) for r in rules]
        rows.append([*line, num(len(o.tuned), 0)])
    yield Sheet("selection", "Every rule, for the point and for the epoch", columns, rows, words.SELECTION + star)
    rows = []
    for o in material.outcomes:
        tuned, published = score(o.tuned, MAIN), score(o.published, MAIN)
        gained = Score(gain(o.tuned, o.published), math.nan, 0)
        line = [o.condition, o.method, percent(published), percent(tuned), percent(gained, sign=True)]
        star = "*" * truth.oracle(o.first, o.history.header)
        told = [point(o.best.point) if o.best else "–", point(o.first.point) + star if o.first else "–"]
        rows.append([*line, *told])
    columns = ["noise", "method", "published point", "chosen point", "gain", "chosen", "published"]
    yield Sheet("points", f"Tuned against published points, {MAIN}", columns, rows, words.POINTS + filled)
