"""Tables for the terminal: the leaderboard of a study and the state of its cells."""

import math
from collections import Counter
from collections.abc import Mapping

from rich import box
from rich.table import Table

from analysis.select import RULES, Score, chosen, paper, replicates, score
from raystudy.ledger import CellHistory
from raystudy.study import Cell, Study


def percent(s: Score) -> str:
    """``95.1 ± 0.3`` in percent; without a deviation where there is only one training; a dash for nothing."""
    if math.isnan(s.mean):
        return "–"
    return f"{100 * s.mean:.1f}" + (f" ± {100 * s.std:.1f}" if not math.isnan(s.std) else "")


def leaderboard(study: Study, histories: Mapping[Cell, CellHistory]) -> Table:
    """Test accuracy in percent of every method at every noise level under every selection rule, best method first in each level."""
    shown = [r for r in RULES if r != "clean_val" or study.clean_val]
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{study.name}: clean test accuracy in %, mean ± standard deviation over replicates",
        caption="Point chosen by noisy validation. tuned - paper: percentage points under last10. n: replicates. "
        "ORACLE picks the epoch on the test set and is no result. * paper point read off the truth.",
        title_justify="left",
        caption_justify="left",
    )
    for name in ("data and noise", "wrong", "method"):
        table.add_column(name, no_wrap=True)
    for rule in shown:
        label = {"oracle_test": "ORACLE", "clean_val": f"clean_val({study.clean_val})"}.get(rule, rule)
        table.add_column(label, justify="right", style="bright_black" if rule == "oracle_test" else "", no_wrap=True)
    for name in ("n", "tuned - paper", "s / run"):
        table.add_column(name, justify="right", no_wrap=True)

    conditions: dict[str, list[Cell]] = {}
    for cell in histories:
        conditions.setdefault(cell.condition, []).append(cell)
    for condition, cells in conditions.items():
        rows = []
        for cell in cells:
            history = histories[cell]
            tuned, published = (replicates(history, t) for t in (chosen(history, study.objective), paper(history)))
            scores = {rule: score(tuned, rule) for rule in shown}
            gain = scores["last10"].mean - score(published, "last10").mean
            wrong = history.header.get("effective_rate", math.nan)
            seconds = [math.fsum(t.curves["cost/seconds"]) for t in tuned if "cost/seconds" in t.curves]
            star = "*" if (p := paper(history)) and p.oracle else ""
            row = [f"{100 * wrong:.0f} %", cell.method + star, *(percent(scores[r]) for r in shown), str(len(tuned))]
            row += [
                "–" if math.isnan(gain) else f"{100 * gain:+.1f}",
                f"{sum(seconds) / len(seconds):.0f}" if seconds else "–",
            ]
            rows.append((scores["last10"].mean, row))
        rows.sort(key=lambda r: -r[0] if not math.isnan(r[0]) else math.inf)
        for i, (_, row) in enumerate(rows):
            table.add_row(condition if i == 0 else "", *row, end_section=i == len(rows) - 1)
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
        "data and noise",
        "complete",
        "pruned",
        "diverged",
        "failed",
        "unfinished",
        "epochs",
        "best noisy val",
        "chosen point",
    ):
        table.add_column(name, justify="left" if name in ("method", "data and noise", "chosen point") else "right")
    for cell in study.cells():
        history = histories.get(cell) or CellHistory(cell.key)
        states = Counter(t.state for t in history.trials.values())
        best = chosen(history, study.objective)
        table.add_row(
            cell.method,
            cell.condition,
            *(str(states[s]) for s in ("complete", "pruned", "diverged", "failed", "running")),
            str(sum(t.epochs for t in history.trials.values())),
            f"{100 * max(best.curves['val/acc']):.1f}" if best else "–",
            point(best.point) if best else "–",
        )
    return table


def point(values: Mapping[str, object]) -> str:
    """A hyperparameter point in one line."""
    return (
        ", ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
        or "(no hyperparameters)"
    )
