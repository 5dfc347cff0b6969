"""How often, and on how much, a training evaluates. Decides which epochs; nothing here measures.

An epoch is evaluated in full (all of validation and test), in part (all of validation, some of the test set), or not at all. What is
measured in part has a name of its own in the records (``test/subset_acc``), so that ``test/acc`` is always that of the whole test set.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raystudy.errors import InputError

LAST = 10  # epochs at the end that are evaluated in full: those that the rule last10 reads
MOST = 10**6  # of either number
FULL, PART, NONE = "full", "part", "none"
USAGE = "every:K or every:K,N (every K epochs; on N test samples)"
_TEXT = re.compile(r"every:([0-9]{1,9})(?:,([0-9]{1,9}))?")


@dataclass(frozen=True)
class Evaluation:
    """Every ``every`` epochs, on ``test`` samples of the test set (0: all of it); in full in the last ten and after ``also``."""

    every: int = 1
    test: int = 0
    also: tuple[int, ...] = ()  # epochs counted from 1: where a scheduler compares trials

    def __post_init__(self) -> None:
        object.__setattr__(self, "also", tuple(self.also))
        if not 1 <= self.every <= MOST or not 0 <= self.test <= MOST:
            raise InputError(f"--evaluate every:{self.every},{self.test}: its numbers must be from 1 to {MOST}")

    @property
    def usual(self) -> bool:
        """Whether every epoch is evaluated in full, as where nothing is said."""
        return self.every == 1 and not self.test

    @property
    def text(self) -> str:
        """As ``parse`` reads it; empty for the usual."""
        return "" if self.usual else f"every:{self.every}" + (f",{self.test}" if self.test else "")

    @property
    def sentence(self) -> str:
        """What a reader of numbers should know of it; empty for the usual."""
        if self.usual:
            return ""
        often = f"every {self.every} epochs" if self.every > 1 else "every epoch"
        between = f"{often} on {self.test} test samples, in full" if self.test else f"{often},"
        return f"Evaluated {between} in the last ten and where trials are compared; rules pick among epochs evaluated in full."

    def to_dict(self) -> dict[str, Any]:
        """As a trial's spec has it; empty for the usual."""
        return {} if self.usual else {**asdict(self), "also": list(self.also)}

    def at(self, epochs: Sequence[int]) -> "Evaluation":
        """The same, and in full after these epochs, counted from 1."""
        return Evaluation(self.every, self.test, tuple(epochs))

    def of(self, epoch: int, epochs: int) -> str:
        """How much is evaluated in ``epoch``, counted from 0, of ``epochs`` in all: FULL, PART or NONE."""
        if self.usual or epoch + 1 > epochs - LAST or epoch + 1 in self.also:
            return FULL
        if (epoch + 1) % self.every:
            return NONE
        return PART if self.test else FULL

    def fits(self, dataset: str, images: int) -> None:
        """Raises InputError where a part of the test set, of ``images`` images, is to be no part of it."""
        if self.test >= images:
            raise InputError(
                f"--evaluate {self.text}: {dataset} has {images} test samples, and a part is fewer; every:{self.every} takes all of them"
            )


def parse(text: str) -> Evaluation:
    """From ``every:K`` or ``every:K,N``; the empty text is every epoch in full. Raises InputError."""
    if not text:
        return Evaluation()
    found = _TEXT.fullmatch(text)
    every, test = found.groups() if found else ("0", None)
    if not all(1 <= int(n) <= MOST for n in (every, test or "1")):
        raise InputError(f"--evaluate is {text!r}; it must be {USAGE}, with whole numbers from 1 to {MOST}")
    return Evaluation(int(every), int(test or 0))


def of_spec(told: Mapping[str, Any]) -> Evaluation:
    """From what a trial's spec holds. Raises InputError for what none is."""
    try:
        return Evaluation(**told)
    except TypeError as e:
        raise InputError(f"evaluate is {dict(told)!r}, which is no way to evaluate ({e})") from None
