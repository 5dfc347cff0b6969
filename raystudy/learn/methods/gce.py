"""Generalised cross-entropy (Lq loss): between cross-entropy (q -> 0) and mean absolute error (q = 1), with truncation.

Paper: Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS
2018 (arXiv 1805.07836). Code: the port AlanChou/Truncated-Loss @fef5908 (the authors published none), and
HanxunH/Active-Passive-Losses @04bce53 for the plain loss.

| equation | here |
| --- | --- |
| Lq = (1 - p_y^q) / q (eq. 6) | ``losses.gce`` |
| truncated Lq: constant where p_y <= k (eq. 9), as mean of v (Lq - Lq(k)) with v in {0, 1} | ``truncated_gce`` |
| v_i = 1 where Lq(p_y) < Lq(k), refreshed now and then (algorithm 1) | ``GCE._prune`` |

Deviations from the original, and why
- Truncation is off by default (``k`` 0): the rows "GCE" of most tables are the plain loss.
- The port prunes by the model that is best on the *test* set, as its author says. A method has no held-out set here:
  it prunes by the current model. In its pruning epochs the port trains a copy of the net that it has just read from
  disk, which the optimizer does not hold: nothing is learned in them. Ours are epochs like any other.
- Durations are fractions: pruning from epoch 40 of 120 (80 of 150 for CIFAR-100), refreshed every 10 of 120 epochs.
- Before the first pruning the truncated loss differs from the plain one by a constant only, so nothing else changes
  there.
- v is refreshed on images without augmentation, in evaluation mode; it is reported as the weight.
- The recipe is the port's (step schedule; that of Active-Passive-Losses for WebVision, which the port has not); those
  runs clip the gradient norm at 5, which is left to ``apl``. The training loss is not comparable with that of other losses.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from raystudy.learn.losses import gce, mae
from raystudy.learn.method import Batch, Log, Method, Task, Train

EVAL_BATCH = 2048  # images per forward pass when predictions are collected; changes no result


def truncated_gce(logits: Tensor, y: Tensor, q: float, k: float, kept: Tensor) -> Tensor:
    """v (Lq(p_y) - Lq(k)) per sample, [B], for ``logits`` [B, K], labels ``y`` [B] and v = ``kept`` [B] in {0, 1} (eq. 10)."""
    return kept * (gce(logits, y, q) - (1 - k**q) / q)


class GCE(Method):
    """Generalised cross-entropy.

    ``q``: 0 would be cross-entropy, 1 is mean absolute error. ``k``: samples whose label gets a probability of at most
    this are pruned, 0 for none. ``prune_start``, ``prune_every``: fractions of the epochs.
    """

    kept: Tensor  # [n] 1 where the sample is trained on

    def __init__(
        self, task: Task, *, q: float = 0.7, k: float = 0.0, prune_start: float = 1 / 3, prune_every: float = 1 / 12
    ) -> None:
        super().__init__(task)
        self.q, self.k = q, k
        self.settled_at = min(prune_start, 1.0) if k > 0 else 0.0
        self.start = max(round(prune_start * task.epochs), 1)  # untrained nets prune everything
        self.every = max(round(prune_every * task.epochs), 1)
        self.register_buffer("kept", torch.ones(task.n, device=next(self.nets.parameters()).device))

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if self.k > 0 and t >= self.start and (t - self.start) % self.every == 0:
            yield self._prune(train)
        yield from super().epoch(t, train)

    @torch.no_grad()
    def _prune(self, train: Train) -> Log:
        self.eval()
        for batch in train.batches(augment=False, shuffle=False, batch_size=EVAL_BATCH):
            p_y = 1 - mae(self.nets[0](batch.x).float(), batch.y)
            self.kept[batch.index] = (p_y > self.k).to(self.kept)
        return {"passes": len(train), "kept": self.kept.mean()}

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        if self.k <= 0:
            loss = gce(logits, batch.y, self.q).mean()
            self.descend(0, loss)
            return {"loss": loss.detach()}
        kept = self.kept[batch.index]
        loss = truncated_gce(logits, batch.y, self.q, self.k, kept).mean()
        self.descend(0, loss)
        log: Log = {"loss": loss.detach()}
        return log | {"weight": kept} if t >= self.start else log
