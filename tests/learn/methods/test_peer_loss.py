"""Peer loss: parity with the code for many classes, the theory of the paper, values by hand, limits."""

import pytest
import torch
from test_coteaching import tensors
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.design.space import load, recipe_for
from raystudy.errors import InputError
from raystudy.learn.losses import bounded_nll, expected_nll
from raystudy.learn.method import Task
from raystudy.learn.methods import peer_loss
from raystudy.learn.methods.peer_loss import SCHEDULES, PeerLoss, alphas, with_peers
from raystudy.learn.ops import label_shares

PLACES = ("c10_sparse", "c10_dense", "c100_sparse", "c100_dense", "mnist")


@pytest.fixture(scope="module")
def z(parity) -> dict[str, torch.Tensor]:
    return tensors(parity("peer_loss"))


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


class Given(torch.nn.Module):
    """A net that answers an image, which is a number, with that one of its rows of logits."""

    def __init__(self, *logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.ParameterList([a.clone() for a in logits])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[int(x[0])]


def pieces(z, place: str) -> tuple[tuple[float, float, int], ...]:
    return tuple((float(a), float(b), int(n)) for a, b, n in z[f"alpha_segments_{place}"])


def test_terms_parity(z) -> None:
    eps = float(z["eps"])
    close(bounded_nll(z["logits"], z["labels"], eps), z["base_losses"])
    close(bounded_nll(z["logits_peer"], z["labels_peer"], eps), z["peer_losses"])
    close(z["base_losses"].mean(), z["base_loss"])
    close(z["peer_losses"].mean(), z["peer_loss"])
    expected = expected_nll(z["logits_peer"], z["noisy_prior"], eps)
    close(expected, z["expected_peer_losses"])
    close(expected.mean(), z["expected_peer_loss"])


def test_the_step_of_the_method_parity(z) -> None:
    toy = blobs(n=16, n_classes=int(z["num_classes"]))
    for alpha, loss, grad, grad_peer in zip(
        z["alphas"], z["loss"], z["grad_logits"], z["grad_logits_peer"], strict=True
    ):
        method = PeerLoss(task(toy.train), eps=float(z["eps"]))
        net = method.nets[0] = Given(z["logits"], z["logits_peer"])
        method.optimizers[0] = torch.optim.SGD(net.parameters(), lr=1.0)
        index = torch.arange(len(z["labels"]))
        pair = Batch(index, torch.zeros(1), z["labels"]), Batch(index, torch.ones(1), z["labels_peer"])
        close(method.pair_step(*pair, float(alpha))["loss"], loss)
        close(z["logits"] - net.logits[0].detach(), grad)
        close(z["logits_peer"] - net.logits[1].detach(), grad_peer)


@pytest.mark.parametrize("place", PLACES)
def test_schedules_parity(z, place: str) -> None:
    found = torch.tensor(alphas(pieces(z, place), len(z[f"alpha_{place}"])), dtype=torch.float64)
    close(found, z[f"alpha_{place}"])
    close(z[f"lr_plan_{place}"] / (1 + found), z[f"lr_{place}"])


def test_training_a_linear_model_parity(z, monkeypatch) -> None:
    """Rate, schedule, forgotten momentum and weight decay of the whole method, over the file's batches."""
    place = "c10_sparse" if z["traj_sparse"] else "c10_dense"
    n = len(z[f"alpha_{place}"])
    monkeypatch.setitem(SCHEDULES, "cifar10_sparse", (n, pieces(z, place)))
    momentum, decay = float(z["traj_momentum"]), float(z["traj_weight_decay"])
    k, d = z["traj_w0"].shape

    def optimizer(net: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(net.parameters(), lr=1.0, momentum=momentum, weight_decay=decay)

    whole = Task(len(z["traj_x"]), k, n, lambda: torch.nn.Linear(d, k).double(), optimizer)
    method = PeerLoss(whole, schedule="cifar10_sparse", eps=float(z["eps"]), reset=True)
    method.nets[0].weight.data.copy_(z["traj_w0"])
    method.nets[0].bias.data.copy_(z["traj_b0"])
    x, y = z["traj_x"], z["traj_labels"]
    weights, biases = [], []

    def pairs(train):
        def batch(ids, labels):
            return Batch(ids, x[ids], y[labels])

        for mine, images, labels in zip(*train, strict=True):
            yield batch(mine, mine), batch(images, labels)
            weights.append(method.nets[0].weight.detach().clone())
            biases.append(method.nets[0].bias.detach().clone())

    monkeypatch.setattr(peer_loss, "with_peers", pairs)
    for e, *draws in zip(
        z["traj_epochs"], z["traj_batches"], z["traj_peer_inputs"], z["traj_peer_labels"], strict=True
    ):
        method.optimizers[0].param_groups[0]["lr"] = float(z[f"lr_plan_{place}"][e])
        assert len(list(method.epoch(int(e), draws))) == len(draws[0])
    close(torch.stack(weights).view(z["traj_w"].shape), z["traj_w"])
    close(torch.stack(biases).view(z["traj_b"].shape), z["traj_b"])


def test_two_class_theory_parity(z) -> None:
    """Lemma: the peer risk under noise is 1 - e_- - e_+ times that without; and alpha* for classes of unequal size."""
    e_minus, e_plus = float(z["bin_e_minus"]), float(z["bin_e_plus"])
    p = float(z["bin_p_plus"])
    p_noisy = p * (1 - e_plus) + (1 - p) * e_minus
    assert p_noisy == pytest.approx(float(z["bin_p_plus_noisy"]))
    best = 1 - (1 - e_minus - e_plus) * (2 * p - 1) / (2 * p_noisy - 1)
    assert best == pytest.approx(float(z["bin_alpha_star"]))

    def peer_risk(eta: torch.Tensor) -> torch.Tensor:
        both = torch.stack([1 - eta, eta], 1)
        together = (z["lemma_px"][:, None] * both * z["lemma_losses"]).sum()
        prior = z["lemma_px"] @ both
        return together - (z["lemma_px"] @ z["lemma_losses"]) @ prior

    t, eta = z["lemma_T"], z["lemma_eta"]
    close(peer_risk(eta), z["lemma_peer_clean"])
    close(peer_risk((1 - eta) * t[0, 1] + eta * t[1, 1]), z["lemma_peer_noisy"])
    ratio = z["lemma_peer_noisy"] / z["lemma_peer_clean"]
    assert float(ratio) == pytest.approx(1 - float(t[0, 1]) - float(t[1, 0]))


def test_published_schedules_by_hand() -> None:
    sparse, dense = (alphas(SCHEDULES[f"cifar10_{kind}"][1], 300) for kind in ("sparse", "dense"))
    assert (sparse[19], sparse[39], sparse[40]) == (0, 1, 1)
    assert (dense[39], dense[40]) == pytest.approx((0.1, 1))
    assert sparse[299] == pytest.approx(15.96, abs=0.005)
    assert dense[299] == pytest.approx(4.31, abs=0.005)
    assert alphas(SCHEDULES["cifar100_dense"][1], 250)[99:101] == pytest.approx([0, 0.95])
    method = PeerLoss(task(blobs(n=8).train, epochs=30), schedule="cifar10_sparse")
    assert [method.weight(t) for t in (1, 4, 29)] == pytest.approx([0, sparse[40], sparse[290]])


def test_the_linear_schedule_by_hand() -> None:
    method = PeerLoss(task(blobs(n=8).train, epochs=20), alpha=2.0, warmup=0.1, ramp=0.2)
    assert [method.weight(t) for t in range(7)] == pytest.approx([0, 0, 0.5, 1.0, 1.5, 2.0, 2.0])


def test_peers_are_images_and_labels_of_different_samples() -> None:
    toy = blobs(n=100, batch_size=16)
    toy.train.y = torch.arange(100)  # a label names its sample
    seen = list(with_peers(toy.train))
    assert [len(batch.y) for batch, _ in seen] == [len(peer.y) for _, peer in seen]
    for _, peer in seen:
        assert not set(peer.index.tolist()) & set(peer.y.tolist())
    assert sorted(torch.cat([peer.index for _, peer in seen]).tolist()) == list(range(100))
    assert sorted(torch.cat([peer.y for _, peer in seen]).tolist()) == list(range(100))
    tiny = blobs(n=3, batch_size=16)
    tiny.train.y = torch.arange(3)
    ((_, peer),) = with_peers(tiny.train)
    assert (peer.index != peer.y).all()


def test_the_expected_form_is_the_mean_over_all_labels() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 2])
    every = torch.stack([bounded_nll(logits, y.roll(s), 1e-5).mean() for s in range(6)]).mean()
    close(expected_nll(logits, label_shares(y, 3), 1e-5).mean(), every)


def test_the_loss_is_bounded_by_hand() -> None:
    logits = torch.tensor([[100.0, 0.0]], dtype=torch.float64)
    assert bounded_nll(logits, torch.tensor([1]), 1e-5).item() == pytest.approx(11.512925)
    assert bounded_nll(logits, torch.tensor([0]), 0.0).item() == pytest.approx(0)


def test_the_rate_is_divided_by_one_plus_alpha() -> None:
    toy = blobs(n=64)
    for slow_down, rate in ((True, 0.05 / 3), (False, 0.05)):
        method = PeerLoss(task(toy.train, lr=0.05), alpha=2.0, warmup=0.0, ramp=0.0, slow_down=slow_down)
        run(method, toy.train, range(1))
        assert method.optimizers[0].param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize("form", ["sampled", "expected"])
def test_it_learns(form: str) -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = PeerLoss(task(toy.train), form=form, slow_down=False)
    run(method, toy.train, range(10))
    assert accuracy(method, toy) > 0.8  # chance is .25


def test_unknown_names_are_named() -> None:
    toy = blobs(n=8)
    with pytest.raises(InputError, match="schedule"):
        PeerLoss(task(toy.train), schedule="cifar10")
    with pytest.raises(InputError, match="form"):
        PeerLoss(task(toy.train), form="drawn")


@pytest.mark.parametrize(
    ("dataset", "epochs", "by_hand"),
    [
        ("cifar10", 300, lambda t: 0.1 * 0.1 ** (t // 40)),
        ("cifar100", 250, lambda t: 0.1 if t < 60 else 0.01 if t < 100 else 0.001),
        ("mnist", 300, lambda t: 1e-4),
        ("fashion_mnist", 300, lambda t: 1e-4),
    ],
)
def test_the_papers_recipe_falls_where_the_original_does(dataset: str, epochs: int, by_hand) -> None:
    assert load("peer_loss").recipe_on(dataset)["epochs"] == epochs
    recipe = recipe_for("paper", "peer_loss", dataset, "preact_resnet18")
    assert [recipe.rate(t, epochs) for t in range(epochs)] == pytest.approx([by_hand(t) for t in range(epochs)])
