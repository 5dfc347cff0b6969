"""What is known of a cell's labels, and what a number may be called where nobody knows which are wrong. All that is shown asks here.

The header of a cell's ledger tells the share of wrong labels, or that it is not known (``effective_rate`` None): labels that came with
the data, used as they came. Then there is no truth to measure against, and no point can have been read off it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from raystudy.data import smoke, spec
from raystudy.data.noise import Noise, row
from raystudy.record.ledger import TrialHistory

Header = Mapping[str, Any]
UNKNOWN = "needs the truth, and nobody knows which of these labels are wrong"
TESTED, AGAINST_GIVEN = "test accuracy", "accuracy against given labels"
RELATIVE = (
    " Noise was drawn on labels as they came, and nobody knows which of those were wrong before: right and wrong labels, their shares, "
    "what is memorised, and the labels tested on, are relative to them."
)
MIXED = "test accuracy (against given labels where the truth is not known)"


def known(header: Header) -> bool:
    """Whether it is known which labels of a cell are wrong. A cell that has not begun has no header, and nothing to doubt."""
    return not header or header.get("effective_rate") is not None


def tested_clean(header: Header) -> bool:
    """Whether the test images of a cell have labels that were checked.

    Of a user's own data they are as given as the others where the truth is not known. The named data sets whose training labels nobody
    knows (Clothing1M, WebVision) were published with test labels that people checked.
    """
    name = spec.base(header.get("cell", {}).get("dataset", "")).removeprefix(smoke.PREFIX)
    own = bool(name) and name not in spec.PUBLISHED
    return not own or (known(header) and not header.get("assumed"))


def relative(headers: Iterable[Header]) -> str:
    """A sentence where noise was drawn on labels of which nobody knows whether they are right; empty for all others."""
    return RELATIVE if any(h.get("assumed") for h in headers) else ""


def measured(headers: Iterable[Header]) -> str:
    """What the accuracy on the test images of some cells is called."""
    kinds = {tested_clean(h) for h in headers}
    return MIXED if len(kinds) > 1 else AGAINST_GIVEN if kinds == {False} else TESTED


def came(noise: Noise) -> bool:
    """Whether labels are used as they came with the data, so that a nominal rate of 0 says nothing."""
    return row(noise.kind).default == noise.rate == 0


def rate(noise: Noise, header: Header) -> float:
    """The noise rate that numbers are shown over: the nominal one; of labels as they came, the share of wrong ones, NaN if not known."""
    wrong = header.get("effective_rate") if came(noise) else noise.rate
    return math.nan if wrong is None else float(wrong)


def read_off(names: Iterable[str], header: Header) -> tuple[str, ...]:
    """The hyperparameters of a point that were filled in from the truth: none where nobody knows it, whatever was published."""
    return tuple(names) if known(header) else ()


def oracle(trial: TrialHistory | None, header: Header) -> bool:
    """Whether a trial's point was read off the truth: its numbers are ORACLE, starred and no result."""
    return trial is not None and bool(read_off(trial.oracle, header))
