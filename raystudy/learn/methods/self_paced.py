"""Self-paced learning: fit the samples whose loss is below an age, which grows so that harder ones enter.

Papers: Kumar, Packer, Koller, "Self-Paced Learning for Latent Variable Models", NIPS 2010 (hard weights); Jiang, Meng,
Mitamura, Hauptmann, "Easy Samples First", ACM MM 2014 (linear, logarithmic, mixture weights); Jiang, Meng, Yu, Lan,
Shan, Hauptmann, "Self-Paced Learning with Diversity", NIPS 2014. As a baseline for noisy labels: google/mentornet
@76d6be2 ("self_paced"); there is no other published code. MentorNet's own alternating update of v and w is ``spade``.

min over w and v in [0, 1]^n of sum v_i l_i(w) + G(v; lam); G decides the closed form of v.

| equation | here |
| --- | --- |
| v = 1[l <= lam], G = -lam sum v (Kumar, eq. 4) | ``hard_weights`` |
| v = max(0, 1 - l/lam), G = lam (|v|^2/2 - sum v) | ``linear_weights`` |
| v = log(l + zeta)/log zeta, zeta = 1 - lam, for losses in [0, 1) | ``log_weights`` |
| v = 1, zeta/l - zeta/lam1 or 0 at lam2 and lam1, zeta = lam1 lam2/(lam1 - lam2) | ``mixture_weights`` |
| v = clip(1 - (l - lam1)/lam2, 0, 1) (the form of SPCL and MentorNet) | ``ops.spcl_weights`` |
| diversity: v = 1[l_(r) < lam + gamma/(sqrt r + sqrt(r - 1))], r the rank in the group | ``diverse_age`` |
| age "average": moving average of the p-percentile of batch losses (MentorNet's baseline) | ``ops.nearest_rank`` |
| age "rank": the k_t B smallest of a batch, k_t linear in t | ``SelfPaced._age`` |
| age "growing": lam_t = min(lam_0 mu^t, lam_max), epoch by epoch (Kumar, algorithm 1) | ``growing_age`` |

Deviations from the originals, and why
- ``age="growing"`` takes the losses in eval mode without augmentation, the others from the training batch itself: two
  different rankings, both published. lam_0 is the ``start``-quantile of the losses after the warm-up (half the samples,
  as in the paper), so no absolute number meets losses of another scale (log K at the start); mu acts once per
  ``outer`` of the budget. The cap lam_max is the ``keep``-quantile: the classical stop "when all samples are in" is
  cross-entropy with extra steps and memorises the noise.
- Ages are in units of the losses, so the soft schemes are too: spcl has lam1 = lam, lam2 = softness lam; mixture lam1 =
  lam, lam2 = lam/(1 + softness); log is applied to l/(2 lam) with zeta = 1/2; ``diversity`` is gamma/lam. Scaling all
  losses by a constant changes nothing. MentorNet's spcl has lam2 = 1 whatever the scale.
- Ties: Kumar selects l < lam, MentorNet l <= lam. We use <=, as an age taken from the batch is one of its losses.
- The moving average starts at the first percentile, not at 0, which would reject all but the easiest for some steps; a
  NaN batch does not stay in it. ``update_rate`` is 1 - d.
- ``reduction="batch"`` is the mean over B with weight decay scaled by the mean of v, as in the MentorNet code (the step
  shrinks with the kept share); "selected" divides by sum v with full decay, as training on a subset does.
- MentorNet's baseline realises the rule by a learned net that imitates it; we use the rule. It had no warm-up
  (``warmup=0``, the default); early losses tell little, and hard selection then locks onto easy classes, so search it.
- The misspelt percentile flag of the MentorNet scripts does not matter here: the value meant is the default, 0.7. It
  was 0.7 at all noise rates, so its poor 80 % result (70 % kept, 28 % clean) is partly a mis-set ``keep``; 1 - rate
  would be read off the truth. ``keep`` = 1 - rate with ``start=1`` is Co-teaching's ramp with one net.
- Diversity groups are the given classes, which works against class collapse (the paper has clusters). With a soft
  scheme each sample is weighed with its raised age, an extension.
- The weight decay of MentorNet's code acts on the weights of convolutions and dense layers only, here on all parameters.
- The last short batch is kept (dropped there) and weighs on the average as any other. Precision and recall of v are
  measured outside, from the weight.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.losses import weighted_mean
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import moving_average, nearest_rank, spcl_weights

EVAL_BATCH = 2048  # images per forward pass when losses are collected; changes no result
AGES = ("average", "rank", "growing")
SCHEMES = ("hard", "linear", "log", "mixture", "spcl")


def hard_weights(losses: Tensor, lam: float | Tensor) -> Tensor:
    """1[l <= lam]; ``losses`` [B], ``lam`` a number, 0-d or [B]."""
    return (losses <= lam).to(losses)


def linear_weights(losses: Tensor, lam: float | Tensor) -> Tensor:
    """max(0, 1 - l/lam), [B]."""
    return (1 - losses / lam).clamp_min(0)


def log_weights(losses: Tensor, lam: float) -> Tensor:
    """log(l + zeta)/log zeta below ``lam``, 0 from it on; zeta = 1 - lam, 0 < lam < 1, ``losses`` [B] >= 0."""
    zeta = 1 - lam
    return torch.where(losses < lam, (losses + zeta).log() / math.log(zeta), 0.0)


def mixture_weights(losses: Tensor, lam1: float | Tensor, lam2: float | Tensor) -> Tensor:
    """1 up to ``lam2``, 0 from ``lam1`` > lam2 on, between them zeta/l - zeta/lam1, zeta = lam1 lam2/(lam1 - lam2)."""
    zeta = lam1 * lam2 / (lam1 - lam2)
    return (zeta / losses - zeta / lam1).clamp(0, 1)


def diverse_age(losses: Tensor, groups: Tensor, lam: float | Tensor, gamma: float | Tensor) -> Tensor:
    """The age of each sample [B] with diversity: lam + gamma/(sqrt r + sqrt(r - 1)), r >= 1 its rank in its group.

    ``losses`` and ``groups`` (int64) [B]. Samples that come first in their group are let in sooner.
    """
    by_loss = losses.argsort(stable=True)
    order = by_loss[groups[by_loss].argsort(stable=True)]  # by group, then by loss
    position = torch.arange(len(losses), device=losses.device)
    first = torch.searchsorted(groups[order].contiguous(), groups[order].contiguous())  # where its group begins
    rank = torch.empty_like(losses).index_copy(0, order, (position - first + 1).to(losses))
    return lam + gamma / (rank.sqrt() + (rank - 1).sqrt())


def growing_age(lam0: Tensor, growth: float, rounds: float, cap: Tensor) -> Tensor:
    """min(lam0 growth^rounds, cap), 0-d; ``rounds`` outer iterations after the first selection."""
    return torch.minimum(lam0 * growth**rounds, cap)


def weights(scheme: str, losses: Tensor, lam: Tensor, softness: float) -> Tensor:
    """v [B] of a scheme at the age ``lam`` (0-d or [B]); see the card for what ``softness`` means."""
    lam = lam.clamp_min(1e-12)  # losses that are all 0 are all selected, not 0/0
    if scheme == "hard":
        return hard_weights(losses, lam)
    if scheme == "linear":
        return linear_weights(losses, lam)
    if scheme == "log":
        return log_weights(losses / (2 * lam), 0.5)
    if scheme == "mixture":
        return mixture_weights(losses, lam, lam / (1 + softness))
    return spcl_weights(losses, lam, softness * lam)


class SelfPaced(Method):
    """Self-paced learning with one net.

    ``age``: what the loss is held against, a moving percentile ("average"), a share of the batch ("rank") or a
    "growing" limit. ``scheme``: how weights fall with the loss. ``keep``: the percentile ("average"), the final share
    ("rank") or the cap ("growing"). ``start``: the share at first ("rank", "growing"). ``warmup``: fraction of the
    epochs on all data. ``ramp``: fraction over which the share moves ("rank"). ``growth``: factor of the age every
    ``outer`` of the budget ("growing"). ``update_rate``: weight of the newest batch in the moving average.
    ``softness``: of spcl and mixture. ``diversity``: how much of its age a class's easiest sample is given on top.
    ``reduction``: the loss's mean is over the "batch" or over what is "selected".
    """

    lam: Tensor  # 0-d: the moving average, or the age at the first selection; NaN before it

    def __init__(
        self,
        task: Task,
        *,
        age: Literal["average", "rank", "growing"] = "average",
        scheme: Literal["hard", "linear", "log", "mixture", "spcl"] = "hard",
        keep: float = 0.7,
        start: float = 0.5,
        warmup: float = 0.0,
        ramp: float = 0.05,
        growth: float = 1.3,
        outer: float = 0.1,
        update_rate: float = 0.5,
        softness: float = 1.0,
        diversity: float = 0.0,
        reduction: Literal["batch", "selected"] = "batch",
    ) -> None:
        super().__init__(task)
        for what, name, valid in (("age", age, AGES), ("scheme", scheme, SCHEMES)):
            if name not in valid:
                raise unknown(what, name, valid)
        if reduction not in ("batch", "selected"):
            raise unknown("reduction", reduction, ("batch", "selected"))
        self.age, self.scheme, self.softness, self.diversity, self.reduction = (
            age,
            scheme,
            softness,
            diversity,
            reduction,
        )
        self.keep, self.start, self.growth, self.update_rate = keep, start, growth, update_rate
        self.outer_epochs = max(outer * task.epochs, 1.0)
        self.settled_at = min(warmup + (ramp if age == "rank" else 0.0), 1.0)
        self.warmup_epochs = round(warmup * task.epochs)
        self.ramp_epochs = max(round(ramp * task.epochs), 1)
        device = next(self.nets.parameters()).device
        self.register_buffer("lam", torch.full((), torch.nan, device=device))

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if self.age != "growing" or t < self.warmup_epochs:
            yield from super().epoch(t, train)
            return
        v = self._select(t, train)
        yield {"index": torch.arange(len(train), device=v.device), "weight": v, "passes": len(train)}
        self.train()
        for batch in train.batches():
            losses = F.cross_entropy(self.nets[0](batch.x), batch.y, reduction="none")
            yield {"passes": 3 * len(batch.y)} | self._update(losses, v[batch.index])

    def step(self, batch: Batch, t: int) -> Log:
        losses = F.cross_entropy(self.nets[0](batch.x), batch.y, reduction="none")
        if t < self.warmup_epochs:
            return self._update(losses, torch.ones_like(losses))
        v = self._weigh(losses.detach(), batch.y, self._age(losses.detach(), t))
        return self._update(losses, v) | {"weight": v}

    def _age(self, losses: Tensor, t: int) -> Tensor:
        """The age for a batch: its k_t-quantile, or the moving average of its ``keep``-percentile, updated."""
        if self.age == "rank":
            done = min((t - self.warmup_epochs) / self.ramp_epochs, 1.0)
            share = self.start + (self.keep - self.start) * done
            n = min(max(-int(-share * len(losses) // 1), 1), len(losses))  # ceil
            return losses.kthvalue(n).values
        self.lam = moving_average(self.lam, nearest_rank(losses, self.keep), self.update_rate)
        return self.lam

    def _weigh(self, losses: Tensor, y: Tensor, lam: Tensor) -> Tensor:
        if self.diversity:
            lam = diverse_age(losses, y, lam, self.diversity * lam)
        return weights(self.scheme, losses, lam, self.softness)

    def _update(self, losses: Tensor, v: Tensor) -> Log:
        loss = weighted_mean(losses, v, self.optimizers[0], self.reduction)
        self.descend(0, loss)
        return {"loss": (v * losses.detach()).mean()}

    @torch.no_grad()
    def _select(self, t: int, train: Train) -> Tensor:
        """v [n] for an epoch, from the losses of all samples in eval mode without augmentation."""
        self.eval()
        losses = torch.zeros(len(train), device=self.lam.device)
        for batch in train.batches(augment=False, shuffle=False, batch_size=EVAL_BATCH):
            losses[batch.index] = F.cross_entropy(self.nets[0](batch.x).float(), batch.y, reduction="none")
        self.lam = torch.where(self.lam.isnan(), nearest_rank(losses, self.start), self.lam)
        rounds = (t - self.warmup_epochs) / self.outer_epochs
        lam = growing_age(self.lam, self.growth, rounds, nearest_rank(losses, self.keep))
        return self._weigh(losses, train.y, lam)
