"""Tuned dropout: cross-entropy on a network that is asked for with a dropout rate."""

from functools import partial

import torch
import torch.nn.functional as F
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.learn.methods.dropout import Dropout
from raystudy.learn.networks import mlp


def net(dropout: float = 0.0) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), *mlp(8, 4, dropout)[1:])


def rates(method: Dropout) -> list[float]:
    return [m.p for m in method.modules() if isinstance(m, torch.nn.Dropout)]


def test_the_network_is_asked_for_with_the_rate() -> None:
    toy = blobs(n=32)
    assert rates(Dropout(task(toy.train, net=net))) == [0.5, 0.5]
    assert rates(Dropout(task(toy.train, net=net), dropout=0.8)) == [0.8, 0.8]
    assert rates(Dropout(task(toy.train, net=net), dropout=0.0)) == []
    assert Dropout(task(toy.train, net=net)).task.n == 32


def test_drops_in_training_and_predicts_with_all_units() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = Dropout(task(toy.train, net=net, lr=1e-30))
    batch = Batch(torch.arange(64), toy.train.x, toy.train.y)
    a, b = (method.train().step(batch, 0)["loss"].item() for _ in range(2))
    assert a != b
    p = method.eval().probs(batch.x)
    assert torch.equal(p, method.probs(batch.x))


def test_with_rate_zero_it_is_cross_entropy() -> None:
    toy = blobs(n=64)
    torch.manual_seed(0)
    method = Dropout(task(toy.train, net=partial(net)), dropout=0.0)
    batch = Batch(torch.arange(64), toy.train.x, toy.train.y)
    expected = F.cross_entropy(method.train().nets[0](batch.x), batch.y)
    assert method.step(batch, 0)["loss"].item() == expected.item()


def test_learns_the_toy() -> None:
    toy = blobs(n=321, rate=0.4)
    torch.manual_seed(0)
    method = Dropout(task(toy.train, net=net), dropout=0.5)
    run(
        method, toy.train, range(30)
    )  # with 0.7 or fewer epochs, which kernels a processor has decides between .65 and .88
    assert accuracy(method, toy) > 0.8
