"""Decoupling ("update by disagreement"): two networks, each updated only on samples on whose class the two disagree.

Paper: Malach, Shalev-Shwartz, "Decoupling 'when to update' from 'how to update'", NIPS 2017 (arXiv 1706.02613). Original
code: emalach/UpdateByDisagreement @86d01a8, two classes only. The rows of Co-teaching's tables are of a code that was never
published; its multi-class form is read off the port JackYFL/DISC @a21e910 (algorithms/Decoupling.py).

| equation | here |
| --- | --- |
| m = 1[argmax z1 != argmax z2], or 1 before the rule starts | ``disagreement``, ``warmup`` |
| L_j = sum_i m_i w_i CE_i(z_j) / n (port), / max(rho B, n) (original) | ``decoupling_losses`` |
| w_i = B / (2 N_c), N_c samples of i's label in the batch (original) | ``balanced_weights`` |
| disagreeing samples wait until there is a batch of them (original, min_batch_size -1) | ``queued`` |

Deviations from the originals, and why
- ``denominator``: the port divides by the number n of disagreeing samples, so a single one, likely mislabelled, makes a
  full-sized step; the original by max(rho B, n) ("floor"). Default is the port's, as the tables are of its kind.
- Where nobody disagrees nothing is updated. The port has no guard there and becomes NaN; in the original momentum and weight
  decay still move the weights.
- The original's weights by class are taken over the *whole* batch, so they do not balance what is trained on. ``balance`` has them, for K
  classes with K in the place of the 2; off by default.
- The regulariser of the original is 5e-4 times 0.01, so a weight decay of 5e-6 with SGD: the recipe's, as its rate is (halved
  every 5000 updates). Its min_batch_size is declared a whole number with default 0.1, so that the command line can only
  give 0, 1 or -1; its optimizer ignores which variables it is told, harmless as each loss reaches one net; its clip of gradients at 4
  is in a branch that is not used; its Inception variant calls a function that is not there; its brightness and contrast changes are
  undone by the whitening after them.
- In the tables images are scaled to [0, 1], not normalised and not augmented, for a 9-layer CNN: Co-teaching's card says which options of a
  data set that is. The port's configuration has ResNet-18. The original's own noise is that of a service that tells sex by name.
- One Adam over both nets there, one per net here: the same, as its state is per parameter.
- ``warmup`` counts epochs, not steps. The original compares it with the loop's step, but its learning rate with the number of updates.
- ``buffer``: the original keeps the images that wait, we their indices and draw the augmentation anew. No disagreement is
  checked again, there as here. What waits at an epoch's end goes into the next one.
- Disagreement is that of train mode, so dropout and batch norm count as disagreement, as in both codes. Ties go to the first class.
- The nets need different initial weights: equal nets never disagree, and so never learn.
- Prediction is the mean softmax of both nets; the original calls the net with the higher maximum on the test folds net 1
  and reports its best snapshot, the tables report a net alone.
- The rule does not remove label noise: late in training the share of wrong labels among the disagreeing can be above that of
  the batch. So it says nothing of how clean a sample is, and no weight is reported; ``disagree`` is their share.
- The beta1 switch and the linear decay are those of Co-teaching's tables, whose loop begins at 1: our epoch t has its entry t + 1. The port
  takes the same entries from 0. The learning rate is the recipe's.

Known traits, kept: close to plain cross-entropy in Co-teaching's and JoCoR's tables, best baseline at 80 % in INCV's, on other nets.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.methods.coteaching import set_beta1

Denominator = Literal["disagreeing", "floor", "batch"]
DENOMINATORS = ("disagreeing", "floor", "batch")


def disagreement(logits1: Tensor, logits2: Tensor) -> Tensor:
    """Where the predicted classes of ``logits1`` and ``logits2`` [B, K] differ, bool [B]."""
    return logits1.argmax(1) != logits2.argmax(1)


def balanced_weights(y: Tensor, n_classes: int) -> Tensor:
    """B / (K N_c) for each of the labels ``y`` [B], N_c of which are of its class: weights by class, [B] float64."""
    counts = torch.bincount(y, minlength=n_classes).clamp_min(1)
    return (len(y) / (n_classes * counts.double()))[y]


def decoupling_losses(
    logits1: Tensor,
    logits2: Tensor,
    y: Tensor,
    mask: Tensor,
    denominator: Denominator = "disagreeing",
    floor: float = 0.1,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """sum over ``mask`` of w CE / the denominator, for each net; two scalars, 0 where ``mask`` [B] is empty.

    The denominator of n masked samples of B: n, max(floor B, n) or B. ``weights`` w [B], ones if not given.
    """
    losses1, losses2 = (F.cross_entropy(logits, y, reduction="none") for logits in (logits1, logits2))
    v = mask.to(losses1) if weights is None else mask * weights.to(losses1)
    n = mask.sum().to(losses1)
    least = {"disagreeing": 1, "floor": floor * len(y), "batch": len(y)}[denominator]
    divisor = n.clamp_min(least)
    return (v * losses1).sum() / divisor, (v * losses2).sum() / divisor


def queued(waiting: Tensor, new: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Joins ``new`` indices to those ``waiting``; returns the first ``size``, or none if there are fewer, and who waits on."""
    ids = torch.cat([waiting, new])
    size = size if len(ids) >= size else 0
    return ids[:size], ids[size:]


class Decoupling(Method):
    """Decoupling.

    ``warmup``: fraction of the epochs with ordinary updates before the rule starts. ``denominator``: what the sum of losses
    is divided by: the number of "disagreeing" samples, that but at least a share of the batch ("floor"), or the size of the "batch".
    ``floor``: that share. ``balance``: weigh samples by the inverse frequency of their label in the batch. ``buffer``: collect disagreeing
    samples until they fill a batch. ``decay_start``: fraction of the epochs after which Adam's beta1 is ``late_beta1``.
    """

    n_nets = 2
    waiting: Tensor  # [n] indices of samples that wait for an update, oldest first, then -1

    def __init__(
        self,
        task: Task,
        *,
        warmup: float = 0.0,
        denominator: Denominator = "disagreeing",
        floor: float = 0.1,
        balance: bool = False,
        buffer: bool = False,
        decay_start: float = 0.4,
        late_beta1: float = 0.1,
    ) -> None:
        super().__init__(task)
        if denominator not in DENOMINATORS:
            raise unknown("denominator", denominator, DENOMINATORS)
        self.denominator: Denominator = denominator
        self.floor, self.balance, self.buffer, self.late_beta1 = floor, balance, buffer, late_beta1
        self.settled_at = min(warmup, 1.0)
        self.warmup_epochs = round(warmup * task.epochs)
        self.decay_epoch = round(decay_start * task.epochs)
        device = next(self.nets.parameters()).device
        self.register_buffer("waiting", torch.full((task.n,), -1, device=device))

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if t + 1 >= self.decay_epoch:
            set_beta1(self.optimizers, self.late_beta1)
        if not self.buffer or t < self.warmup_epochs:
            yield from super().epoch(t, train)
            return
        self.train()
        for batch in train.batches():
            yield self._collect(batch, train)

    def step(self, batch: Batch, t: int) -> Log:
        logits1, logits2 = self.nets[0](batch.x), self.nets[1](batch.x)
        disagree = disagreement(logits1, logits2)
        mask = torch.ones_like(disagree) if t < self.warmup_epochs else disagree
        return {"disagree": disagree.float().mean(), "loss": self._update(logits1, logits2, batch.y, mask)}

    def _update(self, logits1: Tensor, logits2: Tensor, y: Tensor, mask: Tensor) -> Tensor:
        """One step of both nets on the masked samples, if there are any; returns the mean of the two losses."""
        weights = balanced_weights(y, self.task.n_classes) if self.balance else None
        loss1, loss2 = decoupling_losses(logits1, logits2, y, mask, self.denominator, self.floor, weights)
        if mask.any():
            self.descend(0, loss1)
            self.descend(1, loss2)
        return (loss1.detach() + loss2.detach()) / 2

    def _collect(self, batch: Batch, train: Train) -> Log:
        """Lets the disagreeing samples of a batch wait; one step as soon as they fill a batch."""
        with torch.no_grad():
            disagree = disagreement(self.nets[0](batch.x), self.nets[1](batch.x))
        size = min(train.batch_size, len(train))  # so that never more wait than there are
        ids, rest = queued(self.waiting[self.waiting >= 0], batch.index[disagree], size)
        self.waiting.fill_(-1)[: len(rest)] = rest
        log: Log = {"disagree": disagree.float().mean(), "passes": 2 * len(batch.y) + 6 * len(ids)}
        if len(ids):
            full = next(iter(train.batches(ids, shuffle=False, batch_size=size)))
            everyone = torch.ones_like(full.y, dtype=torch.bool)
            log["loss"] = self._update(self.nets[0](full.x), self.nets[1](full.x), full.y, everyone)
        return log
