"""The interface of a method: what it is given, what it gives back. Nothing that trains, loads or records.

A method never sees what a real user does not have (clean labels, the noise rate, which labels were
flipped): it gets (index, image, given label) and a ``Task``, and nothing else exists on its side of the wall.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raystudy.data.batch import Batch, View

__all__ = ["Batch", "Log", "Method", "Task", "Train", "View"]  # all that a method needs of its surroundings

Log = dict[str, Any]
EVAL_BATCH = 2048  # images per forward pass when predictions are collected; changes no result


class Train(Protocol):
    """The training set as a method may see it during one epoch."""

    y: Tensor  # [n] int64, given labels
    n_classes: int
    batch_size: int

    def __len__(self) -> int: ...

    def batches(
        self,
        subset: Tensor | None = None,
        views: int = 1,
        augment: View | tuple[View, ...] = True,
        shuffle: bool = True,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """One pass over the set (or over ``subset``, int64 indices); the last short batch is kept.

        ``augment``: False for none, True for the weak augmentation of the data set (crop and flip), "strong" for that with
        RandAugment and cutout on top; or a tuple with one of these for each view, (True, "strong") for a weak and a strong one.
        More than two views of the same images: two passes side by side over an order of one's own,
        ``zip(batches(order, 2, shuffle=False), batches(order, 2, "strong", shuffle=False))``.
        """
        ...


@dataclass(frozen=True)
class Task:
    """What a method is built from."""

    n: int  # training images
    n_classes: int
    epochs: int  # the budget; warm-ups and ramps are fractions of it
    net: Callable[..., nn.Module]  # net(dropout=0.0): a freshly initialised network, on the device; logits [B, K]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]  # the recipe's; its learning rate is driven from outside


class Method(nn.Module):
    """A way of learning from noisy labels.

    A subclass adds keyword-only hyperparameters to ``__init__`` (default = the paper's general value),
    and overrides ``step``, or ``epoch`` when it owns the shape of an epoch, and ``probs`` where the
    paper predicts otherwise. All state lives in nets, optimizers and registered buffers; randomness is
    drawn from torch's default generator, which the training loop seeds from (seed, epoch) before every
    epoch. So ``epoch(t)`` is a function of state and ``t``, and a resumed run is the same run.

    A step log is a dict with ``loss`` (scalar tensor, detached) and optionally ``weight`` with ``index``
    (both [B]; weight in [0, 1], how clean the method holds each sample to be), ``passes`` (sample passes
    through a network; forward = 1, forward and backward = 3; default 3 x B x nets) and further named
    scalars of the method's own.
    """

    n_nets = 1
    version = 1  # part of the trial key: raise it when behaviour changes
    files: tuple[str, ...] = ()  # hyperparameters that name files, which are read once and then are a part of the state

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.nets = nn.ModuleList([task.net() for _ in range(self.n_nets)])
        self.optimizers = [task.optimizer(net) for net in self.nets]

    def settled(self) -> float:
        """The fraction of the epochs after which trials may be compared: the end of warm-up and ramps."""
        return 0.0

    def step(self, batch: Batch, t: int) -> Log:
        """One update on one batch in epoch ``t`` (from 0); returns a step log."""
        raise NotImplementedError

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        """Trains for one epoch, yielding a log per update."""
        self.train()
        for batch in train.batches():
            yield {"index": batch.index, "passes": 3 * len(batch.y) * self.n_nets} | self.step(batch, t)

    def probs(self, x: Tensor) -> Tensor:
        """Class probabilities [B, K] of normalised images; by default the mean over the nets."""
        return torch.stack([net(x).float().softmax(1) for net in self.nets]).mean(0)

    def drive(self, i: int, rate: float) -> None:
        """Gives optimizer ``i`` a learning rate of its own; in ``epoch``, since the training loop sets the recipe's before each."""
        for group in self.optimizers[i].param_groups:
            group["lr"] = rate

    def scale_rate(self, factor: float) -> None:
        """Multiplies the learning rate of every optimizer, for this epoch: the loop sets the recipe's before each."""
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            group["lr"] *= factor

    @torch.no_grad()
    def predictions(self, train: Train) -> Tensor:
        """Class probabilities of net 0 on all training images without augmentation, in evaluation mode; [n, K] float64."""
        self.eval()
        probs = torch.zeros(len(train), train.n_classes, dtype=torch.float64, device=train.y.device)
        for batch in train.batches(augment=False, shuffle=False, batch_size=EVAL_BATCH):
            probs[batch.index] = self.nets[0](batch.x).double().softmax(1)
        return probs

    def descend(self, i: int, loss: Tensor, clip_norm: float = 0.0) -> None:
        """One optimizer step of net ``i`` on a scalar loss; its gradient cut down to norm ``clip_norm``, if that is not 0."""
        for group in self.optimizers[i].param_groups:  # zero_grad, without what its profiling costs a small net
            for parameter in group["params"]:
                parameter.grad = None
        loss.backward()
        if clip_norm > 0:
            nn.utils.clip_grad_norm_(self.nets[i].parameters(), clip_norm)
        self.optimizers[i].step()
