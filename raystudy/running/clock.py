"""Virtual time: what a proposal of a cell may see, decided by a clock that every machine computes alike. Knows no trial and no Optuna.

A cell has ``workers`` virtual workers, fixed when its study begins. A trial occupies one from its virtual start for its virtual cost, which
follows from its point and how far it came: its epochs, since all trials of a cell are of one method. (Sample passes would be closer to
seconds, but how many an epoch takes is known only afterwards, and then no bound can be given for a trial that runs.) Seconds never enter.

Trial n starts when a virtual worker is free: when the (n - workers + 1)-th of the trials before it, in the order of their virtual ends, has
ended. Its proposal sees exactly these trials, and no others, however much has really ended by then. Ends at the same time are in the order
of their numbers, so trials that run equally long free their workers one after the other and not all at once.

Virtual starts are in the order of the numbers, and all virtual workers are equally fast, so the trials that have come to a rung by the
time trial n does are those before it: with these it is compared.

A proposal is known as soon as nothing that still runs can end before the trial whose worker it takes; how early a trial may end, its next
rung tells (conservative discrete-event simulation, Chandy and Misra 1979, with the rungs as look-ahead). Until then it is waited for.
"""

import math
from bisect import insort
from collections.abc import Mapping
from typing import NamedTuple


class Turn(NamedTuple):
    """When a trial starts in virtual time, and the numbers of the trials that its proposal sees, in the order in which they are told."""

    start: int
    seen: list[int]


def virtual_workers(slack: float, workers: float, cells: int) -> int:
    """Virtual workers of a cell: its share of the real ones, times ``slack``; at least 1.

    With more of them than real workers the next proposal is known before a real worker is free, and sees so much less.
    """
    return max(1, math.ceil(round(slack * workers / max(1, cells), 9)))


class Clock:
    """The virtual time of one cell. Trials begin in the order of their numbers, from 0, and end in any order."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.starts: list[int] = []  # by number
        self.ends: list[tuple[int, int]] = []  # virtual end and number of those that have ended, in this order

    def turn(self, earliest: Mapping[int, int]) -> Turn | None:
        """When the next trial starts and what it sees; None while that is not known.

        ``earliest``: of each trial that runs, by number, the earliest virtual time at which it may end.
        """
        last = len(self.starts) - self.workers  # of the ends that it sees
        if last < 0:
            return Turn(0, [])
        if last >= len(self.ends) or any((end, n) < self.ends[last] for n, end in earliest.items()):
            return None
        return Turn(self.ends[last][0], [n for _, n in self.ends[: last + 1]])

    def begin(self, start: int) -> None:
        """The next trial begins."""
        self.starts.append(start)

    def end(self, number: int, cost: int) -> None:
        """A trial has ended, ``cost`` after its start."""
        insort(self.ends, (self.starts[number] + cost, number))

    def peers(self, number: int) -> range:
        """The trials with which one is compared at a rung."""
        return range(number)


class Batches(Clock):
    """The rule of studies that were begun before there was a virtual clock: proposals in batches of ``workers``.

    A batch begins when all of the last have ended. Proposals see them, told in the order of their numbers, and are compared with them.
    """

    def turn(self, earliest: Mapping[int, int]) -> Turn | None:
        before = self.peers(len(self.starts))
        if any(n in before for n in earliest):
            return None
        return Turn(max((end for end, n in self.ends if n in before), default=0), list(before))

    def peers(self, number: int) -> range:
        return range(number // self.workers * self.workers)
