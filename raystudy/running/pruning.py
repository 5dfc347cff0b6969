"""Early stopping: at which epochs trials of a cell are compared, and which of them stop there. Decides from numbers it is given.

With which trials one is compared (those before it in virtual time that are past their warm-up) is seen to in ``search.CellSearch``.
"""

import math
from collections.abc import Sequence

import numpy as np

from raystudy.design.names import SCHEDULERS
from raystudy.design.space import Space
from raystudy.design.study import Cell, Study
from raystudy.errors import unknown
from raystudy.learn.point import Point

REDUCTION = 3  # ASHA: the best third of a rung goes on

PEERS = 2  # ... once so many earlier trials have come that far


def rungs(study: Study, cell: Cell, space: Space, paper_point: Point) -> list[int]:
    """The epochs at which trials of a cell may be stopped: from its warm-up or a ninth of the budget on, each three times the last."""
    if study.scheduler == "none":
        return []
    if study.scheduler != "asha":
        raise unknown("scheduler", study.scheduler, SCHEDULERS)
    first = math.ceil(max(space.settled(paper_point), 1 / REDUCTION**2) * study.epochs_of(cell))
    return [r for k in range(20) if (r := first * REDUCTION**k) < study.epochs_of(cell)]


def stopped(mine: float, others: Sequence[float]) -> float | None:
    """ASHA's decision at a rung (Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, algorithm 2).

    ``mine`` and ``others`` are values at the same epoch, larger is better. The cutoff that ``mine`` misses, or None if it goes on: it is
    among the best third, or fewer than ``PEERS`` others have come that far.
    """
    cutoff = float(np.quantile(others, 1 - 1 / REDUCTION)) if len(others) >= PEERS else -math.inf
    return None if mine >= cutoff else cutoff
