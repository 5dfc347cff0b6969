"""Forward correction and the estimate of T: parity with the original code, hand-computed values, limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from toy import accuracy, blobs, run, task

from raystudy.errors import InputError
from raystudy.learn.losses import forward_correction
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.f_correction import FCorrection
from raystudy.learn.ops import anchor_transition, confusion, known_transition, row_normalise


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


@pytest.fixture(scope="module")
def z(parity) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("f_correction").items()}


def test_loss_parity(z) -> None:
    logits = z["logits"].clone().requires_grad_()
    losses = forward_correction(logits, z["labels"], z["T"].clamp_min(1e-30).log())
    assert float(logits.detach().softmax(1).min()) > float(z["clip_eps"])  # which we do without
    assert logits.shape[1] == int(z["num_class"])
    close(losses.detach(), z["forward_losses"])
    close(losses.mean().detach(), z["forward_loss"])
    close(torch.autograd.grad(losses.mean(), logits)[0], z["forward_grad"])


@pytest.mark.parametrize(
    ("kind", "in_place"), [("argmax", False), ("argmax", True), ("p97_copy", False), ("p97_inplace", True)]
)
def test_estimate_parity(z, kind: str, in_place: bool) -> None:
    eta, alpha = z["eta"].clone(), float(z["alpha_blend"])
    percentile = 100.0 if kind == "argmax" else float(z["percentile"])
    rows, anchors = anchor_transition(eta, percentile, in_place)
    close(rows, z[f"T_raw_{kind}"])
    if f"anchors_{kind}" in z:
        assert anchors.tolist() == z[f"anchors_{kind}"].tolist()
    close(alpha * torch.eye(len(rows), dtype=eta.dtype) + (1 - alpha) * row_normalise(rows), z[f"T_hat_{kind}"])
    assert torch.equal(eta, z["eta"])  # never touched


def test_the_published_in_place_search_spoils_a_row() -> None:
    """The anchor of class 1 is at the top of column 0, whose entry the search for the anchor of class 0 has set to 0."""
    columns = [[0.9, 0.45, 0.4, 0.2, 0.1], [0.05, 0.5, 0.6, 0.7, 0.04]]  # the 75th percentiles are 0.45 and 0.6
    probs = torch.tensor(columns, dtype=torch.float64).t()
    assert anchor_transition(probs, 75)[0].tolist() == [[0.4, 0.6], [0.45, 0.5]]
    assert anchor_transition(probs, 75, in_place=True)[0].tolist() == [[0.4, 0.6], [0.0, 0.5]]


def test_anchors_by_hand() -> None:
    column = torch.tensor([0.5, 0.9, 0.7, 0.1], dtype=torch.float64)
    probs = torch.stack([column, 1 - column], 1)
    _, anchors = anchor_transition(probs, 100)
    assert anchors.tolist() == [1, 3]
    # The 60th percentile of four values is the third smallest, 0.7 and 0.5; the largest below are 0.5 and 0.3.
    _, anchors = anchor_transition(probs, 60)
    assert anchors.tolist() == [0, 2]
    rows, anchors = anchor_transition(torch.full((5, 2), 0.5), 97)  # nothing lies below the percentile
    assert anchors.tolist() == [0, 0]
    assert rows.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_confusion_and_rows_by_hand() -> None:
    probs = torch.tensor([[0.6, 0.4, 0.0], [0.7, 0.3, 0.0], [0.2, 0.8, 0.0]])
    y = torch.tensor([0, 2, 2])
    assert confusion(probs, y).tolist() == [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    soft = confusion(probs, y, soft=True)
    torch.testing.assert_close(soft, torch.tensor([[0.6, 0.0, 0.9], [0.4, 0.0, 1.1], [0.0, 0.0, 0.0]]).double())
    assert row_normalise(confusion(probs, y)).tolist() == [[0.5, 0, 0.5], [0, 0, 1], [0, 0, 1]]


def test_known_transitions_by_hand() -> None:
    third = known_transition("symmetric", 4, 0.6)
    assert third.diagonal().tolist() == pytest.approx([0.4] * 4)
    assert third[0, 1].item() == pytest.approx(0.2)
    assert known_transition("pair", 3, 0.25).tolist() == [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]]


def test_loss_and_gradient_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    t = torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.6, 0.4], [0.5, 0.0, 0.5]], dtype=torch.float64)
    loss = forward_correction(logits, torch.tensor([1]), t.clamp_min(1e-30).log())
    observed = 0.5 * 0.2 + 0.25 * 0.6
    assert loss.item() == pytest.approx(-math.log(observed))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    torch.testing.assert_close(grad[0], p - torch.tensor([0.1, 0.15, 0.0], dtype=torch.float64) / observed)


def test_a_label_that_no_class_can_give_stays_finite() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    t = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 1.0, 0]])
    loss = forward_correction(logits, torch.tensor([2, 2]), t.clamp_min(1e-30).log()).mean()
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_with_the_identity_it_is_cross_entropy() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = FCorrection(task(toy.train), t_source="symmetric", noise_rate=0.0), CE(task(toy.train))
    ce.nets.load_state_dict(method.nets.state_dict())
    run(method, toy.train, range(2))
    run(ce, toy.train, range(2))
    for a, b in zip(method.parameters(), ce.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t_source", ["anchor", "confusion"])
def test_estimates_t_once_after_the_warm_up(t_source) -> None:
    toy = blobs(n=600, rate=0.4, spread=0.3)
    torch.manual_seed(0)
    method = FCorrection(task(toy.train, epochs=8), t_source=t_source, warmup=0.25, alpha=0.1)
    assert method.settled() == 0.25
    eye = torch.eye(4)
    for t in range(8):
        before = method.transition.clone()
        logs = run(method, toy.train, range(t, t + 1))[0]
        assert ("diagonal" in logs[0]) == (t == 2)
        assert torch.equal(before, method.transition) == (t != 2)
        if t < 2:
            assert torch.equal(method.transition, eye)
    torch.testing.assert_close(method.transition.sum(1), torch.ones(4))
    # The share of wrong labels is 0.3 (a redrawn one may be right), and a tenth of T is the identity.
    assert (method.transition.diagonal() - 0.73).abs().max() < 0.2
    assert accuracy(method, toy) > 0.9


def test_the_given_t_is_used_from_the_start() -> None:
    toy = blobs(n=64)
    method = FCorrection(task(toy.train, epochs=4), t_source="pair", noise_rate=0.3)
    assert method.settled() == 0
    torch.testing.assert_close(method.transition, known_transition("pair", 4, 0.3).float())
    before = method.transition.clone()
    run(method, toy.train, range(4))
    assert torch.equal(before, method.transition)


def test_restart_begins_again_from_fresh_weights() -> None:
    toy = blobs(n=64)
    norms = {}
    for restart in (False, True):
        torch.manual_seed(0)
        method = FCorrection(task(toy.train, epochs=4), warmup=0.5, restart=restart)
        run(method, toy.train, range(2))
        before = [p.clone() for p in method.nets[0].parameters()]
        method._estimate(toy.train)
        norms[restart] = sum(
            float((a - b).detach().norm()) for a, b in zip(before, method.nets[0].parameters(), strict=True)
        )
        assert (len(method.optimizers[0].state) == 0) == restart
        run(method, toy.train, range(2, 4))
    assert norms[False] == 0
    assert norms[True] > 1


def test_pair_noise_at_45_percent_may_break_the_estimate_but_not_the_run() -> None:
    toy = blobs(n=400, rate=0.0)
    flip = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.45
    toy.train.y = torch.where(flip, (toy.clean + 1) % 4, toy.clean)
    torch.manual_seed(0)
    method = FCorrection(task(toy.train, epochs=8))
    logs = run(method, toy.train, range(8))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch if "loss" in log)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'anchor'"):
        FCorrection(task(blobs(n=8).train), t_source="anchors")  # type: ignore[arg-type]


def test_the_warm_up_is_cross_entropy() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = FCorrection(task(toy.train, epochs=8, lr=1e-30), warmup=0.5)
    method.transition.fill_(0.25)
    logits = method.train().nets[0](toy.train.x)
    batch = next(iter(toy.train.batches(augment=False, shuffle=False, batch_size=64)))
    assert method.step(batch, 3)["loss"].item() == pytest.approx(F.cross_entropy(logits, toy.train.y).item())
    assert method.step(batch, 4)["loss"].item() == pytest.approx(math.log(4))
