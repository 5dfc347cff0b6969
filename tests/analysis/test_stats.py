"""The statistics of comparisons, against published and hand-computed values."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from analysis.stats import (
    Winner,
    critical_difference,
    friedman,
    holm,
    interval,
    least_wilcoxon,
    paired_t,
    ranking,
    wilcoxon,
    winner,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("k", "q"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_critical_values_are_those_of_demsar_table_5(k: int, q: float) -> None:
    n = 14
    assert critical_difference(k, n) / math.sqrt(k * (k + 1) / (6 * n)) == pytest.approx(q, abs=0.001)


def test_demsar_example() -> None:
    """Demsar 2006, section 3.2.2: four classifiers on fourteen data sets, F = 3.69, CD = 1.25."""
    mean_ranks = np.array([3.143, 2.000, 2.893, 1.964])
    n, k = 14, 4
    chi = 12 * n / (k * (k + 1)) * (np.sum(mean_ranks**2) - k * (k + 1) ** 2 / 4)
    want = scipy_stats.f.sf((n - 1) * chi / (n * (k - 1) - chi), k - 1, (k - 1) * (n - 1))
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert (n - 1) * chi / (n * (k - 1) - chi) == pytest.approx(3.69, abs=0.01)
    ranks = np.tile(mean_ranks, (n, 1))  # the statistic depends on mean ranks alone
    assert friedman(ranks) == pytest.approx(want)


@pytest.mark.parametrize(
    ("p", "want"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x 0.005, 3 x 0.01, 2 x 0.03, then at least that
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([NAN, 0.02, 0.5], [NAN, 0.04, 0.5]),
        ([], []),
    ],
)
def test_holm(p: list[float], want: list[float]) -> None:
    assert holm(p) == pytest.approx(want, nan_ok=True)


def test_interval() -> None:
    low, high = interval([0.90, 0.92, 0.91, 0.95, 0.93])
    assert 0.90 < low < 0.922 < high < 0.95
    assert interval([0.90, 0.92, 0.91, 0.95, 0.93]) == (low, high)  # seeded
    assert interval([0.9, 0.9, 0.9]) == (0.9, 0.9)
    assert all(map(math.isnan, interval([0.9, 0.8])))
    assert interval([0.90, 0.92, 0.91, 0.95, 0.93, NAN]) == (low, high)


def test_paired_t_pairs_by_seed() -> None:
    a, b = {1: 0.9, 2: 0.8, 3: 0.7}, {3: 0.6, 2: 0.71, 1: 0.82}
    assert paired_t(a, b) == pytest.approx(scipy_stats.ttest_rel([0.9, 0.8, 0.7], [0.82, 0.71, 0.6]).pvalue)
    assert paired_t(a, a) == 1.0
    assert math.isnan(paired_t(a, {1: 0.5}))
    assert math.isnan(paired_t(a, {s: v - 0.1 for s, v in a.items()}))  # no variance to test against, not p = 0


def test_wilcoxon() -> None:
    a, b = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.85, 0.74, 0.63, 0.52, 0.41, 0.3]
    assert wilcoxon(a, b) == pytest.approx(2 / 2**6)  # all six differences have one sign
    assert wilcoxon(a, a) == 1.0


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 8, 10])
def test_no_wilcoxon_test_says_less_than_its_least(n: int) -> None:
    rising = [0.01 * (i + 1) for i in range(n)]
    reached = wilcoxon(rising, [0.0] * n) if n > 1 else 1.0
    assert reached == pytest.approx(least_wilcoxon(n))


def test_no_friedman_test_says_less_than_chance_allows() -> None:
    """Two conditions order three methods alike one time in six, whatever the F of Iman and Davenport says."""
    same = ranking({"x": [0.9, 0.8], "y": [0.8, 0.7], "z": [0.7, 0.6]})
    assert same is not None
    assert same.p == pytest.approx(1 / 6)


def test_winner_is_clear_only_against_all() -> None:
    far = {"a": {1: 0.90, 2: 0.91, 3: 0.92}, "b": {1: 0.50, 2: 0.52, 3: 0.51}, "c": {1: 0.40, 2: 0.43, 3: 0.41}}
    found = winner(far)
    assert found is not None
    assert (found.method, found.clear, set(found.p)) == ("a", True, {"b", "c"})
    near = winner(far | {"c": {1: 0.80, 2: 0.99, 3: 0.85}})
    assert near is not None
    assert not near.clear
    alone = winner({"a": {1: 0.9, 2: 0.8}})
    assert alone == Winner("a", {})
    assert not alone.clear  # better than nobody
    one = winner({"a": {1: 0.9}, "b": {1: 0.1}})  # a single training each: no test
    assert one is not None
    assert not one.clear
    assert winner({"a": {}}) is None


def test_ranking() -> None:
    table = {"x": [0.9, 0.8, 0.7, 0.9], "y": [0.8, 0.8, 0.6, 0.1], "z": [0.7, 0.6, 0.5, NAN]}
    found = ranking(table)
    assert found is not None
    assert found.methods == ["x", "y", "z"]
    assert found.n == 3  # the condition without z is left out
    assert found.ranks == pytest.approx([(1 + 1.5 + 1) / 3, (2 + 1.5 + 2) / 3, 3.0])
    assert set(found.pairs) == {("x", "y"), ("x", "z"), ("y", "z")}
    assert ranking({"x": [0.9, 0.8]}) is None
    assert ranking({"x": [0.9, NAN], "y": [NAN, 0.8]}) is None
    assert ranking({}) is None


def test_groups_are_the_longest_runs_within_the_critical_difference() -> None:
    found = ranking({"a": [4, 4, 4], "b": [3, 3, 3], "c": [2, 2, 2], "d": [1, 1, 1]})
    assert found is not None
    assert found.p == pytest.approx(
        1 / math.factorial(4) ** 2
    )  # three orders of four are one and the same; no test can say less
    assert found._replace(cd=1.5).groups() == [(0, 1), (1, 2), (2, 3)]
    assert found._replace(cd=2.5).groups() == [(0, 2), (1, 3)]
    assert found._replace(cd=0.5).groups() == []
    assert found._replace(cd=9.0).groups() == [(0, 3)]
