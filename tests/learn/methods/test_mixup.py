"""mixup: parity with the original code, the sheet's conformance checks, limits; and plain cross-entropy beside it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from test_dropout import net as dropping
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.learn.losses import soft_cross_entropy
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.mixup import Mixup
from raystudy.learn.ops import mix


def test_parity(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("mixup").items()}
    targets = F.one_hot(z["labels"], int(z["num_class"])).double()
    x, q = mix(z["x"], targets, float(z["lam"]), z["perm"])
    torch.testing.assert_close(x, z["x_mixed"], rtol=1e-9, atol=1e-9)
    assert torch.equal(z["labels"], z["labels_a"])
    assert torch.equal(z["labels"][z["perm"]], z["labels_b"])
    right = q.gather(1, z["logits"].argmax(1, keepdim=True)).sum()  # the original's training accuracy, in images
    torch.testing.assert_close(right, z["soft_correct"].double(), rtol=1e-9, atol=1e-9)
    logits = z["logits"].requires_grad_()
    loss = soft_cross_entropy(logits, q)
    loss.backward()
    torch.testing.assert_close(loss.detach(), z["loss"], rtol=1e-9, atol=0)
    torch.testing.assert_close(logits.grad, z["grad_logits"], rtol=0, atol=1e-9 * float(z["grad_logits"].abs().max()))
    torch.testing.assert_close(soft_cross_entropy(logits.detach(), targets), z["loss_alpha0"], rtol=1e-9, atol=0)


def pair(toy, **hyper) -> tuple[Mixup, CE]:
    """Mixup and plain cross-entropy with equal networks."""
    torch.manual_seed(0)
    mixup = Mixup(task(toy.train, epochs=4), **hyper)
    ce = CE(task(toy.train, epochs=4))
    ce.load_state_dict(mixup.state_dict())
    return mixup, ce


def states_equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(
        torch.allclose(u, v, atol=1e-6) for u, v in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def one_epoch(method, train, t: int = 0) -> list[dict]:
    return run(method, train, range(t, t + 1))[0]


@pytest.mark.parametrize("sample_lambda", [False, True])
def test_no_mixing_at_alpha_zero(sample_lambda: bool) -> None:
    toy = blobs(n=16, batch_size=16)  # one batch: the permutation's draw then has nothing after it to disturb
    mixup, ce = pair(toy, alpha=0.0, sample_lambda=sample_lambda)
    one_epoch(mixup, toy.train)
    one_epoch(ce, toy.train)
    assert states_equal(mixup, ce)


def test_no_mixing_with_probability_zero_and_in_the_tail() -> None:
    toy = blobs(n=16, batch_size=16)
    for hyper, t in (({"prob": 0.0}, 0), ({"off_tail": 0.5}, 2)):
        mixup, ce = pair(toy, **hyper)
        one_epoch(mixup, toy.train, t)
        one_epoch(ce, toy.train, t)
        assert states_equal(mixup, ce)
    mixup, ce = pair(toy, off_tail=0.5)
    one_epoch(mixup, toy.train, 1)  # the first half mixes
    one_epoch(ce, toy.train, 1)
    assert not states_equal(mixup, ce)


def test_dropout_is_asked_of_the_network_and_only_where_it_is_wanted() -> None:
    toy = blobs(n=320, rate=0.2)
    rates = [
        [m.p for m in Mixup(task(toy.train, net=dropping), dropout=p).modules() if isinstance(m, torch.nn.Dropout)]
        for p in (0.0, 0.3)
    ]
    assert rates == [[], [0.3, 0.3]]
    Mixup(task(toy.train))  # a network that takes no dropout is never asked for it
    torch.manual_seed(0)
    method = Mixup(task(toy.train, net=dropping), dropout=0.3)
    run(method, toy.train, range(10))
    assert accuracy(method, toy) > 0.7


class Recorder(torch.nn.Module):
    """A net that keeps what it is given."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(n_classes))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.bias.expand(len(x), -1)


@pytest.mark.parametrize("sample_lambda", [False, True])
def test_coefficient_of_a_batch_or_of_a_sample(sample_lambda: bool) -> None:
    """Images that are unit vectors show lambda in their own coordinate, wherever the partner is another image."""
    n = 8
    toy = blobs(n=n, dim=n, batch_size=n)
    torch.manual_seed(0)
    mixup = Mixup(task(toy.train, net=lambda: Recorder(4)), alpha=4.0, sample_lambda=sample_lambda)
    mixup.step(Batch(torch.arange(n), torch.eye(n).view(n, 1, 1, n), toy.train.y), 0)
    (x,) = mixup.nets[0].seen  # one forward pass
    lam = x.view(n, n).diagonal()
    lam = lam[lam < 0.999]
    assert len(lam) > 2
    assert (lam.std() > 0.01) == sample_lambda


def test_cross_entropy_is_one_gradient_step_on_the_given_labels() -> None:
    toy = blobs(n=8, batch_size=8)
    torch.manual_seed(0)
    ce = CE(task(toy.train, lr=0.1))
    net = copy.deepcopy(ce.nets[0])
    batch = Batch(torch.arange(8), toy.train.x, toy.train.y)
    ce.train()
    log = ce.step(batch, 0)
    loss = F.cross_entropy(net(batch.x), batch.y)
    loss.backward()
    assert log["loss"].item() == pytest.approx(loss.item())
    assert not log["loss"].requires_grad
    for after, before in zip(ce.nets[0].parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad)


@pytest.mark.parametrize("kind", [CE, Mixup])
def test_last_batch_of_one_image(kind) -> None:
    toy = blobs(n=33)
    torch.manual_seed(0)
    assert all(bool(log["loss"].isfinite()) for log in one_epoch(kind(task(toy.train)), toy.train))
