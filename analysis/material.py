"""What the sections of a report are made from, and what they are made of: a study as it was read, and figures with their words."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from analysis import leaderboard, load, truth
from analysis.grid import Group, Outcome, grouped
from analysis.page import Code, Picture
from analysis.sheets import Sheet
from raystudy.design.study import Cell, Study
from raystudy.record import usage
from raystudy.record.ledger import CellHistory, TrialHistory

FEW, MANY = 4, 12  # noise levels in a figure whose panels need room, and in others; evenly spread where there are more
TOP = 11  # methods in a figure with a panel for each


class Plot(NamedTuple):
    """A figure with its words, to be drawn; where it is None, ``absent`` says why there is none."""

    name: str
    title: str
    text: str
    figure: Figure | None
    absent: str = "nothing has been measured yet"


Item = Sheet | Plot | Picture | Code


@dataclass(frozen=True)
class Material:
    """A study as it was read, in the groups that a report shows."""

    folder: Path
    study: Study
    histories: dict[Cell, CellHistory]
    groups: list[Group]

    @property
    def outcomes(self) -> list[Outcome]:
        return [o for g in self.groups for row in g.levels.values() for o in row.values()]

    @property
    def rules(self) -> list[str]:
        """The rules for the epoch that this study can be judged by."""
        return leaderboard.rules(self.study)

    def label(self, rule: str) -> str:
        """A rule's name for people."""
        return leaderboard.label(rule, self.study)

    @property
    def measured(self) -> str:
        """What the accuracy on the test images is called, of all cells together."""
        return truth.measured(h.header for h in self.histories.values())

    @property
    def relative(self) -> str:
        """A sentence where noise was drawn on labels that may be wrong themselves."""
        return truth.relative(h.header for h in self.histories.values())

    @property
    def spans(self) -> list[usage.Span]:
        """What the study's drivers saw of its places."""
        return usage.read(self.folder)

    def arrays(self, trials: list[TrialHistory]) -> list[load.Arrays]:
        """What some finished trials left for figures, of those that have."""
        return [a for t in trials if (a := load.arrays(self.folder, t.key)) is not None]


def gathered(folder: Path) -> Material:
    """The study in a folder."""
    study, histories = load.study(folder)
    return Material(folder, study, histories, grouped(study, histories))
