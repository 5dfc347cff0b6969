"""ELR: parity with the original code over three steps, hand-computed values, limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.learn.losses import early_learning_penalty, early_learning_target
from raystudy.learn.methods import elr
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.elr import ELR


class Given(torch.nn.Module):
    """A net that answers with given logits, one row per image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def test_three_steps_parity(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("elr").items()}
    beta, lam, clamp = float(z["beta"]), float(z["lam"]), float(z["clamp"])
    n, k = int(z["num_examples"]), int(z["num_class"])
    target = torch.zeros(n, k, dtype=torch.float64)
    for s in range(sum(key.startswith("index_") for key in z)):
        index, y, logits = z[f"index_{s}"], z[f"labels_{s}"], z[f"logits_{s}"].clone().requires_grad_()
        target[index] = early_learning_target(target[index], logits, beta, clamp)
        close(target, z[f"target_{s}"])
        loss = F.cross_entropy(logits, y) + lam * early_learning_penalty(logits, target[index], clamp).mean()
        close(loss.detach(), z[f"loss_{s}"])
        close(torch.autograd.grad(loss, logits)[0], z[f"grad_{s}"])


def test_the_steps_of_the_method_parity(parity, monkeypatch) -> None:
    """The class on top: the buffer it keeps and the loss and gradient of its step."""
    z = {key: torch.from_numpy(value) for key, value in parity("elr").items()}
    monkeypatch.setattr(elr, "CLAMP", float(z["clamp"]))
    toy = blobs(n=int(z["num_examples"]), n_classes=int(z["num_class"]))
    method = ELR(task(toy.train, lr=0.0), beta=float(z["beta"]), lambda_elr=float(z["lam"])).double()
    for s in range(sum(key.startswith("index_") for key in z)):
        method.nets[0] = Given(z[f"logits_{s}"])
        method.optimizers[0] = torch.optim.SGD(method.nets[0].parameters(), lr=1.0)
        log = method.step(Batch(z[f"index_{s}"], torch.zeros(1), z[f"labels_{s}"]), s)
        close(log["loss"], z[f"loss_{s}"])
        close(z[f"logits_{s}"] - method.nets[0].logits.detach(), z[f"grad_{s}"])
        close(method.target, z[f"target_{s}"])


def test_values_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)  # p = (1/4, 3/4)
    rows = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    target = early_learning_target(rows, logits, beta=0.6, clamp=0.0)
    assert target[0].tolist() == pytest.approx([0.4, 0.6])
    assert early_learning_penalty(logits, target).item() == pytest.approx(math.log(1 - 0.4 / 4 - 0.6 * 3 / 4))
    assert early_learning_target(rows, logits, beta=1.0, clamp=0.0).tolist() == rows.tolist()


def test_the_penalty_is_bounded_from_below() -> None:
    logits = torch.tensor([[300.0, 0.0, 0.0]], requires_grad=True)
    penalty = early_learning_penalty(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    assert penalty.item() == pytest.approx(math.log(1e-4), rel=1e-3)
    (grad,) = torch.autograd.grad(penalty, logits)
    assert grad.isfinite().all()


def test_without_penalty_it_is_cross_entropy() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    elr, ce = ELR(task(toy.train), lambda_elr=0.0), CE(task(toy.train))
    ce.nets.load_state_dict(elr.nets.state_dict())
    run(elr, toy.train, range(2))
    run(ce, toy.train, range(2))
    for a, b in zip(elr.parameters(), ce.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_targets_of_absent_samples_stay_and_false_labels_are_overruled() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = ELR(task(toy.train, epochs=15))
    method.step(Batch(torch.tensor([3, 5]), toy.train.x[[3, 5]], toy.train.y[[3, 5]]), 0)
    assert method.target.abs().sum(1).nonzero().flatten().tolist() == [3, 5]
    assert method.target[3].sum().item() == pytest.approx(0.3)
    run(method, toy.train, range(15))
    wrong = toy.train.y != toy.clean
    assert (method.target.argmax(1) == toy.clean)[wrong].float().mean() > 0.75
    assert accuracy(method, toy) > 0.85
