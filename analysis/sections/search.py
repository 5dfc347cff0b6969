"""Search: what was tried, which hyperparameters matter, and how the best ones move with the noise rate."""

import math
from collections.abc import Iterator

import numpy as np

from analysis import names, surfaces, words
from analysis.figures import search as figures
from analysis.grid import PLAIN, Group
from analysis.material import TOP, Item, Material, Plot
from analysis.select import searched, value
from analysis.sheets import Row, Sheet, Value, num
from analysis.tables import point
from raystudy.design.study import slug
from raystudy.record.ledger import TrialHistory

LINES = 1000  # trials drawn as lines in one figure


def items(material: Material) -> Iterator[Item]:
    metric = material.study.objective
    few = f"needs {surfaces.FEW} finished trials of a method with something to search"
    for g in material.groups:
        pooled = {m: surfaces.importance([o.history for o in g.of(m)], metric) for m in g.methods()}
        title, (top, kept) = f"Hyperparameter importance, {g.title}", g.top(TOP)
        figure, text = figures.importances({m: pooled[m] for m in top}), words.IMPORTANCE.format(metric=metric)
        yield Plot(f"importance-{g.name}", title, text + kept, figure, few)
        rows: list[Row] = []
        for m, together in pooled.items():
            each = {level: surfaces.importance([row[m].history], metric) for level, row in g.levels.items() if m in row}
            for level, told in [*each.items(), ("all", together)]:
                rows += [[level, m, name, num(v, 3)] for name, v in told.items()]
        if rows:
            yield Sheet(f"importance-{g.name}", title, ["noise", "method", "hyperparameter", "importance"], rows)
        for m in g.top(TOP)[0]:
            yield from _parallel(material, g, m)
    yield from _surfaces(material)


def _parallel(material: Material, g: Group, method: str) -> Iterator[Item]:
    dims, metric = surfaces.axes(o.history for o in g.of(method)), material.study.objective
    lines: list[tuple[float, TrialHistory, float, float]] = []
    for o in g.of(method):
        done = [t for t in searched(o.history) if t.state == "complete" and not math.isnan(value(t, metric))]
        done.sort(key=lambda t: value(t, metric))
        lines += [(o.rate, t, value(t, metric), i / max(1, len(done) - 1)) for i, t in enumerate(done)]
    if not dims or len(lines) < 2:
        return
    best = {o.best.key for o in g.of(method) if o.best}
    kept = "" if len(lines) <= LINES else f" Drawn: {LINES} of {len(lines)} trials, evenly."
    take = {int(i) for i in np.linspace(0, len(lines) - 1, min(LINES, len(lines)))}
    lines = [x for i, x in enumerate(lines) if i in take or x[1].key in best]
    figure = figures.parallel(dims, lines, best)
    name, title = f"parallel-{method}-{g.name}", f"Parallel coordinates of {method}, {g.title}"
    yield Plot(name, title, words.PARALLEL + kept, figure)


def _surfaces(material: Material) -> Iterator[Item]:
    rows: list[Row] = []
    found = surfaces.surfaces(material.histories)
    drawn = {(o.cell.dataset, m) for g in material.groups for m in g.top(TOP)[0] for o in g.of(m)}
    for s in found:
        title = names.told(f"{s.method}, {s.dataset}, {s.noise}", material.study)
        name = f"surface-{s.method}-{slug(s.dataset)}-{s.noise.replace(':', '-').translate(PLAIN)}"
        if (s.dataset, s.method) in drawn:
            heading = f"Best hyperparameters over noise rates, {title}"
            yield Plot(slug(name), heading, words.SURFACE, figures.surface(s))
        for t in surfaces.leave_one_out(s):
            near = Value(f"{100 * t.near:.1f}" + ("" if t.distance <= surfaces.FAR else " (far)"), 100 * t.near)
            known = not math.isnan(t.predicted)
            guess = Value(
                f"{100 * t.predicted:.1f} ± {100 * t.error:.1f}" if known else "–",
                100 * t.predicted if known else "",
            )
            where = "between" if t.inside else "outermost"
            line: Row = [title, num(t.rate, 2), point(t.point), where, near, num(t.distance, 2), guess]
            rows.append([*line, num(t.tuned, 1, 100), num(t.published, 1, 100)])
    if not found:
        why = "needs a searched method at two noise rates"
        yield Plot("surfaces", "Best hyperparameters over noise rates", "", None, why)
    if rows:
        columns = [
            "method",
            "rate left out",
            "recommended from the other rates",
            "where",
            "nearest trial",
            "distance",
        ]
        columns += ["regressed", "tuned there", "published"]
        title = "How a recommendation does at a level it was made without (leave one level out)"
        yield Sheet("recommendations", title, columns, rows, words.TRANSFER)
