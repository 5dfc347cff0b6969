"""DISC: parity with the original code, thresholds after their use, sets by hand, empty sets, resume."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.errors import InputError
from raystudy.learn.losses import gce, soft_cross_entropy
from raystudy.learn.methods import disc
from raystudy.learn.methods.disc import DISC, above, correction_threshold, robust_loss, select
from raystudy.learn.ops import mix
from raystudy.learn.point import recipe_of
from raystudy.learn.recipe import Recipe


@pytest.fixture
def z(parity, monkeypatch) -> dict[str, Tensor]:
    """The file, and its cap of the threshold in the place of ours while it is compared with."""
    told = {key: torch.from_numpy(value) for key, value in parity("disc").items()}
    monkeypatch.setattr(disc, "CAP", float(told["threshold_cap"]))
    return told


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=1e-9 * float(theirs.abs().max().clamp_min(1e-9)))


# --- parity -----------------------------------------------------------------------------------------------------


def test_sets_and_thresholds_parity(z) -> None:
    y, m, sigma = z["labels"], float(z["momentum"]), float(z["sigma"])
    thresholds = torch.full((2, len(y)), float(z["prev_confidence_init"]), dtype=torch.float64)
    labels = y.clone()
    for e, logits in enumerate(zip(z["w_logits"], z["s_logits"], strict=True)):
        probs = torch.stack(logits).softmax(2)
        close(correction_threshold(thresholds, sigma), z["state_correction_threshold"][e])
        weak, strong = above(probs, y, thresholds)
        sets = select(probs, y, thresholds, labels, sigma)
        for name, ours in {
            "clean": sets.clean,
            "hard": sets.hard,
            "correction": sets.purified,
            "weak": sets.mixed,
            "w_selected": weak & ~strong,
            "s_selected": strong & ~weak,
            "selected": weak | strong,
        }.items():
            assert torch.equal(ours.long(), z[f"state_{name}_flags"][e]), (name, e)
        assert torch.equal(sets.y, z["state_weak_labels"][e])
        labels = sets.y
        thresholds = torch.lerp(probs.amax(2), thresholds, m)
        close(thresholds[0], z["state_w_prev_confidence"][e])
        close(thresholds[1], z["state_s_prev_confidence"][e])
        assert int(sets.clean.sum() + sets.hard.sum() + sets.purified.sum()) == int(sets.mixed.sum())  # disjoint


def test_the_method_keeps_the_same_tables(z) -> None:
    toy = blobs(n=len(z["labels"]), n_classes=int(z["num_class"]))
    method = DISC(task(toy.train), momentum_tau=float(z["momentum"]), sigma=float(z["sigma"])).double()
    assert float(method.thresholds[0, 0]) == pytest.approx(float(z["prev_confidence_init"]), rel=1e-6)
    for e, logits in enumerate(zip(z["w_logits"], z["s_logits"], strict=True)):
        method._end(torch.stack(logits).softmax(2), z["labels"])
        assert torch.equal(method.clean.long(), z["state_clean_flags"][e])
        assert torch.equal(method.purified.long(), z["state_correction_flags"][e])
        assert torch.equal(method.labels, z["state_weak_labels"][e])
        torch.testing.assert_close(method.thresholds[1], z["state_s_prev_confidence"][e], rtol=1e-6, atol=0)


def test_warm_up_parity(z) -> None:
    e, index = int(z["warm_epoch"]), z["warm_batch_index"]
    logits = [z[name][e, index].clone().requires_grad_() for name in ("w_logits", "s_logits")]
    everything = torch.ones_like(index, dtype=torch.bool)
    loss = robust_loss(logits, z["labels"][index], everything, ~everything, 0.0, float(z["gce_q"]))
    loss.backward()
    close(loss.detach(), z["warm_loss"])
    for ours, name in zip(logits, "ws", strict=True):
        close(ours.grad, z[f"warm_grad_{name}_logits"])


@pytest.mark.parametrize("step", ["step1", "step2"])
def test_step_parity(z, step: str) -> None:
    e, index = int(z[f"{step}_epoch"]), z[f"{step}_batch_index"]
    y = z["labels"][index]
    before = {name: z[f"state_{name}_flags"][e - 1, index] for name in ("clean", "hard", "weak")}
    for name, flags in before.items():
        assert torch.equal(flags, z[f"{step}_{name}_mask"])
    clean, hard, mixed = (before[name].bool() for name in ("clean", "hard", "weak"))
    labels = z["state_weak_labels"][e - 1, index]
    assert torch.equal(labels[mixed], z[f"{step}_weak_label"][mixed])
    logits = {v: z[f"{v}_logits"][e, index].clone().requires_grad_() for v in "ws"}
    mix_logits = {v: z[f"{step}_mix_logits_{v}"].clone().requires_grad_() for v in "ws"}
    loss = robust_loss(list(logits.values()), y, clean, hard, float(z["lamd_h"]), float(z["gce_q"]))
    targets = F.one_hot(labels[mixed], int(z["num_class"])).double()
    for v in "ws":
        lam = float(z[f"{step}_lam_raw_{v}"])
        images, q = mix(z[f"{step}_inputs_{v}"][mixed], targets, max(lam, 1 - lam), z[f"{step}_perm_{v}"])
        close(images, z[f"{step}_mixed_inputs_{v}"])
        loss = loss + soft_cross_entropy(mix_logits[v], q)
    loss.backward()
    close(loss.detach(), z[f"{step}_loss"])
    for v in "ws":
        close(logits[v].grad, z[f"{step}_grad_{v}_logits"])
        close(mix_logits[v].grad, z[f"{step}_grad_mix_logits_{v}"])
        assert not logits[v].grad[~(clean | hard)].any()


class Given(nn.Module):
    """A net that answers known inputs with given logits."""

    def __init__(self, answers: dict[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.inputs = {name: x for name, (x, _) in answers.items()}
        self.logits = nn.ParameterDict({name: nn.Parameter(z.clone()) for name, (_, z) in answers.items()})

    def forward(self, x: Tensor) -> Tensor:
        for name, known in self.inputs.items():
            if x.shape == known.shape and torch.allclose(x, known, rtol=0, atol=1e-9):
                return self.logits[name]
        raise AssertionError("asked for what is not in the file")


def of_the_method(z, e: int, index: Tensor, answers: dict[str, tuple[Tensor, Tensor]], **point) -> tuple[DISC, Tensor]:
    """An epoch ``e`` of the class, of one batch whose two views are the inputs "views"; the method after it, and its loss."""
    n, k = len(z["labels"]), int(z["num_class"])
    answers["views"] = (answers["views"][0], torch.cat([z["w_logits"][e, index], z["s_logits"][e, index]]))
    weak, strong = answers["views"][0].chunk(2)

    class One:
        y, n_classes, batch_size = z["labels"], k, len(index)

        def __len__(self) -> int:
            return n

        def batches(self, views: int, augment: tuple[bool | str, ...]):
            assert (views, augment) == (2, (True, "strong"))
            yield Batch(index, weak, self.y[index], strong)

    toy = blobs(n=n, n_classes=k)
    epochs = 100
    method = DISC(
        task(toy.train, epochs=epochs, net=lambda: nn.Linear(1, k)), warmup=float(z["start_epoch"]) / epochs, **point
    )
    method.nets[0] = Given(answers)
    method.optimizers[0] = torch.optim.SGD(method.nets[0].parameters(), lr=1.0)
    if e > 0:
        for name, key in (("clean", "clean"), ("hard", "hard"), ("purified", "correction")):
            getattr(method, name).copy_(z[f"state_{key}_flags"][e - 1])
        method.labels.copy_(z["state_weak_labels"][e - 1])
    *_, log = method.epoch(e, One())  # type: ignore[arg-type]
    return method, log["loss"]


def test_the_warm_up_of_the_method_parity(z) -> None:
    e, index = int(z["warm_epoch"]), z["warm_batch_index"]
    views = torch.arange(2.0 * len(index), dtype=torch.float64)[:, None]
    method, loss = of_the_method(z, e, index, {"views": (views, views)})
    close(loss, z["warm_loss"])
    before = torch.cat([z["w_logits"][e, index], z["s_logits"][e, index]])
    moved = before - method.nets[0].logits["views"].detach()
    close(moved, torch.cat([z["warm_grad_w_logits"], z["warm_grad_s_logits"]]))


@pytest.mark.parametrize("step", ["step1", "step2"])
def test_the_step_of_the_method_parity(z, step: str, monkeypatch) -> None:
    """The class on top of its parts: sets of the epoch before, one mixup per view with draws of its own, each set's share."""
    assert float(z["lamd_ce"]) == 1  # there is no such weight here
    e, index = int(z[f"{step}_epoch"]), z[f"{step}_batch_index"]
    asked: list[float] = []
    draws = iter([float(z[f"{step}_lam_raw_{v}"]) for v in "ws"])
    orders = iter([z[f"{step}_perm_{v}"] for v in "ws"])
    monkeypatch.setattr(disc, "beta_draw", lambda alpha: asked.append(alpha) or next(draws))
    monkeypatch.setattr(disc, "permutation", lambda n, device: next(orders))
    answers = {v: (z[f"{step}_mixed_inputs_{v}"], z[f"{step}_mix_logits_{v}"]) for v in "ws"}
    views = torch.cat([z[f"{step}_inputs_w"], z[f"{step}_inputs_s"]])
    point = {"lambda_h": float(z["lamd_h"]), "q": float(z["gce_q"]), "alpha": float(z["mixup_alpha"])}
    method, loss = of_the_method(z, e, index, answers | {"views": (views, views)}, **point)
    # What is mixed of targets has the digits of float32 in the class.
    torch.testing.assert_close(loss, z[f"{step}_loss"], rtol=1e-6, atol=0)
    assert asked == [float(z["mixup_alpha"])] * 2
    before = torch.cat([z["w_logits"][e, index], z["s_logits"][e, index]])
    logits = method.nets[0].logits
    close(before - logits["views"].detach(), torch.cat([z[f"{step}_grad_w_logits"], z[f"{step}_grad_s_logits"]]))
    for v in "ws":
        torch.testing.assert_close(
            z[f"{step}_mix_logits_{v}"] - logits[v].detach(), z[f"{step}_grad_mix_logits_{v}"], rtol=0, atol=1e-7
        )


def test_gce_parity(z) -> None:
    logits = z["gce_logits"].clone().requires_grad_()
    loss = gce(logits, z["gce_labels"], float(z["gce_q"])).mean()
    loss.backward()
    close(loss.detach(), z["gce_loss"])
    close(logits.grad, z["gce_grad"])


def test_learning_rate_parity(z) -> None:
    """SGD's steps are the recipe's. Adam's plan is the recipe's an epoch later; there it acts one late again, as does our beta1."""
    sgd = Recipe(**{k: v for k, v in space.load("disc").recipe.items() if k not in ("source", "epochs", "network")})
    rates = z["sgd_lr_used"].tolist()
    assert [sgd.rate(e, len(rates)) for e in range(len(rates))] == pytest.approx(rates)
    epochs, start = int(z["adam_epochs"]), float(z["adam_decay_start"])
    adam = Recipe(optimizer="adam", lr=float(z["adam_lr0"]), schedule="linear", milestones=(start / epochs,))
    plan = [adam.rate(e - 1, epochs) for e in range(epochs)]
    assert plan == pytest.approx(z["adam_plan_lr"].tolist())
    assert [plan[max(e - 1, 0)] for e in range(epochs)] == pytest.approx(z["adam_lr_used"].tolist())
    train = blobs(n=32).train
    method = DISC(task(train, epochs=epochs, adam=True), decay_start=start / epochs)
    used = []
    for t in range(epochs):
        torch.manual_seed(t)
        list(method.epoch(t, train))
        used.append(method.optimizers[0].param_groups[0]["betas"][0])
    assert used == pytest.approx(z["adam_beta1_used"].tolist())


def test_presets_parity(z) -> None:
    """The published points are the table of the constructor, for every rate and kind it was asked for."""
    loaded = space.load("disc")
    names, kinds = ("cifar10", "cifar100"), ("symmetric", "asymmetric", "instance")
    for i in range(len(z["preset_percent"])):
        dataset, kind = names[int(z["preset_dataset"][i])], kinds[int(z["preset_noise_type"][i])]
        kind = "pair" if (dataset, kind) == ("cifar100", "asymmetric") else kind
        rate = float(z["preset_percent"][i])
        row = next(p for p in loaded.papers if (p.dataset, p.noise) == (dataset, kind) and math.isclose(p.rate, rate))
        point = loaded.complete(row.point)
        assert point["momentum_tau"] == float(z["preset_momentum"][i])
        assert point["lambda_h"] == float(z["preset_lamd_h"][i])
        assert round(point["warmup"] * loaded.recipe["epochs"]) == int(z["preset_start_epoch"][i])
        assert point["momentum"] == float(z["preset_sgd_momentum"][i])
        assert point["sigma"] == float(z["preset_sigma"][i])
        assert ("ResNet-34" in row.source) == bool(z["preset_resnet34"][i])
        recipe = recipe_of("disc", row.point, {k: v for k, v in loaded.recipe.items() if k not in space.BESIDE})
        assert recipe.optimizer == ("adam" if z["preset_adam"][i] else "sgd")
        assert recipe.lr == float(z["preset_lr"][i])
        assert recipe.weight_decay == float(z["preset_weight_decay"][i])
        if z["preset_adam"][i]:
            assert (recipe.schedule, recipe.milestones) == ("linear", (120 / 200,))
            assert {"optimizer", "lr", "weight_decay", "schedule", "milestones"} <= set(row.oracle)


# --- by hand ----------------------------------------------------------------------------------------------------


def test_sets_by_hand() -> None:
    """Four samples of label 0, thresholds 1/2: clean, hard, purified, none."""
    weak = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.0, 1.0], [0.4, 0.6]])
    strong = torch.tensor([[0.6, 0.4], [0.5, 0.5], [0.02, 0.98], [0.4, 0.6]])
    y = torch.zeros(4, dtype=torch.int64)
    sets = select(torch.stack([weak, strong]), y, torch.full((2, 4), 0.5), y, sigma=0.3)
    assert sets.clean.tolist() == [True, False, False, False]
    assert sets.hard.tolist() == [False, True, False, False]  # .5 is not above .5
    assert sets.purified.tolist() == [False, False, True, False]
    assert sets.y.tolist() == [0, 0, 1, 0]
    # sigma .5: the cap of .99, which a mean of .99 is not above
    assert not select(torch.stack([weak, strong]), y, torch.full((2, 4), 0.5), y, sigma=0.5).purified.any()


def test_thresholds_of_a_constant_confidence() -> None:
    """c (1 - m^n) + m^n / N after n epochs."""
    n, m, c = 5, 0.9, 0.8
    train = blobs(n=n, n_classes=4).train
    method = DISC(task(train), momentum_tau=m)
    probs = torch.full((2, n, 4), 0.2 / 3)
    probs[:, :, 0] = c
    for _ in range(7):
        method._end(probs, train.y)
    expected = c * (1 - m**7) + m**7 / n
    assert method.thresholds.flatten().tolist() == pytest.approx([expected] * 2 * n, rel=1e-5)


def test_after_the_first_epoch_all_confident_samples_are_clean() -> None:
    train = blobs(n=96).train
    torch.manual_seed(0)
    method = DISC(task(train, epochs=10))
    logs = run(method, train, range(1))[0]
    assert all("weight" not in log for log in logs)
    assert float(method.clean.double().mean()) > 0.9  # thresholds of 1/96
    assert torch.equal(method.labels, train.y)
    assert sum(log["passes"] for log in logs) == 6 * 96


def test_no_set_no_step() -> None:
    train = blobs(n=64, batch_size=16).train
    torch.manual_seed(0)
    method = DISC(task(train, epochs=10), warmup=0.1)
    run(method, train, range(1))
    for flags in (method.clean, method.hard, method.purified):
        flags.zero_()
    before = copy.deepcopy(method.nets.state_dict())
    logs = run(method, train, range(2, 3))[0]
    assert len(logs) == 1  # the sets alone
    for name, value in method.nets.named_parameters():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("n_clean", [0, 1, 2])
def test_sets_of_any_size_survive(n_clean: int) -> None:
    train = blobs(n=65, batch_size=16).train
    torch.manual_seed(0)
    method = DISC(task(train, epochs=10))
    method._end(torch.full((2, 65, 4), 0.25), train.y)
    method.clean.copy_(torch.arange(65) >= 65 - n_clean)
    method.hard.copy_(torch.arange(65) == 3)
    logs = run(method, train, range(5, 6))[0]
    assert all(bool(log["loss"].isfinite()) for log in logs[1:])


def test_refuses_what_is_no_fraction() -> None:
    train = blobs(n=8).train
    with pytest.raises(InputError, match=r"momentum_tau=1, .*in \[0, 1\)"):
        DISC(task(train), momentum_tau=1.0)


def test_points_know_the_noise() -> None:
    point, oracle, _ = space.load("disc").paper("cifar10", Noise("symmetric", 0.8))
    assert point["momentum_tau"] == 0.95
    assert "momentum_tau" in oracle


def test_learns_and_tells_clean_from_flipped() -> None:
    toy = blobs(n=400, rate=0.4, spread=0.8)
    torch.manual_seed(0)
    method = DISC(task(toy.train, epochs=20), momentum_tau=0.8)
    weight = run(method, toy.train, range(20))[-1][0]["weight"]
    is_clean = toy.train.y == toy.clean
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.3
    assert accuracy(method, toy) > 0.7
