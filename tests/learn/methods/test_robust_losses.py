"""Robust losses and the methods that are little more: parity with the original code, hand-computed values, limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn import losses as L
from raystudy.learn.methods.apl import APL
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.focal import Focal
from raystudy.learn.methods.gce import GCE, truncated_gce
from raystudy.learn.methods.label_smoothing import LabelSmoothing
from raystudy.learn.methods.mae import MAE
from raystudy.learn.methods.sce import SCE

METHODS = [GCE, SCE, APL, MAE, LabelSmoothing, Focal]


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("robust_losses").items()}


def value_and_grad(loss, z) -> tuple[Tensor, Tensor]:
    logits = z["logits"].clone().requires_grad_()
    value = loss(logits, z["labels"]).mean()
    return value.detach(), torch.autograd.grad(value, logits)[0]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def combined(z, first, second):
    return lambda logits, y: z["apl_alpha"] * first(logits, y) + z["apl_beta"] * second(logits, y)


def definitions(z) -> dict:
    q, gamma, k_classes = float(z["q"]), float(z["focal_gamma"]), int(z["num_class"])
    a, b, e = float(z["sce_alpha"]), float(z["sce_beta"]), float(z["smoothing"])

    def ce(logits, y):
        return F.cross_entropy(logits, y, reduction="none")

    def nfl(logits, y):
        return L.nfl(logits, y, gamma, detach=True)

    def sce(logits, y, **log_zero):
        return a * ce(logits, y) + b * L.rce(logits, y, **log_zero)

    return {
        "ce": ce,
        "gce": lambda logits, y: L.gce(logits, y, q),
        "ngce": lambda logits, y: L.ngce(logits, y, q),
        "sce": sce,
        "sce_authors": sce,
        "sce_A4": lambda logits, y: sce(logits, y, log_zero=-4.0),
        "rce": L.rce,
        "mae": L.mae,
        "nmae": lambda logits, y: L.mae(logits, y) / (2 * (k_classes - 1)),
        "nrce_as_published": lambda logits, y: L.rce(logits, y) * (k_classes - 1) / 4,  # its precedence slip
        "nce": L.nce,
        "nce_rce": combined(z, L.nce, L.rce),
        "nce_mae": combined(z, L.nce, L.mae),
        "nfl_rce": combined(z, nfl, L.rce),
        "nfl_mae": combined(z, nfl, L.mae),
        "mae_rce": combined(z, L.mae, L.rce),
        "focal": lambda logits, y: L.focal(logits, y, gamma, detach=True),
        "nfl": nfl,
        "label_smoothing": lambda logits, y: L.label_smoothing(logits, y, e),
        "lsr_authors": lambda logits, y: L.label_smoothing(logits, y, e) - e / k_classes * ce(logits, y),  # their slip
    }


def test_every_loss_of_the_file_is_compared(z) -> None:
    assert {key.removeprefix("loss_") for key in z if key.startswith("loss_")} == set(definitions(z))


def test_values_and_gradients_parity(z) -> None:
    for name, loss in definitions(z).items():
        value, grad = value_and_grad(loss, z)
        close(value, z[f"loss_{name}"])
        close(grad, z[f"grad_{name}"])


@pytest.mark.parametrize("name", ["focal", "nfl"])
def test_focal_gradient_through_the_factor_parity(z, name: str) -> None:
    loss = getattr(L, name)
    value, grad = value_and_grad(lambda logits, y: loss(logits, y, float(z["focal_gamma"])), z)
    close(value, z[f"loss_{name}"])
    close(grad, z[f"grad_{name}_full"])


def test_truncation_parity(z) -> None:
    q, k, index = float(z["q"]), float(z["k"]), z["trunc_index"]
    kept = torch.ones(int(z["trunc_num"]), dtype=torch.float64)
    p_y = 1 - L.mae(z["trunc_update_logits"], z["labels"])
    updated = kept.clone()
    updated[index] = (p_y > k).double()
    close(updated, z["trunc_weight"])
    for v, when in ((kept, "before"), (updated, "after")):
        value, grad = value_and_grad(lambda logits, y, v=v: truncated_gce(logits, y, q, k, v[index]), z)
        close(value, z[f"trunc_loss_{when}"])
        close(grad, z[f"trunc_grad_{when}"])


def logits_of(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def test_values_by_hand() -> None:
    logits, y = logits_of([0.5, 0.25, 0.25]), torch.tensor([1])  # p_y = 1/4
    assert L.gce(logits, y, 0.5).item() == pytest.approx((1 - 0.5) / 0.5)
    assert L.mae(logits, y).item() == pytest.approx(0.75)
    assert L.rce(logits, y).item() == pytest.approx(0.75 * 4 * math.log(10))
    assert L.rce(logits, y, -4.0).item() == pytest.approx(3.0)
    assert L.nce(logits, y).item() == pytest.approx(2 / 5)  # log2: 2 of 1 + 2 + 2
    assert L.focal(logits, y, 2.0).item() == pytest.approx(0.5625 * math.log(4))
    assert L.nfl(logits, y, 1.0).item() == pytest.approx(1.5 / (0.5 + 1.5 + 1.5))
    assert L.label_smoothing(logits, y, 0.3).item() == pytest.approx(math.log(2) * (0.7 * 2 + 0.1 * 5))
    assert L.ngce(logits, y, 0.5).item() == pytest.approx(0.5 / (3 - math.sqrt(0.5) - 0.5 - 0.5))


def test_limits(z) -> None:
    logits, y = z["logits"], z["labels"]
    ce = F.cross_entropy(logits, y, reduction="none")
    close(L.gce(logits, y, 1.0), L.mae(logits, y))
    torch.testing.assert_close(L.gce(logits, y, 1e-9), ce, rtol=1e-6, atol=0)
    torch.testing.assert_close(L.gce(logits.float(), y, 1e-6), ce.float(), rtol=1e-4, atol=0)  # no cancellation
    close(L.focal(logits, y, 0.0), ce)
    close(L.nfl(logits, y, 0.0), L.nce(logits, y))
    close(L.label_smoothing(logits, y, 0.0), ce)
    close(L.label_smoothing(logits, y, 0.4).mean(), F.cross_entropy(logits, y, label_smoothing=0.4))
    close(L.label_smoothing(logits, y, -0.5), 1.5 * ce - 0.5 * -F.log_softmax(logits, 1).mean(1))


@pytest.mark.parametrize(
    ("name", "of_others"), [("mae", 1.0), ("rce", 4 * math.log(10)), ("nce", None), ("nfl", None), ("ngce", None)]
)
def test_symmetric_losses_sum_to_a_constant_over_all_labels(z, name: str, of_others: float | None) -> None:
    extra = {"nfl": (0.5,), "ngce": (0.7,)}.get(name, ())
    logits, n_classes = z["logits"], int(z["num_class"])
    total = 1.0 if of_others is None else (n_classes - 1) * of_others
    losses = [getattr(L, name)(logits, torch.full((len(logits),), k), *extra) for k in range(n_classes)]
    torch.testing.assert_close(sum(losses), torch.full((len(logits),), total, dtype=torch.float64))


def test_cross_entropy_is_not_symmetric(z) -> None:  # negative control of the test above
    logits, n_classes = z["logits"], int(z["num_class"])
    total = sum(F.cross_entropy(logits, torch.full((len(logits),), k), reduction="none") for k in range(n_classes))
    assert total.std() / total.mean() > 0.01  # those above are constant to 1e-7, whatever the size of the logits


def test_gradients_are_those_of_cross_entropy_times_a_weight(z) -> None:
    """p_y^q for GCE, p_y for MAE, -A p_y for RCE, (1 - p_y)^gamma for focal with a constant factor."""
    _, grad_ce = value_and_grad(lambda logits, y: F.cross_entropy(logits, y, reduction="none"), z)
    p_y = z["logits"].softmax(1).gather(1, z["labels"][:, None])
    for loss, weight in [
        (lambda logits, y: L.gce(logits, y, 0.3), p_y**0.3),
        (L.mae, p_y),
        (L.rce, 4 * math.log(10) * p_y),
        (lambda logits, y: L.focal(logits, y, 3.0, detach=True), (1 - p_y) ** 3),
    ]:
        close(value_and_grad(loss, z)[1], weight * grad_ce)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("right", [True, False])
def test_sure_predictions_give_finite_losses_and_gradients(dtype, right: bool) -> None:
    logits = torch.tensor([[200.0, 0.0, -200.0]], dtype=dtype, requires_grad=True)
    y = torch.tensor([0 if right else 2])
    for loss in [
        L.gce(logits, y, 0.1),
        L.ngce(logits, y, 0.7),
        L.mae(logits, y),
        L.rce(logits, y),
        L.nce(logits, y),
        L.label_smoothing(logits, y, -1.0),
        *(f(logits, y, 0.25, detach) for f in (L.focal, L.nfl) for detach in (False, True)),
    ]:
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all()
        assert grad.isfinite().all()


@pytest.mark.parametrize("kind", METHODS)
def test_one_step_descends_on_the_mean_of_the_loss(kind) -> None:
    toy = blobs(n=8, batch_size=8)
    torch.manual_seed(0)
    method = kind(task(toy.train, lr=0.1))
    batch = Batch(torch.arange(8), toy.train.x, toy.train.y)
    before = [p.clone() for p in method.nets[0].parameters()]
    logits = method.train().nets[0](batch.x)
    y = batch.y
    expected = {
        GCE: lambda: L.gce(logits, y, 0.7),
        SCE: lambda: 0.1 * F.cross_entropy(logits, y, reduction="none") + L.rce(logits, y),
        APL: lambda: L.nce(logits, y) + L.rce(logits, y),
        MAE: lambda: L.mae(logits, y),
        LabelSmoothing: lambda: L.label_smoothing(logits, y, 0.1),
        Focal: lambda: L.focal(logits, y, 2.0),
    }[kind]().mean()
    grads = torch.autograd.grad(expected, list(method.nets[0].parameters()))
    norm = torch.stack([g.norm() for g in grads]).norm()
    scale = min(1.0, 5.0 / float(norm)) if kind is APL else 1.0
    log = method.step(batch, 0)
    assert log["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert not log["loss"].requires_grad
    for p, old, g in zip(method.nets[0].parameters(), before, grads, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * scale * g, rtol=1e-4, atol=1e-6)


def test_apl_options_and_its_clipping() -> None:
    toy = blobs(n=32)
    batch = Batch(torch.arange(32), toy.train.x, toy.train.y)

    def moved(**hyper) -> tuple[float, float]:
        """Length of the first step over the learning rate, and its loss."""
        torch.manual_seed(0)
        method = APL(task(toy.train, lr=0.1), **hyper)
        before = torch.cat([p.detach().flatten().clone() for p in method.nets[0].parameters()])
        loss = method.step(batch, 0)["loss"].item()
        after = torch.cat([p.detach().flatten() for p in method.nets[0].parameters()])
        return float((after - before).norm() / 0.1), loss

    free = moved(beta=100.0, clip_norm=0.0)[0]
    assert free > 5
    assert moved(beta=100.0)[0] == pytest.approx(5.0, rel=1e-3)
    assert moved(beta=100.0, clip_norm=1.5)[0] == pytest.approx(1.5, rel=1e-3)
    values = {moved(active=a, passive=p)[1] for a in ("nce", "nfl") for p in ("mae", "rce")}
    assert len(values) == 4
    assert moved(active="nfl", focal_detach=True)[0] != moved(active="nfl", focal_detach=False)[0]
    assert moved(active="nfl", focal_detach=True)[1] == moved(active="nfl", focal_detach=False)[1]


@pytest.mark.parametrize(("hyper", "near"), [({"active": "nec"}, "nce"), ({"passive": "rec"}, "rce")])
def test_an_unknown_loss_is_refused(hyper, near: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{near}'"):
        APL(task(blobs(n=8).train), **hyper)


def test_focal_with_gamma_zero_is_cross_entropy() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    focal, ce = Focal(task(toy.train), gamma=0.0), CE(task(toy.train))
    ce.load_state_dict(focal.state_dict())
    run(focal, toy.train, range(2))
    run(ce, toy.train, range(2))
    for a, b in zip(focal.parameters(), ce.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_pruning_starts_late_is_refreshed_and_finds_wrong_labels() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = GCE(task(toy.train, epochs=12), k=0.3, prune_start=0.5, prune_every=0.25)
    assert method.settled() == 0.5
    seen = []
    for t in range(12):
        logs = run(method, toy.train, range(t, t + 1))[0]
        assert any("weight" in log for log in logs) == (t >= 6)
        assert ("kept" in logs[0]) == (t in (6, 9))
        seen.append(method.kept.clone())
    assert (seen[5] == 1).all()
    assert torch.equal(seen[6], seen[8])
    assert set(seen[-1].tolist()) == {0.0, 1.0}
    is_clean = toy.train.y == toy.clean
    assert seen[-1][is_clean].mean() > seen[-1][~is_clean].mean() + 0.5
    assert method.step(Batch(torch.arange(5), toy.train.x[:5], toy.train.y[:5]), 11)["weight"].equal(seen[-1][:5])


def test_plain_gce_reports_no_weight() -> None:
    toy = blobs(n=64)
    method = GCE(task(toy.train, epochs=4))
    assert method.settled() == 0
    assert not any("weight" in log or "kept" in log for logs in run(method, toy.train, range(4)) for log in logs)


@pytest.mark.parametrize("kind", METHODS)
def test_learns_the_toy_and_survives_a_batch_of_one(kind) -> None:
    toy = blobs(n=321, rate=0.3)
    torch.manual_seed(0)
    method = kind(task(toy.train, epochs=12, lr=0.2 if kind is MAE else 0.05))
    logs = run(method, toy.train, range(12))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch)
    assert accuracy(method, toy) > (0.7 if kind is MAE else 0.8)  # it may give a class up
