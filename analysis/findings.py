"""What a study says about the field: what selection on the test set would gain, whether published orders hold, how fast is memorised.

Pure functions of histories and numbers; accuracies in [0, 1]. docs/results.md is made of them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis.select import RULES, chosen, searched
from analysis.stats import ALPHA, DRAWS
from raystudy.record.ledger import CellHistory


class Peeking(NamedTuple):
    """What looking at the test set adds to a number, in accuracy; NaN where no trial has ended."""

    honest: float  # point and epoch by noisy validation
    epoch: float  # the same point, the best test epoch
    point: float  # the best of all points on the test set, the epoch by noisy validation
    both: float  # the best test epoch of all points: what a "best" column of a grid reports

    @property
    def gains(self) -> tuple[float, float, float]:
        """What the three add to the honest number: epoch, point, both. None is below 0 but for ties of equal validation epochs."""
        return self.epoch - self.honest, self.point - self.honest, self.both - self.honest


def peeking(cell: CellHistory) -> Peeking:
    """Honest and ORACLE numbers of one cell, from its finished trials on the search's own seed."""
    first = chosen(cell, cell.header.get("objective", "val/acc"))
    done = [t for t in searched(cell) if t.state == "complete"]
    if first is None:
        return Peeking(*[math.nan] * 4)
    by_val, by_test = RULES["noisy_val"], RULES["oracle_test"]
    return Peeking(by_val(first), by_test(first), max(map(by_val, done)), max(map(by_test, done)))


class Agreement(NamedTuple):
    """How far two lists of accuracies of the same methods have one order."""

    tau: float  # Kendall's tau-b: 1 the same order, -1 the reverse
    low: float  # interval, see ``agreement``
    high: float
    n: int  # methods


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Agreement:
    """Kendall's tau-b over the methods that both have (Kendall 1945), with a 95 % interval over which methods were compared.

    The interval is the percentile bootstrap of the methods (seeded; draws in which all are equal are left out). NaN below three methods.
    """
    both = [m for m in ours if m in theirs and not math.isnan(ours[m]) and not math.isnan(theirs[m])]
    if len(both) < 3:
        return Agreement(math.nan, math.nan, math.nan, len(both))
    a, b = (np.array([of[m] for m in both]) for of in (ours, theirs))
    signs = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    drawn = np.random.default_rng(0).multinomial(len(both), np.full(len(both), 1 / len(both)), DRAWS).astype(float)

    def pairs(of: np.ndarray) -> np.ndarray:
        """The sum of ``of`` [n, n] over all pairs of each draw, a method counted as often as it was drawn."""
        return np.einsum("di,ij,dj->d", drawn, of, drawn)

    all_ = np.sqrt(pairs(np.abs(signs[0])) * pairs(np.abs(signs[1])))
    known = pairs(signs[0] * signs[1])[all_ > 0] / all_[all_ > 0]
    low, high = np.quantile(known, [ALPHA / 2, 1 - ALPHA / 2]) if len(known) else (math.nan, math.nan)
    return Agreement(float(stats.kendalltau(a, b).statistic), float(low), float(high), len(both))


def fitted(loss: Sequence[float], n_classes: int, share: float = 0.05) -> float:
    """Convergence time: epochs until the training loss is ``share`` of that of a guess, ln K; infinite where it never is.

    Between two epochs it is interpolated linearly, so that curves are told apart that fit within a few epochs. Epoch 0 has ln K.
    """
    goal, before = share * math.log(n_classes), math.log(n_classes)
    for epoch, now in enumerate(loss, 1):
        if now <= goal:
            return epoch if before <= now else epoch - 1 + (before - goal) / (before - now)
        before = now
    return math.inf
