"""Backward correction: parity with the original code, unbiasedness, the cap of the inverse."""

import pytest
import torch
import torch.nn.functional as F
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.methods.b_correction import BCorrection, backward_correction, capped_inverse
from raystudy.learn.methods.ce import CE
from raystudy.learn.ops import known_transition


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def test_parity(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("f_correction").items()}
    logits = z["logits"].clone().requires_grad_()
    losses = backward_correction(logits, z["labels"], capped_inverse(z["T"], 1e12))
    close(losses.detach(), z["backward_losses"])
    close(losses.mean().detach(), z["backward_loss"])
    close(torch.autograd.grad(losses.mean(), logits)[0], z["backward_grad"])


def test_the_mean_over_noisy_labels_is_the_loss_of_the_clean_one() -> None:
    """Theorem 1: sum_j T[i, j] loss(j) = CE(i) for every clean class i."""
    logits = torch.randn(1, 4, dtype=torch.float64)
    t = known_transition("pair", 4, 0.3)
    losses = torch.cat([backward_correction(logits, torch.tensor([j]), capped_inverse(t, 1e9)) for j in range(4)])
    torch.testing.assert_close(t @ losses, -F.log_softmax(logits, 1)[0])


def test_the_inverse_is_capped_only_where_t_is_nearly_singular() -> None:
    good, singular = known_transition("symmetric", 10, 0.5), known_transition("symmetric", 10, 0.9)
    torch.testing.assert_close(capped_inverse(good, 100.0), torch.linalg.inv(good))
    capped = capped_inverse(singular, 50.0)
    assert torch.linalg.cond(capped).item() == pytest.approx(50.0)
    assert capped.isfinite().all()


def test_with_the_identity_it_is_cross_entropy() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = BCorrection(task(toy.train), t_source="pair", noise_rate=0.0), CE(task(toy.train))
    ce.nets.load_state_dict(method.nets.state_dict())
    run(method, toy.train, range(2))
    run(ce, toy.train, range(2))
    for a, b in zip(method.parameters(), ce.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_gradient_norm_is_clipped_after_the_warm_up() -> None:
    toy = blobs(n=32)
    batch = Batch(torch.arange(32), toy.train.x, toy.train.y)
    for t, clip, clipped in ((3, 0.01, True), (3, 0.0, False), (0, 0.01, False)):
        torch.manual_seed(0)
        method = BCorrection(task(toy.train, epochs=4, lr=0.1), warmup=0.5, clip_norm=clip)
        before = torch.cat([p.detach().flatten().clone() for p in method.nets[0].parameters()])
        method.step(batch, t)
        length = (torch.cat([p.detach().flatten() for p in method.nets[0].parameters()]) - before).norm() / 0.1
        assert (length.item() < 0.0101) == clipped


@pytest.mark.parametrize("t_source", ["anchor", "confusion"])
def test_estimates_t_once_after_the_warm_up(t_source) -> None:
    toy = blobs(n=600, rate=0.4, spread=0.3)
    torch.manual_seed(0)
    method = BCorrection(task(toy.train, epochs=8), t_source=t_source, warmup=0.25)
    assert method.settled() == 0.25
    for t in range(8):
        before = method.inverse.clone()
        logs = run(method, toy.train, range(t, t + 1))[0]
        assert ("diagonal" in logs[0]) == (t == 2)
        assert torch.equal(before, method.inverse) == (t != 2)
        if t == 2:
            assert abs(logs[0]["diagonal"].item() - 0.7) < 0.15  # 0.3 of the labels are wrong
            torch.testing.assert_close(method.inverse.sum(1), torch.ones(4), rtol=0, atol=1e-5)
    assert accuracy(method, toy) > 0.9


def test_a_given_t_that_is_singular_survives() -> None:
    toy = blobs(n=65)
    method = BCorrection(task(toy.train, epochs=4), t_source="symmetric", noise_rate=0.75)
    assert method.settled() == 0
    logs = run(method, toy.train, range(4))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch)


def test_restart_begins_again_from_fresh_weights() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = BCorrection(task(toy.train, epochs=4), warmup=0.5, restart=True)
    run(method, toy.train, range(2))
    before = [p.clone() for p in method.nets[0].parameters()]
    method._estimate(toy.train)
    assert sum(float((a - b).detach().norm()) for a, b in zip(before, method.nets[0].parameters(), strict=True)) > 1
    assert not method.optimizers[0].state


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'confusion'"):
        BCorrection(task(blobs(n=8).train), t_source="confused")  # type: ignore[arg-type]
