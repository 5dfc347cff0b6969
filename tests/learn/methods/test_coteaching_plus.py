"""Co-teaching+: parity with the original code, the sheet's conformance checks, limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_coteaching import tensors
from torch import Tensor
from toy import blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.methods.coteaching import CoTeaching, coteaching_losses, n_keep
from raystudy.learn.methods.coteaching_plus import CoTeachingPlus, disagreement, drop_rate_plus, plus_losses


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return tensors(parity("co_teaching_plus"))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def step(z, logits2: str = "logits2", rate: str = "forget_rate", disagree: Tensor | None = None, **options):
    """Losses and gradients with respect to the logits of one step on the stored logits."""
    a, b = z["logits1"].clone().requires_grad_(), z[logits2].clone().requires_grad_()
    where = disagreement(a, b) if disagree is None else disagree
    out = plus_losses(a, b, z["labels"], where, float(z[rate]), **options)
    (out.loss1 + out.loss2).backward()
    return out, a.grad, b.grad


# --- parity -----------------------------------------------------------------------------------------------------


def test_disagreement_parity(z) -> None:
    for logits2, key in (("logits2", "disagree"), ("one_logits2", "one_disagree")):
        assert disagreement(z["logits1"], z[logits2]).tolist() == z[key].tolist()
    assert len(disagreement(z["logits1"], z["same_logits2"])) == 0


def test_published_step_parity(z) -> None:
    for divide_twice, key in ((False, "prob_mean"), (True, "official")):
        out, grad1, grad2 = step(z, loss_on_probs=True, divide_twice=divide_twice)
        close(out.loss1.detach(), z[f"loss1_{key}"])
        close(out.loss2.detach(), z[f"loss2_{key}"])
        scale = 1 if divide_twice else int(z["n_keep"])
        close(grad1, z["grad1_official"] * scale)
        close(grad2, z["grad2_official"] * scale)
    assert len(out.kept1) == int(z["n_keep"])
    assert z["logits1"].shape[1] == int(z["num_class"])
    assert int(z["step"]) >= 0  # with disagreement the gate, and so the step, has no say
    for kept, name in ((out.kept1, "1"), (out.kept2, "2")):
        assert set(kept.tolist()) == set(z[f"idx{name}"].tolist())
        torch.testing.assert_close(z["clean_flag"][z["index"]][kept].double().mean(), z[f"pure_ratio{name}"])
        of_probs = F.cross_entropy(z[f"logits{name}"].softmax(1), z["labels"], reduction="none")[z["disagree"]]
        close(of_probs, z[f"prob_losses{name}"])


def test_plain_step_parity(z) -> None:
    out, grad1, grad2 = step(z)
    for kept, name in ((out.kept1, "1"), (out.kept2, "2")):
        assert set(kept.tolist()) == set(z[f"plain_idx{name}"].tolist())
    close(out.loss1.detach(), z["plain_loss1"])
    close(out.loss2.detach(), z["plain_loss2"])
    close(grad1, z["plain_grad1"])
    close(grad2, z["plain_grad2"])
    for grad, kept in ((grad1, out.kept2), (grad2, out.kept1)):  # rows outside the peer's selection are exactly zero
        assert set(grad.abs().sum(1).nonzero().flatten().tolist()) == set(kept.tolist())


def test_one_disagreeing_sample_is_used_even_where_none_would_be_left(z) -> None:
    assert int((1 - float(z["one_forget_rate"])) * 1) == 0
    options = {"loss_on_probs": True, "divide_twice": True}
    out, grad1, grad2 = step(z, "one_logits2", "one_forget_rate", **options)
    assert out.kept1.tolist() == out.kept2.tolist() == z["one_disagree"].tolist()
    close(out.loss1.detach(), z["one_loss1_official"])
    close(out.loss2.detach(), z["one_loss2_official"])
    close(grad1, z["one_grad1"])
    close(grad2, z["one_grad2"])


def test_without_disagreement_the_original_is_cross_entropy_of_the_softmax_or_nothing(z) -> None:
    everything = torch.arange(len(z["labels"]))
    out = plus_losses(z["logits1"], z["same_logits2"], z["labels"], everything, 0.0, loss_on_probs=True)
    is_open = (z["gate_steps"] < int(z["gate_limit"])).double()
    close(out.loss1 * is_open, z["gate_loss1"])
    close(out.loss2 * is_open, z["gate_loss2"])


def test_warm_up_parity(z) -> None:
    rate = float(z["forget_rate"])
    out = coteaching_losses(z["logits1"], z["logits2"], z["labels"], rate, divide_twice=True)
    assert len(out.kept1) == int(z["warm_n_keep"])
    close(out.loss1, z["warm_loss1_official"])
    close(out.loss2, z["warm_loss2_official"])


def test_schedule_parity(z) -> None:
    n = int(z["sched_n_epoch"])
    ours = [drop_rate_plus(e, float(z["sched_tau"]), int(z["sched_Ek"]), n) for e in range(n)]
    assert ours == pytest.approx(z["sched_rate"].tolist(), rel=1e-9)


# --- by hand ----------------------------------------------------------------------------------------------------


def test_type_2_goes_on_to_twice_the_rate() -> None:
    rates = [drop_rate_plus(e, 0.2, 10, 200, "type_2") for e in (9, 10, 105, 200)]
    assert rates == pytest.approx([0.2, 0.2, 0.3, 0.4])
    assert drop_rate_plus(200, 0.8, 10, 200, "type_2") == 0.95  # never everything
    assert drop_rate_plus(200, 0.98, 10, 200, "type_2") == 0.98


def test_cross_entropy_of_the_softmax_is_bounded() -> None:
    """log(1 + (K - 1)/e) when right, log(e + K - 1) when wrong."""
    logits = torch.tensor([[100.0] + [0.0] * 9]).double().repeat(2, 1)
    y = torch.tensor([0, 1])
    for i, bound in enumerate((math.log(1 + 9 / math.e), math.log(math.e + 9))):
        out = plus_losses(logits, logits, y, torch.tensor([i]), 0.0, loss_on_probs=True)
        assert out.loss1.item() == pytest.approx(bound, abs=1e-9)
    assert [round(math.log(1 + 9 / math.e), 3), round(math.log(math.e + 9), 3)] == [1.461, 2.461]


def test_forgetting_nothing_is_update_by_disagreement() -> None:
    a = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    y = torch.tensor([0, 0, 1])
    out = plus_losses(a, b, y, disagreement(a, b), 0.0)
    assert sorted(out.kept1.tolist()) == sorted(out.kept2.tolist()) == [0, 2]
    assert out.loss1.item() == pytest.approx(F.cross_entropy(a[[0, 2]], y[[0, 2]]).item())


def test_warm_up_is_co_teaching_bit_for_bit() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    plus = CoTeachingPlus(task(toy.train, epochs=10), warmup=0.4)
    plain = CoTeaching(task(toy.train, epochs=10))
    plain.load_state_dict(plus.state_dict())
    run(plus, toy.train, range(3))
    run(plain, toy.train, range(3))
    assert all(torch.equal(a, b) for a, b in zip(plus.parameters(), plain.parameters(), strict=True))
    run(plus, toy.train, range(3, 4))  # entry 4 = E_0 of the schedule: no warm-up any more
    run(plain, toy.train, range(3, 4))
    assert not all(torch.equal(a, b) for a, b in zip(plus.parameters(), plain.parameters(), strict=True))


def agreeing(empty: str, **options) -> tuple[CoTeachingPlus, Batch]:
    toy = blobs(n=20, batch_size=20)
    torch.manual_seed(0)
    method = CoTeachingPlus(task(toy.train, adam=True), warmup=0.0, empty=empty, **options)  # type: ignore[arg-type]
    method.step(Batch(torch.arange(20), toy.train.x, toy.train.y), 5)  # gives Adam a momentum
    method.nets[1].load_state_dict(method.nets[0].state_dict())
    return method, Batch(torch.arange(20), toy.train.x, toy.train.y)


def test_without_disagreement_nothing_moves() -> None:
    method, batch = agreeing("skip")
    before = [p.clone() for p in method.parameters()]
    log = method.step(batch, 5)
    assert log["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


@pytest.mark.parametrize("empty", ["coteaching", "ce"])
def test_without_disagreement_other_policies_train_on_the_batch(empty: str) -> None:
    method, batch = agreeing(empty)
    with torch.no_grad():
        losses = F.cross_entropy(method.nets[0](batch.x), batch.y, reduction="none").sort().values
    before = [p.clone() for p in method.parameters()]
    log = method.step(batch, 5)
    n = n_keep(0.3, 20) if empty == "coteaching" else 20
    assert log["loss"].item() == pytest.approx(losses[:n].mean().item(), rel=1e-5)
    assert not all(torch.equal(a, b) for a, b in zip(before, method.parameters(), strict=True))


def test_disagreeing_samples_are_trained_on_and_counted_and_all_are_weighed() -> None:
    toy = blobs(n=40, batch_size=40)
    torch.manual_seed(0)
    method = CoTeachingPlus(task(toy.train), warmup=0.0, forget_rate=0.5)
    x, y = toy.train.x, toy.train.y
    with torch.no_grad():
        logits = [net.train()(x) for net in method.nets]
    disagree, judged = disagreement(*logits), coteaching_losses(*logits, y, 0.5)
    inside = plus_losses(*logits, y, disagree, 0.5)
    assert 0 < len(disagree) < 40
    log = method.step(Batch(torch.arange(40), x, y), 9)
    assert log["loss"].item() == pytest.approx((inside.loss1 + inside.loss2).item() / 2, rel=1e-5)
    assert log["disagreed"] == len(disagree)
    chosen = [torch.zeros(40).index_fill(0, kept, 1.0) for kept in (judged.kept1, judged.kept2)]
    assert torch.equal(log["weight"], (chosen[0] + chosen[1]) / 2)
    *_, last = run(method, toy.train, range(9, 10))[0]
    assert 0 <= last["disagreed"] < 1
    assert last["skipped"] in (0.0, 1.0)


@pytest.mark.parametrize("adam", [True, False])
@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_the_second_division_is_reached_under_adam_and_left_out_under_sgd(adam: bool, warmup: float) -> None:
    toy = blobs(n=40, batch_size=40)
    losses = {}
    for twice in (False, True):
        torch.manual_seed(0)
        method = CoTeachingPlus(
            task(toy.train, epochs=20, adam=adam), warmup=warmup, forget_rate=0.5, divide_twice=twice
        )
        logits = [net.train()(toy.train.x) for net in method.nets]
        n = n_keep(0.5, len(disagreement(*logits))) if warmup == 0 else n_keep(0.5, 40)
        losses[twice] = method.step(Batch(torch.arange(40), toy.train.x, toy.train.y), 9)["loss"].item()
    assert n > 1
    assert losses[True] == pytest.approx(losses[False] / (n if adam else 1), rel=1e-5)


@pytest.mark.parametrize(("name", "value"), [("schedule", "type_3"), ("empty", "skp")])
def test_unknown_options_are_refused(name: str, value: str) -> None:
    with pytest.raises(InputError, match="did you mean"):
        CoTeachingPlus(task(blobs(n=8).train), **{name: value})
