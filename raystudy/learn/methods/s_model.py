"""S-model: a noise adaptation layer behind the classifier, learnt with it and dropped for predictions.

Paper: Goldberger, Ben-Reuven, "Training Deep Neural-Networks Using a Noise Adaptation Layer", ICLR 2017. Original code:
udibr/noisy_labels @c5570af (channel.py, the notebook mnist-simple).

| equation | here |
| --- | --- |
| Theta[i, j] = softmax_j(b[i, :]), rows = clean, columns = given | ``Channel`` |
| -log (p Theta)[y] | ``losses.forward_correction`` |
| (1 - beta) of that + beta CE(p, y) | ``SModel.step`` |
| b = log(M + 1e-8), M the row-normalised confusion of predictions and labels | ``confusion_logits``, ``ops.confusion`` |
| b[i, i] = log(1 - eps), else log(eps / (K - 1)), plus uniform noise of 0.01 | ``diagonal_logits`` |

Deviations from the original, and why
- The original trains a plain network with early stopping on noisy validation data, and starts a second training from
  its weights and confusion. A method has no validation set here: the plain stage is a ``warmup`` of the same run. It
  must be short: a network that has fitted the noisy labels gives M = I, and the method is then cross-entropy.
- The channel has an optimizer of the recipe's kind of its own, without weight decay, which would let b drift to the
  uniform channel. Its learning rate is ``channel_lr`` times the recipe's (1: the same, as in the original).
  ``channel_frozen`` keeps it fixed for a while after the warm-up.
- log r is computed as a logsumexp of log p + log Theta, with no clamp. A class never predicted in the warm-up gets the
  identity's row (a division by zero there).
- Only the simple model: the complex one (a channel per image, K^2 (F + 1) parameters) and the sparse one need the
  features of the network, which the interface does not offer.
- The paper's noise (one fixed permutation of the MNIST classes, 30 to 50 %) is neither symmetric nor pair flip, and its
  recipe (Adam, batch 256, 40 epochs, Keras) is replaced by that of Co-teaching's tables, where S-model is a row.

p and Theta can be permuted together: without the start from the confusion or the diagonal the network may learn
permuted classes. ``diagonal`` is Theta's mean diagonal. The gradient on the logits is p minus the
responsibilities p_i Theta[i, y] / (p Theta)[y], an EM step.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystudy.errors import unknown
from raystudy.learn.losses import forward_correction
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import confusion, row_normalise


def confusion_logits(counts: Tensor) -> Tensor:
    """log(row-normalised ``counts`` + 1e-8), [K, K]."""
    return torch.log(row_normalise(counts) + 1e-8)


def diagonal_logits(n_classes: int, eps: float) -> Tensor:
    """log(1 - eps) on and log(eps / (K - 1)) off the diagonal, [K, K] float64; eps in (0, 1)."""
    off = torch.full((n_classes, n_classes), math.log(eps / max(n_classes - 1, 1)), dtype=torch.float64)
    return off.fill_diagonal_(math.log(1 - eps))


class Channel(nn.Module):
    """From the clean to the given class: log Theta [K, K], the row-wise log-softmax of free logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self) -> Tensor:
        return F.log_softmax(self.logits, 1)


class SModel(Method):
    """The simple noise adaptation layer.

    ``init``: of the channel, from the confusion after a ``warmup`` (fraction of the epochs) of cross-entropy, or
    "diagonal" with noise ``eps`` from the start. ``beta``: weight of the direct loss. ``channel_lr``: the channel's
    learning rate over the recipe's. ``channel_frozen``: fraction of the epochs after the warm-up in which it is fixed.
    ``soft_confusion``: count probabilities instead of arg max.
    """

    def __init__(
        self,
        task: Task,
        *,
        init: Literal["confusion", "diagonal"] = "confusion",
        eps: float = 0.46,
        warmup: float = 0.05,
        beta: float = 0.0,
        channel_lr: float = 1.0,
        channel_frozen: float = 0.0,
        soft_confusion: bool = False,
    ) -> None:
        super().__init__(task)
        if init not in ("confusion", "diagonal"):
            raise unknown("initialisation of the channel", init, ("confusion", "diagonal"))
        self.beta, self.channel_lr, self.soft_confusion = beta, channel_lr, soft_confusion
        warm = warmup if init == "confusion" else 0.0
        self.warmup_epochs = max(round(warm * task.epochs), 1) if init == "confusion" else 0
        self.frozen_epochs = self.warmup_epochs + round(channel_frozen * task.epochs)
        self.settled_at = min(warm + channel_frozen, 1.0)
        start = diagonal_logits(task.n_classes, eps).float() + 0.01 * torch.rand(task.n_classes, task.n_classes)
        self.channel = Channel(start.to(next(self.nets.parameters()).device))
        self.optimizers.append(task.optimizer(self.channel))
        for group in self.optimizers[1].param_groups:
            group["weight_decay"] = 0.0

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        for group in self.optimizers[1].param_groups:
            group["lr"] *= self.channel_lr  # the loop has set the recipe's
        if 0 < t == self.warmup_epochs:
            yield self._confuse(train)
        yield from super().epoch(t, train)

    @torch.no_grad()
    def _confuse(self, train: Train) -> Log:
        probs = self.predictions(train)
        self.channel.logits.copy_(confusion_logits(confusion(probs, train.y, self.soft_confusion)))
        return {"passes": len(train)}

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        direct = F.cross_entropy(logits, batch.y)
        if t < self.warmup_epochs:
            self.descend(0, direct)
            return {"loss": direct.detach()}
        log_theta = self.channel()
        observed = forward_correction(logits, batch.y, log_theta).mean()
        loss = (1 - self.beta) * observed + self.beta * direct
        self.optimizers[1].zero_grad(set_to_none=True)
        self.descend(0, loss)
        if t >= self.frozen_epochs:
            self.optimizers[1].step()
        return {"loss": loss.detach(), "diagonal": log_theta.detach().diagonal().exp().mean()}
