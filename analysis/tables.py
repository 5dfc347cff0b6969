"""Tables for the terminal: the leaderboard of a study and the state of its cells."""

import math
from collections import Counter
from collections.abc import Mapping

from rich import box
from rich.markup import escape
from rich.table import Table

from analysis.select import CLEAN_VAL, RULES, TEST, Score, chosen, gap, paper, replicates, score
from raystudy.design.names import OBJECTIVES
from raystudy.design.study import Cell, Study
from raystudy.record.ledger import CellHistory

READ = (*OBJECTIVES, TEST, CLEAN_VAL, "cost/seconds")  # the metrics that the tables here look at
NOISE_WIDTH = (
    44  # of a column, in characters: the name of a data set can be long, and the numbers are what is looked for
)


def percent(s: Score) -> str:
    """``95.1 ± 0.3`` in percent; without a deviation where there is only one training; a dash for nothing."""
    if math.isnan(s.mean):
        return "–"
    return f"{100 * s.mean:.1f}" + (f" ± {100 * s.std:.1f}" if not math.isnan(s.std) else "")


def level(cell: Cell, study: Study) -> str:
    """Noise, short: ``symmetric 0.2``; the variant only where it is not the default, the data set only where there are several."""
    noise = cell.noise.label.replace(":inclusive", "").replace(":", " ")
    noise += cell.suffix
    return noise if len(study.datasets) == 1 else f"{cell.dataset} {noise}"


def leaderboard(study: Study, histories: Mapping[Cell, CellHistory]) -> Table:
    """Test accuracy in percent of every method at every noise level under every selection rule, best method first in each level."""
    shown = [r for r in RULES if r != "clean_val" or study.clean_val]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{study.name} ({escape(', '.join(study.datasets))}): clean test accuracy in %, mean ± standard deviation over replicates",
        caption="Point chosen by noisy validation. wrong: share of wrong labels. n: replicates. gain: tuned - paper point, "
        "percentage points under last10. ORACLE picks the epoch on the test set and is no result; gap: ORACLE - noisy_val. "
        "*: a point read off the truth.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("noise", overflow="fold", max_width=NOISE_WIDTH)
    table.add_column("wrong", justify="right")
    table.add_column("method", no_wrap=True)
    for rule in shown:
        label = {"oracle_test": "ORACLE", "clean_val": f"clean_val({study.clean_val})"}.get(rule, rule)
        table.add_column(label, justify="right", style="bright_black" if rule == "oracle_test" else "")
    for name in ("gap", "n", "gain", "s/run"):
        table.add_column(name, justify="right")

    conditions: dict[str, list[Cell]] = {}
    for cell in histories:
        conditions.setdefault(cell.condition, []).append(cell)
    for cells in conditions.values():
        rows = []
        for cell in cells:
            history = histories[cell]
            best, first = chosen(history, study.objective), paper(history)
            tuned, published = replicates(history, best), replicates(history, first)
            scores = {rule: score(tuned, rule) for rule in shown}
            gain = scores["last10"].mean - score(published, "last10").mean
            wrong = history.header.get("effective_rate")  # None where the truth is not known
            seconds = [math.fsum(t.curves["cost/seconds"]) for t in tuned if "cost/seconds" in t.curves]
            method = escape(cell.method) + "*" * bool(best and best.oracle)
            lost = gap(tuned).mean
            row = ["?" if wrong is None else f"{100 * wrong:.0f} %", method, *(percent(scores[r]) for r in shown)]
            row += ["–" if math.isnan(lost) else f"{100 * lost:.1f}", str(len(tuned))]
            row += [
                "–" if math.isnan(gain) else f"{100 * gain:+.1f}" + "*" * bool(first and first.oracle),
                f"{sum(seconds) / len(seconds):.0f}" if seconds else "–",
            ]
            rows.append((scores["last10"].mean, row))
        rows.sort(key=lambda r: -r[0] if not math.isnan(r[0]) else math.inf)
        for i, (_, row) in enumerate(rows):
            table.add_row(escape(level(cells[0], study)) if i == 0 else "", *row, end_section=i == len(rows) - 1)
    return table


def status(study: Study, histories: Mapping[Cell, CellHistory]) -> Table:
    """How far each cell is, and what it has chosen so far."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{study.name}: {study.trials} trials a cell, {study.replicates} replicates",
        title_justify="left",
    )
    for name in (
        "method",
        "noise",
        "complete",
        "pruned",
        "diverged",
        "failed",
        "unfinished",
        "epochs",
        "best noisy val",
        "chosen point",
    ):
        left, width = name in ("method", "noise", "chosen point"), NOISE_WIDTH if name == "noise" else None
        table.add_column(name, justify="left" if left else "right", overflow="fold", max_width=width)
    for cell in study.cells():
        history = histories.get(cell) or CellHistory(cell.key)
        states = Counter(t.state for t in history.trials.values())
        best = chosen(history, study.objective)
        table.add_row(
            escape(cell.method),
            escape(level(cell, study)),
            *(str(states[s]) for s in ("complete", "pruned", "diverged", "failed", "running")),
            str(sum(t.epochs for t in history.trials.values())),
            f"{100 * max(best.curves.get('val/acc', [math.nan])):.1f}" if best else "–",
            escape(point(best.point)) if best else "–",
        )
    return table


def point(values: Mapping[str, object]) -> str:
    """A hyperparameter point in one line."""
    return (
        ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
        or "(no hyperparameters)"
    )
