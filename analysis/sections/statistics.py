"""Statistics: which differences are more than chance, within conditions and over them."""

import math
from collections.abc import Iterator

from analysis import stats, words
from analysis.figures import results as figures
from analysis.material import Item, Material, Plot
from analysis.select import MAIN, score, spread
from analysis.sheets import Row, Sheet, Value, num, p_value, percent


def items(material: Material) -> Iterator[Item]:
    yield from _over_conditions(material)
    yield _within_conditions(material)


def _over_conditions(material: Material) -> Iterator[Item]:
    conditions = [row for g in material.groups for row in g.levels.values()]
    table = {
        m: [score(row[m].tuned, MAIN).mean if m in row else math.nan for row in conditions]
        for m in material.study.methods
    }
    found = stats.ranking({m: v for m, v in table.items() if not all(map(math.isnan, v))})
    if found is None:
        why = "needs two methods and two noise levels that all of them have finished"
        yield Plot("ranks", "Average ranks", "", None, why)
        return
    p, reach = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}", stats.least_wilcoxon(found.n)
    both = words.WILCOXON if reach < stats.ALPHA else ""
    test = (words.FRIEDMAN if len(found.methods) > 2 else both).format(p=p)
    careful = " Few conditions: the tests have little power." if found.n < 10 else ""
    text = words.RANKS.format(n=found.n, rule=MAIN, test=test, careful=careful)
    text += "".join(g.starred() for g in material.groups)
    yield Plot("ranks", "Average ranks with critical difference", text, figures.ranks(found))
    title, corrected = f"Pairs of methods over all conditions, {MAIN}", min(1.0, reach * len(found.pairs))
    if corrected >= stats.ALPHA:
        many = f"{len(found.pairs)} pair{'s' * (len(found.pairs) > 1)}"
        yield Plot(
            "pairs", title, "", None, words.POWERLESS.format(n=found.n, least=reach, corrected=corrected, pairs=many)
        )
        return
    at = dict(zip(found.methods, found.ranks, strict=True))
    pairs: list[Row] = [[a, b, num(at[b] - at[a], 2), p_value(v)] for (a, b), v in found.pairs.items()]
    columns = ["better rank", "worse rank", "rank difference", "p"]
    yield Sheet("pairs", title, columns, pairs, words.PAIRS)


def _within_conditions(material: Material) -> Sheet:
    rows: list[Row] = []
    for row in [row for g in material.groups for row in g.levels.values()]:
        best = stats.winner({m: o.by_seed(MAIN) for m, o in row.items() if not o.oracle})
        for method, o in row.items():
            values = list(o.by_seed(MAIN).values())
            s, (low, high) = spread(values), stats.interval(values)
            span = Value("–", "") if math.isnan(low) else Value(f"{100 * low:.1f} to {100 * high:.1f}")
            first = bool(best and best.method == method)
            against = Value("best") if first else p_value(best.p.get(method, math.nan) if best else math.nan)
            shown = percent(s, bold=bool(first and best and best.clear))
            rows.append([o.condition, o.method, shown, span, num(s.n, 0), against])
    columns = ["noise", "method", "mean ± std", "95 % interval", "n", "p against best"]
    title = f"Intervals and tests within each condition, {MAIN}"
    return Sheet(
        "intervals", title, columns, rows, words.INTERVALS + words.STAR * any(o.oracle for o in material.outcomes)
    )
