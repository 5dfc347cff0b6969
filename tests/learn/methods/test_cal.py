"""CAL: parity with the original code, values by hand, the course of both stages."""

import pytest
import torch
from test_coteaching import tensors
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.design.space import load, recipe_for
from raystudy.errors import InputError
from raystudy.learn.losses import bounded_nll, expected_nll
from raystudy.learn.methods import cal
from raystudy.learn.methods.cal import (
    CAL,
    NONE,
    covariance,
    distil,
    distil_scores,
    given_shares,
    members,
    peer_regularised,
    prior_of,
    segments,
)
from raystudy.learn.ops import label_shares


@pytest.fixture
def z(parity, monkeypatch) -> dict[str, torch.Tensor]:
    """The file, and its three eps in the place of ours while it is compared with."""
    told = tensors(parity("cal"))
    for name, key in (("EPS_CE", "eps_ce"), ("EPS_REG", "eps_reg"), ("EPS_DISTIL", "eps_distill")):
        monkeypatch.setattr(cal, name, float(told[key]))
    return told


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def distilled_of(z) -> torch.Tensor:
    return torch.where(z["distilled_weights"] > 0, z["distilled_labels"], NONE)


class Given(torch.nn.Module):
    """A net that answers with given logits, one row per image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def second_stage(z, logits: torch.Tensor, class_losses: torch.Tensor, alpha: float) -> CAL:
    """The method in its second stage, about to see one batch with these logits."""
    toy = blobs(n=len(z["labels_all"]), n_classes=int(z["num_classes"]))
    method = CAL(task(toy.train, epochs=166), alpha2=alpha).double()
    method.distilled.copy_(distilled_of(z))
    method.class_losses.copy_(class_losses)
    method.nets[0] = Given(logits)
    method.optimizers[0] = torch.optim.SGD(method.nets[0].parameters(), lr=1.0)
    return method


def test_statistics_parity(z) -> None:
    y, k, d = z["labels_all"], int(z["num_classes"]), distilled_of(z)
    close(label_shares(y, k), z["prior"])
    close(prior_of("sqrt", z["prior"]), z["prior_sqrt"])
    close(prior_of("sqrt", z["prior"]) * z["prior_scale_100"], z["prior_sqrt_scaled"])  # prior_sum of 100 classes
    shares, class_shares = given_shares(d, y, k)
    close(class_shares, z["P_y"])
    indicator = torch.zeros(k, k, len(y), dtype=torch.float64)
    inside = (d != NONE).nonzero().squeeze(1)
    indicator[d[inside], y[inside], inside] = 1
    close(indicator, z["T_indicator"])
    mine = torch.nn.functional.one_hot(d.clamp_min(0), k).t()[:, None] * (d != NONE)
    centred = mine * (torch.nn.functional.one_hot(y, k).t()[None] - shares[:, :, None])
    close(centred, z["T_centered"])
    assert centred.sum(2).abs().max() < 1e-12
    assert members(d, y, shares).tolist() == (z["T_centered"] > 0).any(1).any(0).tolist()


def test_the_first_stage_parity(z) -> None:
    y = z["labels"]
    assert torch.equal(z["labels_all"][z["batch_index"]], y)
    close(bounded_nll(z["logits"], y, float(z["eps_ce"])).mean(), z["s1_base"])
    close(expected_nll(z["logits"], z["prior_sqrt"], float(z["eps_reg"])).mean(), z["s1_peer"])
    logits = z["logits"].clone().requires_grad_()
    loss = peer_regularised(logits, y, float(z["s1_alpha"]), prior_of("sqrt", z["prior"]))
    close(loss.detach(), z["s1_loss"])
    close(torch.autograd.grad(loss, logits)[0], z["s1_grad"])


def test_distilled_labels_parity(z) -> None:
    close(distil_scores(z["logits"], z["labels"]), z["distill_score"])
    found = distil(z["logits"], z["labels"], float(z["distill_threshold"]))
    assert found.tolist() == z["distill_label"].tolist()
    assert (found != NONE).long().tolist() == z["distill_weight"].long().tolist()


@pytest.mark.parametrize("kind", ["zero", "given"])
def test_the_second_stage_parity(z, kind: str) -> None:
    y, index, k = z["labels"], z["batch_index"], int(z["num_classes"])
    class_losses = z["s2_class_loss_mean"] if kind == "given" else torch.zeros(k, k, dtype=torch.float64)
    shares, class_shares = given_shares(distilled_of(z), z["labels_all"], k)
    losses = -torch.log(z["s2_logits"].softmax(1) + float(z["eps_reg"]))
    term = covariance(losses, y, distilled_of(z)[index], shares, class_shares, class_losses)
    close(term, z[f"s2_cal_{kind}"])
    close(bounded_nll(z["s2_logits"], y, float(z["eps_ce"])).mean(), z["s2_base"])
    close(expected_nll(z["s2_logits"], z["prior"], float(z["eps_reg"])).mean(), z["s2_peer"])
    method = second_stage(z, z["s2_logits"], class_losses, float(z["s2_alpha"]))
    sums = torch.zeros_like(class_losses)
    log = method.second_step(Batch(index, torch.zeros(1), y), 165, z["prior"], shares, class_shares, sums)
    close(log["loss"], z[f"s2_loss_{kind}"])
    close(log["covariance"], z[f"s2_cal_{kind}"])
    close(z["s2_logits"] - method.nets[0].logits.detach(), z[f"s2_grad_{kind}"])
    close(sums, z["s2_loss_rec"])


class Course:
    """A training set in the batches of the file; an image is its batch's number."""

    def __init__(self, z) -> None:
        self.y, self.n_classes = z["labels_all"], int(z["num_classes"])
        self.order = z["epoch_batches"]

    def __len__(self) -> int:
        return len(self.y)

    def batches(self):
        for s, i in enumerate(self.order):
            yield Batch(i, torch.tensor(s), self.y[i])


class Rows(torch.nn.Module):
    """A net that answers the number of a batch with the logits of that batch, and learns nothing."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[int(x)]


def test_an_epoch_of_the_second_stage_parity(z) -> None:
    method = second_stage(z, z["epoch_logits"], z["s2_class_loss_mean"], 1.0)
    method.nets[0] = Rows(z["epoch_logits"])
    method.optimizers[0] = torch.optim.SGD(method.nets[0].parameters(), lr=1.0)
    logs = list(method.epoch(100, Course(z)))
    close(torch.stack([log["covariance"] for log in logs[1:]]), z["epoch_cal"])
    shares, _ = given_shares(method.distilled, z["labels_all"], method.task.n_classes)
    mine = members(method.distilled, z["labels_all"], shares)
    counts = torch.bincount(method.distilled[mine], minlength=len(shares)).clamp_min(1)
    assert torch.equal(counts[:, None].expand_as(shares).double(), z["epoch_indicator_sum"])
    close(method.class_losses, z["epoch_loss_mean_next"])


@pytest.mark.parametrize("stage", [1, 2])
def test_schedules_parity(z, stage: int) -> None:
    values, n = z[f"alpha_list_stage{stage}"].tolist(), len(z[f"alpha_stage{stage}"])
    found = torch.tensor([segments(e, z["milestones"].tolist(), values) for e in range(n)], dtype=torch.float64)
    close(found, z[f"alpha_stage{stage}"])
    steps = torch.arange(n) // z["lr_step"]
    close(z["lr_base"] * z["lr_gamma"] ** steps / (1 + found), z[f"lr_stage{stage}"])


def test_both_stages_by_hand() -> None:
    toy = blobs(n=8)
    method = CAL(task(toy.train, epochs=166, lr=0.1))
    assert (method.second_epoch, method.plan) == (66, 100)
    assert [method.alpha(t) for t in (5, 25, 40)] == pytest.approx([0, 1, 2])
    assert [method.alpha(66 + t) for t in (5, 25, 40, 99)] == pytest.approx([0, 0.5, 1, 1])
    rates = []
    for t in (0, 40, 60, 66, 66 + 40, 66 + 60):
        method._set_rate(t)
        rates.append(method.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1 / 3, 0.01 / 3, 0.1, 0.05, 0.005])


def test_with_100_classes_the_prior_is_ten_times_as_large_and_the_rate_half() -> None:
    """alpha 1 in both stages of 100 epochs, so 0.05 from epoch 40 on and 0.005 from epoch 60; 10 would make it 0.1 / 11."""
    (row,) = [row for row in load("cal").papers if row.dataset == "cifar100" and row.rate == 0.2]
    toy = blobs(n=8)
    method = CAL(task(toy.train, epochs=166, lr=0.1), **row.point)
    rates = []
    for t in (0, 40, 60, 66, 66 + 40, 66 + 60):
        method._set_rate(t)
        rates.append(method.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.05, 0.005, 0.1, 0.05, 0.005])
    asked: list[torch.Tensor] = []

    def first(batch, t, prior):
        asked.append(prior)
        return {}

    method._first_step = first  # type: ignore[method-assign]
    method.second_step = lambda batch, t, prior, *rest: first(batch, t, prior)  # type: ignore[method-assign]
    run(method, toy.train, range(1))
    run(method, toy.train, range(66, 67))
    shares = label_shares(toy.train.y, toy.train.n_classes)
    close(asked[0], 10 * shares.sqrt() / shares.sqrt().sum())
    close(asked[1], 10 * shares)


def test_covariance_by_hand() -> None:
    """Class 0 has given labels 0, 0, 1, class 1 only its own: T is (1/3, -1/3), (1/3, -1/3), (-2/3, 2/3) and nothing."""
    y, d = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    shares, class_shares = given_shares(d, y, 2)
    assert shares.tolist() == [[pytest.approx(2 / 3), pytest.approx(1 / 3)], [0, 1]]
    assert members(d, y, shares).tolist() == [True, True, True, False]
    losses = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.0, 6.0], [9.0, 9.0]], dtype=torch.float64)
    none = torch.zeros(2, 2, dtype=torch.float64)
    # inner sums 1, -1 and 4, so a mean of 4/3, times the class's share of 3/4
    assert covariance(losses, y, d, shares, class_shares, none).item() == pytest.approx(1.0)
    means = torch.tensor(
        [[1.0, 3.0], [5.0, 5.0]], dtype=torch.float64
    )  # T sums to zero, so a whole class does not move
    assert covariance(losses, y, d, shares, class_shares, means).item() == pytest.approx(1.0)
    assert covariance(losses, y, y, *given_shares(y, y, 2), none) == 0  # all labels right
    nobody = torch.full_like(y, NONE)
    assert covariance(losses, y, nobody, *given_shares(nobody, y, 2), none) == 0


def test_a_band_around_the_threshold_leaves_samples_without_a_label() -> None:
    logits = torch.tensor([[6.0, 0.0], [1.0, 0.0], [0.0, 6.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 0])  # scores -3, -1/2 and 3
    assert distil(logits, y, -1.0).tolist() == [0, 0, 1]
    assert distil(logits, y, -1.0, band=2.0).tolist() == [0, NONE, 1]


def test_it_learns_and_says_which_labels_it_doubts() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = CAL(task(toy.train, epochs=20), slow_down=False)
    logs = run(method, toy.train, range(20))
    assert not any("weight" in log for epoch in logs[: method.second_epoch] for log in epoch)
    weight = logs[-1][0]["weight"]
    right = toy.train.y == toy.clean
    assert weight[right].mean() > weight[~right].mean() + 0.5
    assert method.class_losses.any()
    assert accuracy(method, toy) > 0.8


def test_the_second_stage_starts_afresh() -> None:
    toy = blobs(n=64)
    method = CAL(task(toy.train, epochs=4))
    run(method, toy.train, range(method.second_epoch))
    assert (method.distilled != NONE).all()
    old = method.nets[0][1].weight.clone()
    torch.manual_seed(7)
    fresh = method.task.net()
    torch.manual_seed(7)
    next(method.epoch(method.second_epoch, toy.train))
    assert torch.equal(method.nets[0][1].weight, fresh[1].weight)
    assert not torch.equal(method.nets[0][1].weight, old)


def test_an_unknown_prior_is_named() -> None:
    with pytest.raises(InputError, match="prior"):
        CAL(task(blobs(n=8).train), prior="clean")


def test_the_papers_points_by_the_source() -> None:
    """0.1 at momentum 0.9 and decay 5e-4, batches of 128; alpha 2 and 1, with 100 classes 1 and 1 on a prior of sum 10; epoch 65, -8."""
    told = load("cal")
    recipe = recipe_for("paper", "cal", "cifar10", "preact_resnet18")
    assert (recipe.lr, recipe.momentum, recipe.weight_decay, recipe.batch_size) == (0.1, 0.9, 5e-4, 128)
    for row in told.papers:
        method = CAL(task(blobs(n=8).train, epochs=told.recipe["epochs"]), **row.point)
        told_of = (*method.alphas, method.prior_sum)
        assert told_of == ((2.0, 1.0, 1.0) if row.dataset == "cifar10" else (1.0, 1.0, 10.0))
        assert (method.plan, method.second_epoch, method.threshold) == (100, 66, -8.0)
