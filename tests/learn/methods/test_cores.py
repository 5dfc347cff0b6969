"""CORES and CORES*: parity with the original code, values by hand, the course of both stages."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_coteaching import tensors
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.design.space import load, recipe_for
from raystudy.errors import InputError
from raystudy.learn.losses import expected_nll, kl_rows
from raystudy.learn.method import Task
from raystudy.learn.methods import cores
from raystudy.learn.methods.cores import CORES, beta_at, cores_loss, second_rate, sieve_scores


@pytest.fixture
def z(parity, monkeypatch) -> dict[str, torch.Tensor]:
    """The file, and its eps in the place of ours while it is compared with."""
    told = tensors(parity("cores"))
    monkeypatch.setattr(cores, "EPS", float(told["eps"]))
    return told


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def plan(z) -> dict[str, float]:
    """The file's schedule as the method's fractions."""
    n = int(z["beta_total_epochs"])
    names = {"zero": "beta_warmup_epochs", "ramp": "beta_ramp_epochs", "sieve": "sieve_after_epoch"}
    return {name: int(z[key]) / n for name, key in names.items()} | {"beta": float(z["beta_max"])}


def linear(z, k: int, d: int, n: int, lr: float = 1.0, **point) -> CORES:
    def optimizer(net: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr=lr)

    whole = Task(n, k, int(z["beta_total_epochs"]), lambda: torch.nn.Linear(d, k), optimizer)
    return CORES(whole, **plan(z), **point).double()


class Given(torch.nn.Module):
    """A net that answers with given logits, one row per image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_terms_parity(z) -> None:
    logits, y, k = z["logits"], z["labels"], int(z["num_classes"])
    close(F.cross_entropy(logits, y, reduction="none"), z["ce"])
    close(expected_nll(logits, torch.full((k,), 1 / k, dtype=torch.float64), float(z["eps"])), z["reg_mean"])
    close(expected_nll(logits, z["noise_prior"], float(z["eps"])), z["reg_prior"])
    close(sieve_scores(logits, y), z["score"])
    assert (sieve_scores(logits, y) <= 0).nonzero().squeeze(1).tolist() == z["keep_idx"].tolist()


def test_schedules_parity(z) -> None:
    n, zero, ramp = (int(z[f"beta_{name}_epochs"]) for name in ("total", "warmup", "ramp"))
    betas = torch.tensor([beta_at(t, float(z["beta_max"]), zero, ramp) for t in range(n)], dtype=torch.float64)
    close(betas, z["beta_schedule"])
    close(betas[z["epochs"]], z["beta"])
    plain = torch.where(torch.arange(n) < z["lr_drop_epoch"], z["lr_high"], z["lr_low"])
    close(plain / (1 + betas), z["lr_schedule"])


@pytest.mark.parametrize("suffix", ["", "_mean_reg"])
def test_the_step_of_the_method_parity(z, suffix: str) -> None:
    logits, y = z["logits"], z["labels"]
    k = int(z["num_classes"])
    for s, t in enumerate(z["epochs"].tolist()):
        method = linear(z, k, 1, len(y))
        method.prior.copy_(torch.full((k,), 1 / k, dtype=torch.float64) if suffix else z["noise_prior"])
        method.nets[0] = Given(logits)
        method.optimizers[0] = torch.optim.SGD(method.nets[0].parameters(), lr=1.0)
        log = method.step(Batch(torch.arange(len(y)), torch.zeros(1), y), t)
        close(log["loss"], z[f"loss{suffix}"][s])
        close(logits - method.nets[0].logits.detach(), z[f"grad_logits{suffix}"][s])
        if t > z["sieve_after_epoch"]:
            assert log["weight"].long().tolist() == z["keep"][s].tolist()
        else:
            assert z["keep"][s].all()
            assert "weight" not in log


def test_nothing_kept_parity(z) -> None:
    logits, y = z["allrej_logits"].clone().requires_grad_(), z["allrej_labels"]
    keep = sieve_scores(logits, y) <= 0
    assert not keep.any()
    loss = cores_loss(logits, y, keep, 2.0, z["noise_prior"])
    assert loss.item() == z["allrej_loss"].item() == 0
    assert torch.equal(torch.autograd.grad(loss, logits)[0], z["allrej_grad"])


class Course:
    """A training set that is given in the batches of the file."""

    def __init__(self, z) -> None:
        self.x, self.y = z["traj_x"], z["traj_labels"]
        self.n_classes, self.batch_size = int(z["num_classes"]), z["traj_batches"].shape[-1]
        self.order = z["traj_batches"][0]

    def __len__(self) -> int:
        return len(self.y)

    def batches(self):
        for i in self.order:
            yield Batch(i, self.x[i], self.y[i])


def test_three_epochs_of_a_linear_model_parity(z) -> None:
    """Rate, prior, rejected counts and scores around the sieve's start."""
    train = Course(z)
    k, d = z["traj_w0"].shape
    method = linear(z, k, d, len(train))
    method.nets[0].weight.data.copy_(z["traj_w0"])
    method.nets[0].bias.data.copy_(z["traj_b0"])
    for s, t in enumerate(z["traj_epochs"].tolist()):
        train.order = z["traj_batches"][s]
        plain = z["lr_high"] if t < z["lr_drop_epoch"] else z["lr_low"]
        method.optimizers[0].param_groups[0]["lr"] = float(plain)
        if s == 0:
            torch.testing.assert_close(
                torch.bincount(train.y, minlength=k).double() / len(train), z["traj_prior0"], rtol=0, atol=1e-12
            )
        list(method.epoch(t, train))
        assert method.optimizers[0].param_groups[0]["lr"] == pytest.approx(float(z["lr_schedule"][t]))
        close(method.nets[0].weight.detach(), z["traj_w"][s])
        close(method.nets[0].bias.detach(), z["traj_b"][s])
        close(method.prior, z["traj_prior"][s])
        assert method.rejected.long().tolist() == z["traj_rejected"][s].tolist()
        close(method.scores[train.order.flatten()], z["traj_scores"][s])
    assert (method.scores > 0).nonzero().squeeze(1).tolist() == z["noise_pred_idx"].tolist()


class Views(torch.nn.Module):
    """A net that answers an image, which is a number, with that row of its logits."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[x]


@pytest.mark.parametrize("mode", ["constant", "gradual"])
def test_the_second_stage_parity(z, mode: str) -> None:
    parts = [z["p2_logits_sup"], z["p2_logits_u1"], z["p2_logits_u2"]]
    close(kl_rows(parts[1], parts[2]), z["p2_kl"])
    close(F.cross_entropy(parts[0], z["p2_labels"]), z["p2_sup_loss"])
    method = linear(z, int(z["num_classes"]), 1, 8)
    net = method.nets[0] = Views(torch.cat(parts))
    method.optimizers[0] = torch.optim.SGD(net.parameters(), lr=1.0)
    sup, weak, strong = torch.arange(len(net.logits)).split([len(part) for part in parts])
    weight = float(z["p2_ratio"]) * (float(z["p2_epoch"] / z["p2_total_epochs"]) if mode == "gradual" else 1)
    batch, other = Batch(sup, sup, z["p2_labels"]), Batch(weak, weak, torch.zeros(len(weak)).long(), strong)
    log = method._second_step(batch, other, weight)
    close(log["loss"], z[f"p2_loss_{mode}"])
    if mode == "constant":
        grads = (torch.cat(parts) - net.logits.detach()).split([len(part) for part in parts])
        for grad, key in zip(grads, ("sup", "u1", "u2"), strict=True):
            torch.testing.assert_close(grad, z[f"p2_grad_{key}"], rtol=0, atol=1e-9)


def test_the_rate_of_the_second_stage_parity(z) -> None:
    base, multiplier = float(z["p2_lr_base"]), float(z["p2_lr_multiplier"])
    warmup, total = float(z["p2_lr_warmup"]), float(z["p2_total_epochs"])
    ours = [second_rate(float(e), base, multiplier, warmup, total) for e in z["p2_lr_epochs"]]
    close(torch.tensor(ours, dtype=torch.float64), z["p2_lr"])


def test_values_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    y = torch.tensor([0, 0, 0])
    scores = sieve_scores(logits, y)
    assert scores.tolist() == pytest.approx([0.0, -2.0, 2.0], abs=1e-6)  # log p_0 and log p_1 differ by 4
    plain = cores_loss(logits, y, torch.ones(3, dtype=torch.bool), 0.0, torch.tensor([0.5, 0.5]))
    assert plain.item() == pytest.approx(F.cross_entropy(logits, y).item())
    kept = cores_loss(logits, y, scores <= 0.5, 1.0, torch.tensor([0.25, 0.75]))
    one = math.log(2) - math.log(2)
    other = math.log1p(math.exp(-4)) - (0.25 * math.log1p(math.exp(-4)) + 0.75 * math.log1p(math.exp(4)))
    assert kept.item() == pytest.approx((one + other) / 2)  # over two, not three
    assert [beta_at(t, 2.0, 10, 30) for t in (0, 10, 11, 39, 99)] == pytest.approx([0, 0, 2 / 29, 2, 2])


@pytest.mark.parametrize("prior", ["kept", "noisy", "uniform"])
def test_the_prior_by_epoch(prior: str) -> None:
    toy = blobs(n=200, rate=0.5)
    toy.train.y[toy.train.y == 3] = 0  # unequal classes
    shares = torch.bincount(toy.train.y, minlength=4) / 200
    torch.manual_seed(0)
    method = CORES(task(toy.train), prior=prior)
    run(method, toy.train, range(4))
    start = torch.full((4,), 0.25) if prior == "uniform" else shares
    torch.testing.assert_close(method.prior, start)  # nothing is rejected before epoch 4
    logs = run(method, toy.train, range(4, 6))
    assert float(method.prior.sum()) == pytest.approx(1)
    assert torch.equal(method.prior, start) == (prior != "kept")
    assert 0 < logs[-1][-1]["kept"] < 1


def test_the_sieve_finds_wrong_labels() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = CORES(task(toy.train, epochs=15), slow_down=False)
    logs = run(method, toy.train, range(15))
    weight = torch.zeros(400)
    for log in logs[-1]:
        if "weight" in log:
            weight[log["index"]] = log["weight"]
    right = toy.train.y == toy.clean
    assert weight[right].mean() > weight[~right].mean() + 0.5
    assert accuracy(method, toy) > 0.8


def test_the_second_stage_starts_afresh_and_uses_the_rejected_without_labels() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = CORES(task(toy.train, epochs=20), star=0.5, slow_down=False)
    assert method.second_epoch == 10
    assert method.sieve_epoch == round(0.3 * 9 / 0.4)
    run(method, toy.train, range(10))
    scores = method.scores.clone()
    before = [p.clone() for p in method.nets[0].parameters()]
    logs = run(method, toy.train, range(10, 20))
    assert torch.equal(method.scores, scores)  # decided for good
    weight = logs[0][0]["weight"]
    assert weight.tolist() == (~(scores > 0)).float().tolist()
    assert not any(torch.equal(a, b) for a, b in zip(before, method.nets[0].parameters(), strict=True))
    assert method.optimizers[0].param_groups[0]["lr"] < 0.05 * 0.05  # cosine to 0
    assert accuracy(method, toy) > 0.8


@pytest.mark.parametrize("nesterov2", [False, True])
def test_the_second_stages_optimizer(nesterov2: bool) -> None:
    """The recipe's (here momentum 0.9 and no decay), or Nesterov's with a decay of 5e-4, from its first epoch on only."""
    toy = blobs(n=64)
    method = CORES(task(toy.train, epochs=4), star=0.5, nesterov2=nesterov2)
    told = [("momentum", 0.9), ("nesterov", False), ("weight_decay", 0.0)]
    for t in range(4):
        run(method, toy.train, range(t, t + 1))
        if t == 2 and nesterov2:
            told = [("momentum", 0.9), ("nesterov", True), ("weight_decay", 5e-4)]
        (group,) = method.optimizers[0].param_groups
        assert [(name, group[name]) for name, _ in told] == told
    run(CORES(task(toy.train, epochs=4, adam=True), star=0.5, nesterov2=nesterov2), toy.train, range(4))


@pytest.mark.parametrize("scores", [math.nan, 1.0])
def test_a_second_stage_without_the_rejected_or_the_kept(scores: float) -> None:
    toy = blobs(n=64)
    method = CORES(task(toy.train, epochs=4), star=0.5)
    method.scores.fill_(scores)
    (logs,) = run(method, toy.train, range(2, 3))
    assert logs[0]["weight"].all()
    assert all(log["loss"].isfinite() for log in logs[1:])


def test_mistakes_are_named() -> None:
    toy = blobs(n=8)
    with pytest.raises(InputError, match="prior"):
        CORES(task(toy.train), prior="clean")
    with pytest.raises(InputError, match="star"):
        CORES(task(toy.train), star=1.0)


def test_two_classes_that_share_the_probability_pass_the_sieve() -> None:
    """A trait of the score: of labels that are wrong as often as 40 in 100, either way, none is rejected."""
    p = torch.tensor([[0.6, 0.4, *[1e-6] * 8]] * 2, dtype=torch.float64)
    assert (sieve_scores(p.log(), torch.tensor([0, 1])) < -5).all()


def test_the_papers_recipe_and_points_by_the_source() -> None:
    """0.1 for 50 of 100 epochs, then 0.01; nothing for 10, ramp of 30, sieve after epoch 30, beta 2; no momentum, no decay."""
    told = load("cores")
    recipe = recipe_for("paper", "cores", "cifar10", "preact_resnet18")
    assert (told.recipe["epochs"], recipe.momentum, recipe.weight_decay, recipe.batch_size) == (100, 0, 0, 64)
    assert [recipe.rate(t, 100) for t in (0, 49, 50, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01])
    for row in told.papers:
        method = CORES(task(blobs(n=8).train, epochs=100), **row.point)
        if "star" not in row.point:
            assert (method.zero_epochs, method.ramp_epochs, method.sieve_epoch) == (10, 30, 30)
            assert (method.beta, method.threshold) == (2.0, 0.0)
        else:
            shares = {0.2: (0.2, 80 / 320), 0.4: (0.4, 160 / 320), 0.6: (0.9, 240 / 320)}
            assert (row.point["consistency"], row.point["ratio"]) == shares[row.rate]
            assert method.lr2 * recipe.lr == pytest.approx(0.3)  # 300 times 0.001
            assert method.nesterov2


def test_the_first_stage_of_the_second_ends_after_epoch_40() -> None:
    """41 epochs and 1600: the first 41 are those of a plan of 100."""
    method = CORES(task(blobs(n=8).train, epochs=1641), star=1600 / 1641)
    assert method.second_epoch == 41
    assert (method.zero_epochs, method.ramp_epochs, method.sieve_epoch) == (10, 30, 30)
