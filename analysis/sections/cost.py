"""Cost: what a training and a search took, and the methods at equal budget."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from analysis import usage, words
from analysis.figures import cost as figures
from analysis.figures import places as drawn
from analysis.grid import Group, mean
from analysis.material import MANY, TOP, Item, Material, Plot
from analysis.select import COSTS, MAIN, after, progress, score, spent
from analysis.sheets import Row, Sheet, num, percent
from raystudy.record.usage import IDLE, LOST

Steps = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]  # of ``select.progress``, by level and method


def items(material: Material) -> Iterator[Item]:
    for g in material.groups:
        some, (top, kept) = g.some(MANY), g.top(TOP)
        panels = {
            level: {m: (mean(spent(t, "passes") for t in o.tuned), *score(o.tuned, MAIN)[:2]) for m, o in row.items()}
            for level, row in some.items()
        }
        figure = figures.cost(panels, "sample passes", g.measured)
        yield Plot(f"cost-{g.name}", f"Cost against accuracy, {g.title}", words.COST + g.starred(), figure)
        for kind, label in zip(COSTS, ("trials", "sample passes", "seconds"), strict=True):
            steps = {n: {m: progress(o.history, kind) for m, o in row.items()} for n, row in g.levels.items()}
            shown = {n: {m: progress(row[m].history, kind) for m in top if m in row} for n, row in some.items()}
            figure = figures.budgets(shown, label, kind != "trials", g.measured)
            title = f"Equal budget by {label}, {g.title}"
            yield Plot(f"budget-{kind}-{g.name}", title, words.BUDGET + kept, figure)
            yield _budget(material, g, kind, label, steps)
    rows: list[Row] = []
    for o in material.outcomes:
        trials = o.history.trials.values()
        states = Counter(t.state for t in trials)
        line: Row = [o.condition, o.method, percent(score(o.tuned, MAIN))]
        line += [
            num(mean(spent(t, "passes") for t in o.tuned), 0),
            num(mean(spent(t, "seconds") for t in o.tuned), 1),
        ]
        line += [num(math.fsum(spent(t, "seconds") for t in trials) / 3600, 2)]
        rows.append([*line, *(num(states[s], 0) for s in ("complete", "pruned", "diverged", "failed", "running"))])
    columns = ["noise", "method", MAIN, "passes/run", "s/run", "hours in all"]
    columns += ["complete", "pruned", "diverged", "failed", "unfinished"]
    yield Sheet("cost", "Cost and state of every cell", columns, rows, words.SECONDS)
    yield from _places(material)


def _places(material: Material) -> Iterator[Item]:
    """Places over time, and what became of them; of a study whose drivers did not tell, its trainings alone."""
    spans, trainings = material.spans, usage.trained(material.histories.values())
    told = usage.totals(spans)
    text = words.PLACES if told["places"] else words.TRAININGS
    yield Plot("places", "Places over time", text, drawn.places(usage.course(spans if told["places"] else trainings)))
    if not told["places"]:
        return
    counted = math.fsum(s.busy for s in trainings)
    parts = {"there were": told["places"], "busy": told["busy"], "busy, by the records of epochs": counted}
    parts |= {f"idle: {why}": told[name] for name, why in IDLE.items()}
    parts |= {f"lost: {why}": told[name] for name, why in LOST.items()}
    rows: list[Row] = [[what, num(s / 3600, 3), num(s / told["places"], 1, 100)] for what, s in parts.items()]
    note = f"{words.PLACES_OF} A sweep ran for {told['seconds'] / 3600:.2f} hours."
    yield Sheet("places", "Places and what became of them", ["places", "hours", "%"], rows, note)


def _budget(material: Material, g: Group, kind: str, label: str, steps: Steps) -> Sheet:
    told = [s for row in steps.values() for s in row.values() if s]
    first, last = min((s[0][0] for s in told), default=1.0), max((s[-1][0] for s in told), default=1.0)
    if kind == "trials":
        budgets = [*(float(b) for b in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if b < last), last]
    else:
        low = max(first, last / 1e4, 1e-9)
        budgets = np.geomspace(low, max(last, low), 5).tolist()
    rows: list[Row] = []
    for level, row in steps.items():
        for method, s in row.items():
            line: Row = [level, method]
            for b in budgets:
                reached = num(after(s, b), 1, 100)
                ended = bool(s) and s[-1][0] < b * (1 - 1e-9) and reached.number != ""
                line.append(reached._replace(text=reached.text + "†" * ended))
            rows.append(line)
    names = [f"{b:.0f}" if kind == "trials" else f"{b:.3g}" for b in budgets]
    title = f"Equal budget by {label}, {g.measured} in %, {g.title}"
    note = f"Columns: {label} {words.BUDGETS} †: that search had ended before."
    return Sheet(f"budget-{kind}-{g.name}", title, ["noise", "method", *names], rows, note)
