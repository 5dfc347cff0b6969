"""Which images a method distrusts, and how methods agree on it: from what the replicates of a point left of single images.

The arrays are those of ``raystudy.learn.samples``. In-sample and out of sample stay apart: of training images a method tells how much
weight it gave the label that it learned from (or, where it weighs nothing, how probable its final model finds it); of validation images
its models tell what they think of a label they never saw. Low trust is no proof that a label is wrong; the truth is not looked at here.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis import load
from analysis.load import Arrays
from raystudy.record.ledger import TrialHistory

PARTS = ("training", "validation")
WORST = 0.05  # of the images: those that a method distrusts most


class Trust(NamedTuple):
    """How much each image's given label is trusted, mean over replicates."""

    measure: str  # weight, confidence (both in-sample) or out-of-sample
    image: NDArray[np.int64]  # [n] positions in the data set's training set, ascending
    given: NDArray[np.int64]  # [n] labels
    predicted: NDArray[np.int64]  # [n] what the models would rather call it
    trust: NDArray[np.float64]  # [n] in [0, 1], NaN where no replicate judged it
    confidence: NDArray[np.float64]  # [n] probability of the given label, which decides among equals
    replicates: int

    def order(self) -> NDArray[np.int64]:
        """Places in these arrays, the most distrusted image first; those that nobody judged are last."""
        return np.lexsort((self.confidence, np.nan_to_num(self.trust, nan=math.inf)))

    def worst(self, share: float = WORST) -> NDArray[np.int64]:
        """Of these the first, at least one."""
        return self.order()[: max(1, round(share * len(self.image)))]


def left(folder: Path, trials: Sequence[TrialHistory]) -> list[Arrays]:
    """What some trials left of single images. Of those with other images or labels than the last one (a study begun anew) nothing."""
    found = [a for t in trials if (a := load.arrays(folder, t.key)) is not None and "val_probs" in a]
    return [a for a in found if all(np.array_equal(a[k], found[-1][k]) for k in ("train_index", "train_given"))]


def trusted(arrays: Sequence[Arrays], part: str) -> Trust | None:
    """What the replicates of one point say together of a part of the images; None where they left nothing."""
    if not arrays:
        return None
    first = arrays[0]
    if part == "validation":
        probs = np.mean([a["val_probs"].astype(np.float64) for a in arrays], axis=0)
        given = first["val_given"].astype(np.int64)
        confidence = probs[np.arange(len(given)), given]
        index = first["val_index"].astype(np.int64)
        return Trust("out-of-sample", index, given, probs.argmax(1), confidence, confidence, len(arrays))
    confidence = np.mean([a["train_confidence"].astype(np.float64) for a in arrays], axis=0)
    predicted = stats.mode([a["train_predicted"] for a in arrays], axis=0).mode.astype(np.int64)
    weights = [a["train_weight"].astype(np.float64) for a in arrays if "train_weight" in a]
    measure, trust = ("weight", _mean(weights)) if weights else ("confidence", confidence)
    index, given = (first[f"train_{k}"].astype(np.int64) for k in ("index", "given"))
    return Trust(measure, index, given, predicted, trust, confidence, len(arrays))


def _mean(several: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Of what is not NaN, without numpy's warning where all is."""
    stacked = np.stack(several)
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(total.shape, math.nan), where=known.any(0))


def correlation(a: Trust, b: Trust) -> float:
    """Spearman's rank correlation over the images that both judged; NaN where one of them judges all alike."""
    both = ~(np.isnan(a.trust) | np.isnan(b.trust))
    ranks = [stats.rankdata(t.trust[both]) for t in (a, b)]
    if not both.any() or any(r.min() == r.max() for r in ranks):
        return math.nan
    return float(np.corrcoef(*ranks)[0, 1])


def overlap(a: Trust, b: Trust, share: float = WORST) -> float:
    """The part of the most distrusted images that two methods have in common; by chance it is ``share``."""
    worst = a.worst(share)
    return len(np.intersect1d(worst, b.worst(share))) / len(worst)


def comparable(methods: Mapping[str, Trust]) -> dict[str, Trust]:
    """Those that speak of the same images and labels as the first."""
    if not methods:
        return {}
    first = next(iter(methods.values()))

    def same(t: Trust) -> bool:
        return np.array_equal(t.image, first.image) and np.array_equal(t.given, first.given)

    return {name: t for name, t in methods.items() if same(t)}


def agreement(methods: Mapping[str, Trust]) -> dict[str, NDArray[np.float64]]:
    """Matrices [k, k] of rank correlations and of overlaps in percent between methods that judge the same images."""
    told = list(methods.values())
    pairs = {"rank correlation": correlation, f"worst {WORST:.0%} in common": overlap}
    return {title: np.array([[f(a, b) for b in told] for a in told]) for title, f in pairs.items()}


def rows(trust: Trust, places: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Columns of a table of the images at some places of ``order``: rank from 1, image, labels, trust."""
    order = trust.order()[places]
    return {
        "rank": places + 1,
        "image": trust.image[order],
        "given": trust.given[order],
        "predicted": trust.predicted[order],
        "trust": trust.trust[order],
        "confidence": trust.confidence[order],
    }
