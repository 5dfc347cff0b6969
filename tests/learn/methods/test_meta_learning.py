"""MLNT: parity with the original code, second and first order, teacher, ramp, limits."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_coteaching import tensors
from torch import Tensor, nn
from torch.func import functional_call
from toy import accuracy, blobs, mlp, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import kl_rows
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.meta_learning import (
    EPS,
    MetaLearning,
    fast_weights,
    features,
    kept,
    meta_weight,
    mixed_target,
    neighbours,
    synthetic_labels,
)


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return tensors(parity("mlnt"))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    net = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    net.load_state_dict({"weight": weight, "bias": bias})
    return net


# --- parity -----------------------------------------------------------------------------------------------------


def test_synthetic_labels_parity(z) -> None:
    near = neighbours(z["features"], int(z["num_neighbor"]))
    m = int(float(z["perturb_ratio"]) * len(z["labels"]))
    for i in range(int(z["num_fast"])):
        chosen = z["perm"][i, :m]
        assert chosen.tolist() == z["perturbed_images"][i].tolist()
        assert near[chosen].tolist() == z["neighbors"][i][:, 1:].tolist()  # the first is the image itself there
        ours = synthetic_labels(z["labels"], near, chosen, z["neighbor_pick"][i] - 1)
        assert ours.tolist() == z["perturbed_labels"][i].tolist()


def test_ramp_parity(z) -> None:
    u = (int(z["iteration"]) - int(z["start_iter"])) / (int(z["mid_iter"]) - int(z["start_iter"]))
    assert meta_weight(u, float(z["alpha"])) == pytest.approx(float(z["ramp_weight"]), rel=1e-9)


@pytest.mark.parametrize(("second_order", "prefix"), [(True, "total_grad"), (False, "first_order_total_grad")])
def test_gradient_parity(z, second_order: bool, prefix: str) -> None:
    """An iteration on the stored synthetic labels, put together of the method's own parts."""
    net, x, y, n_sets = linear(z["weight"], z["bias"]), z["x"], z["labels"], int(z["num_fast"])
    teacher = linear(z["teacher_weight_before"], z["teacher_bias_before"])
    with torch.no_grad():
        for theirs, ours in zip(teacher.parameters(), net.parameters(), strict=True):
            theirs.lerp_(ours, 1 - float(z["ema"]))
    close(teacher.weight.detach(), z["teacher_weight_after"])
    close(teacher.bias.detach(), z["teacher_bias_after"])
    target = teacher(x).detach()
    close(target.softmax(1), z["teacher_probs"])

    logits, params = net(x), dict(net.named_parameters())
    class_loss = F.cross_entropy(logits, y)
    close(class_loss.detach(), z["class_loss"])
    class_loss.backward(retain_graph=True)
    close(net.weight.grad, z["class_grad_weight"])
    close(net.bias.grad, z["class_grad_bias"])
    meta_loss = torch.zeros((), dtype=torch.float64)
    for i in range(n_sets):
        fast = fast_weights(
            F.cross_entropy(logits, z["perturbed_labels"][i]), params, float(z["meta_lr"]), second_order
        )
        close(fast["weight"].detach(), z["fast_weights"][i])
        close(fast["bias"].detach(), z["fast_biases"][i])
        out = functional_call(net, fast, (x,))
        close(F.log_softmax(out, 1).detach(), z["fast_log_probs"][i])
        batchmean = kl_rows(target, out).mean()
        close(batchmean.detach(), z["consistency_batchmean"][i])
        close(batchmean.detach() / int(z["num_class"]), z["consistency_mean_entries"][i])
        loss = float(z["ramp_weight"]) / n_sets * batchmean / int(z["num_class"])
        loss.backward(retain_graph=True)
        meta_loss += loss.detach()
    close(meta_loss, z["meta_loss"])
    close(net.weight.grad, z[f"{prefix}_weight"])
    close(net.bias.grad, z[f"{prefix}_bias"])


# --- by hand ----------------------------------------------------------------------------------------------------


def test_ramp_by_hand() -> None:
    assert [meta_weight(u, 2.0) for u in (-1.0, 0.0, 0.5, 1.0, 7.0)] == pytest.approx(
        [2 * math.exp(-5), 2 * math.exp(-5), 2 * math.exp(-1.25), 2.0, 2.0]
    )


def test_neighbours_by_hand() -> None:
    feats = torch.tensor([[0.0], [1.0], [10.0], [11.5]])
    assert neighbours(feats, 2).tolist() == [[1, 2], [0, 2], [3, 1], [2, 1]]
    assert neighbours(feats, 10).shape == (4, 3)
    assert neighbours(feats[:1], 10).shape == (1, 0)


def test_synthetic_labels_are_the_original_ones_of_the_neighbours() -> None:
    y, near = torch.tensor([5, 6, 7]), torch.tensor([[1, 2], [2, 0], [0, 1]])
    ours = synthetic_labels(y, near, torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert ours.tolist() == [6, 5, 7]  # 1 takes the old label of 0, not its new one
    assert y.tolist() == [5, 6, 7]


def test_features_enter_the_last_linear_layer() -> None:
    net = mlp(8, 4).eval()
    x = torch.randn(6, 1, 1, 8)
    feats = features(net, x)
    assert feats.shape == (6, 32)
    torch.testing.assert_close(net[-1](feats), net(x))
    bare = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1))
    assert features(bare, torch.randn(6, 1, 4, 4)).shape == (6, 3)


def one_batch(**options) -> tuple[MetaLearning, Batch]:
    toy = blobs(n=24, batch_size=24)
    torch.manual_seed(0)
    method = MetaLearning(task(toy.train, epochs=10), n_sets=2, warmup=0.0, **options)
    method.train()
    method.reference.eval()
    return method, Batch(torch.arange(24), toy.train.x, toy.train.y)


@pytest.mark.parametrize("second_order", [True, False])
def test_gradient_of_an_update_is_that_of_the_whole_loss(second_order: bool) -> None:
    """Against one graph over all sets, as the original has it, through batch norm."""
    method, batch = one_batch(second_order=second_order, inner_lr=0.5, alpha=3.0, kl_reduction="batchmean")
    net = copy.deepcopy(method.nets[0])
    teacher = copy.deepcopy(method.teacher)  # equal to the student, so the average does not move it
    torch.manual_seed(7)
    log = method._update(batch, 0.5)

    torch.manual_seed(7)
    target, near = teacher(batch.x), neighbours(features(method.reference, batch.x), 10)
    logits, params = net(batch.x), dict(net.named_parameters())
    meta = 0.0
    for _ in range(2):
        inner = F.cross_entropy(logits, method._draw(batch.y, near))
        grads = torch.autograd.grad(inner, list(params.values()), create_graph=True)
        grads = grads if second_order else tuple(g.detach() for g in grads)
        fast = {name: p - 0.5 * g for (name, p), g in zip(params.items(), grads, strict=True)}
        meta = meta + kl_rows(target, functional_call(net, fast, (batch.x,))).mean() / 2
    loss = F.cross_entropy(logits, batch.y) + meta_weight(0.5, 3.0) * meta
    loss.backward()
    assert log["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(method.nets[0].parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_second_order_differs_from_first() -> None:
    grads = []
    for second_order in (True, False):
        method, batch = one_batch(second_order=second_order, inner_lr=0.5, alpha=3.0)
        torch.manual_seed(7)
        method._update(batch, 1.0)
        grads.append(torch.cat([p.grad.flatten() for p in method.nets[0].parameters()]))
    assert not torch.allclose(grads[0], grads[1], rtol=1e-3)


def test_simulated_steps_leave_the_statistics_and_the_frozen_nets_alone() -> None:
    method, batch = one_batch()
    expected, reference = copy.deepcopy(method.nets[0]), copy.deepcopy(method.reference.state_dict())
    expected.train()(batch.x)
    method._update(batch, 0.5)
    for (name, a), b in zip(method.nets[0].named_buffers(), expected.buffers(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(a, reference[name]) for name, a in method.reference.state_dict().items())


def test_teacher_averages_the_student_faster_before_the_end_of_the_ramp() -> None:
    for u, decay in ((0.5, EPS), (1.0, EPS), (1.1, 0.9995)):
        method, batch = one_batch(eps_final=0.9995)
        with torch.no_grad():
            for p in method.teacher.parameters():
                p.zero_()
        student = [p.clone() for p in method.nets[0].parameters()]
        method._update(batch, u)
        for theirs, ours in zip(method.teacher.parameters(), student, strict=True):
            torch.testing.assert_close(theirs, (1 - decay) * ours)


def test_without_weight_it_is_cross_entropy_with_a_teacher() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = MetaLearning(task(toy.train, epochs=10), n_sets=1, alpha=0.0, warmup=0.0)
    ce = CE(task(toy.train, epochs=10))
    ce.nets.load_state_dict(method.nets.state_dict())
    batch = Batch(torch.arange(64), toy.train.x, toy.train.y)
    for _ in range(3):
        method.train()
        method._update(batch, 0.3)
        ce.train()
        ce.step(batch, 0)
    for a, b in zip(method.nets[0].parameters(), ce.nets[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_warm_up_is_cross_entropy_and_gives_reference_and_teacher() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = MetaLearning(task(toy.train, epochs=10), warmup=0.2, n_sets=1), CE(task(toy.train, epochs=10))
    ce.nets.load_state_dict(method.nets.state_dict())
    assert method.settled() == pytest.approx(0.2 + 1 / 6)
    run(method, toy.train, range(2))
    run(ce, toy.train, range(2))
    for net in (method.nets[0], method.teacher, method.reference):
        assert all(
            torch.equal(a, b) for a, b in zip(net.state_dict().values(), ce.nets[0].state_dict().values(), strict=True)
        )
    run(method, toy.train, range(2, 3))
    assert all(
        torch.equal(a, b)
        for a, b in zip(method.reference.state_dict().values(), ce.nets[0].state_dict().values(), strict=True)
    )
    assert not torch.equal(next(method.teacher.parameters()), next(method.nets[0].parameters()))


def test_learns_and_answers_with_the_teacher() -> None:
    toy = blobs(n=300, rate=0.4)
    torch.manual_seed(0)
    method = MetaLearning(task(toy.train, epochs=10), n_sets=2)
    run(method, toy.train, range(10))
    assert accuracy(method, toy) > 0.85
    method.eval()
    torch.testing.assert_close(method.probs(toy.test_x), method.teacher(toy.test_x).softmax(1))


def test_the_mentors_part_by_hand() -> None:
    teacher, mentor = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.2, 0.8]])
    for u, expected in ((-1.0, [0.2, 0.8]), (0.0, [0.2, 0.8]), (0.5, [0.4, 0.6]), (1.0, [0.6, 0.4]), (9.0, [0.6, 0.4])):
        assert mixed_target(teacher, mentor, u)[0].tolist() == pytest.approx(expected)
    p = torch.tensor([[0.995, 0.005], [0.9, 0.1], [0.01, 0.99]])
    assert kept(p, torch.tensor([1, 1, 0]), 0.01).tolist() == [False, True, True]


def test_iterations_share_the_epochs_and_hand_the_teacher_on() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = MetaLearning(task(toy.train, epochs=13), warmup=1 / 13, ramp=1 / 13, n_sets=1, iterations=3)
    assert method.starts == [1, 5, 9]
    assert method.settled() == pytest.approx(2 / 13 + 12 / 13 * 2 / 3)
    run(method, toy.train, range(4))
    before = copy.deepcopy(method.teacher.state_dict())
    logs = run(method, toy.train, range(4, 5))[0]
    assert "weight" not in logs[0], "the first iteration has no mentor"
    teacher = copy.deepcopy(method.teacher.state_dict())
    assert not all(torch.equal(a, before[k]) for k, a in teacher.items())
    logs = run(method, toy.train, range(5, 6))[0]
    assert all(torch.equal(a, teacher[k]) for k, a in method.reference.state_dict().items())
    method.reference.eval()
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    assert sorted(index.tolist()) == list(range(64))
    assert ((weight >= 0) & (weight <= 1)).all()
    run(method, toy.train, range(6, 9))
    assert all(torch.equal(a, teacher[k]) for k, a in method.reference.state_dict().items()), (
        "frozen within an iteration"
    )
    short = MetaLearning(task(toy.train, epochs=2), warmup=0.0, iterations=3)
    assert short.starts == [0, 1]


def test_filtered_samples_leave_the_cross_entropy_alone() -> None:
    method, batch = one_batch(alpha=0.0, filter=0.3)
    with torch.no_grad():
        stays = kept(method.reference(batch.x).softmax(1), batch.y, 0.3)
        losses = F.cross_entropy(copy.deepcopy(method.nets[0])(batch.x), batch.y, reduction="none")
    assert 0 < int(stays.sum()) < 24
    log = method._update(batch, 0.5, mentored=True)
    assert log["loss"].item() == pytest.approx(losses[stays].mean().item(), rel=1e-5)
    assert log["kept"].item() == pytest.approx(stays.float().mean().item())
    nobody, batch = one_batch(alpha=0.0, filter=1.1)
    assert nobody._update(batch, 0.5, mentored=True)["loss"].item() == 0


def test_learns_in_three_iterations() -> None:
    toy = blobs(n=300, rate=0.4)
    torch.manual_seed(0)
    method = MetaLearning(task(toy.train, epochs=12), n_sets=1, iterations=3, filter=0.05)
    logs = run(method, toy.train, range(12))[-1]
    assert accuracy(method, toy) > 0.85
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    clean = (toy.train.y == toy.clean)[index]
    assert weight[clean].mean() > weight[~clean].mean() + 0.3


def test_no_iteration_is_refused() -> None:
    with pytest.raises(InputError, match="iterations=0"):
        MetaLearning(task(blobs(n=8).train), iterations=0)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'mean'"):
        MetaLearning(task(blobs(n=8).train), kl_reduction="mea")  # type: ignore[arg-type]
