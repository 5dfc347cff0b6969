"""Negative label smoothing: parity with the original code, values by hand, the procedure around the loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_coteaching import tensors
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.data.noise import map_matrix, symmetric_matrix
from raystudy.design.space import load, recipe_for
from raystudy.learn.losses import soft_cross_entropy
from raystudy.learn.method import Task
from raystudy.learn.methods.b_correction import backward_correction
from raystudy.learn.methods.negative_label_smoothing import NegativeLabelSmoothing, generalised_smoothing
from raystudy.learn.ops import known_transition
from raystudy.learn.recipe import Recipe


@pytest.fixture(scope="module")
def z(parity) -> dict[str, torch.Tensor]:
    return tensors(parity("negative_label_smoothing"))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def value_and_grad(z, **how) -> tuple[torch.Tensor, torch.Tensor]:
    logits = z["logits"].clone().requires_grad_()
    loss = generalised_smoothing(logits, z["labels"], **how).mean()
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def test_losses_parity(z) -> None:
    for i, rate in enumerate(z["smooth_rates"].tolist()):
        close(generalised_smoothing(z["logits"], z["labels"], rate), z["gls_losses"][i])
        loss, grad = value_and_grad(z, rate=rate)
        close(loss, z["gls_loss"][i])
        close(grad, z["gls_grad"][i])
        close(soft_cross_entropy(z["logits"], z["targets"][i]), z["gls_loss"][i])
        assert grad.sum(1).abs().max() < 1e-12
    for i, (wa, wb, rate) in enumerate(zip(z["mix_wa"], z["mix_wb"], z["mix_rate"], strict=True)):
        loss, grad = value_and_grad(z, rate=float(rate), wa=float(wa), wb=float(wb))
        close(loss, z["mix_loss"][i])
        close(grad, z["mix_grad"][i])


def test_it_is_not_bounded_parity(z) -> None:
    rate = float(z["unb_rate"])
    found = [generalised_smoothing(c * z["unb_logits"], z["labels"], rate).mean() for c in z["unb_scales"]]
    close(torch.stack(found), z["unb_loss"])
    assert (torch.stack(found).diff() < 0).all()


def linear(z, optimizer) -> NegativeLabelSmoothing:
    k, d = z["step_weight0"].shape
    whole = Task(z["step_x"].shape[1], k, 10, lambda: torch.nn.Linear(d, k).double(), optimizer)
    method = NegativeLabelSmoothing(whole, smoothing=float(z["step_rate"]), warmup=0.5)
    method.nets[0].weight.data.copy_(z["step_weight0"])
    method.nets[0].bias.data.copy_(z["step_bias0"])
    return method


@pytest.mark.parametrize(("stage", "t"), [("warmup", 0), ("direct", 5)])
def test_steps_of_a_linear_net_parity(z, stage: str, t: int) -> None:
    lr = float(z["step_lr"])
    momentum, decay = float(z["step_momentum"]), float(z["step_weight_decay"])
    how = {} if stage == "warmup" else {"momentum": momentum, "weight_decay": decay, "nesterov": True}
    method = linear(z, lambda net: torch.optim.SGD(net.parameters(), lr=lr, **how))
    for s, (x, y) in enumerate(zip(z["step_x"], z["step_labels"], strict=True)):
        method.step(Batch(torch.arange(len(y)), x, y), t)
        close(method.nets[0].weight.detach(), z[f"step_{stage}_weight"][s])
        close(method.nets[0].bias.detach(), z[f"step_{stage}_bias"][s])


def test_backward_correction_parity(z) -> None:
    """For symmetric noise of a known rate it is the backward correction, at one r."""
    k, e = z["logits"].shape[1], float(z["back_rate"])
    rate = -e * k / ((1 - e) * k - 1)
    assert rate == pytest.approx(float(z["back_smooth_rate"]))
    inverse = torch.linalg.inv(known_transition("symmetric", k, e))
    close(backward_correction(z["logits"], z["labels"], inverse).mean(), z["back_loss"])
    close(generalised_smoothing(z["logits"], z["labels"], rate).mean(), z["back_gls_loss"])


def test_noise_parity(z) -> None:
    swaps = np.arange(10)
    for a, b in ((9, 1), (2, 0), (4, 7), (3, 5), (6, 8)):
        swaps[[a, b]] = b, a
    for i, rate in enumerate(z["pair_rates"].tolist()):
        close(torch.from_numpy(map_matrix(swaps, rate)), z[f"pair_T_{i}"])
        close(torch.from_numpy(symmetric_matrix(10, rate, "exclusive")), z[f"sym_T_{i}"])


@pytest.mark.parametrize(("stage", "milestones"), [("direct", (0.5, 0.75)), ("warmup", (1 / 3, 2 / 3))])
def test_rates_parity(z, stage: str, milestones: tuple[float, ...]) -> None:
    n = len(z[f"lr_{stage}"])
    recipe = Recipe(lr=float(z[f"lr_{stage}"][0]), schedule="step", milestones=milestones)
    ours = [recipe.rate(int(e), n) for e in z[f"lr_{stage}_epochs"]]
    close(torch.tensor(ours, dtype=torch.float64), z[f"lr_{stage}"])


def test_the_rate_after_the_warm_up_parity(z) -> None:
    toy = blobs(n=64)
    first, late = float(z["lr_warmup"][0]), z["lr_load"].unique().item()
    method = NegativeLabelSmoothing(task(toy.train, epochs=4, lr=first), warmup=0.5, late_lr=late / first)
    rates = []
    for t in range(4):
        run(method, toy.train, range(t, t + 1))
        rates.append(method.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([first, first, late, late])


def test_values_by_hand() -> None:
    logits, y = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), torch.tensor([2])
    log_p = F.log_softmax(logits, 1)[0]
    target = torch.tensor([-0.2, -0.2, 1.4], dtype=torch.float64)  # r = -.6, K = 3
    assert generalised_smoothing(logits, y, -0.6).item() == pytest.approx(-float(target @ log_p))
    torch.testing.assert_close(
        generalised_smoothing(logits, y, 0.1), F.cross_entropy(logits, y, label_smoothing=0.1, reduction="none")
    )
    assert generalised_smoothing(logits, y, 1.0).item() == pytest.approx(-float(log_p.mean()))
    for rate in (-3.0, 0.4):
        assert generalised_smoothing(logits, y, rate, wa=1, wb=0).item() == pytest.approx(-float(log_p[2]))


def test_r_by_epoch() -> None:
    toy = blobs(n=8)
    method = NegativeLabelSmoothing(task(toy.train, epochs=20), smoothing=-2.0, warmup=0.5, ramp=0.4)
    assert [method.rate(t) for t in (0, 9, 10, 11, 13, 19)] == pytest.approx([0, 0, -0.5, -1.0, -2.0, -2.0])
    from_scratch = NegativeLabelSmoothing(task(toy.train, epochs=20), smoothing=-2.0, warmup=0.0)
    assert [from_scratch.rate(t) for t in (0, 1)] == [0, -2.0]  # never from scratch
    direct = NegativeLabelSmoothing(task(toy.train, epochs=20), smoothing=0.4, warmup=0.0, ramp=0.4)
    assert direct.rate(0) == 0.4


@pytest.mark.parametrize(
    "point", [{}, {"smoothing": 0.3, "warmup": 0.0}, {"late_lr": 0.01, "ramp": 0.5, "clip_norm": 1.0}]
)
def test_it_learns(point: dict) -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = NegativeLabelSmoothing(task(toy.train), **point)
    run(method, toy.train, range(10))
    assert accuracy(method, toy) > 0.75  # chance is .25


def test_the_papers_recipe_and_points_by_the_source() -> None:
    """120 epochs of warm-up at 0.1, 0.01 and 0.001, 40 each, then 100 at 1e-6; r = -e K / ((1 - e) K - 1)."""
    told = load("negative_label_smoothing")
    recipe, n = recipe_for("paper", "negative_label_smoothing", "cifar10", "preact_resnet18"), told.recipe["epochs"]
    assert n == 220
    assert [recipe.rate(t, n) for t in (0, 39, 40, 79, 80, 119)] == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    for row in told.papers:
        k, e = {"cifar10": 10, "cifar100": 100}[row.dataset], row.rate
        assert row.point["smoothing"] == pytest.approx(-e * k / ((1 - e) * k - 1), abs=1e-4)
        method = NegativeLabelSmoothing(task(blobs(n=8).train, epochs=n, lr=recipe.lr), **row.point)
        assert method.warmup_epochs == 120
        assert method.late_lr * method.base_lr == pytest.approx(1e-6)
