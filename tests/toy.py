"""A toy problem for tests of methods: Gaussian blobs with noisy labels, in memory; no loader, no data set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raystudy.data.batch import Batch, View
from raystudy.learn.method import Task
from raystudy.learn.networks import BatchNorm


@dataclass
class ToyTrain:
    """What a method sees of a training set (the Train protocol): blobs, jittered where augmented, four times so where strongly."""

    x: Tensor  # [n, 1, 1, d]
    y: Tensor  # [n] given labels
    n_classes: int
    batch_size: int = 32
    jitter: float = 0.1

    def __len__(self) -> int:
        return len(self.y)

    def batches(
        self,
        subset: Tensor | None = None,
        views: int = 1,
        augment: View | tuple[View, ...] = True,
        shuffle: bool = True,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        index = torch.arange(len(self.y)) if subset is None else subset
        if shuffle:
            index = index[torch.randperm(len(index))]

        asked = augment if isinstance(augment, tuple) else (augment,) * views
        assert len(asked) == views

        def view(i: Tensor, how: View) -> Tensor:
            jitter = self.jitter * (4 if how == "strong" else 1)
            return self.x[i] + jitter * torch.randn(len(i), *self.x.shape[1:]) if how else self.x[i]

        for i in index.split(batch_size or self.batch_size):
            yield Batch(i, view(i, asked[0]), self.y[i], view(i, asked[1]) if views == 2 else None)


class InOrder:
    """A training set whose batches come as they are in a given order, and all of it at once where it is only looked at."""

    def __init__(self, x: Tensor, y: Tensor, n_classes: int, order: tuple[Tensor, ...]) -> None:
        self.x, self.y, self.n_classes, self.order = x, y, n_classes, order
        self.batch_size = len(order[0]) if order else len(y)

    def __len__(self) -> int:
        return len(self.y)

    def batches(
        self,
        subset: Tensor | None = None,
        views: int = 1,
        augment: View | tuple[View, ...] = True,
        shuffle: bool = True,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        for index in self.order if augment else (torch.arange(len(self.y)),):
            yield Batch(index, self.x[index], self.y[index])


@dataclass
class Toy:
    """A training set with its truth beside it, which only the test sees."""

    train: ToyTrain
    clean: Tensor  # [n] true labels
    test_x: Tensor
    test_y: Tensor


def blobs(
    n: int = 300,
    n_classes: int = 4,
    dim: int = 8,
    rate: float = 0.4,
    batch_size: int = 32,
    spread: float = 0.6,
    seed: int = 0,
) -> Toy:
    """Blobs around random unit-scale centres; a share ``rate`` of the labels redrawn over all classes (inclusive)."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_classes, dim, generator=g)

    def draw(m: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(m) % n_classes
        return (centres[y] + spread * torch.randn(m, dim, generator=g)).view(m, 1, 1, dim), y

    (x, clean), (test_x, test_y) = draw(n), draw(400)
    y = clean.clone()
    flip = torch.randperm(n, generator=g)[: round(rate * n)]
    y[flip] = torch.randint(n_classes, (len(flip),), generator=g)
    return Toy(ToyTrain(x, y, n_classes, batch_size), clean, test_x, test_y)


def mlp(dim: int, n_classes: int, norm: bool = True) -> nn.Module:
    """A small net with batch norm, as the real ones have."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(dim, 32), BatchNorm(32) if norm else nn.Identity(), nn.ReLU(), nn.Linear(32, n_classes)
    )


def task(
    train: ToyTrain,
    epochs: int = 10,
    lr: float = 0.05,
    net: Callable[[], nn.Module] | None = None,
    adam: bool = False,
) -> Task:
    """A task on ``train``: SGD with momentum (or Adam), constant learning rate."""

    def optimizer(net: nn.Module) -> torch.optim.Optimizer:
        if adam:
            return torch.optim.Adam(net.parameters(), lr=lr)
        return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)

    dim = train.x.shape[-1]
    return Task(len(train), train.n_classes, epochs, net or (lambda: mlp(dim, train.n_classes)), optimizer)


def run(method, train: ToyTrain, epochs: range, seed: int = 0) -> list[list[dict]]:
    """Trains over ``epochs``, seeding each as the training loop does; returns the logs by epoch."""
    out = []
    for t in epochs:
        torch.manual_seed(1000 * seed + t)
        out.append(list(method.epoch(t, train)))
    return out


@torch.no_grad()
def accuracy(method, toy: Toy) -> float:
    method.eval()
    return float((method.probs(toy.test_x).argmax(1) == toy.test_y).float().mean())
