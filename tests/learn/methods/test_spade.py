"""SPADE: the step on v by hand and by autograd, its fixed point (the published closed form), limits."""

import pytest
import torch
import torch.nn.functional as F
from toy import blobs, mlp, run, task

from raystudy.data.batch import Batch
from raystudy.learn.methods.spade import Spade, descend_v
from raystudy.learn.ops import spcl_weights


def test_step_on_v_by_hand() -> None:
    v, losses = torch.tensor([0.5, 0.5, 1.0, 0.0]), torch.tensor([1.0, 3.0, 0.0, 5.0])
    # gradients l + v - 1 - 1: -0.5, 1.5, -1, 3
    assert descend_v(v, losses, 1.0, 1.0, 0.1).tolist() == pytest.approx([0.55, 0.35, 1.0, 0.0])


def test_step_on_v_is_the_gradient_of_the_objective() -> None:
    torch.manual_seed(0)
    v, losses = (0.4 + 0.2 * torch.rand(6)).requires_grad_(), torch.rand(6)
    lam1, lam2 = 0.3, 0.7
    (v * losses + lam2 * v**2 / 2 - (lam1 + lam2) * v).sum().backward()
    torch.testing.assert_close(descend_v(v, losses, lam1, lam2, 0.1), v - 0.1 * v.grad)


def test_fixed_point_is_the_published_closed_form(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("self_paced").items()}
    losses, lam1, lam2 = z["losses"], z["lam1"], float(z["lam2"])
    v = torch.full_like(losses, 0.3)
    for _ in range(250):  # a step of 0.1 / lam2 leaves 0.9 of the distance to the fixed point, and 0.9^250 is 4e-12
        v = descend_v(v, losses, lam1, lam2, 0.1 / lam2)
    torch.testing.assert_close(v, z["v_spcl"], rtol=0, atol=1e-9)
    torch.testing.assert_close(spcl_weights(losses, lam1, z["lam2"]), v, rtol=0, atol=1e-9)
    nearest = float((losses - lam1).abs().min())
    for _ in range(11):  # lam2 = 0, the hard rule: here every v moves by at least 0.1 a step
        v = descend_v(v, losses, lam1, 0.0, 0.1 / nearest)
    torch.testing.assert_close(v, z["v_self_paced_code"], rtol=0, atol=1e-9)


def spade(toy, **hyper) -> Spade:
    torch.manual_seed(0)
    return Spade(task(toy.train, net=lambda: mlp(8, 4, norm=False)), **hyper)


def test_one_step_alternates_v_then_w() -> None:
    toy = blobs(n=40, batch_size=16)
    method = spade(toy, burn_in=0.0, v_step=0.2)
    net = mlp(8, 4, norm=False)
    net.load_state_dict(method.nets[0].state_dict())
    index = torch.arange(8, 24)
    x, y = toy.train.x[index], toy.train.y[index]
    losses = F.cross_entropy(net(x), y, reduction="none")
    lam1 = losses.detach().sort(descending=True).values[round(15 * (1 - 0.7))]
    v = descend_v(torch.ones(16), losses.detach(), lam1, 1.0, 0.2)
    assert v.min() < 0.95
    (v * losses).mean().backward()
    log = method.step(Batch(index, x, y), 0)
    torch.testing.assert_close(log["weight"], v)
    torch.testing.assert_close(method.v[index], v)
    assert (method.v[24:] == 1).all()  # weights not visited stay
    assert (method.v[:8] == 1).all()
    for a, b in zip(method.nets[0].parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach() - 0.05 * b.grad)


def test_burn_in_trains_with_a_random_mask_and_tells_no_weight() -> None:
    toy = blobs(n=64)
    method = spade(toy, burn_in=0.2, dropout=1.0)  # everything dropped: nothing is learnt
    before = [p.clone() for p in method.parameters()]
    for epoch in run(method, toy.train, range(2)):
        assert all("weight" not in log for log in epoch)
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), before, strict=True))
    assert "weight" in run(method, toy.train, range(2, 3))[0][0]  # 20 % of 10 epochs
    assert not all(torch.equal(a, b) for a, b in zip(method.parameters(), before, strict=True))
    assert method.settled() == 0.2


def test_tells_clean_from_flipped_labels() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = Spade(task(toy.train, epochs=12), keep=0.6)
    run(method, toy.train, range(12))
    is_clean = toy.train.y == toy.clean
    assert method.v[is_clean].mean() > method.v[~is_clean].mean() + 0.3
    assert bool(((method.v >= 0) & (method.v <= 1)).all())
