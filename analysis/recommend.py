"""Which methods to expect most of under a condition, from what was measured under others: pure functions, no files, no training.

A method's gain over cross-entropy is taken as a share of what there was to gain under that condition, so that conditions with much noise
do not decide alone. The share to be expected elsewhere is the mean over the known conditions, near ones counting more (a Gaussian kernel,
Nadaraya 1964), drawn towards the mean over all, so that a method that was tried seldom or far away promises little. How sure that is
follows from how wrong the same rule is about the known conditions themselves, each predicted from those that are no nearer to it than
the nearest is to the one asked about.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.conditions import BASELINE, KINDS, Condition, Known

Values = NDArray[np.float64]

# Where one unit of distance lies, and the rest: chosen with the table of docs/recommend.md in view, from two or three values each.
RATE = 0.15  # of the noise rate, and of the share of labels that go to one wrong class
KIND = 3.0  # data of different kinds
SIZE = 0.5  # a factor of ten in samples
CLASSES = 1.5  # a factor of ten in classes
UNKNOWN = 0.25  # the concentration where nobody knows it: between evenly and all to one
PRIOR = 0.3  # the mean over all conditions counts as so many conditions that are the same as the one asked about
LITTLE = 0.01  # added to what there was to gain: differences of a point are luck where nothing helps
WORST = -2.0  # shares below this are taken for this: a training that failed says no more
FAR = 1.5  # beyond this nothing is near
SHARE = 0.8  # of the cases that an interval is meant to hold
RATES = ("forget_rate",)  # hyperparameters that are the noise rate


def coordinates(wheres: Sequence[Condition]) -> Values:
    """Where conditions lie, [n, 7]: kernels are of Euclidean distances here. Concentration counts as much as there is noise."""
    rows = []
    for c in wheres:
        spread = UNKNOWN if math.isnan(c.concentration) else c.concentration
        kinds = [KIND * math.sqrt(0.5) * (c.kind == kind) for kind in KINDS]
        size, classes = (math.log10(max(number, 1)) for number in (c.n, c.classes))
        rows.append([c.rate / RATE, c.rate * spread / RATE, *kinds, SIZE * size, CLASSES * classes])
    return np.array(rows, dtype=np.float64).reshape(len(rows), 4 + len(KINDS))


def distances(wheres: Sequence[Condition], here: Condition) -> Values:
    """From each of ``wheres`` [n] to ``here``."""
    out: Values = np.linalg.norm(coordinates(wheres) - coordinates([here]), axis=1)
    return out


def table(known: Sequence[Known]) -> tuple[list[str], Values]:
    """The methods but cross-entropy and their gains over it, [n, M]; NaN where one was not measured."""
    methods = sorted({m for k in known for m in k.results} - {BASELINE})
    gains = np.array([[k.gains.get(m, np.nan) for m in methods] for k in known], dtype=np.float64)
    return methods, gains.reshape(len(known), len(methods))


def average(values: Values) -> Values:
    """The mean over conditions [n, M] -> [M], NaN left out; drawn towards 0 as by one condition more without any gain."""
    there = np.isfinite(values)
    out: Values = np.where(there, values, 0).sum(0) / (there.sum(0) + 1)
    return out


def scales(gains: Values) -> Values:
    """What there was to gain under each condition of ``gains`` [n, M], [n]: the best method's gain, if any, and a point."""
    out: Values = np.where(np.isfinite(gains), gains, 0).max(1, initial=0) + LITTLE
    return out


def expected(gains: Values, far: Values) -> Values:
    """The gain [M] to be expected where the conditions of ``gains`` [n, M] are ``far`` [n] away.

    With k = exp(-far^2 / 2) and shares q = max(gain / scale, WORST): (sum_c k_c q_c + PRIOR p) / (sum_c k_c + PRIOR), over the conditions
    in which a method was measured, times the scale, for which the same holds. p is the mean of its shares, and how far the methods that
    were measured near here stay below theirs: one that was not tried where the others fail is not thought better for it.
    """
    kernel = np.exp(-(far**2) / 2)
    scale = scales(gains)
    shares = np.maximum(gains / scale[:, None], WORST)
    there = np.isfinite(shares)
    mean = average(shares)
    below = np.where(there, shares - mean, 0).sum(1) / np.maximum(there.sum(1), 1)  # of each condition
    prior = mean + kernel @ below / (kernel.sum() + PRIOR)
    k = kernel[:, None] * there
    share = ((k * np.where(there, shares, 0)).sum(0) + PRIOR * prior) / (k.sum(0) + PRIOR)
    here = (kernel @ scale + PRIOR * scale.mean()) / (kernel.sum() + PRIOR)
    out: Values = share * here
    return out


@dataclass(frozen=True)
class Prediction:
    """What to expect of a method: its gain over cross-entropy in test accuracy, [-1, 1]."""

    method: str
    gain: float
    low: float  # and ``high``: hold the gain in about ``SHARE`` of the cases
    high: float
    conditions: int  # in which it was measured
    seconds: float  # of a training, in units of one of cross-entropy; NaN: not known


def errors(gains: Values, between: Values, least: float) -> Values:
    """How far the rule is off under each known condition, [n, M], where it may not look at itself nor at what is nearer than ``least``.

    ``between`` [n, n]: the distances of the conditions. NaN where a method was not measured, and where nothing is so far.
    """
    out = np.full_like(gains, np.nan)
    for c in range(len(gains)):
        others = (between[c] >= least) & (np.arange(len(gains)) != c)
        if others.any():
            out[c] = gains[c] - expected(gains[others], between[c, others])
    return out


def quantile(values: Values, weights: Values, share: float) -> float:
    """The smallest of ``values`` [n] with at least ``share`` of the ``weights`` [n] up to it."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(weights[order])
    return float(values[order][int(np.searchsorted(upto, share * upto[-1] * (1 - 1e-12)))])


def order(known: Sequence[Known], here: Condition) -> list[str]:
    """All methods, the one of which most is expected first; cross-entropy is one of them."""
    methods, gains = table(known)
    mean = expected(gains, distances([k.where for k in known], here))
    return [m for _, m in sorted([*zip(-mean, methods, strict=True), (0.0, BASELINE)])]


def ranked(known: Sequence[Known], here: Condition) -> list[Prediction]:
    """What to expect of all methods, the one of which most is expected first. ValueError for no condition at all.

    An interval is as wide as the rule is wrong about known conditions that have nothing nearer than there is here; near conditions count
    more, and the errors about the method itself as much as those about all methods together.
    """
    methods, gains = table(known)
    wheres = [k.where for k in known]
    far = distances(wheres, here)
    mean, weight = expected(gains, far), np.exp(-(far**2) / 2) + 0.05
    between = np.stack([distances(wheres, w) for w in wheres])
    off = np.abs(errors(gains, between, float(far.min())))
    every, each = np.isfinite(off), np.broadcast_to(weight[:, None], off.shape)
    seconds = np.array([[k.seconds.get(m, np.nan) for m in methods] for k in known])
    out = [Prediction(BASELINE, 0.0, 0.0, 0.0, len(known), 1.0)]
    for j, method in enumerate(methods):
        mine, timed = every[:, j], np.isfinite(seconds[:, j])
        wide = math.inf
        if every.any():
            own = weight[mine] / max(weight[mine].sum(), 1e-12)
            values = np.concatenate([off[mine, j], off[every]])
            wide = quantile(values, np.concatenate([own, each[every] / each[every].sum()]), SHARE)
        cost = quantile(seconds[timed, j], weight[timed], 0.5) if timed.any() else math.nan
        g = float(mean[j])
        out.append(Prediction(method, g, g - wide, g + wide, int(np.isfinite(gains[:, j]).sum()), cost))
    return sorted(out, key=lambda p: (-p.gain, p.method))


def points(known: Sequence[Known], here: Condition, method: str, most: int = 2) -> list[tuple[Known, dict[str, Any]]]:
    """Where to begin with a method: its points under the nearest conditions, each once, nearest first, and where it was.

    A hyperparameter that is the noise rate and was filled from the truth there takes the rate here.
    """
    near = sorted((k for k in known if method in k.results), key=lambda k: float(distances([k.where], here)[0]))
    out: dict[str, tuple[Known, dict[str, Any]]] = {}
    for k in near:
        result = k.results[method]
        point = dict(result.point)
        point |= {name: round(here.rate, 3) for name in result.oracle if name in RATES}
        out.setdefault(repr(sorted(point.items())), (k, point))
        if len(out) == most:
            break
    return list(out.values())
