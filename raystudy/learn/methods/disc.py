"""DISC: every sample has its own threshold, a running mean of its confidence; two views split the data into clean, hard and purified.

Paper: Li, Han, Shan, Chen, "DISC: Learning from Noisy Labels via Dynamic Instance-Specific Selection and Correction", CVPR 2023.
Original code: JackYFL/DISC @a21e910 (algorithms/DISC.py, losses/loss_mixup.py, losses/loss_other.py).

| original | here |
| --- | --- |
| thresholds tau <- m tau + (1 - m) max_k p, per view (weak, strong), from 1/N on, after the selection | ``DISC._end`` |
| clean: p[given] above its threshold in both views (strict); hard: in exactly one | ``select`` |
| purified: neither, and max of the mean prediction > min((tau_w + tau_s)/2 + sigma, .99); relabelled to its arg max | ``select`` |
| warm-up: cross-entropy of both views, summed | ``robust_loss`` of all samples as clean |
| then |C|/B CE(C) + lambda_h |H|/B GCE(H), summed over views, plain means inside the sets | ``robust_loss`` |
| mixup over C, H and P with the corrected labels, once per view: own lam = max(draw, 1 - draw), own order, plain mean | ``DISC._mixed`` |
| sets of the epoch before, also from the warm-up; confidences from the training passes themselves | ``DISC.epoch`` |

Deviations from the original, and why
- It reads the *kind and exact rate* of noise, by equality, to set m, lambda_h, the warm-up, optimizer and depth: 0.6 and 0.8 have
  presets, 0.9 falls back to those of low noise but with Adam. Here they are hyperparameters, and points that know them are oracle.
- SGD there has no momentum (none is passed): the recipe's is 0, in the paper's; ports that add 0.9 change the method.
- Adam above a rate of 0.6 (CIFAR): 1e-3, linear to 0 from 0.6 of the budget, beta1 0.9 to 0.1 there. The plan of an epoch is
  installed at its end and so acts one epoch late: so does ``late_beta1``. Points of these rates have it, whatever the study's recipe;
  their linear fall is Co-teaching's, two epochs earlier.
- Thresholds begin at 1/N: after the first epoch practically every sample is clean; ``warmup`` and m alone decide what comes next.
  A label that is not the arg max passes only while confidence is still rising, as published.
- ``sigma`` is 0.5 in all released code; the paper's 0.3 at low noise was lost when the code was cleaned (the author, issue 7), who
  finds m and lambda_h matter more.
- The paper writes BCE for the mixup term; the code and the author say cross-entropy (issue 3). It has no share of the set in front,
  so it dominates where C and H are small, as published.
- Labels of samples in no set keep their history there and are not used; the same here. A sample is seen once per epoch.
- GCE's clamp of p at 1e-7 is left out: the loss is finite without it, and so is its gradient.
- The last batch is kept; a mixup of one image goes through batch norm's running statistics. Empty sets are left out, as there; a
  batch whose every set is empty makes no step.
- Its thresholds and labels are arrays of hard-coded sizes (a wrong one leaves label 1 in unused rows); ours have the data's.
- Its asymmetric noise (on CIFAR-100 pair flips of raw class numbers) crashes as released (``random_state`` for ``seed``; that way would
  always draw with seed 0), its noise is drawn anew at every start from numpy's global state, its test set loses the last short
  batch, and real-data settings are overridden by the command line's defaults, among them 14 classes for ANIMAL-10N. It sums booleans for
  a logical or, and imports turtle, nni and a scheduler's ``verbose`` that torch has dropped. Clean labels of CIFAR are read for
  printing only. Results are the mean of the last ten epochs, and the best epoch on the test set. None of it is rebuilt.
- The strong view is the study's (there RandAugment without geometry, of strength 5, of 10 for CIFAR-100, and a cutout of 15 %), and so is
  the weak one (there crops from reflected borders, here from zeros).
- Weights: 1 for clean, 1/2 for hard, 0 for all others, of the sets an epoch trains on. Users could not reproduce rates of 0.6 and
  asymmetric noise (issues 9, 14): gaps of two to four points. At 0.6 the warm-up matters most, says the author (issue 3).
- A linear classifier of fixed vectors memorises little and its confidence rises slowly, so that nothing may ever be purified: search
  ``sigma`` and m there, or use an MLP.

Cost: 2 B images forward and backward, and up to 2 B more for the mixups.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import InputError
from raystudy.learn.losses import gce, soft_cross_entropy
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import beta_draw, mix, permutation

CAP = 0.99  # of the threshold of correction


class Sets(NamedTuple):
    """What an epoch's confidences say of each sample."""

    clean: Tensor  # [n] bool, above the threshold in both views
    hard: Tensor  # [n] bool, in exactly one
    purified: Tensor  # [n] bool, in neither and relabelled
    y: Tensor  # [n] int64, labels for the mixup

    @property
    def mixed(self) -> Tensor:
        """The union [n] bool: what is mixed."""
        return self.clean | self.hard | self.purified


def above(probs: Tensor, y: Tensor, thresholds: Tensor) -> Tensor:
    """Whether the given label is likelier than the threshold, bool [2, n]; ``probs`` [2, n, K], ``y`` [n], ``thresholds`` [2, n]."""
    return probs.gather(2, y.expand(2, -1)[:, :, None]).squeeze(2) > thresholds


def correction_threshold(thresholds: Tensor, sigma: float) -> Tensor:
    """What the mean prediction must exceed to replace a label, [n]: min((tau_w + tau_s)/2 + sigma, .99)."""
    return (thresholds.mean(0) + sigma).clamp(max=CAP)


def select(probs: Tensor, y: Tensor, thresholds: Tensor, labels: Tensor, sigma: float) -> Sets:
    """The sets by ``probs`` [2, n, K] of both views; ``y`` [n] given labels, ``labels`` [n] those of the mixup so far."""
    weak, strong = above(probs, y, thresholds)
    confidence, best = probs.mean(0).max(1)
    purified = (confidence > correction_threshold(thresholds, sigma)) & ~(weak | strong)
    labels = torch.where(weak | strong, y, torch.where(purified, best, labels))
    return Sets(weak & strong, weak ^ strong, purified, labels)


def robust_loss(logits: list[Tensor], y: Tensor, clean: Tensor, hard: Tensor, lambda_h: float, q: float) -> Tensor:
    """(sum_clean CE + lambda_h sum_hard GCE)/B, summed over the views' ``logits`` [B, K]; ``clean`` and ``hard`` bool [B]."""
    total = logits[0].new_zeros(())
    for z in logits:
        total = total + (F.cross_entropy(z, y, reduction="none") * clean).sum() / len(y)
        if hard.any():
            total = total + lambda_h * gce(z[hard], y[hard], q).sum() / len(y)
    return total


class DISC(Method):
    """DISC.

    ``momentum_tau``: of the thresholds. ``sigma``: what the mean prediction must exceed them by to replace a label.
    ``lambda_h``: weight of the hard samples. ``warmup``: fraction of the epochs. ``q``: of the generalised
    cross-entropy. ``alpha``: strength of mixup. ``decay_start``: fraction of the epochs after which Adam's beta1 is
    ``late_beta1``.
    """

    thresholds: Tensor  # [2, n] weak, strong
    clean: Tensor  # [n] bool
    hard: Tensor  # [n] bool
    purified: Tensor  # [n] bool
    labels: Tensor  # [n] of the mixup

    def __init__(
        self,
        task: Task,
        *,
        momentum_tau: float = 0.99,
        sigma: float = 0.5,
        lambda_h: float = 1.0,
        warmup: float = 0.1,
        q: float = 0.7,
        alpha: float = 5.0,
        decay_start: float = 0.6,
        late_beta1: float = 0.1,
    ) -> None:
        super().__init__(task)
        if not 0 <= momentum_tau < 1 or warmup > 1 or not 0 < q <= 1:
            told = f"momentum_tau={momentum_tau:g}, warmup={warmup:g}, q={q:g}"
            raise InputError(f"disc: {told}; momentum_tau is in [0, 1), q in (0, 1], warmup a fraction of the epochs")
        self.momentum_tau, self.sigma, self.lambda_h, self.q, self.alpha = momentum_tau, sigma, lambda_h, q, alpha
        self.late_beta1, self.settled_at = late_beta1, min(warmup, 1.0)
        self.decay_start = decay_start * task.epochs
        self.warmup_epochs = max(round(warmup * task.epochs), 1)  # the first sets need an epoch of confidences
        device = next(self.nets.parameters()).device
        self.register_buffer("thresholds", torch.full((2, task.n), 1 / task.n, device=device))
        for name in ("clean", "hard", "purified"):
            self.register_buffer(name, torch.zeros(task.n, dtype=torch.bool, device=device))
        self.register_buffer("labels", torch.full((task.n,), -1, device=device))  # until the first epoch's end

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.train()
        if t > self.decay_start:
            for group in (g for optimizer in self.optimizers for g in optimizer.param_groups if "betas" in g):
                group["betas"] = (self.late_beta1, group["betas"][1])
        warm = t < self.warmup_epochs
        if not warm:
            yield {
                "index": torch.arange(len(train), device=self.clean.device),
                "weight": self.clean.float() + 0.5 * self.hard,
                "clean": self.clean.double().mean(),
                "hard": self.hard.double().mean(),
                "purified": self.purified.double().mean(),
            }
        probs = torch.zeros(2, len(train), train.n_classes, device=self.clean.device)
        for batch in train.batches(views=2, augment=(True, "strong")):
            assert batch.x2 is not None
            logits = list(self.nets[0](torch.cat([batch.x, batch.x2])).chunk(2))
            probs[:, batch.index] = torch.stack([z.detach().float().softmax(1) for z in logits])
            if warm:
                everything = torch.ones_like(batch.y, dtype=torch.bool)
                loss, n_mixed = robust_loss(logits, batch.y, everything, ~everything, 0.0, self.q), 0
            else:
                clean, hard = self.clean[batch.index], self.hard[batch.index]
                loss, n_mixed = self._mixed(batch)
                loss = loss + robust_loss(logits, batch.y, clean, hard, self.lambda_h, self.q)
                if not (n_mixed or clean.any() or hard.any()):
                    continue  # a step on nothing would still decay the weights
            self.descend(0, loss)
            yield {"loss": loss.detach(), "passes": 6 * (len(batch.y) + n_mixed)}
        self._end(probs, train.y)

    def _mixed(self, batch: Batch) -> tuple[Tensor, int]:
        """The mixup losses of both views over the batch's samples of any set, and how many these are."""
        mine = (self.clean | self.hard | self.purified)[batch.index]
        n_mixed = int(mine.sum())
        total = torch.zeros((), device=batch.x.device)
        if n_mixed:
            targets = F.one_hot(self.labels[batch.index[mine]], self.task.n_classes).float()
            for x in (batch.x, batch.x2):
                assert x is not None
                lam = beta_draw(self.alpha)
                images, mixed = mix(x[mine], targets, max(lam, 1 - lam), permutation(n_mixed, x.device))
                total = total + soft_cross_entropy(self.nets[0](images), mixed)
        return total, n_mixed

    @torch.no_grad()
    def _end(self, probs: Tensor, y: Tensor) -> None:
        """Sets and thresholds from the confidences ``probs`` [2, n, K] of an epoch; the thresholds last."""
        labels = torch.where(self.labels < 0, y, self.labels)
        sets = select(probs, y, self.thresholds, labels, self.sigma)
        self.clean.copy_(sets.clean)
        self.hard.copy_(sets.hard)
        self.purified.copy_(sets.purified)
        self.labels.copy_(sets.y)
        self.thresholds.copy_(torch.lerp(probs.amax(2), self.thresholds, self.momentum_tau))
