"""Co-teaching+: Co-teaching on those samples of the batch on whose prediction the two networks disagree.

Paper: Yu, Han, Yao, Niu, Tsang, Sugiyama, "How does Disagreement Help Generalization against Label Corruption?", ICML
2019 (arXiv 1901.04215). Original code: xingruiyu/coteaching_plus @a68ed61 (loss.py, main.py).

| equation | here |
| --- | --- |
| epochs before E_0: Co-teaching on the whole batch | ``coteaching.coteaching_losses`` |
| D = samples with arg max f_1 != arg max f_2 (Algorithm 1, step 4) | ``disagreement`` |
| inside D, each net learns from the (1 - rate) abs(D) samples its peer finds easiest; all of D where that is none | ``plus_losses`` |
| rate: linspace(0, tau, E_k), then tau (type_1); on to 2 tau at the end (type_2, second option of the paper) | ``drop_rate_plus`` |

Deviations from the original, and why
- ``loss_on_probs=True`` is the original: after E_0 it gives *probabilities* to a cross-entropy that applies log-softmax once more, so
  losses lie in [1.46, 2.46] for 10 classes, gradients are weak and the order is only roughly that of the cross-entropy. Default is
  the cross-entropy of the logits.
- The original divides the mean over the n kept samples by n once more. n changes from batch to batch, so batches with little
  disagreement weigh more, and Adam does not cancel that. ``divide_twice=True`` is the original, before E_0 and after it; the default is
  the plain mean. The published points have both switches on: without them trial 0 would be no published run. It acts on optimizers
  with betas only, as ``late_beta1`` does: under SGD it would shrink the step about a hundredfold, and nobody published that.
- ``empty`` says what a batch without disagreement does: "skip" (default, the paper: no optimizer step at all), "coteaching" or "ce"
  (plain cross-entropy of each net). The original: "ce" while epoch x iteration < 5000, which is true again at the start of every
  epoch, and afterwards a zero gradient, with which Adam's momentum still moves the weights.
- Its list of disagreeing samples loses sample 0 of the data set by multiplying indices with a mask; it serves its log only. Not copied.
- ``forget_rate`` is the true noise rate there, a hyperparameter here; points that took it from the truth are oracle. type_2 stops at
  0.95, as a rate of 1 would train on all of D.
- E_0 is hard-coded per data set (20 of 200 epochs for CIFAR-10, 5 CIFAR-100, 0 MNIST and News, 100 Tiny-ImageNet) and matters more
  than the rate: ``warmup``, a fraction. At 0 two random nets disagree nearly everywhere, so that phase is close to Co-teaching.
  E_k and the beta1 switch (epoch 80 for every data set) are fractions too, and our epoch t is the original's e = t + 1, as there.
- Both forwards run on the whole batch, so batch norm sees all of it although D is small; that is kept. Finding D waits for the
  device once a batch: how many samples disagree decides whether there is a step.
- The published numbers are bound to a LeNet-like net of 62,000 parameters (below 60 % on CIFAR-10); noise is always seeded 0; the
  test set loses its last batch; the baseline of the script (``model_type=coteaching``) has no loss after E_0. None of that is rebuilt.
- Images are scaled to [0, 1] there, not normalised, and not augmented (but for Tiny-ImageNet's); here both are the data set's. The
  data set's options say otherwise: ``cifar10?pad=0&flip=no&mean=0,0,0&std=1,1,1``. It reports each net alone.
- Weights: the small-loss verdict on the whole batch, as in Co-teaching and comparable with it, although after E_0 only those
  of D are trained on (a verdict within D alone, as the original logs it, is about the hardest samples only). Prediction is the mean
  softmax of both nets.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.methods.coteaching import CoTeachingLosses, coteaching_losses, drop_rate, set_beta1

PlusSchedule = Literal["type_1", "type_2"]
Empty = Literal["skip", "coteaching", "ce"]


def drop_rate_plus(
    e: int, forget_rate: float, n_gradual: int, n_epochs: int, schedule: PlusSchedule = "type_1"
) -> float:
    """The share to drop in entry ``e`` of ``n_epochs``: a ramp to tau; "type_2" goes on to 2 tau at the end, at most 0.95.

    Yu et al. 2019, section 3: tau min(e / E_k, 1) in the discrete form of the code, or tau (1 + (e - E_k) / (E_max - E_k)).
    """
    if schedule == "type_1" or e < n_gradual:
        return drop_rate(e, forget_rate, n_gradual)
    rate = forget_rate * (1 + (e - n_gradual) / max(n_epochs - n_gradual, 1))
    return min(rate, max(forget_rate, 0.95))


def disagreement(logits1: Tensor, logits2: Tensor) -> Tensor:
    """Positions [d] of the samples on whose class the two nets, logits [B, K], disagree."""
    return (logits1.argmax(1) != logits2.argmax(1)).nonzero().squeeze(1)


def plus_losses(
    logits1: Tensor,
    logits2: Tensor,
    y: Tensor,
    disagree: Tensor,
    rate: float,
    *,
    loss_on_probs: bool = False,
    divide_twice: bool = False,
) -> CoTeachingLosses:
    """The cross update inside ``disagree`` [d], d >= 1 (Algorithm 1); kept positions are positions in the batch.

    ``logits1``, ``logits2`` [B, K], ``y`` [B], ``rate`` the share of D dropped; all of D is used where none would be left.
    ``loss_on_probs``: cross-entropy *of the softmax*, as published. ``divide_twice``: as in ``coteaching_losses``.
    """
    if int((1 - rate) * len(disagree)) == 0:
        rate = 0.0
    out1, out2 = logits1[disagree], logits2[disagree]
    if loss_on_probs:
        out1, out2 = out1.softmax(1), out2.softmax(1)
    loss1, loss2, kept1, kept2 = coteaching_losses(out1, out2, y[disagree], rate, divide_twice=divide_twice)
    return CoTeachingLosses(loss1, loss2, disagree[kept1], disagree[kept2])


class CoTeachingPlus(Method):
    """Co-teaching+.

    ``forget_rate``: final share to drop, ideally the noise rate. ``gradual``: fraction of the epochs over which it
    ramps. ``schedule``: "type_1" stays at that share, "type_2" goes on to twice it. ``warmup``: fraction of the epochs
    of plain Co-teaching. ``empty``: what a batch without disagreement does. ``loss_on_probs``, ``divide_twice``: the
    published loss. ``decay_start``: fraction of the epochs after which Adam's beta1 is ``late_beta1``.
    """

    n_nets = 2

    def __init__(
        self,
        task: Task,
        *,
        forget_rate: float = 0.3,
        gradual: float = 0.05,
        schedule: PlusSchedule = "type_1",
        warmup: float = 0.1,
        empty: Empty = "skip",
        loss_on_probs: bool = False,
        divide_twice: bool = False,
        decay_start: float = 0.4,
        late_beta1: float = 0.1,
    ) -> None:
        super().__init__(task)
        if schedule not in ("type_1", "type_2"):
            raise unknown("schedule", schedule, ("type_1", "type_2"))
        if empty not in ("skip", "coteaching", "ce"):
            raise unknown("empty", empty, ("skip", "coteaching", "ce"))
        self.schedule: PlusSchedule = schedule
        self.empty: Empty = empty
        self.forget_rate, self.late_beta1 = forget_rate, late_beta1
        self.loss_on_probs, self.divide_twice = loss_on_probs, divide_twice
        self.settled_at = min(max(warmup, gradual), 1.0)
        self.n_gradual = max(round(gradual * task.epochs), 1)
        self.warmup_epochs = round(warmup * task.epochs)
        self.decay_epoch = round(decay_start * task.epochs)

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if t + 1 >= self.decay_epoch:
            set_beta1(self.optimizers, self.late_beta1)
        disagreed, skipped = 0, 0
        for log in super().epoch(t, train):
            disagreed += log.pop("disagreed", 0)
            skipped += log.pop("skipped", 0)
            yield log
        yield {"disagreed": disagreed / len(train), "skipped": float(skipped)}

    def step(self, batch: Batch, t: int) -> Log:
        rate = drop_rate_plus(t + 1, self.forget_rate, self.n_gradual, self.task.epochs, self.schedule)
        logits1, logits2 = self.nets[0](batch.x), self.nets[1](batch.x)
        twice = self.divide_twice and "betas" in self.optimizers[0].param_groups[0]
        judged = coteaching_losses(logits1, logits2, batch.y, rate, divide_twice=twice)
        weight = torch.zeros(len(batch.y), device=batch.y.device)
        weight[judged.kept1] += 0.5
        weight[judged.kept2] += 0.5
        log: Log = {"loss": (judged.loss1.detach() + judged.loss2.detach()) / 2, "weight": weight}
        disagree = disagreement(logits1, logits2) if t + 1 >= self.warmup_epochs else None
        if disagree is None or (len(disagree) == 0 and self.empty == "coteaching"):
            losses = judged
        elif len(disagree):
            losses = plus_losses(
                logits1, logits2, batch.y, disagree, rate, loss_on_probs=self.loss_on_probs, divide_twice=twice
            )
            log["disagreed"] = len(disagree)
        elif self.empty == "skip":
            return log | {"passes": 2 * len(batch.y), "skipped": 1}
        else:
            everything = torch.arange(len(batch.y), device=batch.y.device)
            losses = plus_losses(logits1, logits2, batch.y, everything, 0.0, loss_on_probs=self.loss_on_probs)
        self.descend(0, losses.loss1)
        self.descend(1, losses.loss2)
        return log | {"loss": (losses.loss1.detach() + losses.loss2.detach()) / 2}
