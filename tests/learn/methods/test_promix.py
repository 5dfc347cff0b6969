"""ProMix: parity with the original code, selection and masks by hand, empty sets, the late head, limits."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import accuracy, blobs, run, task

from raystudy.errors import InputError
from raystudy.learn.losses import soft_cross_entropy
from raystudy.learn.methods.dividemix import confidence_penalty, sharpen
from raystudy.learn.methods.promix import (
    ProMix,
    fourier_mask,
    guessed,
    keep_label,
    pseudo_labels,
    raised,
    ramps,
    rectified_penalty,
    small_loss_share,
    small_losses,
    two_targets,
)
from raystudy.learn.ops import mix, normalise_losses
from raystudy.learn.recipe import Recipe


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("promix").items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=1e-9 * float(theirs.abs().max().clamp_min(1e-9)))


def members(flags: Tensor) -> list[int]:
    return flags.nonzero().flatten().tolist()


# --- parity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["a", "b"])
def test_step_parity(z, case: str) -> None:
    """Both nets, both heads, all losses and gradients of one step, before and after label guessing begins."""
    c = {key.removeprefix(f"{case}_"): value for key, value in z.items() if key.startswith(f"{case}_")}
    y, n_classes, tau = c["labels"], int(z["num_class"]), float(z["tau"])
    a_o, a_p, momentum = float(z["debias_output"]), float(z["debias_pl"]), float(z["bias_m"])
    e = float(c["epoch"])
    w, beta = ramps(e, float(z["warmup_ep"]))
    assert (w, beta) == pytest.approx((float(c["w"]), float(c["beta"])))
    logits = {key: c[key].clone().requires_grad_() for key in c if key.startswith("z")}
    probs = {i: c[f"z{i}_w"].softmax(1) for i in (1, 2)}
    total = torch.zeros((), dtype=torch.float64)
    for i in (1, 2):
        prior, prior_rest = c[f"pi{i}"], c[f"pi{i}_unrel"]
        keep = keep_label(probs[i], y, c[f"css{i}"].bool(), tau)
        assert torch.equal(keep.long(), c[f"keep_label{i}"])
        labels = pseudo_labels(c[f"z{i}_w"], y, keep, prior, a_p)
        close(F.one_hot(labels, n_classes).double(), c[f"pseudo_labels{i}"])
        chosen = keep
        if e > float(z["num_epochs"]) - float(z["start_expand"]):
            joined = guessed(probs[i], probs[3 - i], keep, tau, float(z["threshold"]))
            assert int(joined.sum()) == min(int(c[f"candidates{i}"]), int(c[f"room{i}"]))
            chosen = keep | joined
        assert members(chosen) == c[f"chosen{i}"].sort().values.tolist()
        assert members(~chosen) == c[f"unchosen{i}"].sort().values.tolist()
        target = labels[chosen]
        for head in ("", "_ph"):
            perm, lam = c[f"mix_perm{i}{head}"], float(c[f"mix_lam_raw{i}{head}"])
            images, mixed = mix(
                c["inputs_weak"][chosen], F.one_hot(target, n_classes).double(), max(lam, 1 - lam), perm
            )
            close(images, c[f"mixed_inputs{i}{head}"])
            mask, other, share = (c[f"fmix_{key}{i}{head}"] for key in ("mask", "perm", "lam"))
            x = c["inputs_weak"][chosen]
            close(mask * x + (1 - mask) * x[other], c[f"fmixed_inputs{i}{head}"])
            ce, cr, mixing, fmix = (
                F.cross_entropy(raised(logits[f"z{i}_w{head}"][chosen], prior, a_o), target),
                F.cross_entropy(raised(logits[f"z{i}_s{head}"][chosen], prior, a_o), target),
                soft_cross_entropy(raised(logits[f"z{i}_mix{head}"], prior, a_o), mixed),
                two_targets(raised(logits[f"z{i}_fmix{head}"], prior, a_o), target, other, float(share)),
            )
            for name, ours in {"ce": ce, "cr": cr, "mix": mixing, "fmix": fmix}.items():
                close(ours.detach(), c[f"loss_{name}{i}{head}"])
            loss = ce + w * (cr + mixing + fmix)
            if head:
                guess = sharpen(raised(c[f"z{i}_w"], prior_rest, -a_p).softmax(1), float(z["T"]))
                close(guess, c[f"targets_unrel{i}"])
                weak, strong = (raised(logits[f"z{i}_{v}_ph"][~chosen], prior_rest, a_o) for v in "ws")
                rest = soft_cross_entropy(weak, guess[~chosen]) + w * soft_cross_entropy(strong, guess[~chosen])
                close(rest.detach(), c[f"loss_unrel{i}_ph"])
                loss = loss + beta * rest
            close(loss.detach(), c[f"loss_net{i}{head}"])
            total = total + loss
        for name, part in (("", chosen), ("_unrel", ~chosen)):
            after = torch.lerp(probs[i][part].mean(0), c[f"pi{i}{name}"], momentum)
            close(after, c[f"pi{i}{name}_after"])
    close(total.detach(), c["loss"])
    total.backward()
    for key, value in logits.items():
        if f"grad_{key}" in c:
            close(value.grad, c[f"grad_{key}"])


def test_schedules_parity(z) -> None:
    length, epochs = float(z["warmup_ep"]), float(z["num_epochs"])
    for n, e in enumerate(z["sched_epochs"].tolist()):
        assert ramps(e, length) == pytest.approx((float(z["sched_w"][n]), float(z["sched_beta"][n])))
        rho = small_loss_share(e, length, float(z["rho_start"]), float(z["rho_end"]))
        assert rho == pytest.approx(float(z["sched_rho"][n]))
        assert (e > epochs - float(z["start_expand"])) == bool(z["sched_label_guessing"][n])
    lr, least = float(z["lr0"]), float(z["lr_decay_rate"]) ** 3
    recipe = Recipe(lr=lr, schedule="cosine")
    n_epochs = len(z["lr_values"]) - 1
    theirs = [lr * least + (1 - least) * recipe.rate(e, n_epochs) for e in range(n_epochs + 1)]
    assert theirs == pytest.approx(z["lr_values"].tolist())


def test_small_losses_parity(z) -> None:
    y, n_classes, rho = z["css_labels"], int(z["num_class"]), float(z["css_rho"])
    losses = F.cross_entropy(z["css_logits"], y, reduction="none")
    close(losses, z["css_losses"])
    close(normalise_losses(losses), z["css_losses_norm"])
    for values in (losses, normalise_losses(losses)):  # the normalisation changes no rank
        small = small_losses(values, y, n_classes, rho)
        assert set(members(small)) == set(z["css_idx"].tolist())
        assert torch.equal(torch.bincount(y[small], minlength=n_classes), z["css_count"])


def test_warm_up_parity(z) -> None:
    for kind, factor in (("sym", 0.0), ("asym", 1.0)):
        logits = [z[f"warmup_logits{i}"].clone().requires_grad_() for i in (1, 2)]
        loss = sum(F.cross_entropy(x, z["warmup_labels"]) + factor * rectified_penalty(x) for x in logits)
        loss.backward()
        close(loss.detach(), z[f"warmup_loss_{kind}"])
        for i in (1, 2):
            close(logits[i - 1].grad, z[f"warmup_grad{i}_{kind}"])
            close(rectified_penalty(z[f"warmup_logits{i}"]), z[f"conf_penalty_published{i}"])
            close(confidence_penalty(z[f"warmup_logits{i}"]), z[f"conf_penalty_plain{i}"])


def test_prediction_parity(z) -> None:
    method = ProMix(task(blobs(n=8, n_classes=z["test_primary1"].shape[1]).train))
    method.nets[0], method.nets[1] = Given(z["test_primary1"]), Given(z["test_primary2"])
    assert torch.equal(method.probs(torch.zeros(1)).argmax(1), z["test_pred"])


class Given(nn.Module):
    """A net that gives these logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


# --- by hand ----------------------------------------------------------------------------------------------------


def test_ramps_by_hand() -> None:
    assert ramps(0, 50) == (0, 0)
    assert ramps(50, 50) == (1, pytest.approx(0.05))
    assert ramps(100, 50) == (1, 0)
    assert ramps(100, 50, beta_max=0.3, keep=True) == (1, 0.3)
    assert small_loss_share(25, 50, -1.0, 0.7) == 0.7


def test_selection_by_hand() -> None:
    """ceil(0.5 x 7 / 3) = 2 of each given class, all of a smaller one; a label predicted with exactly tau is not added."""
    losses = torch.tensor([0.3, 0.1, 0.2, 0.9, 0.8, 0.7, 0.5])
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    assert members(small_losses(losses, y, 3, 0.5)) == [1, 2, 4, 5, 6]
    probs = torch.tensor([[0.75, 0.25], [0.76, 0.24], [0.1, 0.9], [0.1, 0.9]], dtype=torch.float64)
    small = torch.tensor([False, False, False, True])
    assert keep_label(probs, torch.tensor([0, 0, 0, 0]), small, 0.75).tolist() == [False, True, False, True]


def test_losses_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    expected = 0.25 * (math.log(2) + math.log(4)) / 2 + 0.75 * (math.log(2) + math.log(4 / 3)) / 2
    assert float(two_targets(logits, torch.tensor([0, 1]), torch.tensor([1, 0]), 0.25)) == pytest.approx(expected)
    below = torch.tensor([[-1.0, -5.0]], requires_grad=True)
    penalty = rectified_penalty(below)  # both become 0: the entropy of two equal logits, which nothing can raise
    penalty.backward()
    assert float(penalty.detach()) == pytest.approx(-math.log(2))
    assert below.grad is not None
    assert not below.grad.any()


def test_guesses_by_hand() -> None:
    """Six samples, room for five: two are chosen; of three that both nets agree on, the surest two join, and no other."""
    p = torch.tensor([0.99, 0.99, 0.97, 0.99, 0.98, 0.99])
    probs = torch.stack([p, 1 - p], 1)
    peers = probs.clone()
    peers[5] = peers[5].flip(0)  # another class
    chosen = torch.tensor([True, True, False, False, False, False])
    assert guessed(probs, peers, chosen, 0.9, 0.7).tolist() == [False, False, False, True, True, False]
    assert not guessed(probs, peers, chosen, 0.9, 0.3).any()  # full
    assert not guessed(probs, peers, chosen, 0.999, 1.0).any()  # not sure enough


def test_debiasing_by_hand() -> None:
    prior = torch.tensor([0.9, 0.1])
    z = torch.tensor([[1.0, 0.0]])
    assert raised(z, prior, 1.0)[0].tolist() == pytest.approx([1 + math.log(0.9), math.log(0.1)])
    keep = torch.tensor([False])
    assert pseudo_labels(z, torch.tensor([0]), keep, prior, 0.0).tolist() == [0]
    assert pseudo_labels(z, torch.tensor([0]), keep, prior, 1.0).tolist() == [1]  # the rare class
    assert pseudo_labels(z, torch.tensor([0]), ~keep, prior, 1.0).tolist() == [0]


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_the_mask_has_the_share_in_few_blobs(lam: float) -> None:
    torch.manual_seed(0)
    mask = fourier_mask(lam, 32, 24)
    assert mask.shape == (32, 24)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(lam, abs=1 / (32 * 24))
    changes = float((mask[1:] != mask[:-1]).float().mean())
    assert changes < 0.1  # noise of no shape would change in 2 lam (1 - lam) = 0.42 of the places


# --- the method -------------------------------------------------------------------------------------------------


def small(n: int = 100, **hyper) -> tuple[ProMix, object]:
    toy = blobs(n=n, batch_size=16, rate=0.3)
    torch.manual_seed(0)
    return ProMix(task(toy.train, epochs=10), **{"warmup": 0.2, "tau": 0.9} | hyper), toy


def test_the_pseudo_head_begins_after_the_warm_up() -> None:
    method, toy = small()
    before = method.nets[0].get_submodule("pseudo").weight.clone()
    logs = run(method, toy.train, range(2))
    assert torch.equal(method.nets[0].get_submodule("pseudo").weight, before)
    assert all("weight" not in log for log in logs[1])
    logs = run(method, toy.train, range(2, 3))[0]
    assert not torch.equal(method.nets[0].get_submodule("pseudo").weight, before)
    index = torch.cat([log["index"] for log in logs if "index" in log])
    assert index.sort().values.tolist() == list(range(100))
    assert set(torch.cat([log["weight"] for log in logs if "weight" in log]).tolist()) <= {0.0, 0.5, 1.0}


def test_with_the_published_recipe_the_late_head_trains() -> None:
    """Fused SGD with momentum, as the training loop has it."""
    train = blobs(n=64, batch_size=16).train
    told = task(train, epochs=10)
    torch.manual_seed(0)
    method = ProMix(type(told)(told.n, told.n_classes, 10, told.net, Recipe().optimizer_for))
    run(method, train, range(3))


def test_priors_follow_their_sets_and_start_uniform() -> None:
    method, toy = small(prior_momentum=0.5)
    assert torch.equal(method.priors, torch.full((2, 2, 4), 0.25))
    run(method, toy.train, range(2))
    assert torch.equal(method.priors, torch.full((2, 2, 4), 0.25))
    run(method, toy.train, range(2, 3))
    assert not torch.equal(method.priors, torch.full((2, 2, 4), 0.25))
    torch.testing.assert_close(method.priors.sum(2), torch.ones(2, 2))


@pytest.mark.parametrize("rho", [1e-9, 1.0])
def test_empty_sets_add_nothing(rho: float) -> None:
    """With nothing but one sample of each class selected most batches are empty; with everything the rest is."""
    method, toy = small(rho=rho, tau=1.0, beta=1.0, ramp=1.0)
    logs = run(method, toy.train, range(5))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch if "loss" in log)
    assert bool(method.priors.isfinite().all())
    assert all(bool(p.isfinite().all()) for p in method.parameters())


def test_nothing_selected_no_step() -> None:
    method, toy = small(tau=1.0, beta=0.0)
    run(method, toy.train, range(2))
    before = copy.deepcopy(dict(method.nets.named_parameters()))
    batch = next(iter(toy.train.batches(views=2, augment=(True, "strong"))))
    method.train()
    log = method._step(3, batch, torch.zeros(2, 16, dtype=torch.bool))
    assert log["chosen"] == 0
    for name, value in method.nets.named_parameters():
        assert torch.equal(value, before[name])


def test_vectors_have_a_second_mixup_and_linear_classifiers_no_pseudo_head() -> None:
    toy = blobs(n=64, batch_size=16)
    toy.train.x = toy.train.x.flatten(1)
    torch.manual_seed(0)
    method = ProMix(task(toy.train, epochs=10, net=lambda: nn.Linear(8, 4)), warmup=0.1)
    before = method.nets[0].get_submodule("pseudo").weight.clone()
    logs = run(method, toy.train, range(4))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch if "loss" in log)
    assert torch.equal(method.nets[0].get_submodule("pseudo").weight, before)


def test_refuses_a_share_of_nothing() -> None:
    with pytest.raises(InputError, match=r"rho=0, .*\(0, 1\]"):
        small(rho=0.0)


@pytest.mark.slow
def test_learns_and_tells_clean_from_flipped() -> None:
    toy = blobs(n=400, rate=0.4, spread=0.8)
    torch.manual_seed(0)
    method = ProMix(task(toy.train, epochs=20), warmup=0.15)
    logs = run(method, toy.train, range(20))[-1]
    index, weight = (torch.cat([log[key] for log in logs if key in log]) for key in ("index", "weight"))
    is_clean = (toy.train.y == toy.clean)[index]
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.4
    assert accuracy(method, toy) > 0.75
