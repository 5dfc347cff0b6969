"""Noise rate and transition matrix from out-of-fold predictions, and how sure they are: pure functions (docs/noise-estimation.md)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from raystudy.data.noise import Matrix, generator
from raystudy.learn import ops
from raystudy.tools.folds import Labels, Predictions, Probs

STREAM_BOOTSTRAP = 0x626F6F74

ANCHOR_PERCENTILE = 97.0  # Patrini et al.'s; they take the largest probability where there are 100 classes

# Anchors counted for a class, and never more than half of its share of the images, N/K. More of them are surer of what they
# say, but include images that the network gets wrong: chosen on digits and CIFAR-10N, see docs/noise-estimation.md.
ANCHORS = 64


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer. Intervals are 95 %, from ``bootstrap``."""

    rate: float  # share of wrong labels
    matrix: Matrix  # [K, K] P(given j | true i)
    rate_interval: tuple[float, float]
    matrix_interval: tuple[Matrix, Matrix]  # of each entry by itself


def anchor(probs: Probs, given: Labels) -> Matrix:
    """T [K, K] as the predictions at anchor points: ``ops.anchor_transition`` (Patrini et al. 2017, section 4.1).

    At the 97th percentile, the largest probability from 100 classes on, as the original; rows made to sum to 1.
    """
    percentile = ANCHOR_PERCENTILE if probs.shape[1] < 100 else 100.0
    out: Matrix = ops.row_normalise(ops.anchor_transition(torch.from_numpy(probs), percentile)[0]).numpy()
    return out


def anchor_count(probs: Probs, given: Labels) -> Matrix:
    """T [K, K] as the given labels of many anchors, counted: for class i the 64 (at most N/(2K)) images with the largest p_i.

    The labels were not seen by the network that chose the images, so a frequency needs no calibrated probability.
    """
    n, k = probs.shape
    many = max(1, min(ANCHORS, round(n / (2 * k))))
    rows = [np.bincount(given[np.argpartition(-p, many - 1)[:many]], minlength=k) for p in probs.T]
    return np.stack(rows) / many


def confident(probs: Probs, given: Labels) -> Matrix:
    """T [K, K] from the confident joint of Northcutt et al. 2021 (section 3.1), counted by cleanlab.

    An image counts as of class j where p_j reaches the mean p_j of the images labelled j; counts are scaled to the labels given.
    """
    from cleanlab.count import compute_confident_joint  # not at the top: seconds

    joint = np.asarray(compute_confident_joint(given, probs, calibrate=True), dtype=np.float64)  # [given, true]
    out: Matrix = ops.row_normalise(torch.from_numpy(joint.T.copy())).numpy()
    return out


Estimator = Callable[[Probs, Labels], Matrix]

ESTIMATORS: dict[str, Estimator] = {"confident": confident, "anchor-count": anchor_count, "anchor": anchor}

CHOSEN = (
    "confident"  # whose matrix is written for others to read: the best on known noise, see docs/noise-estimation.md
)


def rate_of(matrix: Matrix, given: Labels) -> float:
    """The share of wrong labels under T [K, K]: 1 - sum_i pi_i T_ii, with the prior pi >= 0 that explains the labels best.

    pi T = the frequencies of the given labels, in least squares.
    """
    from scipy.optimize import nnls

    frequencies = np.bincount(given, minlength=len(matrix)) / len(given)
    prior = nnls(matrix.T, frequencies)[0]
    return max(0.0, float(1 - prior @ matrix.diagonal() / prior.sum()))  # not -0


def bootstrap(told: Predictions, estimator: Estimator, draws: int, seed: int) -> Estimate:
    """An estimate with 95 % intervals: folds drawn with replacement, then images within each.

    So the intervals hold what images and what networks happened to be drawn; not a mistake that all networks share.
    """
    rng = generator(STREAM_BOOTSTRAP, seed)
    members = [np.flatnonzero(told.fold == k) for k in range(int(told.fold.max()) + 1)]
    rates, matrices = [], []
    for _ in range(draws):
        chosen = np.concatenate(
            [rng.choice(members[k], len(members[k])) for k in rng.integers(len(members), size=len(members))]
        )
        matrix = estimator(told.probs[chosen], told.given[chosen])
        matrices.append(matrix)
        rates.append(rate_of(matrix, told.given[chosen]))
    matrix = estimator(told.probs, told.given)
    low, high = np.quantile(np.stack(matrices), (0.025, 0.975), axis=0)
    return Estimate(rate_of(matrix, told.given), matrix, _quantiles(rates), (low, high))


def _quantiles(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def at_most(told: Predictions) -> tuple[float, float]:
    """An upper bound of the noise rate, and the same with 97.5 % confidence against chance in the images.

    Under noise by class whose rows have their largest entry on the diagonal, no prediction made without looking at the labels
    agrees with them more often than the truth does: sum_i P(i|x) T_ij <= sum_i P(i|x) T_ii for every j. So the rate is at most
    1 - agreement; the confidence is a normal one-sided limit.
    """
    agreed = float((told.probs.argmax(1) == told.given).mean())
    return 1 - agreed, min(1.0, 1 - agreed + 1.96 * float(np.sqrt(agreed * (1 - agreed) / len(told.given))))


def error(estimated: Matrix, true: Matrix) -> float:
    """The mean over classes of the total variation distance of the rows, in [0, 1]: sum_j |T_ij - T'_ij| / 2."""
    return float(np.abs(estimated - true).sum(1).mean() / 2)


def agree(one: Estimate, other: Estimate) -> bool:
    """Whether the intervals of two rates meet."""
    return max(one.rate_interval[0], other.rate_interval[0]) <= min(one.rate_interval[1], other.rate_interval[1])
