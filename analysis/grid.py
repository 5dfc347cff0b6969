"""A study's cells as a report looks at them: by data set and kind of noise, by rate within, with what selection makes of each."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from analysis.select import RULES, chosen, paper, replicates, score, spread
from raystudy.data.noise import NOISES
from raystudy.design.study import Cell, Study, slug
from raystudy.record.ledger import CellHistory, TrialHistory

PLAIN = str.maketrans(" ", "-", "(),")  # of a title, for file names
MAIN = "last10"  # the rule of figures and tests; the leaderboard is shown under every rule


class Outcome(NamedTuple):
    """A cell and what selection makes of it."""

    cell: Cell
    history: CellHistory
    best: TrialHistory | None
    first: TrialHistory | None
    tuned: list[TrialHistory]  # replicates of the chosen point
    published: list[TrialHistory]  # of the published point

    @property
    def method(self) -> str:
        """Starred where its point was read off the truth."""
        return self.cell.method + "*" * bool(self.best and self.best.oracle)

    @property
    def condition(self) -> str:
        """Data set and noise for people; the variant only where it is not the default."""
        return self.cell.condition.replace(":inclusive", "")

    def by_seed(self, rule: str) -> dict[int, float]:
        """Test accuracy of each replicate by its seed."""
        told = {t.seed: RULES[rule](t) for t in self.tuned}
        return {s: v for s, v in told.items() if not math.isnan(v)}

    def keys(self) -> dict[str, Any]:
        """The cell as columns of a CSV."""
        n = self.cell.noise
        told = {"method": self.cell.method, "dataset": self.cell.dataset, "noise": n.kind, "variant": n.variant}
        return told | {"rate": n.rate, "setting": self.cell.suffix.strip()}


class Group(NamedTuple):
    """The conditions of one data set and kind of noise, which differ in the rate alone."""

    name: str  # for files
    title: str
    levels: dict[str, dict[str, Outcome]]  # level, for people -> method -> outcome

    def rates(self) -> list[float]:
        return [next(iter(row.values())).cell.noise.rate for row in self.levels.values()]

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
        names = list(self.levels)
        keep = sorted({round(i) for i in np.linspace(0, len(names) - 1, min(most, len(names)))})
        return {f"noise {names[i]}": self.levels[names[i]] for i in keep}


def grouped(study: Study, histories: Mapping[Cell, CellHistory]) -> list[Group]:
    """A study's cells by data set and kind of noise, by rate within."""
    found: dict[tuple[Any, ...], list[Outcome]] = {}
    for cell, history in histories.items():
        best, first = chosen(history, study.objective), paper(history)
        outcome = Outcome(cell, history, best, first, replicates(history, best), replicates(history, first))
        n = cell.noise
        found.setdefault((cell.dataset, n.kind, n.variant, n.count, cell.suffix), []).append(outcome)
    out = []
    for (dataset, kind, variant, count, suffix), outcomes in found.items():
        outcomes.sort(key=lambda o: o.cell.noise.rate)
        words = [kind, variant, "" if count == "exact_global" else count, suffix.strip()]
        noise = " ".join(w for w in words if w)
        levels: dict[str, dict[str, Outcome]] = {}
        for o in outcomes:
            has_rate = NOISES[kind].matrix is not None or o.cell.noise.rate
            levels.setdefault(f"{o.cell.noise.rate:g}" if has_rate else kind, {})[o.cell.method] = o
        out.append(Group(slug(f"{slug(dataset)}-{noise}".translate(PLAIN)), f"{dataset}, {noise}", levels))
    return out


def mean(values: Iterable[float]) -> float:
    """Mean of what is not NaN."""
    return spread(values).mean
