"""SSR and SSR+: parity with the original code, votes and orders by hand, what is trained on, limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import accuracy, blobs, run, task

from raystudy.learn.features import Featured, apart, bank, projector, with_heads
from raystudy.learn.losses import soft_cross_entropy
from raystudy.learn.methods.ssr import SSR, balanced_order, balanced_vote, relabelled, right_score
from raystudy.learn.neighbours import nearest, tally
from raystudy.learn.ops import mix
from raystudy.learn.recipe import Recipe
from raystudy.learn.semi import feature_consistency


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("ssr").items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.to(theirs), theirs, rtol=0, atol=1e-9 * float(theirs.abs().max().clamp_min(1e-9)))


def members(flags: Tensor) -> set[int]:
    return set(flags.nonzero().flatten().tolist())


# --- parity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1])
def test_selection_parity(z, t: int) -> None:
    given, k = z["noisy_labels"], int(z["k"])
    logits = z[f"features_{t}"] @ z["classifier_weight"].t() + z["classifier_bias"]
    close(logits, z[f"logits_{t}"])
    probs = logits.softmax(1)
    close(probs.amax(1), z[f"probs_max_{t}"])
    y = relabelled(probs, given, float(z["theta_r"]))
    assert torch.equal(y, z[f"modified_labels_{t}"])
    assert members(probs.amax(1) > float(z["theta_r"])) == set(z[f"conf_idx_{t}"].tolist())
    near = nearest(z[f"features_{t}"], k, "cosine").position
    assert torch.equal(near.sort(1).values, z[f"neighbours_{t}"])
    counts = tally(near, y, int(z["num_class"]))
    close(counts.double() / k, z[f"knn_votes_raw_{t}"])
    frequency = torch.bincount(y, minlength=int(z["num_class"])).double() + 1e-10
    close(frequency / frequency.sum(), z[f"class_prior_{t}"])
    vote = balanced_vote(counts, y)
    close(vote, z[f"knn_votes_balanced_{t}"])
    score = right_score(vote, y)
    close(score, z[f"right_score_{t}"])
    clean = score >= float(z["theta_s"])
    assert members(clean) == set(z[f"clean_idx_{t}"].tolist())
    assert members(~clean) == set(z[f"noisy_idx_{t}"].tolist())
    assert members(score >= float(z["theta_s2"])) == set(z[f"clean_idx_theta_s2_{t}"].tolist())
    unbalanced = right_score(counts.double(), y) >= float(z["theta_s"])
    assert members(unbalanced) == set(z[f"clean_idx_unbalanced_{t}"].tolist())


def test_labels_fall_back(z) -> None:
    first, second = (relabelled(z[f"logits_{t}"].softmax(1), z["noisy_labels"], float(z["theta_r"])) for t in (0, 1))
    fallen = (first != z["noisy_labels"]) & (second == z["noisy_labels"])
    assert members(fallen) == set(z["fallback_idx"].tolist())


def test_step_parity(z) -> None:
    y, lam = z["modified_labels_1"][z["batch_index"]], float(z["lam_raw"])
    lam = max(lam, 1 - lam)
    assert lam == float(z["lam"])
    targets = F.one_hot(y, int(z["num_class"])).double().repeat(2, 1)
    images, mixed = mix(torch.cat([z["x_view1"], z["x_view2"]]), targets, lam, z["perm"])
    close(images, z["mixed_inputs"])
    close(mixed, z["mixed_targets"])
    logits, p2, z1 = (z[name].clone().requires_grad_() for name in ("logits_mixed", "p2_strong", "z1_weak"))
    ce, fc = soft_cross_entropy(logits, mixed), feature_consistency(p2, z1)
    loss = ce + float(z["lambda_fc"]) * fc
    loss.backward()
    for ours, name in ((ce, "Lce"), (fc, "Lfc"), (loss, "loss")):
        close(ours.detach(), z[name])
    close(logits.grad, z["grad_logits_mixed"])
    close(p2.grad, z["grad_p2"])
    assert z1.grad is None
    assert not z["grad_z1"].any()


def test_sampler_parity(z) -> None:
    y, n_classes = z["sampler_labels"], int(z["sampler_labels"].max()) + 1
    ids = balanced_order(y, n_classes, list(z["sampler_perms"]))
    assert torch.equal(ids, z["sampler_ids"])
    assert len(ids) == int(z["sampler_len"])
    assert torch.equal(torch.bincount(ids, minlength=len(y)), z["sampler_count_per_sample"])
    counts = torch.bincount(y[ids], minlength=n_classes)
    assert set(counts.tolist()) <= {0, int(z["sampler_max_count"])}
    drawn = balanced_order(y, n_classes)
    assert torch.equal(torch.bincount(y[drawn], minlength=n_classes), counts)


def test_schedule_parity(z) -> None:
    """The original's cosine ends at lr/50; the recipe's, which we use, at 0."""
    lr, epochs = float(z["sched_lr0"]), int(z["sched_epochs"])
    recipe = Recipe(lr=lr, schedule="cosine")
    theirs = [lr / 50 + (1 - 1 / 50) * recipe.rate(e, epochs) for e in range(len(z["sched_lr"]))]
    assert theirs == pytest.approx(z["sched_lr"].tolist())


# --- by hand ----------------------------------------------------------------------------------------------------


def test_balance_by_hand() -> None:
    """Three votes of a class nine times as frequent lose to one."""
    y = torch.tensor([0] * 9 + [1])
    vote = balanced_vote(torch.tensor([[3, 1]]), y)
    assert vote[0].tolist() == pytest.approx([(3 / 0.9) / (3 / 0.9 + 1 / 0.1), (1 / 0.1) / (3 / 0.9 + 1 / 0.1)])
    assert right_score(vote, torch.tensor([0])).tolist() == pytest.approx([1 / 3])


def test_the_order_by_hand() -> None:
    """Five of class 0, two of class 1 (none of 2, three of 3 of which each comes once or twice): each class five times."""
    y = torch.tensor([0, 0, 0, 0, 0, 1, 1, 3, 3, 3])
    backwards = torch.arange(4, -1, -1)
    ids = balanced_order(y, 4, [backwards, torch.arange(5), backwards]).tolist()
    assert ids[:5] == [4, 3, 2, 1, 0]
    assert ids[5:10] == [
        5,
        6,
        5,
        6,
        5,
    ]  # of 5 6 5 6 5 6 the last five are shuffled, here left as they are, and the first five kept
    assert ids[10:] == [7, 9, 8, 7, 9]  # 7 and the last five, 8 9 7 8 9, backwards


def test_a_class_without_labels_has_no_vote() -> None:
    vote = balanced_vote(torch.tensor([[2, 2, 0]]), torch.tensor([0, 1, 0, 1]))
    assert vote[0].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_confidence_at_the_threshold_changes_nothing() -> None:
    probs = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    assert relabelled(probs, torch.tensor([1, 0]), 0.75).tolist() == [1, 0]
    assert relabelled(probs, torch.tensor([1, 0]), 0.7).tolist() == [1, 1]


def test_consistency_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    b = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    assert float(feature_consistency(a, b)) == pytest.approx(-0.5)


# --- the method -------------------------------------------------------------------------------------------------


def test_an_epoch_has_as_many_steps_as_the_set_has_batches() -> None:
    toy = blobs(n=100, batch_size=16)
    torch.manual_seed(0)
    method = SSR(task(toy.train), k=10)
    logs = run(method, toy.train, range(1))[0]
    assert len(logs) == 1 + 7
    assert logs[0]["passes"] == 100
    assert logs[0]["weight"].shape == (100,)
    assert 0 <= float(logs[0]["weight"].min()) <= float(logs[0]["weight"].max()) == 1


def test_consistency_trains_the_trunk_and_none_of_it_without() -> None:
    """With lambda_fc = 0 heads stay as they are; batch norm still sees all images, as published."""
    toy = blobs(n=64, batch_size=16)
    heads = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        method = SSR(task(toy.train), k=10, lambda_fc=weight)
        before = method.net.get_submodule("prediction")[0].weight.clone()
        run(method, toy.train, range(1))
        heads.append(torch.equal(before, method.net.get_submodule("prediction")[0].weight))
        assert bool(method.net.get_submodule("projection")[1].running_mean.any())
    assert heads == [True, False]


def test_a_linear_classifier_of_fixed_vectors_has_no_consistency() -> None:
    toy = blobs(n=64, batch_size=16)
    linear = lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 4))  # noqa: E731
    states = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        method = SSR(task(toy.train, net=linear), k=10, lambda_fc=weight)
        run(method, toy.train, range(2))
        states.append(method.net.head.weight)
    assert torch.equal(*states)


def test_published_k_is_cut_to_the_mean_size_of_a_class() -> None:
    assert SSR(task(blobs(n=100).train)).k == 25
    assert SSR(task(blobs(n=2).train)).k == 1


def test_learns_and_tells_clean_from_flipped() -> None:
    toy = blobs(n=400, rate=0.5, spread=0.8)
    torch.manual_seed(0)
    method = SSR(task(toy.train, epochs=15), k=20)
    weight = run(method, toy.train, range(15))[-1][0]["weight"]
    is_clean = toy.train.y == toy.clean
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.5
    assert accuracy(method, toy) > 0.8


# --- features ---------------------------------------------------------------------------------------------------


def test_features_and_head_are_the_network() -> None:
    from raystudy.learn import networks

    for name in ("mlp", "convnet", "convnet_small", "preact_resnet18", "shufflenet_v2_x0_5"):
        torch.manual_seed(0)
        net = networks.build(name, (1, 16, 16), 5).eval()
        x = torch.randn(3, 1, 16, 16)
        expected = net(x)
        names = set(net.state_dict())
        featured = Featured(net, 5, projection=lambda d: projector(d, 8, 4)).eval()
        torch.testing.assert_close(featured(x), expected)
        assert featured.features(x).shape == (3, featured.width)
        assert featured.learns
        assert len(names) == len(featured.trunk.state_dict()) + 2
        fresh = networks.build(name, (1, 16, 16), 5)
        assert set(fresh.state_dict()) == names  # nothing about networks themselves has changed


@pytest.mark.parametrize(("name", "learns"), [("linear", False), ("cosine", False), ("mlp", True)])
def test_networks_of_vectors_have_features_too(name: str, learns: bool) -> None:
    from raystudy.learn import networks

    net, x = networks.build(name, (6,), 3).eval(), torch.randn(4, 6)
    expected = net(x)
    featured = Featured(net, 3).eval()
    torch.testing.assert_close(featured(x), expected)
    assert featured.learns == learns
    assert torch.equal(featured.features(x), x) != learns


def test_a_network_may_offer_features_itself() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 3), nn.Linear(3, 2)

        def features(self, x: Tensor) -> Tensor:
            return self.body(x).relu()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x))

    net, x = Own(), torch.randn(4, 6)
    featured = Featured(net, 2)
    assert torch.equal(featured(x), net(x))
    assert featured.width == 3
    assert torch.equal(featured.features(x), net.features(x))


def test_networks_without_a_last_linear_layer_are_refused_in_one_line() -> None:
    from raystudy.errors import InputError

    with pytest.raises(InputError, match="no last linear layer"):
        Featured(nn.Sequential(nn.Conv2d(3, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 5)
    with pytest.raises(InputError, match="no last linear layer"):
        Featured(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 7)), 5)
    odd = Featured(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Flatten(0)), 5)
    with pytest.raises(InputError, match="not that layer's"):
        odd(torch.randn(2, 4))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_head_may_begin_to_train_later(momentum: float) -> None:
    """With fused SGD, which the recipe uses; its first step is that of a fresh optimizer."""
    net = Featured(nn.Linear(4, 3), 3, late=lambda d: nn.Linear(d, 2))
    late = net.get_submodule("late")
    optimizer = Recipe(momentum=momentum, weight_decay=0.0, lr=0.5).optimizer_for(net)
    apart(optimizer, late)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    x, before = torch.randn(5, 4), late.weight.clone()
    for step in range(3):
        optimizer.zero_grad()
        (net(x).sum() + (late(x).sum() if step == 2 else 0.0)).backward()
        optimizer.step()
        assert torch.equal(late.weight, before) == (step < 2)
    torch.testing.assert_close(late.weight, before - 0.5 * x.sum(0).expand(2, -1))


def test_the_bank_is_all_images_in_order() -> None:
    train = blobs(n=20, batch_size=6).train
    torch.manual_seed(0)
    net = with_heads(task(train)).net().eval()
    features, logits = bank(net, train.batches(augment=False, shuffle=False))
    torch.testing.assert_close(features, net.features(train.x))
    torch.testing.assert_close(logits, net(train.x))
    assert not features.requires_grad
    assert math.isfinite(float(features.sum()))
