"""Co-teaching: parity with the original code, the sheet's conformance checks, limits."""

import pytest
import torch
import torch.nn.functional as F
from toy import blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.coteaching import CoTeaching, coteaching_losses, drop_rate, n_keep
from raystudy.learn.ops import small_loss


def tensors(arrays) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def test_losses_parity(parity) -> None:
    z = tensors(parity("co_teaching"))
    assert z["logits1"].shape[1] == int(z["num_class"])
    for name in ("1", "2"):
        losses = F.cross_entropy(z[f"logits{name}"], z["labels"], reduction="none")
        torch.testing.assert_close(losses, z[f"losses{name}"])
    for k in range(len(z["forget_rates"])):
        check_losses(z, k)


def check_losses(z, k: int) -> None:
    y, rate, n = z["labels"], float(z["forget_rates"][k]), int(z[f"n_keep_{k}"])
    assert n_keep(rate, len(y)) == n
    for divide_twice in (False, True):
        logits1, logits2 = z["logits1"].clone().requires_grad_(), z["logits2"].clone().requires_grad_()
        out = coteaching_losses(logits1, logits2, y, rate, divide_twice=divide_twice)
        (out.loss1 + out.loss2).backward()
        kind, scale = ("official", 1) if divide_twice else ("mean", n)
        torch.testing.assert_close(out.loss1.detach(), z[f"loss1_{kind}_{k}"], rtol=1e-9, atol=0)
        torch.testing.assert_close(out.loss2.detach(), z[f"loss2_{kind}_{k}"], rtol=1e-9, atol=0)
        for logits, grad in ((logits1, z[f"grad1_official_{k}"]), (logits2, z[f"grad2_official_{k}"])):
            torch.testing.assert_close(logits.grad, grad * scale, rtol=0, atol=1e-9 * scale * float(grad.abs().max()))
    for kept, name in ((out.kept1, "1"), (out.kept2, "2")):
        assert set(kept.tolist()) == set(z[f"idx{name}_{k}"].tolist())
        purity = z["clean_flag"][z["index"]][kept].double().mean()
        torch.testing.assert_close(purity, z[f"pure_ratio{name}_{k}"])


@pytest.mark.parametrize(("schedule", "key"), [("code", "sched_rate"), ("paper", "sched_rate_paper")])
def test_schedule_parity(parity, schedule, key: str) -> None:
    z = tensors(parity("co_teaching"))
    for s in range(len(z["sched_tau"])):
        tau, n_gradual, c = float(z["sched_tau"][s]), int(z["sched_Tk"][s]), float(z["sched_c"][s])
        ours = [drop_rate(e, tau, n_gradual, c, schedule) for e in range(int(z["sched_n_epoch"]))]
        assert ours == pytest.approx(z[key][s].tolist(), rel=1e-9)


def test_schedule_by_hand() -> None:
    table = [round(drop_rate(e, 0.5, 10), 4) for e in range(12)]
    assert table == [0, 0.0556, 0.1111, 0.1667, 0.2222, 0.2778, 0.3333, 0.3889, 0.4444, 0.5, 0.5, 0.5]
    assert drop_rate(9, 0.5, 10, exponent=2.0) == pytest.approx(0.25)  # the published ramp ends short and jumps
    assert drop_rate(10, 0.5, 10, exponent=2.0) == 0.5
    assert [drop_rate(e, 0.5, 1) for e in (0, 1)] == [0, 0.5]
    assert drop_rate(5, 0.5, 10, schedule="paper") == pytest.approx(0.25)


def test_n_keep_is_a_floor_and_at_least_one() -> None:
    assert [n_keep(0.5, 8), n_keep(0.5, 7), n_keep(0.0, 7), n_keep(0.95, 3)] == [4, 3, 7, 1]


def test_each_net_learns_only_from_what_its_peer_selects() -> None:
    torch.manual_seed(0)
    y = torch.arange(8) % 3
    logits1, logits2 = torch.randn(8, 3, requires_grad=True), torch.randn(8, 3, requires_grad=True)
    easiest1 = set(small_loss(F.cross_entropy(logits1, y, reduction="none"), 4).tolist())
    easiest2 = set(small_loss(F.cross_entropy(logits2, y, reduction="none"), 4).tolist())
    assert easiest1 != easiest2

    def touched(exchange: bool) -> tuple[set[int], set[int]]:
        out = coteaching_losses(logits1, logits2, y, 0.5, exchange=exchange)
        grads = torch.autograd.grad(out.loss1 + out.loss2, [logits1, logits2])
        return tuple(set(g.abs().sum(1).nonzero().flatten().tolist()) for g in grads)  # type: ignore[return-value]

    assert touched(exchange=True) == (easiest2, easiest1)
    assert touched(exchange=False) == (easiest1, easiest2)


def test_forgetting_nothing_is_plain_cross_entropy_for_both_nets() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = CoTeaching(task(toy.train), forget_rate=0.0), CE(task(toy.train))
    for i in range(2):
        ce.nets[0].load_state_dict(method.nets[i].state_dict())
        ce.optimizers[0].state.clear()
        before = {k: v.clone() for k, v in method.state_dict().items()}
        run(method, toy.train, range(3))
        run(ce, toy.train, range(3))
        for a, b in zip(method.nets[i].parameters(), ce.nets[0].parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        method.load_state_dict(before)
        for optimizer in method.optimizers:
            optimizer.state.clear()


def test_first_epoch_uses_the_second_entry_of_the_schedule() -> None:
    """As in the original, whose first training epoch is numbered 1."""
    toy = blobs(n=32, batch_size=32)
    torch.manual_seed(0)
    method = CoTeaching(task(toy.train, epochs=20), forget_rate=0.5, gradual=0.25)  # linspace(0, .5, 5)
    for t, rate in enumerate([0.125, 0.25, 0.375, 0.5, 0.5, 0.5]):
        (log,) = run(method, toy.train, range(t, t + 1))[0]
        assert log["weight"].sum().item() == n_keep(rate, 32)


def test_weight_is_the_mean_of_both_selections() -> None:
    toy = blobs(n=20, batch_size=20)
    torch.manual_seed(0)
    method = CoTeaching(task(toy.train, epochs=10), forget_rate=0.5)
    losses = [F.cross_entropy(net.train()(toy.train.x), toy.train.y, reduction="none") for net in method.nets]
    chosen = [torch.zeros(20).index_fill(0, small_loss(one, 10), 1.0) for one in losses]
    log = method.step(Batch(torch.arange(20), toy.train.x, toy.train.y), 9)
    assert torch.equal(log["weight"], (chosen[0] + chosen[1]) / 2)
    method.nets[1].load_state_dict(method.nets[0].state_dict())  # negative control: equal nets agree on everything
    log = method.step(Batch(torch.arange(20), toy.train.x, toy.train.y), 9)
    assert set(log["weight"].tolist()) == {0.0, 1.0}


def test_late_beta1_acts_on_adam_from_its_epoch_on() -> None:
    toy = blobs(n=32)
    torch.manual_seed(0)
    adam = CoTeaching(task(toy.train, epochs=10, adam=True), decay_start=0.4)
    seen = []
    for t in range(6):
        run(adam, toy.train, range(t, t + 1))
        seen.append(adam.optimizers[1].param_groups[0]["betas"])
    assert seen == [(0.9, 0.999)] * 3 + [(0.1, 0.999)] * 3  # epoch 4 of the original is our t = 3
    run(CoTeaching(task(toy.train, epochs=10)), toy.train, range(5, 6))  # SGD has no betas and is left alone


def test_tells_clean_from_flipped_labels() -> None:
    toy = blobs(n=400, rate=0.5)
    torch.manual_seed(0)
    method = CoTeaching(task(toy.train, epochs=12), forget_rate=0.4, gradual=0.3)
    logs = run(method, toy.train, range(12))[-1]
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    is_clean = (toy.train.y == toy.clean)[index]
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.5


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'paper'"):
        CoTeaching(task(blobs(n=8).train), schedule="papr")  # type: ignore[arg-type]
