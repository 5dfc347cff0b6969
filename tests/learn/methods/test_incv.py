"""INCV: the sheet's conformance checks, the bookkeeping of the halves, Co-teaching on the selection."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import ToyTrain, accuracy, blobs, run, task

from raystudy.errors import InputError
from raystudy.learn.methods.incv import INCV, candidate_batch, discard_ratio, estimate_noise, selection_noise

# --- the formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8])
def test_estimate_inverts_the_hold_out_accuracy(rate: float) -> None:
    assert estimate_noise((1 - rate) ** 2 + rate**2 / 9 + 1e-9, 10) == pytest.approx(rate)


def test_estimate_by_hand() -> None:
    assert estimate_noise(0.52, 10) == pytest.approx(0.286, abs=0.001)  # pair noise of 0.4 by the wrong formula
    assert estimate_noise(0.52 + 1e-9, 10, "pair") == pytest.approx(0.4)
    assert estimate_noise(1.0, 10) == 0.001
    assert estimate_noise(0.05, 10) == 0.9  # below the minimum 0.1 there is no solution
    assert estimate_noise(0.3, 10, "pair") == 0.5


def test_noise_left_in_the_selection() -> None:
    left = [selection_noise(rate, 10, "symmetric") for rate in (0.2, 0.5, 0.8)]
    assert left == pytest.approx([0.0069, 0.1, 0.64], abs=1e-4)
    assert selection_noise(0.4, 10, "pair") == pytest.approx(0.308, abs=1e-3)


def test_discarding_by_hand() -> None:
    assert [discard_ratio(rate) for rate in (0.2, 0.5, 0.8)] == pytest.approx([0.25, 1, 2])
    assert discard_ratio(0.5, 0.0) == 0


def test_candidates_in_a_batch() -> None:
    assert candidate_batch(5_000, 30_000, 128) == 21
    assert candidate_batch(15_000, 30_000, 128) == candidate_batch(40_000, 30_000, 128) == 64
    assert candidate_batch(10, 30_000, 128) == 0


# --- cross-validation -------------------------------------------------------------------------------------------


def incv(train: ToyTrain, epochs: int = 24, **options) -> INCV:
    torch.manual_seed(0)
    return INCV(task(train, epochs=epochs), **options)


def test_the_budget_is_cut_into_halves() -> None:
    train = blobs(n=8).train

    def cut(epochs: int, **options) -> tuple[int, int]:
        method = incv(train, epochs, **options)
        return method.fold_epochs, method.stage2_epoch

    assert cut(600) == (50, 400)  # as published
    assert cut(10) == (1, 6)  # three iterations fit
    assert cut(12, stage1=0.5, iterations=1) == (3, 6)
    assert cut(1) == (1, 1)
    assert cut(90, folds=3) == (5, 60)  # twelve trainings
    assert cut(10, folds=5) == (1, 5)  # one iteration fits
    assert incv(train).settled() == pytest.approx(2 / 3 + 0.2 / 3)


def test_halves_part_the_candidates_and_swap_roles() -> None:
    toy = blobs(n=101, rate=0.3)
    method = incv(toy.train, 24, iterations=2)  # halves of four epochs
    sides, candidates = [], []
    for t in range(16):
        candidates.append(method.candidate.clone())
        logs = run(method, toy.train, range(t, t + 1))[0]
        sides.append(method.side.clone())
        assert ("weight" in logs[-1]) == (t % 4 == 3)
        if t in (3, 7):
            held = (method.side == 1 - t // 4 % 2).nonzero().squeeze(1)
            assert logs[-1]["index"].tolist() == held.tolist()
            assert logs[-1]["weight"].tolist() == method.correct[held].float().tolist()
    assert all(torch.equal(sides[0], s) for s in sides[1:8])
    assert [(sides[0] == i).sum().item() for i in (-1, 0, 1)] == [0, 50, 51]
    assert not torch.equal(sides[8], sides[0])
    assert torch.equal(sides[8] >= 0, candidates[8])
    assert candidates[8].sum() < 101


def test_more_folds_each_held_out_once_by_a_net_that_saw_all_others() -> None:
    toy = blobs(n=101, rate=0.3)
    method = incv(toy.train, 9, folds=3, iterations=2, stage1=2 / 3)  # six trainings of one epoch
    sets = []
    for t in range(3):
        seen = []
        train = ToyTrain(**vars(toy.train))
        plain = train.batches
        train.batches = lambda subset=None, plain=plain, seen=seen, **how: seen.append(subset) or plain(subset, **how)
        logs = run(method, train, range(t, t + 1))[0]
        sets.append((set(seen[0].tolist()), set(logs[-1]["index"].tolist())))
        assert method.selected.any() == (t == 2)
    assert [len(held) for _, held in sets] == [34, 34, 33]
    assert set.union(*(held for _, held in sets)) == set(range(101))
    assert all(trained == set(range(101)) - held for trained, held in sets)
    assert method.selected.sum() == method.correct.sum()  # predicted as labelled, each while it was held out


def test_one_fold_is_refused() -> None:
    with pytest.raises(InputError, match="folds=1 leaves nothing"):
        incv(blobs(n=8).train, folds=1)


def test_selected_never_shrinks_and_is_apart_from_candidates() -> None:
    toy = blobs(n=200, rate=0.5)
    method = incv(toy.train, 24, iterations=4)
    before = method.selected.clone()
    for t in range(method.stage2_epoch):
        run(method, toy.train, range(t, t + 1))
        assert not (before & ~method.selected).any()
        assert not (method.selected & method.candidate).any()
        before = method.selected.clone()
    assert 0 < before.sum() < 200


def test_each_half_starts_from_the_same_weights_with_a_fresh_optimizer() -> None:
    toy = blobs(n=64)
    method = incv(toy.train, 24, iterations=2)
    run(method, toy.train, range(3))
    assert len(method.optimizers[0].state)
    method._begin_fold(1)
    assert not method.optimizers[0].state
    for (name, a), b in zip(method.nets[0].state_dict().items(), method.initial.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_clean_separable_data_are_selected_at_once() -> None:
    toy = blobs(n=200, rate=0.0, spread=0.05)
    method = incv(toy.train, 24, iterations=2)
    run(method, toy.train, range(2 * method.fold_epochs))
    assert method.selected.all()
    assert not method.candidate.any()
    assert method.noise_rate.item() == 0.001
    run(method, toy.train, range(2 * method.fold_epochs, 24))  # goes on without candidates
    assert accuracy(method, toy) > 0.95


def fold_end(labels: Tensor, losses: list[float], correct: list[bool], **options) -> INCV:
    """A method at the end of its first half, with side 1 held out and told what was predicted."""
    train = ToyTrain(torch.zeros(len(labels), 1, 1, 2), labels, 10)
    method = incv(train, **options)
    method._begin_fold(0)
    held = (method.side == 1).nonzero().squeeze(1)
    method.correct[held], method.losses[held] = torch.tensor(correct), torch.tensor(losses)
    method._end_fold(0, held, train)
    assert method.discarded[held].sum() == method.discarded.sum()
    return method


def test_discards_the_largest_losses() -> None:
    labels, losses = torch.zeros(20, dtype=torch.int64), [float(i) for i in range(10)]
    method = fold_end(labels, losses, [True] * 5 + [False] * 5)  # accuracy .5: estimate .3, ratio .43, two for five
    assert method.noise_rate.item() == 0.3
    assert sorted(method.losses[method.discarded].tolist()) == [8.0, 9.0]
    for options in ({"discard_cap": 0.0}, {"discard_cap": 0.1}):  # int(0.1 * 5) = 0 discards none, not all
        assert not fold_end(labels, losses, [True] * 5 + [False] * 5, **options).discarded.any()
    assert fold_end(labels, losses, [False] * 10).discarded.sum() == 0


def test_how_long_the_best_epoch_counts() -> None:
    train = blobs(n=8).train

    def iterations(rate: float, **options) -> int:
        method = incv(train, **options)
        method.noise_rate.fill_(rate)
        return sum(method._keeps_best(i) for i in range(6))

    assert [iterations(rate) for rate in (0.2, 0.5, 0.8)] == [4, 2, 1]
    assert iterations(0.2, pattern="pair") == 1
    assert [iterations(0.8, t_best=k) for k in (0, 3)] == [0, 3]


class Constant(nn.Module):
    """Predicts one class for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), 4)


@pytest.mark.parametrize("best_only", [True, False])
def test_the_best_epoch_or_the_last(best_only: bool) -> None:
    labels = torch.tensor([0, 0, 0, 1] * 5)
    train = ToyTrain(torch.zeros(20, 1, 1, 2), labels, 4)
    method = INCV(task(train, net=Constant))
    method._begin_fold(0)
    held = (method.side == 1).nonzero().squeeze(1)
    share = [(labels[held] == k).double().mean().item() for k in (0, 1)]
    assert share[0] > share[1]
    for k in (0, 1):
        with torch.no_grad():
            method.nets[0].logits.copy_(F.one_hot(torch.tensor(k), 4))
        method._look(held, train, best_only)
    assert method.best.item() == pytest.approx(share[0 if best_only else 1])
    assert torch.equal(method.correct[held], labels[held] == (0 if best_only else 1))
    assert not method.correct[method.side == 0].any()


def test_learning_rates_of_both_stages() -> None:
    toy = blobs(n=16)
    method = incv(toy.train, 30, iterations=1, stage1=2 / 3)  # two halves of ten epochs, then ten
    seen = []
    for t in range(30):
        for optimizer in method.optimizers:
            optimizer.param_groups[0]["lr"] = 7.0  # what the loop sets does not count
        run(method, toy.train, range(t, t + 1))
        seen.append(method.optimizers[0 if t < 20 else 2].param_groups[0]["lr"] / 0.05)
    half = [1.0] * 5 + [0.5] * 2 + [0.25] * 2 + [0.1]
    assert seen == pytest.approx(half + half + [1.0] * 4 + [0.1] * 2 + [0.01] * 2 + [0.001, 0.0005])


# --- Co-teaching on the selection -------------------------------------------------------------------------------


def prepared(n: int = 100, n_selected: int = 60, rate: float = 0.5, **options) -> tuple[INCV, ToyTrain]:
    train = blobs(n=n, n_classes=10).train
    train.batch_size = 20
    method = incv(train, 30, **options)
    method.selected[:n_selected] = True
    method.candidate.copy_(~method.selected)
    method.noise_rate.fill_(rate)
    return method, train


def kept(logs: list[dict]) -> float:
    return logs[-1]["weight"].sum().item()


def test_keeps_by_the_noise_left_and_ramps() -> None:
    method, train = prepared(rate=0.8, gradual=0.2, warmup=1.0)
    n_gradual = method.n_gradual
    assert n_gradual == round(0.2 * method.stage2_epochs)
    for e in (0, 1, n_gradual, n_gradual + 1):
        logs = run(method, train, range(method.stage2_epoch + e, method.stage2_epoch + e + 1))[0]
        forget = 0.64 * min(e / n_gradual, 1)
        assert kept(logs) == 3 * round(20 * (1 - forget))
        assert logs[-1]["weight"][60:].sum() == 0


def test_published_numbers_of_samples_kept() -> None:
    ours = [round(128 * (1 - selection_noise(rate, 10, "symmetric"))) for rate in (0.2, 0.5, 0.8)]
    assert ours == [127, 115, 46]


def test_candidates_come_in_after_the_warm_up() -> None:
    method, train = prepared(rate=0.2, warmup=0.3)
    n = method.warmup_epochs
    passes = [
        sum(
            log.get("passes", 0)
            for log in run(method, train, range(method.stage2_epoch + e, method.stage2_epoch + e + 1))[0]
        )
        for e in (n, n + 1)
    ]
    b_c = candidate_batch(40, 60, 20)
    assert b_c == 10
    assert passes == [6 * 60, 6 * (60 + 3 * b_c)]
    logs = run(method, train, range(method.stage2_epoch + n + 2, method.stage2_epoch + n + 3))[0]
    assert (logs[-1]["weight"][60:] > 0).any()  # untrained nets keep some of both


def test_an_empty_selection_means_all_samples() -> None:
    method, train = prepared(n_selected=0)
    logs = run(method, train, range(method.stage2_epoch, method.stage2_epoch + 1))[0]
    assert kept(logs) == 100


def test_prediction_changes_from_the_half_to_the_pair() -> None:
    method, train = prepared()
    x = train.x[:5]
    method.eval()
    torch.testing.assert_close(method.probs(x), method.nets[0](x).softmax(1))
    run(method, train, range(method.stage2_epoch, method.stage2_epoch + 1))
    method.eval()
    torch.testing.assert_close(method.probs(x), method.peers.probs(x))


@pytest.mark.parametrize(("folds", "iterations"), [(2, 3), (3, 2)])
def test_selects_clean_labels_and_learns(folds: int, iterations: int) -> None:
    toy = blobs(n=400, rate=0.5)
    method = incv(toy.train, 36, folds=folds, iterations=iterations)
    run(method, toy.train, range(36))
    is_clean = toy.train.y == toy.clean
    assert is_clean[method.selected].double().mean() > is_clean.double().mean() + 0.2
    assert method.selected[is_clean].double().mean() > 0.6
    assert accuracy(method, toy) > 0.85


@pytest.mark.parametrize("name", ["estimator", "pattern"])
def test_unknown_kinds_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="did you mean 'pair'"):
        INCV(task(blobs(n=8).train), **{name: "par"})
