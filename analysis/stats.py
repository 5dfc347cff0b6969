"""Statistics of comparisons: intervals over replicates, paired tests with Holm's correction, ranks over conditions. SciPy does the maths.

Pure functions of numbers; which numbers are compared is decided where they are called. An accuracy is higher-is-better throughout.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ALPHA = 0.05
DRAWS = 9999  # bootstrap samples
Array = NDArray[np.float64]


def interval(values: Sequence[float], level: float = 1 - ALPHA) -> tuple[float, float]:
    """Bootstrap interval of the mean, bias-corrected and accelerated (Efron 1987); the draws are seeded, so it is the same every time.

    NaN below three values, of which a bootstrap knows nothing. With fewer than about ten it is too narrow, as every bootstrap is.
    """
    return _interval(tuple(v for v in values if not math.isnan(v)), level)


@lru_cache(maxsize=2**14)  # a page and its tables ask for the same ones
def _interval(values: tuple[float, ...], level: float) -> tuple[float, float]:
    x = np.asarray(values)
    if len(x) < 3:
        return math.nan, math.nan
    if np.ptp(x) == 0:
        return float(x[0]), float(x[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rng = np.random.default_rng(0)
        found = stats.bootstrap((x,), np.mean, confidence_level=level, n_resamples=DRAWS, method="BCa", rng=rng)
    low, high = found.confidence_interval
    return float(low), float(high)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method (1979); NaN, a test that could not be made, stays NaN."""
    order = sorted((i for i, v in enumerate(p) if not math.isnan(v)), key=lambda i: p[i])
    out, most = [math.nan] * len(p), 0.0
    for step, i in enumerate(order):
        most = max(most, min(1.0, (len(order) - step) * p[i]))
        out[i] = most
    return out


def paired_t(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Two-sided p of the paired t test of two methods' accuracies by training seed.

    NaN below two common seeds, and where all differences are one number that is not 0: their variance is unknown, not 0.
    """
    d = np.array([a[s] - b[s] for s in a if s in b])
    if len(d) < 2 or np.isnan(d).any():
        return math.nan
    if np.ptp(d) < 1e-12:
        return 1.0 if abs(d[0]) < 1e-12 else math.nan
    return float(stats.ttest_1samp(d, 0.0).pvalue)


def wilcoxon(a: Sequence[float] | Array, b: Sequence[float] | Array) -> float:
    """Two-sided p of Wilcoxon's signed-rank test over conditions (Demsar 2006, section 3.1.3); 1 where all are equal."""
    d = np.round(np.asarray(a) - np.asarray(b), 12)
    if len(d) < 2 or np.isnan(d).any():
        return math.nan
    if not d.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties, for which it goes over to the normal approximation
        return float(stats.wilcoxon(d, zero_method="zsplit").pvalue)


def least_wilcoxon(n: int) -> float:
    """The smallest two-sided p that Wilcoxon's signed-rank test can reach over n conditions: all n differences of one sign."""
    return min(1.0, 2.0 ** (1 - n))


class Winner(NamedTuple):
    """The best method of a condition, and Holm-corrected p-values of the others against it."""

    method: str
    p: dict[str, float]

    @property
    def clear(self) -> bool:
        """Whether it is significantly better than every other one: only then is it printed bold."""
        return bool(self.p) and all(v < ALPHA for v in self.p.values())


def winner(samples: Mapping[str, Mapping[int, float]]) -> Winner | None:
    """The method with the highest mean over its seeds, tested against each other one; ``samples[method][seed]``."""
    means = {m: float(np.mean(list(v.values()))) for m, v in samples.items() if v}
    if not means:
        return None
    first = max(means, key=lambda m: means[m])
    others = [m for m in means if m != first]
    return Winner(first, dict(zip(others, holm([paired_t(samples[first], samples[m]) for m in others]), strict=True)))


class Ranking(NamedTuple):
    """Ranks of k methods over N conditions."""

    methods: list[str]  # best first
    ranks: list[float]  # mean rank of each, 1 is best
    n: int  # conditions
    p: float  # Friedman's test in the form of Iman and Davenport: that all methods are alike
    cd: float  # critical difference of two mean ranks (Nemenyi), at ALPHA
    pairs: dict[tuple[str, str], float]  # (better, worse) -> Wilcoxon's p, corrected by Holm over all pairs

    def groups(self) -> list[tuple[int, int]]:
        """Longest runs (first, last index) of methods whose ranks differ by less than the critical difference."""
        runs: list[tuple[int, int]] = []
        for i, rank in enumerate(self.ranks):
            last = max(j for j, r in enumerate(self.ranks) if r - rank < self.cd)
            if last > i and (not runs or last > runs[-1][1]):
                runs.append((i, last))
        return runs


def critical_difference(k: int, n: int, alpha: float = ALPHA) -> float:
    """Nemenyi: q_alpha sqrt(k (k + 1) / (6 n)), q the studentized range with infinite freedom over sqrt 2 (Demsar 2006, section 3.2.2)."""
    return float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))


def friedman(ranks: Array) -> float:
    """p of equal methods from ranks [N, k]: Friedman's chi-square as the F of Iman and Davenport, (k - 1), (k - 1)(N - 1) degrees.

    Not below what N conditions can reach at all, the chance that N random orders of k methods are one and the same.
    """
    n, k = ranks.shape
    least = float(math.factorial(k)) ** (1 - n)
    chi = 12 * n / (k * (k + 1)) * (np.sum(ranks.mean(0) ** 2) - k * (k + 1) ** 2 / 4)
    if chi >= n * (k - 1) - 1e-9:  # every condition has the same order
        return least
    return max(least, float(stats.f.sf((n - 1) * chi / (n * (k - 1) - chi), k - 1, (k - 1) * (n - 1))))


def ranking(table: Mapping[str, Sequence[float]]) -> Ranking | None:
    """Average ranks of methods over conditions; ``table[method]`` lists its accuracy in each, NaN where it has none.

    A condition counts only if every method has it. None below two methods or two such conditions.
    """
    methods = list(table)
    values = np.array([table[m] for m in methods], dtype=float).T
    values = values[~np.isnan(values).any(1)] if values.size else values
    if values.ndim < 2 or values.shape[0] < 2 or values.shape[1] < 2:
        return None
    n, k = values.shape
    ranks = stats.rankdata(-np.round(values, 12), axis=1)
    order = np.argsort(ranks.mean(0), kind="stable")
    named = [(int(i), int(j)) for a, i in enumerate(order) for j in order[a + 1 :]]
    p = holm([wilcoxon(values[:, i], values[:, j]) for i, j in named])
    return Ranking(
        [methods[i] for i in order],
        [float(ranks.mean(0)[i]) for i in order],
        n,
        friedman(ranks) if k > 2 else wilcoxon(values[:, 0], values[:, 1]),
        critical_difference(k, n),
        {(methods[i], methods[j]): v for (i, j), v in zip(named, p, strict=True)},
    )
