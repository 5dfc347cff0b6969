"""Measures that need the truth, against scikit-learn and values worked out by hand."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from raystudy.learn.metrics import auroc, labels, scalars, selection


def tensor(*values: float) -> Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize("ties", [0, 1, 3])
@pytest.mark.parametrize("n", [2, 17, 500])
def test_auroc_is_scikit_learns(n: int, ties: int) -> None:
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        score = torch.rand(n, generator=g, dtype=torch.float64)
        if ties:
            score = (score * ties).round() / ties
        positive = torch.rand(n, generator=g) < 0.3
        positive[0], positive[1] = True, False  # neither class empty
        assert float(auroc(score, positive)) == pytest.approx(roc_auc_score(positive.numpy(), score.numpy()), abs=1e-12)


@pytest.mark.parametrize(
    ("score", "positive", "want"),
    [
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
        ([0.5, 0.5, 0.5], [0, 1, 0], 0.5),
        ([0.5, 0.5, 0.1], [0, 1, 0], 0.75),  # one pair won, one tied
        ([0.1, 0.2], [1, 1], math.nan),
        ([0.1, 0.2], [0, 0], math.nan),
        ([], [], math.nan),
    ],
)
def test_auroc_by_hand(score: list[float], positive: list[int], want: float) -> None:
    told = auroc(tensor(*score), torch.tensor(positive, dtype=torch.bool))
    assert told.dtype == torch.float64
    assert float(told) == pytest.approx(want, nan_ok=True)


def test_auroc_of_many_is_exact() -> None:
    """Rank sums beyond what float32 can count."""
    n = 200_000
    score = torch.arange(n, dtype=torch.float32)
    assert float(auroc(score, score >= n // 2)) == 1.0
    assert float(auroc(torch.zeros(n), score >= n // 2)) == 0.5


def test_selection_by_hand() -> None:
    weight = tensor(0.9, 0.8, 0.4, 0.6, 0.1, math.nan)
    wrong = torch.tensor([False, False, False, True, True, False])
    told = {k: float(v) for k, v in selection(weight, wrong).items()}
    # Clean 0.9, 0.8, 0.4 against wrong 0.6, 0.1: 5 of 6 pairs. Picked above 1/2: two clean, one wrong. Two of three clean are picked.
    assert told == pytest.approx({"select/auroc": 5 / 6, "select/precision": 2 / 3, "select/recall": 2 / 3})


def test_selection_at_its_limits() -> None:
    wrong = torch.tensor([False, True, False])

    def told(*weight: float) -> list[float]:
        return [float(v) for v in selection(tensor(*weight), wrong).values()]

    assert told(1, 0, 1) == [1, 1, 1]
    assert told(0, 1, 0) == [0, 0, 0]
    assert told(1, 1, 1) == pytest.approx([0.5, 2 / 3, 1])
    assert told(0.5, 0.5, 0.5) == pytest.approx([0.5, math.nan, 0], nan_ok=True)  # a half is not picked
    assert told(math.nan, math.nan, math.nan) == pytest.approx([math.nan] * 3, nan_ok=True)
    nothing_wrong = selection(tensor(0.9, 0.1), torch.tensor([False, False]))
    assert [float(v) for v in nothing_wrong.values()] == pytest.approx([math.nan, 1, 0.5], nan_ok=True)


def test_what_became_of_wrong_labels() -> None:
    told = labels(torch.tensor([1, 2, 3, 0]), given=torch.tensor([1, 1, 1, 1]), clean=torch.tensor([0, 2, 3, 2]))
    assert {k: float(v) for k, v in told.items()} == {"label/memorised": 0.25, "label/corrected": 0.5}


def test_scalars() -> None:
    told = scalars(
        {
            "a": tensor(1 / 3)[0],
            "b": 2 / 3,
            "c": torch.tensor(123456789.0, dtype=torch.float64),
            "d": tensor(math.nan)[0],
            "e": -math.inf,
            "f": torch.tensor(7),
            "g": torch.tensor(1.0, dtype=torch.bfloat16, requires_grad=True),
            "h": 1e-9 / 3,
        }
    )
    assert told == {
        "a": 0.333333,
        "b": 0.666667,
        "c": 123457000.0,
        "d": None,
        "e": None,
        "f": 7.0,
        "g": 1.0,
        "h": 3.33333e-10,
    }
    assert list(told) == list("abcdefgh")
    assert all(type(v) is float for v in told.values() if v is not None)
    assert scalars({}) == {}
    assert scalars({"x": 1.0}) == {"x": 1.0}
