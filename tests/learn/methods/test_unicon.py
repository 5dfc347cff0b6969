"""UNICON: parity with the original code, divergence and selection by hand, the contrast, edge sets, limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import accuracy, blobs, run, task

from raystudy.errors import InputError
from raystudy.learn.losses import prior_penalty
from raystudy.learn.methods.dividemix import co_guess, co_refine, confidence_penalty, ramp, semi_loss
from raystudy.learn.methods.unicon import Unicon, clean_weights, cut_off, divergence, unlabelled_batch
from raystudy.learn.ops import mix
from raystudy.learn.semi import contrastive, js_divergence, smallest_of_each_class


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("unicon").items()}


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(
        ours.to(theirs), theirs, rtol=0, atol=tolerance * float(theirs.abs().max().clamp_min(1e-9))
    )


# --- parity -----------------------------------------------------------------------------------------------------


def test_divergence_and_cut_off_parity(z) -> None:
    probs = (z["logits_net1"].softmax(1) + z["logits_net2"].softmax(1)) / 2
    d, y = divergence(probs, z["given_labels"]), z["given_labels"]
    d_u, tau, n = float(z["d_u"]), float(z["tau"]), len(y)
    close(d, z["jsd"])
    close(d.mean(), z["jsd_mean"])
    close(d.min(), z["jsd_min"])
    assert float(z["jsd_upper_bound"]) == pytest.approx(math.log(2))
    assert float(d.max()) <= math.log(2)
    cut = cut_off(d, max(d_u, math.log(2)), tau)  # as published: a mean above d_u cannot be
    close(cut, z["cutoff_published"])
    assert set((d < cut).nonzero().flatten().tolist()) == set(z["below_cutoff_idx"].tolist())
    assert int((d < cut).sum()) / n == pytest.approx(float(z["SR_published"]))
    lowered = cut_off(d, float(z["d_u_low"]), tau)
    close(lowered, z["cutoff_lowered"])
    assert int((d < lowered).sum()) / n == pytest.approx(float(z["SR_lowered"]))
    bits = divergence(probs, y, base2=True)
    close(bits, z["jsd_log2"], 1e-7)  # the 1e-10 inside of logarithms
    close(cut_off(bits, d_u, tau), z["cutoff_log2"], 1e-7)
    assert int((bits < cut_off(bits, d_u, tau)).sum()) / n == pytest.approx(float(z["SR_log2"]))


@pytest.mark.parametrize("name", ["sel0", "sel1"])
def test_selection_parity(z, name: str) -> None:
    """Without the padding by image 0; with it, the published multiset is ours and that many zeros."""
    y, d, n_classes = z[f"{name}_labels"], z[f"{name}_jsd"], int(z[f"{name}_num_class"])
    slots = int(z[f"{name}_slots"])
    assert slots == int(float(z[f"{name}_SR"]) * len(y))
    share = slots // n_classes
    assert share == int(z[f"{name}_class_len"])
    labelled = smallest_of_each_class(d, y, torch.full((n_classes,), share))
    mine = labelled.nonzero().flatten()
    assert torch.equal(mine, z[f"{name}_idx"].sort().values)
    close(clean_weights(d)[mine], z[f"{name}_weights"])
    assert torch.equal((~labelled).nonzero().flatten(), z[f"{name}_unlabeled"])
    counts = torch.bincount(y, minlength=n_classes).clamp(max=share)
    assert torch.equal(torch.bincount(y[mine], minlength=n_classes), counts)
    padding = int(z[f"{name}_padding"])
    published = torch.cat([mine, torch.zeros(padding, dtype=torch.int64)]).sort().values
    assert torch.equal(published, z[f"{name}_published"])
    assert torch.equal(z[f"{name}_published_order"].sort().values, published)
    close(clean_weights(d)[z[f"{name}_published_order"]], z[f"{name}_weights_published"])
    lacks = set(z[f"{name}_unlabeled"].tolist()) - set(z[f"{name}_unlabeled_published"].tolist())
    assert lacks <= {0}


def test_batch_parity(z) -> None:
    ours = [unlabelled_batch(int(z["batch_size"]), share) for share in z["ubatch_SR"].tolist()]
    assert ours == z["ubatch_size"].tolist()


def test_step_parity(z) -> None:
    temperature, y = float(z["T"]), F.one_hot(z["labels_x"], z["logits_mixed"].shape[1]).double()
    w = clean_weights(z["jsd_x"])
    close(w, z["w_x"].flatten())
    guesses = [z[f"logits_u_net{net}_view{view}"] for net in (1, 2) for view in (1, 2)]
    q_u = co_guess(guesses, temperature)
    q_x = co_refine(y, w, (z["logits_x_view1"].softmax(1) + z["logits_x_view2"].softmax(1)) / 2, temperature)
    close(q_u, z["targets_u"])
    close(q_x, z["targets_x"])
    lam = max(float(z["lam_raw"]), 1 - float(z["lam_raw"]))
    images = torch.cat([z[f"inputs_{name}"] for name in ("x3", "x4", "u3", "u4")])
    images, targets = mix(images, torch.cat([q_x, q_x, q_u, q_u]), lam, z["perm"])
    close(images, z["mixed_inputs"])
    close(targets, z["mixed_targets"])
    logits, u3, u4 = (z[name].clone().requires_grad_() for name in ("logits_mixed", "proj_u3", "proj_u4"))
    loss_x, loss_u = semi_loss(logits, targets, 2 * len(y))
    weight = float(z["lambda_u"]) * ramp(float(z["epoch_fraction"]), float(z["warm_up"]), float(z["rampup_length"]))
    assert weight == pytest.approx(float(z["lambda_u_ramped"]))
    contrast = contrastive(u3, u4, float(z["contrastive_temperature"]))
    for ours, name in zip(torch.autograd.grad(contrast, (u3, u4), retain_graph=True), ("u3", "u4"), strict=True):
        close(ours, z[f"contrastive_grad_proj_{name}"])
    penalty = prior_penalty(logits)
    loss = loss_x + weight * loss_u + float(z["lambda_c"]) * contrast + penalty
    loss.backward()
    for ours, name in (
        (loss_x, "Lx"),
        (loss_u, "Lu"),
        (penalty, "prior_penalty"),
        (contrast, "contrastive"),
        (loss, "loss"),
    ):
        close(ours.detach(), z[name])
    for ours, name in ((logits, "logits_mixed"), (u3, "proj_u3"), (u4, "proj_u4")):
        close(ours.grad, z[f"grad_{name}"])


def test_ramp_and_warm_up_parity(z) -> None:
    ours = [
        float(z["lambda_u"]) * ramp(float(e), float(z["warm_up"]), float(z["rampup_length"])) for e in z["ramp_epochs"]
    ]
    assert ours == pytest.approx(z["ramp_values"].tolist())
    for kind, factor in (("sym", 0.0), ("asym", 1.0)):
        logits = z["warmup_logits"].clone().requires_grad_()
        ce, penalty = F.cross_entropy(logits, z["warmup_labels"]), confidence_penalty(logits)
        close(ce.detach(), z["warmup_ce"])
        close(penalty.detach(), z["conf_penalty"])
        loss = ce + factor * penalty
        loss.backward()
        close(loss.detach(), z[f"warmup_loss_{kind}"])
        close(logits.grad, z[f"warmup_grad_{kind}"])


def test_the_published_schedule_rises_again(z) -> None:
    """What the recipe's cosine deviates from: the cosine of a shorter period, went on with."""
    lr, least, period = float(z["sched_lr0"]), float(z["sched_eta_min"]), int(z["sched_T_max"])
    e = torch.arange(len(z["sched_lr"]), dtype=torch.float64)
    close(least + (lr - least) * (1 + torch.cos(math.pi * e / period)) / 2, z["sched_lr"], 1e-8)
    assert float(z["sched_lr"][-1]) > least


def test_prediction_parity(z) -> None:
    method = Unicon(task(blobs(n=8, n_classes=z["test_logits1"].shape[1]).train))
    method.nets[0], method.nets[1] = Given(z["test_logits1"]), Given(z["test_logits2"])
    assert torch.equal(method.probs(torch.zeros(1)).argmax(1), z["test_pred"])


class Given(nn.Module):
    """A net that gives these logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


# --- by hand ----------------------------------------------------------------------------------------------------


def test_divergence_at_its_ends() -> None:
    eye = torch.eye(3, dtype=torch.float64)
    assert js_divergence(eye, eye).tolist() == pytest.approx([0, 0, 0], abs=1e-8)
    assert js_divergence(eye, eye.roll(1, 0)).tolist() == pytest.approx([math.log(2)] * 3)
    assert divergence(eye, torch.tensor([1, 2, 0]), base2=True).tolist() == pytest.approx([1, 1, 1])


def test_cut_off_by_hand() -> None:
    d = torch.tensor([0.2, 0.6, 1.0])
    assert float(cut_off(d, 0.7, 5)) == pytest.approx(0.6)
    assert float(cut_off(d, 0.5, 5)) == pytest.approx(0.6 - 0.4 / 5)


def test_weights_by_hand() -> None:
    assert clean_weights(torch.tensor([0.0, 0.49, 0.5, 0.69])).tolist() == pytest.approx([1, 1, 0.5, 0.31])


def test_unlabelled_batches_by_hand() -> None:
    assert [unlabelled_batch(64, share) for share in (0.1, 0.3, 0.5, 1.0)] == [320, 106, 64, 32]
    assert unlabelled_batch(64, 0.1, factor=2.0) == 640
    assert unlabelled_batch(1, 1.0) == 1


def test_selection_by_class_by_hand() -> None:
    scores = torch.tensor([0.5, 0.1, 0.4, 0.2, 0.9, 0.1])
    y = torch.tensor([0, 0, 0, 1, 1, 3])
    assert smallest_of_each_class(scores, y, torch.tensor([2, 1, 5, 0])).tolist() == [
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert smallest_of_each_class(scores, y, torch.full((4,), 9)).all()
    assert smallest_of_each_class(torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.tensor([2])).tolist() == [
        True,
        True,
        False,
    ]


def test_contrast_by_hand() -> None:
    """Two images whose views agree and that are at right angles: -log(e^(1/T) / (e^(1/T) + 2))."""
    a = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert float(contrastive(a, 2 * a, 0.5)) == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)))
    assert float(contrastive(a[:1], a[:1], 0.5)) == 0  # nothing to tell it from


# --- the method -------------------------------------------------------------------------------------------------


def test_the_same_number_of_every_class_is_labelled() -> None:
    toy = blobs(n=120, batch_size=16, rate=0.3)
    torch.manual_seed(0)
    method = Unicon(task(toy.train, epochs=10), warmup=0.2)
    logs = run(method, toy.train, range(3))
    assert all("labelled" not in log for log in logs[0])
    splits = [log for log in logs[2] if "labelled" in log]
    assert len(splits) == 2  # the second after net 1 was trained
    n = round(float(splits[0]["labelled"]) * 120)
    assert n % 4 == 0
    assert 0 < n < 120
    assert splits[0]["weight"].shape == (120,)
    assert 0 <= float(splits[0]["weight"].min()) <= float(splits[0]["weight"].max()) <= 1


@pytest.mark.parametrize("n_labelled", [1, 2, 17, 33, 66, 67])
def test_edge_batches(n_labelled: int) -> None:
    train = blobs(n=67, batch_size=16).train
    torch.manual_seed(0)
    method = Unicon(task(train, epochs=10))
    logs = list(method._mixmatch(0, 9, train, torch.rand(67), torch.arange(67) < n_labelled, 16))
    assert len(logs) == -(-n_labelled // 16)
    assert all(bool(log["loss"].isfinite()) for log in logs)


def test_the_contrast_trains_the_trunk_and_not_the_classifier() -> None:
    train = blobs(n=64, batch_size=16).train
    torch.manual_seed(0)
    method = Unicon(task(train))
    net = method.nets[0].train()
    strong = next(iter(train.batches(views=2, augment="strong")))
    method._contrast(net, strong).backward()
    assert net.head.weight.grad is None
    assert bool(net.trunk[1].weight.grad.any())
    method.lambda_c = 0.0
    assert not method._contrast(net, strong).requires_grad


def test_a_linear_classifier_of_fixed_vectors_has_no_contrast() -> None:
    train = blobs(n=64, batch_size=16).train
    torch.manual_seed(0)
    method = Unicon(task(train, net=lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 4))))
    assert not method._contrast(method.nets[0], next(iter(train.batches(views=2)))).requires_grad
    run(method, train, range(3))


def test_equal_divergences_select_nothing_and_train_on_everything() -> None:
    train = blobs(n=64, batch_size=16).train
    method = Unicon(task(train, epochs=10))
    with torch.no_grad():
        for p in method.nets.parameters():
            p.zero_()
    logs = run(method, train, range(5, 6))[0]
    assert float(logs[0]["labelled"]) == 0
    assert sum(log["passes"] for log in logs[1:3]) == 3 * 64


def test_refuses_a_temperature_of_zero() -> None:
    with pytest.raises(InputError, match="contrast_temperature=0"):
        Unicon(task(blobs(n=8).train), contrast_temperature=0.0)


def test_learns_and_tells_clean_from_flipped() -> None:
    toy = blobs(n=400, rate=0.5, spread=0.8)
    torch.manual_seed(0)
    method = Unicon(task(toy.train, epochs=20), warmup=0.15)
    weight = run(method, toy.train, range(20))[-1][0]["weight"]
    is_clean = toy.train.y == toy.clean
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.4
    assert accuracy(method, toy) > 0.8
