"""VolMinNet: parity with the original code over trajectories of both optimizers, hand-computed values, limits."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import InOrder, accuracy, blobs, run, task

from raystudy.data.noise import symmetric_matrix
from raystudy.design.space import load, recipe_for
from raystudy.errors import InputError
from raystudy.learn.losses import forward_correction
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.volminnet import Transition, VolMinNet, start_of, transition, volume
from raystudy.learn.ops import known_transition


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("volminnet").items()}


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


def error(t: Tensor, truth: Tensor) -> Tensor:
    return (t - truth).abs().sum() / truth.abs().sum()


# --- parity


def test_start_parity(z) -> None:
    k, init = int(z["num_classes"]), float(z["init"])
    start = transition(torch.full((k, k), -init, dtype=torch.float64))
    close(start, z["T_init"])
    close(volume(start), z["vol_init"])
    for classes, init, name in ((10, 2.0, "K10_init2"), (100, 4.5, "K100_init4p5")):
        diagonal = float(z[f"T_init_diag_{name}"])
        assert start_of(classes, diagonal) == pytest.approx(-init)
        assert transition(torch.full((classes, classes), -init, dtype=torch.float64))[3, 3].item() == pytest.approx(
            diagonal
        )


@pytest.mark.parametrize(("weight", "suffix"), [("lam", ""), ("lam_large", "_lam_large")])
def test_loss_parity(z, weight: str, suffix: str) -> None:
    logits, w = z["logits"].clone().requires_grad_(), z["w"].clone().requires_grad_()
    t = transition(w)
    observed, size = forward_correction(logits, z["labels"], t.log()).mean(), volume(t)
    loss = observed + float(z[weight]) * size
    for ours, name in ((t, "T"), (observed, "ce"), (size, "vol"), (loss, f"loss{suffix}")):
        close(ours.detach(), z[name])
    noisy = logits.softmax(1) @ t
    close(noisy.detach(), z["noisy_prob"])
    assert noisy.argmax(1).tolist() == z["pred_noisy"].tolist()
    assert logits.argmax(1).tolist() == z["pred_clean"].tolist()
    assert z["pred_clean"].tolist() != z["pred_noisy"].tolist()
    close(torch.autograd.grad(observed, w, retain_graph=True)[0], z["grad_w_ce"])
    close(torch.autograd.grad(size, w, retain_graph=True)[0], z["grad_w_vol"])
    loss.backward()
    close(w.grad, z[f"grad_w{suffix}"])
    assert not w.grad.diagonal().any()
    if not suffix:
        close(logits.grad, z["grad_logits"])


def test_a_negative_determinant_is_taken_as_a_positive_one(z) -> None:
    w = z["neg_w"].clone().requires_grad_()
    t = transition(w)
    close(t.detach(), z["neg_T"])
    assert torch.linalg.slogdet(t).sign.item() == int(z["neg_sign"])
    close(volume(t).detach(), z["neg_vol"])
    close(torch.autograd.grad(volume(t), w)[0], z["neg_grad_w_vol"])


def test_error_and_noise_parity(z) -> None:
    truth = known_transition("symmetric", int(z["num_classes"]), float(z["noise_rate"]))
    close(truth, z["T_true"])
    close(error(z["T"], truth), z["est_error"])
    close(error(z["T_init"], truth), z["est_error_init"])
    k, rate = int(z["noise_K"]), float(z["noise_rate"])
    np.testing.assert_allclose(symmetric_matrix(k, rate, "exclusive"), z["P_symmetric"].numpy(), atol=1e-12)
    close(known_transition("pair", k, rate), z["P_flip"])
    eye = torch.eye(k, dtype=torch.float64)
    off = z["asym_uniform"] * (1 - eye)  # theirs alone: each row as drawn, scaled to the rate
    close(rate * off / off.sum(1, keepdim=True) + (1 - rate) * eye, z["P_asymmetric"])
    for kind, name in (("symmetric", "P_symmetric"), ("flip", "P_flip"), ("asymmetric", "P_asymmetric")):
        drawn = np.random.RandomState(int(z["noise_seed"]))
        given = [int(drawn.multinomial(1, z[name][y].numpy()).argmax()) for y in z["noise_clean_labels"]]
        assert given == z[f"noisy_labels_{kind}"].tolist()
    n = len(z["noise_clean_labels"])
    kept = np.random.RandomState(int(z["noise_seed"])).choice(n, len(z["split_train_index"]), replace=False)
    assert sorted(kept.tolist()) == z["split_train_index"].tolist()
    assert sorted(set(range(n)) - set(kept.tolist())) == z["split_val_index"].tolist()


def test_rates_parity(z) -> None:
    for dataset, name in (("cifar10", "lr_cifar"), ("cifar100", "lr_cifar"), ("mnist", "lr_mnist")):
        recipe, n = recipe_for("paper", "volminnet", dataset, "preact_resnet18"), len(z[name])
        assert load("volminnet").recipe_on(dataset)["epochs"] == n
        assert [recipe.rate(e, n) for e in range(n)] == pytest.approx(z[name].tolist())


def test_choice_of_the_epoch_parity(z) -> None:
    assert int(z["sel_val_loss"].argmin()) == int(z["sel_index_loss"])
    assert int(z["sel_val_acc"].argmax()) == int(z["sel_index_acc"])


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_steps_of_the_method_parity(z, kind) -> None:
    """The class on top: classifier and w after each step, T and what it predicts after each epoch."""
    x, y = z["traj_x"], z["traj_y"]
    k, d = z["traj_W0"].shape
    toy = blobs(n=len(y), n_classes=k)
    net = nn.Linear(d, k)

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        momentum, decay = float(z["traj_momentum"]), float(z["traj_weight_decay"])
        return torch.optim.SGD(module.parameters(), lr=1.0, momentum=momentum, weight_decay=decay)

    built = task(toy.train, net=lambda: net)
    built = type(built)(built.n, k, built.epochs, built.net, optimizer)
    method = VolMinNet(built, lam=float(z["traj_lam"]), t_optimizer=kind).double()
    with torch.no_grad():
        net.weight.copy_(z["traj_W0"])
        net.bias.copy_(z["traj_b0"])
        method.noise.w.fill_(-float(z["traj_init"]))
    s = 0
    for t, order in enumerate(z["traj_perms"]):
        method.drive(0, float(z[f"traj_{kind}_lr"][s]))
        train = InOrder(x, y, k, order.split(int(z["traj_batch_size"])))
        for _ in method.epoch(t, train):  # type: ignore[arg-type]
            close(net.weight.detach(), z[f"traj_{kind}_W"][s], 1e-8)
            close(net.bias.detach(), z[f"traj_{kind}_b"][s], 1e-8)
            close(method.noise.w.detach(), z[f"traj_{kind}_w"][s], 1e-8)
            s += 1
        told = method.noise().detach()
        close(told, z[f"traj_{kind}_T_epoch"][t], 1e-8)
        close(
            error(told, known_transition("symmetric", k, float(z["noise_rate"]))),
            z[f"traj_{kind}_est_error_epoch"][t],
            1e-8,
        )
        noisy = method.probs(z["traj_val_x"].double()).double() @ told
        val = (noisy.argmax(1) == z["traj_val_y"]).double().mean()
        assert val.item() == pytest.approx(float(z[f"traj_{kind}_val_acc"][t]), abs=1e-9)
        rows = noisy.gather(1, z["traj_val_y"][:, None]).squeeze(1).log().split(int(z["traj_batch_size"]))
        loss = -sum(part.mean() for part in rows) / len(z["traj_val_y"])  # batch means over the number of images
        assert loss.item() == pytest.approx(float(z[f"traj_{kind}_val_loss"][t]), rel=1e-5)  # predictions are float32
        right = method.probs(z["traj_test_x"]).argmax(1) == z["traj_test_y"]
        assert right.double().mean().item() == pytest.approx(float(z[f"traj_{kind}_test_acc"][t]), abs=1e-9)
    assert s == len(z[f"traj_{kind}_W"])
    assert int(z[f"traj_{kind}_val_loss"].argmin()) == int(z[f"traj_{kind}_best_epoch_loss"])
    assert int(z[f"traj_{kind}_val_acc"].argmax()) == int(z[f"traj_{kind}_best_epoch_acc"])


# --- by hand


def test_two_classes_by_hand() -> None:
    """T = [[a, 1 - a], [1 - b, b]]: log|a + b - 1|."""
    for a, b in ((0.9, 0.8), (0.6, 0.7)):
        t = torch.tensor([[a, 1 - a], [1 - b, b]])
        assert volume(t).item() == pytest.approx(math.log(a + b - 1), rel=1e-5)


def test_the_diagonal_leads_its_row() -> None:
    torch.manual_seed(0)
    t = transition(3 * torch.randn(7, 7))
    torch.testing.assert_close(t.sum(1), torch.ones(7))
    assert t.argmax(1).tolist() == list(range(7))
    assert volume(t).item() <= 0


@pytest.mark.parametrize(
    ("n_classes", "asked", "got"), [(10, 0.48, 0.48), (100, 0.9, 0.9), (2, 0.48, 0.75), (3, 0.1, 0.5)]
)
def test_the_start_by_hand(n_classes: int, asked: float, got: float) -> None:
    t = Transition(n_classes, start_of(n_classes, asked))()
    assert t[0, 0].item() == pytest.approx(got, rel=1e-5)


def test_with_the_identity_it_is_cross_entropy() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = VolMinNet(task(toy.train), lam=0.0, frozen=1.0), CE(task(toy.train))
    ce.nets.load_state_dict(method.nets.state_dict())
    torch.nn.init.constant_(method.noise.w, -60.0)
    run(method, toy.train, range(2))
    run(ce, toy.train, range(2))
    for a, b in zip(method.nets.parameters(), ce.nets.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_mistakes_are_refused() -> None:
    train = blobs(n=8).train
    with pytest.raises(InputError, match="choose from: adam, sgd"):
        VolMinNet(task(train), t_optimizer="rmsprop")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="between 0 and 1"):
        VolMinNet(task(train), diagonal=1.0)


# --- the epoch


def test_t_has_a_rate_of_its_own_and_no_weight_decay() -> None:
    toy = blobs(n=64)
    built = task(toy.train, lr=0.1)
    built = type(built)(
        64, 4, 10, built.net, lambda n: torch.optim.SGD(n.parameters(), lr=0.1, momentum=0.5, weight_decay=0.3)
    )
    method = VolMinNet(built, t_lr=0.25)
    for t in range(2):  # the loop sets the recipe's rate for all of them before each epoch
        method.drive(0, 0.1)
        method.drive(1, 0.1)
        run(method, toy.train, range(t, t + 1))
        (group,) = method.optimizers[1].param_groups
        assert group["lr"] == pytest.approx(0.025)
        assert (group["momentum"], group["weight_decay"]) == (0.5, 0)


def test_t_stays_while_it_is_frozen() -> None:
    toy = blobs(n=64)
    method = VolMinNet(task(toy.train, epochs=4), frozen=0.5, t_optimizer="adam")
    assert method.settled() == 0.5
    before = method.noise.w.clone()
    run(method, toy.train, range(2))
    assert torch.equal(before, method.noise.w)
    run(method, toy.train, range(2, 3))
    assert not torch.equal(before, method.noise.w)


@pytest.mark.parametrize(("kind", "t_lr"), [("sgd", 20.0), ("adam", 2.0)])
def test_t_comes_nearer_to_the_noise(kind, t_lr: float) -> None:
    toy = blobs(n=600, rate=0.4, spread=0.3)
    truth = 0.6 * torch.eye(4) + 0.1
    torch.manual_seed(0)
    method = VolMinNet(task(toy.train, epochs=10), t_optimizer=kind, t_lr=t_lr, diagonal=0.95)
    before = error(method.noise().detach(), truth)
    run(method, toy.train, range(10))
    assert error(method.noise().detach(), truth) < 0.7 * before
    assert accuracy(method, toy) > 0.9


def test_vectors_are_taken_as_images_are() -> None:
    toy = blobs(n=40)
    toy.train.x = toy.train.x.flatten(1)
    assert all(bool(log["loss"].isfinite()) for log in run(VolMinNet(task(toy.train)), toy.train, range(1))[0])
