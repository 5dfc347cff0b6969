"""PES and PES(semi): parity with the original code, hand-computed values, which layers are renewed and when, edge cases."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import InOrder, accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.data.noise import symmetric_matrix
from raystudy.errors import InputError
from raystudy.learn import networks
from raystudy.learn.methods import pes
from raystudy.learn.methods.dividemix import co_guess, ramp
from raystudy.learn.methods.pes import (
    PES,
    class_weights,
    last_parts,
    refine_rate,
    unlabelled_batch,
    weighted_semi_loss,
)
from raystudy.learn.ops import known_transition, mix
from raystudy.learn.recipe import Recipe


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("pes").items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=0, atol=1e-9 * float(theirs.abs().max()))


# --- parity


@pytest.mark.parametrize("split", ["a", "b"])
def test_split_parity(z, split: str) -> None:
    y, views = z[f"split_{split}_labels"], [z[f"split_{split}_logits_view{v}"] for v in (1, 2)]
    p = torch.stack([view.softmax(1) for view in views]).mean(0)
    close(p, z[f"split_{split}_probs"])
    confident = p.argmax(1) == y
    assert confident.nonzero().flatten().tolist() == z[f"split_{split}_confident"].tolist()
    assert (~confident).nonzero().flatten().tolist() == z[f"split_{split}_unconfident"].tolist()
    size = int(z["batch_size"])
    n_others = unlabelled_batch(int(confident.sum()), int((~confident).sum()), size)
    assert n_others == int(z[f"split_{split}_batch_unlabeled"])
    assert size - n_others == int(z[f"split_{split}_batch_labeled"])
    counts = torch.bincount(y[confident], minlength=int(z["num_classes"])).double()
    close(class_weights(counts), z[f"split_{split}_class_weights_cs"])
    close(class_weights(counts, 3.0), z[f"split_{split}_class_weights_semi"])
    if split == "a":
        clean = z["clothing_val_counts"].double()
        close(class_weights(counts) * clean / clean.mean(), z["clothing_class_weights"])


def test_the_confident_set_of_the_method_parity(z) -> None:
    """The class on top: two views in eval mode, the second half of the inputs answered with the second view's logits."""
    y, views = z["split_b_labels"], [z[f"split_b_logits_view{v}"] for v in (1, 2)]
    n, k = views[0].shape

    class Two(InOrder):
        def batches(self, subset=None, views=1, augment=True, shuffle=True, batch_size=None):
            assert views == 2
            assert not shuffle
            rows = torch.arange(n)
            yield Batch(rows, self.x, self.y, self.x + 1)

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(1, k)

        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            return views[int(x[0, 0])]

    method = PES(task(blobs(n=n, n_classes=k).train, net=Given), weight_cap=3.0)
    train = Two(torch.zeros(n, 1), y, k, ())
    confident, log = method._look(train)  # type: ignore[arg-type]
    assert confident.nonzero().flatten().tolist() == z["split_b_confident"].tolist()
    assert torch.equal(log["weight"], confident.float())
    ours = method._class_weights(train, confident)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, z["split_b_class_weights_semi"].float())


def test_weighted_cross_entropy_parity(z) -> None:
    logits, y = z["wce_logits"].clone().requires_grad_(), z["wce_labels"]
    loss = F.cross_entropy(logits, y, weight=z["split_b_class_weights_cs"])
    close(loss.detach(), z["wce_loss"])
    close(torch.autograd.grad(loss, logits)[0], z["wce_grad"])


def test_mixmatch_parity(z) -> None:
    guesses = co_guess([z["mm_logits_u1"], z["mm_logits_u2"]], float(z["T"]))
    close(guesses, z["mm_targets_u"])
    label = F.one_hot(z["mm_labels_x"], int(z["num_classes"])).double()
    inputs = torch.cat([z["mm_inputs_x1"], z["mm_inputs_x2"], z["mm_inputs_u1"], z["mm_inputs_u2"]])
    raw = float(z["mm_lam_raw"])
    assert float(z["mm_lam"]) == pytest.approx(max(raw, 1 - raw))
    mixed, q = mix(inputs, torch.cat([label, label, guesses, guesses]), float(z["mm_lam"]), z["mm_perm"])
    close(mixed, z["mm_mixed_inputs"])
    close(q, z["mm_mixed_targets"])
    logits = z["mm_logits_mixed"].clone().requires_grad_()
    loss_x, loss_u = weighted_semi_loss(logits, q, 2 * len(label), z["mm_class_weights"])
    weight = float(z["lambda_u"]) * ramp(float(z["mm_epoch"]), float(z["T1"]), float(z["rampup_length"]))
    loss = loss_x + weight * loss_u
    loss.backward()
    for ours, name in ((loss_x, "Lx"), (loss_u, "Lu"), (loss, "loss")):
        close(ours.detach(), z[f"mm_{name}"])
    close(logits.grad, z["mm_grad_logits_mixed"])


def test_the_mixed_step_of_the_method_parity(z, monkeypatch) -> None:
    """The class on top: rows, targets and draws of one update; its net answers known inputs with stored logits."""
    k = int(z["num_classes"])
    answers = {1: z["mm_logits_u1"], 2: z["mm_logits_u2"]}

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(z["mm_logits_mixed"].clone())
            self.last = nn.Linear(1, k)

        def forward(self, x: Tensor) -> Tensor:
            assert self.training
            for i, logits in answers.items():
                if x.shape == z[f"mm_inputs_u{i}"].shape and torch.equal(x, z[f"mm_inputs_u{i}"]):
                    return logits
            close(x, z["mm_mixed_inputs"])
            return self.logits

    asked = []
    monkeypatch.setattr(pes, "beta_draw", lambda alpha: asked.append(alpha) or float(z["mm_lam_raw"]))
    monkeypatch.setattr(pes, "permutation", lambda n, device: z["mm_perm"])
    late, epochs = float(z["alpha_late"]), round(2 * float(z["alpha_switch_epoch"]))
    built = task(blobs(n=8, n_classes=k).train, epochs=epochs, net=Given)
    method = PES(built, temperature=float(z["T"]), alpha=float(z["alpha"]), late_alpha=late).double().train()
    method.optimizers[0] = torch.optim.SGD(method.nets[0].parameters(), lr=1.0)
    x = Batch(torch.arange(len(z["mm_labels_x"])), z["mm_inputs_x1"], z["mm_labels_x"], z["mm_inputs_x2"])
    n = len(z["mm_inputs_u1"])
    u = Batch(torch.arange(n), z["mm_inputs_u1"], torch.zeros(n, dtype=torch.int64), z["mm_inputs_u2"])
    e = float(z["mm_epoch"])  # e + i/n
    weight = float(z["lambda_u"]) * ramp(e, float(z["T1"]), float(z["rampup_length"]))
    log = method._mixed_step(int(e), x, u, z["mm_class_weights"], weight)
    close(log["loss"], z["mm_loss"])
    close(z["mm_logits_mixed"] - method.nets[0].logits.detach(), z["mm_grad_logits_mixed"])
    method.nets[0].logits.data.copy_(z["mm_logits_mixed"])
    method._mixed_step(epochs // 2, x, u, z["mm_class_weights"], weight)
    assert asked == [late if e >= z["alpha_switch_epoch"] else float(z["alpha"]), late]


def test_ramp_parity(z) -> None:
    begin, length, weight = float(z["T1"]), float(z["rampup_length"]), float(z["lambda_u"])
    ours = [weight * ramp(float(e), begin, length) for e in z["ramp_epochs"]]
    assert ours == pytest.approx(z["ramp_values"].tolist())


class Three(nn.Module):
    """The network of the vectors: body, layer4 and linear layer."""

    def __init__(self, told: dict[str, Tensor]) -> None:
        super().__init__()
        for name in ("body", "layer4", "linear"):
            weight, bias = (torch.as_tensor(told[f"{name}_{letter}"]) for letter in ("w", "b"))
            layer = nn.Linear(*reversed(weight.shape)).double()
            layer.load_state_dict({"weight": weight, "bias": bias})
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.layer4(self.body(x).relu()).relu())

    def check(self, z: dict[str, Tensor], prefix: str) -> None:
        for name in ("body", "layer4", "linear"):
            close(self.get_submodule(name).weight.detach(), z[f"{prefix}_{name}_w"])
            close(self.get_submodule(name).bias.detach(), z[f"{prefix}_{name}_b"])


@pytest.mark.parametrize("retrain", [False, True])
def test_refinement_parity(z, retrain: bool) -> None:
    """The class through its stages: one epoch of SGD, T2 of Adam on layer4 and linear, T3 on linear, then SGD again."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{prefix}_"): value for key, value in z.items() if key.startswith(f"{prefix}_")}

    begin, block = part("ref_init"), part("ref_new_T2")
    fresh = [begin, begin | block, begin | block | part("ref_new_T3")]
    nets = iter([Three(told) for told in fresh])
    x, y, batches = z["ref_x"], z["ref_labels"], z["ref_batches"]
    k, t2, t3 = int(z["num_classes"]), int(z["ref_T2"]), int(z["ref_T3"])

    def optimizer(net: nn.Module) -> torch.optim.Optimizer:
        momentum, decay = float(z["ref_sgd_momentum"]), float(z["ref_sgd_weight_decay"])
        return torch.optim.SGD(net.parameters(), float(z["ref_sgd_lr"]), momentum=momentum, weight_decay=decay)

    epochs = 2 + t2 + t3
    built = task(blobs(n=len(y), n_classes=k).train, epochs=epochs, net=lambda: next(nets))
    built = type(built)(built.n, k, epochs, built.net, optimizer)
    shares = {"warmup": 1 / epochs, "refine_block": t2 / epochs, "refine_head": t3 / epochs}
    method = PES(built, semi=False, refine_lr=float(z["ref_adam_lr"]), refine_updates=0, retrain=retrain, **shares)
    net = method.nets[0]
    assert (method.block, method.head) == (["layer4"], ["linear"])
    for t in range(1 + t2 + t3):
        stage = 0 if t == 0 else 1 if t <= t2 else 2
        list(method.epoch(t, InOrder(x, y, k, batches[stage].unbind(0))))  # type: ignore[arg-type]
        if t in (0, t2, t2 + t3):
            net.check(z, f"ref_after_T{stage + 1}")
    method._look = lambda train: (torch.zeros(len(y), dtype=torch.bool), {})  # type: ignore[method-assign, assignment]
    method._plain = lambda train, optimizer: iter(())  # type: ignore[method-assign, assignment]
    list(method.epoch(1 + t2 + t3, InOrder(x, y, k, ())))  # type: ignore[arg-type]
    for index in batches[3]:
        method._weighted_step(Batch(index, x[index], y[index]), z["ref_class_weights"])
    net.check(z, "ref_fixed" if retrain else "ref_published")
    assert math.isclose(net.linear.weight[0, 0].item(), float(z["ref_after_T3_linear_w"][0, 0])) != retrain


def test_accuracy_rates_and_noise_parity(z) -> None:
    right = (z["eval_logits"].argmax(1) == z["eval_labels"]).double()
    assert 100 * right.mean().item() == pytest.approx(float(z["eval_acc_true"]))
    by_batch = [part.mean().item() for part in right.split(z["eval_batch_sizes"].tolist())]
    assert 100 * np.mean(by_batch) == pytest.approx(float(z["eval_acc_published"]))
    epochs, milestones = (
        len(z["cs_lr_schedule"]),
        tuple((z["cs_milestones"].double() / len(z["cs_lr_schedule"])).tolist()),
    )
    step = Recipe(lr=float(z["cs_lr"]), schedule="step", milestones=milestones)
    assert [step.rate(e, epochs) for e in range(epochs)] == pytest.approx(z["cs_lr_schedule"].tolist())
    top, n = float(z["semi_lr"]), int(z["semi_epochs"])
    ours = [
        0.99 * Recipe(lr=top, schedule="cosine").rate(e, n) + 0.01 * top for e in range(n)
    ]  # theirs ends at lr / 100
    assert ours == pytest.approx(z["semi_lr_schedule"].tolist())
    k, rate = int(z["num_classes"]), float(z["sym_rate"])
    close(torch.from_numpy(symmetric_matrix(k, rate, "exclusive")), z["sym_matrix_cs_exclusive"])
    close(torch.from_numpy(symmetric_matrix(k, rate, "inclusive")), z["sym_matrix_semi_inclusive"])
    close(known_transition("pair", k, float(z["pair_rate"])), z["pair_matrix"])


# --- by hand


def test_batches_by_hand() -> None:
    assert unlabelled_batch(40000, 10000, 128) == 25
    assert unlabelled_batch(20000, 30000, 128) == 64
    assert unlabelled_batch(50000, 0, 128) == 0
    assert unlabelled_batch(49900, 100, 128) == 0


def test_class_weights_by_hand() -> None:
    assert class_weights(torch.tensor([7.0, 7.0, 7.0])).tolist() == [1, 1, 1]
    counts = torch.tensor([30.0, 10.0, 0.0])
    assert class_weights(counts).tolist() == pytest.approx([20 / 30, 2, 0])
    assert class_weights(counts, 1.5).tolist() == pytest.approx([20 / 30, 1.5, 0])
    assert class_weights(torch.zeros(3)).tolist() == [0, 0, 0]


def test_equal_class_weights_give_the_losses_of_mixmatch() -> None:
    torch.manual_seed(0)
    logits, q = torch.randn(6, 3), torch.rand(6, 3).softmax(1)
    loss_x, loss_u = weighted_semi_loss(logits, q, 4, torch.ones(3))
    torch.testing.assert_close(loss_x, -(q[:4] * F.log_softmax(logits[:4], 1)).sum(1).mean())
    torch.testing.assert_close(loss_u, (logits[4:].softmax(1) - q[4:]).square().mean())
    assert weighted_semi_loss(logits, q, 6, torch.ones(3))[1].item() == 0


def test_a_short_refinement_has_a_larger_rate() -> None:
    assert refine_rate(1e-4, 2000, 2000) == refine_rate(1e-4, 2000, 5000) == refine_rate(1e-4, 0, 10) == 1e-4
    assert refine_rate(1e-4, 2000, 200) == pytest.approx(1e-3)
    assert refine_rate(1e-4, 2000, 1) == 1e-2
    assert refine_rate(0.1, 2000, 1) == 0.1
    toy = blobs(n=320)
    method = PES(task(toy.train, epochs=10), warmup=0.2, refine_head=0.2)
    run(method, toy.train, range(3))
    assert method.optimizers[1].param_groups[0]["lr"] == pytest.approx(1e-2)  # 2 epochs of 10 updates


def test_durations() -> None:
    train = blobs(n=8).train
    semi = PES(task(train, epochs=300))
    assert (semi.begin_block, semi.begin_head, semi.begin_main, semi.rampup_epochs) == (20, 20, 25, 16)
    assert semi.settled() == pytest.approx(41 / 300)
    plain = PES(task(train, epochs=200), semi=False, warmup=0.125, refine_block=0.035, refine_head=0.025)
    assert (plain.begin_block, plain.begin_head, plain.begin_main) == (25, 32, 37)
    assert plain.settled() == pytest.approx(37 / 200)
    assert PES(task(train, epochs=5)).begin_main == 2


# --- which layers


@pytest.mark.parametrize(
    ("name", "block", "head"),
    [
        ("mlp", ["4", "5", "6"], "7"),
        ("convnet", ["8", "9", "10", "11", "12"], "13"),
        ("resnet18", "net.layer4.", "net.fc"),
    ],
)
def test_the_last_parts_of_networks(name: str, block, head: str) -> None:
    ours = last_parts(networks.build(name, (1, 32, 32), 10))
    assert ours[1] == [head]
    if isinstance(block, str):
        assert all(part.startswith(block) for part in ours[0])
        assert {"net.layer4.0.conv1", "net.layer4.0.downsample.1", "net.layer4.1.bn2"} <= set(ours[0])
    else:
        assert ours[0] == block


def test_the_last_block_of_a_pre_activation_network_is_its_fourth() -> None:
    net = networks.build("preact_resnet18", (3, 32, 32), 10)
    block, head = last_parts(net)
    both = [str(i) for i, m in enumerate(net) if isinstance(m, networks.PreActBlock) and m.conv2.out_channels == 512]
    assert len(both) == 2
    inside = {name for name, m in net.named_modules() if name.partition(".")[0] in both and not list(m.children())}
    assert set(block) == inside | {str(len(net) - 3), str(len(net) - 2)}  # and the pool and flatten behind them
    assert head == [str(len(net) - 1)]


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="has none with a weight matrix"):
        last_parts(nn.Sequential(nn.Flatten()))
    assert last_parts(nn.Linear(2, 3)) == ([], [""])  # a classifier alone is all head


# --- the epochs


@pytest.mark.parametrize("retrain", [False, True])
@pytest.mark.parametrize("semi", [False, True])
def test_what_moves_in_each_stage(semi: bool, retrain: bool) -> None:
    toy = blobs(n=200)
    torch.manual_seed(0)
    shares = {"warmup": 0.2, "refine_block": 0.2, "refine_head": 0.2}
    method = PES(task(toy.train, epochs=10), semi=semi, retrain=retrain, **shares)
    first, block, head = (method.nets[0][i].weight for i in (1, 2, 4))
    assert (method.block, method.head) == (["1", "2", "3"], ["4"])
    method.block = ["2"]  # so that a body is left in this small net
    for t, moved in enumerate([(1, 1, 1)] * 2 + [(0, 1, 1)] * 2 + [(0, 0, 1)] * 2 + [(1, retrain, retrain)]):
        before = [p.clone() for p in (first, block, head)]
        run(method, toy.train, range(t, t + 1))
        assert [not torch.equal(a, b) for a, b in zip(before, (first, block, head), strict=True)] == [
            bool(m) for m in moved
        ]


def test_renewed_layers_begin_anew_and_the_rest_stays() -> None:
    toy = blobs(n=200)
    method = PES(task(toy.train, epochs=10), warmup=0.2, refine_lr=1e-12, refine_updates=0)
    run(method, toy.train, range(2))
    before = copy.deepcopy(method.nets[0])
    assert method.optimizers[0].state[method.nets[0][4].weight]
    run(method, toy.train, range(2, 3))
    assert (before[4].weight - method.nets[0][4].weight).abs().max().item() > 0.01
    assert torch.equal(before[1].weight, method.nets[0][1].weight)
    assert method.nets[0][4].weight not in method.optimizers[0].state
    assert method.nets[0][1].weight in method.optimizers[0].state
    assert not torch.equal(before[2].running_mean, method.nets[0][2].running_mean)  # statistics move, though frozen


@pytest.mark.parametrize("semi", [False, True])
def test_learns_and_finds_wrong_labels(semi: bool) -> None:
    toy = blobs(n=600, rate=0.4, spread=0.3)
    torch.manual_seed(0)
    method = PES(task(toy.train, epochs=10), semi=semi, warmup=0.2)
    logs = run(method, toy.train, range(10))[-1]
    weight, wrong = logs[0]["weight"], toy.train.y != toy.clean
    assert weight[wrong].mean() + 0.5 < weight[~wrong].mean()
    assert accuracy(method, toy) > 0.9
    if semi:
        assert len(logs) == 1 + 600 // 32


@pytest.mark.parametrize("semi", [False, True])
def test_where_nothing_is_confident_it_is_plain(semi: bool) -> None:
    toy = blobs(n=64)
    method = PES(task(toy.train, epochs=4), semi=semi)
    method._look = lambda train: (torch.zeros(64, dtype=torch.bool), {"passes": 1})  # type: ignore[method-assign, assignment]
    logs = run(method, toy.train, range(3, 4))[0]
    assert sum("loss" in log for log in logs) == 2
    assert all(log["passes"] in (1, 96) for log in logs)


@pytest.mark.parametrize("n_others", [0, 1, 63])
def test_where_one_of_the_sets_is_all_but_empty(n_others: int) -> None:
    toy = blobs(n=64)
    method = PES(task(toy.train, epochs=4))
    confident = torch.arange(64) >= n_others
    method._look = lambda train: (confident, {"passes": 1})  # type: ignore[method-assign, assignment]
    logs = run(method, toy.train, range(3, 4))[0]
    assert sum("loss" in log for log in logs) == 2
    assert all(bool(log["loss"].isfinite()) for log in logs if "loss" in log)


def test_vectors_are_taken_as_images_are() -> None:
    toy = blobs(n=64)
    toy.train.x = toy.train.x.flatten(1)
    for semi in (False, True):
        logs = run(PES(task(toy.train, epochs=4), semi=semi), toy.train, range(4))
        assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch if "loss" in log)
