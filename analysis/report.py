"""``raystudy report``: what stands in the report of a study, and where its files go. Reads the ledger; decides and trains nothing.

<out>/index.html         all of it in one file that works offline
<out>/report.md          the tables again, with links to the figures
<out>/tables/NAME.csv|md|tex    all.tex inputs all of them
<out>/figures/NAME.png|pdf
<out>/study.toml         the study as it was run: what it takes to run it again
"""

import contextlib
import gc
import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import figures, literature, load, page, rendering, stats, surfaces, words
from analysis.grid import MAIN, PLAIN, Group, Outcome, grouped, mean
from analysis.page import Code, Picture, Section
from analysis.select import (
    COSTS,
    POINT_RULES,
    RULES,
    Score,
    after,
    gap,
    progress,
    reselect,
    score,
    searched,
    select,
    spent,
    spread,
    value,
)
from analysis.sheets import Row, Sheet, Value, num, p_value, percent
from analysis.sheets import document as latex_document
from analysis.tables import point
from raystudy.data import masks
from raystudy.data.noise import transition_matrix
from raystudy.design.study import Cell, slug
from raystudy.errors import InputError
from raystudy.record.ledger import TrialHistory, is_running

FEW, MANY = 4, 12  # noise levels in a figure whose panels need room, and in others; evenly spread where there are more
TOP = 11  # methods in a figure with a panel for each
LINES = 1000  # trials drawn as lines in one figure
AGAIN = """\
# The same trainings, anywhere with the same versions and data (name where it lies by --data-root); study.toml is beside this report:
python -m raystudy.sweep --study study.toml"""
Item = Sheet | Picture | Code
Steps = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


class Builder:
    """Writes figures as they are made, and collects what the page shows."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder, out
        self.study, self.histories = load.study(folder)
        self.groups = grouped(self.study, self.histories)
        self.outcomes = [o for g in self.groups for row in g.levels.values() for o in row.values()]
        self.rules = [r for r in RULES if r != "clean_val" or self.study.clean_val]
        self.files: list[Path] = []
        # Drawing takes most of the time of a report, so it is left to other processes; new ones, since ours may have threads.
        workers = min(8, os.cpu_count() or 1)
        self.pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        self.drawing: list[tuple[str, Figure, Future[tuple[bytes, bytes]]]] = []
        self._arrays: dict[str, load.Arrays | None] = {}

    def label(self, rule: str) -> str:
        return {"clean_val": f"clean_val({self.study.clean_val})", "oracle_test": "ORACLE"}.get(rule, rule)

    def arrays(self, trials: Sequence[TrialHistory]) -> list[load.Arrays]:
        for t in trials:
            if t.key not in self._arrays:
                self._arrays[t.key] = load.arrays(self.folder, t.key)
        return [a for t in trials if (a := self._arrays[t.key]) is not None]

    def write(self, name: str, text: str | bytes) -> None:
        """One file in one step: a reader sees the old one or the new."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_bytes(text.encode() if isinstance(text, str) else text)
        os.replace(new, path)
        self.files.append(path)

    def picture(
        self, name: str, title: str, text: str, figure: Figure | None, absent: str = "nothing has been measured yet"
    ) -> Picture:
        if figure is None:
            return Picture(name, title, absent, None)
        try:
            future = self.pool.submit(rendering.render, figure)
        except BrokenProcessPool as e:  # already; ``drawn`` does without it
            future = Future()
            future.set_exception(e)
        self.drawing.append((name, figure, future))
        return Picture(name, title, text, b"")

    def drawn(self) -> dict[str, bytes]:
        """Writes the figures as they become ready. Their PNG by name, for the page."""
        out = {}
        for name, figure, future in self.drawing:
            try:
                png, pdf = future.result()
            except BrokenProcessPool:  # a script without a main guard cannot have worker processes
                png, pdf = rendering.render(figure)
            self.write(f"figures/{name}.png", png)
            self.write(f"figures/{name}.pdf", pdf)
            out[name] = png
        return out

    # -- sections ------------------------------------------------------------------------------------------------------------

    def results(self) -> Iterator[Item]:
        for g in self.groups:
            none = Score(math.nan, math.nan, 0)
            top, kept = g.top(TOP)
            told = {m: [score(r[m].tuned, MAIN) if m in r else none for r in g.levels.values()] for m in top}
            figure = figures.rates(g.rates(), told, MAIN)
            yield self.picture(f"rates-{g.name}", f"Accuracy against noise rate, {g.title}", words.RATES + kept, figure)
            for rule in self.rules:
                yield self.leaderboard(g, rule)

    def leaderboard(self, g: Group, rule: str) -> Sheet:
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
        title = f"Test accuracy in %, epoch by {self.label(rule)}, {g.title}"
        note = words.LEADERBOARD if honest else words.ORACLE
        return Sheet(f"leaderboard-{rule}-{g.name}", title, ["method", *g.levels], rows, note, long)

    def selection(self) -> Iterator[Item]:
        for g in self.groups:
            ends = {
                level: {
                    m: (score(o.tuned, "noisy_val").mean, score(o.tuned, "oracle_test").mean) for m, o in row.items()
                }
                for level, row in g.some(MANY).items()
            }
            yield self.picture(f"gap-{g.name}", f"ORACLE minus noisy_val, {g.title}", words.GAP, figures.gaps(ends))
        rules = [r for r in POINT_RULES if r != "clean_val" or self.study.clean_val]
        columns = ["noise", "method", *map(self.label, self.rules), "gap", "redone"]
        columns += [*(f"point {self.label(r)}" for r in rules), "n"]
        rows: list[Row] = []
        for o in self.outcomes:
            line: Row = [o.condition, o.method, *(percent(score(o.tuned, r)) for r in self.rules)]
            line += [percent(gap(o.tuned), sign=True), percent(reselect(o.history, "noisy_val", "noisy_val"))]
            line += [num(select(o.history, r, "noisy_val"), 1, 100) for r in rules]
            rows.append([*line, num(len(o.tuned), 0)])
        yield Sheet("selection", "Every rule, for the point and for the epoch", columns, rows, words.SELECTION)
        rows = []
        for o in self.outcomes:
            tuned, published = score(o.tuned, MAIN), score(o.published, MAIN)
            gain = Score(tuned.mean - published.mean, math.nan, 0)
            line = [o.condition, o.method, percent(published), percent(tuned), percent(gain, sign=True)]
            star = "*" if o.first and o.first.oracle else ""
            told = [point(o.best.point) if o.best else "–", point(o.first.point) + star if o.first else "–"]
            rows.append([*line, *told])
        columns = ["noise", "method", "published point", "chosen point", "gain", "chosen", "published"]
        yield Sheet("points", f"Tuned against published points, {MAIN}", columns, rows, words.POINTS)

    def statistics(self) -> Iterator[Item]:
        conditions = [row for g in self.groups for row in g.levels.values()]
        table = {
            m: [score(row[m].tuned, MAIN).mean if m in row else math.nan for row in conditions]
            for m in self.study.methods
        }
        found = stats.ranking({m: v for m, v in table.items() if not all(map(math.isnan, v))})
        if found is None:
            why = "needs two methods and two noise levels that all of them have finished"
            yield self.picture("ranks", "Average ranks", "", None, why)
        else:
            text = words.RANKS.format(
                n=found.n,
                rule=MAIN,
                p="p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}",
                test="Friedman's test (Iman and Davenport's F)"
                if len(found.methods) > 2
                else "Wilcoxon's signed-rank test",
                careful=" Few conditions: the tests have little power." if found.n < 10 else "",
            )
            yield self.picture("ranks", "Average ranks with critical difference", text, figures.ranks(found))
            at = dict(zip(found.methods, found.ranks, strict=True))
            pairs: list[Row] = [[a, b, num(at[b] - at[a], 2), p_value(v)] for (a, b), v in found.pairs.items()]
            columns = ["better rank", "worse rank", "rank difference", "p"]
            yield Sheet("pairs", f"Pairs of methods over all conditions, {MAIN}", columns, pairs, words.PAIRS)
        rows: list[Row] = []
        for row in conditions:
            best = stats.winner({m: o.by_seed(MAIN) for m, o in row.items()})
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
        yield Sheet("intervals", title, columns, rows, words.INTERVALS)

    def literature(self) -> Iterator[Item]:
        rows: dict[bool, list[Row]] = {True: [], False: []}
        long: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        known = {p.dataset for p in literature.published()}
        for o in self.outcomes:
            network = o.history.header.get("network", self.study.network)
            for p in literature.beside(o.cell) or literature.beside(o.cell, known):
                same, rule = p.dataset == o.cell.dataset, literature.RULE_OF[p.statistic]
                ours, differ = score(o.tuned, rule), literature.differences(network, o.cell, p)
                line: Row = [
                    o.condition,
                    o.method,
                    percent(ours),
                    self.label(rule),
                    p.text,
                    p.statistic,
                    p.published_as,
                ]
                rows[same].append([*line, differ or "none stated", p.source])
                told = {f"published_{k}": v for k, v in p._asdict().items()}
                numbers = {"rule": rule, "ours": 100 * ours.mean, "ours_std": 100 * ours.std}
                long[same].append(o.keys() | numbers | told | {"differences": differ})
        columns = [
            "noise",
            "method",
            "ours",
            "our rule",
            "published",
            "statistic",
            "as",
            "protocol differences",
            "source",
        ]
        note = f"{literature.protocol(self.study)} {literature.LEGEND}"
        title = "Ours beside the published numbers, test accuracy in %"
        if rows[True]:
            yield Sheet("published", title, columns, rows[True], note, long[True])
        else:
            why = f"no published numbers for these methods at these levels of this data set; there are some for {', '.join(sorted(known))}"
            yield Picture("published", title, why, None)
        if rows[False]:
            title = "Published at the same nominal noise, on other data sets"
            yield Sheet("published-elsewhere", title, columns, rows[False], words.ELSEWHERE + note, long[False])

    def training(self) -> Iterator[Item]:
        for g in self.groups:
            some, (top, kept) = g.some(FEW), g.top(TOP)
            panels = {level: {m: row[m].tuned for m in top if m in row} for level, row in some.items()}
            kept += "" if len(some) == len(g.levels) else f" Shown: {len(some)} of {len(g.levels)} noise levels."
            metrics = {"test/acc": "test accuracy in %", "label/memorised": "memorised in %"}
            metrics |= {"label/corrected": "corrected in %"}
            title = f"Test accuracy and memorisation over epochs, {g.title}"
            yield self.picture(f"curves-{g.name}", title, words.CURVES + kept, figures.curves(panels, metrics))
            metrics = {
                f"select/{k}": f"{v} in %"
                for k, v in (("precision", "precision"), ("recall", "recall"), ("auroc", "AUROC"))
            }
            title, figure = (
                f"Precision and recall of the selection over epochs, {g.title}",
                figures.curves(panels, metrics),
            )
            yield self.picture(f"sieve-{g.name}", title, words.SIEVE + kept, figure, "no method here weighs samples")
            yield from self.per_sample(g, some)

    def per_sample(self, g: Group, some: Mapping[str, Mapping[str, Outcome]]) -> Iterator[Item]:
        transitions: dict[str, NDArray] = {}
        top, kept = g.top(TOP)
        for level, row in some.items():
            found = {m: a for m in top if m in row and (a := self.arrays(row[m].tuned))}
            name = f"{g.name}-{slug(level.removeprefix('noise '))}"
            figure = figures.losses({m: a[0] for m, a in found.items()})
            title = f"Losses of right and wrong labels, {g.title}, {level}"
            yield self.picture(f"losses-{name}", title, words.LOSSES + kept, figure, words.NO_ARRAYS)
            sums = {m: np.sum([x["confusion"] for x in a], axis=0) for m, a in found.items()}
            figure = figures.matrices(sums, "predicted class", "class")
            title = f"Confusion on the test set, {g.title}, {level}"
            yield self.picture(f"confusion-{name}", title, words.CONFUSION + kept, figure, words.NO_ARRAYS)
            cell = next(iter(row.values())).cell
            counted = next((a[0]["transition"] for a in found.values()), None)
            transitions |= {f"{level}, {what}": m for what, m in self.transition(cell, counted).items()}
        figure = figures.matrices(transitions, "given class", "true class")
        title = f"Noise transition matrices, {g.title}"
        yield self.picture(f"transition-{g.name}", title, words.TRANSITION, figure, words.NO_ARRAYS)

    def transition(self, cell: Cell, counted: NDArray | None) -> dict[str, NDArray]:
        """How often each class is given for each: as counted in the labels, and as the noise has it. The study's stored mask tells
        both; without one the first trial's ``counted`` and the model of the noise."""
        with contextlib.suppress(InputError, OSError):
            mask = masks.load(self.folder / "masks" / f"{cell.data_key}.npz")
            k, known = len(mask.matrix), mask.clean >= 0
            labels = np.bincount(mask.clean[known] * k + mask.given[known], minlength=k * k).reshape(k, k)
            return {"the labels": labels, "the model": mask.matrix}
        if counted is None:
            return {}
        with contextlib.suppress(InputError):  # a kind of noise that is no matrix
            return {"the labels": counted, "the model": transition_matrix(cell.noise, len(counted))}
        return {"the labels": counted}

    def search(self) -> Iterator[Item]:
        metric = self.study.objective
        few = f"needs {surfaces.FEW} finished trials of a method with something to search"
        for g in self.groups:
            pooled = {m: surfaces.importance([o.history for o in g.of(m)], metric) for m in g.methods()}
            title, (top, kept) = f"Hyperparameter importance, {g.title}", g.top(TOP)
            figure, text = figures.importances({m: pooled[m] for m in top}), words.IMPORTANCE.format(metric=metric)
            yield self.picture(f"importance-{g.name}", title, text + kept, figure, few)
            rows: list[Row] = []
            for m, together in pooled.items():
                each = {
                    level: surfaces.importance([row[m].history], metric) for level, row in g.levels.items() if m in row
                }
                for level, told in [*each.items(), ("all", together)]:
                    rows += [[level, m, name, num(v, 3)] for name, v in told.items()]
            if rows:
                yield Sheet(f"importance-{g.name}", title, ["noise", "method", "hyperparameter", "importance"], rows)
            for m in g.top(TOP)[0]:
                yield from self.parallel(g, m)
        yield from self.surfaces()

    def parallel(self, g: Group, method: str) -> Iterator[Item]:
        dims, metric = surfaces.axes(o.history for o in g.of(method)), self.study.objective
        lines: list[tuple[float, TrialHistory, float, float]] = []
        for o in g.of(method):
            done = [t for t in searched(o.history) if t.state == "complete" and not math.isnan(value(t, metric))]
            done.sort(key=lambda t: value(t, metric))
            rate = o.cell.noise.rate
            lines += [(rate, t, value(t, metric), i / max(1, len(done) - 1)) for i, t in enumerate(done)]
        if not dims or len(lines) < 2:
            return
        best = {o.best.key for o in g.of(method) if o.best}
        kept = "" if len(lines) <= LINES else f" Drawn: {LINES} of {len(lines)} trials, evenly."
        take = {int(i) for i in np.linspace(0, len(lines) - 1, min(LINES, len(lines)))}
        lines = [x for i, x in enumerate(lines) if i in take or x[1].key in best]
        figure = figures.parallel(dims, lines, best)
        name, title = f"parallel-{method}-{g.name}", f"Parallel coordinates of {method}, {g.title}"
        yield self.picture(name, title, words.PARALLEL + kept, figure)

    def surfaces(self) -> Iterator[Item]:
        rows: list[Row] = []
        found = surfaces.surfaces(self.histories)
        drawn = {(o.cell.dataset, m) for g in self.groups for m in g.top(TOP)[0] for o in g.of(m)}
        for s in found:
            title = f"{s.method}, {s.dataset}, {s.noise}"
            name = f"surface-{s.method}-{slug(s.dataset)}-{s.noise.replace(':', '-').translate(PLAIN)}"
            if (s.dataset, s.method) in drawn:
                heading = f"Best hyperparameters over noise rates, {title}"
                yield self.picture(slug(name), heading, words.SURFACE, figures.surface(s))
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
            yield self.picture("surfaces", "Best hyperparameters over noise rates", "", None, why)
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

    def cost(self) -> Iterator[Item]:
        for g in self.groups:
            some, (top, kept) = g.some(MANY), g.top(TOP)
            panels = {
                level: {
                    m: (mean(spent(t, "passes") for t in o.tuned), *score(o.tuned, MAIN)[:2]) for m, o in row.items()
                }
                for level, row in some.items()
            }
            figure = figures.cost(panels, "sample passes")
            yield self.picture(f"cost-{g.name}", f"Cost against accuracy, {g.title}", words.COST, figure)
            for kind, label in zip(COSTS, ("trials", "sample passes", "seconds"), strict=True):
                steps = {n: {m: progress(o.history, kind) for m, o in row.items()} for n, row in g.levels.items()}
                shown = {n: {m: progress(row[m].history, kind) for m in top if m in row} for n, row in some.items()}
                figure = figures.budgets(shown, label, kind != "trials")
                title = f"Equal budget by {label}, {g.title}"
                yield self.picture(f"budget-{kind}-{g.name}", title, words.BUDGET + kept, figure)
                yield self.budget(g, kind, label, steps)
        rows: list[Row] = []
        for o in self.outcomes:
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

    def budget(self, g: Group, kind: str, label: str, steps: Steps) -> Sheet:
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
        title = f"Equal budget by {label}, test accuracy in %, {g.title}"
        note = f"Columns: {label} {words.BUDGETS} †: that search had ended before."
        return Sheet(f"budget-{kind}-{g.name}", title, ["noise", "method", *names], rows, note)

    def provenance(self) -> Iterator[Item]:
        study, headers = self.study, [h.header for h in self.histories.values()]
        yield Code(f"{AGAIN}\n\n{(self.folder / 'study.toml').read_text(encoding='utf-8')}")
        told = {"study": study.name}
        names = ("network", "epochs", "recipe", "trials", "replicates", "sampler", "scheduler", "objective")
        told |= {n.replace("_", " "): str(getattr(study, n)) for n in (*names, "val_fraction", "clean_val")}
        told["seed of search and trainings"] = str(study.seed)
        told["seeds of replicates"] = ", ".join(str(study.seed + 1 + r) for r in range(study.replicates)) or "none"
        told["seeds of noise and split"] = ", ".join(sorted({str(n.seed) for n in study.noises}))
        told["proposals of a cell out at once"] = str(study.batch)
        told["commit"] = ", ".join(sorted({h.get("commit") or "not a git checkout" for h in headers})) or "–"
        versions = [(p, v) for h in headers for p, v in h.get("versions", {}).items()]
        told |= {p: ", ".join(sorted({v for q, v in versions if q == p})) for p, _ in versions}
        told["state"] = "a sweep is running" if is_running(self.folder) else "no sweep is running"
        rows: list[Row] = [[k, v] for k, v in told.items()]
        yield Sheet("provenance", "What it takes to get these numbers again", ["what", "value"], rows, words.PROVENANCE)
        rows = []
        for o in self.outcomes:
            digests, wrong = o.history.header.get("digests", {}), o.history.header.get("effective_rate")
            wrong = math.nan if wrong is None else wrong  # the truth is not known
            line: Row = [
                o.condition,
                o.cell.method,
                num(wrong, 1, 100),
                digests.get("data", "–"),
                digests.get("noise", "–"),
            ]
            rows.append([*line, f"cells/{o.cell.key}.jsonl"])
        columns = ["noise", "method", "wrong labels in %", "data digest", "noise digest", "ledger file"]
        yield Sheet("digests", "Data, labels and ledger of every cell", columns, rows, words.DIGESTS)

    def build(self) -> list[Path]:
        """Writes everything, the page last. Returns the files, the page first."""
        study = self.study
        trials = [t for h in self.histories.values() for t in h.trials.values()]
        done = sum(t.state == "complete" for t in trials)
        begun = f" {len(self.histories)} of {len(study.cells())} cells begun, {len(trials)} trials, {done} complete."
        parts = (
            self.results,
            self.selection,
            self.statistics,
            self.literature,
            self.training,
            self.search,
            self.cost,
            self.provenance,
        )
        with rc_context(rendering.RC), self.pool:
            sections = [
                Section(name, name.capitalize(), lead + begun * (name == "results"), list(make()))
                for (name, lead), make in zip(words.LEADS.items(), parts, strict=True)
            ]
            pictures = self.drawn()
        sections = [
            s._replace(
                content=[
                    c._replace(png=pictures[c.name]) if isinstance(c, Picture) and c.name in pictures else c
                    for c in s.content
                ]
            )
            for s in sections
        ]
        few = len(study.methods) < 6
        title = f"{study.name}: {', '.join(study.methods) if few else f'{len(study.methods)} methods'}"
        sheets = [c for s in sections for c in s.content if isinstance(c, Sheet)]
        for sheet in sheets:
            for end, text in (("csv", sheet.to_csv()), ("md", sheet.to_markdown()), ("tex", sheet.to_latex())):
                self.write(f"tables/{sheet.name}.{end}", text)
        self.write("tables/all.tex", latex_document(title, [s.name for s in sheets]))
        self.write("study.toml", (self.folder / "study.toml").read_bytes())
        self.write("report.md", markdown(title, sections))
        self.write("index.html", page.document(title, sections))
        return self.files[::-1]


def build(folder: Path, out: Path) -> list[Path]:
    """Writes the report of the study in ``folder`` to ``out``. Returns the files written, ``index.html`` first.

    Raises InputError where ``out`` cannot be written.
    """
    try:
        builder = Builder(folder, out)  # a study that cannot be read leaves no folder
        out.mkdir(parents=True, exist_ok=True)
        gc.freeze()  # else all that was read is walked again and again while figures come and go
        return builder.build()
    except OSError as e:
        raise InputError(f"cannot write the report to {out}: {e.strerror or e}") from None
    finally:
        gc.unfreeze()


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page as Markdown, with the figures as links."""
    out = [f"# {title}", ""]
    for s in sections:
        out += [f"## {s.title}", "", s.lead, ""]
        for c in s.content:
            if isinstance(c, Sheet):
                out += [c.to_markdown()]
            elif isinstance(c, Code):
                out += ["```", c.text, "```", ""]
            elif c.png is None:
                out += [f"*{c.title}: {c.text}.*", ""]
            else:
                out += [f"![{c.title}](figures/{c.name}.png)", "", f"**{c.title}.** {c.text}", ""]
    return "\n".join(out)
