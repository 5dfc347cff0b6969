"""ELR+: early-learning regularisation with two networks, averaged weights and mixup.

Paper: Liu, Niles-Weed, Razavian, Fernandez-Granda, "Early-Learning Regularization Prevents Memorization of Noisy
Labels", NeurIPS 2020 (arXiv 2007.00151), appendix. Original code: shengliu66/ELR @934af53 (ELR_plus/).

| original | here |
| --- | --- |
| lam = max(draw, 1 - draw) of Beta(alpha, alpha), inputs and one-hot labels mixed | ``ops.beta_draw``, ``ops.mix`` |
| targets of net 1 from the unmixed images through net 2's averaged weights, not clamped | ``losses.early_learning_target`` |
| q = lam target + (1 - lam) target[perm] | ``ELRPlus._train_net`` |
| label := normalise(label q), 100 classes only | ``sharpen_labels`` |
| soft CE + ramp lambda mean log(1 - <q, p>), p clamped | ``losses.early_learning_penalty`` |
| ramp(i, s) = exp(-5 (1 - min(i / s, 1))^2), 1 for s = 0 | ``sigmoid_rampup`` |
| averaged weights, decay 0.997 ramp(i + 1, 40000), or min(1 - 1/(i + 1), decay) where ``ema_update`` is off | ``average_decay`` |
| prediction: mean of both nets' logits (of the nets themselves, not of their averages) | ``ELRPlus.probs`` |

Deviations from the original, and why
- Ramps are fractions of the updates of the budget: the code trains on 45,000 images, 352 updates an epoch, so 40000
  iterations are 0.568 of 200 epochs of CIFAR-10, and 0.4545 of the 250 of CIFAR-100 (``coef_ramp``; 0 for CIFAR-10).
  ``ema_ramp=0`` is the code's ``ema_update`` false, of Clothing1M (decay 0.9999) and WebVision (0.997): a true average
  of the weights until it is longer than the decay's.
- **Published numbers on synthetic noise are inflated.** There each net's loader draws the noise anew (numpy is not
  seeded), so at symmetric 0.8 48 % of the images that both nets train on have a right label in at least one of the two
  draws, and the nets teach each other. Here both nets see the same labels. Emulated on digits with an MLP, two draws
  for one: from 53.8 to 66.9 % at 0.9, from 85.8 to 89.0 % at 0.8.
- The sharpening of labels, which is not in the main text, hangs on K == 100 there; here it is a hyperparameter. A label
  all of whose product underflows keeps no gradient instead of becoming NaN.
- The averaged nets start as copies of their nets (there as nets of their own, forgotten within a few updates). As
  there, they run in training mode and only their parameters are averaged.
- Net 1 is trained for an epoch, then net 2, as there; each has its own order of the data. Nothing is divided by a
  last, full batch: the last short one is kept.
- Target buffers go by the index in the training set and start at zero. Clothing1M's 3000 balanced batches are not
  rebuilt. lambda and beta were chosen per kind of noise; the points that know the kind are marked oracle.
"""

import copy
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.learn.losses import early_learning_penalty, early_learning_target, soft_cross_entropy
from raystudy.learn.method import Log, Method, Task, Train
from raystudy.learn.ops import beta_draw, mix, permutation


def sigmoid_rampup(current: float, length: float) -> float:
    """exp(-5 (1 - min(current / length, 1))^2); 1 for length 0 (Laine & Aila 2017)."""
    return math.exp(-5 * (1 - min(current / length, 1.0)) ** 2) if length > 0 else 1.0


def average_decay(i: int, done: float, decay: float, ramp: float) -> float:
    """Decay of the averaged weights at update ``i`` (from 1), ``done`` of the budget: decay ramp(done), without a ramp
    min(1 - 1/(i + 1), decay) (``update_ema_variables`` of ELR_plus/trainer/trainer.py)."""
    return decay * sigmoid_rampup(done, ramp) if ramp > 0 else min(1 - 1 / (i + 1), decay)


def sharpened(labels: Tensor, q: Tensor) -> Tensor:
    """``labels`` times ``q``, both [B, K], with rows that sum to 1."""
    return F.normalize(labels * q, p=1, dim=1)


class ELRPlus(Method):
    """ELR+.

    ``beta``: momentum of the targets. ``lambda_elr``: weight of the penalty. ``alpha``: strength of mixup.
    ``ema_decay``: of the averaged weights. ``ema_ramp``, ``coef_ramp``: fractions of the budget over which that
    decay (0: an average of all so far, until it is that long) and the penalty's weight ramp up. ``sharpen_labels``:
    multiply labels by the targets.
    """

    n_nets = 2
    version = 2
    target: Tensor  # [2, n, K] running means, one per trained net

    def __init__(
        self,
        task: Task,
        *,
        beta: float = 0.7,
        lambda_elr: float = 3.0,
        alpha: float = 1.0,
        ema_decay: float = 0.997,
        ema_ramp: float = 0.568,
        coef_ramp: float = 0.0,
        sharpen_labels: bool = False,
    ) -> None:
        super().__init__(task)
        self.beta, self.lambda_elr, self.alpha, self.ema_decay = beta, lambda_elr, alpha, ema_decay
        self.ema_ramp, self.coef_ramp, self.sharpen_labels = ema_ramp, coef_ramp, sharpen_labels
        self.averaged = copy.deepcopy(self.nets).requires_grad_(False)
        device = next(self.nets.parameters()).device
        self.register_buffer("target", torch.zeros(2, task.n, task.n_classes, device=device))

    def settled(self) -> float:
        return min(self.coef_ramp, 1.0)

    def probs(self, x: Tensor) -> Tensor:
        return ((self.nets[0](x).float() + self.nets[1](x).float()) / 2).softmax(1)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.train()
        for i in range(2):
            yield from self._train_net(i, t, train)

    def _train_net(self, i: int, t: int, train: Train) -> Iterator[Log]:
        """One pass of net ``i`` over everything."""
        net, peer = self.nets[i], self.averaged[1 - i]
        n_batches = math.ceil(len(train) / train.batch_size)
        for step, batch in enumerate(train.batches()):
            done = (t + (step + 1) / n_batches) / self.task.epochs
            x, index = batch.x, batch.index
            lam, perm = beta_draw(self.alpha), permutation(len(index), x.device)
            lam = max(lam, 1 - lam)
            mixed, labels = mix(x, F.one_hot(batch.y, self.task.n_classes).to(x.dtype), lam, perm)
            logits = net(mixed)
            with torch.no_grad():
                target = early_learning_target(self.target[i, index], peer(x), self.beta, clamp=0.0)
            self.target[i, index] = target.to(self.target)
            q = torch.lerp(target[perm], target, lam)
            if self.sharpen_labels:
                labels = sharpened(labels, q)
            penalty = sigmoid_rampup(done, self.coef_ramp) * early_learning_penalty(logits, q).mean()
            loss = soft_cross_entropy(logits, labels) + self.lambda_elr * penalty
            self.descend(i, loss)
            self._average(i, average_decay(t * n_batches + step + 1, done, self.ema_decay, self.ema_ramp))
            yield {"loss": loss.detach(), "penalty": penalty.detach(), "passes": 4 * len(index)}

    @torch.no_grad()
    def _average(self, i: int, decay: float) -> None:
        for average, parameter in zip(self.averaged[i].parameters(), self.nets[i].parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)
