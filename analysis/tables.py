"""Tables for the terminal: the leaderboard of a study and the state of its cells. They fit the width and, where asked to, a screen."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.markup import escape
from rich.table import Table

from analysis import collapse, names, truth
from analysis.leaderboard import Line, foremost, label, lines, overall, rules
from analysis.select import BALANCED, CLEAN_VAL, TEST, Score, chosen, reached
from raystudy.design.names import OBJECTIVES
from raystudy.design.study import Cell, Study
from raystudy.record.ledger import ENDED, CellHistory

READ = (
    *OBJECTIVES,
    TEST,
    BALANCED,
    CLEAN_VAL,
    "cost/seconds",
    collapse.METRIC,
)  # the metrics that the tables here look at
SCREEN = 40  # rows of the short form
PLENTY = 24  # characters of a hyperparameter point from which on it may be folded
WHOLE = ("noise", "method")  # columns that are never left out nor cut
NEEDLESS = (
    "s/run",
    "wrong",
    "last",
    "gap",
    "n",
    "noisy_val",
    "gain",
    "ORACLE",
    "balanced",
)  # left out first, where there is no room
SELDOM = ("epochs", "pruned", "chosen point", "diverged", "failed", "complete")
Columns = dict[str, list[str]]  # texts by the name above them


def percent(s: Score) -> str:
    """``95.1 ± 0.3`` in percent; without a deviation where there is only one training; a dash for nothing."""
    if math.isnan(s.mean):
        return "–"
    return f"{100 * s.mean:.1f}" + (f" ± {100 * s.std:.1f}" if not math.isnan(s.std) else "")


def level(cell: Cell, study: Study) -> str:
    """Noise, short: ``symmetric 0.2``; the variant only where it is not the default, the data set only where there are several."""
    noise = names.told(cell.noise.label, study).replace(":inclusive", "").replace(":", " ")
    noise += cell.suffix
    return noise if len(study.datasets) == 1 else f"{names.told(cell.dataset, study)} {noise}"


def _needs(name: str, texts: Sequence[str]) -> int:
    """How many characters a column needs."""
    natural = max(map(cell_len, (*name.split("\n"), *texts)))
    return min(natural, PLENTY) if name == "chosen point" else natural


def fitting(columns: Columns, width: int, needless: Sequence[str]) -> list[str]:
    """The names of the columns that stand side by side in ``width``, less as many of ``needless`` as it takes, the first of them first."""
    need, kept = {name: _needs(name, texts) for name, texts in columns.items()}, list(columns)
    for name in needless:
        if name in kept and sum(need[n] + 2 for n in kept) + 1 > width:
            kept.remove(name)
    return kept


def _table(
    columns: Columns, width: int, needless: Sequence[str], left: Collection[str], ends: Collection[int]
) -> Table:
    """A table of the columns that fit; a rule of space after the rows ``ends``."""
    kept = fitting(columns, width, needless)
    airy = len(kept) == len(columns) and sum(_needs(name, columns[name]) + 3 for name in kept) + 1 <= width
    padding = (0, 1) if airy else (0, 1, 0, 0)
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", padding=padding)
    for name in kept:
        table.add_column(
            name,
            justify="left" if name in left else "right",
            style="bright_black" if name == "ORACLE" else "",
            overflow="fold",
            min_width=min(_needs(name, columns[name]), width // 2) if name in WHOLE else None,
            no_wrap=name not in ("chosen point", *WHOLE),
        )
    for i, texts in enumerate(zip(*(columns[name] for name in kept), strict=True)):
        table.add_row(*map(escape, texts), end_section=i in ends)
    return table


def leaderboard(
    study: Study, histories: Mapping[Cell, CellHistory], width: int = 160, most: int | None = None
) -> Table:
    """Accuracy in percent of every method at every noise level under every selection rule, best method first in each level.

    ``most``: with more rows than that only the best methods of each condition, or of very many conditions the means.
    """
    conditions, shortened = lines(study, histories), ""
    every, title = sum(map(len, conditions)), f"{study.name} ({escape(_datasets(study))}): "
    rows = [(level(c.cell, study) if i == 0 else "", c) for told in conditions for i, c in enumerate(told)]
    ends = [sum(map(len, conditions[: i + 1])) - 1 for i in range(len(conditions))]
    if most is not None and every > most >= len(conditions):
        few = [foremost(told, most // len(conditions)) for told in conditions]
        rows = [(level(c.cell, study) if i == 0 else "", c) for told in few for i, c in enumerate(told)]
        ends = [sum(map(len, few[: i + 1])) - 1 for i in range(len(few))] if most > 2 * len(few) else []
        shortened = f" Shown: the best methods of each condition, {len(rows)} of {every} rows; {_whole(study)}."
    elif most is not None and every > most:
        rows = [(f"{n} conditions", c) for n, c in overall(conditions)[:most]]
        ends = []
        shortened = f" Means over the conditions that a method has, of {len(conditions)}; {_whole(study)}."
    columns = _columns(rows, study)
    table = _table(columns, width, NEEDLESS, WHOLE, ends)
    measured = truth.measured(h.header for h in histories.values())
    title += "clean " * (measured == truth.TESTED) + measured
    table.title = f"{title} in %, mean ± standard deviation over replicates"
    shown = [str(column.header) for column in table.columns]
    left_out = [name for name in columns if name not in shown]
    told = "Point chosen by noisy validation." + "".join(f" {text}" for name, text in LEGEND.items() if name in shown)
    told += f" {study.evaluated}" * bool(study.evaluated)
    told += " *: a point read off the truth." * any(c.oracle or c.against_oracle for _, c in rows)
    if partly := [f"{c.cell.method} ({c.partly})" for _, c in rows if c.partly and not c.oracle]:
        told += f" Points read off the truth are in the means of {', '.join(partly)}, in so many conditions."
    told += truth.relative(h.header for h in histories.values())
    told += f" Before every method: {study.filter}." * bool(study.filter)
    told += f" Left out for want of room: {', '.join(left_out)}." * bool(left_out)
    table.caption = told + escape(shortened + names.full(study))
    return table


LEGEND = {
    "balanced": "balanced: mean recall of the classes, under last10.",
    "wrong": "wrong: share of wrong labels, ? where nobody knows.",
    "n": "n: replicates.",
    "gain": "gain: tuned - paper point, percentage points under last10.",
    "ORACLE": "ORACLE picks the epoch on the test set and is no result.",
    "gap": "gap: ORACLE - noisy_val.",
}


def _columns(rows: Sequence[tuple[str, Line]], study: Study) -> Columns:
    cells = [line for _, line in rows]
    columns: Columns = {
        "noise": [noise for noise, _ in rows],
        "wrong": ["?" if c.wrong is None else f"{100 * c.wrong:.0f} %" for c in cells],
        "method": [c.cell.method + "*" * c.oracle for c in cells],
    }
    columns |= {label(rule, study): [percent(c.scores[rule]) for c in cells] for rule in rules(study)}
    if not all(math.isnan(c.balanced.mean) for c in cells):
        columns["balanced"] = [percent(c.balanced) for c in cells]
    return columns | {
        "gap": ["–" if math.isnan(c.gap) else f"{100 * c.gap:.1f}" for c in cells],
        "n": [str(c.n) for c in cells],
        "gain": ["–" if math.isnan(c.gain) else f"{100 * c.gain:+.1f}" + "*" * c.against_oracle for c in cells],
        "s/run": ["–" if math.isnan(c.seconds) else f"{c.seconds:.0f}" for c in cells],
    }


def _datasets(study: Study) -> str:
    """A study's data sets by their short names; of many, how many."""
    told = ", ".join(names.told(d, study) for d in study.datasets)
    return told if len(told) <= 60 else f"{len(study.datasets)} data sets"


def _whole(study: Study) -> str:
    return f"all of it: raystudy status {study.name} --all, or raystudy report {study.name}"


def status(study: Study, histories: Mapping[Cell, CellHistory], width: int = 160, most: int | None = None) -> Table:
    """How far each cell is, and what it has chosen so far. ``most``: of more cells than that a row for each condition, or each method."""
    cells, shortened = study.cells(), ""
    groups: dict[str, list[Cell]] = {cell.key: [cell] for cell in cells}
    if most is not None and len(cells) > most:
        by = {"condition": [c.condition for c in cells], "method": [c.method for c in cells]}
        what = "condition" if len(set(by["condition"])) <= most else "method"
        groups = {name: [c for c, own in zip(cells, by[what], strict=True) if own == name] for name in by[what]}
        shortened = f"; {len(cells)} cells, summed for each {what}; {_whole(study)}"
    columns: Columns = {}
    for group in groups.values():
        for name, text in _state(study, group, histories).items():
            columns.setdefault(name, []).append(text)
    table = _table(columns, width, SELDOM, (*WHOLE, "chosen point"), ())
    table.title = escape(f"{study.name}: {study.trials} trials a cell, {study.replicates} replicates{shortened}")
    table.caption = escape(collapsed(study, histories, most)) or None
    return table


def collapsed(study: Study, histories: Mapping[Cell, CellHistory], most: int | None) -> str:
    """Which cells have trainings that collapsed, and how; of many cells how many of each method."""
    found = collapse.found(histories, study.cells())
    told = [
        f"{c.cell.method} {level(c.cell, study)} ({len(c.trials)} of {c.of}: {collapse.what(c.trials)})" for c in found
    ]
    if most is not None and len(told) > most // 4:
        methods = Counter(c.cell.method for c in found)
        told = [f"{method} ({n} cells)" for method, n in methods.items()]
    return (
        f"Collapsed trials ({' or '.join(collapse.WHAT.values())}, {collapse.WHEN}): {', '.join(told)}." if told else ""
    )


def _state(study: Study, cells: Sequence[Cell], histories: Mapping[Cell, CellHistory]) -> dict[str, str]:
    """A row of ``status``: of a cell, or of several together."""
    found = [histories.get(cell) or CellHistory(cell.key) for cell in cells]
    trials = [t for history in found for t in history.trials.values()]
    states = Counter(t.state for t in trials)
    picked = [best for history in found if (best := chosen(history, study.objective))]
    highest = max((v for v in map(reached, picked) if not math.isnan(v)), default=math.nan)
    methods, noises = {c.method for c in cells}, {level(c, study) for c in cells}
    return {
        "method": methods.pop() if len(methods) == 1 else f"{len(methods)} methods",
        "noise": noises.pop() if len(noises) == 1 else f"{len(noises)} conditions",
        **{state: str(states[state]) for state in ENDED},
        "unfinished": str(states["running"]),
        "epochs": str(sum(t.epochs for t in trials)),
        "best\nnoisy val": "–" if math.isnan(highest) else f"{100 * highest:.1f}",
    } | ({"chosen point": point(picked[0].point) if picked else "–"} if len(cells) == 1 else {})


def short(v: float) -> str:
    """Three digits, or as many more as keep a share near 1 from being written as 1."""
    return next((text for digits in range(3, 17) if ((text := f"{v:.{digits}g}") == "1") == (v == 1)), repr(v))


def point(values: Mapping[str, object]) -> str:
    """A hyperparameter point in one line."""
    return (
        ", ".join(f"{k}={short(v)}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
        or "(no hyperparameters)"
    )
