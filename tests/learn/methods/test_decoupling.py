"""Decoupling: parity with the multi-class port and the two-class original, values by hand, limits."""

import pytest
import torch
import torch.nn.functional as F
from test_coteaching import tensors
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.method import Task
from raystudy.learn.methods.decoupling import Decoupling, balanced_weights, decoupling_losses, disagreement, queued
from raystudy.learn.recipe import Recipe


@pytest.fixture(scope="module")
def z(parity) -> dict[str, torch.Tensor]:
    return tensors(parity("decoupling"))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def losses_and_grads(logits1, logits2, y, mask=None, **how) -> tuple[torch.Tensor, ...]:
    a, b = logits1.clone().requires_grad_(), logits2.clone().requires_grad_()
    mask = disagreement(a, b) if mask is None else mask
    loss1, loss2 = decoupling_losses(a, b, y, mask, **how)
    (loss1 + loss2).backward()
    return loss1.detach(), loss2.detach(), a.grad, b.grad


def test_losses_parity(z) -> None:
    logits1, logits2, y = z["logits1"], z["logits2"], z["labels"]
    mask = disagreement(logits1, logits2)
    assert mask.nonzero().squeeze(1).tolist() == z["disagree"].tolist()
    close(mask.double().mean(), z["disagree_rate"])
    assert (logits1.argmax(1).tolist(), logits2.argmax(1).tolist()) == (z["pred1"].tolist(), z["pred2"].tolist())
    close(F.cross_entropy(logits1, y, reduction="none"), z["losses1"])
    close(F.cross_entropy(logits2, y, reduction="none"), z["losses2"])
    ours = losses_and_grads(logits1, logits2, y)
    for value, key in zip(ours, ("loss1", "loss2", "grad1", "grad2"), strict=True):
        close(value, z[key])
    close(z["clean_flag"][mask].double().mean(), z["pure_ratio"])
    warm = losses_and_grads(logits1, logits2, y, torch.ones_like(mask))
    for value, key in zip(warm, ("warm_loss1", "warm_loss2", "warm_grad1", "warm_grad2"), strict=True):
        close(value, z[key])


def test_agreement_parity(z) -> None:
    loss1, loss2, grad1, _ = losses_and_grads(z["logits1"], z["agree_logits2"], z["labels"])
    assert disagreement(z["logits1"], z["agree_logits2"]).sum() == z["agree_n_update"] == 0
    assert loss1 == z["agree_loss1"] == loss2 == z["agree_loss2"] == 0
    assert torch.equal(grad1, z["agree_grad1"])


def linear_pair(z, optimizer) -> Decoupling:
    k, d = z["lin_weight1"].shape
    method = Decoupling(Task(len(z["lin_x"][0]), k, 10, lambda: torch.nn.Linear(d, k).double(), optimizer))
    for i in (0, 1):
        method.nets[i].weight.data.copy_(z[f"lin_weight{i + 1}"])
        method.nets[i].bias.data.copy_(z[f"lin_bias{i + 1}"])
    return method


@pytest.mark.parametrize("kind", ["lin", "sgd"])
def test_steps_of_linear_nets_parity(z, kind: str) -> None:
    """Two optimizers give what one over both nets does."""
    if kind == "lin":
        method = linear_pair(z, lambda net: torch.optim.Adam(net.parameters(), lr=float(z["lin_lr"])))
    else:
        lr, momentum = float(z["sgd_lr"]), float(z["sgd_momentum"])
        method = linear_pair(z, lambda net: torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum))
    for s, (x, y) in enumerate(zip(z["lin_x"], z["lin_labels"], strict=True)):
        log = method.step(Batch(torch.arange(len(y)), x, y), 0)
        assert round(float(log["disagree"]) * len(y)) == z[f"{kind}_n_disagree"][s]
        for i in (0, 1):
            close(method.nets[i].weight.detach(), z[f"{kind}_weight{i + 1}_after"][s])
            close(method.nets[i].bias.detach(), z[f"{kind}_bias{i + 1}_after"][s])


def test_schedule_parity(z) -> None:
    n, start = int(z["sched_n_epoch"]), int(z["sched_start"])
    recipe = Recipe("adam", lr=float(z["sched_lr0"]), schedule="linear", milestones=(start / n,))
    # Our epoch t is entry t + 1, as in Co-teaching's tables; the port begins at entry 0.
    close(torch.tensor([recipe.rate(e - 1, n) for e in range(n)], dtype=torch.float64), z["sched_lr"])
    toy = blobs(n=64)
    late = float(z["sched_beta1"][-1])
    method = Decoupling(task(toy.train, epochs=n, adam=True), decay_start=start / n, late_beta1=late)
    betas = []
    for t in range(n):
        run(method, toy.train, range(t, t + 1))
        betas += [optimizer.param_groups[0]["betas"][0] for optimizer in method.optimizers]
    assert betas == [float(b) for b in [*z["sched_beta1"][1:], z["sched_beta1"][-1]] for _ in "12"]


def test_two_class_original_parity(z) -> None:
    logits1, logits2, y = z["bin_logits1"], z["bin_logits2"], z["bin_labels"]
    weights = balanced_weights(y, logits1.shape[1])
    close(weights, z["bin_class_weights"])
    how = {"denominator": "floor", "floor": float(z["bin_min_batch_ratio"]), "weights": weights}
    added = z["bin_lambda"] * z["bin_reg_losses"].sum()
    for s, step in enumerate(z["bin_steps"]):
        mask = torch.ones_like(y, dtype=torch.bool) if step < z["bin_init_iter"] else disagreement(logits1, logits2)
        assert mask.long().tolist() == z["bin_update_mask"][s].tolist()
        loss1, loss2, grad1, grad2 = losses_and_grads(logits1, logits2, y, mask, **how)
        close(torch.stack([loss1, loss2]), z["bin_loss"][s])
        close(torch.stack([loss1, loss2]) + added, z["bin_total_loss"][s])
        close(grad1, z["bin_grad1"][s])
        close(grad2, z["bin_grad2"][s])
    few = losses_and_grads(logits1, z["bin_few_logits2"], y, **how)
    close(torch.stack(few[:2]), z["bin_few_loss"])
    close(few[2], z["bin_few_grad1"])
    close(few[3], z["bin_few_grad2"])
    assert float(z["bin_few_denominator"]) == pytest.approx(how["floor"] * len(y))
    same = losses_and_grads(logits1, z["bin_same_logits2"], y, **how)
    assert same[0] == same[1] == 0
    assert torch.equal(same[2], z["bin_same_grad1"])
    everyone = torch.ones_like(y, dtype=torch.bool)
    full = losses_and_grads(logits1, logits2, y, everyone, **how)
    close(torch.stack(full[:2]), z["bin_full_loss"])
    close(full[2], z["bin_full_grad1"])
    close(full[3], z["bin_full_grad2"])


def test_a_batch_of_one_class_parity(z) -> None:
    """The file says the losses of a batch of one class, not which: one of the two reproduces them."""
    logits1, logits2, ratio = z["bin_logits1"], z["bin_logits2"], float(z["bin_min_batch_ratio"])
    found = []
    for label in range(logits1.shape[1]):
        y = torch.full_like(z["bin_labels"], label)
        for mask in (torch.ones_like(y, dtype=torch.bool), disagreement(logits1, logits2)):
            weights = balanced_weights(y, logits1.shape[1])
            ours = losses_and_grads(logits1, logits2, y, mask, denominator="floor", floor=ratio, weights=weights)
            if torch.allclose(torch.stack(ours[:2]), z["bin_oneclass_loss"], rtol=0, atol=1e-9):
                found.append(ours[2])
    assert len(found) == 1
    close(found[0], z["bin_oneclass_grad1"])


def test_buffer_parity(z) -> None:
    waiting = z["buf_ids"].new_empty(0)
    size = z["buf_update_ids"].shape[1]
    steps, updates = [], []
    for s, (ids, mask) in enumerate(zip(z["buf_ids"], z["buf_mask"].bool(), strict=True)):
        ready, waiting = queued(waiting, ids[mask], size)
        if len(ready):
            steps.append(s)
            updates.append(ready.tolist())
    assert steps == z["buf_update_steps"].tolist()
    assert updates == z["buf_update_ids"].tolist()
    assert waiting.tolist() == z["buf_left_ids"].tolist()


def test_halved_rate_parity(z) -> None:
    """The original's rate, halved every 5000 updates, as a recipe."""
    total = 15000
    recipe = Recipe(lr=float(z["bin_lr0"]), schedule="step", gamma=0.5, milestones=(5000 / total, 10000 / total))
    for step, rate in zip(z["bin_lr_steps"].tolist(), z["bin_lr"].tolist(), strict=True):
        if step < total:
            assert recipe.rate(step, total) == pytest.approx(rate)


def test_values_by_hand() -> None:
    logits1 = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    logits2 = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    y = torch.tensor([1, 1])
    mask = disagreement(logits1, logits2)
    assert mask.tolist() == [False, True]
    loss1, _ = decoupling_losses(logits1, logits2, y, mask)
    assert loss1.item() == pytest.approx(1.3132617)  # log(1 + e)
    (grad,) = torch.autograd.grad(loss1, logits1)
    assert grad[0].tolist() == [0.0, 0.0]  # an agreeing row has none
    assert grad[1].tolist() == pytest.approx([0.7310586, -0.7310586])  # p - t, whole, although it is one of two
    halved, _ = decoupling_losses(logits1, logits2, y, mask, "batch")
    assert halved.item() == pytest.approx(1.3132617 / 2)
    floored, _ = decoupling_losses(logits1, logits2, y, mask, "floor", 0.75)
    assert floored.item() == pytest.approx(1.3132617 / 1.5)
    assert balanced_weights(torch.tensor([0, 0, 0, 1]), 2).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])


def test_the_sheets_buffer_by_hand() -> None:
    """Batches with 3, 0 and 4 disagreeing and a size of 6: one update on the first six, one left."""
    waiting = torch.empty(0, dtype=torch.int64)
    for new in ([1, 2, 3], [], [4, 5, 6, 7]):
        ready, waiting = queued(waiting, torch.tensor(new, dtype=torch.int64), 6)
    assert (ready.tolist(), waiting.tolist()) == ([1, 2, 3, 4, 5, 6], [7])


@pytest.mark.parametrize("buffer", [False, True])
def test_equal_nets_never_learn(buffer: bool) -> None:
    toy = blobs(n=96)
    method = Decoupling(task(toy.train), buffer=buffer)
    method.nets[1].load_state_dict(method.nets[0].state_dict())
    before = [p.clone() for p in method.parameters()]
    run(method, toy.train, range(2))
    assert all(torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


@pytest.mark.parametrize("point", [{}, {"denominator": "floor", "balance": True}, {"buffer": True, "warmup": 0.1}])
def test_it_learns(point: dict) -> None:
    toy = blobs(n=400, rate=0.3)
    torch.manual_seed(0)
    method = Decoupling(task(toy.train), **point)
    run(method, toy.train, range(10))
    assert accuracy(method, toy) > 0.75  # chance is .25
    assert (method.waiting >= 0).sum() < toy.train.batch_size


def test_an_unknown_denominator_is_named() -> None:
    with pytest.raises(InputError, match="denominator"):
        Decoupling(task(blobs(n=8).train), denominator="n")
