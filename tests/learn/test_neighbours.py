"""Neighbours, votes and relabelling: parity with SimiFeat and Deep k-NN, hand-computed values, brute force, limits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from raystudy.errors import InputError
from raystudy.learn import neighbours
from raystudy.learn.losses import weighted_mean
from raystudy.learn.metrics import selection
from raystudy.learn.neighbours import (
    Neighbours,
    agreement,
    nearest,
    plurality,
    relabel,
    simifeat_v,
    similarity_votes,
    split_trusted,
    tally,
    trains_on_all,
    unit_rows,
)

Vectors = dict[str, Tensor]
DTYPES = [torch.float64, torch.float32]


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    atol = tolerance * float(theirs.abs().max())
    torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=atol)


def tolerance(dtype: torch.dtype) -> float:
    return 1e-9 if dtype == torch.float64 else 1e-5


@pytest.fixture(scope="module")
def s(parity) -> Vectors:
    return {key: torch.from_numpy(value) for key, value in parity("simifeat").items()}


@pytest.fixture(scope="module")
def b(parity) -> Vectors:
    return {key: torch.from_numpy(value) for key, value in parity("knn_relabel").items()}


# --- parity: SimiFeat-V -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_cosine_neighbours_parity(s: Vectors, dtype: torch.dtype) -> None:
    x, k = s["features"].to(dtype), int(s["k"])
    near = nearest(x, k, "cosine")
    assert near.distance.dtype == dtype
    assert torch.equal(near.position, s["neighbors"])
    close(near.distance, s["distance"].gather(1, s["neighbors"]), tolerance(dtype))
    everyone = nearest(x, len(x), "cosine")
    close(torch.zeros_like(s["distance"]).to(dtype).scatter(1, *everyone), s["distance"], tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_votes_parity(s: Vectors, dtype: torch.dtype) -> None:
    near = nearest(s["features"].to(dtype), int(s["k"]), "cosine")
    given, n_classes, least = s["labels"], int(s["num_classes"]), float(s["min_similarity"])
    votes = similarity_votes(near, given, n_classes, least)
    close(votes, s["votes_l2"], tolerance(dtype))
    close(similarity_votes(near, given, n_classes, least, norm="l1"), s["votes_l1"], tolerance(dtype))
    wrong = plurality(votes, given) != given
    assert set(s["index"][wrong].tolist()) == set(s["noisy_index_mv"].tolist())
    assert torch.equal(simifeat_v(s["features"].to(dtype), given, n_classes, int(s["k"])), wrong)


# --- parity: Deep k-NN --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("i", range(3))
def test_votes_and_filter_parity(b: Vectors, i: int, dtype: torch.dtype) -> None:
    x, y, query, n_classes = b["features"].to(dtype), b["labels"], b["query_idx"], int(b["num_classes"])
    k = int(b["ks"][i])
    near = nearest(x, k, rows=query)
    assert torch.equal(near.position, b[f"neighbors_{i}"])
    assert torch.equal(near.position, nearest(x, k).position[query])
    votes = tally(near.position, y, n_classes)
    assert torch.equal(votes, b[f"votes_{i}"])
    winner = plurality(votes, y[query])
    assert torch.equal(winner, b[f"pred_{i}"])
    keep = winner == y[query]
    assert torch.equal(keep.long(), b[f"keep_{i}"])
    assert set(query[keep].tolist()) == set(b[f"kept_idx_{i}"].tolist())
    close(agreement(votes, y[query]), b[f"agreement_{i}"])
    without = tally(nearest(x, k, itself=False, rows=query).position, y, n_classes)
    assert torch.equal(without, b[f"votes_noself_{i}"])
    assert torch.equal((plurality(without, y[query]) == y[query]).long(), b[f"keep_noself_{i}"])


def test_clean_points_vote_and_are_never_tested_parity(b: Vectors) -> None:
    x, y = torch.cat([b["features"], b["clean_features"]]), torch.cat([b["labels"], b["clean_labels"]])
    query, given = b["query_idx"], b["labels"][b["query_idx"]]
    votes = tally(nearest(x, int(b["clean_k"]), rows=query).position, y, int(b["num_classes"]))
    assert torch.equal(votes, b["clean_votes"])
    assert torch.equal(plurality(votes, given), b["clean_pred"])
    keep = plurality(votes, given) == given
    assert torch.equal(keep.long(), b["clean_keep"])
    assert set(query[keep].tolist()) == set(b["clean_kept_idx"].tolist())
    assert int(keep.sum()) + len(b["clean_labels"]) == int(b["clean_final_size"])


def test_cosine_votes_parity(b: Vectors) -> None:
    query, given = b["query_idx"], b["labels"][b["query_idx"]]
    near = nearest(b["features"], int(b["ks"][1]), "cosine", rows=query)
    votes = tally(near.position, b["labels"], int(b["num_classes"]))
    assert torch.equal(votes, b["cosine_votes"])
    assert torch.equal((plurality(votes, given) == given).long(), b["cosine_keep"])


def test_relabel_parity(b: Vectors) -> None:
    query, given = b["query_idx"], b["labels"][b["query_idx"]]
    votes = tally(nearest(b["features"], int(b["relabel_k"]), rows=query).position, b["labels"], int(b["num_classes"]))
    close(votes.amax(1).double() / votes.sum(1), b["relabel_share"])
    y, keep = relabel(votes, given, float(b["relabel_threshold"]))
    assert torch.equal(y, b["relabel_labels"])
    assert set(query[y != given].tolist()) == set(b["relabel_changed_idx"].tolist())
    assert set(query[~keep].tolist()) == set(b["drop_idx"].tolist())


def test_losses_of_the_kept_the_weighed_and_the_relabelled_parity(b: Vectors) -> None:
    query, at = b["query_idx"], b["batch_pos"]
    given = b["labels"][query]
    logits = b["batch_logits"].clone().requires_grad_()
    near = nearest(b["features"], int(b["ks"][1]), rows=query)
    votes = tally(near.position, b["labels"], int(b["num_classes"]))
    losses = F.cross_entropy(logits, given[at], reduction="none")
    close(losses.detach(), b["batch_ce"])
    keep = (plurality(votes, given) == given).double()[at]
    share = agreement(votes, given)[at]
    close(share, b["soft_weights"])
    y = relabel(votes, given, float(b["relabel_threshold"])).y  # the same k: relabel_k is ks[1]
    assert int(b["relabel_k"]) == int(b["ks"][1])
    sgd = torch.optim.SGD([logits], 0.1)
    for name, loss in {
        "masked": weighted_mean(losses, keep, sgd, "selected"),
        "soft": weighted_mean(losses, share, sgd, "selected"),
        "relabel": F.cross_entropy(logits, y[at]),
    }.items():
        close(loss.detach(), b[f"{name}_loss"])
        close(torch.autograd.grad(loss, logits, retain_graph=True)[0], b[f"{name}_grad"])


def test_trusted_samples_parity(b: Vectors) -> None:
    train, val = split_trusted(b["split_perm"])
    assert set(train.tolist()) == set(b["split_train_idx"].tolist())
    assert set(val.tolist()) == set(b["split_val_idx"].tolist())
    y = b["clean_labels"][b["split_val_order"]]
    alone, union = b["val_logits_clean_only"], b["val_logits_union"]
    close((alone.argmax(1) == y).double().mean(), b["val_acc_clean_only"])
    close((union.argmax(1) == y).double().mean(), b["val_acc_union"])
    assert trains_on_all(alone, union, y) == bool(b["choose_union"])
    assert trains_on_all(union, alone, y) != bool(b["choose_union"])
    assert not trains_on_all(alone, alone, y)


def test_detection_parity(b: Vectors) -> None:
    query, given = b["query_idx"], b["labels"][b["query_idx"]]
    votes = tally(nearest(b["features"], int(b["ks"][1]), rows=query).position, b["labels"], int(b["num_classes"]))
    out = (plurality(votes, given) != given).double()
    told = selection(out, b["true_noise"] == 0)  # of the wrong labels: here they are what is sought
    close(told["select/precision"], b["detect_precision"], 1e-6)
    close(told["select/recall"], b["detect_recall"], 1e-6)
    precision, recall = told["select/precision"], told["select/recall"]
    close(2 * precision * recall / (precision + recall), b["detect_f1"], 1e-6)


# --- neighbours ---------------------------------------------------------------------------------------------------


def brute(x: Tensor, k: int, itself: bool) -> Tensor:
    """Positions by (the row itself, squared distance, position), in whole numbers of any size."""
    rows = x.long().tolist()
    order = []
    for i, a in enumerate(rows):
        far = [(j != i, sum((p - q) ** 2 for p, q in zip(a, b, strict=True)), j) for j, b in enumerate(rows)]
        order.append([j for _, _, j in sorted(far) if itself or j != i][:k])
    return torch.tensor(order).view(len(rows), -1)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 120),
    k=st.integers(1, 45) | st.just(130),
    spread=st.sampled_from([1, 2, 50]),
    offset=st.sampled_from([0, 4096]),
    itself=st.booleans(),
    rows_at_once=st.sampled_from([1, 300, 1 << 24]),
)
def test_nearest_is_brute_force_with_ties_by_position(seed, n, k, spread, offset, itself, rows_at_once) -> None:
    """Points of a small grid: many twins and ties; far from 0, where a^2 + b^2 - 2ab in float32 is off by whole units."""
    x = torch.randint(-spread, spread + 1, (n, 3), generator=torch.Generator().manual_seed(seed)) + offset
    with pytest.MonkeyPatch.context() as m:
        m.setattr(neighbours, "CHUNK", rows_at_once)
        near = nearest(x.float(), k, itself=itself)
    assert torch.equal(near.position, brute(x, k, itself))
    exact = (x[:, None] - x[near.position]).double().norm(dim=2)
    torch.testing.assert_close(near.distance.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_and_threads_change_no_bit(metric, dtype, monkeypatch) -> None:
    x = torch.randn(300, 17, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[50:90] = x[10]  # twins, more than are looked at closely
    x[0] *= 1e4  # one far out
    whole = nearest(x, 12, metric)
    torch.set_num_threads(2)
    try:
        threads = nearest(x, 12, metric)
    finally:
        torch.set_num_threads(1)
    for chunk in (1, 5000, 20_000):
        monkeypatch.setattr(neighbours, "CHUNK", chunk)
        again = nearest(x, 12, metric)
        assert torch.equal(again.position, whole.position)
        assert torch.equal(again.distance, whole.distance)
    assert torch.equal(threads.position, whole.position)
    assert torch.equal(threads.distance, whole.distance)
    assert whole.position[60].tolist() == [60, 10, *range(50, 60)]


def test_mixed_precision_around_it_changes_no_bit() -> None:
    x = (torch.randn(300, 64, generator=torch.Generator().manual_seed(3)) + 50).requires_grad_()
    alone = nearest(x, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nearest(x, 5)
    assert torch.equal(inside.position, alone.position)
    assert torch.equal(inside.distance, alone.distance)
    assert not alone.distance.requires_grad


def test_float32_is_as_good_as_its_distances() -> None:
    """Neighbours of real numbers in float32 are those in float64 but for what rounding makes equal."""
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(2))
    ours, exact = nearest(x, 20), nearest(x.double(), 20)
    close(ours.distance, exact.distance, 1e-6)
    assert (ours.position == exact.position).double().mean() > 0.999


def test_one_neighbour_more_than_there_are_and_refusals() -> None:
    x = torch.tensor([[0.0], [3.0], [1.0]])
    assert nearest(x, 1).position.tolist() == [[0], [1], [2]]
    assert nearest(x, 1).distance.tolist() == [[0], [0], [0]]
    assert nearest(x, 1, itself=False).position.tolist() == [[2], [2], [0]]
    assert nearest(x, 9).position.tolist() == [[0, 2, 1], [1, 2, 0], [2, 0, 1]]
    assert nearest(x, 9, itself=False).distance.tolist() == [[1, 3], [2, 3], [1, 2]]
    assert nearest(x[:1], 5, itself=False).position.shape == (1, 0)
    assert nearest(x, 2, rows=torch.tensor([2])).position.tolist() == [[2, 0]]
    assert nearest(x, 2, rows=torch.tensor([], dtype=torch.long)).position.shape == (0, 2)
    assert nearest(torch.tensor([[0], [200], [90]], dtype=torch.uint8), 2).position.tolist() == [[0, 2], [1, 2], [2, 0]]
    assert nearest(torch.empty(0, 3), 2).position.shape == (0, 0)
    with pytest.raises(ValueError, match="k is 0"):
        nearest(x, 0)
    for bad in (float("nan"), float("inf"), 1e30):
        with pytest.raises(InputError, match="1 of 3 rows"):
            nearest(torch.tensor([[0.0], [bad], [1.0]]), 1)


def test_constant_features_leave_the_order_of_positions() -> None:
    for value in (0.0, 2.5):
        x = torch.full((30, 4), value)
        for metric in ("euclidean", "cosine"):
            near = nearest(x, 3, metric)
            assert near.position[0].tolist() == [0, 1, 2]
            assert near.position[7].tolist() == [7, 0, 1]
            assert near.distance.abs().max() == 0


def test_cosine_sees_directions_only() -> None:
    x = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0], [1e-30, 1e-30], [0.0, 0.0], [0.0, 0.0]])
    near = nearest(x, 6, "cosine")
    distance = torch.zeros(6, 6).scatter(1, *near)
    half = 1 - 0.5**0.5
    torch.testing.assert_close(distance[0], torch.tensor([0, 1, 2, half, 1, 1]))
    torch.testing.assert_close(distance[4], torch.tensor([1.0, 1, 1, 1, 0, 0]))
    torch.testing.assert_close(distance, distance.t())
    assert unit_rows(x).norm(dim=1).tolist() == pytest.approx([1, 1, 1, 1, 0, 0])
    assert torch.equal(unit_rows(x)[0], torch.tensor([1.0, 0.0]))


# --- votes --------------------------------------------------------------------------------------------------------


def test_votes_by_hand() -> None:
    y = torch.tensor([0, 1, 1, 2])
    assert tally(torch.tensor([[0, 1, 2], [3, 3, 0]]), y, 4).tolist() == [[1, 2, 0, 0], [1, 0, 2, 0]]
    near = Neighbours(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0.0, 0.2, 0.3, 0.6]]))
    # The own distance becomes 2 * 0.2 - 0.3 = 0.1: weights 0.9, 0.8, 0.7, 0.4.
    assert similarity_votes(near, y, 3, norm="l1")[0].tolist() == pytest.approx([0.9 / 2.8, 1.5 / 2.8, 0.4 / 2.8])
    length = (0.9**2 + 1.5**2 + 0.4**2) ** 0.5
    assert similarity_votes(near, y, 3)[0].tolist() == pytest.approx([0.9 / length, 1.5 / length, 0.4 / length])
    assert similarity_votes(near, y, 3, 0.5, "l1")[0].tolist() == pytest.approx([0.5, 0.625, -0.125])
    two = Neighbours(near.position[:, :2], near.distance[:, :2])
    assert similarity_votes(two, y, 3, norm="l1")[0].tolist() == pytest.approx([1 / 1.8, 0.8 / 1.8, 0])
    nobody = Neighbours(torch.tensor([[0, 1]]), torch.ones(1, 2))
    for norm in ("l1", "l2"):
        assert similarity_votes(nobody, y, 3, norm=norm).tolist() == [[0, 0, 0]]  # type: ignore[arg-type]


def test_a_tie_is_for_the_given_label_then_for_the_smallest_class() -> None:
    votes = torch.tensor([[2, 2, 1], [2, 2, 1], [2, 2, 1], [0, 1, 4]])
    y = torch.tensor([0, 1, 2, 0])
    assert plurality(votes, y).tolist() == [0, 1, 0, 2]
    assert agreement(votes, y).tolist() == [0.4, 0.4, 0.2, 0.0]


def test_relabel_by_hand_and_as_filter() -> None:
    votes = torch.tensor([[3, 2], [3, 2], [1, 4], [5, 0]])
    y = torch.tensor([0, 1, 0, 0])
    at_the_share = relabel(votes, y, 0.6)
    assert at_the_share.y.tolist() == [0, 0, 1, 0]
    assert at_the_share.keep.tolist() == [True] * 4
    above = relabel(votes, y, 0.7)
    assert above.y.tolist() == [0, 1, 1, 0]
    assert above.keep.tolist() == [True, False, True, True]
    never = relabel(votes, y, 1.01)
    assert torch.equal(never.y, y)
    assert torch.equal(never.keep, plurality(votes, y) == y)


def test_a_flipped_point_of_a_pure_cluster_is_found_from_three_on() -> None:
    x = torch.cat([torch.arange(10.0), 1000 + torch.arange(10.0)])[:, None]
    y = (torch.arange(20) >= 10).long()
    y[4] = 1
    for k in (1, 2, 3, 5, 9):
        found = plurality(tally(nearest(x, k).position, y, 2), y) != y
        assert found.nonzero().flatten().tolist() == ([] if k < 3 else [4])
        if k >= 3:
            assert simifeat_v(x - 500, y, 2, k)[4]


def test_limits_of_votes() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 3  # class 0 seven times, 1 seven times, 2 six times
    assert plurality(tally(nearest(x, 20).position, y, 3), y).tolist() == [1 if c == 1 else 0 for c in y.tolist()]
    assert torch.equal(plurality(tally(nearest(x, 1).position, y, 3), y), y)
    one = torch.zeros(20, dtype=torch.long)
    assert not simifeat_v(x, one, 1).any()
    assert agreement(tally(nearest(x, 7).position, one, 1), one).tolist() == [1.0] * 20


def test_split_of_trusted_samples() -> None:
    train, val = split_trusted(torch.tensor([3, 0, 2, 1, 4]), 0.5)
    assert (train.tolist(), val.tolist()) == ([3, 0], [2, 1, 4])
    assert split_trusted(torch.arange(0))[0].shape == (0,)
