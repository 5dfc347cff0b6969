"""S-model: parity with the published formulas, the stages of the channel, limits."""

import pytest
import torch
import torch.nn.functional as F
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import forward_correction
from raystudy.learn.methods.s_model import Channel, SModel, confusion_logits, diagonal_logits


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def test_parity(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("s_model").items()}
    start = confusion_logits(z["confusion"])
    close(start, z["channel_logits"])
    channel = Channel(start)
    close(channel().exp().detach(), z["channel"])
    logits = z["logits"].clone().requires_grad_()
    close(logits.softmax(1).detach(), z["probs"])
    k = int(z["num_class"])
    observed = [forward_correction(logits, torch.full_like(z["labels"], j), channel()) for j in range(k)]
    close((-torch.stack(observed, 1)).exp().detach(), z["observed_probs"])
    losses = forward_correction(logits, z["labels"], channel())
    close(losses.detach(), z["losses"])
    close(losses.mean().detach(), z["channel_loss"])
    direct, beta = F.cross_entropy(logits, z["labels"]), float(z["beta"])
    close(direct.detach(), z["direct_loss"])
    loss = (1 - beta) * losses.mean() + beta * direct
    close(loss.detach(), z["loss"])
    grad_logits, grad_channel = torch.autograd.grad(loss, [logits, channel.logits])
    close(grad_logits, z["grad_logits"])
    close(grad_channel, z["grad_channel_logits"])
    close(diagonal_logits(k, float(z["diag_eps"])), z["diag_channel_logits"])


def test_the_gradient_is_p_minus_the_responsibilities() -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 1, 0])
    theta = torch.randn(3, 3, dtype=torch.float64).softmax(1)
    (grad,) = torch.autograd.grad(forward_correction(logits, y, theta.log()).sum(), logits)
    p = logits.detach().softmax(1)
    joint = p * theta.t()[y]
    torch.testing.assert_close(grad, p - joint / joint.sum(1, keepdim=True))


def test_a_class_never_predicted_keeps_its_own_label() -> None:
    theta = confusion_logits(torch.tensor([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])).softmax(1)
    torch.testing.assert_close(theta, torch.tensor([[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1.0]]), rtol=0, atol=1e-6)


def one(method, t: int, toy) -> dict:
    return method.step(Batch(torch.arange(len(toy.train)), toy.train.x, toy.train.y), t)


def test_the_warm_up_is_cross_entropy_and_leaves_the_channel_alone() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = SModel(task(toy.train, epochs=10), warmup=0.2)
    assert method.settled() == 0.2
    before = method.channel.logits.detach().clone()
    expected = F.cross_entropy(method.train().nets[0](toy.train.x), toy.train.y).item()
    assert one(method, 1, toy)["loss"].item() == pytest.approx(expected)
    assert torch.equal(before, method.channel.logits)


def test_the_channel_starts_from_the_confusion_and_learns_unless_frozen() -> None:
    toy = blobs(n=600, rate=0.4, spread=0.3)
    torch.manual_seed(0)
    method = SModel(task(toy.train, epochs=10), warmup=0.2, channel_frozen=0.2)
    assert method.settled() == 0.4
    run(method, toy.train, range(2))
    untouched = method.channel.logits.detach().clone()
    seen = []
    for t in range(2, 10):
        logs = run(method, toy.train, range(t, t + 1))[0]
        seen.append(method.channel.logits.detach().clone())
        assert abs(logs[-1]["diagonal"].item() - 0.7) < 0.2  # 0.3 of the labels are wrong
    assert not torch.equal(untouched, seen[0])
    assert torch.equal(seen[0], seen[1])  # two frozen epochs
    assert not torch.equal(seen[1], seen[2])
    assert accuracy(method, toy) > 0.9


def test_diagonal_initialisation() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = SModel(task(toy.train, epochs=10), init="diagonal", eps=0.3)
    assert method.settled() == 0
    theta = method.channel().exp()
    assert (theta.diagonal() - 0.7).abs().max() < 0.01
    before = method.channel.logits.detach().clone()
    one(method, 0, toy)
    assert not torch.equal(before, method.channel.logits)


@pytest.mark.parametrize("factor", [1.0, 10.0])
def test_the_channel_has_a_rate_of_its_own_and_no_weight_decay(factor: float) -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = SModel(task(toy.train, lr=0.05), init="diagonal", channel_lr=factor)
    (group,) = method.optimizers[1].param_groups
    assert group["weight_decay"] == 0
    group["lr"] = 0.02  # as the loop does before an epoch
    run(method, toy.train, range(1))
    assert group["lr"] == pytest.approx(0.02 * factor)
    assert method.optimizers[0].param_groups[0]["lr"] == 0.05


def test_beta_one_is_cross_entropy_for_the_network() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = SModel(task(toy.train), init="diagonal", beta=1.0)
    expected = F.cross_entropy(method.train().nets[0](toy.train.x), toy.train.y).item()
    before = method.channel.logits.detach().clone()
    assert one(method, 0, toy)["loss"].item() == pytest.approx(expected)
    assert torch.equal(before, method.channel.logits)


def test_learns_the_toy() -> None:
    toy = blobs(n=321, rate=0.4)
    torch.manual_seed(0)
    method = SModel(task(toy.train, epochs=12), soft_confusion=True)
    logs = run(method, toy.train, range(12))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch if "loss" in log)
    assert accuracy(method, toy) > 0.8


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'diagonal'"):
        SModel(task(blobs(n=8).train), init="diag")  # type: ignore[arg-type]
