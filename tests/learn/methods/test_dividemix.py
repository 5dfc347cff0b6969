"""DivideMix: parity with the original code, the sheet's conformance checks, the swap rule, edge batches, resume."""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn
from toy import ToyTrain, accuracy, blobs, mlp, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import prior_penalty
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.dividemix import (
    DivideMix,
    co_guess,
    co_refine,
    confidence_penalty,
    ramp,
    semi_loss,
    sharpen,
)
from raystudy.learn.ops import beta_draw, gmm_1d, mix


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("dividemix").items()}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


# --- parity -----------------------------------------------------------------------------------------------------


def test_targets_parity(z) -> None:
    temperature, y = float(z["T"]), F.one_hot(z["labels_x"], int(z["num_class"])).double()
    guesses = [z[f"logits_u_net{net}_view{view}"] for net in (1, 2) for view in (1, 2)]
    close(co_guess(guesses, temperature), z["targets_u"])
    probs = (z["logits_x_view1"].softmax(1) + z["logits_x_view2"].softmax(1)) / 2
    close(co_refine(y, z["w_x"].flatten(), probs, temperature), z["targets_x"])


def test_mixing_parity(z) -> None:
    inputs = torch.cat([z["inputs_x1"], z["inputs_x2"], z["inputs_u1"], z["inputs_u2"]])
    targets = torch.cat([z["targets_x"], z["targets_x"], z["targets_u"], z["targets_u"]])
    assert len(targets) == 2 * int(z["batch_labeled"]) + 2 * int(z["batch_unlabeled"])
    assert float(z["lam"]) == max(float(z["lam_raw"]), 1 - float(z["lam_raw"]))
    mixed_inputs, mixed_targets = mix(inputs, targets, float(z["lam"]), z["perm"])
    close(mixed_inputs, z["mixed_inputs"])
    close(mixed_targets, z["mixed_targets"])


def test_loss_parity(z) -> None:
    logits = z["logits_mixed"].clone().requires_grad_()
    loss_x, loss_u = semi_loss(logits, z["mixed_targets"], 2 * int(z["batch_labeled"]))
    weight = float(z["lambda_u"]) * ramp(float(z["epoch_fraction"]), float(z["warm_up"]), float(z["rampup_length"]))
    loss = loss_x + weight * loss_u + prior_penalty(logits)
    loss.backward()
    close(loss_x.detach(), z["Lx"])
    close(loss_u.detach(), z["Lu"])
    assert weight == pytest.approx(float(z["lambda_u_ramped"]), rel=1e-9)
    close(prior_penalty(logits.detach()), z["prior_penalty"])
    close(loss.detach(), z["loss"])
    close(logits.grad, z["grad_logits_mixed"])


def test_ramp_parity(z) -> None:
    lambda_u, warmup, length = float(z["lambda_u"]), float(z["warm_up"]), float(z["rampup_length"])
    ours = [lambda_u * ramp(float(e), warmup, length) for e in z["ramp_epochs"]]
    assert ours == pytest.approx(z["ramp_values"].tolist(), rel=1e-9)


def test_warm_up_parity(z) -> None:
    logits = z["warmup_logits"].clone().requires_grad_()
    loss = F.cross_entropy(logits, z["warmup_labels"]) + confidence_penalty(logits)
    loss.backward()
    close(F.cross_entropy(logits, z["warmup_labels"]).detach(), z["warmup_ce"])
    close(confidence_penalty(logits).detach(), z["conf_penalty"])
    close(loss.detach(), z["warmup_loss_asym"])
    close(logits.grad, z["warmup_grad_asym"])


class Lookup(nn.Module):
    """A net that answers known inputs with stored logits, and objects to unknown ones and to the wrong mode."""

    def __init__(self, table: list[tuple[Tensor, Tensor]], training: bool) -> None:
        super().__init__()
        self.inputs, self.logits = (torch.cat(column) for column in zip(*table, strict=True))
        self.expected_mode = training

    def forward(self, x: Tensor) -> Tensor:
        assert self.training == self.expected_mode
        distance = torch.cdist(x, self.inputs)
        assert float(distance.min(1).values.max()) < 1e-6
        return self.logits[distance.argmin(1)]


def test_step_targets_parity(z) -> None:
    """One step's images and targets, in the original's order; the peer sees unlabelled images only."""
    net = Lookup(
        [
            (z["inputs_x1"], z["logits_x_view1"]),
            (z["inputs_x2"], z["logits_x_view2"]),
            (z["inputs_u1"], z["logits_u_net1_view1"]),
            (z["inputs_u2"], z["logits_u_net1_view2"]),
        ],
        training=True,
    ).train()
    table = [(z["inputs_u1"], z["logits_u_net2_view1"]), (z["inputs_u2"], z["logits_u_net2_view2"])]
    peer = Lookup(table, training=False).eval()
    x = Batch(torch.arange(len(z["labels_x"])), z["inputs_x1"], z["labels_x"], z["inputs_x2"])
    n_u = len(z["inputs_u1"])
    u = Batch(torch.arange(n_u), z["inputs_u1"], torch.zeros(n_u, dtype=torch.int64), z["inputs_u2"])
    train = blobs(n=8, n_classes=int(z["num_class"])).train
    method = DivideMix(task(train), temperature=float(z["T"]))
    images, targets = method._targets(net, peer, x, z["w_x"].flatten(), u)
    close(images, torch.cat([z["inputs_x1"], z["inputs_x2"], z["inputs_u1"], z["inputs_u2"]]))
    close(targets, torch.cat([z["targets_x"], z["targets_x"], z["targets_u"], z["targets_u"]]))


# --- by hand ----------------------------------------------------------------------------------------------------


def test_sharpening_by_hand() -> None:
    assert sharpen(torch.tensor([[0.6, 0.4]]), 0.5)[0].tolist() == pytest.approx([0.692, 0.308], abs=1e-3)
    p = torch.tensor([[0.2, 0.8]])
    torch.testing.assert_close(sharpen(p, 1.0), p)


def test_refinement_at_its_ends() -> None:
    y, p = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.6, 0.4]])
    assert co_refine(y, torch.ones(1), p, 0.5).tolist() == [[0.0, 1.0]]
    torch.testing.assert_close(co_refine(y, torch.zeros(1), p, 0.5), sharpen(p, 0.5))


def test_unlabelled_loss_by_hand() -> None:
    logits = torch.randn(6, 10, dtype=torch.float64)
    assert semi_loss(logits, logits.softmax(1), 2)[1].item() == pytest.approx(0, abs=1e-15)
    certain, other = 1000 * torch.eye(10)[[0, 0]], torch.eye(10)[[3, 3]]
    assert semi_loss(certain, other, 1)[1].item() == pytest.approx(0.2)
    assert semi_loss(logits, logits.softmax(1), 6)[1].item() == 0  # nothing unlabelled


def test_ramp_by_hand() -> None:
    assert [25 * ramp(e, 10, 16) for e in (3, 10, 18, 26, 300)] == [0, 0, 12.5, 25, 25]


def test_confidence_penalty_is_minus_the_entropy_and_finite() -> None:
    assert confidence_penalty(torch.zeros(3, 4)).item() == pytest.approx(-torch.tensor(4.0).log().item())
    logits = torch.tensor([[2000.0, 0.0]], requires_grad=True)
    confidence_penalty(logits).backward()
    assert bool(logits.grad.isfinite().all())  # type: ignore[union-attr]


def test_durations() -> None:
    train = blobs(n=8).train
    method = DivideMix(task(train, epochs=300))
    assert (method.warmup_epochs, method.rampup_epochs) == (10, 16)
    assert method.settled() == pytest.approx(26 / 300)
    assert DivideMix(task(train, epochs=2), warmup=0.01).warmup_epochs == 1
    assert DivideMix(task(train, epochs=2), warmup=1.0).settled() == 1.0


def test_prediction_sums_logits() -> None:
    train = blobs(n=8).train
    method = DivideMix(task(train)).eval()
    z1, z2 = (net(train.x) for net in method.nets)
    torch.testing.assert_close(method.probs(train.x), (z1 + z2).softmax(1))


def test_an_unknown_guess_mode_is_refused() -> None:
    with pytest.raises(InputError, match="choose from: eval, train"):
        DivideMix(task(blobs(n=8).train), guess="test")  # type: ignore[arg-type]


# --- the epoch --------------------------------------------------------------------------------------------------


class Recording(ToyTrain):
    """Keeps the subsets it is asked for."""

    def batches(self, subset=None, views=1, augment=True, shuffle=True, batch_size=None):
        self.asked.append((None if subset is None else set(subset.tolist()), views, batch_size))
        return super().batches(subset, views, augment, shuffle, batch_size)

    asked: list


def recording(toy) -> Recording:
    train = Recording(**vars(toy.train))
    train.asked = []
    return train


def constant_net(answer: int, n_classes: int, dim: int) -> nn.Module:
    linear = nn.Linear(dim, n_classes)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.copy_(3 * F.one_hot(torch.tensor(answer), n_classes))
    return nn.Sequential(nn.Flatten(), linear)


def test_each_net_is_trained_on_the_split_of_its_peer_made_before_either_was_trained() -> None:
    """Net 1 believes in class 0 only and net 2 in class 1 only: their low losses are those labels.

    The learning rate is so high that net 1 believes in its new labels after its turn: a split made then would differ.
    """
    toy = blobs(n=40, n_classes=2, rate=0.0)
    train = recording(toy)
    answers = itertools.count()
    method = DivideMix(
        task(train, lr=5.0, net=lambda: constant_net(next(answers), 2, 8)), warmup=0.0, lambda_u=0.0, prior_penalty=0.0
    )
    class0, class1 = (set((train.y == c).nonzero().flatten().tolist()) for c in (0, 1))
    run(method, train, range(1, 2))
    pairs = [subset for subset, views, _ in train.asked if views == 2]
    assert pairs == [class1, class0, class0, class1]  # labelled and unlabelled for net 1, then for net 2
    method.eval()
    assert int(method.nets[0](train.x).argmax(1).mode().values) == 1  # each net learnt what its peer believed
    assert int(method.nets[1](train.x).argmax(1).mode().values) == 0


def test_warm_up_is_cross_entropy_on_double_batches_for_each_net_in_turn() -> None:
    toy = blobs(n=100, batch_size=16)
    train = recording(toy)
    torch.manual_seed(0)
    method = DivideMix(task(train, epochs=10), warmup=0.2)
    ce = CE(task(train, epochs=10))
    ce.nets[0].load_state_dict(method.nets[0].state_dict())
    torch.manual_seed(5)
    logs = list(method.epoch(0, train))
    assert train.asked == [(None, 1, 32), (None, 1, 32)]
    assert all("weight" not in log for log in logs)
    assert sum(log["passes"] for log in logs) == 2 * 3 * 100
    torch.manual_seed(5)
    ce.train()
    for batch in train.batches(batch_size=32):
        ce.step(batch, 0)
    for a, b in zip(method.nets[0].parameters(), ce.nets[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_confidence_penalty_acts_in_the_warm_up_only() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    plain = DivideMix(task(toy.train), warmup=0.1)
    other = DivideMix(task(toy.train), warmup=0.1, confidence_penalty=1.0)
    for t, same in ((1, True), (0, False)):
        other.load_state_dict(plain.state_dict())
        a, b = copy.deepcopy(plain), copy.deepcopy(other)
        a.optimizers, b.optimizers = ([torch.optim.SGD(net.parameters(), 0.1) for net in m.nets] for m in (a, b))
        run(a, toy.train, range(t, t + 1))
        run(b, toy.train, range(t, t + 1))
        assert torch.equal(a.nets[0][1].weight, b.nets[0][1].weight) == same


def test_epoch_log_and_cost() -> None:
    toy = blobs(n=90, batch_size=16)
    torch.manual_seed(0)
    method = DivideMix(task(toy.train, epochs=10), warmup=0.2)
    logs = run(method, toy.train, range(3))[2]
    split, updates = logs[0], logs[1:]
    assert split["index"].tolist() == list(range(90))
    assert split["weight"].shape == (90,)
    assert 0 <= float(split["weight"].min()) <= float(split["weight"].max()) <= 1
    assert float(split["clean_mean"]) < float(split["noisy_mean"])
    assert split["passes"] == 180
    assert all(not log["loss"].requires_grad and log["loss"].isfinite() for log in updates)
    n_labelled = round(float(split["labelled"]) * 180)  # both nets together
    assert 8 * n_labelled < sum(log["passes"] for log in updates)


def test_loss_history_averages_the_last_epochs() -> None:
    toy = blobs(n=60)
    torch.manual_seed(0)
    method = DivideMix(task(toy.train), loss_history=3)
    seen = []
    for _ in range(4):
        w, _ = method.divide(toy.train)
        seen.append(method.past_losses[:, -1].clone())
        with torch.no_grad():
            for p in method.parameters():
                p.add_(0.3 * torch.randn_like(p))
    assert int(method.n_past) == 4
    torch.testing.assert_close(method.past_losses, torch.stack(seen[1:], 1))
    torch.testing.assert_close(w[1], gmm_1d(torch.stack(seen[1:]).mean(0)[1]).posterior)
    first = DivideMix(task(toy.train), loss_history=3)
    w, _ = first.divide(toy.train)  # fewer than three: those there are
    torch.testing.assert_close(w[0], gmm_1d(first.past_losses[0, -1]).posterior)


def with_batch_norm(n: int = 67, batch_size: int = 16, **hyper) -> tuple[DivideMix, ToyTrain]:
    train = blobs(n=n, batch_size=batch_size).train
    torch.manual_seed(0)
    return DivideMix(task(train, epochs=10), **hyper), train


def clean_probability(losses: np.ndarray) -> np.ndarray:
    """scikit-learn's mixture from the best of all 2-means; its own single random start varies on so few losses."""
    ordered = np.sort(losses, axis=0)
    cuts = [np.split(ordered, [k]) for k in range(1, len(ordered))]
    parts = min(cuts, key=lambda cut: sum(((part - part.mean()) ** 2).sum() for part in cut))
    start = {
        "means_init": np.stack([part.mean(0) for part in parts]),
        "precisions_init": np.stack([1 / (part.var(0) + 5e-4)[:, None] for part in parts]),
        "weights_init": [len(part) / len(losses) for part in parts],
    }
    gmm = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, **start).fit(losses)
    return gmm.predict_proba(losses)[:, gmm.means_.argmin()]


def plain_port(method: DivideMix, train: ToyTrain, t: int) -> None:
    """An epoch after the warm-up, as Train_cifar.py has it: scikit-learn's mixture, every forward pass by itself."""
    nets, optimizers = method.nets, method.optimizers
    splits = []
    for net in nets:
        net.eval()
        with torch.no_grad():
            losses = F.cross_entropy(net(train.x), train.y, reduction="none").numpy()
        losses = ((losses - losses.min()) / (losses.max() - losses.min())).reshape(-1, 1)
        splits.append(clean_probability(losses.astype(float)))
    for i, (net, peer) in enumerate((nets, reversed(nets))):
        prob = torch.tensor(splits[1 - i], dtype=torch.float32)
        pred = splits[1 - i] > method.p_threshold
        subset_x, subset_u = torch.from_numpy(pred.nonzero()[0]), torch.from_numpy((~pred).nonzero()[0])
        net.train()
        peer.eval()
        num_iter = len(subset_x) // train.batch_size + 1
        unlabelled = train.batches(subset_u, views=2)
        for batch_idx, x in enumerate(train.batches(subset_x, views=2)):
            try:
                u = next(unlabelled)
            except StopIteration:
                unlabelled = train.batches(subset_u, views=2)
                u = next(unlabelled)
            labels_x = torch.zeros(len(x.y), train.n_classes).scatter_(1, x.y.view(-1, 1), 1)
            w_x = prob[x.index].view(-1, 1)
            with torch.no_grad():
                u11, u12, u21, u22 = net(u.x), net(u.x2), peer(u.x), peer(u.x2)
                pu = (u11.softmax(1) + u12.softmax(1) + u21.softmax(1) + u22.softmax(1)) / 4
                ptu = pu ** (1 / method.temperature)
                targets_u = ptu / ptu.sum(dim=1, keepdim=True)
                px = (net(x.x).softmax(1) + net(x.x2).softmax(1)) / 2
                px = w_x * labels_x + (1 - w_x) * px
                ptx = px ** (1 / method.temperature)
                targets_x = ptx / ptx.sum(dim=1, keepdim=True)
            lam = beta_draw(method.alpha)
            lam = max(lam, 1 - lam)
            inputs = torch.cat([x.x, x.x2, u.x, u.x2])
            targets = torch.cat([targets_x, targets_x, targets_u, targets_u])
            idx = torch.randperm(len(inputs))
            logits = net(lam * inputs + (1 - lam) * inputs[idx])
            mixed_target = lam * targets + (1 - lam) * targets[idx]
            size = 2 * len(x.y)
            probs_u = torch.softmax(logits[size:], dim=1)
            loss_x = -torch.mean(torch.sum(F.log_softmax(logits[:size], dim=1) * mixed_target[:size], dim=1))
            loss_u = torch.mean((probs_u - mixed_target[size:]) ** 2)
            prior = torch.ones(train.n_classes) / train.n_classes
            pred_mean = torch.softmax(logits, dim=1).mean(0)
            penalty = torch.sum(prior * torch.log(prior / pred_mean))
            current = (t + batch_idx / num_iter - method.warmup_epochs) / method.rampup_epochs
            loss = loss_x + method.lambda_u * float(np.clip(current, 0, 1)) * loss_u + penalty
            optimizers[i].zero_grad()
            loss.backward()
            optimizers[i].step()


def test_an_epoch_is_that_of_a_plain_port() -> None:
    """Same state, same draws, whole epochs in the middle of the ramp: same networks, running statistics included."""
    train = blobs(n=150, batch_size=16, rate=0.3, spread=0.8).train
    states = []
    for port in (False, True):
        torch.manual_seed(0)
        method = DivideMix(task(train, epochs=20), warmup=0.2, rampup=0.3, lambda_u=30.0)
        run(method, train, range(4))
        for t in (6, 7):
            torch.manual_seed(t)
            if port:
                plain_port(method, train, t)
            else:
                list(method.epoch(t, train))
        states.append(method.nets.state_dict())
    for ours, theirs in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("guess", ["train", "eval"])
@pytest.mark.parametrize("n_labelled", [1, 2, 17, 33, 34, 50, 65, 66, 67])
def test_edge_batches(guess: str, n_labelled: int) -> None:
    """Any sizes of the two sets, 67 images in batches of 16: single rows, nothing unlabelled, short cycles."""
    method, train = with_batch_norm(guess=guess)
    labelled = torch.arange(67) < n_labelled
    logs = list(method.mixmatch(0, 9, train, torch.rand(67), labelled))
    assert len(logs) == -(-n_labelled // 16)
    assert all(bool(log["loss"].isfinite()) for log in logs)
    assert all(bool(p.isfinite().all()) for p in method.parameters())


class Shifted(ToyTrain):
    """Strong views are the images moved far off, weak ones the images themselves."""

    def batches(self, subset=None, views=1, augment=True, shuffle=True, batch_size=None):
        for batch in super().batches(subset, views, False, shuffle, batch_size):
            far = 100.0 if augment == "strong" else 0.0
            yield Batch(batch.index, batch.x + far, batch.y, batch.x2 + far if views == 2 else None)


@pytest.mark.parametrize("strong", [False, True])
def test_strong_views_are_for_the_update_only(strong: bool) -> None:
    toy = blobs(n=67, batch_size=16)
    train = Shifted(**vars(toy.train))
    torch.manual_seed(0)
    method = DivideMix(task(train, epochs=10), alpha=0.0, strong=strong)
    seen: list[tuple[bool, Tensor]] = []
    method.nets[0].register_forward_pre_hook(lambda module, args: seen.append((torch.is_grad_enabled(), args[0])))
    labelled = torch.arange(67) < 40
    logs = list(method.mixmatch(0, 9, train, torch.rand(67), labelled))
    assert len(logs) == 3
    updates, guesses = [x for grad, x in seen if grad], [x for grad, x in seen if not grad]
    assert all(float(x.mean()) < 50 for x in guesses)
    assert all((float(x.mean()) > 50) == strong for x in updates)
    own = [x for x in guesses if len(x) == len(guesses[0])]  # without mixing, the same images in the same order
    shift = 100.0 if strong else 0.0
    torch.testing.assert_close(updates[0], torch.cat([own[2], own[3], own[0], own[1]]) + shift)
    assert all(bool(p.isfinite().all()) for p in method.parameters())


def test_collapse_to_no_labelled_sample_trains_on_everything() -> None:
    method, train = with_batch_norm(p_threshold=1.0)
    logs = run(method, train, range(5, 6))[0]
    assert float(logs[0]["labelled"]) == 0
    assert sum(log["passes"] for log in logs[1:]) == 2 * 3 * 67
    assert len(logs) == 1 + 2 * 3


def test_warm_up_with_a_last_batch_of_one_image() -> None:
    method, train = with_batch_norm(n=65)
    logs = run(method, train, range(1))[0]
    assert len(logs) == 2 * 3
    assert all(bool(log["loss"].isfinite()) for log in logs)


def test_everything_labelled_trains_without_unlabelled_terms() -> None:
    method, train = with_batch_norm(p_threshold=-1.0, lambda_u=1e6)
    logs = run(method, train, range(5, 6))[0]
    assert float(logs[0]["labelled"]) == 1
    assert sum(log["passes"] for log in logs[1:]) == 2 * 8 * 67
    assert all(float(log["loss"]) < 1e3 for log in logs[1:])


def test_guess_modes_differ_by_batch_statistics_only() -> None:
    """Without batch norm and dropout, one pass in eval mode guesses what four passes in train mode do."""
    train = blobs(n=66, batch_size=16).train
    states = []
    for guess in ("train", "eval"):
        torch.manual_seed(0)
        method = DivideMix(task(train, epochs=10, net=lambda: mlp(8, 4, norm=False)), guess=guess)  # type: ignore[arg-type]
        run(method, train, range(3))
        states.append(method.state_dict())
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_diverged_net_does_not_crash_the_split() -> None:
    method, train = with_batch_norm()
    with torch.no_grad():
        for p in method.nets[0].parameters():
            p.fill_(float("nan"))
    logs = run(method, train, range(5, 6))[0]
    assert any(not log["loss"].isfinite() for log in logs[1:])  # for the training loop to see


def test_resumed_run_is_the_same_run() -> None:
    train = blobs(n=66, batch_size=16).train
    hyper = {"warmup": 0.2, "loss_history": 3}

    def fresh() -> DivideMix:
        torch.manual_seed(0)
        return DivideMix(task(train, epochs=8), **hyper)  # type: ignore[arg-type]

    whole = fresh()
    run(whole, train, range(7))
    first = fresh()
    run(first, train, range(4))
    second = fresh()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for mine, saved in zip(second.optimizers, first.optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(saved.state_dict()))
    run(second, train, range(4, 7))
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_beats_cross_entropy_on_noisy_blobs_and_tells_clean_from_flipped() -> None:
    toy = blobs(n=400, rate=0.5, spread=0.8)
    torch.manual_seed(0)
    method = DivideMix(task(toy.train, epochs=20), warmup=0.15)
    weight = run(method, toy.train, range(20))[-1][0]["weight"]
    torch.manual_seed(0)
    ce = CE(task(toy.train, epochs=20))
    run(ce, toy.train, range(20))
    is_clean = toy.train.y == toy.clean
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.5
    assert accuracy(method, toy) > accuracy(ce, toy)
