"""Filters: parity of relabelling, by hand on two clusters, that wrong labels are found, and no class is lost."""

import pytest
import torch
from torch import Tensor

from raystudy.errors import InputError
from raystudy.learn.filters import SPARED, filtered, knn_relabel, simifeat


@pytest.fixture(scope="module")
def b(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("knn_relabel").items()}


@pytest.mark.parametrize("i", [0, 1, 2])
def test_filter_parity(b, i: int) -> None:
    y, rows, k = b["labels"], b["query_idx"], int(b["ks"][i])
    if k > len(y) // int(b["num_classes"]):
        pytest.skip("more neighbours than a class has on average: we ask fewer")
    told = knn_relabel([b["features"]], y, int(b["num_classes"]), k)
    assert torch.equal(told.keep[rows].long(), b[f"keep_{i}"])
    assert torch.equal(rows[told.keep[rows]], b[f"kept_idx_{i}"])
    torch.testing.assert_close(told.weight[rows], b[f"agreement_{i}"])
    assert torch.equal(told.y, y)


def test_relabel_parity(b) -> None:
    y, rows, k = b["labels"], b["query_idx"], int(b["relabel_k"])
    if k > len(y) // int(b["num_classes"]):
        pytest.skip("more neighbours than a class has on average: we ask fewer")
    threshold = float(b["relabel_threshold"])
    told = knn_relabel([b["features"]], y, int(b["num_classes"]), k, mode="relabel", threshold=threshold)
    kept = told.keep[rows]
    assert torch.equal(told.y[rows][kept], b["relabel_labels"][kept])
    assert set(rows[~kept].tolist()) == set(b["drop_idx"].tolist())


def clusters(n: int = 90, wrong: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Three far clusters, of each class the first few labels moved on by one: features, given labels, which are wrong."""
    torch.manual_seed(0)
    clean = torch.arange(n) % 3
    flipped = torch.arange(n) < wrong
    x = 10 * torch.eye(3)[clean] + 0.3 * torch.randn(n, 3)
    return x, torch.where(flipped, (clean + 1) % 3, clean), flipped


def test_wrong_labels_in_pure_clusters_are_dropped_or_replaced() -> None:
    x, y, wrong = clusters()
    assert torch.equal(knn_relabel([x], y, 3, k=11).keep, ~wrong)
    told = knn_relabel([x], y, 3, k=11, mode="relabel", threshold=0.6)
    assert told.keep.all()
    assert torch.equal(told.y, torch.arange(90) % 3)
    weighed = knn_relabel([x], y, 3, k=11, mode="weight")
    assert weighed.keep.all()
    assert float(weighed.weight[wrong].max()) < float(weighed.weight[~wrong].min())


@pytest.mark.parametrize(("detector", "most"), [("vote", 0.0), ("rank", 0.5)])
def test_simifeat_finds_wrong_labels(detector: str, most: float) -> None:
    """By rank as many as the estimate from 90 points says, give or take its jitter."""
    x, y, wrong = clusters()
    told = simifeat([x, x + 0.01], y, 3, detector=detector, rounds=3, steps=100)
    assert float(told.keep[wrong].double().mean()) <= most
    assert float(told.keep[~wrong].double().mean()) > 0.85  # by rank at least a twentieth of a class goes
    again = simifeat([x, x + 0.01], y, 3, detector=detector, rounds=3, steps=100)
    assert torch.equal(told.keep, again.keep)


@pytest.mark.parametrize("mode", ["filter", "relabel"])
def test_no_class_is_lost(mode: str) -> None:
    """A class whose labels all lie among others keeps those that most neighbours agree with, and these keep their label."""
    x, y, _ = clusters(wrong=0)
    y = torch.where(y == 2, 0, y)
    y[:15:3] = 2  # five of cluster 0
    told = knn_relabel([x], y, 3, k=11, mode=mode)
    assert int((told.y[told.keep] == 2).sum()) == min(5, SPARED)
    assert torch.equal(told.y, y)


def test_of_a_large_class_that_would_be_lost_the_best_ten_stay() -> None:
    """Thirty labels 2 among 90 of cluster 0: all would be replaced; the ten with most neighbours of their own label are not."""
    torch.manual_seed(0)
    x = torch.cat([0.3 * torch.randn(120, 3), 10 + 0.3 * torch.randn(60, 3)])
    y = torch.cat([torch.zeros(90), torch.full((30,), 2.0), torch.ones(60)]).long()
    told = knn_relabel([x], y, 3, k=60, mode="relabel")
    stays = told.y == 2
    assert int(stays.sum()) == SPARED
    assert bool(told.keep[stays].all())
    assert float(told.weight[stays].min()) >= float(told.weight[(y == 2) & ~stays].max())


def test_unknown_names_are_told() -> None:
    x, y, _ = clusters()
    with pytest.raises(InputError, match="simifeat"):
        filtered("simifaet", [x], y, 3)
    with pytest.raises(InputError, match="relabel"):
        filtered("knn_relabel", [x], y, 3, mode="relable")
    assert filtered("knn_relabel", [x], y, 3, k=5).keep.any()
