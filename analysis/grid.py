"""A study's cells as a report looks at them: by data set and kind of noise, by rate within, with what selection makes of each."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis import names, truth
from analysis.select import MAIN, RULES, chosen, paper, replicates, score, spread
from raystudy.design.study import Cell, Study, slug
from raystudy.record.ledger import CellHistory, TrialHistory

PLAIN = str.maketrans(" ", "-", "(),")  # of a title, for file names


class Outcome(NamedTuple):
    """A cell and what selection makes of it."""

    cell: Cell
    history: CellHistory
    best: TrialHistory | None
    first: TrialHistory | None
    tuned: list[TrialHistory]  # replicates of the chosen point
    published: list[TrialHistory]  # of the published point
    condition: str  # data set and noise for people; the variant only where it is not the default

    @property
    def oracle(self) -> bool:
        """Whether the chosen point was read off the truth: then its numbers are starred and win nothing."""
        return truth.oracle(self.best, self.history.header)

    @property
    def method(self) -> str:
        """Starred where its point was read off the truth."""
        return self.cell.method + "*" * self.oracle

    @property
    def rate(self) -> float:
        """The noise rate to show numbers over; NaN where nobody knows it."""
        return truth.rate(self.cell.noise, self.history.header)

    def by_seed(self, rule: str) -> dict[int, float]:
        """Test accuracy of each replicate by its seed."""
        told = {t.seed: RULES[rule](t) for t in self.tuned}
        return {s: v for s, v in told.items() if not math.isnan(v)}

    def keys(self) -> dict[str, Any]:
        """The cell as columns of a CSV."""
        n = self.cell.noise
        told: dict[str, Any] = {"method": self.cell.method, "dataset": self.cell.dataset}
        told |= {"noise": n.kind, "variant": n.variant}
        told |= {"rate": "" if truth.came(n) else n.rate, "setting": self.cell.suffix.strip()}
        return told | {"test_labels": "clean" if truth.tested_clean(self.history.header) else "given"}


class Group(NamedTuple):
    """The conditions of one data set and kind of noise, which differ in the rate alone."""

    name: str  # for files
    title: str
    levels: dict[str, dict[str, Outcome]]  # level, for people -> method -> outcome

    def rates(self) -> dict[str, float]:
        """The noise rate of each level."""
        return {level: next(iter(row.values())).rate for level, row in self.levels.items()}

    @property
    def known(self) -> bool:
        """Whether it is known which labels are wrong."""
        return all(truth.known(o.history.header) for row in self.levels.values() for o in row.values())

    @property
    def measured(self) -> str:
        """What the accuracy on the test images is called."""
        return truth.measured(o.history.header for row in self.levels.values() for o in row.values())

    @property
    def relative(self) -> str:
        """A sentence where noise was drawn on labels that may be wrong themselves."""
        return truth.relative(o.history.header for row in self.levels.values() for o in row.values())

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty where they are their numbers."""
        return tuple(
            next((o.history.header.get("classes", ()) for row in self.levels.values() for o in row.values()), ())
        )

    def starred(self) -> str:
        """A sentence for figures, where no star can stand: which of their numbers are ORACLE."""
        found = {m: [level for level, row in self.levels.items() if m in row and row[m].oracle] for m in self.methods()}
        told = [f"{m} at {', '.join(levels)}" for m, levels in found.items() if levels]
        return f" ORACLE, points read off the truth: {'; '.join(told)}." if told else ""

    def of(self, method: str) -> list[Outcome]:
        return [row[method] for row in self.levels.values() if method in row]

    def methods(self) -> list[str]:
        """The methods, best first by their mean over the levels."""
        found = dict.fromkeys(m for row in self.levels.values() for m in row)
        means = {m: spread(score(o.tuned, MAIN).mean for o in self.of(m)).mean for m in found}
        return sorted(found, key=lambda m: -np.nan_to_num(means[m]))

    def top(self, most: int, baseline: str = "ce") -> tuple[list[str], str]:
        """The best methods and the baseline, and a sentence for figures that leave the others out."""
        methods = self.methods()
        if len(methods) <= most:
            return methods, ""
        kept = methods[:most] + [m for m in methods[most:] if m == baseline]
        return kept, f" Shown: {len(kept)} of {len(methods)} methods, the best and {baseline}; all are in the tables."

    def some(self, most: int) -> dict[str, dict[str, Outcome]]:
        """At most so many levels, evenly spread, the first and the last among them; their titles for panels."""
        levels = list(self.levels)
        keep = sorted({round(i) for i in np.linspace(0, len(levels) - 1, min(most, len(levels)))})
        return {f"noise {levels[i]}": self.levels[levels[i]] for i in keep}


def grouped(study: Study, histories: Mapping[Cell, CellHistory]) -> list[Group]:
    """A study's cells by data set and kind of noise, by rate within."""
    found: dict[tuple[Any, ...], list[Outcome]] = {}
    for cell, history in histories.items():
        best, first = chosen(history, study.objective), paper(history)
        n, condition = cell.noise, names.told(cell.condition.replace(":inclusive", ""), study)
        outcome = Outcome(cell, history, best, first, replicates(history, best), replicates(history, first), condition)
        found.setdefault((cell.dataset, n.kind, n.variant, n.count, cell.suffix), []).append(outcome)
    out = []
    for (dataset, kind, variant, count, suffix), outcomes in found.items():
        outcomes.sort(key=lambda o: -1.0 if math.isnan(o.rate) else o.rate)
        words = [kind, variant, "" if count == "exact_global" else count, suffix.strip()]
        noise = " ".join(w for w in words if w)
        levels: dict[str, dict[str, Outcome]] = {}
        for o in outcomes:
            level = kind if truth.came(o.cell.noise) else f"{o.cell.noise.rate:g}"
            levels.setdefault(level, {})[o.cell.method] = o
        title = names.told(f"{dataset}, {noise}", study)
        out.append(Group(slug(f"{slug(dataset)}-{noise}".translate(PLAIN)), title, levels))
    return out


def mean(values: Iterable[float]) -> float:
    """Mean of what is not NaN."""
    return spread(values).mean
