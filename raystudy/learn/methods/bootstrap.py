"""Bootstrapping: mix the given label with the network's own prediction to form the target.

Paper: Reed, Lee, Anguelov, Szegedy, Erhan, Rabinovich, "Training Deep Neural Networks on Noisy Labels with
Bootstrapping", ICLR 2015 workshop (arXiv 1412.6596). Code: YisenWang/symmetric_cross_entropy_for_noisy_labels @ec778df
and giorgiop/loss-correction @15a79de (the authors published none).

| equation | here |
| --- | --- |
| soft: -sum_k [beta t_k + (1 - beta) p_k] log p_k (eq. 6) | ``bootstrap_soft`` |
| hard: the same with the one-hot of arg max p (eq. 7) | ``bootstrap_hard`` |

Deviations from the original, and why
- beta is called ``label_weight``, the weight of the *given label*: some code means the prediction's by it. The usual
  values are 0.95 (soft) and 0.8 (hard); MentorNet's, MentorMix's and Co-teaching's tables do not state theirs
  (Co-teaching: hard).
- The soft target keeps its gradient, as in the code. Without it a soft bootstrap would be plain cross-entropy times
  beta, because the gradient of -sum_k a_k log p_k at a = p is zero.
- No probability is clipped (at 1e-7 there): log-softmax needs none.
- The variant with a noise layer and a reconstruction of the input is left out; nobody uses it as a baseline. Nor is
  the split into two outputs with weights (1 - beta, beta) of another code base: the same loss in other words.
- The recipe is that of Co-teaching's tables, where it is a row; Reed et al. have none for these data sets.
- ``start``, epochs with the given labels only, is an extension; the default is the paper's 0.
- Prediction and target come from the same view and step. An older or averaged prediction is another method (ELR).

The entropy term sharpens predictions and can lock in early mistakes at high noise: ``confidence``, the mean largest
probability, shows it.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task


def bootstrap_soft(logits: Tensor, y: Tensor, label_weight: float) -> Tensor:
    """-sum_k [beta t_k + (1 - beta) p_k] log p_k, [B], of ``logits`` [B, K] and labels ``y`` [B] (Reed et al. 2015, eq. 6)."""
    log_p = F.log_softmax(logits, 1)
    entropy = -(log_p.exp() * log_p).sum(1)
    return label_weight * F.nll_loss(log_p, y, reduction="none") + (1 - label_weight) * entropy


def bootstrap_hard(logits: Tensor, y: Tensor, label_weight: float) -> Tensor:
    """beta CE(y) + (1 - beta) CE(arg max p), [B], of ``logits`` [B, K] and labels ``y`` [B] (Reed et al. 2015, eq. 7)."""
    log_p = F.log_softmax(logits, 1)
    own = log_p.amax(1)
    return label_weight * F.nll_loss(log_p, y, reduction="none") - (1 - label_weight) * own


class Bootstrap(Method):
    """Bootstrapping of ``kind`` soft or hard.

    ``label_weight``: weight of the given label in the target. ``start``: fraction of the epochs with plain
    cross-entropy before.
    """

    def __init__(
        self, task: Task, *, kind: Literal["hard", "soft"] = "hard", label_weight: float = 0.8, start: float = 0.0
    ) -> None:
        super().__init__(task)
        if kind not in ("hard", "soft"):
            raise unknown("kind of bootstrapping", kind, ("hard", "soft"))
        self.loss_of = bootstrap_hard if kind == "hard" else bootstrap_soft
        self.label_weight = label_weight
        self.settled_at = min(start, 1.0)
        self.start_epoch = round(start * task.epochs)

    def settled(self) -> float:
        return self.settled_at

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        loss = self.loss_of(logits, batch.y, self.label_weight if t >= self.start_epoch else 1.0).mean()
        self.descend(0, loss)
        return {"loss": loss.detach(), "confidence": logits.detach().softmax(1).amax(1).mean()}
