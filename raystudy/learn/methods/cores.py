"""CORES: a confidence regulariser holds predictions off the label prior, then a sieve keeps samples below their mean loss over classes.

Paper: Cheng, Zhu, Li, Gong, Sun, Liu, "Learning with Instance-Dependent Label Noise: A Sample Sieve Approach", ICLR 2021
(arXiv 2010.02347). Original code: UCSC-REAL/cores @cf0945e (loss.py, phase1.py, phase2/).

| equation | here |
| --- | --- |
| CE - beta sum_k pi_k (-log(p_k + 1e-8)), mean over the kept (eq. 3) | ``cores_loss``, ``losses.expected_nll`` |
| score = CE - mean_k -log(p_k + 1e-8), kept where it is at most 0 (eq. 5) | ``sieve_scores`` |
| beta: 0, then linspace(0, beta, ramp), then beta; learning rate / (1 + beta) | ``beta_at``, ``slow_down`` |
| CORES*: CE on the kept + lambda KL(weak view, no gradient, to strong view) on the rejected | ``star``, ``CORES._second_step`` |
| its rate: linear to 300 times the base, then cosine to 0 | ``second_rate`` |

Deviations from the original, and why
- A batch in which nothing is kept has the loss 0 (the original returns one value where two are unpacked, and stops).
- pi is no noise rate: it is the histogram of the *given* labels that the last epoch kept ("kept", the code's), that of all ("noisy") or
  1 / K ("uniform", the paper's default). All ones, as a user had it, make the regulariser K times too strong. Until the sieve
  has acted it is that of all labels. The score always uses the uniform mean, and only the regulariser's probabilities have an eps.
- The original's --lr and its cyclic plan are dead code; it is 0.1, then 0.01 from half time, over 1 + beta, plain SGD
  *without momentum and weight decay*. That is [recipe]; with another (as in noisypy's port) it is another method in practice: search
  the rate anew.
- Durations are fractions of 100 epochs: 10 without the regulariser, 30 of ramp, the sieve after epoch 30. Rejected samples have no
  gradient at all and a class may lose every sample: ``kept_of_worst_class`` is logged, and the flags are the weight.
- CORES* is ``star`` > 0, the share of the epochs of its second stage, which begins from fresh weights; the first then stops where the
  original exports its scores, at epoch 40 of 100, and they decide for good. They come from training passes on augmented images while the
  weights move, there as here; who was not seen is not rejected.
- In the second stage all labelled and strong views are the data set's strong augmentation (AutoAugment and cutout there); batches are
  not stratified by label and the last short one is kept; labelled and strong views go through the net together, the weak ones apart
  and without gradient. Batches are the recipe's (320 labelled images there). Its rate is ``lr2`` times the recipe's first at its peak
  (0.3 against 0.1 there), set every step from the fraction of an epoch; the original relies on a closed form of a scheduler that
  torch has changed since. 1600 epochs on two GPUs there.
- Its SGD there has Nesterov's momentum of 0.9 and a weight decay of 5e-4, unlike the first stage's: ``nesterov2``, as the points of CORES*
  have it. By default both stages have the recipe's optimizer.
- lambda and the share of unlabelled images were chosen *per noise rate* (0.2, 0.4, 0.9): such points are oracles. ``gradual`` multiplies
  lambda by the share of the stage that is done.
- noise_or_not is truth in the original, saved and not used in the loss; the second stage reads clean labels for printing only.
- Its instance noise has one projection for all classes on raw pixels, so nearly all flips go to one class: not that of Xia et al. For
  CIFAR-100 the released code has no such noise at all. Noise and network seeds are 0 there. get_noise_preds.py is of an earlier method.
- Of matters of others nothing is rebuilt: the first stage keeps the best epoch on the test set, the second tests every tenth epoch and
  prints the best and the last; there is no validation split. Samples are sieved one by one on the host; the inner loop reuses
  the name of the outer one's counter, which only disturbs what it prints. Published rows are of ResNet-34; the flag's default is a CNN.

Known traits, kept: the score compares with the mean over *all* classes. Where two share the probability and the rest have almost none
(asymmetric noise), both labels lie far below 0, and the sieve tells no wrong ones.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import InputError, unknown
from raystudy.learn.losses import expected_nll, kl_rows
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import label_shares

EPS = 1e-8  # added to probabilities in the regulariser
EXPORT = 0.4  # of the first stage's plan: where its scores decide who is labelled in the second
SECOND_WARMUP = 0.075  # of the second stage, while its rate rises
SECOND_FACTOR = 300.0  # from the lowest rate to the peak
CLIP_NORM = 5.0  # of the gradient in the second stage

Prior = Literal["kept", "noisy", "uniform"]
PRIORS = ("kept", "noisy", "uniform")


def beta_at(t: int, beta: float, zero: int, ramp: int) -> float:
    """The weight of the regulariser in epoch ``t``: 0 for ``zero`` epochs, linspace(0, beta, ramp), then ``beta``."""
    return beta * min(max(t - zero, 0) / max(ramp - 1, 1), 1.0)


def sieve_scores(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy less the mean over all classes of -log(p_k + eps), [B]; below 0 for labels that fit."""
    n_classes = logits.shape[1]
    uniform = torch.full((n_classes,), 1 / n_classes, dtype=torch.float64, device=logits.device)
    return F.cross_entropy(logits, y, reduction="none") - expected_nll(logits, uniform, EPS)


def cores_loss(logits: Tensor, y: Tensor, keep: Tensor, beta: float, prior: Tensor) -> Tensor:
    """Mean over the ``keep`` [B] of CE - beta sum_k prior_k (-log(p_k + eps)); 0 where nothing is kept."""
    losses = F.cross_entropy(logits, y, reduction="none") - beta * expected_nll(logits, prior, EPS)
    return (keep * losses).sum() / keep.sum().clamp_min(1)


def second_rate(e: float, base: float, multiplier: float, warmup: float, total: float) -> float:
    """The rate at the fractional epoch ``e``: linear from ``base`` to ``multiplier`` times it in ``warmup`` epochs, then cosine to 0."""
    if e < warmup:
        return base * (1 + (multiplier - 1) * e / warmup)
    return base * multiplier * (1 + math.cos(math.pi * (e - warmup) / (total - warmup))) / 2


class CORES(Method):
    """CORES, and CORES* with ``star``.

    ``beta``: final weight of the confidence regulariser. ``zero``: fraction of the epochs without it. ``ramp``: fraction over
    which it rises. ``sieve``: fraction of the epochs before samples are rejected. ``threshold``: scores above it are rejected.
    ``prior``: of the regulariser, the labels "kept" last epoch, all "noisy" ones, or "uniform". ``slow_down``: divide the learning
    rate by 1 + beta. ``star``: fraction of the epochs for the second stage of CORES*, 0 for none. ``consistency``: weight lambda of
    its unlabelled loss. ``gradual``: let that rise with the stage. ``ratio``: unlabelled images per labelled one. ``lr2``: peak of
    its rate as a share of the recipe's first. ``nesterov2``: let SGD have Nesterov's momentum of 0.9 and a weight decay of 5e-4 there,
    whatever the recipe's.
    """

    prior: Tensor  # [K] pi, NaN before the first epoch
    rejected: Tensor  # [K] how many of each given label this epoch has rejected
    scores: Tensor  # [n] of the last epoch of the first stage, NaN where not seen

    def __init__(
        self,
        task: Task,
        *,
        beta: float = 2.0,
        zero: float = 0.1,
        ramp: float = 0.3,
        sieve: float = 0.3,
        threshold: float = 0.0,
        prior: Prior = "kept",
        slow_down: bool = True,
        star: float = 0.0,
        consistency: float = 0.4,
        gradual: bool = False,
        ratio: float = 0.5,
        lr2: float = 1.0,
        nesterov2: bool = False,
    ) -> None:
        super().__init__(task)
        if prior not in PRIORS:
            raise unknown("prior", prior, PRIORS)
        if not 0 <= star < 1:
            raise InputError(
                f"star={star:g} must be a fraction of the epochs below 1; 0 is CORES without a second stage"
            )
        self.beta, self.threshold, self.slow_down = beta, threshold, slow_down
        self.prior_of: Prior = prior
        self.consistency, self.gradual, self.ratio = consistency, gradual, ratio
        self.lr2, self.nesterov2 = lr2, nesterov2
        self.second_epoch = max(task.epochs - round(star * task.epochs), 1)
        plan = (self.second_epoch - 1) / EXPORT if star > 0 else task.epochs  # epochs, of the first stage were it whole
        self.zero_epochs, self.ramp_epochs = round(zero * plan), max(round(ramp * plan), 1)
        self.sieve_epoch = round(sieve * plan)
        self.settled_at = 1 - star * (1 - SECOND_WARMUP) if star > 0 else min(max(zero + ramp, sieve), 1.0)
        self.base_lr: float = self.optimizers[0].defaults["lr"]
        device = next(self.nets.parameters()).device
        self.register_buffer("prior", torch.full((task.n_classes,), math.nan, device=device))
        self.register_buffer("rejected", torch.zeros(task.n_classes, device=device))
        self.register_buffer("scores", torch.full((task.n,), math.nan, device=device))

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if t >= self.second_epoch:
            yield from self._second(t - self.second_epoch, train)
            return
        everyone = label_shares(train.y, train.n_classes)
        if self.prior.isnan().any():
            self.prior.copy_(torch.full_like(everyone, 1 / len(everyone)) if self.prior_of == "uniform" else everyone)
        self.rejected.zero_()
        self.scores.fill_(math.nan)
        if self.slow_down:
            self.scale_rate(1 / (1 + beta_at(t, self.beta, self.zero_epochs, self.ramp_epochs)))
        yield from super().epoch(t, train)
        kept = len(train) * everyone - self.rejected
        if self.prior_of == "kept" and kept.sum() > 0:
            self.prior.copy_(kept / kept.sum())
        if t > self.sieve_epoch:
            share = (kept / (len(train) * everyone).clamp_min(1))[everyone > 0]
            yield {"kept": kept.sum() / len(train), "kept_of_worst_class": share.min()}

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        scores = sieve_scores(logits.detach(), batch.y)
        self.scores[batch.index] = scores.to(self.scores)
        keep = scores <= self.threshold if t > self.sieve_epoch else torch.ones_like(scores, dtype=torch.bool)
        beta = beta_at(t, self.beta, self.zero_epochs, self.ramp_epochs)
        loss = cores_loss(logits, batch.y, keep, beta, self.prior)
        self.descend(0, loss)
        self.rejected.index_add_(0, batch.y, (~keep).to(self.rejected))
        log: Log = {"loss": loss.detach()}
        return log | {"weight": keep.float()} if t > self.sieve_epoch else log

    # --- CORES*: epoch `e` of the second stage

    def _second(self, e: int, train: Train) -> Iterator[Log]:
        self.train()
        if e == 0:
            self.nets[0].load_state_dict(self.task.net().state_dict())
            self.optimizers[0].state.clear()
        for group in self.optimizers[0].param_groups:
            if self.nesterov2 and "nesterov" in group:
                group.update(momentum=0.9, nesterov=True, weight_decay=5e-4)
        rejected = self.scores > self.threshold
        if rejected.all():  # nobody would be labelled
            rejected = torch.zeros_like(rejected)
        labelled, unlabelled = (~rejected).nonzero().squeeze(1), rejected.nonzero().squeeze(1)
        yield {"index": torch.arange(len(train), device=rejected.device), "weight": (~rejected).float()}
        total = self.task.epochs - self.second_epoch
        n_steps = math.ceil(len(labelled) / train.batch_size)
        others = _cycle(train, unlabelled, max(round(self.ratio * train.batch_size), 1)) if len(unlabelled) else None
        weight = self.consistency * (e / total if self.gradual else 1.0)
        for i, batch in enumerate(train.batches(labelled, augment="strong")):
            peak = self.lr2 * self.base_lr
            rate = second_rate(e + i / n_steps, peak / SECOND_FACTOR, SECOND_FACTOR, SECOND_WARMUP * total, total)
            for group in self.optimizers[0].param_groups:
                group["lr"] = rate
            yield self._second_step(batch, next(others) if others else None, weight)

    def _second_step(self, batch: Batch, other: Batch | None, weight: float) -> Log:
        """One update on labelled images, and on rejected ones in a weak (x) and a strong view (x2)."""
        if other is None:
            logits, agreement = self.nets[0](batch.x), torch.zeros((), device=batch.y.device)
        else:
            assert other.x2 is not None
            with torch.no_grad():
                weak = self.nets[0](other.x)
            logits, strong = self.nets[0](torch.cat([batch.x, other.x2])).split([len(batch.y), len(other.y)])
            agreement = kl_rows(weak, strong).mean()
        loss = F.cross_entropy(logits, batch.y) + weight * agreement
        self.descend(0, loss, CLIP_NORM)
        return {"loss": loss.detach(), "passes": 3 * len(batch.y) + (4 * len(other.y) if other else 0)}


def _cycle(train: Train, subset: Tensor, batch_size: int) -> Iterator[Batch]:
    """Passes over ``subset`` without end, in a weak and a strong view."""
    while True:
        yield from train.batches(subset, views=2, augment=(True, "strong"), batch_size=batch_size)
