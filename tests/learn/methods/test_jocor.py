"""JoCoR: parity with the original code, the sheet's conformance checks, limits."""

import pytest
import torch
import torch.nn.functional as F
from test_coteaching import tensors
from toy import blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import kl_rows
from raystudy.learn.methods.coteaching import n_keep
from raystudy.learn.methods.jocor import JoCoR, jocor_losses
from raystudy.learn.ops import small_loss


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def test_kl_parity(parity) -> None:
    z = tensors(parity("jocor"))
    close(kl_rows(z["logits2"], z["logits1"]), z["kl_12"])
    close(kl_rows(z["logits1"], z["logits2"]), z["kl_21"])


def test_losses_parity(parity) -> None:
    z = tensors(parity("jocor"))
    assert z["logits1"].shape[1] == int(z["num_class"])
    for k in range(len(z["forget_rates"])):
        check_losses(z, k)


def check_losses(z, k: int) -> None:
    y, rate = z["labels"], float(z["forget_rates"][k])
    logits1, logits2 = z["logits1"].clone().requires_grad_(), z["logits2"].clone().requires_grad_()
    losses = jocor_losses(logits1, logits2, y, float(z["co_lambdas"][k]))
    close(losses.detach(), z[f"losses_{k}"])
    assert n_keep(rate, len(y)) == int(z[f"n_keep_{k}"])
    kept = small_loss(losses.detach(), n_keep(rate, len(y)))
    assert set(kept.tolist()) == set(z[f"idx_{k}"].tolist())
    loss = losses[kept].mean()
    loss.backward()
    close(loss.detach(), z[f"loss_{k}"])
    close(logits1.grad, z[f"grad1_{k}"])
    close(logits2.grad, z[f"grad2_{k}"])
    torch.testing.assert_close(z["clean_flag"][z["index"]][kept].double().mean(), z[f"pure_ratio_{k}"])


def test_kl_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5]], dtype=torch.float64), torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    assert kl_rows(p.log(), q.log()).item() == pytest.approx(0.5108256, abs=1e-6)  # .5 ln(.5/.9) + .5 ln(.5/.1)
    assert kl_rows(p.log(), p.log()).item() == 0


def test_limits_of_lambda() -> None:
    torch.manual_seed(0)
    a, b, y = torch.randn(6, 3), torch.randn(6, 3), torch.arange(6) % 3
    supervised = F.cross_entropy(a, y, reduction="none") + F.cross_entropy(b, y, reduction="none")
    torch.testing.assert_close(jocor_losses(a, b, y, 0.0), supervised)
    torch.testing.assert_close(jocor_losses(a, a, y, 0.9), 0.2 * F.cross_entropy(a, y, reduction="none"))  # KL is 0
    torch.testing.assert_close(jocor_losses(a, b, y, 0.7), jocor_losses(b, a, y, 0.7))
    a.requires_grad_(), b.requires_grad_()
    grads = torch.autograd.grad(jocor_losses(a, b, y, 1.0).sum(), [a, b])
    assert all(g.abs().sum(1).min() > 0 for g in grads)  # agreement pulls on both


def test_without_agreement_and_forgetting_each_net_is_trained_by_cross_entropy() -> None:
    toy = blobs(n=32, batch_size=32)
    torch.manual_seed(0)
    method = JoCoR(task(toy.train), co_lambda=0.0, forget_rate=0.0)
    alone = JoCoR(task(toy.train), co_lambda=0.0, forget_rate=0.0)
    alone.load_state_dict(method.state_dict())
    batch = Batch(torch.arange(32), toy.train.x, toy.train.y)
    log = method.step(batch, 0)
    assert log["weight"].tolist() == [1.0] * 32
    for i in range(2):
        alone.descend(i, F.cross_entropy(alone.nets[i](batch.x), batch.y))
    for a, b in zip(method.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_both_nets_learn_from_the_same_selection() -> None:
    toy = blobs(n=20, batch_size=20)
    torch.manual_seed(0)
    method = JoCoR(task(toy.train, epochs=10), forget_rate=0.5)
    x, y = toy.train.x, toy.train.y
    with torch.no_grad():
        losses = jocor_losses(method.nets[0].train()(x), method.nets[1].train()(x), y, 0.9)
    log = method.step(Batch(torch.arange(20), x, y), 9)
    assert set(log["weight"].nonzero().flatten().tolist()) == set(small_loss(losses, 10).tolist())
    assert log["loss"].item() == pytest.approx(losses.sort().values[:10].mean().item(), rel=1e-5)


def test_normalise_undoes_the_shrinking_by_lambda() -> None:
    """A step at lambda with equal nets (KL 0) is a step at lambda 0."""
    toy = blobs(n=16, batch_size=16)
    torch.manual_seed(0)
    a = JoCoR(task(toy.train), co_lambda=0.9, normalise=True)
    a.nets[1].load_state_dict(a.nets[0].state_dict())
    b = JoCoR(task(toy.train), co_lambda=0.0)
    b.load_state_dict(a.state_dict())
    for method in (a, b):
        method.step(Batch(torch.arange(16), toy.train.x, toy.train.y), 0)
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_lambda_and_forget_rate_ramp_with_the_epochs() -> None:
    toy = blobs(n=32, batch_size=32)
    torch.manual_seed(0)
    method = JoCoR(task(toy.train, epochs=20), forget_rate=0.5, gradual=0.25, lambda_ramp=0.2)
    assert method.settled() == 0.25
    kept = [run(method, toy.train, range(t, t + 1))[0][0]["weight"].sum().item() for t in range(6)]
    assert kept == [n_keep(rate, 32) for rate in (0.125, 0.25, 0.375, 0.5, 0.5, 0.5)]
    x, y = toy.train.x, toy.train.y
    with torch.no_grad():
        losses = jocor_losses(method.nets[0].train()(x), method.nets[1].train()(x), y, 0.9 / 4)
    log = method.step(Batch(torch.arange(32), x, y), 0)  # the first of four epochs of the ramp
    assert log["loss"].item() == pytest.approx(losses.sort().values[: n_keep(0.125, 32)].mean().item(), rel=1e-4)


def test_late_beta1_acts_on_adam_from_its_epoch_on() -> None:
    toy = blobs(n=32)
    method = JoCoR(task(toy.train, epochs=10, adam=True), decay_start=0.4)
    seen = []
    for t in range(5):
        run(method, toy.train, range(t, t + 1))
        seen.append([optimizer.param_groups[0]["betas"][0] for optimizer in method.optimizers])
    assert seen == [[0.9, 0.9]] * 3 + [[0.1, 0.1]] * 2


def test_tells_clean_from_flipped_labels() -> None:
    toy = blobs(n=400, rate=0.5)
    torch.manual_seed(0)
    method = JoCoR(task(toy.train, epochs=12), co_lambda=0.5, forget_rate=0.4, gradual=0.3)
    logs = run(method, toy.train, range(12))[-1]
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    is_clean = (toy.train.y == toy.clean)[index]
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.5


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'code'"):
        JoCoR(task(blobs(n=8).train), schedule="cod")  # type: ignore[arg-type]
