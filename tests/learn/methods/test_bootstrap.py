"""Bootstrapping: parity with published code, hand-computed values, limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import soft_cross_entropy
from raystudy.learn.methods.bootstrap import Bootstrap, bootstrap_hard, bootstrap_soft
from raystudy.learn.methods.ce import CE


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


@pytest.mark.parametrize(
    ("kind", "loss", "grad"), [("soft", bootstrap_soft, "soft_grad_attached"), ("hard", bootstrap_hard, "hard_grad")]
)
def test_parity(parity, kind: str, loss, grad: str) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("bootstrap").items()}
    logits = z["logits"].clone().requires_grad_()
    losses = loss(logits, z["labels"], float(z[f"beta_{kind}"]))
    close(losses.detach(), z[f"{kind}_losses"])
    close(losses.mean().detach(), z[f"{kind}_loss"])
    close(torch.autograd.grad(losses.mean(), logits)[0], z[grad])


def test_a_detached_soft_target_would_be_scaled_cross_entropy(parity) -> None:
    """Why the target keeps its gradient: without it the second term does nothing."""
    z = {key: torch.from_numpy(value) for key, value in parity("bootstrap").items()}
    logits, beta = z["logits"].clone().requires_grad_(), float(z["beta_soft"])
    t = F.one_hot(z["labels"], int(z["num_class"])).double()
    detached = soft_cross_entropy(logits, beta * t + (1 - beta) * logits.detach().softmax(1))
    (grad,) = torch.autograd.grad(detached, logits)
    close(grad, z["soft_grad_detached"])
    close(grad, beta * torch.autograd.grad(F.cross_entropy(logits, z["labels"]), logits)[0])
    assert not torch.allclose(z["soft_grad_attached"], grad)


def test_values_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    y, log2 = torch.tensor([1]), math.log(2)
    assert bootstrap_soft(logits, y, 0.6).item() == pytest.approx(log2 * (0.6 * 2 + 0.4 * 1.5))
    assert bootstrap_hard(logits, y, 0.6).item() == pytest.approx(log2 * (0.6 * 2 + 0.4 * 1))
    for loss in (bootstrap_soft, bootstrap_hard):
        assert loss(logits, y, 1.0).item() == pytest.approx(2 * log2)


@pytest.mark.parametrize("loss", [bootstrap_soft, bootstrap_hard])
def test_sure_predictions_are_finite(loss) -> None:
    logits = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    for label in range(3):
        out = loss(logits, torch.tensor([label]), 0.5)
        assert out.isfinite().all()
        assert torch.autograd.grad(out.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_full_weight_of_the_label_is_cross_entropy(kind) -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = Bootstrap(task(toy.train), kind=kind, label_weight=1.0), CE(task(toy.train))
    ce.load_state_dict(method.state_dict())
    run(method, toy.train, range(2))
    run(ce, toy.train, range(2))
    for a, b in zip(method.parameters(), ce.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "loss"), [("hard", bootstrap_hard), ("soft", bootstrap_soft)])
def test_starts_after_its_epochs_of_cross_entropy(kind, loss) -> None:
    toy = blobs(n=32)
    torch.manual_seed(0)
    method = Bootstrap(task(toy.train, epochs=10, lr=1e-30), kind=kind, label_weight=0.3, start=0.2)
    assert method.settled() == 0.2
    batch = Batch(torch.arange(32), toy.train.x, toy.train.y)
    logits = method.train().nets[0](batch.x)
    ce, mixed = F.cross_entropy(logits, batch.y).item(), loss(logits, batch.y, 0.3).mean().item()
    seen = [method.step(batch, t)["loss"].item() for t in range(4)]
    assert seen == pytest.approx([ce, ce, mixed, mixed])


def test_learns_the_toy() -> None:
    toy = blobs(n=321, rate=0.4)
    torch.manual_seed(0)
    method = Bootstrap(task(toy.train))
    logs = run(method, toy.train, range(10))
    assert 0.25 < logs[-1][-1]["confidence"] <= 1
    assert accuracy(method, toy) > 0.8


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'soft'"):
        Bootstrap(task(blobs(n=8).train), kind="sof")  # type: ignore[arg-type]
