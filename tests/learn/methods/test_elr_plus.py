"""ELR+: parity with the original code, the averaged networks, limits."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from toy import accuracy, blobs, run, task

from raystudy.learn.losses import early_learning_penalty, early_learning_target, soft_cross_entropy
from raystudy.learn.methods.elr_plus import ELRPlus, average_decay, sharpened, sigmoid_rampup


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def test_parity(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("elr").items()}
    index, perm, lam = z["plus_index"], z["plus_mix_perm"], float(z["plus_lam"])
    history = z["plus_hist_before"].clone()
    target = early_learning_target(history[index], z["plus_ema_logits"], float(z["beta"]), clamp=0.0)
    history[index] = target
    close(history, z["plus_hist_after"])
    q = torch.lerp(target[perm], target, lam)
    close(q, z["plus_q"])
    for s, it in enumerate(z["plus_iterations"].tolist()):
        ramp = sigmoid_rampup(it, int(z["plus_coef_step"]))
        close(torch.tensor(ramp, dtype=torch.float64), z["plus_ramp"][s])
        logits = z["plus_logits"].clone().requires_grad_()
        penalty = early_learning_penalty(logits, q, float(z["clamp"])).mean()
        loss = soft_cross_entropy(logits, z["plus_targets"]) + ramp * float(z["lam"]) * penalty
        close(loss.detach(), z["plus_losses"][s])
        close(torch.autograd.grad(loss, logits)[0], z["plus_grads"][s])


def test_ramp_by_hand() -> None:
    assert sigmoid_rampup(0, 0) == 1
    assert sigmoid_rampup(0, 10) == pytest.approx(math.exp(-5))
    assert sigmoid_rampup(5, 10) == pytest.approx(math.exp(-1.25))
    assert sigmoid_rampup(25, 10) == 1


def test_sharpened_labels_sum_to_one_and_survive_underflow() -> None:
    labels = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    out = sharpened(labels, torch.tensor([[0.6, 0.2, 0.2], [0.0, 0.5, 0.5]]))
    assert out[0].tolist() == pytest.approx([0.75, 0.25, 0.0])
    assert out[1].tolist() == [0, 0, 0]


def test_the_averaged_nets_follow_slowly_and_have_no_gradient() -> None:
    toy = blobs(n=32, batch_size=32)
    torch.manual_seed(0)
    method = ELRPlus(task(toy.train, epochs=4), ema_decay=0.3, ema_ramp=0.0)
    before = copy.deepcopy(method.averaged)
    assert not any(p.requires_grad for p in method.averaged.parameters())
    run(method, toy.train, range(1))  # one update of each net
    for average, old, net in zip(
        method.averaged.parameters(), before.parameters(), method.nets.parameters(), strict=True
    ):
        torch.testing.assert_close(average, 0.3 * old + 0.7 * net)
    follows = ELRPlus(task(toy.train, epochs=4), ema_decay=0.0)
    run(follows, toy.train, range(1))
    for average, net in zip(follows.averaged.parameters(), follows.nets.parameters(), strict=True):
        torch.testing.assert_close(average, net)


def test_without_a_ramp_it_is_an_average_of_all_so_far_until_it_is_long_enough() -> None:
    """min(1 - 1/(step + 1), ema_alpha), of Clothing1M and WebVision (shengliu66/ELR, ema_update false)."""
    assert [average_decay(i, 0.0, 0.9999, 0.0) for i in (1, 3, 10**6)] == pytest.approx([0.5, 0.75, 0.9999])
    assert average_decay(1, 0.25, 0.997, 0.5) == pytest.approx(0.997 * math.exp(-1.25))


def test_the_targets_of_a_net_come_from_its_peers_average_on_unmixed_images() -> None:
    toy = blobs(n=16, batch_size=16)
    toy.train.jitter = 0.0
    torch.manual_seed(0)
    method = ELRPlus(task(toy.train, epochs=4), beta=0.0)
    peer = copy.deepcopy(method.averaged[1]).train()
    run(method, toy.train, range(1))
    torch.testing.assert_close(method.target[0], peer(toy.train.x).softmax(1).detach(), rtol=1e-4, atol=1e-5)


def test_without_penalty_and_mixing_both_nets_learn_by_cross_entropy() -> None:
    toy = blobs(n=16, batch_size=16)
    toy.train.jitter = 0.0
    torch.manual_seed(0)
    method = ELRPlus(task(toy.train, epochs=4, lr=0.1), lambda_elr=0.0, alpha=0.0)
    nets = copy.deepcopy(method.nets)
    run(method, toy.train, range(1))
    for net, after in zip(nets, method.nets, strict=True):
        F.cross_entropy(net.train()(toy.train.x), toy.train.y).backward()
        for p, new in zip(net.parameters(), after.parameters(), strict=True):
            torch.testing.assert_close(new, p - 0.1 * p.grad, rtol=1e-4, atol=1e-6)


def test_prediction_is_the_softmax_of_the_mean_logits() -> None:
    toy = blobs(n=16)
    method = ELRPlus(task(toy.train)).eval()
    a, b = (net(toy.test_x) for net in method.nets)
    torch.testing.assert_close(method.probs(toy.test_x), ((a + b) / 2).softmax(1))


@pytest.mark.parametrize("sharpen", [False, True])
def test_learns_the_toy(sharpen: bool) -> None:
    toy = blobs(n=321, rate=0.4)
    torch.manual_seed(0)
    method = ELRPlus(task(toy.train, epochs=15), sharpen_labels=sharpen, coef_ramp=0.3)
    assert method.settled() == 0.3
    logs = run(method, toy.train, range(15))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch)
    assert sum(log["passes"] for log in logs[0]) == 2 * 4 * 321
    assert accuracy(method, toy) > 0.8
