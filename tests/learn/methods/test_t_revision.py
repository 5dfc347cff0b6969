"""T-Revision: parity with the original code through its three stages, hand-computed values, limits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import InOrder, accuracy, blobs, run, task

from raystudy.design.space import load, recipe_for
from raystudy.errors import InputError
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.t_revision import TRevision, estimated, importance, noisy_given
from raystudy.learn.ops import anchor_transition, known_transition, row_normalise


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("t_revision").items()}


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


def error(t: Tensor, truth: Tensor) -> Tensor:
    return (t - truth).abs().sum() / truth.abs().sum()


# --- parity of the losses


def test_stage_two_parity(z) -> None:
    logits, y, t = z["logits"].clone().requires_grad_(), z["labels"], z["T"]
    losses = F.cross_entropy(logits, y, reduction="none")
    beta = importance(logits, y, t)
    close(losses.detach(), z["ce"])
    close(beta.detach(), z["rw_beta"])
    constant, through = (beta.detach() * losses).mean(), (beta * losses).mean()
    for name in ("rw", "rw_v2"):
        close(constant.detach(), z[f"{name}_loss"])
        close(torch.autograd.grad(constant, logits, retain_graph=True)[0], z[f"{name}_grad_logits"])
    close(torch.autograd.grad(through, logits)[0], z["rw_grad_logits_through_beta"])


@pytest.mark.parametrize(("kind", "name"), [("code", "rev_code"), ("paper", "rev_plain")])
def test_stage_three_parity(z, kind, name: str) -> None:
    logits, y, t, slack = z["logits"].clone().requires_grad_(), z["labels"], z["T"], z["delta"].clone().requires_grad_()
    beta = importance(logits, y, t, slack, kind)
    loss = (beta * F.cross_entropy(logits, y, reduction="none")).mean()
    loss.backward()
    close(beta.detach(), z[f"{name}_beta"])
    close(loss.detach(), z[f"{name}_loss"])
    close(logits.grad, z[f"{name}_grad_logits"])
    close(slack.grad, z[f"{name}_grad_delta"])


@pytest.mark.parametrize(("kind", "name"), [("code", "rev0_code"), ("paper", "rev0_plain")])
def test_the_first_step_of_stage_three_parity(z, kind, name: str) -> None:
    logits, y, t = z["logits"].clone().requires_grad_(), z["labels"], z["T"]
    slack = torch.zeros_like(t).requires_grad_()
    loss = (importance(logits, y, t, slack, kind) * F.cross_entropy(logits, y, reduction="none")).mean()
    loss.backward()
    close(loss.detach(), z["rev0_plain_loss"])
    close(loss.detach(), z["rw_loss"])
    close(logits.grad, z[f"{name}_grad_logits"])
    close(slack.grad, z[f"{name}_grad_delta"])


def test_other_forms_parity(z) -> None:
    """One row at a time nothing accumulates; the form of 2021 has a constant beta; forward correction with slack; arg maxes."""
    logits, y, t, slack = z["logits"].clone().requires_grad_(), z["labels"], z["T"], z["delta"].clone().requires_grad_()
    losses, beta = F.cross_entropy(logits, y, reduction="none"), importance(logits, y, t, slack)
    close((beta * losses).detach(), z["rev_single_losses"])
    constant = (beta.detach() * losses).mean()
    close(constant.detach(), z["rev_v2_loss"])
    close(torch.autograd.grad(constant, logits, retain_graph=True)[0], z["rev_v2_grad_logits"])
    assert torch.autograd.grad(constant, slack, allow_unused=True, retain_graph=True)[0] is None
    assert not int(z["rev_v2_delta_has_grad"])
    p = logits.softmax(1)
    forward = -noisy_given(p, y, t + slack).log().mean()
    close(forward.detach(), z["fwd_rev_loss"])
    by_logits, by_slack = torch.autograd.grad(forward, (logits, slack))
    close(by_logits, z["fwd_rev_grad_logits"])
    close(by_slack, z["fwd_rev_grad_delta"])
    for ours, name in ((p @ t, "noisy_prob"), (p @ t, "noisy_prob_v2"), (p @ (t + slack), "noisy_prob_rev")):
        close(ours.detach(), z[name])
    for ours, name in ((p @ t, "noisy"), (p @ (t + slack), "noisy_rev"), (p, "clean")):
        assert ours.argmax(1).tolist() == z[f"pred_{name}"].tolist()


# --- parity of the estimate


def test_estimate_parity(z) -> None:
    eta, percentile = z["eta"].clone(), float(z["percentile"])
    rows, anchors = anchor_transition(eta, 100)
    assert anchors.tolist() == z["anchors_argmax"].tolist()
    close(rows, z["T_argmax"])
    for estimate in ("paper", "code"):
        close(estimated(eta, 100, estimate), z["T_argmax_norm"])  # type: ignore[arg-type]
    rows, anchors = anchor_transition(eta, percentile)
    assert anchors.tolist() == z["anchors_p97_copy"].tolist()
    close(rows, z["T_p97_copy"])
    rows, _ = anchor_transition(eta, percentile, in_place=True)
    close(rows, z["T_p97_inplace"])
    close(row_normalise(rows), z["T_p97_norm_rows"])
    close(estimated(eta, percentile, "code"), z["T_p97_norm_code"])
    close(estimated(eta, percentile), row_normalise(z["T_p97_copy"]))
    assert torch.equal(eta, z["eta"])
    assert ((eta >= z["eta_thresholds"]) == z["eta_after_inplace_zeros"].bool()).all()


def test_error_parity(z) -> None:
    truth = known_transition("symmetric", int(z["num_classes"]), float(z["noise_rate"]))
    close(truth, z["T_true"])
    close(error(z["T_p97_norm_code"], truth), z["error_init"])
    revised = z["T"] + z["delta"]
    close(error(revised, truth), z["error_rev_plain"])
    close(error(truth, revised), z["error_rev_code"])  # arguments swapped


def test_rates_parity(z) -> None:
    """Stage 2 of the recipe: that of a scheduler stepped before the epoch by an old torch; a current one drops an epoch earlier."""
    theirs = z["lr_stage2_legacy"].tolist()
    for dataset, first in (("cifar10", 20), ("cifar100", 15), ("mnist", 20)):
        recipe, n = recipe_for("paper", "t_revision", dataset, "preact_resnet18"), len(theirs)
        total = int(load("t_revision").recipe_on(dataset)["epochs"])
        stage2 = total - first - 200
        assert [recipe.rate(first + e, total) for e in range(stage2)] == pytest.approx(theirs[:stage2])
    assert z["lr_stage2_step_first"].tolist() == pytest.approx([*theirs[1:], theirs[n - 1]])


# --- parity of the steps


def test_the_steps_of_the_method_parity(z) -> None:
    """The class on top: three stages, each from the best epoch of the one before, as the original reloads it."""
    x, y = z["traj_x"], z["traj_y"]
    k, d = z["traj_W0"].shape
    epochs = z["traj_epochs"].tolist()
    toy = blobs(n=len(y), n_classes=k)
    net = nn.Linear(d, k)

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        momentum, decay = float(z["traj_momentum"]), float(z["traj_weight_decay"])
        return torch.optim.SGD(module.parameters(), lr=float(z["traj_lr"]), momentum=momentum, weight_decay=decay)

    built = task(toy.train, epochs=sum(epochs), net=lambda: net)
    built = type(built)(built.n, k, built.epochs, built.net, optimizer)
    shares = {"stage1": epochs[0] / sum(epochs), "stage2": epochs[1] / sum(epochs)}
    rate = float(z["traj_lr_revision"])
    percentile = float(z["percentile"]) if int(z["traj_filter_outlier"]) else 100.0
    method = TRevision(
        built, **shares, revision_lr=rate, slack_lr=rate, slack="code", estimate="code", percentile=percentile
    ).double()
    batches = z["traj_perms"].split(1, 0)

    def load(weight: Tensor, bias: Tensor) -> None:
        with torch.no_grad():
            net.weight.copy_(weight)
            net.bias.copy_(bias)

    load(z["traj_W0"], z["traj_b0"])
    t = 0
    for stage, n_epochs in enumerate(epochs, 1):
        s = 0
        for e in range(n_epochs):
            if stage == 2:
                method.drive(0, float(z["traj_s2_lr"][s]))
            train = InOrder(x, y, k, batches[t][0].split(int(z["traj_batch_size"])))
            for log in method.epoch(t, train):  # type: ignore[arg-type]
                if "loss" not in log:
                    close(method.transition, z["traj_T"], 1e-7)
                    close(z["traj_T_raw"] / z["traj_T_raw"].sum(1), z["traj_T"])
                    continue
                close(net.weight.detach(), z[f"traj_s{stage}_W"][s], 1e-7)
                close(net.bias.detach(), z[f"traj_s{stage}_b"][s], 1e-7)
                if stage == 3:
                    close(method.slack.detach(), z["traj_s3_delta"][s], 1e-7)
                s += 1
            t += 1
            noisy = method.probs(z["traj_val_x"]).double()
            if stage > 1:
                noisy = noisy @ (method.transition + method.slack.detach())  # the slack is 0 in stage 2
            val = float((noisy.argmax(1) == z["traj_val_y"]).double().mean())
            assert val == pytest.approx(float(z["traj_val_acc_printed"][t - 1]), abs=1e-9)
            if stage < 3:
                assert val == pytest.approx(float(z[f"traj_s{stage}_val_acc"][e]), abs=1e-9)
            if stage == 1:
                close(method.probs(x).double(), z["traj_prob"][e], 1e-6)  # predictions are float32
            else:
                right = method.probs(z["traj_test_x"]).argmax(1) == z["traj_test_y"]
                printed = float(z["traj_test_acc_printed"][t - 1 - epochs[0]])
                assert right.double().mean().item() == pytest.approx(printed, abs=1e-9)
        assert s == len(z[f"traj_s{stage}_W"])
        if stage < 3:
            best = int(z[f"traj_s{stage}_best_epoch"])
            assert best == int(z[f"traj_s{stage}_val_acc"].argmax())
            last = (best + 1) * (s // n_epochs) - 1
            load(z[f"traj_s{stage}_W"][last], z[f"traj_s{stage}_b"][last])
    truth = known_transition("symmetric", k, float(z["noise_rate"]))
    close(error(method.transition, truth), z["traj_error_init"], 1e-7)
    close(error(truth, method.transition + method.slack.detach()), z["traj_s3_error_code_printed"][-1], 1e-7)


# --- by hand


def test_importance_by_hand() -> None:
    logits, y = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log(), torch.tensor([1])
    t = torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.6, 0.4], [0.5, 0.0, 0.5]], dtype=torch.float64)
    assert importance(logits, y, t).item() == pytest.approx(0.25 / (0.5 * 0.2 + 0.25 * 0.6))
    slack = torch.zeros_like(t)
    slack[0, 1] = 0.1
    assert importance(logits, y, t, slack).item() == pytest.approx(0.25 / (0.5 * 0.3 + 0.25 * 0.6))
    # Row 0 is then (.8, .3, 0), of sum 1.1.
    assert importance(logits, y, t, slack, "projected").item() == pytest.approx(0.25 / (0.5 * 0.3 / 1.1 + 0.25 * 0.6))


def test_with_the_identity_beta_is_one() -> None:
    logits, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(importance(logits, y, torch.eye(4)), torch.ones(5))
    far = torch.tensor([[0.0, 500.0]])  # p_y = 0, and so is its share of anything
    assert importance(far, torch.tensor([0]), torch.eye(2)).item() == 0


def test_the_order_of_rows_matters_to_the_published_loop_alone() -> None:
    torch.manual_seed(0)
    logits, y, t, slack = torch.randn(5, 3), torch.arange(5) % 3, torch.eye(3) * 0.7 + 0.1, 0.1 * torch.randn(3, 3)
    order = torch.tensor([4, 2, 0, 1, 3])
    for kind, same in (("paper", True), ("code", False)):
        one, other = (importance(logits[i], y[i], t, slack, kind) for i in (torch.arange(5), order))  # type: ignore[arg-type]
        assert torch.allclose(one[order], other) == same


def test_one_hot_predictions_give_the_identity() -> None:
    assert torch.equal(estimated(torch.eye(4).double()[torch.arange(12) % 4], 100), torch.eye(4).double())


def test_mistakes_are_refused() -> None:
    train = blobs(n=8).train
    with pytest.raises(InputError, match="choose from: code, paper, projected"):
        TRevision(task(train), slack="rows")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="choose from: code, paper"):
        TRevision(task(train), estimate="rows")  # type: ignore[arg-type]


# --- the epochs


def test_the_first_stage_is_cross_entropy_without_momentum() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = TRevision(task(toy.train), stage1=0.5), CE(task(toy.train))
    ce.nets.load_state_dict(method.nets.state_dict())
    ce.optimizers[0] = torch.optim.SGD(ce.nets[0].parameters(), lr=0.05)
    run(method, toy.train, range(2))
    run(ce, toy.train, range(2))
    for a, b in zip(method.nets.parameters(), ce.nets.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert method.settled() == 0.5


@pytest.mark.parametrize("slack", ["paper", "projected", "code"])
def test_the_stages_and_what_moves_in_them(slack) -> None:
    toy = blobs(n=400, rate=0.4, spread=0.3)
    torch.manual_seed(0)
    method = TRevision(task(toy.train, epochs=10), stage1=0.3, stage2=0.4, slack=slack)
    assert (method.begin2, method.begin3) == (3, 7)
    eye = torch.eye(4)
    for t in range(10):
        before, rates = method.slack.clone(), method.optimizers[0].param_groups[0]
        logs = run(method, toy.train, range(t, t + 1))[0]
        assert torch.equal(method.transition, eye) == (t < 3)
        assert ("weight" in logs[-1]) == (t >= 3)
        assert rates["momentum"] == (0.0 if t < 3 else 0.9)
        assert torch.equal(before, method.slack) == (t < 7)
    assert [g["lr"] for g in method.optimizers[1].param_groups] == [5e-7, 1e-4]
    torch.testing.assert_close(method.transition.sum(1), torch.ones(4))
    wrong = toy.train.y != toy.clean
    weight = torch.zeros(400)
    for log in logs:
        weight[log["index"]] = log["weight"]
    assert weight[wrong].mean() + 0.3 < weight[~wrong].mean()
    assert accuracy(method, toy) > 0.9


def test_weights_are_bounded_where_asked() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = TRevision(task(toy.train, epochs=3), stage1=0.3, stage2=0.3, beta_clip=1e-9, slack_lr=0.0)
    logs = run(method, toy.train, range(3))
    assert abs(float(logs[1][-1]["loss"])) < 1e-7
    assert float(logs[0][-1]["loss"]) > 0.1


def test_vectors_are_taken_as_images_are() -> None:
    toy = blobs(n=40)
    toy.train.x = toy.train.x.flatten(1)
    logs = run(TRevision(task(toy.train, epochs=3), stage1=0.3, stage2=0.3), toy.train, range(3))
    assert all(bool(log["loss"].isfinite()) for epoch in logs for log in epoch if "loss" in log)
